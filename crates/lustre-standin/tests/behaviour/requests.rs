//! What users ask for, and what they are refused.

use std::ffi::{CStr, c_char};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use lustreapi_standin::abi::Fid;
use lustreapi_standin::import::llapi_hsm_import;
use lustreapi_standin::user::{
    llapi_fid2path, llapi_get_data_version, llapi_get_mdt_index_by_fid, llapi_hsm_state_set, llapi_path2fid,
};
use lustreapi_standin::{Root, Status};

use crate::kit::{Agent, Site, c, has_data};

fn path_of(device: &Path, fid: Fid, number: i32) -> Result<String, i32> {
    let (mut buffer, mut record, mut number) = ([0 as c_char; 4096], -1_i64, number);
    let fid = c(fid.to_string());
    // SAFETY: strings, a buffer with its length, and numbers.
    let result = unsafe {
        llapi_fid2path(c(device).as_ptr(), fid.as_ptr(), buffer.as_mut_ptr(), 4096, &raw mut record, &raw mut number)
    };
    // SAFETY: the call has terminated it.
    if result == 0 { Ok(unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_str().unwrap().to_owned()) } else { Err(result) }
}

#[test]
fn a_file_keeps_its_fid_and_is_opened_by_it() {
    let site = Site::new();
    let path = site.file("f", b"content");
    let fid = site.fid(&path);
    assert_eq!(Fid::parse(&fid.to_string()), Some(fid));
    fs::rename(&path, site.root.top().join("g")).unwrap();
    assert_eq!(site.fid(&site.root.top().join("g")), fid);
    assert_eq!(fs::read(site.root.top().join(".lustre/fid").join(fid.to_string())).unwrap(), b"content");
    assert_ne!(site.fid(site.root.top()), fid);
}

#[test]
fn paths_of_a_fid() {
    let site = Site::new();
    let path = site.file("f", b"content");
    let fid = site.fid(&path);
    assert_eq!(path_of(site.root.top(), fid, 0).unwrap(), "f");
    fs::create_dir(site.root.top().join("d")).unwrap();
    fs::rename(&path, site.root.top().join("d/g")).unwrap();
    assert_eq!(path_of(Path::new(&site.root.fsname().unwrap()), fid, 0).unwrap(), "d/g");
    assert_eq!(path_of(site.root.top(), fid, 1), Err(-libc::ENOENT));
    fs::hard_link(site.root.top().join("d/g"), site.root.top().join("h")).unwrap();
    let mut both = [0, 1].map(|number| path_of(site.root.top(), fid, number).unwrap());
    both.sort();
    assert_eq!(both, ["d/g", "h"]);
    fs::remove_file(site.root.top().join("d/g")).unwrap();
    fs::remove_file(site.root.top().join("h")).unwrap();
    assert_eq!(path_of(site.root.top(), fid, 0), Err(-libc::ENOENT));
}

#[test]
fn elsewhere_is_no_fid() {
    let directory = tempfile::tempdir().unwrap();
    let mut fid = Fid::default();
    // SAFETY: a string, and a place for the FID.
    let result = unsafe { llapi_path2fid(c(directory.path()).as_ptr(), &raw mut fid) };
    assert_eq!(result, -libc::ENOTTY);
    assert_eq!(Root::of(directory.path()).unwrap_err().0, libc::ENOTTY);
}

#[test]
fn more_than_52_items_are_too_many() {
    let site = Site::new();
    let fid = site.fid(&site.file("f", b"content"));
    assert_eq!(site.ask(10, &[fid; 53]), -libc::E2BIG);
    assert_eq!(site.ask(10, &[fid; 52]), 0);
}

#[test]
fn data_arrive_with_the_action() {
    let site = Site::new();
    let agent = Agent::register(site.root.top());
    let fids: Vec<_> = (0..2).map(|n| site.fid(&site.file(&format!("f{n}"), b"content"))).collect();
    assert_eq!(site.ask_with(10, &fids, b"7 bytes"), 0);
    let items = agent.receive().unwrap();
    assert_eq!(items.iter().map(|item| item.head.len).collect::<Vec<_>>(), [79, 79]);
    assert!(items.iter().all(|item| item.data == b"7 bytes"));
    assert!(items.iter().all(|item| item.head.extent.length == u64::MAX));
}

#[test]
fn release_wants_an_archived_clean_file_that_nobody_has_open() {
    let site = Site::new();
    let plain = site.file("plain", b"content");
    assert_eq!(site.ask(12, &[site.fid(&plain)]), -libc::EPERM);
    let path = site.archived("f", b"content");
    let open = fs::File::open(&path).unwrap();
    assert_eq!(site.ask(12, &[site.fid(&path)]), -libc::EBUSY);
    drop(open);
    fs::write(&path, b"changed").unwrap();
    assert_eq!(site.states(&path), 0xb);
    assert_eq!(site.ask(12, &[site.fid(&path)]), -libc::EPERM);
    assert_eq!(fs::read(&path).unwrap(), b"changed");
    let kept = site.archived("kept", b"content");
    // SAFETY: a string.
    assert_eq!(unsafe { llapi_hsm_state_set(c(&kept).as_ptr(), 0x10, 0, 0) }, 0);
    assert_eq!(site.ask(12, &[site.fid(&kept)]), -libc::EPERM);
}

#[test]
fn what_is_refused_and_what_there_is_no_need_for() {
    let site = Site::new();
    let released = site.released("f", b"content");
    let done = site.requests().len();
    assert_eq!(site.ask(13, &[site.fid(&released)]), -libc::EPERM, "remove of a released file");
    assert_eq!(site.ask(10, &[site.fid(&released)]), 0, "archive of an archived file");
    let plain = site.file("plain", b"content");
    assert_eq!(site.ask(11, &[site.fid(&plain)]), 0, "restore of what is there");
    assert_eq!(site.requests().len(), done, "nothing to do");
    // SAFETY: a string.
    assert_eq!(unsafe { llapi_hsm_state_set(c(&plain).as_ptr(), 0x20, 0, 0) }, 0);
    assert_eq!(site.ask(10, &[site.fid(&plain)]), -libc::EPERM, "archive of a file that must not be");
    assert_eq!(site.ask(99, &[site.fid(&plain)]), -libc::EINVAL);
}

#[test]
fn purge_cancels_everything() {
    let site = Site::new();
    site.set("max_requests", "1");
    let agent = Agent::register(site.root.top());
    let fids: Vec<_> = (0..2).map(|n| site.fid(&site.file(&format!("f{n}"), b"content"))).collect();
    assert_eq!(site.ask(10, &fids), 0);
    let item = agent.receive().unwrap().remove(0);
    site.set("hsm_control", "purge");
    assert_eq!(site.statuses()[..2], [Status::Started, Status::Canceled]);
    let cancel = agent.receive().unwrap().remove(0);
    assert_eq!((cancel.head.action, cancel.head.cookie), (23, item.head.cookie));
    assert_eq!(agent.begin_failed(&item).unwrap().end(libc::ECANCELED), 0);
    assert_eq!(site.statuses()[0], Status::Canceled);
}

#[test]
fn import_makes_a_released_file() {
    let site = Site::new();
    let path = site.root.top().join("imported");
    // SAFETY: all zeros is a valid stat.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    (stat.st_size, stat.st_mode, stat.st_uid, stat.st_gid) = (5000, libc::S_IFREG | 0o640, 12, 34);
    (stat.st_mtime, stat.st_mtime_nsec) = (1_000_000_000, 123);
    let import = || {
        let mut fid = Fid::default();
        let fid = &raw mut fid;
        // SAFETY: strings, a stat, and a place for the FID.
        unsafe { llapi_hsm_import(c(&path).as_ptr(), 3, &raw const stat, 0, -1, 0, 0, std::ptr::null_mut(), fid) }
    };
    assert_eq!(import(), 0);
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((metadata.len(), has_data(&path), metadata.uid(), metadata.gid()), (5000, false, 12, 34));
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_000_000_000, 123));
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
    assert_eq!(site.states(&path), 0xd);
    assert_eq!(import(), -libc::EEXIST);
}

#[test]
fn data_versions_change_with_the_data() {
    let site = Site::new();
    let path = site.file("f", b"content");
    let version = |path: &Path| {
        let (file, mut version) = (fs::File::open(path).unwrap(), 0);
        // SAFETY: an open file, and a place for the number.
        assert_eq!(unsafe { llapi_get_data_version(file.as_raw_fd(), &raw mut version, 2) }, 0);
        version
    };
    let before = version(&path);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(version(&path), before);
    fs::write(&path, b"changed").unwrap();
    assert_ne!(version(&path), before);
    let released = site.released("g", b"content");
    assert_eq!(version(&released), 0);
}

#[test]
fn there_is_one_mdt() {
    let site = Site::new();
    let (fid, mut index) = (site.fid(&site.file("f", b"content")), -1);
    let top = fs::File::open(site.root.top()).unwrap();
    // SAFETY: an open directory, a FID, and a place for the number.
    let result = unsafe { llapi_get_mdt_index_by_fid(top.as_raw_fd(), &raw const fid, &raw mut index) };
    assert_eq!((result, index), (0, 0));
}
