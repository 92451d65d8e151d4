//! Rows to values. What does not decode is damage, and is named by its table and key.

use super::fault::Fault;
use crate::tally::{RequestCounts, clamp};
use crate::{Finished, NewAction, ObjectRef, OrphanCheck, QueuedAction, RequestId, RequestStatus, SyncedStamp};
use model::{ActionId, Class, Command, Digest, ErrorKind, Failure, FileHandle, Identity, Stamp, Thaw, Timestamp};
use rusqlite::Row;
use std::fmt::Display;

/// Columns of `live` in the order in which [`live`] reads them.
pub(super) const LIVE: &str = "id, request, class, command, archive_id, owner, not_before_ms, created_ms, attempts, \
    file, path, uuid, hash, url, data, failure_temporary, failure_errno, failure_message";

/// Columns of `finished` in the order in which [`finished`] reads them.
pub(super) const FINISHED: &str = "id, request, command, archive_id, path, bytes, created_ms, finished_ms, ok, \
    failure_temporary, failure_errno, failure_message";

/// The row that [`request`] reads.
pub(super) const SELECT_REQUEST: &str =
    "SELECT total, succeeded, failed, cancelled, bytes, last_ms FROM request WHERE id = ?1";

/// What stands in `failure_temporary`. What is larger says that an object is being thawed, since that time in milliseconds: temporary, too.
const PERMANENT: u64 = 0;
const TEMPORARY: u64 = 1;

/// The number under which a command is stored.
pub(super) fn command_number(command: Command) -> i64 {
    match command {
        Command::Archive => 1,
        Command::Restore => 2,
        Command::Remove => 3,
        Command::Verify => 4,
    }
}

/// The number under which a class is stored; its order is the classes' order.
pub(super) fn class_number(class: Class) -> i64 {
    match class {
        Class::Reader => 0,
        Class::Restore => 1,
        Class::Remove => 2,
        Class::Archive => 3,
    }
}

/// A row on its way to a value, with the name to blame when it is none.
pub(super) struct Decoder<'r, 'n> {
    row: &'r Row<'r>,
    name: &'n dyn Display,
}

impl<'r, 'n> Decoder<'r, 'n> {
    pub(super) fn new(row: &'r Row<'r>, name: &'n dyn Display) -> Self {
        Self { row, name }
    }

    pub(super) fn damage(&self, why: impl Display) -> Fault {
        Fault::Damage(format!("{}: {why}", self.name))
    }

    pub(super) fn get<T: rusqlite::types::FromSql>(&self, column: usize) -> Result<T, Fault> {
        self.row.get(column).map_err(|e| match e {
            // SQLite may fail while it loads a value; that is not the row's fault.
            rusqlite::Error::SqliteFailure(..) => Fault::Sql(e),
            e => self.damage(e),
        })
    }

    pub(super) fn number<T: TryFrom<i64>>(&self, column: usize) -> Result<T, Fault> {
        let n: i64 = self.get(column)?;
        T::try_from(n).map_err(|_| self.damage(format_args!("{n} is out of range in column {column}")))
    }

    /// Nanoseconds of a second.
    pub(super) fn nanos(&self, column: usize) -> Result<u32, Fault> {
        let n: u32 = self.number(column)?;
        if n < 1_000_000_000 { Ok(n) } else { Err(self.damage(format_args!("{n} nanoseconds"))) }
    }

    pub(super) fn optional_number<T: TryFrom<i64>>(&self, column: usize) -> Result<Option<T>, Fault> {
        self.get::<Option<i64>>(column)?.map(|_| self.number(column)).transpose()
    }

    /// A u64 that was stored in an i64's bits.
    pub(super) fn bits(&self, column: usize) -> Result<u64, Fault> {
        Ok(self.get::<i64>(column)?.cast_unsigned())
    }

    pub(super) fn command(&self, column: usize) -> Result<Command, Fault> {
        let n: i64 = self.get(column)?;
        let found = Command::ALL.into_iter().find(|c| command_number(*c) == n);
        found.ok_or_else(|| self.damage(format_args!("command {n} is unknown")))
    }

    pub(super) fn class(&self, column: usize) -> Result<Class, Fault> {
        let n: i64 = self.get(column)?;
        let found = Class::ALL.into_iter().find(|c| class_number(*c) == n);
        found.ok_or_else(|| self.damage(format_args!("class {n} is unknown")))
    }

    pub(super) fn handle(&self, column: usize) -> Result<Option<FileHandle>, Fault> {
        let bytes: Option<Vec<u8>> = self.get(column)?;
        bytes.map(|b| FileHandle::from_bytes(&b).map_err(|e| self.damage(e))).transpose()
    }

    pub(super) fn digest(&self, column: usize) -> Result<Option<Digest>, Fault> {
        let bytes: Option<Vec<u8>> = self.get(column)?;
        bytes.map(|b| Digest::from_bytes(&b).map_err(|e| self.damage(e))).transpose()
    }

    /// Three columns: kind, errno, message; all NULL when there is none.
    pub(super) fn failure(&self, first: usize) -> Result<Option<Failure>, Fault> {
        let Some(temporary) = self.optional_number::<u64>(first)? else { return Ok(None) };
        let kind = if temporary == PERMANENT { ErrorKind::Permanent } else { ErrorKind::Temporary };
        let thaw = (temporary > TEMPORARY).then_some(Thaw { since_ms: temporary, again_s: 0 });
        Ok(Some(Failure { kind, errno: self.get(first + 1)?, message: self.get(first + 2)?, thaw }))
    }
}

/// What is bound for the three columns of a failure.
pub(super) fn failure_columns(failure: &Failure) -> (i64, i32, &str) {
    let kind = match (failure.kind, failure.thaw) {
        (ErrorKind::Permanent, _) => PERMANENT,
        (ErrorKind::Temporary, None) => TEMPORARY,
        (ErrorKind::Temporary, Some(thaw)) => clamp(thaw.since_ms).max(TEMPORARY + 1),
    };
    (kind.cast_signed(), failure.errno, &failure.message)
}

pub(super) fn live(row: &Row<'_>) -> Result<QueuedAction, Fault> {
    let id: i64 = row.get(0)?;
    let name = format_args!("action {id}");
    let d = Decoder::new(row, &name);
    let action = NewAction {
        request: RequestId(d.bits(1)?),
        class: d.class(2)?,
        command: d.command(3)?,
        archive_id: d.number(4)?,
        owner: d.number(5)?,
        not_before_ms: d.number(6)?,
        created_ms: d.number(7)?,
        file: d.handle(9)?,
        path: d.get(10)?,
        identity: Identity { uuid: d.get(11)?, hash: d.digest(12)?, url: d.get(13)? },
        data: d.get(14)?,
    };
    Ok(QueuedAction { id: ActionId(d.number(0)?), action, attempts: d.number(8)?, last_failure: d.failure(15)? })
}

pub(super) fn finished(row: &Row<'_>) -> Result<Finished, Fault> {
    let id: i64 = row.get(0)?;
    let name = format_args!("finished action {id}");
    let d = Decoder::new(row, &name);
    let result = match (d.get::<bool>(8)?, d.failure(9)?) {
        (true, None) => Ok(()),
        (false, Some(failure)) => Err(failure),
        _ => return Err(d.damage("it has no result, or two")),
    };
    Ok(Finished {
        id: ActionId(d.number(0)?),
        request: RequestId(d.bits(1)?),
        command: d.command(2)?,
        archive_id: d.number(3)?,
        path: d.get(4)?,
        result,
        bytes: d.number(5)?,
        created_ms: d.number(6)?,
        finished_ms: d.number(7)?,
    })
}

pub(super) fn request(row: &Row<'_>, id: RequestId) -> Result<RequestCounts, Fault> {
    let name = format_args!("request {}", id.0);
    let d = Decoder::new(row, &name);
    let status = RequestStatus {
        total: d.number(0)?,
        succeeded: d.number(1)?,
        failed: d.number(2)?,
        cancelled: d.number(3)?,
        bytes: d.number(4)?,
    };
    Ok(RequestCounts { status, last_ms: d.number(5)? })
}

/// Columns size, mtime_s, mtime_ns, ctime_s, ctime_ns.
pub(super) fn stamp(row: &Row<'_>, file: &FileHandle) -> Result<SyncedStamp, Fault> {
    let name = format_args!("stamp of {file}");
    let d = Decoder::new(row, &name);
    let time = |first: usize| -> Result<Timestamp, Fault> {
        Ok(Timestamp { seconds: d.get(first)?, nanos: d.number(first + 1)? })
    };
    let archive_id: Option<i64> = d.get(5)?;
    let object = match archive_id {
        None => None,
        Some(_) => Some(ObjectRef { archive_id: d.number(5)?, uuid: d.get(6)?, url: d.get(7)? }),
    };
    Ok(SyncedStamp { stamp: Stamp { size: d.bits(0)?, mtime: time(1)?, ctime: time(3)? }, object })
}

/// Columns archive_id, uuid, url, file.
pub(super) fn orphan(row: &Row<'_>) -> Result<OrphanCheck, Fault> {
    let d = Decoder::new(row, &"orphan check");
    let file = d.handle(3)?.ok_or_else(|| d.damage("it names no file"))?;
    Ok(OrphanCheck { archive_id: d.number(0)?, uuid: d.get(1)?, url: d.get(2)?, file })
}

/// Columns class, command, archive_id, number.
pub(super) fn live_count(row: &Row<'_>) -> Result<(Class, Command, u32, u64), Fault> {
    let d = Decoder::new(row, &"counter of live actions");
    Ok((d.class(0)?, d.command(1)?, d.number(2)?, d.number(3)?))
}
