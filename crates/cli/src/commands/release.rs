//! `sifaka release`.

use super::no_files;
use crate::client::Client;
use crate::exit::{CliError, Exit, Outcome};
use crate::feed::{self, Job, WORKERS};
use crate::lustre;
use crate::names::{FilesArgs, NamedFile};
use crate::output::Output;
use crate::render::released;
use agent::admin::api::{FilesRequest, Released};
use std::cell::RefCell;
use std::path::Path;

#[derive(clap::Args, Debug)]
pub(crate) struct ReleaseArgs {
    #[command(flatten)]
    files: FilesArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print what would be done, and do nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Print nothing on success
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
    /// Taken for Lemur's sake: a file knows its archive
    #[arg(short, long, hide = true)]
    id: Option<u32>,
    /// Taken for the sake of scripts: release always waits
    #[arg(short, long, hide = true)]
    wait: bool,
}

pub(crate) async fn run(socket: &Path, args: ReleaseArgs) -> Outcome {
    if args.files.is_empty() {
        return Err(no_files());
    }
    if args.dry_run {
        return feed::dry_run("release", args.files, args.json).await;
    }
    let job = Release { total: RefCell::default() };
    let problems = feed::feed(socket, args.files, WORKERS, &job).await?;
    let mut total = job.total.into_inner();
    total.refused_count += problems;
    let mut output = Output::new();
    if args.json {
        output.json(&total)?;
    } else if !args.quiet {
        output.put(released::human(&total))?;
    }
    output.flush()?;
    Ok(if total.refused_count == 0 { Exit::Ok } else { Exit::SomeFailed })
}

struct Release {
    total: RefCell<released::Totals>,
}

impl Job for Release {
    async fn send(&self, client: &mut Client, batch: Vec<NamedFile>) -> Result<(), CliError> {
        let files = batch.into_iter().map(|named| named.file).collect();
        let done: Released = client.post("/v1/release", &FilesRequest { files }).await?;
        let mut total = self.total.borrow_mut();
        total.released += done.released;
        total.bytes += done.bytes;
        total.already += done.already;
        total.refused_count += done.refused.len() as u64;
        feed::tell_refused(done.refused, &mut total.refused);
        Ok(())
    }

    async fn lustre(&self, batch: lustre::Batch) -> Result<(), CliError> {
        let done = lustre::off_thread(move || lustre::release(batch)).await??;
        let mut total = self.total.borrow_mut();
        total.released += done.released;
        total.bytes += done.bytes;
        total.already += done.already;
        total.refused_count += done.refused.len() as u64;
        feed::tell_refused(done.refused, &mut total.refused);
        Ok(())
    }
}
