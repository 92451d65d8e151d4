//! The journal of an agent on Lustre: what the coordinator sent and was not answered yet, what is owed to an archive, and how
//! the last ones ended.
//!
//! The queue of requests is Lustre's own, so nothing here decides what comes when. What is here has to survive the agent: a
//! request that nobody ends holds one of the coordinator's slots for an hour, and only with the item's bytes can a new
//! process end it. A file of its own, with tables of its own.

use super::fault::Fault;
use super::place;
use super::rows::{Decoder, class_number, command_number, failure_columns};
use super::{connect, query, row_limit};
use crate::tally::clamp;
use crate::{Finished, QueueError, RequestId};
use model::{ActionId, Class, Command, Digest, Failure, Fid, Identity};
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, Row, Transaction, TransactionBehavior, params};
use std::io;
use std::path::{Path, PathBuf};

/// "SfkL": marks the file as ours.
const APPLICATION_ID: i64 = 0x5366_6b4c;
const VERSION: i64 = 2;
const CACHE_KIB: i64 = 4 << 10;
/// How many results are kept.
const KEPT: i64 = 10_000;

/// - `item`: what has no end yet. `cookie` and `flags` are u64 in an i64's bits; `fid` is empty for a removal that is owed; `bytes` is the item as it came, empty for a removal that
///   is owed. `uuid`, `hash`, `url`: the object of such a removal; or the id proposed for an archive's object.
/// - `ended`: results, the last [`KEPT`].
const TABLES: &str = "
    CREATE TABLE item (id INTEGER PRIMARY KEY AUTOINCREMENT, cookie INTEGER NOT NULL, fid TEXT NOT NULL, class INTEGER NOT NULL,
        command INTEGER NOT NULL, archive_id INTEGER NOT NULL, flags INTEGER NOT NULL, created_ms INTEGER NOT NULL,
        progressed INTEGER NOT NULL, uuid TEXT NOT NULL, hash BLOB, url TEXT NOT NULL, bytes BLOB NOT NULL) STRICT;
    CREATE INDEX item_lane ON item (archive_id, class, id);
    CREATE INDEX item_cookie ON item (cookie, fid);
    CREATE TABLE ended (id INTEGER PRIMARY KEY, ordinal INTEGER NOT NULL, command INTEGER NOT NULL, archive_id INTEGER NOT NULL,
        path TEXT NOT NULL, bytes INTEGER NOT NULL, created_ms INTEGER NOT NULL, finished_ms INTEGER NOT NULL,
        failure_temporary INTEGER, failure_errno INTEGER, failure_message TEXT) STRICT;
    CREATE INDEX ended_order ON ended (ordinal);
    CREATE TABLE total (one INTEGER PRIMARY KEY CHECK (one = 1), succeeded INTEGER NOT NULL, failed INTEGER NOT NULL) STRICT;
    INSERT INTO total VALUES (1, 0, 0);";

const ITEM: &str = "id, cookie, class, command, archive_id, flags, created_ms, progressed, uuid, hash, url, bytes, fid";

/// Something to do that came from the coordinator, or that is owed to an archive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewItem {
    /// The name for it of its MDT's coordinator; 0 for what is owed. Each MDT counts for itself, so they may have the same.
    pub cookie: u64,
    /// The file; none for what is owed.
    pub fid: Option<Fid>,
    /// How urgent.
    pub class: Class,
    /// What to do.
    pub command: Command,
    /// In which archive.
    pub archive_id: u32,
    /// The flags of its list.
    pub flags: u64,
    /// When it came.
    pub created_ms: u64,
    /// The object of a removal that is owed; in `uuid`, the id proposed for an archive's object.
    pub identity: Identity,
    /// The item as it came; empty for what is owed.
    pub bytes: Vec<u8>,
}

/// A [`NewItem`] in the journal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JournalItem {
    /// Larger than every id given before.
    pub id: u64,
    /// Whether its progress may have been told to the coordinator.
    pub progressed: bool,
    /// The rest.
    pub item: NewItem,
}

/// The end of an item.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndedItem {
    /// Which.
    pub id: u64,
    /// Its file, for people.
    pub path: String,
    /// Bytes moved.
    pub bytes: u64,
    /// When.
    pub finished_ms: u64,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
}

/// A number of items of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ItemCount {
    /// Their archive.
    pub archive_id: u32,
    /// How urgent they are.
    pub class: Class,
    /// What is to be done.
    pub command: Command,
    /// How many there are.
    pub count: u64,
}

/// A part of a lane.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LanePage {
    /// By id.
    pub items: Vec<JournalItem>,
    /// Rows that make no sense, with the reason. They stay where they are.
    pub damaged: Vec<(u64, String)>,
    /// The highest id of both; `None` for an empty page.
    pub last: Option<u64>,
    /// There may be more behind it.
    pub more: bool,
}

/// See the module. All calls block. What a call was given is on stable storage when it returns; an error means that
/// nothing was changed.
#[derive(Debug)]
pub struct ItemJournal {
    path: PathBuf,
    db: Mutex<Connection>,
}

impl ItemJournal {
    /// Opens the journal in this file, or makes a new one (mode 0600) where there is none or an empty one.
    ///
    /// Errors: `Corrupt` when the content is none of a journal; `Version` when a newer program wrote it; `Storage`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, QueueError> {
        let path = std::path::absolute(path.as_ref()).map_err(|e| super::fault::storage("open", path.as_ref(), &e))?;
        place::prepare(&path)?;
        let opened = (|| {
            let mut db = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE, CACHE_KIB)?;
            let version = make_or_check(&mut db)?;
            Ok((db, version))
        })();
        let (db, version) = opened.map_err(|e: Fault| e.into_open_error(&path))?;
        if version > VERSION {
            return Err(QueueError::Version { path: path.display().to_string(), found: version, known: VERSION });
        }
        Ok(Self { path, db: Mutex::new(db) })
    }

    /// Moves a damaged journal away, as [`SqliteQueue::set_aside`](crate::SqliteQueue::set_aside) does.
    pub fn set_aside(path: impl AsRef<Path>) -> io::Result<PathBuf> {
        place::set_aside(path.as_ref())
    }

    /// Enters items, all or none; their ids, ascending.
    pub fn accept(&self, items: &[NewItem]) -> Result<Vec<u64>, QueueError> {
        self.write("enter items", |tx| {
            let mut insert = tx.prepare_cached(
                "INSERT INTO item (cookie, class, command, archive_id, flags, created_ms, progressed, uuid, hash, url, bytes, \
                 fid) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7, ?8, ?9, ?10, ?11)",
            )?;
            let enter = |item: &NewItem| {
                let id = insert.insert(params![
                    item.cookie.cast_signed(),
                    class_number(item.class),
                    command_number(item.command),
                    item.archive_id,
                    item.flags.cast_signed(),
                    clamp(item.created_ms).cast_signed(),
                    item.identity.uuid,
                    item.identity.hash.as_ref().map(Digest::as_bytes),
                    item.identity.url,
                    item.bytes,
                    fid_column(item.fid),
                ])?;
                Ok(id.cast_unsigned())
            };
            items.iter().map(enter).collect()
        })
    }

    /// From now on the coordinator may know of progress.
    pub fn progressed(&self, id: u64) -> Result<(), QueueError> {
        self.write("note progress", |tx| {
            tx.execute("UPDATE item SET progressed = 1 WHERE id = ?1", [clamp(id).cast_signed()])?;
            Ok(())
        })
    }

    /// Takes items out, and keeps their results. Items that are not there are passed over.
    pub fn end(&self, ended: &[EndedItem]) -> Result<(), QueueError> {
        self.write("record ends", |tx| {
            for end in ended {
                enter_end(tx, end)?;
            }
            Ok(tx.execute("DELETE FROM ended WHERE ordinal <= (SELECT succeeded + failed FROM total) - ?1", [KEPT])?)
        })?;
        Ok(())
    }

    /// Up to `limit` items by id, from just after `after`.
    pub fn list(&self, after: u64, limit: usize) -> Result<Vec<JournalItem>, QueueError> {
        let sql = format!("SELECT {ITEM} FROM item WHERE id > ?1 ORDER BY id LIMIT ?2");
        self.read(|db| query(db, &sql, params![clamp(after).cast_signed(), row_limit(limit)], item))
    }

    /// As [`list`](Self::list), of one archive and class. What makes no sense keeps nothing behind it from being found.
    pub fn lane(&self, archive_id: u32, class: Class, after: u64, limit: usize) -> Result<LanePage, QueueError> {
        let sql =
            format!("SELECT {ITEM} FROM item WHERE archive_id = ?1 AND class = ?2 AND id > ?3 ORDER BY id LIMIT ?4");
        let params = params![archive_id, class_number(class), clamp(after).cast_signed(), row_limit(limit)];
        let decode = |row: &Row<'_>| {
            let id: u64 = Decoder::new(row, &"item").number(0)?;
            match item(row) {
                Err(Fault::Damage(why)) => Ok((id, Err(why))),
                item => Ok((id, Ok(item?))),
            }
        };
        let rows = self.read(|db| query(db, &sql, params, decode))?;
        let (last, more) = (rows.last().map(|(id, _)| *id), rows.len() >= limit);
        let mut page = LanePage { last, more, ..LanePage::default() };
        for (id, found) in rows {
            match found {
                Ok(item) => page.items.push(item),
                Err(why) => page.damaged.push((id, why)),
            }
        }
        Ok(page)
    }

    /// One item.
    pub fn get(&self, id: u64) -> Result<Option<JournalItem>, QueueError> {
        let sql = format!("SELECT {ITEM} FROM item WHERE id = ?1");
        Ok(self.read(|db| query(db, &sql, [clamp(id).cast_signed()], item))?.pop())
    }

    /// The items of a cookie and file: one, unless their coordinator began to count anew.
    pub fn of_cookie(&self, cookie: u64, fid: Fid) -> Result<Vec<JournalItem>, QueueError> {
        let sql = format!("SELECT {ITEM} FROM item WHERE cookie = ?1 AND fid = ?2 ORDER BY id LIMIT 16");
        self.read(|db| query(db, &sql, params![cookie.cast_signed(), fid_column(Some(fid))], item))
    }

    /// The highest id that was ever given; 0 for none.
    pub fn last_id(&self) -> Result<u64, QueueError> {
        let sql = "SELECT seq FROM sqlite_sequence WHERE name = 'item'";
        let number = |row: &Row<'_>| Decoder::new(row, &"last id").number(0);
        Ok(self.read(|db| query(db, sql, [], number))?.pop().unwrap_or(0))
    }

    /// How many items there are.
    pub fn counts(&self) -> Result<Vec<ItemCount>, QueueError> {
        let sql = "SELECT archive_id, class, command, count(*) FROM item GROUP BY archive_id, class, command \
            ORDER BY class, command, archive_id";
        let count = |row: &Row<'_>| {
            let d = Decoder::new(row, &"count of items");
            Ok(ItemCount { archive_id: d.number(0)?, class: d.class(1)?, command: d.command(2)?, count: d.number(3)? })
        };
        self.read(|db| query(db, sql, [], count))
    }

    /// Results by id, the highest first, with ids below `before`.
    pub fn ended(&self, before: u64, limit: usize) -> Result<Vec<Finished>, QueueError> {
        let sql = "SELECT id, command, archive_id, path, bytes, created_ms, finished_ms, failure_temporary, failure_errno, \
            failure_message FROM ended WHERE id < ?1 ORDER BY id DESC LIMIT ?2";
        self.read(|db| query(db, sql, params![clamp(before).cast_signed(), row_limit(limit)], finished))
    }

    /// How many succeeded and failed, ever.
    pub fn totals(&self) -> Result<(u64, u64), QueueError> {
        let sums = |row: &Row<'_>| {
            let d = Decoder::new(row, &"totals");
            Ok((d.number(0)?, d.number(1)?))
        };
        Ok(self.read(|db| query(db, "SELECT succeeded, failed FROM total", [], sums))?.pop().unwrap_or_default())
    }

    fn read<T>(&self, look: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, QueueError> {
        look(&self.db.lock()).map_err(|e| e.into_error("read", &self.path))
    }

    fn write<T>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<T, QueueError> {
        let mut db = self.db.lock();
        let done = (|| {
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = work(&tx)?;
            tx.commit()?;
            Ok(done)
        })();
        done.map_err(|e: Fault| e.into_error(what, &self.path))
    }
}

/// The version of what is there now.
fn make_or_check(db: &mut Connection) -> Result<i64, Fault> {
    let number = |db: &Connection, pragma: &str| db.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let (application, version) = (number(db, "application_id")?, number(db, "user_version")?);
    let empty: bool = db.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0))?;
    let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(Fault::Damage(format!("its journal mode stays {mode:?}")));
    }
    if application == 0 && version == 0 && empty {
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        tx.execute_batch(TABLES)?;
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
        tx.pragma_update(None, "user_version", VERSION)?;
        tx.commit()?;
        return Ok(VERSION);
    }
    if application != APPLICATION_ID {
        return Err(Fault::Damage(format!(
            "it is no journal of Sifaka's for Lustre (application id {application:#x})"
        )));
    }
    if version > VERSION {
        return Ok(version);
    }
    if version < VERSION {
        return Err(Fault::Damage(format!("its layout is {version}, of a program that was never released")));
    }
    let found: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        return Err(Fault::Damage(found));
    }
    // Fails where a table is missing.
    db.prepare(&format!("SELECT {ITEM} FROM item"))?;
    db.prepare("SELECT ordinal FROM ended, total")?;
    Ok(version)
}

fn enter_end(tx: &Transaction<'_>, end: &EndedItem) -> Result<(), Fault> {
    let failure = end.failure.as_ref().map(failure_columns);
    let id = clamp(end.id).cast_signed();
    let entered = tx
        .prepare_cached(
            "INSERT OR REPLACE INTO ended SELECT id, (SELECT succeeded + failed + 1 FROM total), command, archive_id, ?2, ?3, \
             created_ms, ?4, ?5, ?6, ?7 FROM item WHERE id = ?1",
        )?
        .execute(params![
            id,
            end.path,
            clamp(end.bytes).cast_signed(),
            clamp(end.finished_ms).cast_signed(),
            failure.map(|f| f.0),
            failure.map(|f| f.1),
            failure.map(|f| f.2),
        ])?;
    if entered == 0 {
        return Ok(());
    }
    let sum = if failure.is_some() { "failed" } else { "succeeded" };
    tx.execute(&format!("UPDATE total SET {sum} = {sum} + 1"), [])?;
    tx.execute("DELETE FROM item WHERE id = ?1", [id])?;
    Ok(())
}

fn fid_column(fid: Option<Fid>) -> String {
    fid.map_or_else(String::new, |fid| fid.to_string())
}

fn item(row: &Row<'_>) -> Result<JournalItem, Fault> {
    let id: i64 = row.get(0)?;
    let name = format_args!("item {id}");
    let d = Decoder::new(row, &name);
    let identity = Identity { uuid: d.get(8)?, hash: d.digest(9)?, url: d.get(10)? };
    let fid: String = d.get(12)?;
    let fid = match fid.as_str() {
        "" => None,
        fid => Some(fid.parse().map_err(|error| d.damage(error))?),
    };
    let item = NewItem {
        cookie: d.bits(1)?,
        fid,
        class: d.class(2)?,
        command: d.command(3)?,
        archive_id: d.number(4)?,
        flags: d.bits(5)?,
        created_ms: d.number(6)?,
        identity,
        bytes: d.get(11)?,
    };
    Ok(JournalItem { id: d.number(0)?, progressed: d.get::<i64>(7)? != 0, item })
}

fn finished(row: &Row<'_>) -> Result<Finished, Fault> {
    let id: i64 = row.get(0)?;
    let name = format_args!("end of item {id}");
    let d = Decoder::new(row, &name);
    Ok(Finished {
        id: ActionId(d.number(0)?),
        request: RequestId(0),
        command: d.command(1)?,
        archive_id: d.number(2)?,
        path: d.get(3)?,
        bytes: d.number(4)?,
        created_ms: d.number(5)?,
        finished_ms: d.number(6)?,
        result: d.failure(7)?.map_or(Ok(()), Err),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(cookie: u64, class: Class, command: Command) -> NewItem {
        NewItem {
            cookie,
            fid: Some(Fid { seq: u64::MAX, oid: 1, ver: 0 }),
            class,
            command,
            archive_id: 1,
            flags: 4,
            created_ms: 5,
            identity: Identity { uuid: "abcdef".into(), ..Identity::default() },
            bytes: vec![1, 2, 3],
        }
    }

    fn end(id: u64, failure: Option<Failure>) -> EndedItem {
        EndedItem { id, path: "/f".into(), bytes: 3, finished_ms: 9, failure }
    }

    #[test]
    fn what_was_accepted_is_there_for_the_next_process_until_it_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lustre.db");
        let items = [new(u64::MAX, Class::Reader, Command::Restore), new(2, Class::Archive, Command::Archive)];
        let ids = ItemJournal::open(&path).unwrap().accept(&items).unwrap();
        let journal = ItemJournal::open(&path).unwrap();
        journal.progressed(ids[0]).unwrap();
        let found = journal.list(0, 10).unwrap();
        assert_eq!(found.iter().map(|f| &f.item).collect::<Vec<_>>(), items.iter().collect::<Vec<_>>());
        assert_eq!(found.iter().map(|f| f.progressed).collect::<Vec<_>>(), [true, false]);
        let fid = items[0].fid.unwrap();
        assert_eq!(journal.of_cookie(u64::MAX, fid).unwrap(), found[..1]);
        assert_eq!(journal.of_cookie(u64::MAX, Fid { oid: 2, ..fid }).unwrap(), [], "another MDT's");
        assert_eq!(journal.lane(1, Class::Archive, 0, 10).unwrap().items, found[1..]);
        let failure = Failure::temporary(5, "no");
        journal.end(&[end(ids[0], Some(failure.clone())), end(ids[1], None), end(77, None)]).unwrap();
        journal.end(&[end(ids[1], None)]).unwrap();
        assert_eq!(journal.list(0, 10).unwrap(), []);
        let results: Vec<_> = journal.ended(u64::MAX, 10).unwrap().into_iter().map(|f| (f.id.0, f.result)).collect();
        assert_eq!(results, [(ids[1], Ok(())), (ids[0], Err(failure))]);
        assert_eq!(journal.totals().unwrap(), (1, 1));
        drop(journal);
        let journal = ItemJournal::open(&path).unwrap();
        assert_eq!(journal.last_id().unwrap(), ids[1]);
        assert!(journal.accept(&items).unwrap()[0] > ids[1], "ids never come back");
    }

    #[test]
    fn a_damaged_row_hides_nothing_behind_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lustre.db");
        let journal = ItemJournal::open(&path).unwrap();
        let items: Vec<_> = (1..=3).map(|cookie| new(cookie, Class::Archive, Command::Archive)).collect();
        let ids = journal.accept(&items).unwrap();
        let damage = "UPDATE item SET hash = x'01' WHERE id = ?1";
        rusqlite::Connection::open(&path).unwrap().execute(damage, [ids[1].cast_signed()]).unwrap();
        let page = journal.lane(1, Class::Archive, 0, 2).unwrap();
        assert_eq!(page.items.iter().map(|item| item.id).collect::<Vec<_>>(), ids[..1]);
        assert_eq!(page.damaged.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids[1..2]);
        assert_eq!((page.last, page.more), (Some(ids[1]), true));
        let page = journal.lane(1, Class::Archive, ids[1], 2).unwrap();
        assert_eq!((page.items.len(), page.last, page.more), (1, Some(ids[2]), false));
    }

    #[test]
    fn what_is_no_journal_is_said_and_can_be_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lustre.db");
        crate::SqliteQueue::open(&path).unwrap();
        assert!(matches!(ItemJournal::open(&path), Err(QueueError::Corrupt { .. })));
        ItemJournal::set_aside(&path).unwrap();
        ItemJournal::open(&path).unwrap().accept(&[new(1, Class::Archive, Command::Archive)]).unwrap();
        rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 1).unwrap();
        assert!(matches!(ItemJournal::open(&path), Err(QueueError::Corrupt { .. })), "an older layout");
        std::fs::write(&path, vec![7; 8192]).unwrap();
        let _ = std::fs::remove_file(path.with_extension("db-wal"));
        assert!(matches!(ItemJournal::open(&path), Err(QueueError::Corrupt { .. })));
    }
}
