//! `sifaka scrub --repair`: objects that are damaged or gone are made anew from what is still good.
//!
//! The agent does it, as if an administrator asked for it file by file: a released file is restored, which takes a good copy
//! from another archive; then it is archived again in all its archives; and released again. So nothing is written over a
//! damaged object, a file that cannot be restored stays as it is, and whatever is interrupted can be asked for again.

use crate::client::Client;
use crate::exit::CliError;
use crate::output::{complain, escaped};
use agent::admin::api::{
    FileRef, FileStatus, FilesRequest, FinishedView, Released, RequestCommand, RequestStatus, SubmitRequest, Submitted,
    fsid_text,
};
use maintenance::report::{Finding, Problem, Watcher};
use model::FileHandle;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Objects that one run repairs; what more there are, the next one finds.
const MAX_OBJECTS: usize = 100_000;
const POLL_MS: u64 = 2000;

/// What was repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Mended {
    /// Objects that were made anew under other names.
    pub(crate) repaired: u64,
    /// Objects that no file names any more.
    pub(crate) unnamed: u64,
    /// Objects of which nothing good was found, or that could not be looked at.
    pub(crate) failed: u64,
}

/// Notes what is damaged, and tells everything to another.
pub(crate) struct Noting<'a> {
    watcher: &'a dyn Watcher,
    damaged: Mutex<BTreeMap<String, (FileHandle, Vec<u8>)>>,
}

impl<'a> Noting<'a> {
    pub(crate) fn new(watcher: &'a dyn Watcher) -> Self {
        Self { watcher, damaged: Mutex::default() }
    }

    /// By object: the inode and the path of its manifest.
    pub(crate) fn into_damaged(self) -> BTreeMap<String, (FileHandle, Vec<u8>)> {
        self.damaged.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher for Noting<'_> {
    fn phase(&self, what: &'static str, total: Option<u64>) {
        self.watcher.phase(what, total);
    }

    fn advanced(&self, count: u64) {
        self.watcher.advanced(count);
    }

    fn found(&self, finding: Finding) {
        if matches!(finding.problem, Problem::Damage | Problem::NoObject)
            && let (Some(object), Some(inode)) = (&finding.object, &finding.inode)
        {
            let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
            if damaged.len() < MAX_OBJECTS {
                damaged.insert(object.clone(), (inode.clone(), finding.path.clone().unwrap_or_default()));
            }
        }
        self.watcher.found(finding);
    }
}

/// Has the agent make the objects anew. What becomes of each that cannot be is told on standard error.
///
/// # Errors
/// The agent cannot be reached.
pub(crate) async fn mend(
    socket: &Path,
    mount_point: &Path,
    fsid: [u8; 8],
    archive_id: u32,
    damaged: BTreeMap<String, (FileHandle, Vec<u8>)>,
) -> Result<Mended, CliError> {
    let mut agent = Agent { client: Client::new(socket) };
    let mut mended = Mended::default();
    for (object, (handle, path)) in damaged {
        let path = format!("{}/{}", mount_point.display(), String::from_utf8_lossy(&path));
        let file = FileRef { handle, fsid: fsid_text(fsid), path };
        match agent.mend_one(&file, archive_id, &object).await? {
            Ok(true) => mended.repaired += 1,
            Ok(false) => mended.unnamed += 1,
            Err(why) => {
                mended.failed += 1;
                complain(&format!("{} (object {object}): not repaired: {}", escaped(&file.path), escaped(&why)));
            }
        }
    }
    Ok(mended)
}

struct Agent {
    client: Client,
}

/// Or why it did not work.
type Done<T> = Result<T, String>;

impl Agent {
    /// Whether the object was made anew; `false`: the file does not name it any more, or is gone.
    async fn mend_one(&mut self, file: &FileRef, archive_id: u32, object: &str) -> Result<Done<bool>, CliError> {
        let files = || FilesRequest { files: vec![file.clone()] };
        let found: Vec<FileStatus> = self.client.post("/v1/files/status", &files()).await?;
        let Some(status) = found.into_iter().next().filter(|status| status.error.is_none()) else {
            return Ok(Ok(false));
        };
        let mut archives: Vec<u32> = status.copies.iter().map(|copy| copy.archive_id).collect();
        let further = status.copies.iter().any(|copy| copy.archive_id == archive_id && copy.uuid == object);
        let first = status.archive_id == u64::from(archive_id) && status.uuid == object;
        if !first && !further {
            return Ok(Ok(false));
        }
        archives.insert(0, u32::try_from(status.archive_id).unwrap_or(archive_id));
        let was_released = status.has("released");
        if was_released && let Err(why) = self.ask(RequestCommand::Restore, file, Vec::new()).await? {
            return Ok(Err(why));
        }
        if let Err(why) = self.ask(RequestCommand::Archive, file, archives).await? {
            return Ok(Err(why));
        }
        if was_released {
            let done: Released = self.client.post("/v1/release", &files()).await?;
            if let Some(refused) = done.refused.into_iter().next() {
                complain(&format!(
                    "{}: repaired, and not released again: {}",
                    escaped(&file.path),
                    escaped(&refused.message)
                ));
            }
        }
        Ok(Ok(true))
    }

    /// One action for one file, to its end.
    async fn ask(&mut self, command: RequestCommand, file: &FileRef, archives: Vec<u32>) -> Result<Done<()>, CliError> {
        let only = archives.first().copied().filter(|_| archives.len() == 1);
        let request = SubmitRequest {
            command,
            archive_id: only,
            copies: if only.is_some() { Vec::new() } else { archives },
            data: Vec::new(),
            request: None,
            files: vec![file.clone()],
            records: Vec::new(),
            force: command == RequestCommand::Archive,
        };
        let submitted: Submitted = self.client.post("/v1/requests", &request).await?;
        if let Some(refused) = submitted.refused.into_iter().next() {
            return Ok(Err(refused.message));
        }
        let address = format!("/v1/requests/{}", submitted.request);
        loop {
            let query = [("wait_ms", Some(POLL_MS.to_string()))];
            let status: RequestStatus = self.client.get(&address, &query).await?;
            if !status.is_finished() {
                continue;
            }
            if status.succeeded == status.total {
                return Ok(Ok(()));
            }
            let query = [("limit", Some("1".to_owned()))];
            let failures: Vec<FinishedView> = self.client.get(&format!("{address}/failures"), &query).await?;
            let why = failures.into_iter().find_map(|failure| failure.error);
            return Ok(Err(why.map_or_else(|| "it was cancelled".to_owned(), |failure| failure.message)));
        }
    }
}
