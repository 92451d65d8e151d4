//! Members of packs as objects of the posix store, and what has to look at both.

use super::forms::with_encoding;
use super::group::GroupSync;
use super::packing::as_object;
use super::packs::{Arrival, Found, Repacked};
use super::posix::{PosixStore, StagedObject, publish};
use super::root::Root;
use super::session::{Sessions, Written};
use super::{Expected, Store as _};
use crate::copy::{ChunkReader, Copied, open_member};
use crate::manifest::{Manifest, ManifestError, ReadAt, Window};
use crate::pack::{MemberId, MemberName, NewMember};
use crate::{Encoding, OpenFile, TransferError};
use model::ObjectId;
use std::fs::File;
use std::io;
use std::sync::Arc;

/// What objects and manifests are read from: files, parts of packs, memory.
pub enum Part {
    /// A file of its own.
    File(OpenFile),
    /// So many bytes in a pack.
    InPack(Window<File>, u64),
    /// Read already.
    Memory(Vec<u8>),
}

impl Part {
    /// How many bytes there are.
    pub(super) fn bytes(&self) -> Result<u64, TransferError> {
        match self {
            Self::File(file) => Ok(file.stamp()?.size),
            Self::InPack(_, length) => Ok(*length),
            Self::Memory(bytes) => Ok(bytes.len() as u64),
        }
    }
}

impl ReadAt for Part {
    fn read_full_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read_full_at(buffer, offset),
            Self::InPack(window, _) => window.read_full_at(buffer, offset),
            Self::Memory(bytes) => bytes.read_full_at(buffer, offset),
        }
    }
}

impl PosixStore {
    /// Under which ids content that was proposed as `proposed` is stored: as an object, or in packs of attempts since that time
    /// (milliseconds since 1970). For a repeated archive, and for removals by the proposed id.
    pub(super) fn stored_attempts(&self, proposed: &ObjectId, since_ms: u64) -> Result<Vec<ObjectId>, TransferError> {
        let mut found = Vec::new();
        for encoding in Encoding::ALL {
            let id = with_encoding(proposed, encoding)?;
            let has_manifest = || match self.manifest(&id) {
                Err(TransferError::NoManifest { .. }) => Ok(true),
                other => other.map(|manifest| manifest.is_some()),
            };
            if self.head(&id)?.is_some() || has_manifest()? {
                found.push(id);
            }
        }
        if let Some(name) = MemberName::parse(proposed.as_str()) {
            found.extend(self.packs.attempts(name, since_ms)?);
        }
        Ok(found)
    }

    /// Takes removed members out of packs, where that frees half of a pack or more. Calls `pause` with the bytes that were moved after
    /// each pack that was rewritten, for whoever wants to do it slowly. Several processes may do it at once.
    pub fn repack(&self, pause: &mut dyn FnMut(u64)) -> Result<Repacked, TransferError> {
        self.packs.repack(pause)
    }

    /// A member's content, to be read by chunks. Each member can be: it has a manifest.
    pub(super) fn member_chunks(
        &self,
        id: &MemberId,
        expected: Expected,
    ) -> Result<ChunkReader<Part, Part>, TransferError> {
        let found = self.packs.find(id)?.ok_or_else(|| self.packs.missing(id))?;
        let Found { path, manifest, content, length } = found;
        open_member(path, Part::Memory(manifest), (Part::InPack(content, length), length), expected)
    }

    /// A member's description; `None` when it is not there.
    pub(super) fn manifest_in_pack(&self, id: &MemberId) -> Result<Option<(Manifest, u64)>, TransferError> {
        let Some(found) = self.packs.find(id)? else { return Ok(None) };
        let mut manifest = member_manifest(&found)?;
        manifest.object = id.object_id()?;
        Ok(Some((manifest, found.length)))
    }
}

fn member_manifest(found: &Found) -> Result<Manifest, TransferError> {
    let damaged =
        |e: ManifestError| TransferError::Damaged { path: found.path.clone(), why: format!("its manifest: {e}") };
    Manifest::decode(&found.manifest).map_err(damaged)
}

/// Makes ordinary objects of files that were to be packed, and came alone.
pub(super) struct Ordinary {
    pub(super) root: Arc<Root>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) group: Arc<GroupSync>,
}

impl Ordinary {
    pub(super) fn store(&self, arrival: Arrival) {
        let Arrival { member, bytes, digest, done } = arrival;
        match self.write(member) {
            Err(e) => done(Err(e)),
            Ok((id, written)) => {
                let object = StagedObject { id, written, copied: Copied { bytes, digest }, synced: false };
                publish(&self.group, &self.root, object, done);
            }
        }
    }

    fn write(&self, member: NewMember) -> Result<(ObjectId, Written), TransferError> {
        let (id, manifest, content) = as_object(member)?;
        let described = self.sessions.create(&id)?;
        described.file().write_all_at(&manifest, 0)?;
        let object = self.sessions.create(&id)?;
        object.file().write_all_at(&content, 0)?;
        Ok((id, Written { object: Some(object), manifest: Some(described) }))
    }
}
