//! Tables, their version, and what is checked before the first row is believed.

use super::fault::Fault;
use crate::QueueError;
use rusqlite::{Connection, Transaction};
use std::path::Path;

/// "Sfka": marks the file as ours (`file(1)` and SQLite's tools show it).
pub(super) const APPLICATION_ID: i64 = 0x5366_6b61;

/// Of the tables below. A change of them is a new number and a migration here.
pub(super) const VERSION: i64 = 3;

/// How many of [`TABLES`] the databases of a version have: the first ones. Each version added some, and changed none.
fn tables_of(version: i64) -> Option<usize> {
    match version {
        1 => Some(11),
        2 => Some(19),
        VERSION => Some(TABLES.len()),
        _ => None,
    }
}

/// Every table and index, in order of creation; also what an opened database is compared with.
///
/// - `live`: actions without a result. Times in milliseconds; commands and classes by the numbers in `rows.rs`;
///   `request` is a u64 in an i64's bits; `file` is `FileHandle::to_bytes`; `failure_*` of the last failed attempt.
/// - `finished`: results. `ordinal` counts successes and failures separately, so that pruning is a range delete.
/// - `live_counts` and `request` are sums that are updated once a transaction.
/// - `orphan.ordinal` is the order in which checks were owed.
/// - `meta`: one row. `clean` is 0 while somebody has the database open.
/// - `sharing`: one row; see [`crate::Sharing`]. `shared.generation` is that of `sharing` when the object's referrers were
///   all known, or 0; `referrer` names them.
/// - `copy`: objects that hold a file's content beside that of its stamp.
/// - `about` has what a file with a stamp is; `retired` has that of objects whose removal (the action `id`) waits.
const TABLES: [&str; 20] = [
    "CREATE TABLE meta (one INTEGER PRIMARY KEY CHECK (one = 1), clean INTEGER NOT NULL, last_id INTEGER NOT NULL, \
     succeeded INTEGER NOT NULL, failed INTEGER NOT NULL, requests_done INTEGER NOT NULL) STRICT",
    "CREATE TABLE live (id INTEGER PRIMARY KEY, request INTEGER NOT NULL, class INTEGER NOT NULL, \
     command INTEGER NOT NULL, archive_id INTEGER NOT NULL, owner INTEGER NOT NULL, not_before_ms INTEGER NOT NULL, \
     created_ms INTEGER NOT NULL, attempts INTEGER NOT NULL, file BLOB, path TEXT NOT NULL, uuid TEXT NOT NULL, \
     hash BLOB, url TEXT NOT NULL, data BLOB NOT NULL, failure_temporary INTEGER, failure_errno INTEGER, \
     failure_message TEXT) STRICT",
    "CREATE INDEX live_ready ON live (class, owner, not_before_ms)",
    "CREATE INDEX live_file ON live (file) WHERE file IS NOT NULL",
    "CREATE TABLE live_counts (class INTEGER NOT NULL, command INTEGER NOT NULL, archive_id INTEGER NOT NULL, \
     number INTEGER NOT NULL, PRIMARY KEY (class, command, archive_id)) STRICT, WITHOUT ROWID",
    "CREATE TABLE finished (id INTEGER PRIMARY KEY, ok INTEGER NOT NULL, ordinal INTEGER NOT NULL, \
     request INTEGER NOT NULL, command INTEGER NOT NULL, archive_id INTEGER NOT NULL, path TEXT NOT NULL, \
     bytes INTEGER NOT NULL, created_ms INTEGER NOT NULL, finished_ms INTEGER NOT NULL, failure_temporary INTEGER, \
     failure_errno INTEGER, failure_message TEXT) STRICT",
    "CREATE INDEX finished_order ON finished (ok, ordinal)",
    "CREATE TABLE request (id INTEGER PRIMARY KEY, total INTEGER NOT NULL, succeeded INTEGER NOT NULL, \
     failed INTEGER NOT NULL, cancelled INTEGER NOT NULL, bytes INTEGER NOT NULL, last_ms INTEGER NOT NULL, \
     done INTEGER NOT NULL) STRICT",
    "CREATE INDEX request_done ON request (last_ms) WHERE done = 1",
    "CREATE TABLE stamp (file BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_s INTEGER NOT NULL, \
     mtime_ns INTEGER NOT NULL, ctime_s INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, \
     archive_id INTEGER, uuid TEXT, url TEXT) STRICT, WITHOUT ROWID",
    "CREATE TABLE orphan (ordinal INTEGER PRIMARY KEY, archive_id INTEGER NOT NULL, uuid TEXT NOT NULL, \
     url TEXT NOT NULL, file BLOB NOT NULL, UNIQUE (archive_id, uuid)) STRICT",
    "CREATE TABLE sharing (one INTEGER PRIMARY KEY CHECK (one = 1), database BLOB NOT NULL, \
     generation INTEGER NOT NULL, sequence INTEGER NOT NULL, doubted INTEGER NOT NULL) STRICT",
    "CREATE TABLE shared (archive_id INTEGER NOT NULL, uuid TEXT NOT NULL, generation INTEGER NOT NULL, \
     PRIMARY KEY (archive_id, uuid)) STRICT, WITHOUT ROWID",
    "CREATE TABLE referrer (archive_id INTEGER NOT NULL, uuid TEXT NOT NULL, file BLOB NOT NULL, \
     PRIMARY KEY (archive_id, uuid, file)) STRICT, WITHOUT ROWID",
    "CREATE TABLE about (file BLOB PRIMARY KEY, path BLOB NOT NULL, size INTEGER NOT NULL, mode INTEGER NOT NULL, \
     uid INTEGER NOT NULL, gid INTEGER NOT NULL, mtime_s INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, \
     hash BLOB) STRICT, WITHOUT ROWID",
    "CREATE TABLE retired (id INTEGER PRIMARY KEY, archive_id INTEGER NOT NULL, uuid TEXT NOT NULL, \
     url TEXT NOT NULL, replaced INTEGER NOT NULL, file BLOB NOT NULL, retired_ms INTEGER NOT NULL, path BLOB NOT NULL, \
     size INTEGER NOT NULL, mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL, \
     mtime_s INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, hash BLOB) STRICT",
    "CREATE INDEX retired_object ON retired (archive_id, uuid)",
    "CREATE INDEX retired_file ON retired (file)",
    "CREATE INDEX retired_path ON retired (path)",
    "CREATE TABLE copy (file BLOB NOT NULL, archive_id INTEGER NOT NULL, uuid TEXT NOT NULL, url TEXT NOT NULL, \
     PRIMARY KEY (file, archive_id, uuid, url)) STRICT, WITHOUT ROWID",
];

/// The one row of `sharing`; generation 0 is none.
const BEGIN_SHARING: &str = "INSERT INTO sharing VALUES (1, randomblob(16), 1, 0, 0)";

/// A database of this size or more is checked page by page only when its last user did not close it.
const ALWAYS_CHECKED_BELOW_BYTES: u64 = 256 << 20;

/// Makes the tables in a new database; checks the ones of an old database, and marks it as in use.
pub(super) fn open(db: &mut Connection, path: &Path, size_bytes: u64) -> Result<(), QueueError> {
    let fault = |e: Fault| e.into_open_error(path);
    let number = |db: &Connection, pragma: &str| db.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let (application, version) =
        (|| Ok((number(db, "application_id")?, number(db, "user_version")?)))().map_err(fault)?;
    if application == 0 && version == 0 && is_empty(db).map_err(fault)? {
        write_ahead(db).map_err(fault)?;
        return create(db).map_err(fault);
    }
    if application != APPLICATION_ID {
        let why = format!("it is not a queue of Sifaka's (application id {application:#x})");
        return Err(QueueError::Corrupt { path: path.display().to_string(), why });
    }
    if version > VERSION {
        return Err(QueueError::Version { path: path.display().to_string(), found: version, known: VERSION });
    }
    check(db, version, size_bytes).map_err(fault)
}

fn is_empty(db: &Connection) -> Result<bool, Fault> {
    Ok(db.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0))?)
}

fn write_ahead(db: &Connection) -> Result<(), Fault> {
    let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode == "wal" { Ok(()) } else { Err(Fault::Damage(format!("its journal mode stays {mode:?}"))) }
}

fn create(db: &mut Connection) -> Result<(), Fault> {
    let tx: Transaction<'_> = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    for statement in TABLES {
        tx.execute_batch(statement)?;
    }
    tx.execute("INSERT INTO meta VALUES (1, 0, 0, 0, 0, 0)", [])?;
    tx.execute(BEGIN_SHARING, [])?;
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", VERSION)?;
    Ok(tx.commit()?)
}

fn check(db: &mut Connection, version: i64, size_bytes: u64) -> Result<(), Fault> {
    let Some(tables) = tables_of(version) else {
        return Err(Fault::Damage(format!("there never was a schema version {version}")));
    };
    write_ahead(db)?;
    check_tables(db, version, tables)?;
    let clean: i64 = db.query_row("SELECT clean FROM meta WHERE one = 1", [], |row| row.get(0))?;
    let page_size_bytes: i64 = db.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    if clean == 1 && !size_bytes.is_multiple_of(page_size_bytes.unsigned_abs()) {
        // SQLite would read zeros for what is missing of the last page.
        return Err(Fault::Damage(format!("its {size_bytes} bytes end inside a page")));
    }
    if clean != 1 || size_bytes < ALWAYS_CHECKED_BELOW_BYTES {
        let verdict: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(Fault::Damage(verdict));
        }
    }
    let ids_are_spent: bool = db.query_row(
        "SELECT last_id >= ifnull((SELECT max(id) FROM live), 0) \
         AND last_id >= ifnull((SELECT max(id) FROM finished), 0) FROM meta WHERE one = 1",
        [],
        |row| row.get(0),
    )?;
    if !ids_are_spent {
        return Err(Fault::Damage("it has actions with ids that it never gave".into()));
    }
    upgrade(db, version, tables)?;
    db.execute("UPDATE meta SET clean = 0 WHERE one = 1", [])?;
    Ok(())
}

/// Brings an older database to [`VERSION`], in one transaction. Programs of the older version refuse it from then on.
fn upgrade(db: &mut Connection, version: i64, tables: usize) -> Result<(), Fault> {
    if version == VERSION {
        return Ok(());
    }
    let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    for statement in TABLES.iter().skip(tables) {
        tx.execute_batch(statement)?;
    }
    if version == 1 {
        tx.execute(BEGIN_SHARING, [])?;
    }
    tx.pragma_update(None, "user_version", VERSION)?;
    tx.commit()?;
    tracing::info!(from = version, to = VERSION, "the queue database was brought to a newer schema");
    Ok(())
}

fn check_tables(db: &Connection, version: i64, tables: usize) -> Result<(), Fault> {
    let mut statement = db.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid")?;
    let found = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    if !found.iter().eq(TABLES.iter().take(tables)) {
        return Err(Fault::Damage(format!("its tables are not those of schema version {version}")));
    }
    Ok(())
}
