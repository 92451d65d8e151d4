//! `sifaka versions`.

use super::{no_files, now_ms};
use crate::client::Client;
use crate::exit::{CliError, Exit, Outcome};
use crate::names::SNAPSHOTS;
use crate::output::{Output, complain, escaped_path};
use crate::place;
use crate::render::versions::{self, Snapshot, Versions};
use agent::admin::api::{FileStatus, FilesRequest, MAX_LIMIT};
use agent::admin::objects::{RetiredOf, RetiredPage, RetiredRequest, RetiredView};
use model::Timestamp;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Snapshots of one file that are shown.
const MAX_SNAPSHOTS: usize = MAX_LIMIT;

#[derive(clap::Args, Debug)]
pub(crate) struct VersionsArgs {
    /// Files, there or deleted
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Print JSON: an object a file, one a line
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(socket: &Path, args: VersionsArgs) -> Outcome {
    if args.paths.is_empty() {
        return Err(no_files());
    }
    args.paths.iter().try_for_each(|path| crate::lustre::refuse("versions", path))?;
    let mut client = Client::new(socket);
    let mut output = Output::new();
    let mut exit = Exit::Ok;
    for path in &args.paths {
        match of(&mut client, path).await? {
            Ok(found) if args.json => output.json(&found)?,
            Ok(found) => {
                if args.paths.len() > 1 {
                    let heading = [&*output.name(path), b":\n"].concat();
                    output.put(heading)?;
                }
                output.put(versions::human(&found, now_ms()))?;
            }
            Err(why) => {
                exit = Exit::SomeFailed;
                complain(&format!("{}: {why}", escaped_path(path)));
            }
        }
    }
    output.flush()?;
    Ok(exit)
}

async fn of(client: &mut Client, path: &Path) -> Result<Result<Versions, String>, CliError> {
    let place = match place::place(path) {
        Ok(place) => place,
        Err(why) => return Ok(Err(why.to_string())),
    };
    let mut found = Versions { path: place.path.clone(), ..Versions::default() };
    match place::file(path) {
        Ok(file) => {
            found.older = retired(client, RetiredOf::File(file.clone())).await?;
            found.older.retain(|object| object.replaced);
            found.mtime = fs::symlink_metadata(path).ok().map(|m| mtime(&m));
            let statuses: Vec<FileStatus> =
                client.post("/v1/files/status", &FilesRequest { files: vec![file] }).await?;
            let status = statuses.into_iter().next();
            if let Some(why) = status.as_ref().and_then(|status| status.error.clone()) {
                return Ok(Err(why));
            }
            found.current = status.filter(|status| status.managed);
        }
        Err(why) if why.kind() == io::ErrorKind::NotFound => {}
        Err(why) => return Ok(Err(why.to_string())),
    }
    found.deleted = retired(client, RetiredOf::Place(place)).await?;
    found.deleted.retain(|object| !object.replaced);
    found.snapshots = match snapshots(path) {
        Ok(snapshots) => snapshots,
        Err(why) => return Ok(Err(format!("its snapshots cannot be listed: {why}"))),
    };
    Ok(Ok(found))
}

async fn retired(client: &mut Client, of: RetiredOf) -> Result<Vec<RetiredView>, CliError> {
    let page: RetiredPage = client.post("/v1/retired", &RetiredRequest { of, after: None, limit: MAX_LIMIT }).await?;
    Ok(page.objects)
}

fn mtime(metadata: &fs::Metadata) -> Timestamp {
    Timestamp { seconds: metadata.mtime(), nanos: u32::try_from(metadata.mtime_nsec()).unwrap_or(0) }
}

/// The oldest first.
fn snapshots(path: &Path) -> io::Result<Vec<Snapshot>> {
    let Some(name) = path.file_name() else { return Ok(Vec::new()) };
    let prefix = [name.as_bytes(), b"^"].concat();
    let entries = match fs::read_dir(path.with_file_name(SNAPSHOTS)) {
        Ok(entries) => entries,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(why) => return Err(why),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().as_bytes().starts_with(&prefix) && found.len() < MAX_SNAPSHOTS {
            let metadata = entry.metadata()?;
            let path = entry.path().to_string_lossy().into_owned();
            found.push(Snapshot { path, size: metadata.len(), mtime: mtime(&metadata) });
        }
    }
    found.sort_by(|a, b| (a.mtime, &a.path).cmp(&(b.mtime, &b.path)));
    Ok(found)
}
