//! How snapshots are named: the released files that agents leave for archived versions.

use crate::Timestamp;

/// Where snapshots are, in the directory of their original. Lemur's name.
pub const SNAPSHOT_DIRECTORY: &str = ".hsmsnapshot";

/// What the snapshot of a version is called: the file's name and the version's mtime. `fraction` tells versions of one second apart.
#[must_use]
pub fn snapshot_name(name: &[u8], mtime: Timestamp, fraction: bool) -> Vec<u8> {
    [name, b"^", mtime.rfc3339(fraction).as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_has_the_name_and_the_time_of_its_version() {
        let mtime = Timestamp { seconds: 1, nanos: 5 };
        assert_eq!(snapshot_name(b"f", mtime, false), b"f^1970-01-01T00:00:01Z");
        assert_eq!(snapshot_name(b"a^b\xff", mtime, true), b"a^b\xff^1970-01-01T00:00:01.000000005Z");
    }
}
