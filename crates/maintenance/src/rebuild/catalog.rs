//! What the archive knows, sorted: which manifest counts for which file and path.
//!
//! An *inode* is what one manifest describes, and is known by its filesystem and handle. A *name* is a path of one: that of the
//! manifest itself, and those of the hard links that were recorded for it. The newest manifest of an inode counts, and the newest
//! name at a path; an inode that lost its own path to another is still there under its other names.

use crate::scratch;
use model::Timestamp;
use rusqlite::{Connection, params};
use transfer::manifest::{Kind, Manifest};

const TABLES: &str = "CREATE TABLE entry (id TEXT PRIMARY KEY, kind INTEGER NOT NULL, path BLOB, key BLOB NOT NULL, \
       made_s INTEGER NOT NULL, made_ns INTEGER NOT NULL, size INTEGER NOT NULL, state INTEGER NOT NULL) STRICT, WITHOUT ROWID; \
     CREATE TABLE object (id TEXT PRIMARY KEY) STRICT, WITHOUT ROWID; \
     CREATE TABLE directory (path BLOB PRIMARY KEY, id TEXT, changed INTEGER NOT NULL) STRICT, WITHOUT ROWID;";

/// `entry.state`.
const COUNTS: i64 = 0;
/// There is a newer one of the same inode.
const OLDER: i64 = 1;
/// There is a newer one at the same path, or the path is none that is asked for.
const NO_PLACE: i64 = 2;
/// Its manifest names no path.
const NOWHERE: i64 = 3;

/// `entry.kind`.
const FILE: i64 = 0;
const DIRECTORY: i64 = 1;
const OTHER: i64 = 2;
const HARD_LINK: i64 = 3;

/// See the module.
pub(crate) struct Catalog {
    db: Connection,
}

/// What is remembered of a manifest.
pub(crate) struct Entry {
    id: String,
    kind: i64,
    path: Option<Vec<u8>>,
    key: Vec<u8>,
    made: Timestamp,
    size: u64,
    state: i64,
}

impl Entry {
    /// `None`: it is not below `prefix`, and nothing below that can be another name of it.
    pub(crate) fn of(id: String, manifest: &Manifest, prefix: &[u8]) -> Option<Self> {
        let kind = match manifest.kind {
            Kind::File(_) => FILE,
            Kind::Directory => DIRECTORY,
            Kind::HardLink => HARD_LINK,
            _ => OTHER,
        };
        let path = below(&manifest.path, prefix);
        let state = match (&path, kind) {
            (Some(_), _) if kind != DIRECTORY && manifest.path.is_empty() => NOWHERE,
            (Some(_), _) => COUNTS,
            (None, FILE) if manifest.inode.links > 1 => NO_PLACE,
            (None, _) => return None,
        };
        let key = manifest.inode.handle.as_ref().map_or_else(
            || [b"id:", id.as_bytes()].concat(),
            |handle| [&manifest.inode.fsid[..], &handle.to_bytes()].concat(),
        );
        let size = manifest.content().map_or(0, |content| content.size);
        Some(Self { id, kind, path, key, made: manifest.made, size, state })
    }
}

/// The path relative to the prefix; empty for the prefix itself.
fn below(path: &[u8], prefix: &[u8]) -> Option<Vec<u8>> {
    if prefix.is_empty() {
        return Some(path.to_vec());
    }
    match path.strip_prefix(prefix)? {
        [] => Some(Vec::new()),
        [b'/', rest @ ..] => Some(rest.to_vec()),
        _ => None,
    }
}

/// A path, and the manifest of what has to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) path: Vec<u8>,
    pub(crate) id: String,
}

/// A path that becomes another name of the file at `of`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) path: Vec<u8>,
    pub(crate) of: Vec<u8>,
    /// Of the file.
    pub(crate) id: String,
}

/// How much of what there is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Amounts {
    pub(crate) directories: u64,
    pub(crate) names: u64,
    pub(crate) links: u64,
}

/// Rows of one turn of a listing.
pub(crate) const TURN: usize = 1024;

type Result<T> = std::result::Result<T, rusqlite::Error>;

const NEWER: &str = "(n.made_s, n.made_ns, n.id) > (entry.made_s, entry.made_ns, entry.id)";

impl Catalog {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { db: scratch::open(TABLES)? })
    }

    pub(crate) fn add_objects(&mut self, ids: &[String]) -> Result<()> {
        let tx = self.db.transaction()?;
        {
            let mut insert = tx.prepare_cached("INSERT OR IGNORE INTO object VALUES (?1)")?;
            ids.iter().try_for_each(|id| insert.execute([id]).map(drop))?;
        }
        tx.commit()
    }

    pub(crate) fn add(&mut self, entries: &[Entry]) -> Result<()> {
        let tx = self.db.transaction()?;
        {
            let mut insert =
                tx.prepare_cached("INSERT OR IGNORE INTO entry VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
            for entry in entries {
                let Entry { id, kind, path, key, made, size, state } = entry;
                insert.execute(params![id, kind, path, key, made.seconds, made.nanos, size.cast_signed(), state])?;
            }
        }
        tx.commit()
    }

    /// Decides what counts. Called once, when everything was added.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.db.execute_batch(&format!(
            "CREATE INDEX entry_key ON entry (key, kind, made_s, made_ns, id); \
             UPDATE entry SET state = {OLDER} WHERE kind <> {HARD_LINK} AND EXISTS (SELECT 1 FROM entry n \
               WHERE n.key = entry.key AND n.kind <> {HARD_LINK} AND {NEWER}); \
             CREATE INDEX entry_path ON entry (path, state); \
             UPDATE entry SET state = {NO_PLACE} WHERE state = {COUNTS} AND EXISTS (SELECT 1 FROM entry n \
               WHERE n.path = entry.path AND n.state = {COUNTS} AND n.key <> entry.key AND {NEWER}); \
             UPDATE entry SET state = {COUNTS}, path = (SELECT min(l.path) FROM entry l WHERE l.key = entry.key \
               AND l.kind = {HARD_LINK} AND l.state = {COUNTS}) WHERE state IN ({NO_PLACE}, {NOWHERE}) AND kind = {FILE} \
               AND EXISTS (SELECT 1 FROM entry l WHERE l.key = entry.key AND l.kind = {HARD_LINK} AND l.state = {COUNTS}); \
             INSERT OR IGNORE INTO directory SELECT path, id, 0 FROM entry WHERE kind = {DIRECTORY} AND state = {COUNTS};"
        ))
    }

    pub(crate) fn amounts(&self) -> Result<Amounts> {
        let count = |sql: &str| self.db.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned);
        Ok(Amounts {
            directories: count("SELECT count(*) FROM directory")?,
            names: count(&format!("SELECT count(*) FROM entry WHERE {NAMES}"))?,
            links: count(&format!("SELECT count(*) FROM entry WHERE kind = {HARD_LINK} AND state = {COUNTS}"))?,
        })
    }

    /// Files and everything else but directories and hard links, by path, after `after`.
    pub(crate) fn names(&self, after: Option<&[u8]>) -> Result<Vec<Name>> {
        let sql = format!("SELECT path, id FROM entry WHERE {NAMES} AND path > ?1 ORDER BY path LIMIT {TURN}");
        self.rows(&sql, after)
    }

    /// Files whose manifest has no path, by id, after `after`.
    pub(crate) fn nowhere(&self, after: &str) -> Result<Vec<String>> {
        let sql = format!(
            "SELECT id FROM entry WHERE state = {NOWHERE} AND kind = {FILE} AND id > ?1 ORDER BY id LIMIT {TURN}"
        );
        let mut statement = self.db.prepare_cached(&sql)?;
        statement.query_map([after], |row| row.get(0))?.collect()
    }

    /// Recorded directories by path, after `after`: each comes behind the one it is in.
    pub(crate) fn directories(&self, after: Option<&[u8]>) -> Result<Vec<Name>> {
        let after_all = format!("SELECT path, id FROM directory WHERE path > ?1 ORDER BY path LIMIT {TURN}");
        let all = format!("SELECT path, id FROM directory ORDER BY path LIMIT {TURN}");
        match after {
            Some(after) => self.rows(&after_all, Some(after)),
            None => {
                let mut statement = self.db.prepare_cached(&all)?;
                statement.query_map([], |row| Ok(Name { path: row.get(0)?, id: row.get(1)? }))?.collect()
            }
        }
    }

    /// Something was made in these directories, or they are there without being finished.
    pub(crate) fn changed(&mut self, paths: impl IntoIterator<Item = Vec<u8>>) -> Result<()> {
        let tx = self.db.transaction()?;
        {
            let sql = "INSERT INTO directory VALUES (?1, NULL, 1) ON CONFLICT DO UPDATE SET changed = 1";
            let mut insert = tx.prepare_cached(sql)?;
            paths.into_iter().try_for_each(|path| insert.execute([path]).map(drop))?;
        }
        tx.commit()
    }

    /// Directories in which something changed, with their manifests, by path backwards, before `before`: each comes before
    /// the one it is in.
    pub(crate) fn to_finish(&self, before: Option<&[u8]>) -> Result<Vec<(Vec<u8>, Option<String>)>> {
        let sql = format!(
            "SELECT path, id FROM directory WHERE changed = 1 AND (?1 IS NULL OR path < ?1) ORDER BY path DESC LIMIT {TURN}"
        );
        let mut statement = self.db.prepare_cached(&sql)?;
        statement.query_map([before], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    }

    fn rows(&self, sql: &str, after: Option<&[u8]>) -> Result<Vec<Name>> {
        let mut statement = self.db.prepare_cached(sql)?;
        let rows =
            statement.query_map([after.unwrap_or_default()], |row| Ok(Name { path: row.get(0)?, id: row.get(1)? }))?;
        rows.collect()
    }

    /// Further names of files, by path, after `after`.
    pub(crate) fn links(&self, after: &[u8]) -> Result<Vec<Link>> {
        let sql = format!(
            "SELECT l.path, f.path, f.id FROM entry l JOIN entry f ON f.key = l.key AND f.kind = {FILE} AND f.state = {COUNTS} \
             WHERE l.kind = {HARD_LINK} AND l.state = {COUNTS} AND l.path <> f.path AND l.path > ?1 \
             ORDER BY l.path LIMIT {TURN}"
        );
        let mut statement = self.db.prepare_cached(&sql)?;
        statement.query_map([after], |row| Ok(Link { path: row.get(0)?, of: row.get(1)?, id: row.get(2)? }))?.collect()
    }

    /// Tells what does not count, each with the path that it would have.
    pub(crate) fn each_loser(&self, mut tell: impl FnMut(Loser, Option<&[u8]>, &str)) -> Result<()> {
        let lost: [(Loser, String); 4] = [
            (Loser::Older, format!("SELECT path, id FROM entry WHERE state = {OLDER}")),
            (Loser::Displaced, format!("SELECT path, id FROM entry WHERE state = {NO_PLACE} AND path IS NOT NULL")),
            (
                Loser::NoInode,
                format!(
                    "SELECT path, id FROM entry l WHERE kind = {HARD_LINK} AND state = {COUNTS} AND NOT EXISTS \
                 (SELECT 1 FROM entry f WHERE f.key = l.key AND f.kind = {FILE} AND f.state = {COUNTS})"
                ),
            ),
            (
                Loser::NoObject,
                format!(
                    "SELECT path, id FROM entry WHERE kind = {FILE} AND state = {COUNTS} AND id NOT IN (SELECT id FROM object)"
                ),
            ),
        ];
        for (loser, sql) in lost {
            let mut statement = self.db.prepare(&sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let (path, id): (Option<Vec<u8>>, String) = (row.get(0)?, row.get(1)?);
                tell(loser, path.as_deref(), &id);
            }
        }
        Ok(())
    }

    /// Objects that no manifest is for, by id, after `after`.
    pub(crate) fn strangers(&self, after: &str) -> Result<Vec<String>> {
        let sql = format!(
            "SELECT id FROM object WHERE id > ?1 AND id NOT IN (SELECT id FROM entry) ORDER BY id LIMIT {TURN}"
        );
        let mut statement = self.db.prepare_cached(&sql)?;
        statement.query_map([after], |row| row.get(0))?.collect()
    }
}

/// Everything that has content or is something by itself, and whose content is there.
const NAMES: &str = "state = 0 AND kind IN (0, 2) AND (kind = 2 OR id IN (SELECT id FROM object))";
const _: () = assert!(COUNTS == 0 && FILE == 0 && OTHER == 2, "the text above says so");

/// Why a manifest does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loser {
    /// There is a newer one of the same inode.
    Older,
    /// Another one has its path.
    Displaced,
    /// A hard link whose inode is unknown.
    NoInode,
    /// Its object is gone.
    NoObject,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests;
