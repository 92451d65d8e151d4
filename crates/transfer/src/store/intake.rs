//! How a file becomes an object and its manifest, in temporary files.

use super::forms::not_reserved;
use super::posix::PosixStore;
use super::session::{TempFile, Written};
use super::{Origin, PutOptions};
use crate::copy::archive::{described, undescribed};
use crate::copy::intake::{Intake, Outlet, take_in};
use crate::copy::kernel::reflink;
use crate::copy::sink::Encoded;
use crate::copy::source::FileSource;
use crate::copy::{Copied, copy_file, run};
use crate::manifest::{Manifest, ManifestError};
use crate::{DigestKind, Encoding, Monitor, OpenFile, TransferError};
use model::ObjectId;

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
        let (object, table) = (self.create(id)?, self.create(id)?);
        let copied = described(id, source, encoding, origin, table.file(), |intake, hashes| {
            let size = intake.size;
            if encoding == Encoding::Raw && reflink(source, size, object.file())? {
                let intake = Intake { file: object.file(), ..*intake };
                take_in(&intake, Outlet::Nothing, Some(hashes), monitor)?;
                return Ok(size);
            }
            let outlet = match encoding {
                Encoding::Raw => Outlet::Raw(object.file()),
                other => Outlet::Frames(object.file(), other),
            };
            take_in(intake, outlet, Some(hashes), monitor)
        })?;
        Ok(copied.map(|copied| (Written { object: Some(object), manifest: Some(table) }, copied)))
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
