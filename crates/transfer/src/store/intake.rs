//! How a file becomes an object and its manifest, in temporary files.

use super::posix::{PosixStore, not_reserved};
use super::session::{TempFile, Written};
use super::{Origin, PutOptions};
use crate::copy::intake::{Hashes, Intake, Outlet, take_in};
use crate::copy::kernel::reflink;
use crate::copy::sink::Encoded;
use crate::copy::source::FileSource;
use crate::copy::{Copied, copy_file, run};
use crate::manifest::{Content, HoleMap, Manifest, ManifestError, describe};
use crate::{DigestKind, Encoding, Monitor, OpenFile, TransferError};
use model::limits::CHUNK_SIZE_BYTES;
use model::{Digest, ObjectId};

impl PosixStore {
    pub(super) fn take_in(
        &self,
        id: &ObjectId,
        source: &OpenFile,
        encoding: Encoding,
        options: PutOptions<'_>,
        monitor: &dyn Monitor,
    ) -> Result<(Written, Copied), TransferError> {
        if let (Some(origin), Some(DigestKind::Blake3)) = (options.origin, options.digest)
            && let Some(done) = self.take_in_described(id, source, encoding, origin, monitor)?
        {
            return Ok(done);
        }
        let object = self.create(id)?;
        let copied = if encoding == Encoding::Raw {
            copy_file(source, object.file(), options.digest, monitor)?
        } else {
            let mut content = FileSource::new(source)?;
            let mut sink = Encoded::new(object.file(), encoding, content.size())?;
            let copied = run(&mut content, &mut sink, options.digest, monitor)?;
            sink.finish()?;
            copied
        };
        Ok((Written { object: Some(object), manifest: None }, copied))
    }

    /// With a manifest. `None` for what is larger than any manifest can describe.
    fn take_in_described(
        &self,
        id: &ObjectId,
        source: &OpenFile,
        encoding: Encoding,
        origin: Origin<'_>,
        monitor: &dyn Monitor,
    ) -> Result<Option<(Written, Copied)>, TransferError> {
        let description = describe(source, origin.path, origin.fsid)?;
        if !description.fits() {
            return Ok(None);
        }
        let (size, blocks) = (description.size, description.blocks);
        let holes = HoleMap::of(source, size, blocks)?;
        let kept = holes.clone().into_extents();
        let content = Content { size, stored_bytes: size, encoding, hash: [0; 32], holes: kept };
        let (object, table) = (self.create(id)?, self.create(id)?);
        let mut manifest = description.with_content(id.clone(), content);
        // Its length does not depend on what is not known yet. Content of one chunk has no table behind it.
        let start = if size > CHUNK_SIZE_BYTES as u64 { encoded(&manifest, source)?.len() as u64 } else { 0 };
        let hashes = Hashes::new(size, encoding, start, Some(table.file()));
        let stored_bytes = if encoding == Encoding::Raw && reflink(source, size, object.file())? {
            let intake = Intake { file: object.file(), size, holes: &holes };
            take_in(&intake, Outlet::Nothing, Some(&hashes), monitor)?;
            size
        } else {
            let intake = Intake { file: source, size, holes: &holes };
            let outlet = match encoding {
                Encoding::Raw => Outlet::Raw(object.file()),
                other => Outlet::Frames(object.file(), other),
            };
            take_in(&intake, outlet, Some(&hashes), monitor)?
        };
        // Every chunk came: else taking it in had failed.
        let Some((hash, blocks)) = hashes.finish() else { return Err(TransferError::Cancelled) };
        if let crate::manifest::Kind::File(content) = &mut manifest.kind {
            (content.hash, content.stored_bytes) = (hash, stored_bytes);
        }
        let mut head = encoded(&manifest, source)?;
        for block in blocks {
            if block.offset == head.len() as u64 {
                head.extend(block.bytes);
            } else {
                table.file().write_all_at(&block.bytes, block.offset)?;
            }
        }
        table.file().write_all_at(&head, 0)?;
        let copied = Copied { bytes: size, digest: Some(Digest::Blake3(hash)) };
        Ok(Some((Written { object: Some(object), manifest: Some(table) }, copied)))
    }

    /// A manifest alone.
    pub(super) fn write_record(&self, record: &Manifest) -> Result<Written, TransferError> {
        not_reserved(&record.object)?;
        self.begin()?;
        let manifest: TempFile = self.create(&record.object)?;
        let bytes = match record.content() {
            None => record.encode(),
            Some(_) => Err(ManifestError::Unfit("it has content, which only an object can hold")),
        };
        let bytes = bytes.map_err(|e| undescribed(manifest.file(), &e))?;
        manifest.file().write_all_at(&bytes, 0)?;
        Ok(Written { object: None, manifest: Some(manifest) })
    }
}

fn encoded(manifest: &Manifest, source: &OpenFile) -> Result<Vec<u8>, TransferError> {
    manifest.encode().map_err(|e| undescribed(source, &e))
}

fn undescribed(file: &OpenFile, error: &ManifestError) -> TransferError {
    TransferError::Undescribed { path: file.path().to_owned(), why: error.to_string() }
}
