//! Whether something that no file was found to name is really nobody's. In doubt it is somebody's.

use super::comparison::Comparison;
use super::files::{named_by, open};
use super::{Options, Verdict};
use crate::{Holdings, MaintenanceError};
use coordinator::{Filesystem, handle_of};
use model::{FileHandle, ObjectId};
use rustix::fs::FileType;
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use sys::{Mode, OFlags};
use transfer::Encoding;
use transfer::manifest::{Kind, Manifest};

/// Something that is nobody's.
pub(crate) struct Orphan {
    pub(crate) manifest: Option<Manifest>,
    /// How its removal ended, if that was wanted.
    pub(crate) removed: Option<Result<(), MaintenanceError>>,
}

/// What judging needs.
pub(crate) struct Judge<'a> {
    pub(crate) fs: &'a Filesystem,
    pub(crate) holdings: &'a dyn Holdings,
    comparison: Mutex<Comparison>,
    pub(crate) options: &'a Options,
    /// What was stored since then is nobody's yet.
    pub(crate) young_from_ms: u64,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(
        fs: &'a Filesystem,
        holdings: &'a dyn Holdings,
        comparison: Comparison,
        options: &'a Options,
        young_from_ms: u64,
    ) -> Self {
        Self { fs, holdings, comparison: Mutex::new(comparison), options, young_from_ms }
    }

    /// Held for single questions only: what the archive is asked takes long.
    pub(crate) fn comparison(&self) -> MutexGuard<'_, Comparison> {
        self.comparison.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does this for each of these, by several threads: in a bucket each question to the archive is a request. In no order.
    pub(crate) fn for_each<T: Send>(
        &self,
        ids: Vec<String>,
        work: impl Fn(&str) -> Result<T, MaintenanceError> + Sync,
    ) -> Result<Vec<(String, T)>, MaintenanceError> {
        let left = Mutex::new(ids);
        let next = || left.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let one_after_the_other = || {
            let mut done = Vec::new();
            while let Some(id) = next() {
                let result = work(&id)?;
                done.push((id, result));
            }
            Ok(done)
        };
        let done: Result<Vec<_>, MaintenanceError> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.options.threads.max(1)).map(|_| scope.spawn(one_after_the_other)).collect();
            let ended = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
            ended.map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        Ok(done?.into_iter().flatten().collect())
    }

    /// What there is to tell of an object that was just judged to be nobody's; removes it if that is wanted.
    pub(crate) fn orphan(&self, id: &str, remove: bool) -> Result<Orphan, MaintenanceError> {
        let object = ObjectId::parse(id)?;
        let manifest = self.holdings.manifest(&object).ok().flatten();
        Ok(Orphan { manifest, removed: remove.then(|| self.holdings.remove(&object)) })
    }

    /// What cannot be looked at is not nobody's.
    pub(crate) fn judge(&self, id: &str) -> Result<Verdict, MaintenanceError> {
        match self.try_judge(id) {
            Err(MaintenanceError::Io { .. } | MaintenanceError::Archive(_)) => Ok(Verdict::Unreadable),
            other => other,
        }
    }

    fn try_judge(&self, text: &str) -> Result<Verdict, MaintenanceError> {
        let id = ObjectId::parse(text)?;
        if self.comparison().is_claimed(text)? {
            return Ok(Verdict::Claimed);
        }
        // What an earlier attempt left beside what a file names goes when that goes: until then it may still be the better copy.
        for form in forms(text) {
            if self.comparison().is_named(&form)? {
                return Ok(Verdict::Missed);
            }
        }
        let stamped = self.comparison().stamped(text)?;
        for file in stamped {
            if self.names(&file, text)? {
                return Ok(Verdict::Missed);
            }
        }
        let manifest = self.holdings.manifest(&id);
        let made_ms = |manifest: &Manifest| u64::try_from(manifest.made.seconds).unwrap_or(0).saturating_mul(1000);
        let stored_ms = match &manifest {
            // A record: there is no object to ask for, and most of what is judged is a record.
            Ok(Some(manifest)) if manifest.content().is_none() => made_ms(manifest),
            _ => match (self.holdings.head(&id)?, &manifest) {
                (Some(head), _) => head.stored_ms,
                (None, Ok(Some(manifest))) => made_ms(manifest),
                (None, Ok(None)) => return Ok(Verdict::Gone),
                (None, Err(_)) => 0,
            },
        };
        let verdict = match manifest {
            Ok(Some(manifest)) => self.described(text, &manifest)?,
            Ok(None) if self.holdings.is_ours(&id)? => Verdict::Orphan,
            Ok(None) => Verdict::NotOurs,
            // What cannot be read may be anybody's.
            Err(_) => Verdict::Unreadable,
        };
        Ok(if verdict == Verdict::Orphan && stored_ms >= self.young_from_ms { Verdict::Young } else { verdict })
    }

    fn described(&self, id: &str, manifest: &Manifest) -> Result<Verdict, MaintenanceError> {
        let inode = &manifest.inode;
        if inode.fsid != self.fs.fsid && inode.fsid != [0; 8] {
            if !self.options.foreign {
                return Ok(Verdict::Foreign);
            }
            // Recorded on a filesystem that is gone: still needed where something is what it describes.
            let is_record = manifest.content().is_none();
            return Ok(if is_record && self.is_still_there(manifest) { Verdict::Missed } else { Verdict::Orphan });
        }
        let Some(handle) = &inode.handle else { return Ok(Verdict::Orphan) };
        let failed = MaintenanceError::io("open by its handle the inode of object", id);
        let Some(fd) = open(self.fs, handle).map_err(failed)? else { return Ok(Verdict::Orphan) };
        let alive = match &manifest.kind {
            Kind::File(_) => self.names(handle, id)?,
            Kind::HardLink => self.leads_to(&manifest.path, handle),
            kind => is_kind(&fd, kind),
        };
        Ok(if alive { Verdict::Missed } else { Verdict::Orphan })
    }

    /// Whether this file, if it is there, names the object, or what another attempt made of it.
    fn names(&self, file: &FileHandle, id: &str) -> Result<bool, MaintenanceError> {
        let failed = MaintenanceError::io("open by its handle a file that may name object", id);
        let fd = match open(self.fs, file) {
            // Names of files are remembered under handles of no inode.
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => return Ok(false),
            other => other.map_err(failed)?,
        };
        let Some(fd) = fd else { return Ok(false) };
        let named = named_by(&fd, self.options.archive_id, self.holdings);
        // In doubt it does.
        Ok(named.map_or(true, |named| named.iter().any(|name| name == id || forms(id).any(|form| *name == form))))
    }

    fn leads_to(&self, path: &[u8], handle: &FileHandle) -> bool {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        sys::file::open_beneath(self.fs.root(), OsStr::from_bytes(path), flags, Mode::empty())
            .and_then(handle_of)
            .is_ok_and(|there| there == *handle)
    }

    fn is_still_there(&self, manifest: &Manifest) -> bool {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let path: &[u8] = if manifest.path.is_empty() { b"." } else { &manifest.path };
        sys::file::open_beneath(self.fs.root(), OsStr::from_bytes(path), flags, Mode::empty())
            .is_ok_and(|fd| is_kind(fd, &manifest.kind))
    }
}

/// The ids that attempts with other encodings would have given to the same content.
fn forms(id: &str) -> impl Iterator<Item = String> {
    let (base, own) = Encoding::split(id);
    let others = Encoding::ALL.into_iter().filter(move |encoding| *encoding != own);
    others.map(move |encoding| format!("{base}{}", encoding.suffix()))
}

fn is_kind(fd: impl AsFd, kind: &Kind) -> bool {
    let Ok(stamp) = sys::file::stamp(fd) else { return false };
    let expected = match kind {
        Kind::File(_) | Kind::HardLink => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink(_) => FileType::Symlink,
        Kind::Fifo => FileType::Fifo,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice(..) => FileType::CharacterDevice,
        Kind::BlockDevice(..) => FileType::BlockDevice,
    };
    FileType::from_raw_mode(stamp.mode) == expected
}
