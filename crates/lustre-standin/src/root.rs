//! A directory that plays a Lustre filesystem: where it begins, what lies where, and the knobs.
//!
//! Below the root:
//!
//! - `.lustre/fid/[0x…:0x…:0x…]`: hard links to the files, as Lustre's directory of that name shows them;
//! - `.lustre/standin/state.json`: requests and agents (see [`crate::state`]), `lock` beside it;
//! - `.lustre/standin/pipes/N`: the FIFO of a registered copytool;
//! - `.lustre/standin/control/…`: knobs, one file each, `fail/<function>` among them;
//! - `.lustre/standin/changelog.jsonl`, `.lustre/standin/ost/…`, `.lustre/standin/mirrors/…`.
//!
//! A function of the library that gets no path (the changelog's get the name of an MDT) finds the root by the
//! filesystem's name, under which [`Root::make`] leaves a link in the temporary directory.

use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{AtFlags, StatxFlags};

use crate::boundary::{Errno, Result};

/// The knobs and what they are at first.
const KNOBS: [(&str, &str); 8] = [
    ("hsm_control", "enabled"),
    ("max_requests", "3"),
    ("active_request_timeout", "3600"),
    ("policy", "NRA"),
    ("default_archive_id", "1"),
    ("version", "2.17"),
    ("loop_period", "0"),
    ("mdts", "1"),
];

/// The top of a stand-in filesystem, as seen through one of its mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    top: PathBuf,
}

impl Root {
    /// Makes the existing directory `top` one. `fsname` is at most eight letters and digits, and its own in this
    /// machine's temporary directory.
    pub fn make(top: &Path, fsname: &str) -> Result<Root> {
        let plain = fsname.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if fsname.is_empty() || fsname.len() > 8 || !plain {
            return Err(Errno(libc::EINVAL));
        }
        let root = Root { top: top.canonicalize()? };
        for directory in ["pipes", "control/fail", "ost", "pools", "mirrors", "leases"] {
            fs::create_dir_all(root.inside(directory))?;
        }
        fs::create_dir_all(root.fids())?;
        for (knob, value) in KNOBS {
            fs::write(root.inside("control").join(knob), value)?;
        }
        fs::write(root.inside("lock"), "")?;
        fs::write(root.inside("changelog.jsonl"), "")?;
        let registry = registry();
        fs::create_dir_all(&registry)?;
        forget_the_gone(&registry)?;
        let link = registry.join(fsname);
        if link.exists() {
            return Err(Errno(libc::EEXIST));
        }
        // Left by a process of the same number.
        let _ = fs::remove_file(&link);
        symlink(&root.top, link)?;
        // The last: whoever finds it finds everything else.
        fs::write(root.inside("fsname"), fsname)?;
        Ok(root)
    }

    /// As [`make`](Root::make), with a name that no other process, and no other root of this one, has.
    pub fn make_unique(top: &Path) -> Result<Root> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        // Process numbers have at most 22 bits.
        Root::make(top, &format!("s{:x}{}", std::process::id(), char::from_digit(number % 36, 36).unwrap_or('z')))
    }

    /// Removes the link that [`make`](Root::make) has left in the temporary directory.
    pub fn unlink_name(&self) -> Result<()> {
        Ok(fs::remove_file(registry().join(self.fsname()?))?)
    }

    /// The root `path` is below; `ENOTTY` when there is none, which is what an ioctl of Lustre's answers elsewhere.
    pub fn of(path: &Path) -> Result<Root> {
        let path = path.canonicalize()?;
        Root::above(&path)
    }

    /// The root of an open file, which need not have a name any more.
    pub fn of_fd(fd: RawFd) -> Result<Root> {
        let link = fs::read_link(by_fd(fd)).map_err(|_| Errno(libc::EBADF))?;
        let bytes = link.into_os_string().into_vec();
        let bytes = bytes.strip_suffix(b" (deleted)").unwrap_or(&bytes);
        Root::above(Path::new(std::ffi::OsStr::from_bytes(bytes)))
    }

    fn above(path: &Path) -> Result<Root> {
        let top = path.ancestors().find(|top| top.join(".lustre/standin/fsname").exists());
        top.map(|top| Root { top: top.to_owned() }).ok_or(Errno(libc::ENOTTY))
    }

    /// By a path, by the filesystem's name, or by the name of a target (`lustre-MDT0000`).
    pub fn named(name: &str) -> Result<Root> {
        if name.starts_with('/') {
            return Root::of(Path::new(name));
        }
        let fsname = name.split('-').next().unwrap_or(name);
        if fsname.is_empty() || fsname.contains(['/', '.']) {
            return Err(Errno(libc::ENODEV));
        }
        let found = Root::of(&registry().join(fsname)).map_err(|_| Errno(libc::ENODEV))?;
        // A link of somebody long gone may point to a directory that is now another's.
        if found.fsname()? == fsname { Ok(found) } else { Err(Errno(libc::ENODEV)) }
    }

    /// Where it begins.
    pub fn top(&self) -> &Path {
        &self.top
    }

    /// A path in the stand-in's own directory.
    pub fn inside(&self, relative: &str) -> PathBuf {
        self.top.join(".lustre/standin").join(relative)
    }

    /// `.lustre/fid`.
    pub fn fids(&self) -> PathBuf {
        self.top.join(".lustre/fid")
    }

    /// The filesystem's name.
    pub fn fsname(&self) -> Result<String> {
        Ok(fs::read_to_string(self.inside("fsname"))?)
    }

    /// What a knob is set to.
    pub fn knob(&self, name: &str) -> Result<String> {
        Ok(fs::read_to_string(self.inside("control").join(name))?.trim().to_owned())
    }

    /// As [`knob`](Root::knob), for those that are numbers.
    pub fn number(&self, name: &str) -> Result<u64> {
        self.knob(name)?.parse().map_err(|_| Errno(libc::EINVAL))
    }

    /// Whether it behaves as Lustre 2.15 where that is different.
    pub fn is_old(&self) -> Result<bool> {
        Ok(matches!(self.knob("version")?.as_str(), "2.12" | "2.15"))
    }

    /// Fails when the knob `fail/<function>` says so: an errno, and how often (without: always).
    pub fn fault(&self, function: &str) -> Result<()> {
        let path = self.inside("control/fail").join(function);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // A FIFO: opening it took until `control::heal`.
        if text.is_empty() {
            return Ok(());
        }
        let mut words = text.split_whitespace().map(str::parse::<i32>);
        let errno = words.next().and_then(|word| word.ok()).ok_or(Errno(libc::EINVAL))?;
        match words.next() {
            Some(Ok(left)) if left > 1 => fs::write(&path, format!("{errno} {}", left - 1))?,
            Some(_) => fs::remove_file(&path)?,
            None => {}
        }
        Err(Errno(errno))
    }

    /// Names the mount `path` is seen through: to Lustre, each is a client of its own.
    pub fn mount_id(path: &Path) -> Result<u64> {
        let stat = rustix::fs::statx(rustix::fs::CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)?;
        Ok(stat.stx_mnt_id)
    }
}

/// An open file by path, for calls that take one.
pub(crate) fn by_fd(fd: RawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{fd}"))
}

fn registry() -> PathBuf {
    std::env::temp_dir().join("lustre-standin")
}

/// Removes the links of roots that are no more.
fn forget_the_gone(registry: &Path) -> Result<()> {
    for entry in fs::read_dir(registry)? {
        let link = entry?.path();
        if !link.join(".lustre/standin/fsname").exists() && fs::read_link(&link).is_ok_and(|top| !top.exists()) {
            // Another process may have been faster.
            let _ = fs::remove_file(&link);
        }
    }
    Ok(())
}
