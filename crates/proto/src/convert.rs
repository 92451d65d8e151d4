//! Messages to values and back.

use crate::pdm;
use model::{
    ActionId, Class, Command, Digest, DigestError, ErrorKind, Extent, Failure, Identity, Outcome, Thaw, errno_kind,
    limits::{MAX_ACTION_DATA_BYTES, MAX_WIRE_TEXT_BYTES},
};

/// What a mover said it can do beyond Lemur's protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    /// Understands cancel.
    pub cancel: bool,
    /// Understands verify.
    pub verify: bool,
    /// Uses the proposed uuid.
    pub proposed_uuid: bool,
    /// Restores ranges.
    pub range: bool,
    /// Keeps manifests, and records what has no content.
    pub namespace: bool,
    /// Reads its configuration again on SIGHUP.
    pub reload: bool,
}

impl Capabilities {
    /// From the bits on the wire; unknown bits are ignored.
    #[must_use]
    pub fn from_bits(bits: u32) -> Self {
        let has = |c: pdm::Capability| bits & c as u32 != 0;
        Self {
            cancel: has(pdm::Capability::Cancel),
            verify: has(pdm::Capability::Verify),
            proposed_uuid: has(pdm::Capability::ProposedUuid),
            range: has(pdm::Capability::Range),
            namespace: has(pdm::Capability::Namespace),
            reload: has(pdm::Capability::Reload),
        }
    }

    /// The bits on the wire.
    #[must_use]
    pub fn bits(self) -> u32 {
        let bit = |set: bool, c: pdm::Capability| if set { c as u32 } else { 0 };
        bit(self.cancel, pdm::Capability::Cancel)
            | bit(self.verify, pdm::Capability::Verify)
            | bit(self.proposed_uuid, pdm::Capability::ProposedUuid)
            | bit(self.range, pdm::Capability::Range)
            | bit(self.namespace, pdm::Capability::Namespace)
            | bit(self.reload, pdm::Capability::Reload)
    }
}

/// One action as a mover gets it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Task {
    /// Names the action in reports.
    pub id: ActionId,
    /// What to do.
    pub command: Command,
    /// The file to read (archive, verify).
    pub primary_path: String,
    /// The file to write (restore).
    pub write_path: String,
    /// Which bytes.
    pub extent: Extent,
    /// Passed through from the request.
    pub data: Vec<u8>,
    /// The archived object (restore, remove), or the proposed uuid (archive).
    pub identity: Identity,
    /// For messages to people; may be empty.
    pub file_path: String,
    /// Size the restored content must have, when known.
    pub expected_size: Option<u64>,
    /// Where the file is, relative to its filesystem's root (archive); empty when not known.
    pub tree_path: Vec<u8>,
    /// Not before this time (milliseconds since 1970) an earlier attempt may have stored something under the proposed uuid;
    /// 0 when there was none.
    pub attempted_since_ms: u64,
    /// `tree_path` names something without content: record its metadata (archive).
    pub metadata_only: bool,
    /// The user it is done for.
    pub owner: u32,
    /// Somebody is blocked until it is done.
    pub reader_waits: bool,
    /// What was written is to be on storage before the result (restore): the agent cannot see to that, as its client is another one.
    pub sync_target: bool,
}

impl Task {
    /// How urgent it is.
    #[must_use]
    pub fn class(&self) -> Class {
        if self.reader_waits { Class::Reader } else { Class::of(self.command) }
    }
}

/// What the agent tells a mover.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are tasks, and a box would cost an allocation an action")]
pub enum Instruction {
    /// Do this.
    Run(Task),
    /// Stop that.
    Cancel(ActionId),
}

/// What a mover tells the agent about one action.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The action.
    pub id: ActionId,
    /// The handle of the registration, when the mover gave it.
    pub handle: Option<u64>,
    /// What about it.
    pub body: ReportBody,
}

/// Progress or the end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReportBody {
    /// These bytes were just moved.
    Progress(Extent),
    /// The end. Which outcome success means depends on the command: [`ReportBody::outcome`].
    Done {
        /// What the mover said of the object.
        identity: Identity,
    },
    /// It failed.
    Failed(Failure),
    /// About no action (id 0): how many the mover wants to hold at once from now on.
    Credits(u32),
}

/// A message that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A command this side does not know or must not get.
    #[error("unknown command {0}")]
    Command(i32),
    /// An offset below 0.
    #[error("offset {0} is negative")]
    Extent(i64),
    /// A hash of odd length.
    #[error("{0}")]
    Digest(#[from] DigestError),
    /// A text or data field that is unreasonably long.
    #[error("field {field} has {bytes} bytes, at most {limit} are taken")]
    TooLong {
        /// Name in the .proto.
        field: &'static str,
        /// What came.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Success without what success has to bring.
    #[error("the mover reported success of {0} without {1}")]
    Missing(Command, &'static str),
}

fn limited(field: &'static str, bytes: usize, limit: usize) -> Result<(), WireError> {
    if bytes > limit { Err(WireError::TooLong { field, bytes, limit }) } else { Ok(()) }
}

/// Leaves at most `limit` bytes, and no part of a character.
fn cut(text: &mut String, limit: usize) {
    if text.len() > limit {
        let end = (0..=limit).rev().find(|&at| text.is_char_boundary(at));
        text.truncate(end.unwrap_or_default());
    }
}

fn identity(uuid: String, hash: &[u8], url: String) -> Result<Identity, WireError> {
    limited("uuid", uuid.len(), MAX_WIRE_TEXT_BYTES)?;
    limited("url", url.len(), MAX_WIRE_TEXT_BYTES)?;
    let hash = if hash.is_empty() { None } else { Some(Digest::from_bytes(hash)?) };
    Ok(Identity { uuid, hash, url })
}

impl From<Instruction> for pdm::ActionItem {
    fn from(instruction: Instruction) -> Self {
        let task = match instruction {
            Instruction::Cancel(target) => {
                return Self { op: pdm::Command::Cancel.into(), cancel_target: target.0, ..Self::default() };
            }
            Instruction::Run(task) => task,
        };
        let (offset, length) = task.extent.to_wire();
        let op = match task.command {
            Command::Archive => pdm::Command::Archive,
            Command::Restore => pdm::Command::Restore,
            Command::Remove => pdm::Command::Remove,
            Command::Verify => pdm::Command::Verify,
        };
        Self {
            id: task.id.0,
            op: op.into(),
            primary_path: task.primary_path,
            write_path: task.write_path,
            offset,
            length,
            data: task.data,
            uuid: task.identity.uuid,
            hash: task.identity.hash.map(|h| h.as_bytes().to_vec()).unwrap_or_default(),
            url: task.identity.url,
            file_path: task.file_path,
            expected_size: task.expected_size,
            tree_path: task.tree_path,
            attempted_since_ms: task.attempted_since_ms,
            metadata_only: task.metadata_only,
            owner: task.owner,
            reader_waits: task.reader_waits,
            sync_target: task.sync_target,
            ..Self::default()
        }
    }
}

impl TryFrom<pdm::ActionItem> for Instruction {
    type Error = WireError;

    fn try_from(item: pdm::ActionItem) -> Result<Self, WireError> {
        let command = match pdm::Command::try_from(item.op) {
            Ok(pdm::Command::Archive) => Command::Archive,
            Ok(pdm::Command::Restore) => Command::Restore,
            Ok(pdm::Command::Remove) => Command::Remove,
            Ok(pdm::Command::Verify) => Command::Verify,
            Ok(pdm::Command::Cancel) => return Ok(Self::Cancel(ActionId(item.cancel_target))),
            Ok(pdm::Command::None) | Err(_) => return Err(WireError::Command(item.op)),
        };
        limited("primary_path", item.primary_path.len(), MAX_WIRE_TEXT_BYTES)?;
        limited("write_path", item.write_path.len(), MAX_WIRE_TEXT_BYTES)?;
        limited("file_path", item.file_path.len(), MAX_WIRE_TEXT_BYTES)?;
        limited("tree_path", item.tree_path.len(), MAX_WIRE_TEXT_BYTES)?;
        limited("data", item.data.len(), MAX_ACTION_DATA_BYTES)?;
        Ok(Self::Run(Task {
            id: ActionId(item.id),
            command,
            extent: Extent::from_wire(item.offset, item.length).ok_or(WireError::Extent(item.offset))?,
            primary_path: item.primary_path,
            write_path: item.write_path,
            data: item.data,
            identity: identity(item.uuid, &item.hash, item.url)?,
            file_path: item.file_path,
            expected_size: item.expected_size,
            tree_path: item.tree_path,
            attempted_since_ms: item.attempted_since_ms,
            metadata_only: item.metadata_only,
            owner: item.owner,
            reader_waits: item.reader_waits,
            sync_target: item.sync_target,
        }))
    }
}

impl From<Report> for pdm::ActionStatus {
    fn from(report: Report) -> Self {
        let base = Self { id: report.id.0, handle: report.handle.map(|id| pdm::Handle { id }), ..Self::default() };
        match report.body {
            ReportBody::Progress(extent) => {
                let (offset, length) = extent.to_wire();
                Self { offset, length, ..base }
            }
            ReportBody::Done { identity } => Self {
                completed: true,
                uuid: identity.uuid,
                hash: identity.hash.map(|h| h.as_bytes().to_vec()).unwrap_or_default(),
                url: identity.url,
                ..base
            },
            ReportBody::Failed(failure) => Self {
                completed: true,
                error: if failure.errno == 0 { -1 } else { failure.errno },
                error_kind: match failure.kind {
                    ErrorKind::Temporary => pdm::ErrorKind::Temporary.into(),
                    ErrorKind::Permanent => pdm::ErrorKind::Permanent.into(),
                },
                error_text: failure.message,
                thaw_again_s: failure.thaw.map_or(0, |thaw| thaw.again_s),
                ..base
            },
            ReportBody::Credits(credits) => Self { credits, ..base },
        }
    }
}

impl TryFrom<pdm::ActionStatus> for Report {
    type Error = WireError;

    fn try_from(status: pdm::ActionStatus) -> Result<Self, WireError> {
        let body = if status.error != 0 {
            // Lemur sends -1 for everything: what that was nobody knows, so it is tried again.
            let errno = if status.error > 0 { status.error } else { 5 };
            let kind = match pdm::ErrorKind::try_from(status.error_kind) {
                Ok(pdm::ErrorKind::Temporary) => ErrorKind::Temporary,
                Ok(pdm::ErrorKind::Permanent) => ErrorKind::Permanent,
                Ok(pdm::ErrorKind::Unspecified) | Err(_) => errno_kind(errno),
            };
            let mut message = status.error_text;
            if message.is_empty() {
                message = format!("the mover reported error {}", status.error);
            }
            cut(&mut message, MAX_WIRE_TEXT_BYTES);
            let is_thaw = kind == ErrorKind::Temporary && status.thaw_again_s > 0;
            let thaw = is_thaw.then_some(Thaw { since_ms: 0, again_s: status.thaw_again_s });
            ReportBody::Failed(Failure { kind, errno, message, thaw })
        } else if status.completed {
            ReportBody::Done { identity: identity(status.uuid, &status.hash, status.url)? }
        } else if status.id == 0 && status.credits > 0 {
            ReportBody::Credits(status.credits)
        } else {
            let extent = Extent::from_wire(status.offset, status.length);
            ReportBody::Progress(extent.ok_or(WireError::Extent(status.offset))?)
        };
        Ok(Self { id: ActionId(status.id), handle: status.handle.map(|h| h.id), body })
    }
}

impl ReportBody {
    /// What the end of an action of this command means; `None` for what is no end.
    pub fn outcome(self, command: Command) -> Option<Result<Outcome, WireError>> {
        let identity = match self {
            Self::Progress(_) | Self::Credits(_) => return None,
            Self::Failed(failure) => return Some(Ok(Outcome::Failed(failure))),
            Self::Done { identity } => identity,
        };
        Some(match command {
            Command::Archive if identity.uuid.is_empty() => Err(WireError::Missing(command, "an object id")),
            Command::Archive => Ok(Outcome::Archived(identity)),
            Command::Restore => Ok(Outcome::Restored(identity.hash)),
            Command::Remove => Ok(Outcome::Removed),
            Command::Verify => identity.hash.map(Outcome::Verified).ok_or(WireError::Missing(command, "a hash")),
        })
    }
}

#[cfg(test)]
mod tests;
