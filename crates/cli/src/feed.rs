//! Batches of files to the agent, several at a time.

use crate::client::Client;
use crate::exit::{CliError, Exit};
use crate::lustre;
use crate::names::{FilesArgs, Found, NamedFile, walk};
use crate::output::{complain, escaped, escaped_path};
use agent::admin::api::RecordRef;
use agent::admin::api::Refused;
use futures_util::future::try_join_all;
use std::cell::Cell;
use std::path::Path;
use tokio::sync::Mutex;

/// Batches that are with the agent at the same time, each on a connection of its own.
pub(crate) const WORKERS: usize = 4;
/// Refusals that a JSON reply holds; all are told on standard error and counted.
const MAX_REFUSED_KEPT: usize = 1000;

/// What is done with each batch. All on one thread: totals may be kept in cells.
pub(crate) trait Job {
    async fn send(&self, client: &mut Client, batch: Vec<NamedFile>) -> Result<(), CliError>;

    /// The same for files on Lustre, where the agent is not asked.
    async fn lustre(&self, _: lustre::Batch) -> Result<(), CliError> {
        Err(CliError::new(Exit::NotHere, "this is for files on local filesystems, and these are on Lustre"))
    }

    /// For jobs whose files were asked for with records.
    async fn record(&self, _: &mut Client, _: Vec<RecordRef>) -> Result<(), CliError> {
        Ok(())
    }
}

/// Walks what `files` names and gives it to `job`, on `workers` connections (1 keeps the order). Names that cannot be worked on
/// are told on standard error. Gives their number.
pub(crate) async fn feed(socket: &Path, files: FilesArgs, workers: usize, job: &impl Job) -> Result<u64, CliError> {
    let found = walk(files).map_err(|why| CliError::new(Exit::SomeFailed, format!("cannot start a thread: {why}")))?;
    let found = Mutex::new(found);
    let problems = Cell::new(0);
    let worker = async || {
        let mut client = Client::new(socket);
        loop {
            let next = found.lock().await.recv().await;
            match next {
                Some(Found::Files(batch)) => job.send(&mut client, batch).await?,
                Some(Found::Lustre(batch)) => job.lustre(batch).await?,
                Some(Found::Records(batch)) => job.record(&mut client, batch).await?,
                Some(Found::Problem { path, why }) => {
                    problems.set(problems.get() + 1);
                    complain(&format!("{}: {why}", escaped_path(&path)));
                }
                None => return Ok::<(), CliError>(()),
            }
        }
    };
    try_join_all((0..workers).map(|_| worker())).await?;
    Ok(problems.get())
}

/// Tells each refused file on standard error, and keeps the first of them in `kept`.
pub(crate) fn tell_refused(refused: Vec<Refused>, kept: &mut Vec<Refused>) {
    for one in refused {
        complain(&format!("{}: {}", escaped(&one.path), escaped(&one.message)));
        if kept.len() < MAX_REFUSED_KEPT {
            kept.push(one);
        }
    }
}

/// Prints what would be done, one name a line, and asks no agent.
pub(crate) async fn dry_run(what: &str, files: FilesArgs, json: bool) -> Result<Exit, CliError> {
    let mut found =
        walk(files).map_err(|why| CliError::new(Exit::SomeFailed, format!("cannot start a thread: {why}")))?;
    let mut output = crate::output::Output::new();
    let mut exit = Exit::Ok;
    while let Some(next) = found.recv().await {
        match next {
            Found::Files(batch) => {
                for NamedFile { shown, file } in batch {
                    if json {
                        output.json(&serde_json::json!({ "would": what, "path": file.path, "handle": file.handle }))?;
                    } else {
                        let line = [format!("would {what} ").as_bytes(), &output.name(&shown), b"\n"].concat();
                        output.put(line)?;
                    }
                }
            }
            Found::Lustre(batch) => {
                for file in batch.files {
                    if json {
                        let path = file.shown.to_string_lossy();
                        output
                            .json(&serde_json::json!({ "would": what, "path": path, "fid": file.fid.to_string() }))?;
                    } else {
                        let line = [format!("would {what} ").as_bytes(), &output.name(&file.shown), b"\n"].concat();
                        output.put(line)?;
                    }
                }
            }
            Found::Records(batch) => {
                for record in batch {
                    if json {
                        let (path, handle) = (record.path, record.handle);
                        output.json(&serde_json::json!({ "would": "record", "path": path, "handle": handle }))?;
                    } else {
                        output.put(format!("would record {}\n", escaped(&record.path)))?;
                    }
                }
            }
            Found::Problem { path, why } => {
                exit = Exit::SomeFailed;
                complain(&format!("{}: {why}", escaped_path(&path)));
            }
        }
    }
    output.flush()?;
    Ok(exit)
}
