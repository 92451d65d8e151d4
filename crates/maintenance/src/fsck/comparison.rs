//! What is in the archive, and who names it: the tables that are compared.

use crate::scratch;
use model::FileHandle;
use rusqlite::{Connection, params};

/// - `object`: what the archive listed, before anything else was looked at.
/// - `named`: what files name, by any attribute.
/// - `claim`: what actions and owed checks of the queue name; the agent sees to those.
/// - `stamp`: what files named when the agent looked at them last.
/// - `file`: files that name an object of this archive.
/// - `moved`: what got another name during the walk.
/// - `orphan`: what is nobody's.
const TABLES: &str = "CREATE TABLE object (id TEXT PRIMARY KEY, object INTEGER NOT NULL, manifest INTEGER NOT NULL) STRICT, WITHOUT ROWID; \
     CREATE TABLE named (uuid TEXT PRIMARY KEY) STRICT, WITHOUT ROWID; \
     CREATE TABLE claim (uuid TEXT PRIMARY KEY) STRICT, WITHOUT ROWID; \
     CREATE TABLE stamp (uuid TEXT, file BLOB, PRIMARY KEY (uuid, file)) STRICT, WITHOUT ROWID; \
     CREATE TABLE file (handle BLOB PRIMARY KEY, path BLOB NOT NULL, uuid TEXT NOT NULL) STRICT, WITHOUT ROWID; \
     CREATE TABLE moved (handle BLOB PRIMARY KEY, again INTEGER NOT NULL) STRICT, WITHOUT ROWID; \
     CREATE TABLE orphan (id TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;";

/// Rows of one turn of a listing.
pub(crate) const TURN: usize = 512;

type Result<T> = std::result::Result<T, rusqlite::Error>;

/// See the module.
pub(crate) struct Comparison {
    db: Connection,
}

/// A file that names an object of the archive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NamedBy {
    pub(crate) handle: FileHandle,
    pub(crate) path: Vec<u8>,
    pub(crate) uuid: String,
}

impl Comparison {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { db: scratch::open(TABLES)? })
    }

    /// All that is added between is one transaction.
    pub(crate) fn begin(&self) -> Result<()> {
        self.db.execute_batch("BEGIN")
    }

    pub(crate) fn end(&self) -> Result<()> {
        self.db.execute_batch("COMMIT")
    }

    fn run(&self, sql: &str, params: impl rusqlite::Params) -> Result<()> {
        self.db.prepare_cached(sql)?.execute(params).map(drop)
    }

    pub(crate) fn add_object(&self, id: &str) -> Result<()> {
        self.run("INSERT INTO object VALUES (?1, 1, 0) ON CONFLICT DO UPDATE SET object = 1", [id])
    }

    pub(crate) fn add_manifest(&self, id: &str) -> Result<()> {
        self.run("INSERT INTO object VALUES (?1, 0, 1) ON CONFLICT DO UPDATE SET manifest = 1", [id])
    }

    pub(crate) fn add_name(&self, uuid: &str) -> Result<()> {
        self.run("INSERT OR IGNORE INTO named VALUES (?1)", [uuid])
    }

    pub(crate) fn add_claim(&self, uuid: &str) -> Result<()> {
        self.run("INSERT OR IGNORE INTO claim VALUES (?1)", [uuid])
    }

    pub(crate) fn add_stamp(&self, uuid: &str, file: &FileHandle) -> Result<()> {
        self.run("INSERT OR IGNORE INTO stamp VALUES (?1, ?2)", params![uuid, file.to_bytes()])
    }

    pub(crate) fn add_file(&self, file: &NamedBy) -> Result<()> {
        let NamedBy { handle, path, uuid } = file;
        self.run("INSERT OR REPLACE INTO file VALUES (?1, ?2, ?3)", params![handle.to_bytes(), path, uuid])
    }

    /// Whether [`Self::add_file`] had this one.
    pub(crate) fn has_file(&self, handle: &FileHandle) -> Result<bool> {
        self.db.prepare_cached("SELECT 1 FROM file WHERE handle = ?1")?.exists([handle.to_bytes()])
    }

    /// A directory is to be walked again at each move; anything else has to be seen once.
    pub(crate) fn add_moved(&self, handle: &FileHandle, moved: bool) -> Result<()> {
        let sql = if moved {
            "INSERT INTO moved VALUES (?1, 1) ON CONFLICT DO UPDATE SET again = 1"
        } else {
            "INSERT OR IGNORE INTO moved VALUES (?1, 1)"
        };
        self.run(sql, [handle.to_bytes()])
    }

    /// What is to be looked at again; it counts as looked at from now on.
    pub(crate) fn take_moved(&self) -> Result<Vec<FileHandle>> {
        let sql = format!("SELECT handle FROM moved WHERE again = 1 LIMIT {TURN}");
        let taken: Vec<Vec<u8>> =
            self.db.prepare_cached(&sql)?.query_map([], |row| row.get(0))?.collect::<Result<_>>()?;
        for handle in &taken {
            self.run("UPDATE moved SET again = 0 WHERE handle = ?1", [handle])?;
        }
        Ok(taken.iter().filter_map(|bytes| FileHandle::from_bytes(bytes).ok()).collect())
    }

    fn count(&self, sql: &str) -> Result<u64> {
        self.db.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned)
    }

    /// Objects, and manifests of no object.
    pub(crate) fn amounts(&self) -> Result<(u64, u64)> {
        let objects = self.count("SELECT count(*) FROM object WHERE object = 1")?;
        Ok((objects, self.count("SELECT count(*) FROM object WHERE object = 0")?))
    }

    /// Objects of the archive that some file names.
    pub(crate) fn known(&self) -> Result<u64> {
        self.count("SELECT count(*) FROM object WHERE object = 1 AND id IN (SELECT uuid FROM named)")
    }

    /// Whether some file names this.
    pub(crate) fn is_named(&self, uuid: &str) -> Result<bool> {
        self.db.prepare_cached("SELECT 1 FROM named WHERE uuid = ?1")?.exists([uuid])
    }

    /// Objects and manifests that no file names, by id, after `after`.
    pub(crate) fn unnamed(&self, after: &str) -> Result<Vec<String>> {
        self.ids("SELECT id FROM object WHERE id > ?1 AND id NOT IN (SELECT uuid FROM named)", after)
    }

    pub(crate) fn add_orphan(&self, id: &str) -> Result<()> {
        self.run("INSERT OR IGNORE INTO orphan VALUES (?1)", [id])
    }

    /// What was added by [`Self::add_orphan`], by id, after `after`.
    pub(crate) fn orphans(&self, after: &str) -> Result<Vec<String>> {
        self.ids("SELECT id FROM orphan WHERE id > ?1", after)
    }

    pub(crate) fn orphan_count(&self) -> Result<u64> {
        self.count("SELECT count(*) FROM orphan")
    }

    fn ids(&self, sql: &str, after: &str) -> Result<Vec<String>> {
        let mut statement = self.db.prepare_cached(&format!("{sql} ORDER BY id LIMIT {TURN}"))?;
        statement.query_map([after], |row| row.get(0))?.collect()
    }

    /// Files whose object was not in the list, by handle, after `after`.
    pub(crate) fn without_object(&self, after: Option<&FileHandle>) -> Result<Vec<NamedBy>> {
        let sql = format!(
            "SELECT handle, path, uuid FROM file WHERE handle > ?1 AND uuid NOT IN (SELECT id FROM object WHERE object = 1) \
             ORDER BY handle LIMIT {TURN}"
        );
        let after = after.map(FileHandle::to_bytes).unwrap_or_default();
        let mut statement = self.db.prepare_cached(&sql)?;
        let rows = statement.query_map([after], |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, String>(2)?))
        })?;
        let mut found = Vec::new();
        for row in rows {
            let (handle, path, uuid) = row?;
            found.extend(FileHandle::from_bytes(&handle).ok().map(|handle| NamedBy { handle, path, uuid }));
        }
        Ok(found)
    }

    /// Whether the agent sees to this object. An id that was proposed is a beginning of the object's own: a mover adds to it.
    pub(crate) fn is_claimed(&self, id: &str) -> Result<bool> {
        for proposed in beginnings(id) {
            let found = self.db.prepare_cached("SELECT 1 FROM claim WHERE uuid = ?1")?.exists([proposed])?;
            if found {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The files that named this object when the agent looked at them last; at most some hundred.
    pub(crate) fn stamped(&self, id: &str) -> Result<Vec<FileHandle>> {
        let mut found = Vec::new();
        for proposed in beginnings(id) {
            let sql = format!("SELECT file FROM stamp WHERE uuid = ?1 LIMIT {TURN}");
            let mut statement = self.db.prepare_cached(&sql)?;
            for bytes in statement.query_map([proposed], |row| row.get::<_, Vec<u8>>(0))? {
                found.extend(FileHandle::from_bytes(&bytes?).ok());
            }
        }
        Ok(found)
    }
}

/// The id itself, and what comes before each of its dots.
fn beginnings(id: &str) -> impl Iterator<Item = &str> {
    std::iter::once(id).chain(id.match_indices('.').filter_map(|(at, _)| id.get(..at)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn handle(n: u8) -> FileHandle {
        FileHandle { kind: 1, bytes: [n].as_slice().into() }
    }

    #[test]
    fn what_nobody_names_is_found_and_what_is_named_and_not_there() {
        let c = Comparison::new().unwrap();
        for id in ["named-raw", "orphan-raw", "young.zst", "member.pk0123"] {
            c.add_object(id).unwrap();
        }
        for id in ["named-raw", "record.rec"] {
            c.add_manifest(id).unwrap();
        }
        for uuid in ["named-raw", "missing"] {
            c.add_name(uuid).unwrap();
        }
        let file = |n, uuid: &str| NamedBy { handle: handle(n), path: b"p".to_vec(), uuid: uuid.to_owned() };
        [file(1, "named-raw"), file(2, "missing"), file(3, "record.rec")].iter().for_each(|f| c.add_file(f).unwrap());
        for uuid in ["young", "member"] {
            c.add_claim(uuid).unwrap();
        }
        assert_eq!(c.amounts().unwrap(), (4, 1));
        assert_eq!(c.known().unwrap(), 1);
        assert_eq!(["missing", "young"].map(|uuid| c.is_named(uuid).unwrap()), [true, false]);
        assert_eq!(c.unnamed("").unwrap(), ["member.pk0123", "orphan-raw", "record.rec", "young.zst"]);
        let claimed = ["member.pk0123", "orphan-raw", "young.zst", "youn"].map(|id| c.is_claimed(id).unwrap());
        assert_eq!(claimed, [true, false, true, false]);
        // A manifest alone is no object.
        assert_eq!(c.without_object(None).unwrap(), [file(2, "missing"), file(3, "record.rec")]);
        assert_eq!(c.without_object(Some(&handle(2))).unwrap(), [file(3, "record.rec")]);
    }

    #[test]
    fn what_moved_is_looked_at_again_and_a_file_once() {
        let c = Comparison::new().unwrap();
        c.add_moved(&handle(1), false).unwrap();
        c.add_moved(&handle(2), true).unwrap();
        assert_eq!(c.take_moved().unwrap(), [handle(1), handle(2)]);
        c.add_moved(&handle(1), false).unwrap();
        assert_eq!(c.take_moved().unwrap(), []);
        c.add_moved(&handle(2), true).unwrap();
        assert_eq!(c.take_moved().unwrap(), [handle(2)]);
    }
}
