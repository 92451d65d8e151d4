//! The queue in one SQLite file, which the usual tools can open.
//!
//! Write-ahead log with `synchronous = FULL`: a call that returned is on disk, at the price of one sync a call. One
//! connection writes and answers what dispatch asks; a second, read-only one answers listings and status, so that a long
//! listing holds no dispatch up, and what is asked before removals, so that they need not wait for a transaction's end. Memory
//! is the two page caches, however many actions wait.
//!
//! An error that is not `Corrupt` means that nothing was changed. Only when the disk failed the sync itself and the
//! machine then crashes may the change be found made after all.
//!
//! Not for: network filesystems (the log needs shared memory).

mod batch;
mod claims;
mod fault;
mod items;
mod place;
mod rows;
mod schema;
mod sharing;
#[cfg(test)]
mod tests;

use crate::tally::{Retention, clamp};
use crate::{
    About, Change, Cursor, Finished, ListFilter, NewAction, ObjectRef, OrphanCheck, Queue, QueueError, QueuedAction,
    Removal, RequestId, RequestStatus, RetiredObject, Sharing, Standing, SyncedStamp, Totals,
};
use batch::transact;
pub use claims::{Claim, claims};
use fault::Fault;
pub use items::{EndedItem, ItemCount, ItemJournal, JournalItem, LanePage, NewItem};
use model::{ActionId, Class, FileHandle};
use parking_lot::Mutex;
use rows::{class_number, command_number};
use rusqlite::{Connection, OpenFlags, Params, Row, params};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Memory for pages, in KiB: together 16 MiB.
const WRITER_CACHE_KIB: i64 = 12 << 10;
const READER_CACHE_KIB: i64 = 4 << 10;

/// Pages in the log before they are copied into the database (16 MiB): fewer syncs than SQLite's default of 1000.
const CHECKPOINT_PAGES: i64 = 4000;

/// To what the log is cut back after a listing kept it from being reused.
const LOG_SIZE_BYTES: i64 = 64 << 20;

/// How long to wait for another user of the file (a backup, `sqlite3` on the command line).
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub struct SqliteQueue {
    path: PathBuf,
    retention: Retention,
    /// Damage was seen, so that the next start looks at every page.
    damaged: AtomicBool,
    // Dropped before the writer, which as the last one tidies the log away.
    reader: Mutex<Connection>,
    writer: Mutex<Connection>,
}

impl SqliteQueue {
    /// Opens the queue in this file, or makes a new one (mode 0600) where there is none or an empty one. The
    /// directory must exist.
    ///
    /// Errors: `Corrupt` when the content is not a queue's, as far as looking at every page shows (files of 256 MiB or
    /// more are looked through only after a crash); `Version` when a newer program wrote it; `Storage`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, QueueError> {
        Self::with_retention(path, Retention::DEFAULT)
    }

    /// As [`SqliteQueue::open`], keeping other numbers of finished things.
    pub fn with_retention(path: impl AsRef<Path>, retention: Retention) -> Result<Self, QueueError> {
        // Absolute, since SQLite gives names such as ":memory:" a meaning.
        let path = std::path::absolute(path.as_ref()).map_err(|e| fault::storage("open", path.as_ref(), &e))?;
        let size_bytes = place::prepare(&path)?;
        let failed = |e: Fault| e.into_open_error(&path);
        let mut writer = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE, WRITER_CACHE_KIB).map_err(failed)?;
        schema::open(&mut writer, &path, size_bytes)?;
        let reader = connect(&path, OpenFlags::SQLITE_OPEN_READ_ONLY, READER_CACHE_KIB).map_err(failed)?;
        Ok(Self {
            path,
            retention,
            damaged: AtomicBool::new(false),
            reader: Mutex::new(reader),
            writer: Mutex::new(writer),
        })
    }

    /// Moves a damaged database, with the log beside it, to the first free `<path>.damaged-<n>`, and returns that
    /// name. Nobody may have it open. [`SqliteQueue::open`] then makes a new one.
    pub fn set_aside(path: impl AsRef<Path>) -> io::Result<PathBuf> {
        place::set_aside(path.as_ref())
    }

    fn write<T>(
        &self,
        what: &'static str,
        work: impl FnOnce(&mut batch::Batch<'_>) -> Result<T, Fault>,
    ) -> Result<T, QueueError> {
        transact(&mut self.writer.lock(), self.retention, work).map_err(|e| self.failed(what, e))
    }

    fn rows<T>(
        &self,
        connection: &Mutex<Connection>,
        sql: &str,
        params: impl Params,
        decode: impl FnMut(&Row<'_>) -> Result<T, Fault>,
    ) -> Result<Vec<T>, QueueError> {
        query(&connection.lock(), sql, params, decode).map_err(|e| self.failed("read", e))
    }

    fn failed(&self, what: &'static str, fault: Fault) -> QueueError {
        let error = fault.into_error(what, &self.path);
        if matches!(error, QueueError::Corrupt { .. }) {
            self.damaged.store(true, Ordering::Relaxed);
        }
        error
    }
}

fn query<T>(
    db: &Connection,
    sql: &str,
    params: impl Params,
    decode: impl FnMut(&Row<'_>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    db.prepare_cached(sql)?.query_and_then(params, decode)?.collect()
}

fn connect(path: &Path, flags: OpenFlags, cache_kib: i64) -> Result<Connection, Fault> {
    let db = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    db.set_prepared_statement_cache_capacity(64);
    db.execute_batch(&format!(
        "PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF; PRAGMA mmap_size = 0; PRAGMA trusted_schema = OFF; \
         PRAGMA cell_size_check = ON; PRAGMA cache_size = -{cache_kib}; \
         PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}; PRAGMA journal_size_limit = {LOG_SIZE_BYTES};"
    ))?;
    Ok(db)
}

/// The row limit SQLite takes.
fn row_limit(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Goes from owner to owner of one class by one index seek each, whatever the number of entries between them.
const OWNERS_OF_CLASS: &str = "WITH RECURSIVE o (owner) AS (SELECT min(owner) FROM live WHERE class = ?1 UNION ALL \
    SELECT (SELECT min(owner) FROM live WHERE class = ?1 AND owner > o.owner) FROM o WHERE o.owner IS NOT NULL)";

impl Queue for SqliteQueue {
    fn submit(&self, actions: &[NewAction]) -> Result<Vec<ActionId>, QueueError> {
        if actions.is_empty() {
            return Ok(Vec::new());
        }
        self.write("accept actions", |batch| actions.iter().map(|a| batch.submit(a)).collect())
    }

    fn apply(&self, changes: &[Change]) -> Result<(), QueueError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.write("record results", |batch| changes.iter().try_for_each(|c| batch.apply(c)))
    }

    fn owners(&self, class: Class, now_ms: u64) -> Result<Vec<u32>, QueueError> {
        let sql = format!(
            "{OWNERS_OF_CLASS} SELECT owner FROM o WHERE owner IS NOT NULL AND EXISTS \
             (SELECT 1 FROM live WHERE class = ?1 AND owner = o.owner AND not_before_ms <= ?2)"
        );
        let name = "owner of a live action";
        self.rows(&self.writer, &sql, [class_number(class), clamp(now_ms).cast_signed()], |row| {
            rows::Decoder::new(row, &name).number(0)
        })
    }

    fn ready(
        &self,
        class: Class,
        owner: u32,
        after: Cursor,
        now_ms: u64,
        limit: usize,
    ) -> Result<Vec<QueuedAction>, QueueError> {
        let (class, now_ms) = (class_number(class), clamp(now_ms).cast_signed());
        let (start_ms, id) = (clamp(after.not_before_ms).cast_signed(), clamp(after.id.0).cast_signed());
        let read = || {
            let db = self.writer.lock();
            let mut found = Vec::new();
            if start_ms <= now_ms {
                let params = params![class, owner, start_ms, id, row_limit(limit)];
                found = query(&db, &live_where(SAME_START), params, rows::live)?;
            }
            let rest = row_limit(limit.saturating_sub(found.len()));
            found.extend(query(
                &db,
                &live_where(LATER_START),
                params![class, owner, start_ms, now_ms, rest],
                rows::live,
            )?);
            Ok(found)
        };
        read().map_err(|e| self.failed("read", e))
    }

    fn next_ready_ms(&self, now_ms: u64) -> Result<Option<u64>, QueueError> {
        let sql = format!(
            "{OWNERS_OF_CLASS} SELECT min(next) FROM (SELECT (SELECT min(not_before_ms) FROM live \
             WHERE class = ?1 AND owner = o.owner AND not_before_ms > ?2) AS next FROM o)"
        );
        let mut earliest = None;
        for class in Class::ALL {
            let found = self.rows(&self.writer, &sql, [class_number(class), clamp(now_ms).cast_signed()], |row| {
                rows::Decoder::new(row, &"start of a live action").optional_number(0)
            })?;
            earliest = earliest.into_iter().chain(found.into_iter().flatten()).min();
        }
        Ok(earliest)
    }

    fn get(&self, id: ActionId) -> Result<Option<QueuedAction>, QueueError> {
        Ok(self.rows(&self.writer, &live_where("id = ?1"), [clamp(id.0).cast_signed()], rows::live)?.pop())
    }

    fn of_file(&self, file: &FileHandle) -> Result<Vec<QueuedAction>, QueueError> {
        self.rows(&self.writer, &live_where(OF_FILE), [file.to_bytes()], rows::live)
    }

    fn list(&self, filter: &ListFilter, after: ActionId, limit: usize) -> Result<Vec<QueuedAction>, QueueError> {
        let sql = live_where(
            "id > ?1 AND (?2 IS NULL OR command = ?2) AND (?3 IS NULL OR archive_id = ?3) \
             AND (?4 IS NULL OR request = ?4) ORDER BY id LIMIT ?5",
        );
        let params = params![
            clamp(after.0).cast_signed(),
            filter.command.map(command_number),
            filter.archive_id,
            filter.request.map(|r| r.0.cast_signed()),
            row_limit(limit),
        ];
        self.rows(&self.reader, &sql, params, rows::live)
    }

    fn finished(&self, before: ActionId, limit: usize) -> Result<Vec<Finished>, QueueError> {
        let sql = format!("SELECT {} FROM finished WHERE id < ?1 ORDER BY id DESC LIMIT ?2", rows::FINISHED);
        self.rows(&self.reader, &sql, [clamp(before.0).cast_signed(), row_limit(limit)], rows::finished)
    }

    fn result(&self, id: ActionId) -> Result<Option<Finished>, QueueError> {
        let sql = format!("SELECT {} FROM finished WHERE id = ?1", rows::FINISHED);
        Ok(self.rows(&self.reader, &sql, [clamp(id.0).cast_signed()], rows::finished)?.pop())
    }

    fn request(&self, id: RequestId) -> Result<Option<RequestStatus>, QueueError> {
        let found =
            self.rows(&self.reader, rows::SELECT_REQUEST, [id.0.cast_signed()], |row| rows::request(row, id))?.pop();
        Ok(found.map(|counts| counts.status))
    }

    fn totals(&self) -> Result<Totals, QueueError> {
        let read = || {
            let mut db = self.reader.lock();
            let tx = db.transaction()?;
            let live = query(
                &tx,
                "SELECT class, command, archive_id, number FROM live_counts ORDER BY class, command, archive_id",
                [],
                rows::live_count,
            )?;
            let sums = query(&tx, "SELECT succeeded, failed FROM meta WHERE one = 1", [], |row| {
                let d = rows::Decoder::new(row, &"meta");
                Ok((d.number(0)?, d.number(1)?))
            })?;
            let (succeeded, failed) = sums.first().copied().ok_or_else(|| Fault::Damage("meta has no row".into()))?;
            Ok(Totals { live, succeeded, failed })
        };
        read().map_err(|e| self.failed("count", e))
    }

    fn stamp(&self, file: &FileHandle) -> Result<Option<SyncedStamp>, QueueError> {
        let sql = "SELECT size, mtime_s, mtime_ns, ctime_s, ctime_ns, archive_id, uuid, url FROM stamp WHERE file = ?1";
        Ok(self.rows(&self.reader, sql, [file.to_bytes()], |row| rows::stamp(row, file))?.pop())
    }

    fn orphan_checks(&self, limit: usize) -> Result<Vec<OrphanCheck>, QueueError> {
        let sql = "SELECT archive_id, uuid, url, file FROM orphan ORDER BY ordinal LIMIT ?1";
        self.rows(&self.writer, sql, [row_limit(limit)], rows::orphan)
    }

    fn about(&self, file: &FileHandle) -> Result<Option<About>, QueueError> {
        let decode = |row: &Row<'_>| sharing::about(row, file);
        Ok(self.rows(&self.reader, sharing::SELECT_ABOUT, [file.to_bytes()], decode)?.pop())
    }

    fn copies(&self, file: &FileHandle) -> Result<Vec<ObjectRef>, QueueError> {
        self.rows(&self.reader, sharing::SELECT_COPIES, [file.to_bytes()], sharing::copy)
    }

    fn sharing(&self) -> Result<Sharing, QueueError> {
        let found = self.rows(&self.writer, sharing::SELECT_SHARING, [], sharing::sharing)?.pop();
        found.ok_or_else(|| self.failed("read", Fault::Damage("sharing has no row".into())))
    }

    fn standing(&self, removals: &[Removal<'_>], now_ms: u64) -> Result<Vec<Standing>, QueueError> {
        // Not by the writer, which would have to end its transaction first. What is committed is seen by every
        // transaction that begins after that, on any connection.
        sharing::standing(&mut self.reader.lock(), removals, now_ms).map_err(|e| self.failed("read", e))
    }

    fn referrers(
        &self,
        archive_id: u32,
        uuid: &str,
        after: Option<&FileHandle>,
        limit: usize,
    ) -> Result<Vec<FileHandle>, QueueError> {
        let after = after.map(FileHandle::to_bytes).unwrap_or_default();
        let params = params![archive_id, uuid, after, row_limit(limit)];
        self.rows(&self.writer, sharing::SELECT_REFERRERS, params, sharing::referrer)
    }

    fn retired_object(&self, archive_id: u32, uuid: &str, limit: usize) -> Result<Vec<RetiredObject>, QueueError> {
        let sql = sharing::retired_where(sharing::OF_OBJECT);
        self.rows(&self.writer, &sql, params![archive_id, uuid, row_limit(limit)], sharing::retired)
    }

    fn retired_of_file(&self, file: &FileHandle, limit: usize) -> Result<Vec<RetiredObject>, QueueError> {
        let sql = sharing::retired_where(sharing::OF_RETIRED_FILE);
        self.rows(&self.reader, &sql, params![file.to_bytes(), row_limit(limit)], sharing::retired)
    }

    fn retired_in(
        &self,
        from: &[u8],
        to: &[u8],
        after: Option<(&[u8], ActionId)>,
        limit: usize,
    ) -> Result<Vec<RetiredObject>, QueueError> {
        let sql = sharing::retired_where(sharing::IN_PATHS);
        let (path, id) = after.unwrap_or((from, ActionId(0)));
        let params = params![path, to, clamp(id.0).cast_signed(), row_limit(limit)];
        self.rows(&self.reader, &sql, params, sharing::retired)
    }
}

const OF_FILE: &str = "file = ?1 ORDER BY id";

fn live_where(rest: &str) -> String {
    format!("SELECT {} FROM live WHERE {rest}", rows::LIVE)
}

// The order (start, id) continued in two steps, since SQLite would not seek to an id among equal starts by a comparison
// of pairs: a million actions of one request have the same start.
const SAME_START: &str = "class = ?1 AND owner = ?2 AND not_before_ms = ?3 AND id > ?4 ORDER BY id LIMIT ?5";
const LATER_START: &str = "class = ?1 AND owner = ?2 AND not_before_ms > ?3 AND not_before_ms <= ?4 \
    ORDER BY not_before_ms, id LIMIT ?5";

/// Marks the file as closed in good order.
impl Drop for SqliteQueue {
    fn drop(&mut self) {
        if self.damaged.load(Ordering::Relaxed) {
            return;
        }
        let marked = self.writer.lock().execute("UPDATE meta SET clean = 1 WHERE one = 1", []);
        if let Err(e) = marked {
            tracing::warn!(path = %self.path.display(), error = %e, "the queue database could not be closed in order: it will be checked at the next start");
        }
    }
}
