//! `sifaka clone`.

use crate::client::Client;
use crate::exit::{CliError, Exit, Outcome};
use crate::feed::tell_refused;
use crate::lustre;
use crate::names::SNAPSHOTS;
use crate::output::{Output, complain, escaped_path};
use crate::place;
use agent::admin::api::Refused;
use agent::admin::objects::{Clone, CloneRequest, Made};
use serde::Serialize;
use std::fs::{self, ReadDir};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files in one call.
const BATCH: usize = 500;

#[derive(clap::Args, Debug)]
pub(crate) struct CloneArgs {
    /// What to clone: files that are archived as they are; with -r, directories; on Lustre also FIDs
    #[arg(value_name = "SRC", required = true)]
    sources: Vec<PathBuf>,
    /// The new file, or a directory for it
    #[arg(value_name = "DST", required = true)]
    target: PathBuf,
    /// Clone directories with all that is below them
    #[arg(short, long)]
    recursive: bool,
    /// The Lustre filesystem that FIDs are of: a path on it
    #[arg(long, env = "SIFAKA_FS", value_name = "MOUNT")]
    fs: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print what would be done, and do nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Print nothing on success
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
}

/// What came of it; also the JSON.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Total {
    pub(crate) made: u64,
    pub(crate) refused_count: u64,
    pub(crate) refused: Vec<Refused>,
}

impl Total {
    pub(crate) fn add(&mut self, done: Made) {
        self.made += done.made;
        self.refused_count += done.refused.len() as u64;
        tell_refused(done.refused, &mut self.refused);
    }

    pub(crate) fn problem(&mut self, path: &Path, why: &impl std::fmt::Display) {
        self.refused_count += 1;
        complain(&format!("{}: {why}", escaped_path(path)));
    }

    /// Prints and gives the exit code.
    pub(crate) fn end(&self, what: &str, json: bool, quiet: bool) -> Outcome {
        let mut output = Output::new();
        if json {
            output.json(self)?;
        } else if !quiet {
            output.put(format!("{} files {what}, {} refused\n", self.made, self.refused_count))?;
        }
        output.flush()?;
        Ok(if self.refused_count == 0 { Exit::Ok } else { Exit::SomeFailed })
    }
}

pub(crate) async fn run(socket: &Path, args: CloneArgs) -> Outcome {
    let into = fs::metadata(&args.target).is_ok_and(|target| target.is_dir());
    if args.sources.len() > 1 && !into {
        let target = escaped_path(&args.target);
        return Err(CliError::new(
            Exit::Usage,
            format!("{target} is no directory, and several files are to be cloned"),
        ));
    }
    let mut job = Job {
        client: Client::new(socket),
        batch: Vec::new(),
        looks: lustre::Looks::default(),
        total: Total::default(),
        output: Output::new(),
        recursive: args.recursive,
        dry_run: args.dry_run,
    };
    for source in args.sources {
        let source = match lustre::path_meant(source, args.fs.as_deref()) {
            Ok(source) => source,
            Err((source, why)) => {
                job.total.problem(&source, &why);
                continue;
            }
        };
        let target = match source.file_name().filter(|_| into) {
            Some(name) => args.target.join(name),
            None => args.target.clone(),
        };
        job.named(&source, &target).await?;
    }
    job.flush().await?;
    job.output.flush()?;
    if args.dry_run {
        return Ok(if job.total.refused_count == 0 { Exit::Ok } else { Exit::SomeFailed });
    }
    job.total.end("cloned", args.json, args.quiet)
}

struct Job {
    client: Client,
    batch: Vec<Clone>,
    looks: lustre::Looks,
    total: Total,
    output: Output,
    recursive: bool,
    dry_run: bool,
}

impl Job {
    async fn named(&mut self, source: &Path, target: &Path) -> Result<(), CliError> {
        match fs::symlink_metadata(source) {
            Err(why) => self.total.problem(source, &why),
            Ok(found) if found.is_file() => self.add(source, found.dev(), target).await?,
            Ok(found) if !found.is_dir() => self.total.problem(source, &"is no regular file"),
            Ok(_) if !self.recursive => self.total.problem(source, &"is a directory: give -r to clone it"),
            Ok(_) => self.tree(source, target).await?,
        }
        Ok(())
    }

    /// As deep as the tree is, and no wider.
    async fn tree(&mut self, source: &Path, target: &Path) -> Result<(), CliError> {
        let inside = |path: &Path| path.canonicalize().ok().zip(source.canonicalize().ok());
        let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if inside(parent).is_some_and(|(parent, source)| parent.starts_with(source)) {
            self.total.problem(target, &"is inside of what is to be cloned");
            return Ok(());
        }
        let mut open: Vec<(ReadDir, PathBuf)> = Vec::new();
        self.enter(source, target, &mut open);
        while let Some((entries, target)) = open.last_mut() {
            let Some(entry) = entries.next() else {
                open.pop();
                continue;
            };
            let (entry, target) = match entry {
                Ok(entry) => (entry.path(), target.join(entry.file_name())),
                Err(why) => {
                    open.pop();
                    self.total.problem(source, &format!("a directory below it cannot be read: {why}"));
                    continue;
                }
            };
            match fs::symlink_metadata(&entry) {
                Err(why) => self.total.problem(&entry, &why),
                Ok(found) if found.is_file() => self.add(&entry, found.dev(), &target).await?,
                Ok(found) if found.is_symlink() => self.link(&entry, &target),
                Ok(found) if !found.is_dir() => self.total.problem(&entry, &"is no file with content"),
                Ok(_) if entry.ends_with(SNAPSHOTS) || entry.ends_with(lustre::OWN_DIRECTORY) => {}
                Ok(_) => self.enter(&entry, &target, &mut open),
            }
        }
        Ok(())
    }

    fn enter(&mut self, source: &Path, target: &Path, open: &mut Vec<(ReadDir, PathBuf)>) {
        let made = if self.dry_run { Ok(()) } else { make_directory(source, target) };
        match made.and_then(|()| fs::read_dir(source)) {
            Ok(entries) => open.push((entries, target.to_owned())),
            Err(why) => self.total.problem(target, &why),
        }
    }

    fn link(&mut self, source: &Path, target: &Path) {
        let made = || -> io::Result<()> {
            let owner = fs::symlink_metadata(source)?;
            std::os::unix::fs::symlink(fs::read_link(source)?, target)?;
            std::os::unix::fs::lchown(target, Some(owner.uid()), Some(owner.gid()))
        };
        if !self.dry_run
            && let Err(why) = made()
        {
            self.total.problem(target, &why);
        }
    }

    async fn add(&mut self, source: &Path, device: u64, target: &Path) -> Result<(), CliError> {
        if self.dry_run {
            let (source, target) = (self.output.name(source), self.output.name(target));
            let line = [b"would clone ", &*source, b" to ", &*target, b"\n"].concat();
            return self.output.put(line);
        }
        let directory = source.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match self.looks.look(device, directory) {
            Ok(None) => {}
            Ok(Some(filesystem)) => return self.on_lustre(filesystem, source, target).await,
            Err(why) => {
                self.total.problem(source, &why);
                return Ok(());
            }
        }
        let clone = place::file(source)
            .map_err(|why| (source, why))
            .and_then(|file| Ok(Clone { source: file, at: place::place(target).map_err(|why| (target, why))? }));
        match clone {
            Ok(clone) => self.batch.push(clone),
            Err((path, why)) => self.total.problem(path, &why),
        }
        if self.batch.len() >= BATCH { self.flush().await } else { Ok(()) }
    }

    async fn on_lustre(
        &mut self,
        filesystem: Arc<lustre::Filesystem>,
        source: &Path,
        target: &Path,
    ) -> Result<(), CliError> {
        let (source, target) = (source.to_owned(), target.to_owned());
        let made = lustre::off_thread(move || lustre::clone(&filesystem, &source, &target)).await?;
        self.total.add(match made {
            Ok(()) => Made { made: 1, refused: Vec::new() },
            Err(refused) => Made { made: 0, refused: vec![refused] },
        });
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), CliError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let clones = std::mem::take(&mut self.batch);
        self.total.add(self.client.post("/v1/clone", &CloneRequest { clones }).await?);
        Ok(())
    }
}

/// Of the source's owner and mode; one that is there is used as it is.
pub(crate) fn make_directory(like: &Path, path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        Err(why) => return Err(why),
    }
    let like = fs::metadata(like)?;
    std::os::unix::fs::chown(path, Some(like.uid()), Some(like.gid()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(like.mode() & 0o7777))
}
