//! One writing transaction.

use super::fault::Fault;
use super::rows::{self, Decoder, class_number, command_number, failure_columns};
use crate::tally::{RequestCounts, Retention, Tally, clamp};
use crate::{Change, NewAction, OrphanCheck, RequestId, SyncedStamp};
use model::{ActionId, Class, Command, Failure, FileHandle};
use rusqlite::{CachedStatement, Connection, Transaction, TransactionBehavior, params};

const INSERT_LIVE: &str = "INSERT INTO live (id, request, class, command, archive_id, owner, not_before_ms, \
    created_ms, attempts, file, path, uuid, hash, url, data) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, ?9, ?10, ?11, ?12, ?13, ?14)";

const FINISH: &str = "INSERT INTO finished (id, ok, ordinal, request, command, archive_id, path, bytes, created_ms, \
    finished_ms, failure_temporary, failure_errno, failure_message) \
    SELECT id, ?2, ?3, request, command, archive_id, path, ?4, created_ms, ?5, ?6, ?7, ?8 FROM live WHERE id = ?1";

/// Everything a call changes, or nothing: what is not committed is rolled back when this is dropped.
pub(super) struct Batch<'c> {
    // Statements go before the transaction they are of.
    insert: CachedStatement<'c>,
    find: CachedStatement<'c>,
    finish: CachedStatement<'c>,
    delete: CachedStatement<'c>,
    tx: &'c Transaction<'c>,
    meta: Meta,
    tally: Tally,
    retention: Retention,
}

/// The single row of `meta`.
struct Meta {
    last_id: u64,
    succeeded: u64,
    failed: u64,
    requests_done: u64,
}

/// What the counters need to know of a live action.
type Key = (RequestId, Class, Command, u32);

/// Runs `work` in one transaction that is durable when this returns.
pub(super) fn transact<T>(
    db: &mut Connection,
    retention: Retention,
    work: impl FnOnce(&mut Batch<'_>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let done = {
        let mut batch = Batch::begin(&tx, retention)?;
        let done = work(&mut batch)?;
        batch.settle()?;
        done
    };
    tx.commit()?;
    Ok(done)
}

impl<'c> Batch<'c> {
    fn begin(tx: &'c Transaction<'c>, retention: Retention) -> Result<Self, Fault> {
        // Read anew each time and not cached, so that a second user of the file can do no harm.
        let meta = tx
            .prepare_cached("SELECT last_id, succeeded, failed, requests_done FROM meta WHERE one = 1")?
            .query_and_then([], |row| {
                let d = Decoder::new(row, &"meta");
                Ok::<_, Fault>(Meta {
                    last_id: d.number(0)?,
                    succeeded: d.number(1)?,
                    failed: d.number(2)?,
                    requests_done: d.number(3)?,
                })
            })?
            .next()
            .ok_or_else(|| Fault::Damage("meta has no row".into()))??;
        Ok(Self {
            insert: tx.prepare_cached(INSERT_LIVE)?,
            find: tx.prepare_cached("SELECT request, class, command, archive_id FROM live WHERE id = ?1")?,
            finish: tx.prepare_cached(FINISH)?,
            delete: tx.prepare_cached("DELETE FROM live WHERE id = ?1")?,
            tx,
            meta,
            tally: Tally::default(),
            retention,
        })
    }

    pub(super) fn submit(&mut self, a: &NewAction) -> Result<ActionId, Fault> {
        let id = self.meta.last_id + 1;
        if id >= i64::MAX as u64 {
            return Err(Fault::Damage("its last id is not one that it can have given".into()));
        }
        self.insert.execute(params![
            id.cast_signed(),
            a.request.0.cast_signed(),
            class_number(a.class),
            command_number(a.command),
            a.archive_id,
            a.owner,
            clamp(a.not_before_ms).cast_signed(),
            clamp(a.created_ms).cast_signed(),
            a.file.as_ref().map(FileHandle::to_bytes),
            a.path,
            a.identity.uuid,
            a.identity.hash.as_ref().map(model::Digest::as_bytes),
            a.identity.url,
            a.data,
        ])?;
        self.meta.last_id = id;
        self.tally.submitted(a.request, a.class, a.command, a.archive_id);
        Ok(ActionId(id))
    }

    pub(super) fn apply(&mut self, change: &Change) -> Result<(), Fault> {
        match change {
            Change::Finish { id, result, bytes, finished_ms } => self.finish(*id, result, *bytes, *finished_ms),
            Change::Retry { id, not_before_ms, failure } => self.retry(*id, 1, *not_before_ms, failure),
            Change::PutBack { id, not_before_ms, failure } => self.retry(*id, 0, *not_before_ms, failure),
            Change::Promote { id, class, not_before_ms } => self.promote(*id, *class, *not_before_ms),
            Change::SetStamp { file, stamp } => self.set_stamp(file, stamp),
            Change::SetCopies { file, copies } => self.set_copies(file, copies),
            Change::ForgetStamp { file } => {
                self.run("DELETE FROM copy WHERE file = ?1", params![file.to_bytes()])?;
                self.run("DELETE FROM stamp WHERE file = ?1", params![file.to_bytes()])?;
                self.run("DELETE FROM about WHERE file = ?1", params![file.to_bytes()])
            }
            Change::OweOrphanCheck(check) => self.owe(check),
            Change::SettleOrphanCheck { archive_id, uuid } => {
                self.run("DELETE FROM orphan WHERE archive_id = ?1 AND uuid = ?2", params![archive_id, uuid])
            }
            Change::Submit(action) => self.submit(action).map(drop),
            Change::Describe { file, about } => self.describe(file, about),
            Change::Retire { removal, retired } => {
                let id = self.submit(removal)?;
                self.retire(id, removal, retired)
            }
            Change::Share { object, complete, files } => self.share(object, *complete, files),
            Change::ForgetReferrer { archive_id, uuid, file } => self.forget_referrer(*archive_id, uuid, file),
            Change::ForgetShared { archive_id, uuid } => self.forget_shared(*archive_id, uuid),
            Change::Doubt => self.doubt(self.meta.last_id),
        }
    }

    pub(super) fn run(&self, sql: &str, params: impl rusqlite::Params) -> Result<(), Fault> {
        self.tx.prepare_cached(sql)?.execute(params)?;
        Ok(())
    }

    fn find(&mut self, id: ActionId) -> Result<Option<Key>, Fault> {
        let name = format_args!("action {id}");
        let mut found = self.find.query_and_then([clamp(id.0).cast_signed()], |row| {
            let d = Decoder::new(row, &name);
            Ok((RequestId(row.get::<_, i64>(0)?.cast_unsigned()), d.class(1)?, d.command(2)?, d.number(3)?))
        })?;
        found.next().transpose()
    }

    fn finish(
        &mut self,
        id: ActionId,
        result: &Result<(), Failure>,
        bytes: u64,
        finished_ms: u64,
    ) -> Result<(), Fault> {
        let Some(key) = self.find(id)? else { return Ok(()) };
        let (bytes, finished_ms, row) = (clamp(bytes), clamp(finished_ms), clamp(id.0).cast_signed());
        self.tally.finished(key, result, bytes, finished_ms);
        let failure = result.as_ref().err().map(failure_columns);
        let ordinal = match result {
            Ok(()) => self.meta.succeeded.saturating_add(self.tally.succeeded),
            Err(_) => self.meta.failed.saturating_add(self.tally.failed),
        };
        self.finish.execute(params![
            row,
            result.is_ok(),
            clamp(ordinal).cast_signed(),
            bytes.cast_signed(),
            finished_ms.cast_signed(),
            failure.map(|f| f.0),
            failure.map(|f| f.1),
            failure.map(|f| f.2),
        ])?;
        self.delete.execute([row])?;
        if key.2 == Command::Remove { self.run("DELETE FROM retired WHERE id = ?1", [row]) } else { Ok(()) }
    }

    fn retry(&mut self, id: ActionId, attempts: u32, not_before_ms: u64, failure: &Failure) -> Result<(), Fault> {
        let (temporary, errno, message) = failure_columns(failure);
        self.run(
            "UPDATE live SET attempts = min(attempts + ?6, 4294967295), not_before_ms = ?2, failure_temporary = ?3, \
             failure_errno = ?4, failure_message = ?5 WHERE id = ?1",
            params![clamp(id.0).cast_signed(), clamp(not_before_ms).cast_signed(), temporary, errno, message, attempts],
        )
    }

    fn promote(&mut self, id: ActionId, class: Class, not_before_ms: u64) -> Result<(), Fault> {
        let Some((_, from, command, archive_id)) = self.find(id)? else { return Ok(()) };
        self.tally.moved(from, class, command, archive_id);
        self.run(
            "UPDATE live SET class = ?2, not_before_ms = ?3 WHERE id = ?1",
            params![clamp(id.0).cast_signed(), class_number(class), clamp(not_before_ms).cast_signed()],
        )
    }

    fn set_stamp(&mut self, file: &FileHandle, SyncedStamp { stamp: s, object }: &SyncedStamp) -> Result<(), Fault> {
        self.run(
            "INSERT OR REPLACE INTO stamp (file, size, mtime_s, mtime_ns, ctime_s, ctime_ns, archive_id, uuid, url) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                file.to_bytes(),
                s.size.cast_signed(),
                s.mtime.seconds,
                s.mtime.nanos,
                s.ctime.seconds,
                s.ctime.nanos,
                object.as_ref().map(|o| o.archive_id),
                object.as_ref().map(|o| o.uuid.as_str()),
                object.as_ref().map(|o| o.url.as_str())
            ],
        )
    }

    fn owe(&mut self, check: &OrphanCheck) -> Result<(), Fault> {
        self.run(
            "INSERT INTO orphan (archive_id, uuid, url, file) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (archive_id, uuid) DO UPDATE SET url = excluded.url, file = excluded.file",
            params![check.archive_id, check.uuid, check.url, check.file.to_bytes()],
        )
    }

    /// The end of a transaction: counters, and what is now too old to be kept.
    fn settle(mut self) -> Result<(), Fault> {
        let tally = std::mem::take(&mut self.tally);
        self.settle_live(&tally)?;
        for (id, more) in &tally.requests {
            self.settle_request(*id, more)?;
        }
        let (succeeded, failed) =
            (self.meta.succeeded.saturating_add(tally.succeeded), self.meta.failed.saturating_add(tally.failed));
        for (ok, count, kept) in [(true, succeeded, self.retention.successes), (false, failed, self.retention.failures)]
        {
            if let Some(last_forgotten) = count.checked_sub(kept) {
                self.run(
                    "DELETE FROM finished WHERE ok = ?1 AND ordinal <= ?2",
                    params![ok, clamp(last_forgotten).cast_signed()],
                )?;
            }
        }
        if let Some(now_ms) = tally.finished_ms {
            self.forget_requests(now_ms)?;
        }
        self.run(
            "UPDATE meta SET last_id = ?1, succeeded = ?2, failed = ?3, requests_done = ?4 WHERE one = 1",
            [self.meta.last_id, succeeded, failed, self.meta.requests_done].map(|n| clamp(n).cast_signed()),
        )
    }

    fn settle_live(&self, tally: &Tally) -> Result<(), Fault> {
        for (&(class, command, archive_id), &by) in &tally.live {
            if by != 0 {
                self.run(
                    "INSERT INTO live_counts (class, command, archive_id, number) VALUES (?1, ?2, ?3, ?4) \
                     ON CONFLICT DO UPDATE SET number = number + excluded.number",
                    params![class_number(class), command_number(command), archive_id, by],
                )?;
            }
        }
        self.run("DELETE FROM live_counts WHERE number = 0", [])
    }

    fn settle_request(&mut self, id: RequestId, more: &RequestCounts) -> Result<(), Fault> {
        let row = id.0.cast_signed();
        let known = self
            .tx
            .prepare_cached(rows::SELECT_REQUEST)?
            .query_and_then([row], |r| rows::request(r, id))?
            .next()
            .transpose()?;
        let mut counts = known.unwrap_or_default();
        let was_done = counts.is_done();
        counts.add(more);
        match (was_done, counts.is_done()) {
            (false, true) => self.meta.requests_done += 1,
            (true, false) => self.meta.requests_done = self.meta.requests_done.saturating_sub(1),
            _ => {}
        }
        let s = counts.status;
        let [total, succeeded, failed, cancelled, bytes, last_ms] =
            [s.total, s.succeeded, s.failed, s.cancelled, s.bytes, counts.last_ms].map(u64::cast_signed);
        self.run(
            "INSERT OR REPLACE INTO request (id, total, succeeded, failed, cancelled, bytes, last_ms, done) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![row, total, succeeded, failed, cancelled, bytes, last_ms, counts.is_done()],
        )
    }

    fn forget_requests(&mut self, now_ms: u64) -> Result<(), Fault> {
        let oldest_kept_ms = now_ms.saturating_sub(self.retention.request_ms).cast_signed();
        let old =
            self.tx.prepare_cached("DELETE FROM request WHERE done = 1 AND last_ms < ?1")?.execute([oldest_kept_ms])?
                as u64;
        self.meta.requests_done = self.meta.requests_done.saturating_sub(old);
        if let Some(beyond @ 1..) = self.meta.requests_done.checked_sub(self.retention.requests) {
            let gone = self
                .tx
                .prepare_cached(
                    "DELETE FROM request WHERE id IN \
                     (SELECT id FROM request WHERE done = 1 ORDER BY last_ms, id LIMIT ?1)",
                )?
                .execute([clamp(beyond).cast_signed()])? as u64;
            self.meta.requests_done = self.meta.requests_done.saturating_sub(gone);
        }
        Ok(())
    }
}
