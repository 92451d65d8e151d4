//! One file and what the archive holds for it.

use super::finding::{Aspect, Difference, Found, add};
use super::{Ignore, Run};
use crate::fsck::files::{Look, MOVED, copy_here, look};
use crate::walk::{Seen, is_gone};
use crate::{Damage, MaintenanceError};
use coordinator::{FileState, handle_of};
use model::{Digest, FileHandle, HsmFlags, ObjectId, ObjectUrl, Timestamp};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use sys::file::{FileStamp, stamp};
use sys::{Mode, OFlags};
use transfer::manifest::{Attribute, Content, Description, Manifest, describe_name};
use transfer::{DigestKind, Digester, Encoding, Expected, Monitor as _, OpenFile, TransferError};

/// What changes while it is compared is compared so often.
const TRIES: u32 = 3;
/// Bytes of a file that are hashed at a time.
const STEP: usize = 1 << 20;
/// Damages of one object that are told one by one.
const MAX_TOLD: usize = 100;

/// What a file says of its copy in this archive.
struct Named {
    object: String,
    hash: Option<Digest>,
    released: bool,
    /// As it was archived, where that is known.
    size: Option<u64>,
}

/// What one comparison gave.
struct Compared {
    differences: Vec<Difference>,
    /// Of how it was compared, for the totals.
    shared: bool,
    undescribed: bool,
    cold: bool,
}

/// Why there is none.
enum Stop {
    Missing,
    Failed(MaintenanceError),
    /// It could not be read.
    Unreadable(String),
}

impl From<MaintenanceError> for Stop {
    fn from(error: MaintenanceError) -> Self {
        match error {
            MaintenanceError::Archive(TransferError::Missing { .. }) => Self::Missing,
            error => Self::Failed(error),
        }
    }
}

impl Run<'_> {
    /// How a file compares, and the object that it names.
    pub(super) fn compared(&self, file: &Seen, handle: &FileHandle) -> (Option<String>, Found) {
        for _ in 0..TRIES {
            let before = match stamp(&file.fd) {
                Ok(stamp) if stamp.nlink == 0 => return (None, Found::Vanished),
                Ok(stamp) => stamp,
                Err(error) if is_gone(&error) => return (None, Found::Vanished),
                Err(error) => return (None, Found::Failed(format!("cannot read its attributes: {error}"))),
            };
            let state = match look(&file.fd) {
                Ok(Look { state: Some(state), .. }) => state,
                Ok(Look { state: None, .. }) => {
                    return (None, Found::Failed("its HSM attributes are damaged".to_owned()));
                }
                Err(error) => return (None, Found::Failed(format!("cannot read its HSM attributes: {error}"))),
            };
            let named = match self.named(file, handle, &state, &before) {
                Ok(named) => named,
                Err(found) => return (None, found),
            };
            let compared = self.look(file, handle, &before, &named);
            let is_same = matches!(&compared, Ok(compared) if compared.differences.is_empty());
            if !is_same && !self.is_settled(file, handle, &before, &state) {
                continue;
            }
            return (Some(named.object.clone()), self.judged(&named, compared));
        }
        (None, Found::Changed)
    }

    fn judged(&self, named: &Named, compared: Result<Compared, Stop>) -> Found {
        match compared {
            Ok(compared) => {
                let told = [
                    (named.released, &self.tally.released),
                    (compared.shared, &self.tally.shared),
                    (compared.undescribed, &self.tally.undescribed),
                    (compared.cold, &self.tally.cold),
                ];
                told.into_iter()
                    .filter(|(is_so, _)| *is_so)
                    .for_each(|(_, counter): (bool, &AtomicU64)| add(counter, 1));
                match compared.differences {
                    none if none.is_empty() => Found::Same,
                    differences => Found::Differs(differences),
                }
            }
            Err(Stop::Missing) => Found::Missing,
            Err(Stop::Unreadable(why)) => Found::Failed(why),
            Err(Stop::Failed(error)) => {
                let why = error.to_string();
                if matches!(error, MaintenanceError::Unreachable(_)) {
                    let mut ended = self.ended.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    ended.get_or_insert(error);
                }
                Found::Failed(why)
            }
        }
    }

    /// What there is to compare with, or why nothing is.
    fn named(&self, file: &Seen, handle: &FileHandle, state: &FileState, stamp: &FileStamp) -> Result<Named, Found> {
        let released = state.hsm.is_released();
        let is_copy = HsmFlags::EXISTS.with(HsmFlags::ARCHIVED);
        // What its attributes were copied with from another file says nothing of this one; but a released one has nothing else.
        if !state.hsm.flags.contains(is_copy) || !(released || state.belongs_to(handle)) {
            return Err(Found::Unarchived);
        }
        let here = self.options.archive_id;
        let (object, hash) = if state.archive_id() == Some(here) {
            (state.identity.uuid.clone(), state.identity.hash)
        } else {
            match copy_here(&file.fd, state, here) {
                // Copies in several archives are of one content.
                Some(object) => (object, state.identity.hash),
                None => return Err(Found::Elsewhere),
            }
        };
        if object.is_empty() {
            return Err(Found::Failed("it says that it is archived and names no object".to_owned()));
        }
        if ObjectUrl::is_meant(&object) {
            return Err(Found::Imported);
        }
        let record = state.record.as_ref();
        let is_as_archived =
            record.is_none_or(|record| record.size == stamp.size && record.mtime == timestamp(stamp.mtime));
        // The mark comes a moment after the change, and without an agent not at all.
        if !released && (state.hsm.flags.contains(HsmFlags::DIRTY) || !is_as_archived) {
            return Err(Found::Dirty);
        }
        Ok(Named { object, hash, released, size: record.map(|record| record.size) })
    }

    /// Whether it still is what it was, so that what was found is so.
    fn is_settled(&self, file: &Seen, handle: &FileHandle, before: &FileStamp, state: &FileState) -> bool {
        let same_file =
            stamp(&file.fd).is_ok_and(|now| FileStamp { atime: before.atime, blocks: before.blocks, ..now } == *before);
        let same_state = look(&file.fd).is_ok_and(|now| now.state.as_ref() == Some(state));
        same_file && same_state && (file.path == MOVED || self.leads_to(&file.path, handle))
    }

    fn leads_to(&self, path: &[u8], handle: &FileHandle) -> bool {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        sys::file::open_beneath(self.fs.root(), OsStr::from_bytes(path), flags, Mode::empty())
            .and_then(handle_of)
            .is_ok_and(|there| there == *handle)
    }

    fn look(&self, file: &Seen, handle: &FileHandle, stamp: &FileStamp, named: &Named) -> Result<Compared, Stop> {
        let id = ObjectId::parse(&named.object).map_err(MaintenanceError::from)?;
        let manifest = self.holdings.manifest(&id)?;
        let head = self.holdings.head(&id)?.ok_or(Stop::Missing)?;
        let mut compared = Compared { differences: Vec::new(), shared: false, undescribed: false, cold: false };
        let found = &mut compared.differences;
        let Some(manifest) = manifest else {
            compared.undescribed = true;
            let stored = head.stored_bytes;
            let size = named.size.unwrap_or(stamp.size);
            if head.encoding == Encoding::Raw && stored != size || size != stamp.size {
                found.push(Difference::new(Aspect::Size, stamp.size, if size == stamp.size { stored } else { size }));
            } else if self.options.content {
                compared.cold = self.undescribed_content(file, &id, stamp, named, found)?;
            }
            return Ok(compared);
        };
        let Some(content) = manifest.content() else {
            return Err(Stop::Unreadable(format!("the manifest of {id} describes no content")));
        };
        if head.stored_bytes != content.stored_bytes {
            let what = format!("has {} bytes, and had {} when it was stored", head.stored_bytes, content.stored_bytes);
            found.push(Difference::said(Aspect::Object, what));
        }
        if named.hash.is_some_and(|hash| hash != Digest::Blake3(content.hash)) {
            found.push(Difference::said(Aspect::Object, "has another hash in its manifest than the file says"));
        }
        if content.size != stamp.size {
            found.push(Difference::new(Aspect::Size, stamp.size, content.size));
        }
        compared.shared = !self.is_own(file, handle, &manifest);
        if !compared.shared {
            self.attributes(file, handle, &manifest, found)?;
        }
        if self.options.content && content.size == stamp.size {
            compared.cold = self.content(file, &id, (&manifest, content), named, found)?;
        }
        Ok(compared)
    }

    /// Whether a manifest is of this file, and not of another one whose object it names: of this inode, or of what was at this path, as files are that
    /// were made anew from the archive.
    fn is_own(&self, file: &Seen, handle: &FileHandle, manifest: &Manifest) -> bool {
        let same_inode = manifest.inode.fsid == self.fs.fsid && manifest.inode.handle.as_ref() == Some(handle);
        same_inode || !manifest.path.is_empty() && manifest.path == file.path
    }

    fn attributes(
        &self,
        file: &Seen,
        handle: &FileHandle,
        manifest: &Manifest,
        found: &mut Vec<Difference>,
    ) -> Result<(), Stop> {
        let described = describe_name(&file.fd, &file.path, self.fs.fsid);
        let now = described.map_err(|error| Stop::Unreadable(format!("cannot read its attributes: {error}")))?;
        attributes(self.options.ignore, &now, manifest, found);
        let is_elsewhere = file.path != MOVED && !manifest.path.is_empty() && manifest.path != file.path;
        // One of several names is as good as another.
        if is_elsewhere && !self.options.ignore.path && !self.leads_to(&manifest.path, handle) {
            let shown = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
            found.push(Difference::new(Aspect::Path, shown(&file.path), shown(&manifest.path)));
        }
        Ok(())
    }

    /// Compares content; whether it could not be done since the object is cold.
    fn content(
        &self,
        file: &Seen,
        id: &ObjectId,
        (manifest, content): (&Manifest, &Content),
        named: &Named,
        found: &mut Vec<Difference>,
    ) -> Result<bool, Stop> {
        if named.released {
            return self.object(id, manifest, found);
        }
        let expected = Expected { size: Some(content.size), digest: Some(Digest::Blake3(content.hash)) };
        let open = open(file)?;
        match unless_cold(self.holdings.compare_chunks(id, expected, &open, self))? {
            None => return Ok(true),
            Some(Some(None)) => {}
            Some(Some(Some(at))) => found.push(Difference::said(Aspect::Content, format!("from byte {at} on"))),
            // Hashes of chunks cannot be had: that of all can.
            Some(None) => {
                if self.hash(&open, DigestKind::Blake3)? != Digest::Blake3(content.hash) {
                    found.push(Difference::said(Aspect::Content, "by its hash"));
                }
            }
        }
        Ok(false)
    }

    /// Reads an object through.
    fn object(&self, id: &ObjectId, manifest: &Manifest, found: &mut Vec<Difference>) -> Result<bool, Stop> {
        let before = found.len();
        let checked = self.holdings.check(id, manifest, self, &mut |Damage { offset, length, why }| {
            if found.len() - before < MAX_TOLD {
                let what = format!("of the object from byte {offset} to byte {}: {why}", offset.saturating_add(length));
                found.push(Difference::said(Aspect::Content, what));
            }
        });
        Ok(unless_cold(checked)?.is_none())
    }

    /// As [`Self::content`], of an object of which there is no manifest: it is read through, for the hash that the file has, or else its content.
    fn undescribed_content(
        &self,
        file: &Seen,
        id: &ObjectId,
        stamp: &FileStamp,
        named: &Named,
        found: &mut Vec<Difference>,
    ) -> Result<bool, Stop> {
        let mut digest = named.hash;
        if !named.released {
            let kind = named.hash.as_ref().map_or(DigestKind::Blake3, DigestKind::of);
            let hash = self.hash(&open(file)?, kind)?;
            if named.hash.is_some_and(|named| named != hash) {
                found.push(Difference::said(Aspect::Content, "by its hash"));
                return Ok(false);
            }
            digest = Some(hash);
        }
        let expected = Expected { size: Some(stamp.size), digest };
        match unless_cold(self.holdings.check_content(id, expected, self)) {
            Ok(Some(size)) if size != stamp.size => found.push(Difference::new(Aspect::Size, stamp.size, size)),
            Ok(checked) => return Ok(checked.is_none()),
            Err(MaintenanceError::Archive(
                error @ (TransferError::Mismatch { .. }
                | TransferError::Damaged { .. }
                | TransferError::DamagedChunk { .. }),
            )) => found.push(Difference::said(Aspect::Content, format!("of the object: {error}"))),
            Err(error) => return Err(error.into()),
        }
        Ok(false)
    }

    /// The hash of a file's content.
    fn hash(&self, file: &OpenFile, kind: DigestKind) -> Result<Digest, Stop> {
        use transfer::manifest::ReadAt as _;
        let mut digester = Digester::new(kind);
        let (mut buffer, mut at) = (vec![0; STEP], 0);
        loop {
            if self.cancelled() {
                return Err(MaintenanceError::from(TransferError::Cancelled).into());
            }
            let read = file.read_full_at(&mut buffer, at).map_err(unreadable)?;
            digester.update(buffer.get(..read).unwrap_or_default());
            self.advanced(model::Extent { offset: at, length: read as u64 });
            at += read as u64;
            if read < STEP {
                return Ok(digester.finish());
            }
        }
    }
}

fn unreadable(error: io::Error) -> Stop {
    Stop::Unreadable(format!("cannot read it: {error}"))
}

/// Opens a resident file for reading, past the page cache as far as that can be had.
fn open(file: &Seen) -> Result<OpenFile, Stop> {
    let opened = match sys::file::reopen(&file.fd, OFlags::RDONLY | OFlags::NOATIME) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => sys::file::reopen(&file.fd, OFlags::RDONLY),
        other => other,
    };
    let opened = File::from(opened.map_err(unreadable)?);
    // Advice: a filesystem that does not take it is read as it is.
    let _ = sys::file::advise_dontneed(&opened, 0, 0);
    let _ = sys::file::advise_sequential(&opened);
    Ok(OpenFile::new(opened, Path::new(OsStr::from_bytes(&file.path))))
}

/// `None`: what is asked for lies in a cold storage class.
fn unless_cold<T>(result: Result<T, MaintenanceError>) -> Result<Option<T>, MaintenanceError> {
    match result {
        Err(MaintenanceError::Archive(TransferError::Cold { .. })) => Ok(None),
        other => other.map(Some),
    }
}

/// What a manifest says of the inode, beside its content.
fn attributes(ignore: Ignore, now: &Description, manifest: &Manifest, found: &mut Vec<Difference>) {
    let (own, archived) = (&now.inode, &manifest.inode);
    if !ignore.times && own.mtime != archived.mtime {
        let shown = |time: Timestamp| format!("{}.{:09}", time.seconds, time.nanos);
        found.push(Difference::new(Aspect::Mtime, shown(own.mtime), shown(archived.mtime)));
    }
    let [mode, archived_mode] = [own.mode, archived.mode].map(|mode| mode & 0o7777);
    if !ignore.mode && mode != archived_mode {
        found.push(Difference::new(Aspect::Mode, format!("{mode:o}"), format!("{archived_mode:o}")));
    }
    let ids = [(Aspect::Owner, own.uid, archived.uid), (Aspect::Group, own.gid, archived.gid)];
    let others = ids.into_iter().filter(|(_, own, archived)| !ignore.owner && own != archived);
    found.extend(others.map(|(what, own, archived)| Difference::new(what, own, archived)));
    if ignore.attributes {
        return;
    }
    let value = |all: &[Attribute], name: &[u8]| -> Option<Vec<u8>> {
        all.iter().find(|attribute| attribute.name == name).map(|attribute| attribute.value.clone())
    };
    let mut names: Vec<&[u8]> =
        now.attributes.iter().chain(&manifest.attributes).map(|attribute| &attribute.name[..]).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let (own, archived) = (value(&now.attributes, name), value(&manifest.attributes, name));
        let is_unknown =
            archived.is_none() && manifest.attributes_incomplete || own.is_none() && now.attributes_incomplete;
        if own != archived && !is_unknown {
            let shown = |value: Option<Vec<u8>>| value.map(|value| format!("{} bytes", value.len()));
            let of = Some(String::from_utf8_lossy(name).into_owned());
            found.push(Difference { what: Aspect::Attribute, of, a: shown(own), b: shown(archived) });
        }
    }
}

fn timestamp((seconds, nanos): (i64, u32)) -> Timestamp {
    Timestamp { seconds, nanos }
}
