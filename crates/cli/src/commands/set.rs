//! `sifaka set`.

use super::no_files;
use crate::client::Client;
use crate::exit::{CliError, Exit, Outcome};
use crate::feed::{self, Job, WORKERS};
use crate::lustre;
use crate::names::{FilesArgs, NamedFile};
use crate::output::Output;
use agent::admin::api::{FilesSet, Refused, SetRequest};
use model::HsmFlags;
use serde::Serialize;
use std::cell::RefCell;
use std::path::Path;

#[derive(clap::Args, Debug)]
pub(crate) struct SetArgs {
    #[command(flatten)]
    files: FilesArgs,
    /// Set this flag: exists, dirty, archived, norelease, noarchive or lost (may be repeated)
    #[arg(short = 'f', long = "flag", value_name = "FLAG", value_parser = settable)]
    set: Vec<String>,
    /// Clear this flag (may be repeated)
    #[arg(short = 'F', long = "clear", value_name = "FLAG", value_parser = settable)]
    clear: Vec<String>,
    /// The archive's new number
    #[arg(short, long, value_name = "ID", value_parser = clap::value_parser!(u32).range(1..))]
    id: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print nothing on success
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
}

fn settable(name: &str) -> Result<String, String> {
    if HsmFlags::from_name(name).is_some_and(|flag| HsmFlags::SETTABLE.contains(flag)) {
        Ok(name.to_owned())
    } else {
        let known: Vec<_> = HsmFlags::SETTABLE.names().collect();
        Err(format!("no such flag can be set; those that can are {}", known.join(", ")))
    }
}

#[derive(Default, Serialize)]
struct Totals {
    changed: u64,
    refused_count: u64,
    refused: Vec<Refused>,
}

pub(crate) async fn run(socket: &Path, args: SetArgs) -> Outcome {
    if args.files.is_empty() {
        return Err(no_files());
    }
    if args.set.is_empty() && args.clear.is_empty() && args.id.is_none() {
        return Err(CliError::new(Exit::Usage, "nothing to set: give --flag, --clear or --id"));
    }
    let template = SetRequest { set: args.set, clear: args.clear, archive_id: args.id, files: Vec::new() };
    let job = Set { template, total: RefCell::default() };
    let problems = feed::feed(socket, args.files, WORKERS, &job).await?;
    let mut total = job.total.into_inner();
    total.refused_count += problems;
    let mut output = Output::new();
    if args.json {
        output.json(&total)?;
    } else if !args.quiet {
        output.put(format!("{} files set, {} refused\n", total.changed, total.refused_count))?;
    }
    output.flush()?;
    Ok(if total.refused_count == 0 { Exit::Ok } else { Exit::SomeFailed })
}

struct Set {
    template: SetRequest,
    total: RefCell<Totals>,
}

impl Job for Set {
    async fn send(&self, client: &mut Client, batch: Vec<NamedFile>) -> Result<(), CliError> {
        let files = batch.into_iter().map(|named| named.file).collect();
        let done: FilesSet = client.post("/v1/files/set", &SetRequest { files, ..self.template.clone() }).await?;
        let mut total = self.total.borrow_mut();
        total.changed += done.changed;
        total.refused_count += done.refused.len() as u64;
        feed::tell_refused(done.refused, &mut total.refused);
        Ok(())
    }

    async fn lustre(&self, batch: lustre::Batch) -> Result<(), CliError> {
        let flags = |names: &[String]| {
            names.iter().filter_map(|name| HsmFlags::from_name(name)).fold(HsmFlags::empty(), HsmFlags::with)
        };
        let (set, clear, archive) = (flags(&self.template.set), flags(&self.template.clear), self.template.archive_id);
        let count = batch.files.len() as u64;
        let refused = lustre::off_thread(move || {
            let one = |file| batch.filesystem.set(file, set, clear, archive).err().map(|why| file.failed(&why));
            batch.files.iter().filter_map(one).collect::<Vec<_>>()
        });
        let refused = refused.await?;
        let mut total = self.total.borrow_mut();
        total.changed += count.saturating_sub(refused.len() as u64);
        total.refused_count += refused.len() as u64;
        feed::tell_refused(refused, &mut total.refused);
        Ok(())
    }
}
