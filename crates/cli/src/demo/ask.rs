//! What the demo asks of its agent, over the admin API.

use super::pace::Stop;
use super::{cannot, wrong};
use crate::client::Client;
use crate::exit::{CliError, Exit};
use crate::feed::{self, Job};
use crate::names::{FilesArgs, NamedFile};
use agent::admin::api::{
    FileRef, FilesRequest, FinishedView, RecordRef, Refused, Released, RequestCommand, RequestStatus, StatusReport,
    SubmitRequest, Submitted,
};
use indicatif::ProgressBar;
use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// An agent that shows no progress for so long has a fault.
const STALL: Duration = Duration::from_secs(60);
/// How long one question about a request waits for its end.
const POLL_MS: u64 = 200;
/// Refusals and failures that are named.
const NAMED: usize = 5;

/// Whether an agent answers at `socket`.
pub(super) fn answers(socket: &Path) -> Result<bool, CliError> {
    let answer = runtime()?.block_on(async { Client::new(socket).get::<StatusReport>("/v1/status", &[]).await });
    match answer {
        Ok(_) => Ok(true),
        Err(error) if error.exit == Exit::Unreachable => Ok(false),
        Err(error) => Err(error),
    }
}

fn runtime() -> Result<Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot("start"))
}

/// The agent, and the files that it is asked about.
pub(super) struct Admin<'a> {
    pub(super) socket: PathBuf,
    /// A directory: all files below it are meant.
    pub(super) tree: PathBuf,
    /// So many.
    pub(super) files: u64,
    pub(super) stop: &'a Stop,
}

impl Admin<'_> {
    /// Archives, or removes the archive copies of, all files, and waits for the end. Anything less than all is an error.
    pub(super) fn submit(&self, command: RequestCommand, bar: &ProgressBar) -> Result<(), CliError> {
        let job = Submit {
            stop: self.stop,
            command,
            request: Cell::new(None),
            accepted: Cell::new(0),
            refused: RefCell::default(),
        };
        runtime()?.block_on(async {
            self.feed(&job, command == RequestCommand::Archive).await?;
            check_refused(&job.refused.borrow())?;
            let (Some(request), accepted) = (job.request.get(), job.accepted.get()) else {
                return Err(wrong("the agent was asked for nothing"));
            };
            if accepted != self.files {
                return Err(wrong(format!("the agent accepted {accepted} of {} files", self.files)));
            }
            self.wait(request, bar).await
        })
    }

    /// Releases all files. Anything less is an error.
    pub(super) fn release(&self, bar: &ProgressBar) -> Result<(), CliError> {
        let job = Release { stop: self.stop, bar, released: Cell::new(0), refused: RefCell::default() };
        runtime()?.block_on(self.feed(&job, false))?;
        check_refused(&job.refused.borrow())?;
        match job.released.get() {
            released if released == self.files => Ok(()),
            released => Err(wrong(format!("the agent released {released} of {} files", self.files))),
        }
    }

    async fn feed(&self, job: &impl Job, records: bool) -> Result<(), CliError> {
        let paths = vec![self.tree.clone()];
        let files = FilesArgs { null: false, paths, fs: None, recursive: false, records, gone_too: false };
        match feed::feed(&self.socket, files, 1, job).await? {
            0 => Ok(()),
            problems => Err(wrong(format!("{problems} files could not be named to the agent"))),
        }
    }

    async fn wait(&self, request: u64, bar: &ProgressBar) -> Result<(), CliError> {
        let mut client = Client::new(&self.socket);
        let address = format!("/v1/requests/{request}");
        let mut last = RequestStatus::default();
        let mut moved = Instant::now();
        loop {
            self.stop.check()?;
            let query = [("wait_ms", Some(POLL_MS.to_string()))];
            let status: RequestStatus = in_time(client.get(&address, &query)).await?;
            bar.set_position(status.ended());
            if status.is_finished() && status.succeeded == status.total {
                return Ok(());
            }
            if status.is_finished() {
                let limit = [("limit", Some(NAMED.to_string()))];
                let failures: Vec<FinishedView> = client.get(&format!("{address}/failures"), &limit).await?;
                let named =
                    failures.iter().filter_map(|failure| Some((&failure.path, &failure.error.as_ref()?.message)));
                let count = status.failed + status.cancelled;
                return Err(wrong(format!("{count} of {} actions failed{}", status.total, list(named))));
            }
            if status != last {
                (last, moved) = (status, Instant::now());
            } else if moved.elapsed() > STALL {
                return Err(wrong(format!("{} of {} actions ended, and then nothing", status.ended(), status.total)));
            }
        }
    }
}

struct Submit<'a> {
    stop: &'a Stop,
    command: RequestCommand,
    request: Cell<Option<u64>>,
    accepted: Cell<u64>,
    refused: RefCell<Vec<Refused>>,
}

impl Job for Submit<'_> {
    async fn send(&self, client: &mut Client, batch: Vec<NamedFile>) -> Result<(), CliError> {
        self.call(client, batch.into_iter().map(|named| named.file).collect(), Vec::new()).await
    }

    async fn record(&self, client: &mut Client, records: Vec<RecordRef>) -> Result<(), CliError> {
        self.call(client, Vec::new(), records).await
    }
}

impl Submit<'_> {
    async fn call(&self, client: &mut Client, files: Vec<FileRef>, records: Vec<RecordRef>) -> Result<(), CliError> {
        self.stop.check()?;
        let body = SubmitRequest {
            command: self.command,
            archive_id: None,
            copies: Vec::new(),
            data: Vec::new(),
            request: self.request.get(),
            files,
            records,
            force: false,
        };
        let submitted: Submitted = in_time(client.post("/v1/requests", &body)).await?;
        self.request.set(Some(submitted.request));
        self.accepted.set(self.accepted.get() + submitted.accepted);
        self.refused.borrow_mut().extend(submitted.refused);
        Ok(())
    }
}

struct Release<'a> {
    stop: &'a Stop,
    bar: &'a ProgressBar,
    released: Cell<u64>,
    refused: RefCell<Vec<Refused>>,
}

impl Job for Release<'_> {
    async fn send(&self, client: &mut Client, batch: Vec<NamedFile>) -> Result<(), CliError> {
        self.stop.check()?;
        let files = batch.into_iter().map(|named| named.file).collect();
        let done: Released = in_time(client.post("/v1/release", &FilesRequest { files })).await?;
        self.released.set(self.released.get() + done.released);
        self.bar.inc(done.released);
        self.refused.borrow_mut().extend(done.refused);
        Ok(())
    }
}

/// A call that takes so long is not answered any more.
async fn in_time<T>(call: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    tokio::time::timeout(STALL, call).await.unwrap_or_else(|_| Err(wrong("the agent does not answer")))
}

fn check_refused(refused: &[Refused]) -> Result<(), CliError> {
    if refused.is_empty() {
        return Ok(());
    }
    let named = refused.iter().take(NAMED).map(|one| (&one.path, &one.message));
    Err(wrong(format!("the agent refused {} files{}", refused.len(), list(named))))
}

fn list<'a>(named: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    let lines =
        named.map(|(path, why)| format!("\n  {}: {}", crate::output::escaped(path), crate::output::escaped(why)));
    lines.collect()
}
