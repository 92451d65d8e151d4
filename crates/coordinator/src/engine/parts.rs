//! A file that is there in parts: its state in memory, and the calls on it that may block on a disk.
//!
//! What decides is in `ranges.rs`.

use super::job::Blocked;
use crate::copies;
use crate::filesystem::{Filesystem, stamp_of};
use crate::guard;
use crate::prepare::{EIO, Opened, attribute, system};
use crate::ranges::residency::{self, Residency};
use crate::ranges::{Run, Runs, Streams, chunks_of};
use crate::state::FileState;
use model::{Copy, Extent, Failure, FileHandle, Stamp, Timestamp};
use queue::QueuedAction;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;
use sys::OFlags;

/// A released file that is open for being restored in parts.
///
/// The descriptor is read-only: while nothing is being fetched, whoever has the file open for writing is somebody else; and a mover
/// opens its own by way of it.
#[derive(Clone, Debug)]
pub(crate) struct PartFile {
    pub(crate) fd: Arc<OwnedFd>,
    /// As the guard knows it.
    pub(crate) inode: guard::Inode,
    /// See [`residency::name_of`].
    pub(crate) name: u64,
    pub(crate) size: u64,
    pub(crate) archive_id: u32,
    /// What it can be fetched from, the best first; all of the same content.
    pub(crate) copies: Vec<Copy>,
}

/// What comes of opening one.
#[derive(Debug)]
pub(crate) enum OpenedParts {
    /// It can be restored in parts.
    Ready {
        file: PartFile,
        /// What the user set.
        mtime: Timestamp,
        resident: Runs,
        /// Somebody has it open for writing, so that no access can be told from a write.
        writers: bool,
        /// Parts of it may have been handed out before: it had its mark, and has data.
        used_before: bool,
    },
    /// It is to be restored whole: somebody has it open for writing, and nothing of it was handed out.
    Whole,
    /// It is not as it was when this was asked for: not released, or of another size. Look again.
    Changed,
}

/// Opens a file and makes its mark; see [`residency`].
pub(crate) fn open_parts(fs: &Filesystem, handle: &FileHandle) -> Result<OpenedParts, Failure> {
    let fd = fs.open(handle, OFlags::RDONLY | OFlags::NOATIME).map_err(|e| system("opening it by its handle", &e))?;
    let state = FileState::read(&fd).map_err(|e| attribute(&e))?;
    let raw = sys::file::stamp(&fd).map_err(|e| system("looking at it", &e))?;
    let stamp = stamp_of(&raw);
    let (Some(record), Some(archive_id)) = (&state.record, state.archive_id()) else { return Ok(OpenedParts::Changed) };
    if !state.hsm.is_released() || record.size != stamp.size {
        return Ok(OpenedParts::Changed);
    }
    // Any open for writing that we heard of and let through is counted by the kernel before it asks us; those that it
    // asks us about from now on find this file's state, and wait until all is there.
    let writers = sys::lease::has_writers(&fd).map_err(|e| system("looking for writers", &e))?;
    let name = residency::name_of(handle, &state.identity.uuid);
    let mut copies = copies::sources(&state, &copies::known(&fd, &state), archive_id, &state.identity);
    copies.retain(|copy| copy.identity.hash == state.identity.hash);
    let file = PartFile {
        inode: guard::Inode { dev: raw.dev, ino: raw.ino },
        name,
        size: stamp.size,
        archive_id,
        copies,
        fd: Arc::new(fd),
    };
    let marked = residency::read(&*file.fd, name, stamp.size).map_err(|e| attribute(&e))?;
    if let Some(known) = marked {
        let mtime = if known.name == name { known.mtime } else { record.mtime };
        // The mark may claim less than an agent before this one let readers have.
        let used_before = !matches!(sys::file::next_data(&*file.fd, 0), Ok(None));
        return Ok(OpenedParts::Ready { file, mtime, resident: known.resident, writers, used_before });
    }
    if writers {
        return Ok(OpenedParts::Whole);
    }
    // Data that is there was left by a restore that a crash cut short, whose writes moved mtime.
    let torn = sys::file::next_data(&*file.fd, 0).ok().flatten().is_some();
    let mtime = if torn { record.mtime } else { stamp.mtime };
    let mark = Residency { name, mtime, resident: Runs::default() };
    residency::write(&*file.fd, &mark, stamp.size).map_err(|e| attribute(&e))?;
    Ok(OpenedParts::Ready { file, mtime, resident: Runs::default(), writers, used_before: false })
}

/// After a mover wrote chunks: the file still measures what it did, and has its mtime again.
pub(crate) fn settle_part(file: &PartFile, mtime: Timestamp) -> Result<(), Failure> {
    let now = sys::file::stamp(&*file.fd).map_err(|e| system("looking at it", &e))?;
    if now.size != file.size {
        let (now, then) = (now.size, file.size);
        return Err(Failure::permanent(EIO, format!("it has {now} bytes now and had {then}: somebody truncated it")));
    }
    sys::file::set_times(&*file.fd, None, (mtime.seconds, mtime.nanos))
        .map_err(|e| system("setting its times back", &e))
}

/// Drops what the page cache has of the range and could not write, before it is written anew. Not sooner: whoever is just reading it, and was let through
/// before the sync failed, is better off with the pages.
///
/// On ext4 (seen on 6.18), what is written over pages whose writing failed goes to the disk without an error, to blocks that still count as unwritten: it reads as zeros as
/// soon as the pages are gone. Written to fresh pages it does not.
pub(crate) fn forget_pages(file: &PartFile, extent: Extent) {
    if let Err(error) = sys::file::advise_dontneed(&*file.fd, extent.offset, extent.length) {
        tracing::warn!(%error, "cannot drop what could not be written of a file");
    }
}

/// Why it was not written down what is there.
#[derive(Debug)]
pub(crate) enum NotRecorded {
    /// It may be gone: the kernel tells of it once, and forgets then what it could not write.
    Lost(Failure),
    /// It is there all the same.
    Unwritten(Failure),
}

/// Writes down what is there, once it is durable: never before, or a crash would leave a claim without its data. Gives back what that is.
pub(crate) fn record_parts(file: &PartFile, mtime: Timestamp, resident: Runs) -> Result<Runs, NotRecorded> {
    sys::file::sync_data(&*file.fd).map_err(|e| NotRecorded::Lost(system("syncing it", &e)))?;
    let residency = Residency { name: file.name, mtime, resident };
    let written = residency::write(&*file.fd, &residency, file.size);
    written.map_err(|e| NotRecorded::Unwritten(attribute(&e)))?;
    Ok(residency.resident)
}

/// Chunks on their way.
#[derive(Debug)]
pub(crate) struct Fetch {
    /// The job.
    pub(crate) key: u64,
    pub(crate) run: Run,
    /// Somebody waits for it.
    pub(crate) demanded: bool,
    /// Which of the file's copies.
    pub(crate) from: usize,
    /// Another copy is being thawed: what its mover said.
    pub(crate) thaw: Option<Failure>,
    /// A sync failed meanwhile: what it has written may be lost.
    pub(crate) doubted: bool,
}

/// Somebody who waits for chunks.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) waiting: Blocked,
    /// What it touches.
    pub(crate) touched: Run,
    /// What of that is still to come. Kept for each reader, since what the file's own set of chunks may forget, it is not owed again.
    pub(crate) missing: Runs,
}

/// What is being done with the file as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It is being opened.
    Opening,
    /// Chunks are fetched as they are asked for.
    Ready,
    /// All is there: it becomes an ordinary file.
    Committing,
    /// Its mover cannot fetch ranges of it; it is restored whole as soon as nothing is under way.
    Unfit,
    /// Somebody changed its size. Nothing is known of it any more; whoever asks waits until nothing is under way.
    Broken,
}

/// A file that is there in parts.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) phase: Phase,
    pub(crate) file: Option<PartFile>,
    /// For messages.
    pub(crate) path: String,
    /// The user whom fetches are done for: who asked last.
    pub(crate) owner: u32,
    pub(crate) mtime: Timestamp,
    pub(crate) resident: Runs,
    /// What of that was synced without an error.
    pub(crate) durable: Runs,
    pub(crate) in_flight: Runs,
    pub(crate) fetches: Vec<Fetch>,
    /// Were part of a fetch that failed for good.
    pub(crate) suspect: Runs,
    pub(crate) streams: Streams,
    /// To be fetched ahead of readers.
    pub(crate) ahead: Vec<Run>,
    pub(crate) readers: Vec<Reader>,
    /// Who needs all of it: writers, and whoever may be one.
    pub(crate) whole: Vec<Blocked>,
    /// Actions that ask for all of it.
    pub(crate) entries: Vec<QueuedAction>,
    pub(crate) writers: bool,
    /// See [`OpenedParts::Ready`].
    pub(crate) used_before: bool,
    pub(crate) attempts: u32,
    /// Nothing is fetched before then: the last fetch failed for now.
    pub(crate) retry_at: Option<Instant>,
    /// The last fetch found the object on its way out of a cold storage class.
    pub(crate) thawing: bool,
    /// A sync failed: see [`forget_pages`].
    pub(crate) lossy: bool,
    /// More is there than is written down.
    pub(crate) unrecorded: bool,
    /// It is being written down.
    pub(crate) recording: bool,
    /// The last time that was begun, or that the first came after it.
    pub(crate) recorded_at: Instant,
    /// The last chunks.
    pub(crate) came_at: Instant,
    pub(crate) used: Instant,
}

impl Parts {
    pub(crate) fn opening(path: String, owner: u32) -> Self {
        Self {
            phase: Phase::Opening,
            file: None,
            path,
            owner,
            mtime: Timestamp::default(),
            resident: Runs::default(),
            durable: Runs::default(),
            in_flight: Runs::default(),
            fetches: Vec::new(),
            suspect: Runs::default(),
            streams: Streams::default(),
            ahead: Vec::new(),
            readers: Vec::new(),
            whole: Vec::new(),
            entries: Vec::new(),
            writers: false,
            used_before: false,
            attempts: 0,
            retry_at: None,
            thawing: false,
            lossy: false,
            unrecorded: false,
            recording: false,
            recorded_at: Instant::now(),
            came_at: Instant::now(),
            used: Instant::now(),
        }
    }

    /// All chunks.
    pub(crate) fn all(&self) -> Run {
        0..self.file.as_ref().map_or(0, |file| chunks_of(file.size))
    }

    /// A sync failed. What came since the last one that did not may be nowhere but in memory, and there only until the kernel needs the room; and the
    /// next sync would not tell. So it counts as missing.
    pub(crate) fn distrust(&mut self) {
        self.used_before |= !self.resident.is_empty();
        self.resident = self.durable.clone();
        (self.unrecorded, self.lossy) = (false, true);
        self.fetches.iter_mut().for_each(|fetch| fetch.doubted = true);
        for reader in &mut self.readers {
            reader.missing = self.resident.gaps(&reader.touched);
        }
    }

    /// Whether nobody can have got anything of it, so that nobody sees what becomes of its content.
    pub(crate) fn is_untouched(&self) -> bool {
        self.resident.is_empty() && !self.used_before
    }

    /// Whether something is under way that nobody else may come between.
    pub(crate) fn is_busy(&self) -> bool {
        self.recording || !self.fetches.is_empty() || matches!(self.phase, Phase::Opening | Phase::Committing)
    }

    pub(crate) fn wants_all(&self) -> bool {
        !self.whole.is_empty() || !self.entries.is_empty()
    }

    /// Whether nobody waits for anything of it.
    pub(crate) fn is_unwanted(&self) -> bool {
        self.readers.is_empty() && !self.wants_all()
    }

    /// The file as actions have it.
    pub(crate) fn opened(&self, handle: &FileHandle) -> Option<Opened> {
        let file = self.file.as_ref()?;
        let before = Stamp { size: file.size, mtime: self.mtime, ctime: Timestamp::default() };
        Some(Opened {
            handle: handle.clone(),
            fd: Arc::clone(&file.fd),
            state: FileState::default(),
            before,
            mtime: self.mtime,
            tree_path: Vec::new(),
            copies: Vec::new(),
            failed_syncs: 0,
        })
    }
}
