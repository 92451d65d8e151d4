//! A store in a directory of its own, and calls that wait for their end.

use model::{Digest, ObjectId};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use testkit::{Random, Scratch};
use transfer::{
    Compression, DigestKind, Durability, Encoding, Expected, KernelDurability, Monitor, OpenFile, Origin, PosixStore,
    PutOptions, Restored, Store, Stored, TransferError, Unwatched,
};

pub(crate) const BLAKE3: PutOptions<'static> = PutOptions {
    digest: Some(DigestKind::Blake3),
    compression: Compression::Off,
    origin: None,
    pack_up_to_bytes: 0,
    repeated: false,
};

/// With a manifest.
pub(crate) fn described(encoding: Encoding) -> PutOptions<'static> {
    let origin = Some(Origin { path: b"home/file", fsid: *b"a fs id." });
    PutOptions { origin, ..options(encoding, Some(DigestKind::Blake3)) }
}

pub(crate) fn options(encoding: Encoding, digest: Option<DigestKind>) -> PutOptions<'static> {
    let compression = if encoding == Encoding::Raw { Compression::Off } else { Compression::On(encoding) };
    PutOptions { digest, compression, origin: None, pack_up_to_bytes: 0, repeated: false }
}

pub(crate) fn id(text: &str) -> ObjectId {
    ObjectId::parse(text).unwrap()
}

/// A directory with an archive, and room for other files.
pub(crate) struct Archive {
    pub(crate) store: PosixStore,
    pub(crate) base: PathBuf,
    _scratch: Option<Scratch>,
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self::with_durability(Arc::new(KernelDurability))
    }

    pub(crate) fn with_durability(durability: Arc<dyn Durability>) -> Self {
        let scratch = Scratch::new("store");
        Self { _scratch: None, ..Self::at(scratch.path(), durability) }.keeping(scratch)
    }

    fn keeping(mut self, scratch: Scratch) -> Self {
        self._scratch = Some(scratch);
        self
    }

    pub(crate) fn at(base: &Path, durability: Arc<dyn Durability>) -> Self {
        let root = base.join("archive");
        fs::create_dir_all(&root).unwrap();
        Self { store: PosixStore::open(&root, durability).unwrap(), base: base.to_owned(), _scratch: None }
    }

    pub(crate) fn file(&self, name: &str, content: &[u8]) -> OpenFile {
        let path = self.base.join(name);
        fs::write(&path, content).unwrap();
        OpenFile::for_reading(path).unwrap()
    }

    pub(crate) fn object(&self, id: &ObjectId) -> PathBuf {
        let (a, b) = id.fan_out();
        self.store.root().join("objects").join(a).join(b).join(id.as_str())
    }

    pub(crate) fn manifest(&self, id: &ObjectId) -> PathBuf {
        self.object(id).with_file_name(transfer::manifest::name_of(id))
    }

    /// Every file below the archive's root, but for the locks of sessions.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let is_lock =
            |path: &PathBuf| path.ends_with("lock") && path.starts_with(self.store.root().join(".sifaka-tmp"));
        files_below(self.store.root()).into_iter().filter(|path| !is_lock(path)).collect()
    }

    pub(crate) fn put(
        &self,
        name: &ObjectId,
        source: &OpenFile,
        options: PutOptions<'_>,
    ) -> Result<Stored, TransferError> {
        self.put_watched(name, source, options, &Unwatched)
    }

    pub(crate) fn put_watched(
        &self,
        name: &ObjectId,
        source: &OpenFile,
        options: PutOptions<'_>,
        monitor: &dyn Monitor,
    ) -> Result<Stored, TransferError> {
        let staged = self.store.stage(name, source, options, monitor)?;
        let (tell, told) = channel();
        self.store.commit(staged, Box::new(move |result| tell.send(result).unwrap()));
        told.recv().unwrap()
    }

    pub(crate) fn remove(&self, name: &ObjectId) -> Result<(), TransferError> {
        let (tell, told) = channel();
        self.store.remove(name, Box::new(move |result| tell.send(result).unwrap()));
        told.recv().unwrap()
    }

    /// Restores into a file that holds `before`; gives back what it holds after.
    pub(crate) fn get_over(
        &self,
        name: &ObjectId,
        before: &[u8],
        expected: Expected,
    ) -> Result<(Restored, Vec<u8>), TransferError> {
        let path = self.base.join("restored");
        fs::write(&path, before).unwrap();
        let restored = self.store.get(name, &OpenFile::for_writing(&path).unwrap(), expected, &Unwatched)?;
        Ok((restored, fs::read(path).unwrap()))
    }
}

pub(crate) fn files_below(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// What everything else is compared with: computed with the libraries directly.
pub(crate) fn hash(kind: DigestKind, content: &[u8]) -> Digest {
    match kind {
        DigestKind::Blake3 => Digest::Blake3(blake3::hash(content).into()),
        DigestKind::Sha1 => Digest::Sha1(<sha1::Sha1 as sha1::Digest>::digest(content).into()),
    }
}

/// Writes a sparse file: pieces of data at offsets, and the rest of `size` holes.
pub(crate) fn sparse_file(path: &Path, size: u64, pieces: &[(u64, u64)], random: &mut Random) -> Vec<u8> {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    let mut content = vec![0; usize::try_from(size).unwrap()];
    for (offset, length) in pieces {
        let end = (offset + length).min(size);
        let piece = &mut content[usize::try_from(*offset).unwrap()..usize::try_from(end).unwrap()];
        random.fill(piece);
        file.write_all_at(piece, *offset).unwrap();
    }
    content
}
