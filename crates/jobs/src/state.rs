//! What a job has done, kept in a small database: an interrupted run goes on from there.
//!
//! Two things: directories that are finished with all below them, and which name of a file with several was the first. A directory counts only
//! once all that was written into it is on stable storage: what is noted between two checkpoints waits in memory, and [`State::checkpoint`]
//! is called after a sync. Losing the database loses time: all is looked at again.

use crate::failure::JobError;
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension as _, params};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use sys::file::Moment;

/// Paths of directories that are noted between two checkpoints before one is due, in bytes.
const MAX_NOTED_BYTES: usize = 16 << 20;
/// What a path costs besides its text.
const NOTE_BYTES: usize = 64;
/// Directories with longer paths are not noted, but looked at again: a deep tree has as many of them as it has levels.
const MAX_PATH_BYTES: usize = 4096;
/// The format of the database.
const VERSION: i64 = 2;

/// See the module.
#[derive(Debug)]
pub(crate) struct State {
    path: PathBuf,
    database: Mutex<Connection>,
    /// Since the last checkpoint.
    noted: Mutex<Vec<Vec<u8>>>,
    noted_bytes: AtomicUsize,
    /// How many there are, so that nobody asks in vain.
    finished: AtomicU64,
    /// Locked while the job runs.
    _lock: File,
}

/// What an interrupted run left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Earlier {
    /// When it began, by the destination's clock.
    pub(crate) started: Moment,
    /// All that was written before this is on stable storage.
    pub(crate) synced: Moment,
    /// The machine was started anew since then: what was written later may be lost, whatever its size and times.
    pub(crate) restarted: bool,
    /// It made the root of the destination.
    pub(crate) made_root: bool,
}

/// Which job it is, and what it goes by.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// From where to where, as it was said.
    pub(crate) key: String,
    /// All on which it depends what is to be done in a directory, and which directories are meant. An interrupted run that had others has finished nothing.
    pub(crate) terms: String,
    /// This run made the root of the destination.
    pub(crate) made_root: bool,
}

/// Whether a name is the first of its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    First,
    /// And the first is at the destination.
    Later(Vec<u8>),
    /// The first is being copied.
    Early,
}

impl State {
    /// Opens or makes the database of a job, and says what an interrupted run of the same job has left.
    ///
    /// # Errors
    /// It is in use, of another job, or damaged.
    pub(crate) fn open(
        path: &Path,
        job: &Job,
        now: Moment,
        restart: bool,
    ) -> Result<(Self, Option<Earlier>), JobError> {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent);
            made.map_err(JobError::io("make the directory", parent))?;
        }
        let lock = locked(path)?;
        if restart {
            forget(path)?;
        }
        let failed = |doing| move |source| JobError::State { doing, path: path.to_owned(), source };
        let database = Connection::open(path).map_err(failed("open"))?;
        let earlier = prepare(&database, job, now).map_err(failed("read"))?;
        let Some(earlier) = earlier else {
            let why = format!(
                "{} is the state of another job, or of another version: remove it, or name another file with --state",
                path.display()
            );
            return Err(JobError::Senseless(why));
        };
        let counted = database.query_row("SELECT count(*) FROM finished", [], |row| row.get::<_, i64>(0));
        let finished = counted.map_err(failed("read"))?.unsigned_abs();
        database.execute_batch("BEGIN").map_err(failed("write"))?;
        let state = Self {
            path: path.to_owned(),
            database: Mutex::new(database),
            noted: Mutex::default(),
            noted_bytes: AtomicUsize::new(0),
            finished: AtomicU64::new(finished),
            _lock: lock,
        };
        Ok((state, earlier.interrupted))
    }

    fn failed(&self, doing: &'static str) -> impl FnOnce(rusqlite::Error) -> JobError + '_ {
        move |source| JobError::State { doing, path: self.path.clone(), source }
    }

    /// Whether an earlier run has finished this directory and all below it.
    pub(crate) fn is_finished(&self, directory: &[u8]) -> bool {
        if self.finished.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let database = self.database.lock();
        let asked = database.prepare_cached("SELECT 1 FROM finished WHERE path = ?1");
        let found = asked.and_then(|mut asked| asked.exists([directory]));
        found.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the job's state: a directory is looked at again");
            false
        })
    }

    /// A directory is done with all below it.
    pub(crate) fn finish(&self, directory: Vec<u8>) {
        if directory.len() <= MAX_PATH_BYTES {
            self.noted_bytes.fetch_add(directory.len() + NOTE_BYTES, Ordering::Relaxed);
            self.noted.lock().push(directory);
        }
    }

    /// Whether so much was noted that a checkpoint is due.
    pub(crate) fn is_full(&self) -> bool {
        self.noted_bytes.load(Ordering::Relaxed) >= MAX_NOTED_BYTES
    }

    /// What was written since the last checkpoint may be lost: the next run reads it again.
    pub(crate) fn doubt(&self) -> Result<(), JobError> {
        let database = self.database.lock();
        let written = database.execute_batch("UPDATE job SET boot = ''; COMMIT; BEGIN");
        written.map_err(self.failed("write"))
    }

    /// What was noted so far, for [`checkpoint`](Self::checkpoint). To be taken before the sync.
    pub(crate) fn take_noted(&self) -> Vec<Vec<u8>> {
        let mut noted = self.noted.lock();
        self.noted_bytes.store(0, Ordering::Relaxed);
        std::mem::take(&mut *noted)
    }

    /// These are on stable storage with all else that was written before `synced`.
    pub(crate) fn checkpoint(&self, noted: &[Vec<u8>], synced: Moment) -> Result<(), JobError> {
        let database = self.database.lock();
        let written = (|| {
            for path in noted {
                // What was noted below it is part of it now.
                let below = ([path.as_slice(), b"/"].concat(), [path.as_slice(), b"0"].concat());
                if !path.is_empty() {
                    let mut remove = database.prepare_cached("DELETE FROM finished WHERE path > ?1 AND path < ?2")?;
                    remove.execute(params![below.0, below.1])?;
                }
                database.prepare_cached("INSERT OR IGNORE INTO finished VALUES (?1)")?.execute([path])?;
            }
            // What was lost when the machine went down lies before this moment, too, until all was looked at.
            let text = "UPDATE job SET synced_s = ?1, synced_ns = ?2 WHERE boot = ?3";
            database.execute(text, params![synced.0, synced.1, boot_id()])?;
            database.execute_batch("COMMIT; BEGIN")
        })();
        written.map_err(self.failed("write"))
    }

    /// Whether `path` is the first name of a file that has several.
    pub(crate) fn claim(&self, (dev, ino): (u64, u64), path: &[u8]) -> Result<Claim, JobError> {
        let database = self.database.lock();
        let claimed = (|| {
            let mut ask = database.prepare_cached("SELECT path, done FROM inode WHERE dev = ?1 AND ino = ?2")?;
            let key = (dev.cast_signed(), ino.cast_signed());
            let found: Option<(Vec<u8>, bool)> = ask.query_row(key, |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
            Ok(match found {
                None => {
                    let mut insert = database.prepare_cached("INSERT INTO inode VALUES (?1, ?2, ?3, 0)")?;
                    insert.execute(params![key.0, key.1, path])?;
                    Claim::First
                }
                Some((first, _)) if first == path => Claim::First,
                Some((first, true)) => Claim::Later(first),
                Some((_, false)) => {
                    database.prepare_cached("INSERT INTO early (path) VALUES (?1)")?.execute([path])?;
                    Claim::Early
                }
            })
        })();
        claimed.map_err(self.failed("write"))
    }

    /// The first name of the file is at the destination, or is not and will not be: then another one is to be the first.
    pub(crate) fn settle(&self, (dev, ino): (u64, u64), is_there: bool) -> Result<(), JobError> {
        let text = if is_there {
            "UPDATE inode SET done = 1 WHERE dev = ?1 AND ino = ?2"
        } else {
            "DELETE FROM inode WHERE dev = ?1 AND ino = ?2"
        };
        let database = self.database.lock();
        let key = (dev.cast_signed(), ino.cast_signed());
        let settled = database.prepare_cached(text).and_then(|mut statement| statement.execute(key));
        settled.map(|_| ()).map_err(self.failed("write"))
    }

    /// Files whose first name is neither there nor given up have none: whoever was to make it has ended. For when nobody makes any.
    pub(crate) fn forget_unsettled(&self) -> Result<(), JobError> {
        let forgotten = self.database.lock().execute("DELETE FROM inode WHERE done = 0", []);
        forgotten.map(|_| ()).map_err(self.failed("write"))
    }

    /// Names that came before the first of their file was there, some at a time: whoever has dealt with them says so by the last number.
    pub(crate) fn early(&self, most: u32) -> Result<Vec<(i64, Vec<u8>)>, JobError> {
        let database = self.database.lock();
        let asked = database.prepare_cached("SELECT id, path FROM early ORDER BY id LIMIT ?1").and_then(|mut ask| {
            let rows = ask.query_map([most], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<Result<Vec<_>, _>>()
        });
        asked.map_err(self.failed("read"))
    }

    /// See [`early`](Self::early).
    pub(crate) fn forget_early(&self, last: i64) -> Result<(), JobError> {
        let database = self.database.lock();
        let forgotten = database.execute("DELETE FROM early WHERE id <= ?1", [last]);
        forgotten.map(|_| ()).map_err(self.failed("write"))
    }

    /// The job is done: the next one begins anew.
    pub(crate) fn remove(self) -> Result<(), JobError> {
        let Self { path, database, _lock: lock, .. } = self;
        drop(database);
        let forgotten = forget(&path);
        // Last, while it is still locked.
        let lock_path = path.with_extension("lock");
        let _ = std::fs::remove_file(lock_path);
        drop(lock);
        forgotten
    }
}

/// The lock of the job with this database. Who ends removes it: one that has lost its name since it was opened locks nothing.
fn locked(path: &Path) -> Result<File, JobError> {
    let path_of_lock = path.with_extension("lock");
    let mut options = OpenOptions::new();
    options.create(true).write(true).truncate(false).mode(0o600);
    loop {
        let lock = options.open(&path_of_lock).map_err(JobError::io("open", &path_of_lock))?;
        if !sys::file::try_lock_exclusive(&lock).map_err(JobError::io("lock", &path_of_lock))? {
            return Err(JobError::Running { path: path.to_owned() });
        }
        let inode = |found: std::fs::Metadata| (found.dev(), found.ino());
        let opened = lock.metadata().map_err(JobError::io("find", &path_of_lock))?;
        if std::fs::symlink_metadata(&path_of_lock).is_ok_and(|named| inode(named) == inode(opened)) {
            return Ok(lock);
        }
    }
}

fn forget(path: &Path) -> Result<(), JobError> {
    let mut names = vec![path.to_owned()];
    for suffix in ["-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        names.push(name.into());
    }
    for name in names {
        match std::fs::remove_file(&name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(JobError::io("remove", &name)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

struct Prepared {
    interrupted: Option<Earlier>,
}

/// `None`: it is something else's.
fn prepare(database: &Connection, job: &Job, now: Moment) -> rusqlite::Result<Option<Prepared>> {
    database.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")?;
    let version: i64 = database.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let tables: i64 = database.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let boot = boot_id();
    if tables == 0 {
        database.execute_batch(&format!(
            "BEGIN;
             CREATE TABLE job (key TEXT NOT NULL, terms TEXT NOT NULL, made_root INTEGER NOT NULL, boot TEXT NOT NULL, started_s INTEGER NOT NULL, started_ns INTEGER NOT NULL,
                               synced_s INTEGER NOT NULL, synced_ns INTEGER NOT NULL);
             CREATE TABLE finished (path BLOB PRIMARY KEY) WITHOUT ROWID;
             CREATE TABLE inode (dev INTEGER NOT NULL, ino INTEGER NOT NULL, path BLOB NOT NULL, done INTEGER NOT NULL,
                                 PRIMARY KEY (dev, ino)) WITHOUT ROWID;
             CREATE TABLE early (id INTEGER PRIMARY KEY, path BLOB NOT NULL);
             PRAGMA user_version = {VERSION};
             COMMIT"
        ))?;
        let values = params![job.key, job.terms, job.made_root, boot, now.0, now.1];
        database.execute("INSERT INTO job VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?5, ?6)", values)?;
        return Ok(Some(Prepared { interrupted: None }));
    }
    if version != VERSION {
        return Ok(None);
    }
    let text = "SELECT key, boot, started_s, started_ns, synced_s, synced_ns, made_root, terms FROM job";
    let read = database.query_row(text, [], |row| {
        let earlier = Earlier {
            started: (row.get(2)?, row.get(3)?),
            synced: (row.get(4)?, row.get(5)?),
            restarted: row.get::<_, String>(1)? != boot,
            made_root: row.get(6)?,
        };
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(7)?, earlier))
    });
    let Some((key, terms, earlier)) = read.optional()? else { return Ok(None) };
    if key != job.key {
        return Ok(None);
    }
    if terms == job.terms {
        // Whoever was at work on these is no more.
        database.execute_batch("DELETE FROM inode WHERE done = 0")?;
    } else {
        database.execute_batch("BEGIN; DELETE FROM finished; DELETE FROM inode; DELETE FROM early")?;
        database.execute("UPDATE job SET terms = ?1", [&job.terms])?;
        database.execute_batch("COMMIT")?;
    }
    Ok(Some(Prepared { interrupted: Some(earlier) }))
}

/// Of this start of the machine.
fn boot_id() -> String {
    // Without it, each run takes itself for the first after a start: slower, and safe.
    let unknown = || format!("unknown, process {}", std::process::id());
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| unknown(), |id| id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = (1_000, 5);

    fn job(key: &str, terms: &str) -> Job {
        Job { key: key.to_owned(), terms: terms.to_owned(), made_root: true }
    }

    #[test]
    fn a_run_with_other_terms_has_finished_nothing_and_names_that_nobody_makes_are_free() {
        let scratch = testkit::Scratch::new("state-terms");
        let path = scratch.join("job.db");
        let open = |terms| State::open(&path, &job("a to b", terms), NOW, false).unwrap();
        let (state, _) = open("plain");
        state.finish(b"a".to_vec());
        assert_eq!(state.claim((1, 2), b"first").unwrap(), Claim::First);
        assert_eq!(state.claim((1, 2), b"second").unwrap(), Claim::Early);
        assert_eq!(state.claim((1, 3), b"whole").unwrap(), Claim::First);
        state.settle((1, 3), true).unwrap();
        state.checkpoint(&state.take_noted(), NOW).unwrap();
        drop(state);
        let (state, earlier) = open("plain");
        assert!(earlier.is_some() && state.is_finished(b"a"));
        assert_eq!(state.early(10).unwrap().len(), 1);
        assert_eq!(state.claim((1, 3), b"more").unwrap(), Claim::Later(b"whole".to_vec()));
        assert_eq!(state.claim((1, 2), b"second").unwrap(), Claim::First, "the first name may be gone");
        drop(state);
        let (state, earlier) = open("with --delete");
        assert!(earlier.is_some() && !state.is_finished(b"a"));
        assert_eq!(state.claim((1, 3), b"more").unwrap(), Claim::First);
        assert_eq!(state.early(10).unwrap(), []);
    }

    #[test]
    fn what_is_noted_is_bounded_by_its_size() {
        let scratch = testkit::Scratch::new("state-noted");
        let (state, _) = State::open(&scratch.join("job.db"), &job("", ""), NOW, false).unwrap();
        state.finish(vec![b'x'; MAX_PATH_BYTES + 1]);
        assert!(state.take_noted().is_empty());
        for _ in 0..=MAX_NOTED_BYTES / MAX_PATH_BYTES {
            assert!(!state.is_full());
            state.finish(vec![b'x'; MAX_PATH_BYTES]);
            if state.is_full() {
                break;
            }
        }
        assert!(state.is_full());
        state.take_noted();
        assert!(!state.is_full());
    }

    #[test]
    fn what_was_finished_before_a_checkpoint_is_known_after_a_kill_and_nothing_else_is() {
        let scratch = testkit::Scratch::new("state");
        let path = scratch.join("job.db");
        let open = |restart| State::open(&path, &job("a to b", ""), NOW, restart);
        let (state, earlier) = open(false).unwrap();
        assert_eq!(earlier, None);
        assert!(matches!(open(false), Err(JobError::Running { .. })));
        for name in ["a", "a/b", "ab", "a0"] {
            state.finish(name.into());
        }
        state.checkpoint(&state.take_noted(), (1_001, 0)).unwrap();
        state.finish(b"later".to_vec());
        assert_eq!(state.claim((1, u64::MAX), b"x").unwrap(), Claim::First);
        drop(state);
        let (state, earlier) = open(false).unwrap();
        assert_eq!(earlier, Some(Earlier { started: NOW, synced: (1_001, 0), restarted: false, made_root: true }));
        for (name, known) in [("a", true), ("ab", true), ("a0", true), ("later", false), ("b", false)] {
            assert_eq!(state.is_finished(name.as_bytes()), known, "{name}");
        }
        drop(state);
        let other = State::open(&path, &job("a to c", ""), NOW, false);
        assert!(matches!(other, Err(JobError::Senseless(_))));
        let (state, earlier) = open(true).unwrap();
        assert_eq!((earlier, state.is_finished(b"a")), (None, false));
        state.remove().unwrap();
        let names = std::fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = names.filter(|name| name.to_str().unwrap().starts_with("job")).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn names_of_one_file_have_one_first() {
        let scratch = testkit::Scratch::new("state-names");
        let (state, _) = State::open(&scratch.join("job.db"), &job("", ""), NOW, false).unwrap();
        let file = (3, 7);
        assert_eq!(state.claim(file, b"one").unwrap(), Claim::First);
        assert_eq!(state.claim(file, b"one").unwrap(), Claim::First);
        assert_eq!(state.claim(file, b"two").unwrap(), Claim::Early);
        state.settle(file, true).unwrap();
        assert_eq!(state.claim(file, b"three").unwrap(), Claim::Later(b"one".to_vec()));
        let early = state.early(10).unwrap();
        assert_eq!(early.iter().map(|(_, path)| path.as_slice()).collect::<Vec<_>>(), [b"two"]);
        state.forget_early(early[0].0).unwrap();
        assert_eq!(state.early(10).unwrap(), []);
        state.settle(file, false).unwrap();
        assert_eq!(state.claim(file, b"four").unwrap(), Claim::First);
    }

    #[test]
    fn a_file_that_is_no_database_is_told() {
        let scratch = testkit::Scratch::new("state-garbage");
        let path = scratch.join("job.db");
        std::fs::write(&path, vec![7; 10_000]).unwrap();
        let error = State::open(&path, &job("", ""), NOW, false).err().unwrap().to_string();
        assert!(error.contains("job.db"), "{error}");
        std::fs::remove_file(&path).unwrap();
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE users (a)").unwrap();
        assert!(matches!(State::open(&path, &job("", ""), NOW, false), Err(JobError::Senseless(_))));
    }
}
