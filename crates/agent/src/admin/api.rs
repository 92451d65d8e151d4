//! What goes over the admin socket, as values.
//!
//! Requests refuse fields they do not know, so that a misspelt one is an error and not a different request; replies may grow
//! fields, and an older client passes over them. Times are milliseconds since 1970 by the agent's clock.

use model::limits::{MAX_ACTION_DATA_BYTES, MAX_WIRE_TEXT_BYTES};
use model::{ActionId, Class, Command, Failure, FileHandle};
use serde::{Deserialize, Serialize};

/// The most files one call may name.
pub const MAX_FILES: usize = 4096;
/// A name in a directory, as Linux limits it.
const MAX_NAME_BYTES: usize = 255;
/// The most bytes a request's body may have.
pub const MAX_BODY_BYTES: usize = 8 << 20;
/// The longest wait of a long poll, in milliseconds.
pub const MAX_WAIT_MS: u64 = 30_000;
/// The most entries a listing gives at once.
pub const MAX_LIMIT: usize = 1000;
/// What a listing gives when no limit is asked for.
pub const DEFAULT_LIMIT: usize = 100;

/// A file as the client means it: the handle counts, the path is for display.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRef {
    /// `name_to_handle_at` of what the user named.
    pub handle: FileHandle,
    /// The filesystem it is on, as [`fsid_text`]. The agent refuses files of filesystems it does not serve.
    pub fsid: String,
    /// Where the user knows it, lossy where it is not UTF-8.
    pub path: String,
}

/// Something without content, or a further name of a file, for the archive to record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordRef {
    /// The inode's handle.
    pub handle: FileHandle,
    /// The filesystem it is on, as [`fsid_text`].
    pub fsid: String,
    /// Where the user knows it, lossy where it is not UTF-8.
    pub path: String,
    /// The directory it is in; `None` for a directory, which is in one only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<FileHandle>,
    /// Its name there; base64 on the wire.
    #[serde(default, with = "base64_text", skip_serializing_if = "Vec::is_empty")]
    pub name: Vec<u8>,
}

/// [`sys::mounts::FsInfo::fsid`], as the API writes it: 16 hexadecimal digits.
#[must_use]
pub fn fsid_text(fsid: [u8; 8]) -> String {
    fsid.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What may be asked for with [`SubmitRequest`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestCommand {
    /// Copy the content into the archive.
    Archive,
    /// Bring the content back.
    Restore,
    /// Forget the archive copy and remove it.
    Remove,
}

impl From<RequestCommand> for Command {
    fn from(command: RequestCommand) -> Self {
        match command {
            RequestCommand::Archive => Self::Archive,
            RequestCommand::Restore => Self::Restore,
            RequestCommand::Remove => Self::Remove,
        }
    }
}

/// `POST /v1/requests`: accepts actions. They are on stable storage when the reply comes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubmitRequest {
    /// What to do.
    pub command: RequestCommand,
    /// In which archive; `None`: the file's own, or the agent's default one.
    #[serde(default)]
    pub archive_id: Option<u32>,
    /// With an archive: the archives in which each file is to have a copy; empty: what the agent's configuration says. Not with
    /// `archive_id`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<u32>,
    /// Passed through to the mover; base64 on the wire.
    #[serde(default, with = "base64_text")]
    pub data: Vec<u8>,
    /// Adds to an earlier request instead of beginning one.
    #[serde(default)]
    pub request: Option<u64>,
    /// To which files, at most [`MAX_FILES`].
    pub files: Vec<FileRef>,
    /// Directories, links and special files to be recorded with an archive, at most [`MAX_FILES`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<RecordRef>,
    /// Archive even what is clean.
    #[serde(default)]
    pub force: bool,
}

/// What became of a [`SubmitRequest`]: each file is counted once.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Submitted {
    /// The request to wait for. Also given when nothing was accepted.
    pub request: u64,
    /// Files that got a new action.
    pub accepted: u64,
    /// Directories, links and special files that are going to be recorded; they count in the request's totals.
    #[serde(default)]
    pub records: u64,
    /// Files for which there is nothing to do: archived and clean, resident, or without an archive copy.
    pub already: u64,
    /// Files that were refused.
    pub refused: Vec<Refused>,
}

/// A file that was refused, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refused {
    /// The path of its [`FileRef`].
    pub path: String,
    /// Linux errno.
    pub errno: i32,
    /// Why, for a person.
    pub message: String,
}

/// `GET /v1/requests/{id}?wait_ms=N`: how far a request is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RequestStatus {
    /// Actions accepted.
    pub total: u64,
    /// Ended well.
    pub succeeded: u64,
    /// Ended in an error.
    pub failed: u64,
    /// Cancelled.
    pub cancelled: u64,
    /// Bytes moved by those that ended well.
    pub bytes: u64,
    /// Bytes moved so far by those that are running.
    pub in_flight_bytes: u64,
}

impl RequestStatus {
    /// Whether every action has its result.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.ended() >= self.total
    }

    /// Actions that have their result.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.succeeded.saturating_add(self.failed).saturating_add(self.cancelled)
    }
}

/// `POST /v1/release`, `POST /v1/files/status`: some files.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesRequest {
    /// Which, at most [`MAX_FILES`].
    pub files: Vec<FileRef>,
}

/// What `POST /v1/release` did. Released files are released durably.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Released {
    /// Files whose blocks were freed.
    pub released: u64,
    /// Bytes freed.
    pub bytes: u64,
    /// Files that were released already.
    pub already: u64,
    /// Files that were not released.
    pub refused: Vec<Refused>,
}

/// `POST /v1/cancel`: which actions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CancelRequest {
    /// All actions of these files, at most [`MAX_FILES`].
    Files(Vec<FileRef>),
    /// These.
    Actions(Vec<ActionId>),
    /// All of a request.
    Request(u64),
    /// All there are; `false` is refused.
    All(bool),
}

/// What `POST /v1/cancel` did. A running action ends soon after; the cancellation itself is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Cancelled {
    /// Actions that were told to end.
    pub cancelled: u64,
    /// Files or actions named for which there was nothing to cancel.
    pub not_found: u64,
    /// Of many files on Lustre: those whose actions were told to end, if there were any. Nobody counts these.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub asked: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One of the replies to `POST /v1/files/status`, in the order of the files.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileStatus {
    /// The path of its [`FileRef`].
    pub path: String,
    /// Its handle.
    pub handle: FileHandle,
    /// Whether it has HSM state at all. The fields below are empty if not.
    pub managed: bool,
    /// Names of its flags, as `model::HsmFlags` has them.
    pub flags: Vec<String>,
    /// In which archive; 0 for none.
    pub archive_id: u64,
    /// The object's id; empty for none.
    pub uuid: String,
    /// The content's hash in hexadecimal; empty for none.
    pub hash: String,
    /// The object's URL; empty for none.
    pub url: String,
    /// The further copies of that content, in other archives.
    #[serde(default)]
    pub copies: Vec<FurtherCopy>,
    /// Present size in bytes.
    pub size: u64,
    /// Size of the archived version in bytes.
    pub archived_size: Option<u64>,
    /// Whether the content is known to differ from the archived version.
    pub dirty: bool,
    /// What is being done to it.
    pub action: Option<ActionView>,
    /// Why the status could not be had.
    pub error: Option<String>,
}

/// A further copy of a file's archived content.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FurtherCopy {
    /// In which archive.
    pub archive_id: u32,
    /// The object's id.
    pub uuid: String,
    /// The content's hash in hexadecimal; empty for none.
    pub hash: String,
    /// The object's URL; empty for none.
    pub url: String,
}

impl FileStatus {
    /// Whether the flag of this name is set.
    #[must_use]
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|have| have == flag)
    }
}

/// `POST /v1/files/set`: changes flags and archive ids.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetRequest {
    /// Names of flags to set; they must be among `model::HsmFlags::SETTABLE`.
    #[serde(default)]
    pub set: Vec<String>,
    /// Names of flags to clear.
    #[serde(default)]
    pub clear: Vec<String>,
    /// The new archive id.
    #[serde(default)]
    pub archive_id: Option<u32>,
    /// Of which files, at most [`MAX_FILES`].
    pub files: Vec<FileRef>,
}

/// What `POST /v1/files/set` did.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FilesSet {
    /// Files whose state is now as asked.
    pub changed: u64,
    /// Files that were refused.
    pub refused: Vec<Refused>,
}

/// What `POST /v1/reload` did: the agent read its configuration again and found nothing wrong.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Reloaded {
    /// Keys whose new values count from now on.
    pub applied: Vec<Setting>,
    /// Keys whose new values count when the agent is started the next time. Named until then.
    pub needs_restart: Vec<Setting>,
    /// The plugins.
    pub movers: Vec<crate::ReloadedMover>,
    /// What is odd about the files, as `FILE:LINE:COLUMN: what (what to do)`.
    pub warnings: Vec<String>,
}

/// A key of the configuration whose value changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Setting {
    /// As `key` or `section.key`.
    pub key: String,
    /// The value before, as in a file; empty for none.
    pub from: String,
    /// The value now.
    pub to: String,
}

/// Where a live action is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActionState {
    /// Waits for its turn.
    Queued,
    /// A mover has it.
    Running,
    /// Failed at least once, and waits to be tried again.
    Retrying,
    /// Waits until its object is thawed out of a cold storage class.
    Thawing,
}

/// An action that has no result yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ActionView {
    /// Its name.
    pub id: ActionId,
    /// The request it belongs to; 0 for none.
    pub request: u64,
    /// What to do.
    pub command: Command,
    /// How urgent.
    pub class: Class,
    /// In which archive.
    pub archive_id: u32,
    /// To which file, for display.
    pub path: String,
    /// On Lustre: the file's FID, and the coordinator's number of it, as `lctl get_param mdt.*.hsm.actions` shows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fid: Option<String>,
    /// See `fid`: `0x…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
    /// Where it is.
    pub state: ActionState,
    /// Which mover has it.
    pub mover: Option<String>,
    /// How often it failed so far.
    pub attempts: u32,
    /// Bytes moved so far in this attempt.
    pub bytes_done: u64,
    /// The file's size in bytes, where known.
    pub size: Option<u64>,
    /// When it was asked for.
    pub created_ms: u64,
    /// Earliest (next) start.
    pub not_before_ms: u64,
    /// Since when its object is being thawed, when that is what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thawing_since_ms: Option<u64>,
    /// Why it failed last, or what it waits for.
    pub last_error: Option<Failure>,
}

/// An action with its result.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FinishedView {
    /// Its name.
    pub id: ActionId,
    /// The request it belonged to; 0 for none.
    pub request: u64,
    /// What was done.
    pub command: Command,
    /// In which archive.
    pub archive_id: u32,
    /// To which file, for display.
    pub path: String,
    /// `None` for success.
    pub error: Option<Failure>,
    /// Bytes moved.
    pub bytes: u64,
    /// When it was asked for.
    pub created_ms: u64,
    /// When it ended.
    pub finished_ms: u64,
}

/// `GET /v1/actions/{id}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActionReport {
    /// Waits or runs.
    Live(ActionView),
    /// Has its result.
    Finished(FinishedView),
}

/// The query of `GET /v1/actions`: entries by id, from just after `after`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionsQuery {
    /// Only this command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Command>,
    /// Only this archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<u32>,
    /// Only this request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<u64>,
    /// Only larger ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// How many; see [`DEFAULT_LIMIT`] and [`MAX_LIMIT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// The query of `GET /v1/actions/finished` (newest first) and of `GET /v1/requests/{id}/failures`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinishedQuery {
    /// Only smaller ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// How many; see [`DEFAULT_LIMIT`] and [`MAX_LIMIT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// The query of `GET /v1/requests/{id}`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitQuery {
    /// The reply comes when the request is finished, or after so long; at most [`MAX_WAIT_MS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

/// `GET /v1/status`: how the agent is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StatusReport {
    /// The agent's version.
    pub version: String,
    /// The agent's process.
    pub pid: u32,
    /// When it started.
    pub started_ms: u64,
    /// Endpoints, plugins and statistics, as the agent's own status has them.
    pub agent: serde_json::Value,
    /// Where its actions come from.
    pub source: SourceStatus,
}

/// The coordinator's side of [`StatusReport`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SourceStatus {
    /// What is served, as the configuration names it.
    pub filesystem: String,
    /// The filesystem's type: ext4, xfs, btrfs.
    pub kind: String,
    /// Where the private mounts are.
    pub mount_root: String,
    /// The guard; `None` when there is none (no local filesystem, or no privilege).
    pub guard: Option<GuardStatus>,
    /// Entries that wait or run, by class and command.
    pub queue: Vec<QueueCount>,
    /// Finished with success, ever.
    pub succeeded: u64,
    /// Finished with an error, ever.
    pub failed: u64,
    /// Processes that are blocked on a released file at this moment.
    pub blocked_readers: u64,
    /// How often a chunk of a file could not be restored for good, since the agent started: the archive's copy is damaged or gone.
    #[serde(default)]
    pub damaged_chunks: u64,
}

/// How the guard is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct GuardStatus {
    /// Its process.
    pub pid: u32,
    /// How often a new one had to be started.
    pub restarts: u64,
    /// Permission events that it took.
    pub events: u64,
    /// Events passed to the agent that have no answer yet.
    pub waiting_readers: u64,
}

/// A number of actions that wait or run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QueueCount {
    /// How urgent.
    pub class: Class,
    /// What to do.
    pub command: Command,
    /// In which archive.
    pub archive_id: u32,
    /// How many.
    pub count: u64,
}

/// Why a request is refused before anything is done. The text names the field.
pub(super) type Invalid = String;

/// Requests that have limits.
pub(super) trait Validate {
    fn validate(&self) -> Result<(), Invalid>;
}

impl Validate for SubmitRequest {
    fn validate(&self) -> Result<(), Invalid> {
        if self.data.len() > MAX_ACTION_DATA_BYTES {
            return Err(format!("data: {} bytes, at most {MAX_ACTION_DATA_BYTES} are passed on", self.data.len()));
        }
        validate_archive(self.archive_id)?;
        validate_copies(self)?;
        if self.command != RequestCommand::Archive && !self.records.is_empty() {
            return Err("records: they go with an archive only".to_owned());
        }
        if let Some(index) = self.records.iter().position(|record| record.name.len() > MAX_NAME_BYTES) {
            return Err(format!("records[{index}].name: longer than {MAX_NAME_BYTES} bytes"));
        }
        validate_named("records", self.records.iter().map(|record| (record.path.as_str(), record.fsid.as_str())))?;
        validate_files(&self.files)
    }
}

impl Validate for FilesRequest {
    fn validate(&self) -> Result<(), Invalid> {
        validate_files(&self.files)
    }
}

impl Validate for SetRequest {
    fn validate(&self) -> Result<(), Invalid> {
        for name in self.set.iter().chain(&self.clear) {
            let settable = |flag: model::HsmFlags| model::HsmFlags::SETTABLE.contains(flag);
            if !model::HsmFlags::from_name(name).is_some_and(settable) {
                let known = model::HsmFlags::SETTABLE.names().collect::<Vec<_>>().join(", ");
                return Err(format!("no flag {name:?} can be set or cleared: those that can are {known}"));
            }
        }
        if let Some(both) = self.set.iter().find(|name| self.clear.contains(name)) {
            return Err(format!("flag {both:?} is to be set and cleared at once"));
        }
        validate_archive(self.archive_id)?;
        validate_files(&self.files)
    }
}

impl Validate for CancelRequest {
    fn validate(&self) -> Result<(), Invalid> {
        match self {
            Self::Files(files) => validate_files(files),
            Self::Actions(ids) if ids.len() > MAX_FILES => {
                Err(format!("actions: {} named, at most {MAX_FILES} may be", ids.len()))
            }
            Self::All(false) => Err("all: only true means anything".to_owned()),
            Self::Actions(_) | Self::Request(_) | Self::All(true) => Ok(()),
        }
    }
}

fn validate_archive(id: Option<u32>) -> Result<(), Invalid> {
    if id == Some(0) { Err("archive_id: 0 is no archive, they are numbered from 1".to_owned()) } else { Ok(()) }
}

/// As many as a file can name: the first one and the further ones.
const MAX_COPIES: usize = model::Copies::MAX + 1;

fn validate_copies(request: &SubmitRequest) -> Result<(), Invalid> {
    let copies = &request.copies;
    if copies.is_empty() {
        return Ok(());
    }
    if request.command != RequestCommand::Archive || request.archive_id.is_some() {
        return Err("copies: they go with an archive only, and without archive_id".to_owned());
    }
    if copies.len() > MAX_COPIES {
        return Err(format!("copies: {} archives named, at most {MAX_COPIES} may be", copies.len()));
    }
    copies.iter().try_for_each(|id| validate_archive(Some(*id)))?;
    let named_before = |(index, id): (usize, &u32)| copies.iter().take(index).any(|before| before == id);
    if copies.iter().enumerate().any(named_before) {
        Err("copies: an archive is named twice".to_owned())
    } else {
        Ok(())
    }
}

fn validate_files(files: &[FileRef]) -> Result<(), Invalid> {
    validate_named("files", files.iter().map(|file| (file.path.as_str(), file.fsid.as_str())))
}

pub(super) fn validate_named<'a>(
    what: &str,
    named: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
) -> Result<(), Invalid> {
    if named.len() > MAX_FILES {
        return Err(format!("{what}: {} named, at most {MAX_FILES} may be in one call", named.len()));
    }
    for (index, (path, fsid)) in named.enumerate() {
        if path.len() > MAX_WIRE_TEXT_BYTES {
            return Err(format!("{what}[{index}].path: longer than {MAX_WIRE_TEXT_BYTES} bytes"));
        }
        if fsid.len() != 16 || !fsid.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Err(format!("{what}[{index}].fsid: expected 16 hexadecimal digits"));
        }
    }
    Ok(())
}

/// Bytes as base64 text (RFC 4648, with padding).
pub(super) mod base64_text {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::admin) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(in crate::admin) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map_err(|why| serde::de::Error::custom(format!("not base64: {why}")))
    }
}
