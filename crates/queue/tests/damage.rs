//! Files that are no queue, or no longer: always an error that says so, never a panic, and a way on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap in a test is a failed test"
)]

use model::{ActionId, Class, Command, ErrorKind, Failure, FileHandle, Identity};
use sifaka_queue::{
    About, Change, Cursor, ListFilter, NewAction, ObjectRef, OrphanCheck, Queue, QueueError, Removal, RequestId,
    Retired, SqliteQueue, SyncedStamp,
};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

fn handle(n: u64) -> FileHandle {
    FileHandle::from_bytes(&[&[1, 0, 0, 0][..], &n.to_le_bytes()].concat()).unwrap()
}

fn action(n: u64) -> NewAction {
    NewAction {
        request: RequestId(n % 3),
        class: Class::Archive,
        command: Command::Archive,
        archive_id: 1,
        owner: 0,
        file: Some(handle(n)),
        path: format!("some/file/{n}"),
        identity: Identity::default(),
        data: vec![7; 50],
        not_before_ms: n,
        created_ms: n,
    }
}

fn finish(id: ActionId, failed: bool) -> Change {
    let result = if failed { Err(Failure::permanent(5, "broken")) } else { Ok(()) };
    Change::Finish { id, result, bytes: 1, finished_ms: 1 }
}

/// Something in every table.
fn fill(path: &Path) {
    let queue = SqliteQueue::open(path).unwrap();
    let ids = queue.submit(&(0..120).map(action).collect::<Vec<_>>()).unwrap();
    let mut changes: Vec<_> = ids.iter().skip(60).map(|id| finish(*id, id.0 % 2 == 0)).collect();
    changes.extend((0..20).map(|n| Change::SetStamp {
        file: handle(n),
        stamp: SyncedStamp { stamp: model::Stamp::default(), object: None },
    }));
    changes.push(Change::OweOrphanCheck(OrphanCheck {
        archive_id: 1,
        uuid: "u".into(),
        url: String::new(),
        file: handle(1),
    }));
    changes.extend((0..20).flat_map(|n| {
        let about = About { path: format!("dir/{n}").into(), size: n, ..About::default() };
        let object = ObjectRef { archive_id: 1, uuid: format!("u{n}"), url: String::new() };
        let retired = Retired { replaced: false, file: handle(n), about: about.clone(), retired_ms: n };
        let removal = NewAction { command: Command::Remove, file: None, ..action(n) };
        [
            Change::Describe { file: handle(n), about },
            Change::SetCopies { file: handle(n), copies: vec![object.clone()] },
            Change::Retire { removal, retired },
            Change::Share { object, complete: true, files: vec![handle(n), handle(n + 1)] },
        ]
    }));
    queue.apply(&changes).unwrap();
}

/// Every call on what is kept of objects.
fn use_objects(queue: &dyn Queue) -> Result<(), QueueError> {
    queue.sharing()?;
    for n in 0..20 {
        queue.about(&handle(n))?;
        queue.copies(&handle(n))?;
        queue.standing(&[Removal { id: ActionId(n), archive_id: 1, uuid: &format!("u{n}") }], 5)?;
        queue.referrers(1, &format!("u{n}"), None, 9)?;
        queue.retired_of_file(&handle(n), 9)?;
    }
    queue.retired_object(1, "", 9)?;
    queue.retired_in(b"dir/", b"dir0", None, 100)?;
    queue.apply(&[
        Change::ForgetReferrer { archive_id: 1, uuid: "u1".into(), file: handle(1) },
        Change::ForgetShared { archive_id: 1, uuid: "u2".into() },
        Change::Doubt,
    ])
}

/// Every call once; the first error.
fn use_all(queue: &dyn Queue) -> Result<(), QueueError> {
    let ids = queue.submit(&[action(500), action(501)])?;
    queue.list(&ListFilter::default(), ActionId(0), 1000)?;
    queue.finished(ActionId(u64::MAX), 1000)?;
    queue.totals()?;
    queue.orphan_checks(9)?;
    queue.next_ready_ms(0)?;
    use_objects(queue)?;
    for class in Class::ALL {
        queue.owners(class, 1000)?;
        queue.ready(class, 0, Cursor::default(), 1000, 1000)?;
    }
    for n in 0..120 {
        queue.of_file(&handle(n))?;
        queue.stamp(&handle(n))?;
        queue.request(RequestId(n))?;
        queue.get(ActionId(n))?;
        queue.result(ActionId(n))?;
    }
    let changes: Vec<_> = (0..40).map(|n| finish(ActionId(n), false)).collect();
    queue.apply(&changes)?;
    queue.apply(&[
        Change::Promote { id: ActionId(50), class: Class::Reader, not_before_ms: 0 },
        Change::Retry { id: ActionId(51), not_before_ms: 9, failure: Failure::temporary(5, "") },
        Change::ForgetStamp { file: handle(3) },
        Change::SettleOrphanCheck { archive_id: 1, uuid: "u".into() },
        finish(ids[0], true),
    ])
}

fn open_and_use(path: &Path) -> Result<(), QueueError> {
    use_all(&SqliteQueue::open(path)?)
}

fn database() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    (directory, path)
}

#[test]
fn flipped_bits_are_harmless_or_found() {
    let (_directory, path) = database();
    fill(&path);
    let good = fs::read(&path).unwrap();
    open_and_use(&path).unwrap();
    // All of the header, then a stride that has no common factor with pages or rows.
    let positions = (0..100).chain((100..good.len()).step_by((good.len() / 400) | 1));
    let (mut found, mut harmless) = (0, 0);
    for position in positions {
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{suffix}", path.display()));
        }
        let mut bad = good.clone();
        bad[position] ^= 1 << (position % 8);
        fs::write(&path, bad).unwrap();
        match open_and_use(&path) {
            Ok(()) => harmless += 1,
            Err(QueueError::Corrupt { why, .. }) => {
                assert!(!why.is_empty());
                found += 1;
            }
            Err(QueueError::Version { .. }) if (60..64).contains(&position) => found += 1,
            Err(e) => panic!("flip at {position}: {e:?}"),
        }
    }
    assert!(found > 50 && harmless > 50, "{found} found, {harmless} harmless");
}

#[test]
fn a_truncated_file_is_found_at_open() {
    let (_directory, path) = database();
    fill(&path);
    let good = fs::read(&path).unwrap();
    for length in [1, 15, 16, 99, 100, 512, 4095, 4096, 4097, 8192, good.len() / 2, good.len() - 4096, good.len() - 1] {
        fs::write(&path, &good[..length]).unwrap();
        let error =
            SqliteQueue::open(&path).err().unwrap_or_else(|| panic!("{length} of {} bytes are taken", good.len()));
        assert!(matches!(error, QueueError::Corrupt { .. }), "{length} bytes: {error:?}");
    }
}

#[test]
fn an_empty_file_is_a_new_queue_of_its_owner_alone() {
    let (_directory, path) = database();
    fs::write(&path, b"").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    for _ in 0..2 {
        let queue = SqliteQueue::open(&path).unwrap();
        queue.submit(&[action(1)]).unwrap();
        for name in ["", "-wal", "-shm"] {
            let mode = fs::metadata(format!("{}{name}", path.display())).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        drop(queue);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn what_is_no_queue_is_refused() {
    let (directory, path) = database();
    let kind = |path: &Path| match SqliteQueue::open(path).expect_err("no queue") {
        QueueError::Storage { kind, .. } => kind,
        e => panic!("{e:?}"),
    };
    assert_eq!(kind(directory.path()), ErrorKind::Permanent);
    assert_eq!(kind(&directory.path().join("missing/queue.db")), ErrorKind::Permanent);
    assert_eq!(kind(Path::new("/dev/null")), ErrorKind::Permanent);
    fs::write(&path, "this is a text and no database, and longer than a header: ".repeat(200)).unwrap();
    assert!(matches!(SqliteQueue::open(&path), Err(QueueError::Corrupt { .. })));
    fs::remove_file(&path).unwrap();
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE other (x); INSERT INTO other VALUES (1)")
        .unwrap();
    let before = fs::read(&path).unwrap();
    assert!(matches!(SqliteQueue::open(&path), Err(QueueError::Corrupt { .. })), "somebody else's database");
    assert_eq!(fs::read(&path).unwrap(), before, "is left alone");
}

#[test]
fn a_newer_version_is_told() {
    let (_directory, path) = database();
    fill(&path);
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 9).unwrap();
    let error = SqliteQueue::open(&path).expect_err("newer");
    assert!(matches!(error, QueueError::Version { found: 9, known: 3, .. }), "{error:?}");
}

/// What version 0.1 made has the first tables alone: it keeps all that is in it, and is used as a new one.
#[test]
fn an_older_database_is_upgraded() {
    let (_directory, path) = database();
    fill(&path);
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch(
        "DROP TABLE copy; DROP TABLE retired; DROP TABLE about; DROP TABLE referrer; DROP TABLE shared; \
         DROP TABLE sharing; PRAGMA user_version = 1",
    )
    .unwrap();
    drop(old);
    let stamp = {
        let queue = SqliteQueue::open(&path).unwrap();
        assert_eq!(queue.list(&ListFilter::default(), ActionId(0), 1000).unwrap().len(), 80);
        assert_eq!(queue.about(&handle(1)).unwrap(), None);
        assert_ne!(queue.sharing().unwrap().database, [0; 16]);
        use_objects(&queue).unwrap();
        queue.stamp(&handle(1)).unwrap()
    };
    assert!(stamp.is_some());
    open_and_use(&path).unwrap();
    // From the version before this one, what it knows of shared objects is kept.
    let sharing = SqliteQueue::open(&path).unwrap().sharing().unwrap();
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch("DROP TABLE copy; PRAGMA user_version = 2").unwrap();
    drop(old);
    assert_eq!(SqliteQueue::open(&path).unwrap().sharing().unwrap(), sharing);
    open_and_use(&path).unwrap();
    // Half of an upgrade is none of either version.
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 1).unwrap();
    assert!(matches!(SqliteQueue::open(&path), Err(QueueError::Corrupt { .. })));
}

#[test]
fn a_row_that_does_not_decode_is_named() {
    for (damage, name) in [
        ("UPDATE live SET command = 9 WHERE id = 17", "action 17: command 9 is unknown"),
        ("UPDATE live SET class = -1 WHERE id = 17", "action 17: class -1 is unknown"),
        ("UPDATE live SET file = x'01' WHERE id = 17", "action 17: not a file handle"),
        ("UPDATE live SET hash = x'01' WHERE id = 17", "action 17: a content hash"),
        ("UPDATE live SET owner = 4294967296 WHERE id = 17", "action 17: 4294967296 is out of range"),
        ("UPDATE live SET path = CAST(x'ff' AS TEXT) WHERE id = 17", "action 17: "),
        ("UPDATE live SET failure_temporary = 1 WHERE id = 17", "action 17: "),
        ("UPDATE finished SET ok = 0 WHERE id = 61", "finished action 61: it has no result"),
        ("UPDATE meta SET last_id = 5", "ids that it never gave"),
        ("UPDATE stamp SET mtime_ns = -1", "stamp of 1:"),
        ("UPDATE orphan SET file = x''", "orphan check: "),
        ("UPDATE request SET total = -1 WHERE id = 1", "request 1: -1 is out of range"),
        ("UPDATE about SET mtime_ns = 1000000000", "description of 1:"),
        ("UPDATE retired SET file = x''", "retired object of action"),
        ("UPDATE referrer SET file = x'01' WHERE uuid = 'u1' AND file < x'0100000002'", "referrer: not a file handle"),
        ("UPDATE copy SET archive_id = -1", "further copy: -1 is out of range"),
        ("UPDATE sharing SET database = x'00'", "sharing: its database has no id"),
        ("UPDATE live_counts SET command = 0 WHERE command = 1", "counter of live actions: command 0 is unknown"),
    ] {
        let (_directory, path) = database();
        fill(&path);
        rusqlite::Connection::open(&path).unwrap().execute_batch(damage).unwrap();
        let read = || -> Result<(), QueueError> {
            let queue = SqliteQueue::open(&path)?;
            queue.list(&ListFilter::default(), ActionId(0), 1000)?;
            queue.finished(ActionId(u64::MAX), 1000)?;
            queue.stamp(&handle(1))?;
            queue.request(RequestId(1))?;
            queue.totals()?;
            queue.orphan_checks(9)?;
            use_objects(&queue)
        };
        match read().expect_err(damage) {
            QueueError::Corrupt { why, .. } => assert!(why.contains(name), "{damage}: {why}"),
            e => panic!("{damage}: {e:?}"),
        }
    }
}

#[test]
fn a_damaged_database_is_set_aside_and_a_new_one_made() {
    let (directory, path) = database();
    fs::write(directory.path().join("queue.db.damaged-2-wal"), "in the way").unwrap();
    for n in [1, 3] {
        fs::write(&path, "no database").unwrap();
        fs::write(directory.path().join("queue.db-wal"), "its log").unwrap();
        assert!(matches!(SqliteQueue::open(&path), Err(QueueError::Corrupt { .. })));
        let moved = SqliteQueue::set_aside(&path).unwrap();
        assert_eq!(moved, directory.path().join(format!("queue.db.damaged-{n}")));
        assert_eq!(fs::read(&moved).unwrap(), b"no database");
        assert!(fs::metadata(format!("{}-wal", moved.display())).is_ok());
        open_and_use(&path).unwrap();
        fs::remove_file(&path).unwrap();
    }
    let missing = SqliteQueue::set_aside(&path).expect_err("nothing there");
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
}

/// A filesystem of its own in memory, unmounted when dropped.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new(size: &str) -> Self {
        let mount = Self(tempfile::tempdir().unwrap());
        mount.command("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "none"]);
        mount
    }

    fn command(&self, program: &str, arguments: &[&str]) {
        let status = Process::new(program).args(arguments).arg(self.0.path()).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}: {status}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Process::new("umount").arg(self.0.path()).status();
        assert!(std::thread::panicking() || unmounted.is_ok_and(|s| s.success()), "{:?} stays mounted", self.0);
    }
}

#[test]
fn a_full_disk_is_temporary_and_nothing_is_lost() {
    let mount = Mount::new("3m");
    let path = mount.0.path().join("queue.db");
    let filler = mount.0.path().join("filler");
    let queue = SqliteQueue::open(&path).unwrap();
    fs::write(&filler, vec![1; 1 << 20]).unwrap();
    let batch: Vec<_> = (0..50).map(action).collect();
    let mut accepted = Vec::new();
    let error = loop {
        match queue.submit(&batch) {
            Ok(ids) => accepted.extend(ids),
            Err(e) => break e,
        }
    };
    assert!(matches!(error, QueueError::Storage { kind: ErrorKind::Temporary, .. }), "{error:?}");
    assert!(!accepted.is_empty());
    let live = |queue: &dyn Queue| -> Vec<_> {
        queue.list(&ListFilter::default(), ActionId(0), usize::MAX).unwrap().iter().map(|e| e.id).collect()
    };
    assert_eq!(live(&queue), accepted, "the refused batch left nothing");
    fs::remove_file(&filler).unwrap();
    accepted.extend(queue.submit(&batch).unwrap());
    queue.apply(&[finish(accepted.remove(0), false)]).unwrap();
    assert_eq!(live(&queue), accepted);
    drop(queue);
    let queue = SqliteQueue::open(&path).unwrap();
    assert_eq!(live(&queue), accepted);
    drop(queue);
}

#[test]
fn a_disk_too_full_to_begin_with_is_temporary() {
    let mount = Mount::new("64k");
    let path = mount.0.path().join("queue.db");
    let filler = mount.0.path().join("filler");
    let _ = fs::write(&filler, vec![1; 60 << 10]);
    let error = SqliteQueue::open(&path).expect_err("full");
    assert!(matches!(error, QueueError::Storage { kind: ErrorKind::Temporary, .. }), "{error:?}");
    fs::remove_file(&filler).unwrap();
    mount.command("mount", &["-o", "remount,size=4m"]);
    open_and_use(&path).unwrap();
}

#[test]
fn a_read_only_filesystem_is_permanent_and_no_damage() {
    let mount = Mount::new("4m");
    let path = mount.0.path().join("queue.db");
    fill(&path);
    mount.command("mount", &["-o", "remount,ro"]);
    for path in [&path, &mount.0.path().join("new.db")] {
        let error = SqliteQueue::open(path).expect_err("read-only");
        assert!(matches!(error, QueueError::Storage { kind: ErrorKind::Permanent, .. }), "{error:?}");
    }
}
