//! Ready command lines: what an archive's block need not say. Each key that it does say counts instead.
//!
//! `rclone` and `ltfs` are tested with the programs themselves (the latter on a mounted disk), `hsi` and `htar` with stand-ins that check the
//! command lines: no HPSS was at hand.

use super::Check;

/// Which programs an archive is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// HPSS, an object for each file, by `hsi`.
    Hsi,
    /// HPSS, many files in one tar file, by `htar`.
    Htar,
    /// An LTFS tape (or any other mounted filesystem), by `rsync`.
    Ltfs,
    /// Whatever rclone knows.
    Rclone,
}

impl Profile {
    pub(super) const ALL: [(&'static str, Self); 4] =
        [("hsi", Self::Hsi), ("htar", Self::Htar), ("ltfs", Self::Ltfs), ("rclone", Self::Rclone)];
}

/// What a profile says.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Defaults {
    pub(super) archive: &'static [&'static str],
    pub(super) restore: &'static [&'static str],
    pub(super) remove: &'static [&'static str],
    pub(super) stat: &'static [&'static str],
    pub(super) keep_removed: bool,
    pub(super) needs_mount_point: bool,
    pub(super) check: Option<Check>,
    pub(super) max_files: Option<u64>,
    pub(super) permanent: &'static [u8],
    pub(super) missing: &'static [u8],
    pub(super) missing_text: &'static [&'static str],
}

/// What HPSS's client library and hsi say of an object that is not there.
const HPSS_MISSING: &[&str] = &["HPSS_ENOENT", "no such file or directory", "No such file or directory"];

pub(super) fn defaults(profile: Option<Profile>) -> Defaults {
    let none = Defaults::default();
    match profile {
        None => none,
        Some(Profile::Hsi) => Defaults {
            archive: &["hsi", "-q", "mkdir -p {root}/{fan}; put {file} : {root}/{fan}/{id}"],
            restore: &["hsi", "-q", "get {file} : {root}/{fan}/{id}"],
            remove: &["hsi", "-q", "rm {root}/{fan}/{id}"],
            stat: &["hsi", "-q", "ls {root}/{fan}/{id}"],
            // EX_NOPERM and EX_CONFIG; 64 is what hsi says of anything that it has no other number for.
            permanent: &[77, 78],
            missing_text: HPSS_MISSING,
            ..none
        },
        Some(Profile::Htar) => Defaults {
            archive: &["htar", "-c", "-P", "-h", "-f", "{root}/{fan}/{batch}.tar", "-L", "{list}"],
            restore: &["htar", "-x", "-f", "{root}/{fan}/{batch}.tar", "{member}"],
            stat: &["hsi", "-q", "ls {root}/{fan}/{batch}.tar"],
            keep_removed: true,
            max_files: Some(1000),
            permanent: &[77, 78],
            missing_text: HPSS_MISSING,
            ..none
        },
        Some(Profile::Ltfs) => Defaults {
            archive: &[
                "rsync",
                "--copy-links",
                "--whole-file",
                "--ignore-times",
                "--fsync",
                "--files-from={list}",
                "{dir}/",
                "{root}/",
            ],
            restore: &["rsync", "--whole-file", "--files-from={list}", "{root}/", "{dir}/"],
            remove: &["rm", "-f", "--", "{root}/{id}"],
            stat: &["stat", "-c", "%s", "--", "{root}/{id}"],
            needs_mount_point: true,
            max_files: Some(256),
            missing_text: &["No such file or directory"],
            ..none
        },
        Some(Profile::Rclone) => Defaults {
            archive: &["rclone", "rcat", "--size", "{size}", "{root}/{fan}/{id}"],
            restore: &["rclone", "cat", "{root}/{fan}/{id}"],
            remove: &["rclone", "deletefile", "{root}/{fan}/{id}"],
            stat: &["rclone", "lsf", "--format", "s", "{root}/{fan}/{id}"],
            missing: &[3, 4],
            missing_text: &["is a directory or doesn't exist"],
            ..none
        },
    }
}
