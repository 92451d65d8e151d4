//! What belongs to a file besides its content, as texts beside its object.
//!
//! `mode` (octal, with the type), `uid`, `gid` and `mtime` (seconds since 1970, nanoseconds behind the point), under the names that rclone and
//! Sifaka's movers use; `xattrs`: names with `%XX` for what is no plain letter, `=`, the value in base64, a comma between two.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use model::moment;
use objects::plain::{Found, Texts};
use rustix::fs::FileType;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fmt::Write as _;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use sys::file::{FileStamp, Moment};

/// S3 takes 2 KiB of texts, their names included. The others of ours and the mark take less than 300.
const MAX_XATTRS_BYTES: usize = 1700;
const XATTRS: &str = "xattrs";

/// What the texts of an object say of it. Whoever may write to the bucket chose them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct About {
    /// With the type.
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Moment>,
    xattrs: Option<String>,
}

impl About {
    pub(super) fn read(texts: &Texts) -> Self {
        let first = |names: &[&str]| names.iter().find_map(|name| texts.get(*name)).map(|text| text.trim());
        let number = |names: &[&str]| first(names)?.parse::<u32>().ok().filter(|number| *number != u32::MAX);
        Self {
            mode: first(&["mode", "permissions", "perm"]).and_then(|text| u32::from_str_radix(text, 8).ok()),
            uid: number(&["uid", "owner"]),
            gid: number(&["gid", "group"]),
            mtime: first(&["mtime", "modtime"]).and_then(|text| moment::parse(text).ok()),
            xattrs: texts.get(XATTRS).cloned(),
        }
    }

    /// `xattrs` as [`xattrs`] gives them.
    pub(super) fn of(stamp: &FileStamp, xattrs: String) -> Self {
        Self {
            mode: Some(stamp.mode),
            uid: Some(stamp.uid),
            gid: Some(stamp.gid),
            mtime: Some(stamp.mtime),
            xattrs: Some(xattrs).filter(|xattrs| !xattrs.is_empty()),
        }
    }

    pub(super) fn texts(&self) -> Texts {
        let texts = [
            ("mode", self.mode.map(|mode| format!("{mode:o}"))),
            ("uid", self.uid.map(|uid| uid.to_string())),
            ("gid", self.gid.map(|gid| gid.to_string())),
            ("mtime", self.mtime.map(written)),
            (XATTRS, self.xattrs.clone()),
        ];
        texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?))).collect()
    }

    pub(super) fn file_type(&self) -> FileType {
        match self.mode.map(FileType::from_raw_mode) {
            Some(FileType::Symlink) => FileType::Symlink,
            _ => FileType::RegularFile,
        }
    }

    /// Whether an object that says this of itself is what `wanted` says. What another program did not say counts as said.
    pub(super) fn fits(&self, wanted: &Self) -> bool {
        let fits = |found: Option<u32>, wanted: Option<u32>| found.is_none() || found == wanted;
        let ours = self.mode.is_some();
        fits(self.mode, wanted.mode)
            && fits(self.uid, wanted.uid)
            && fits(self.gid, wanted.gid)
            && (!ours || self.xattrs == wanted.xattrs)
    }

    /// The extended attributes as they are written: encoded names, and values in base64.
    pub(super) fn attributes(&self) -> BTreeMap<&str, &str> {
        self.xattrs.as_deref().unwrap_or_default().split(',').filter_map(|pair| pair.split_once('=')).collect()
    }

    /// The extended attributes that a file may be given: those of users, whoever wrote them. Garbage is left out.
    pub(super) fn users_xattrs(&self) -> Vec<(CString, Vec<u8>)> {
        let pairs = self.xattrs.as_deref().unwrap_or_default().split(',');
        let read = |pair: &str| {
            let (name, value) = pair.split_once('=')?;
            let name = CString::new(decoded(name)?).ok()?;
            let is_users = name.to_bytes().starts_with(b"user.");
            Some((name, BASE64_STANDARD.decode(value).ok()?)).filter(|_| is_users)
        };
        pairs.filter_map(read).collect()
    }
}

/// When an object's file was changed last: what was put beside it, or when it was stored.
pub(super) fn changed(found: &Found) -> Option<Moment> {
    About::read(&found.texts).mtime.or(found.modified)
}

/// -0.25 is a quarter of a second before 1970.
fn written((seconds, nanos): Moment) -> String {
    match (seconds, nanos) {
        (..0, 1..) => format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanos),
        _ => format!("{seconds}.{nanos:09}"),
    }
}

/// The attributes of a file that go with its object, and the first one that does not fit.
pub(super) fn xattrs(file: BorrowedFd<'_>) -> io::Result<(String, Option<String>)> {
    collected(sys::xattr::list(file), |name| sys::xattr::get(file, name))
}

/// The same, of a file that is not opened.
pub(super) fn xattrs_at(directory: BorrowedFd<'_>, name: &Path) -> io::Result<(String, Option<String>)> {
    collected(sys::xattr::list_at(directory, name), |attribute| sys::xattr::get_at(directory, name, attribute))
}

fn collected(
    names: io::Result<Vec<CString>>,
    get: impl Fn(&CStr) -> io::Result<Option<Vec<u8>>>,
) -> io::Result<(String, Option<String>)> {
    let (mut text, mut left) = (String::new(), None);
    let names = match names {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok((text, left)),
        names => names?,
    };
    for name in names.iter().filter(|name| belongs(name)) {
        // Gone since it was listed, then.
        let Some(value) = get(name.as_c_str())? else { continue };
        let comma = if text.is_empty() { "" } else { "," };
        let pair = format!("{comma}{}={}", encoded(name.to_bytes()), BASE64_STANDARD.encode(value));
        if text.len() + pair.len() > MAX_XATTRS_BYTES {
            left.get_or_insert_with(|| name.to_string_lossy().into_owned());
        } else {
            text.push_str(&pair);
        }
    }
    Ok((text, left))
}

fn belongs(name: &CStr) -> bool {
    let name = name.to_bytes();
    name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_")
}

fn encoded(name: &[u8]) -> String {
    let mut out = String::new();
    for byte in name {
        if byte.is_ascii_alphanumeric() || b"-._".contains(byte) {
            out.push(char::from(*byte));
        } else {
            // Writing to a text does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut out = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        out.push(u8::from_str_radix(digits, 16).ok()?);
        out.extend_from_slice(rest.as_bytes());
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn about(mode: u32, mtime: Moment, xattrs: &str) -> About {
        let xattrs = Some(xattrs.to_owned()).filter(|text| !text.is_empty());
        About { mode: Some(mode), uid: Some(1), gid: Some(2), mtime: Some(mtime), xattrs }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(mode: u32, seconds in -100_000_000_000i64..100_000_000_000, nanos in 0u32..1_000_000_000) {
            let about = about(mode, (seconds, nanos), "user.a=YQ==");
            prop_assert_eq!(About::read(&about.texts()), about);
        }

        #[test]
        fn names_of_attributes_come_back(name in prop::collection::vec(any::<u8>(), 0..20)) {
            prop_assert_eq!(decoded(&encoded(&name)), Some(name));
        }

        #[test]
        fn garbage_is_left_out(text in "\\PC{0,60}") {
            let _ = about(0, (0, 0), &text).users_xattrs();
        }
    }

    #[test]
    fn only_users_attributes_are_given_to_files() {
        let about = about(0o100_644, (0, 0), "user.a%2Fb=YQ==,security.capability=YQ==,trusted.x=YQ==,x,user.c=!");
        assert_eq!(about.users_xattrs(), [(c"user.a/b".to_owned(), b"a".to_vec())]);
    }

    #[test]
    fn what_another_program_did_not_say_is_no_difference() {
        let wanted = about(0o100_644, (5, 0), "user.a=YQ==");
        assert!(About::default().fits(&wanted) && wanted.fits(&wanted));
        assert!(!about(0o100_600, (5, 0), "user.a=YQ==").fits(&wanted));
        assert!(!about(0o100_644, (5, 0), "").fits(&wanted));
    }
}
