//! The changelog: who reads it, what is in it, and when records go.

use std::ffi::{CString, c_void};
use std::os::fd::BorrowedFd;
use std::ptr;

use lustreapi_standin::abi::ChangelogRecord;
use lustreapi_standin::changelog_reader::{
    llapi_changelog_clear, llapi_changelog_fini, llapi_changelog_free, llapi_changelog_get_fd, llapi_changelog_recv,
    llapi_changelog_start,
};
use lustreapi_standin::control;

use crate::kit::Site;

struct Reader(*mut c_void);

impl Reader {
    fn start(site: &Site, flags: i32, from: i64) -> Reader {
        let name = mdt(site);
        let mut handle = ptr::null_mut();
        // SAFETY: a place for the handle, and a string.
        assert_eq!(unsafe { llapi_changelog_start(&raw mut handle, flags, name.as_ptr(), from) }, 0);
        Reader(handle)
    }

    /// The record, with everything that follows it up to the name, and the name.
    fn next(&self) -> Result<(ChangelogRecord, Vec<u8>), i32> {
        let mut record = ptr::null_mut::<ChangelogRecord>();
        // SAFETY: a handle, and a place for the record.
        match unsafe { llapi_changelog_recv(self.0, &raw mut record) } {
            0 => {}
            other => return Err(other),
        }
        // SAFETY: a record was put there. Behind it are a rename's two FIDs, and then the name.
        let (head, name) = unsafe {
            let head = record.read_unaligned();
            let name = record.cast::<u8>().add(64 + 32);
            (head, std::slice::from_raw_parts(name, head.namelen.into()).to_vec())
        };
        // SAFETY: from recv.
        assert_eq!(unsafe { llapi_changelog_free(&raw mut record) }, 0);
        Ok((head, name))
    }

    fn is_readable(&self) -> bool {
        // SAFETY: a handle.
        let fd = unsafe { llapi_changelog_get_fd(self.0) };
        // SAFETY: open until fini.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let mut polled = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut polled, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // SAFETY: a handle that nobody has given back.
        unsafe { llapi_changelog_fini(&raw mut self.0) };
    }
}

fn mdt(site: &Site) -> CString {
    CString::new(format!("{}-MDT0000", site.root.fsname().unwrap())).unwrap()
}

fn clear(site: &Site, user: &str, end: i64) -> i32 {
    // SAFETY: strings.
    unsafe { llapi_changelog_clear(mdt(site).as_ptr(), CString::new(user).unwrap().as_ptr(), end) }
}

#[test]
fn records_of_hsm_say_what_happened() {
    let site = Site::new();
    site.archived("unseen", b"nobody was registered");
    let user = control::register_changelog_user(&site.root).unwrap();
    let path = site.released("f", b"content");
    let reader = Reader::start(&site, 0, 0);
    let records: Vec<_> = std::iter::from_fn(|| reader.next().ok()).map(|(record, _)| record).collect();
    let events: Vec<_> =
        records.iter().map(|record| (record.kind, record.flags >> 7 & 7, record.flags & 127)).collect();
    // State, archive, state, release.
    assert_eq!(events, [(16, 5, 0), (16, 0, 0), (16, 5, 0), (16, 3, 0)]);
    assert!(records.iter().all(|record| record.tfid == site.fid(&path) && record.flags & 0xf000 == 0x3000));
    assert_eq!(records.iter().map(|record| record.index).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(reader.next().err(), Some(1), "the end of the log");
    drop(reader);
    assert_eq!(clear(&site, &user, 2), 0);
    assert_eq!(Reader::start(&site, 0, 0).next().unwrap().0.index, 3);
    assert_eq!(clear(&site, &user, 5), -libc::EINVAL);
    assert_eq!(clear(&site, "cl99", 3), -libc::ENOENT);
}

#[test]
fn records_stay_until_the_last_reader_has_done_with_them() {
    let site = Site::new();
    let users = [(); 2].map(|()| control::register_changelog_user(&site.root).unwrap());
    let path = site.file("f", b"");
    control::log(&path, 1, 0).unwrap();
    assert_eq!(clear(&site, &users[0], 0), 0);
    assert_eq!(Reader::start(&site, 0, 0).next().unwrap().0.index, 1);
    assert_eq!(clear(&site, &users[1], 0), 0);
    assert_eq!(Reader::start(&site, 0, 0).next().err(), Some(1));
}

#[test]
fn names_of_files_and_of_renames() {
    let site = Site::new();
    control::register_changelog_user(&site.root).unwrap();
    let path = site.file("new name", b"");
    control::log(&path, 1, 0).unwrap();
    control::log_rename(&path, site.root.top(), b"old").unwrap();
    let reader = Reader::start(&site, 0, 0);
    let (record, name) = reader.next().unwrap();
    assert_eq!((record.kind, name.as_slice()), (1, b"new name".as_slice()));
    assert_eq!((record.tfid, record.pfid), (site.fid(&path), site.fid(site.root.top())));
    let (record, name) = reader.next().unwrap();
    assert_eq!((record.kind, name.as_slice()), (8, b"new name\0old".as_slice()));
}

#[test]
fn a_follower_is_told_when_there_is_more() {
    let site = Site::new();
    control::register_changelog_user(&site.root).unwrap();
    let path = site.file("f", b"");
    for _ in 0..2 {
        control::log(&path, 17, 0).unwrap();
    }
    let reader = Reader::start(&site, 1, 0);
    assert!(reader.is_readable());
    reader.next().unwrap();
    assert!(reader.is_readable(), "one is left");
    reader.next().unwrap();
    assert_eq!(reader.next().err(), Some(-libc::EAGAIN));
    assert!(!reader.is_readable());
    control::log(&path, 17, 0).unwrap();
    assert!(reader.is_readable());
    assert_eq!(reader.next().unwrap().0.index, 3);
}
