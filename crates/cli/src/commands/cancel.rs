//! `sifaka cancel`.

use super::no_files;
use crate::client::Client;
use crate::exit::{CliError, Exit, Outcome};
use crate::feed::{self, Job, WORKERS};
use crate::lustre;
use crate::names::{FilesArgs, NamedFile};
use crate::output::Output;
use agent::admin::api::{CancelRequest, Cancelled};
use model::ActionId;
use std::cell::{Cell, RefCell};
use std::path::Path;

#[derive(clap::Args, Debug)]
pub(crate) struct CancelArgs {
    #[command(flatten)]
    files: FilesArgs,
    /// Cancel all actions of this request
    #[arg(long, value_name = "ID", conflicts_with_all = ["null", "paths"])]
    request: Option<u64>,
    /// Cancel this action (may be repeated)
    #[arg(long = "action", value_name = "ID", conflicts_with_all = ["null", "paths", "request"])]
    actions: Vec<u64>,
    /// Cancel everything that is queued or running
    #[arg(long, conflicts_with_all = ["null", "paths", "request", "actions"])]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print what would be done, and do nothing
    #[arg(short = 'n', long, conflicts_with_all = ["request", "actions", "all"])]
    dry_run: bool,
    /// Print nothing on success
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
    /// Taken for Lemur's sake: a file knows its archive
    #[arg(short, long, hide = true)]
    id: Option<u32>,
}

pub(crate) async fn run(socket: &Path, mut args: CancelArgs) -> Outcome {
    let direct = match args.request {
        Some(request) => Some(CancelRequest::Request(request)),
        None if args.all => Some(CancelRequest::All(true)),
        None if !args.actions.is_empty() => {
            Some(CancelRequest::Actions(args.actions.into_iter().map(ActionId).collect()))
        }
        None => None,
    };
    let (total, problems) = match direct {
        Some(request) => (Client::new(socket).post("/v1/cancel", &request).await?, 0),
        None if args.files.is_empty() => return Err(no_files()),
        None if args.dry_run => return feed::dry_run("cancel", args.files, args.json).await,
        None => {
            args.files.gone_too = true;
            let job = Cancel { total: RefCell::default(), refused: Cell::new(0) };
            let problems = feed::feed(socket, args.files, WORKERS, &job).await?;
            (job.total.into_inner(), problems + job.refused.get())
        }
    };
    let mut output = Output::new();
    if args.json {
        output.json(&total)?;
    } else if !args.quiet {
        let asked = if total.asked == 0 {
            String::new()
        } else {
            format!("; {} more files were asked for at once, and Lustre does not tell how many had any", total.asked)
        };
        output.put(format!("{} actions cancelled, {} had none{asked}\n", total.cancelled, total.not_found))?;
    }
    output.flush()?;
    Ok(if problems == 0 { Exit::Ok } else { Exit::SomeFailed })
}

struct Cancel {
    total: RefCell<Cancelled>,
    refused: Cell<u64>,
}

impl Job for Cancel {
    async fn send(&self, client: &mut Client, batch: Vec<NamedFile>) -> Result<(), CliError> {
        let files = batch.into_iter().map(|named| named.file).collect();
        let done: Cancelled = client.post("/v1/cancel", &CancelRequest::Files(files)).await?;
        let mut total = self.total.borrow_mut();
        total.cancelled += done.cancelled;
        total.not_found += done.not_found;
        Ok(())
    }

    async fn lustre(&self, batch: lustre::Batch) -> Result<(), CliError> {
        let (done, refused) = lustre::off_thread(move || lustre::cancel(&batch)).await??;
        let mut total = self.total.borrow_mut();
        total.cancelled += done.cancelled;
        total.not_found += done.not_found;
        total.asked += done.asked;
        self.refused.set(self.refused.get() + refused.len() as u64);
        feed::tell_refused(refused, &mut Vec::new());
        Ok(())
    }
}
