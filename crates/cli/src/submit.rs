//! `archive`, `restore` and `remove`: actions accepted by the agent, and waited for when asked.

use crate::client::Client;
use crate::commands::no_files;
use crate::exit::{CliError, Exit, Outcome};
use crate::feed::{self, Job, WORKERS};
use crate::lustre::{self, Ask, Waiting};
use crate::names::{FilesArgs, NamedFile};
use crate::output::{Output, complain, escaped};
use crate::render;
use crate::render::submitted::Totals;
use agent::admin::api::{FinishedView, MAX_LIMIT, RecordRef, RequestCommand, RequestStatus, SubmitRequest, Submitted};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::cell::RefCell;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;
use sys::lustre::UserAction;
use tokio::sync::{Mutex, OnceCell};

/// How long one poll of a request waits: with a bar that moves, and with lines.
const BAR_INTERVAL: Duration = Duration::from_millis(500);
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// What `archive`, `restore` and `remove` have in common.
#[derive(Args, Debug, Clone)]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    pub(crate) files: FilesArgs,
    /// Number of the archive (default: the file's own, or the agent's default)
    #[arg(short, long, value_name = "ID", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) id: Option<u32>,
    /// Wait until all is done, and tell how it went
    #[arg(short, long)]
    pub(crate) wait: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print what would be done, and do nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Print nothing on success
    #[arg(short, long, conflicts_with = "json")]
    pub(crate) quiet: bool,
    /// Passed on to the mover as it is
    #[arg(long, value_name = "STR", default_value = "")]
    pub(crate) data: String,
}

/// Submits, waits if asked, prints.
pub(crate) async fn run(
    socket: &Path,
    command: RequestCommand,
    force: bool,
    copies: Vec<u32>,
    mut args: SubmitArgs,
) -> Outcome {
    args.files.records = command == RequestCommand::Archive;
    if args.files.is_empty() {
        return Err(no_files());
    }
    let name = model::Command::from(command).name();
    if args.dry_run {
        return feed::dry_run(name, args.files, args.json).await;
    }
    let template = SubmitRequest {
        command,
        archive_id: args.id,
        copies,
        data: args.data.into_bytes(),
        request: None,
        files: Vec::new(),
        records: Vec::new(),
        force,
    };
    args.files.gone_too = command == RequestCommand::Remove;
    let waiting = args.wait.then(|| {
        let waiting = Waiting::new(lustre_action(command), command.into());
        (Mutex::new(waiting), Shown::new())
    });
    let job = Submit { template, request: OnceCell::new(), totals: RefCell::default(), waiting };
    let problems = feed::feed(socket, args.files, WORKERS, &job).await?;
    let mut totals = job.totals.into_inner();
    totals.refused_count += problems;
    if let Some((waiting, shown)) = job.waiting {
        wait(socket, &mut totals, &shown).await?;
        if totals.on_lustre > 0 {
            let (status, failures) = waiting.into_inner().finish(&shown).await?;
            totals.add(status, failures);
        }
        shown.end();
    }
    let mut output = Output::new();
    if args.json {
        output.json(&totals)?;
    } else if !args.quiet {
        output.put(render::submitted::human(name, &totals))?;
    }
    output.flush()?;
    Ok(if totals.all_well() { Exit::Ok } else { Exit::SomeFailed })
}

struct Submit {
    template: SubmitRequest,
    /// Chosen by the agent at the first batch; the others add to it.
    request: OnceCell<u64>,
    totals: RefCell<Totals>,
    /// For files on Lustre, when the end is waited for.
    waiting: Option<(Mutex<Waiting>, Shown)>,
}

impl Job for Submit {
    async fn send(&self, client: &mut Client, batch: Vec<NamedFile>) -> Result<(), CliError> {
        let files: Vec<_> = batch.into_iter().map(|named| named.file).collect();
        self.submit(client, SubmitRequest { files, ..self.template.clone() }).await
    }

    async fn record(&self, client: &mut Client, records: Vec<RecordRef>) -> Result<(), CliError> {
        self.submit(client, SubmitRequest { records, ..self.template.clone() }).await
    }

    async fn lustre(&self, batch: lustre::Batch) -> Result<(), CliError> {
        let SubmitRequest { command, archive_id, force, data, .. } = self.template.clone();
        if !self.template.copies.is_empty() {
            return Err(CliError::new(Exit::NotHere, "--copies: on Lustre a file has one copy, in one archive"));
        }
        let ask = Ask { action: lustre_action(command), archive_id, force, data };
        let asked = lustre::off_thread(move || lustre::ask(batch, &ask)).await??;
        {
            let mut totals = self.totals.borrow_mut();
            totals.accepted += asked.accepted.len() as u64;
            totals.on_lustre += asked.accepted.len() as u64;
            totals.already += asked.already;
            totals.refused_count += asked.refused.len() as u64;
            feed::tell_refused(asked.refused, &mut totals.refused);
        }
        match &self.waiting {
            Some((waiting, shown)) => waiting.lock().await.add(asked.accepted, shown).await,
            None => Ok(()),
        }
    }
}

fn lustre_action(command: RequestCommand) -> UserAction {
    match command {
        RequestCommand::Archive => UserAction::Archive,
        RequestCommand::Restore => UserAction::Restore,
        RequestCommand::Remove => UserAction::Remove,
    }
}

impl Submit {
    async fn submit(&self, client: &mut Client, body: SubmitRequest) -> Result<(), CliError> {
        let mut first = Some(body);
        let request = self.request.get_or_try_init(async || {
            // Only one worker comes here; the others wait for the number.
            let Some(body) = first.take() else { return Err(CliError::new(Exit::SomeFailed, "nothing to submit")) };
            let submitted: Submitted = client.post("/v1/requests", &body).await?;
            let request = submitted.request;
            self.count(submitted);
            Ok(request)
        });
        let request = *request.await?;
        if let Some(body) = first {
            let body = SubmitRequest { request: Some(request), ..body };
            self.count(client.post("/v1/requests", &body).await?);
        }
        Ok(())
    }

    fn count(&self, submitted: Submitted) {
        let mut totals = self.totals.borrow_mut();
        totals.request = Some(submitted.request);
        totals.accepted += submitted.accepted;
        totals.records += submitted.records;
        totals.already += submitted.already;
        totals.refused_count += submitted.refused.len() as u64;
        feed::tell_refused(submitted.refused, &mut totals.refused);
    }
}

async fn wait(socket: &Path, totals: &mut Totals, shown: &Shown) -> Result<(), CliError> {
    let Some(request) = totals.request else { return Ok(()) };
    let mut client = Client::new(socket);
    let status = loop {
        let wait_ms = shown.interval().as_millis().to_string();
        let address = format!("/v1/requests/{request}");
        let status: RequestStatus = client.get(&address, &[("wait_ms", Some(wait_ms))]).await?;
        if status.is_finished() {
            break status;
        }
        shown.progress(&status);
    };
    totals.status = Some(status);
    if status.failed > 0 {
        let limit = Some(MAX_LIMIT.to_string());
        let address = format!("/v1/requests/{request}/failures");
        totals.failures = client.get(&address, &[("limit", limit)]).await?;
        tell_failures(&totals.failures, status.failed);
    }
    Ok(())
}

fn tell_failures(failures: &[FinishedView], count: u64) {
    for failure in failures {
        if let Some(error) = &failure.error {
            complain(&format!("{}: {}", escaped(&failure.path), escaped(&error.message)));
        }
    }
    let untold = count.saturating_sub(failures.len() as u64);
    if untold > 0 {
        complain(&format!("… and {untold} more failures: see `sifaka actions --failed`"));
    }
}

/// Progress on standard error: a bar on a terminal, else a line now and then.
pub(crate) struct Shown {
    bar: Option<ProgressBar>,
}

impl Shown {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let style = ProgressStyle::with_template("[{elapsed}] {wide_bar} {pos}/{len} files, {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { bar }
    }

    pub(crate) fn interval(&self) -> Duration {
        if self.bar.is_some() { BAR_INTERVAL } else { LINE_INTERVAL }
    }

    pub(crate) fn progress(&self, status: &RequestStatus) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(status.total);
                bar.set_position(status.ended());
                bar.set_message(render::submitted::progress(status));
            }
            None => complain(&format!(
                "{} of {} files, {}",
                status.ended(),
                status.total,
                render::submitted::progress(status)
            )),
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
