//! What is compared of one thing in two trees.

use super::finding::{Aspect, Difference};
use super::links::Linked;
use super::{Verification, times};
use crate::content::{Compared, compare};
use crate::failure::Failure;
use crate::migrate::attributes::{PERMISSIONS, listed};
use rustix::fs::{AtFlags, FileType, StatxFlags};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::Ordering;
use sys::file::{FileStamp, Moment};
use sys::{Mode, OFlags, xattr};

/// Where a thing is in one tree.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// By its name in an open directory.
    In(BorrowedFd<'a>, &'a Path),
    /// Open itself: a directory.
    Open(BorrowedFd<'a>),
}

impl<'a> Place<'a> {
    pub(super) fn stamp(self) -> io::Result<FileStamp> {
        match self {
            Self::In(directory, name) => sys::file::stamp_at(directory, name),
            Self::Open(fd) => sys::file::stamp(fd),
        }
    }

    fn attributes(self) -> io::Result<Vec<CString>> {
        listed(match self {
            Self::In(directory, name) => xattr::list_at(directory, name),
            Self::Open(fd) => xattr::list(fd),
        })
    }

    fn attribute(self, attribute: &CStr) -> io::Result<Option<Vec<u8>>> {
        let value = match self {
            Self::In(directory, name) => xattr::get_at(directory, name, attribute),
            Self::Open(fd) => xattr::get(fd, attribute),
        };
        match value {
            // Nor are there any of that sort, then.
            Err(error) if error.raw_os_error() == Some(Errno::NOTSUP.raw_os_error()) => Ok(None),
            other => other,
        }
    }

    /// Directory and name. What is open itself has an empty one.
    fn parts(self) -> (BorrowedFd<'a>, &'a Path, AtFlags) {
        match self {
            Self::In(directory, name) => (directory, name, AtFlags::SYMLINK_NOFOLLOW),
            Self::Open(fd) => (fd, Path::new(""), AtFlags::EMPTY_PATH),
        }
    }

    fn target(self) -> io::Result<CString> {
        let (directory, name, _) = self.parts();
        Ok(rustix::fs::readlinkat(directory, name, Vec::new())?)
    }

    fn device(self) -> io::Result<(u32, u32)> {
        let (directory, name, flags) = self.parts();
        let found = rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS)?;
        Ok((found.stx_rdev_major, found.stx_rdev_minor))
    }

    /// For reading, without moving its time of access where we may, and without waiting for the other end of what became a pipe.
    fn file(self) -> io::Result<File> {
        let (directory, name, _) = self.parts();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |flags| rustix::fs::openat(directory, name, flags, Mode::empty());
        Ok(match open(flags | OFlags::NOATIME) {
            Err(Errno::PERM) => open(flags)?,
            other => other?,
        }
        .into())
    }
}

/// A thing in both trees, as it was seen.
#[derive(Clone, Copy)]
pub(super) struct Both<'a> {
    pub(super) places: [Place<'a>; 2],
    pub(super) stamps: [FileStamp; 2],
}

impl<'a> Both<'a> {
    /// The same question to both.
    fn ask<T>(&self, doing: &'static str, ask: impl Fn(Place<'a>) -> io::Result<T>) -> Result<[T; 2], Failure> {
        let [a, b] = self.places;
        Ok([ask(a).map_err(Failure::source(doing))?, ask(b).map_err(Failure::destination(doing))?])
    }

    /// Whether neither was changed since it was seen.
    pub(super) fn is_settled(&self) -> Result<bool, Failure> {
        let state = |stamp: FileStamp| (stamp.dev, stamp.ino, stamp.mode, stamp.size, stamp.mtime, stamp.ctime);
        let now = self.ask("look at", Place::stamp)?;
        Ok(now.map(state) == self.stamps.map(state))
    }
}

impl Verification<'_> {
    /// All in which they differ, but for [links](Self::linked).
    pub(super) fn differences(&self, both: &Both<'_>) -> Result<Vec<Difference>, Failure> {
        let [a, b] = &both.stamps;
        let ignore = &self.options.ignore;
        let kinds = [a, b].map(|stamp| FileType::from_raw_mode(stamp.mode));
        if kinds[0] != kinds[1] {
            let [one, other] = kinds.map(word);
            return Ok(vec![Difference::new(Aspect::Kind, one, other)]);
        }
        let mut found = Vec::new();
        let mut unless = |same: bool, difference: &dyn Fn() -> Difference| {
            if !same {
                found.push(difference());
            }
        };
        let same_size = !a.is_regular || a.size == b.size;
        unless(same_size, &|| Difference::new(Aspect::Size, a.size, b.size));
        let same_time = ignore.times || times::same(a.mtime, b.mtime, self.two_seconds);
        unless(same_time, &|| Difference::new(Aspect::Mtime, seconds(a.mtime), seconds(b.mtime)));
        let mode = |stamp: &FileStamp| stamp.mode & PERMISSIONS;
        // Nobody can set a link's.
        let same_mode = ignore.mode || kinds[0] == FileType::Symlink || mode(a) == mode(b);
        let octal = |stamp| format!("{:o}", mode(stamp));
        unless(same_mode, &|| Difference::new(Aspect::Mode, octal(a), octal(b)));
        unless(ignore.owner || a.uid == b.uid, &|| Difference::new(Aspect::Owner, a.uid, b.uid));
        unless(ignore.owner || a.gid == b.gid, &|| Difference::new(Aspect::Group, a.gid, b.gid));
        match kinds[0] {
            FileType::Symlink => {
                let [one, other] = both.ask("read", Place::target)?;
                let shown = |target: &CString| target.to_string_lossy().into_owned();
                unless(one == other, &|| Difference::new(Aspect::Target, shown(&one), shown(&other)));
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                let [one, other] = both.ask("look at", Place::device)?;
                let shown = |(major, minor)| format!("{major}:{minor}");
                unless(one == other, &|| Difference::new(Aspect::Device, shown(one), shown(other)));
            }
            _ => {}
        }
        if !ignore.attributes {
            attributes(both, &mut found)?;
        }
        if self.options.content && a.is_regular && same_size && a.size > 0 {
            found.extend(self.content(both)?);
        }
        Ok(found)
    }

    fn content(&self, both: &Both<'_>) -> Result<Option<Difference>, Failure> {
        let [one, other] = both.ask("open", Place::file)?;
        let compared = compare(&one, &other, |bytes| {
            self.tally.bytes.fetch_add(bytes, Ordering::Relaxed);
            self.limiter.spend(bytes);
            self.limiter.wait(false, || self.is_stopped())
        })?;
        match compared {
            Compared::Same => Ok(None),
            Compared::DiffersAt(at) => {
                let of = Some(format!("from byte {at} on"));
                Ok(Some(Difference { what: Aspect::Content, of, a: None, b: None }))
            }
            Compared::Stopped => Err(Failure::source("go on with")(Errno::CANCELED)),
        }
    }

    /// Whether its names are those of one file in both trees. To be asked once for each name.
    pub(super) fn linked(&self, both: &Both<'_>) -> Option<Difference> {
        let [a, b] = &both.stamps;
        match self.links.meet(a, b) {
            Linked::Alike => None,
            Linked::InFirst => Some(Difference::new(Aspect::Links, "one file with another name", "two files")),
            Linked::InSecond => Some(Difference::new(Aspect::Links, "two files", "one file with another name")),
            Linked::Unclear => {
                self.tally.unclear_links.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }
}

fn attributes(both: &Both<'_>, found: &mut Vec<Difference>) -> Result<(), Failure> {
    let [mut names, more] = both.ask("list the attributes of", Place::attributes)?;
    names.extend(more);
    names.sort();
    names.dedup();
    for name in names {
        let [one, other] = both.ask("read attributes of", |place| place.attribute(&name))?;
        if one != other {
            let shown = |value: Option<Vec<u8>>| value.map(|value| format!("{} bytes", value.len()));
            let of = Some(name.to_string_lossy().into_owned());
            found.push(Difference { what: Aspect::Attribute, of, a: shown(one), b: shown(other) });
        }
    }
    Ok(())
}

fn seconds((seconds, nanos): Moment) -> String {
    format!("{seconds}.{nanos:09}")
}

fn word(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symbolic link",
        FileType::Fifo => "pipe",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        FileType::Unknown => "something unknown",
    }
}
