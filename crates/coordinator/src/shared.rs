//! Objects that several files may name: the mark on the files, and the note on the filesystem.
//!
//! An object is removed only when it is proven that no file names it. What proves it:
//! - Before a second file comes to name an object, the first one gets a mark that names the object ([`mark`]). A file without it
//!   is the only one that names its object. It needs no database, so it survives the loss of the database.
//! - The queue's table has all files that ever came to name a marked object. Before such a file can be seen, the filesystem's
//!   root notes which database knows of it ([`note`]). At its start the agent compares ([`reconcile`]): a database that
//!   is another one, or is behind, was lost or restored. Nothing that it says of older objects is believed then.
//! - The table's files are looked at once more when the object is about to go ([`crate::gate`]).
//!
//! Not here: the question before a removal, which is `gate`'s.

use crate::engine::Shared;
use crate::filesystem::Filesystem;
use crate::prepare::{EIO, system};
use model::{ActionId, Failure, xattr};
use queue::{Change, Queue, QueueError, Sharing};
use std::io;
use std::os::fd::AsFd;

/// Says on the file that others may name this object too. Not durable by itself.
pub(crate) fn mark(fd: impl AsFd, uuid: &str) -> io::Result<()> {
    sys::xattr::set(fd, xattr::SHARED, uuid.as_bytes())
}

/// Whether others may name this object, as far as the file knows. When it cannot be read: yes.
pub(crate) fn is_marked(fd: impl AsFd, uuid: &str) -> bool {
    sys::xattr::get(fd, xattr::SHARED).map_or(true, |mark| mark.is_some_and(|mark| mark == uuid.as_bytes()))
}

/// The note's value: version u8 = 1, database id, sequence u64 little-endian.
fn encode(sharing: &Sharing) -> Vec<u8> {
    [&[1][..], &sharing.database, &sharing.sequence.to_le_bytes()].concat()
}

/// Whether a database with `sharing` knows all that the note stands for.
fn covers(sharing: &Sharing, note: &[u8]) -> bool {
    let parts = || {
        let (version, rest) = note.split_first()?;
        let (database, rest) = rest.split_first_chunk::<16>()?;
        let sequence: [u8; 8] = rest.try_into().ok()?;
        Some((*version, *database, u64::from_le_bytes(sequence)))
    };
    let known =
        |(version, database, sequence)| version == 1 && database == sharing.database && sequence <= sharing.sequence;
    parts().is_some_and(known)
}

/// Notes on the filesystem, durably, that the queue's database knows all files that share objects. Must come between the change
/// of the table and the moment at which the new file can be seen.
pub(crate) fn note(shared: &Shared) -> Result<(), Failure> {
    // An older note must not follow a newer one.
    let _one_at_a_time = shared.noting.lock();
    let sharing = shared.queue.sharing().map_err(|e| unreadable(&e))?;
    write_note(&shared.fs, &sharing).map_err(|e| system("noting on the filesystem that objects are shared", &e))
}

fn write_note(fs: &Filesystem, sharing: &Sharing) -> io::Result<()> {
    sys::xattr::set(fs.root(), xattr::SHARING, &encode(sharing))?;
    sys::file::sync_all(fs.root())
}

/// Compares the database with the filesystem's note. Returns the last action that is doubted.
pub(crate) fn reconcile(fs: &Filesystem, queue: &dyn Queue) -> Result<ActionId, QueueError> {
    let sharing = queue.sharing()?;
    let doubted = match sys::xattr::get(fs.root(), xattr::SHARING) {
        Ok(None) => return Ok(sharing.doubted),
        Ok(Some(note)) => !covers(&sharing, &note),
        Err(_) => true,
    };
    if !doubted {
        return Ok(sharing.doubted);
    }
    tracing::warn!(
        "the queue database is not the one that knew which files share archived objects (it was lost, or restored from an older copy): objects archived before now are kept unless their file shows that it is the only one; `sifaka fsck` finds those that no file names"
    );
    queue.apply(&[Change::Doubt])?;
    let sharing = queue.sharing()?;
    if let Err(error) = write_note(fs, &sharing) {
        tracing::warn!(%error, "cannot note on the filesystem which queue database is the present one: the next start doubts it again");
    }
    Ok(sharing.doubted)
}

pub(crate) fn unreadable(error: &QueueError) -> Failure {
    Failure::temporary(EIO, error.to_string())
}

/// What the queue has to know of an object that a file is about to stop naming, if others may name it.
pub(crate) fn remember(fd: impl AsFd, object: queue::ObjectRef) -> Option<Change> {
    is_marked(fd, &object.uuid).then(|| Change::Share { object, complete: false, files: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_covered_by_its_own_database_and_its_later_states_alone() {
        let sharing = |database, sequence| Sharing { database: [database; 16], sequence, doubted: ActionId(0) };
        let note = encode(&sharing(7, 5));
        let cases = [(7, 5, true), (7, 6, true), (7, 4, false), (8, 5, false), (8, 6, false)];
        for (database, sequence, expected) in cases {
            assert_eq!(covers(&sharing(database, sequence), &note), expected, "{database} {sequence}");
        }
        for length in 0..note.len() {
            assert!(!covers(&sharing(7, 9), &note[..length]));
        }
        assert!(!covers(&sharing(7, 9), &[note.clone(), vec![0]].concat()));
        let newer = [&[2], note.get(1..).unwrap()].concat();
        assert!(!covers(&sharing(7, 9), &newer));
    }
}
