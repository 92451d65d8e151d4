//! `sifaka status`: of files, in Lemur's form; without paths, of the agent.

use super::now_ms;
use crate::client::Client;
use crate::exit::{CliError, Exit, Outcome};
use crate::feed::{self, Job};
use crate::lustre::{self, Batch, LustreFile};
use crate::names::{FilesArgs, NamedFile};
use crate::output::{Output, complain, escaped, escaped_path};
use crate::render::agent_status;
use crate::render::file_status::{self, Show, View};
use agent::admin::api::{FileStatus, FilesRequest, StatusReport};
use std::cell::{Cell, RefCell};
use std::path::Path;

#[derive(clap::Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    files: FilesArgs,
    /// Show all flags
    #[arg(short, long)]
    long: bool,
    /// Show how far archive and restore are (with -a)
    #[arg(short, long)]
    progress: bool,
    /// Show what is being done
    #[arg(short, long)]
    action: bool,
    /// Leave the path out
    #[arg(short = 'H', long)]
    hide_path: bool,
    /// Print JSON: an object a file, one a line
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(socket: &Path, args: StatusArgs) -> Outcome {
    if args.files.is_empty() {
        return of_agent(socket, args.json).await;
    }
    let show = Show { hide_path: args.hide_path, long: args.long, action: args.action, progress: args.progress };
    let job = OfFiles { show, json: args.json, output: RefCell::new(Output::new()), failed: Cell::new(0) };
    // One worker: lines come in the order of the names.
    let problems = feed::feed(socket, args.files, 1, &job).await?;
    job.output.into_inner().flush()?;
    Ok(if problems + job.failed.get() == 0 { Exit::Ok } else { Exit::SomeFailed })
}

async fn of_agent(socket: &Path, json: bool) -> Outcome {
    let report: StatusReport = Client::new(socket).get("/v1/status", &[]).await?;
    let mut output = Output::new();
    if json {
        output.json(&report)?;
    } else {
        output.put(agent_status::human(&report, now_ms()))?;
    }
    output.flush()?;
    Ok(Exit::Ok)
}

struct OfFiles {
    show: Show,
    json: bool,
    output: RefCell<Output>,
    failed: Cell<u64>,
}

impl Job for OfFiles {
    async fn send(&self, client: &mut Client, batch: Vec<NamedFile>) -> Result<(), CliError> {
        let (shown, files): (Vec<_>, Vec<_>) = batch.into_iter().map(|named| (named.shown, named.file)).unzip();
        let statuses: Vec<FileStatus> = client.post("/v1/files/status", &FilesRequest { files }).await?;
        let mut output = self.output.borrow_mut();
        for (path, status) in shown.iter().zip(&statuses) {
            if self.json {
                output.json(status)?;
            }
            if let Some(error) = &status.error {
                self.failed.set(self.failed.get() + 1);
                complain(&format!("{}: {}", escaped_path(path), escaped(error)));
            } else if !self.json {
                let line = file_status::line(&output.name(path), &View::from(status), self.show);
                output.put(line)?;
                output.put("\n")?;
            }
        }
        Ok(())
    }

    async fn lustre(&self, batch: lustre::Batch) -> Result<(), CliError> {
        let with_action = self.json || self.show.action || self.show.progress;
        let statuses = lustre::off_thread(move || {
            let Batch { filesystem, files } = batch;
            let status = |file: LustreFile| (lustre::status(&filesystem, &file, with_action), file.shown);
            files.into_iter().map(status).collect::<Vec<_>>()
        });
        let statuses = statuses.await?;
        let mut output = self.output.borrow_mut();
        for (status, path) in statuses {
            if self.json {
                output.json(&status)?;
            }
            if let Some(error) = &status.error {
                self.failed.set(self.failed.get() + 1);
                complain(&format!("{}: {}", escaped_path(&path), escaped(error)));
            } else if !self.json {
                let line = file_status::line(&output.name(&path), &status.view(), self.show);
                output.put(line)?;
                output.put("\n")?;
            }
        }
        Ok(())
    }
}
