//! What the queue's database says of objects, for somebody who compares it with the archive. Reads only, also while an agent
//! has the database open: then everything is as it was at one moment.

use super::fault::{Fault, storage};
use super::rows::Decoder;
use super::{BUSY_TIMEOUT, READER_CACHE_KIB, schema};
use crate::QueueError;
use model::FileHandle;
use rusqlite::{Connection, OpenFlags};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

/// An object that the database names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// In which archive.
    pub archive_id: u32,
    /// Its id: an object's own, or one that was proposed, to which a mover adds the suffix of an encoding or pack.
    pub uuid: String,
    /// `None`: an action or an owed check is about it, and the agent sees to it. Otherwise the file that named it when it was last
    /// looked at.
    pub file: Option<FileHandle>,
}

const CLAIMS: &str = "SELECT archive_id, uuid, NULL FROM live WHERE uuid <> '' \
    UNION ALL SELECT archive_id, uuid, NULL FROM orphan \
    UNION ALL SELECT archive_id, uuid, file FROM stamp WHERE uuid IS NOT NULL AND archive_id IS NOT NULL \
    UNION ALL SELECT archive_id, uuid, file FROM copy";

/// Visits every object that the database at `path` names, until told to stop. A database that is not there names none.
///
/// Errors: as [`super::SqliteQueue::open`]; `Corrupt` also for a database of an older schema, which no agent of this version has opened yet.
pub fn claims(path: &Path, visit: &mut dyn FnMut(Claim) -> ControlFlow<()>) -> Result<(), QueueError> {
    // Absolute, since SQLite gives names such as ":memory:" a meaning.
    let path = std::path::absolute(path).map_err(|e| storage("open", path, &e))?;
    match std::fs::metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(storage("open", &path, &e)),
        Ok(found) if found.len() == 0 => return Ok(()),
        Ok(_) => {}
    }
    read(&path, visit).map_err(|fault| fault.into_error("read", &path))
}

fn read(path: &Path, visit: &mut dyn FnMut(Claim) -> ControlFlow<()>) -> Result<(), Fault> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    db.execute_batch(&format!(
        "PRAGMA trusted_schema = OFF; PRAGMA mmap_size = 0; PRAGMA cache_size = -{READER_CACHE_KIB};"
    ))?;
    let number = |name: &str| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application, version) = (number("application_id")?, number("user_version")?);
    if application != schema::APPLICATION_ID || version != schema::VERSION {
        return Err(Fault::Damage(format!("it is no queue of schema version {}, but of {version}", schema::VERSION)));
    }
    let mut statement = db.prepare(CLAIMS)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let d = Decoder::new(row, &"name of an object");
        let claim = Claim { archive_id: d.number(0)?, uuid: row.get(1)?, file: d.handle(2)? };
        if visit(claim).is_break() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use crate::{Change, NewAction, ObjectRef, OrphanCheck, Queue, RequestId, SqliteQueue, SyncedStamp};
    use model::{Class, Command, Identity, Stamp};

    fn all(path: &Path) -> Vec<Claim> {
        let mut found = Vec::new();
        claims(path, &mut |claim| {
            found.push(claim);
            ControlFlow::Continue(())
        })
        .unwrap();
        found.sort_by(|a, b| a.uuid.cmp(&b.uuid));
        found
    }

    #[test]
    fn everything_that_names_an_object_is_told_while_the_queue_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("queue.db");
        assert_eq!(all(&path), []);
        let queue = SqliteQueue::open(&path).unwrap();
        let file = FileHandle { kind: 1, bytes: [1, 2].as_slice().into() };
        let action = NewAction {
            request: RequestId(1),
            class: Class::Archive,
            command: Command::Archive,
            archive_id: 7,
            owner: 0,
            file: Some(file.clone()),
            path: String::new(),
            identity: Identity { uuid: "a-proposed".into(), ..Identity::default() },
            data: Vec::new(),
            not_before_ms: 0,
            created_ms: 0,
        };
        let nothing = NewAction { identity: Identity::default(), command: Command::Restore, ..action.clone() };
        queue.submit(&[action, nothing]).unwrap();
        let check = OrphanCheck { archive_id: 8, uuid: "b-owed".into(), url: String::new(), file: file.clone() };
        let object = ObjectRef { archive_id: 9, uuid: "c-stamped".into(), url: String::new() };
        let stamp = SyncedStamp { stamp: Stamp::default(), object: Some(object) };
        let changes = [Change::OweOrphanCheck(check), Change::SetStamp { file: file.clone(), stamp }];
        queue.apply(&changes).unwrap();
        let claim = |archive_id, uuid: &str, file| Claim { archive_id, uuid: uuid.to_owned(), file };
        let expected = [claim(7, "a-proposed", None), claim(8, "b-owed", None), claim(9, "c-stamped", Some(file))];
        assert_eq!(all(&path), expected);
        drop(queue);
        assert_eq!(all(&path), expected);
    }

    #[test]
    fn what_is_no_queue_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("queue.db");
        std::fs::write(&path, [7; 5000]).unwrap();
        let error = claims(&path, &mut |_| ControlFlow::Continue(())).unwrap_err();
        assert!(matches!(error, QueueError::Corrupt { .. }), "{error}");
    }
}
