//! `sifaka undelete`.

use super::clone::{Total, make_directory};
use super::{no_files, now_ms};
use crate::client::Client;
use crate::exit::{CliError, Exit, Outcome};
use crate::output::Output;
use crate::place;
use crate::render::versions;
use agent::admin::api::MAX_LIMIT;
use agent::admin::objects::{RetiredOf, RetiredPage, RetiredRequest, RetiredView, Undelete, UndeleteRequest};
use model::ActionId;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

#[derive(clap::Args, Debug)]
pub(crate) struct UndeleteArgs {
    /// Deleted files; with --list or -r, directories
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// List what was deleted in the directories and below, and can come back
    #[arg(short, long, conflicts_with_all = ["version", "recursive", "dry_run"])]
    list: bool,
    /// Bring back all that was deleted below the directories
    #[arg(short, long, conflicts_with = "version")]
    recursive: bool,
    /// Make a file of this version, by its number in `sifaka versions` or --list, at PATH
    #[arg(long, value_name = "NUMBER")]
    version: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print what would come back, and do nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Print nothing on success
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
}

pub(crate) async fn run(socket: &Path, args: UndeleteArgs) -> Outcome {
    if args.paths.is_empty() {
        return Err(no_files());
    }
    if args.version.is_some() && args.paths.len() > 1 {
        return Err(CliError::new(Exit::Usage, "one version becomes one file: give one path"));
    }
    args.paths.iter().try_for_each(|path| crate::lustre::refuse("undelete", path))?;
    let mut job = Job { client: Client::new(socket), args: &args, output: Output::new(), total: Total::default() };
    for path in &args.paths {
        if args.list {
            job.list(path).await?;
        } else if args.recursive {
            job.below(path).await?;
        } else {
            job.one(path).await?;
        }
    }
    job.output.flush()?;
    let total = job.total;
    if args.list || args.dry_run {
        return Ok(if total.refused_count == 0 { Exit::Ok } else { Exit::SomeFailed });
    }
    total.end("brought back", args.json, args.quiet)
}

struct Job<'a> {
    client: Client,
    args: &'a UndeleteArgs,
    output: Output,
    total: Total,
}

impl Job<'_> {
    async fn page(&mut self, of: RetiredOf, after: Option<RetiredPage>) -> Result<RetiredPage, CliError> {
        let after = after.and_then(|page| page.next);
        self.client.post("/v1/retired", &RetiredRequest { of, after, limit: MAX_LIMIT }).await
    }

    async fn list(&mut self, directory: &Path) -> Result<(), CliError> {
        let place = match place::directory(directory) {
            Ok(place) => place,
            Err(why) => {
                self.total.problem(directory, &why);
                return Ok(());
            }
        };
        let mut page = self.page(RetiredOf::Below(place.clone()), None).await?;
        loop {
            let deleted: Vec<_> = page.objects.iter().filter(|found| !found.replaced).cloned().collect();
            if self.args.json {
                deleted.iter().try_for_each(|found| self.output.json(found))?;
            } else {
                self.output.put(versions::deleted(&deleted, now_ms()))?;
            }
            if page.next.is_none() {
                return Ok(());
            }
            page = self.page(RetiredOf::Below(place.clone()), Some(page)).await?;
        }
    }

    async fn one(&mut self, path: &Path) -> Result<(), CliError> {
        match place::place(path) {
            Err(why) => self.total.problem(path, &why),
            Ok(at) if self.args.dry_run => {
                let page = self.page(RetiredOf::Place(at), None).await?;
                match page.objects.iter().rfind(|found| !found.replaced) {
                    Some(_) => self.would(path)?,
                    None => self.total.problem(path, &"no file that was deleted there is known"),
                }
            }
            Ok(at) => self.undelete(vec![Undelete { at, version: self.args.version.map(ActionId) }]).await?,
        }
        Ok(())
    }

    /// Of several files that were deleted at one path, the last.
    async fn below(&mut self, directory: &Path) -> Result<(), CliError> {
        let place = match place::directory(directory) {
            Ok(place) => place,
            Err(why) => {
                self.total.problem(directory, &why);
                return Ok(());
            }
        };
        let mut page = self.page(RetiredOf::Below(place.clone()), None).await?;
        let mut last: Option<RetiredView> = None;
        loop {
            let mut files = Vec::new();
            for found in page.objects.iter().filter(|found| !found.replaced) {
                if let Some(before) = last.replace(found.clone())
                    && before.name != found.name
                {
                    files.extend(self.found(directory, &before)?);
                }
            }
            if page.next.is_none()
                && let Some(end) = last.take()
            {
                files.extend(self.found(directory, &end)?);
            }
            self.undelete(files).await?;
            if page.next.is_none() {
                return Ok(());
            }
            page = self.page(RetiredOf::Below(place.clone()), Some(page)).await?;
        }
    }

    fn found(&mut self, directory: &Path, found: &RetiredView) -> Result<Option<Undelete>, CliError> {
        let name = Path::new(OsStr::from_bytes(&found.name));
        let path = directory.join(name);
        if !name.components().all(|part| matches!(part, Component::Normal(_))) {
            self.total.problem(&path, &"is no path below the directory");
            return Ok(None);
        }
        if self.args.dry_run {
            self.would(&path)?;
            return Ok(None);
        }
        // Directories that went with it are made anew, like the one above.
        let mut above = directory.to_owned();
        for part in name.parent().into_iter().flat_map(Path::components) {
            let next = above.join(part);
            if let Err(why) = make_directory(&above, &next) {
                self.total.problem(&next, &why);
                return Ok(None);
            }
            above = next;
        }
        match place::place(&path) {
            Ok(at) => Ok(Some(Undelete { at, version: Some(found.id) })),
            Err(why) => {
                self.total.problem(&path, &why);
                Ok(None)
            }
        }
    }

    fn would(&mut self, path: &Path) -> Result<(), CliError> {
        let line = [b"would bring back ", &*self.output.name(path), b"\n"].concat();
        self.output.put(line)
    }

    async fn undelete(&mut self, files: Vec<Undelete>) -> Result<(), CliError> {
        if !files.is_empty() {
            self.total.add(self.client.post("/v1/undelete", &UndeleteRequest { files }).await?);
        }
        Ok(())
    }
}
