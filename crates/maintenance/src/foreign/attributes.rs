//! Owner, mode and time of a file, out of the texts of its object.
//!
//! Three programs are known: Sifaka and rclone (`mode` octal, `uid`, `gid`, `mtime` in seconds or as a date), and Lemur's Azure mover (`permissions` or
//! `perm`, `owner` or `uid`, `group` or `gid`, `modtime`). What is not there, or makes no sense, is as the options say.
//!
//! Whoever may write to the bucket chose these texts. So they give no rights: no set-user-id, set-group-id and sticky bits are taken from them, and owners
//! only where whoever imports says that he trusts them.

use super::Options;
use crate::import::Attributes;
use model::moment;
use std::collections::HashMap;
use sys::file::Moment;

/// What a file gets of which nothing is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Defaults {
    uid: u32,
    gid: u32,
    mode: u32,
    owners: bool,
}

impl Defaults {
    pub(super) fn of(options: &Options) -> Self {
        Self { uid: options.uid, gid: options.gid, mode: options.mode & 0o7777, owners: options.owners }
    }

    /// `texts` is empty where nobody asked for them; `modified` is when the object was stored.
    pub(super) fn with(self, texts: &HashMap<String, String>, modified: Option<Moment>) -> Attributes {
        let first = |names: &[&str]| names.iter().find_map(|name| texts.get(*name)).map(|text| text.trim());
        let number = |names: &[&str]| {
            first(names).filter(|_| self.owners)?.parse::<u32>().ok().filter(|number| *number != u32::MAX)
        };
        let mode = first(&["mode", "permissions", "perm"]).and_then(|text| u32::from_str_radix(text, 8).ok());
        let mtime = first(&["mtime", "modtime"]).and_then(|text| moment::parse(text).ok());
        Attributes {
            uid: number(&["uid", "owner"]).unwrap_or(self.uid),
            gid: number(&["gid", "group"]).unwrap_or(self.gid),
            mode: mode.map_or(self.mode, |mode| mode & 0o777),
            mtime: mtime.or(modified).unwrap_or((0, 0)),
            atime: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: Defaults = Defaults { uid: 7, gid: 8, mode: 0o640, owners: true };

    fn with(texts: &[(&str, &str)]) -> Attributes {
        let texts = texts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        DEFAULTS.with(&texts, Some((99, 1)))
    }

    #[test]
    fn what_known_programs_write_is_understood() {
        let ours = with(&[("mode", "100755"), ("uid", "1000"), ("gid", "1001"), ("mtime", "1700000000.000000005")]);
        assert_eq!(ours, Attributes { uid: 1000, gid: 1001, mode: 0o755, mtime: (1_700_000_000, 5), atime: None });
        let rclone = with(&[("mode", "0100600"), ("uid", "5"), ("gid", "6"), ("mtime", "2023-11-14T22:13:20.5Z")]);
        assert_eq!(
            rclone,
            Attributes { uid: 5, gid: 6, mode: 0o600, mtime: (1_700_000_000, 500_000_000), atime: None }
        );
        let lemur = with(&[
            ("permissions", "0700"),
            ("owner", "12"),
            ("group", "13"),
            ("modtime", "2023-11-14 22:13:20 +0000"),
        ]);
        assert_eq!(lemur, Attributes { uid: 12, gid: 13, mode: 0o700, mtime: (1_700_000_000, 0), atime: None });
    }

    #[test]
    fn p3_what_stands_in_a_bucket_gives_nobody_rights() {
        let texts = [("mode", "106777"), ("uid", "0"), ("gid", "0")];
        assert_eq!(with(&texts).mode, 0o777);
        let texts = texts.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        let strangers = Defaults { owners: false, ..DEFAULTS }.with(&texts, None);
        assert_eq!((strangers.uid, strangers.gid, strangers.mode), (7, 8, 0o777));
    }

    #[test]
    fn what_is_not_there_or_makes_no_sense_is_as_usual() {
        let usual = Attributes { uid: 7, gid: 8, mode: 0o640, mtime: (99, 1), atime: None };
        assert_eq!(with(&[]), usual);
        assert_eq!(with(&[("mode", "rwx"), ("uid", "-1"), ("gid", "4294967295"), ("mtime", "soon")]), usual);
    }
}
