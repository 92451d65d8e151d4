//! Versions of files, as tables.

use super::table::table;
use super::units::{bytes, span};
use agent::admin::api::FileStatus;
use agent::admin::objects::RetiredView;
use model::Timestamp;
use serde::Serialize;

/// A released file beside the original.
#[derive(Debug, Serialize)]
pub(crate) struct Snapshot {
    pub(crate) path: String,
    pub(crate) size: u64,
    pub(crate) mtime: Timestamp,
}

/// All there is of one file; also the JSON.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Versions {
    pub(crate) path: String,
    pub(crate) current: Option<FileStatus>,
    pub(crate) mtime: Option<Timestamp>,
    pub(crate) snapshots: Vec<Snapshot>,
    /// Of this file, replaced by a later archive.
    pub(crate) older: Vec<RetiredView>,
    /// Files that were deleted under this name.
    pub(crate) deleted: Vec<RetiredView>,
}

/// The newest first.
pub(crate) fn human(versions: &Versions, now_ms: u64) -> String {
    let mut rows = Vec::new();
    if let Some(current) = &versions.current {
        let what = if current.dirty { "current, changed since" } else { "current" };
        let size = current.archived_size.unwrap_or(current.size);
        let time = versions.mtime.filter(|_| !current.dirty);
        rows.push([
            what.to_owned(),
            "-".to_owned(),
            time.map_or_else(|| "-".to_owned(), |time| time.rfc3339(false)),
            bytes(size),
            "stays".to_owned(),
            current.uuid.clone(),
        ]);
    }
    for snapshot in versions.snapshots.iter().rev() {
        let time = snapshot.mtime.rfc3339(false);
        let kept = "stays".to_owned();
        rows.push(["snapshot".to_owned(), "-".to_owned(), time, bytes(snapshot.size), kept, snapshot.path.clone()]);
    }
    rows.extend(versions.older.iter().rev().map(|found| row("older", found, now_ms, &found.uuid)));
    rows.extend(versions.deleted.iter().rev().map(|found| row("deleted", found, now_ms, &found.uuid)));
    if rows.is_empty() {
        return "no version is archived\n".to_owned();
    }
    table(["VERSION", "NUMBER", "CHANGED", "SIZE", "GOES IN", "OBJECT"], &rows)
}

/// Deleted files, by path.
pub(crate) fn deleted(found: &[RetiredView], now_ms: u64) -> String {
    let rows: Vec<_> = found
        .iter()
        .map(|found| row(&span(now_ms.saturating_sub(found.retired_ms)), found, now_ms, &found.path))
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    table(["DELETED", "NUMBER", "CHANGED", "SIZE", "GOES IN", "PATH"], &rows)
}

fn row(what: &str, found: &RetiredView, now_ms: u64, name: &str) -> [String; 6] {
    [
        what.to_owned(),
        found.id.to_string(),
        found.mtime.rfc3339(false),
        bytes(found.size),
        span(found.until_ms.saturating_sub(now_ms)),
        name.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::ActionId;

    #[test]
    fn versions_are_listed_the_newest_first() {
        let older = |id| RetiredView {
            id: ActionId(id),
            path: "d/f".into(),
            name: b"f".to_vec(),
            replaced: true,
            archive_id: 1,
            uuid: format!("object-{id}"),
            size: 2048,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Timestamp { seconds: 60, nanos: 0 },
            retired_ms: 1000,
            until_ms: 61_000,
        };
        let snapshot = Snapshot { path: "/fs/.hsmsnapshot/f^x".into(), size: 5, mtime: Timestamp::default() };
        let versions = Versions { older: vec![older(1), older(2)], snapshots: vec![snapshot], ..Versions::default() };
        let expected = "\
VERSION   NUMBER  CHANGED               SIZE     GOES IN  OBJECT
snapshot  -       1970-01-01T00:00:00Z  5 B      stays    /fs/.hsmsnapshot/f^x
older     2       1970-01-01T00:01:00Z  2.0 KiB  1m00s    object-2
older     1       1970-01-01T00:01:00Z  2.0 KiB  1m00s    object-1
";
        assert_eq!(human(&versions, 1000), expected);
        assert_eq!(human(&Versions::default(), 0), "no version is archived\n");
        let listed = deleted(&[older(7)], 31_000);
        assert!(listed.ends_with("\n30s      7       1970-01-01T00:01:00Z  2.0 KiB  30s      d/f\n"), "{listed}");
    }
}
