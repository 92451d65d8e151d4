//! From what the user named to files by handle: arguments or standard input, directories walked.
//!
//! Runs on a thread of its own (it blocks) and hands over batches; memory is bounded by the depth of the tree and the size of
//! a batch. Symbolic links are not followed, other filesystems are not entered. Names may be any bytes.

use agent::admin::api::{FileRef, fsid_text};
use clap::Args;
use model::FileHandle;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, ReadDir};
use std::io::{self, BufRead};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// Files sent to the agent in one call.
const BATCH: usize = 1000;
/// A name on standard input longer than this is no name; the kernel's limit is 4096.
const MAX_NAME_BYTES: u64 = 64 << 10;

/// Which files a command is for.
#[derive(Args, Debug, Clone)]
pub(crate) struct FilesArgs {
    /// Read the paths from standard input, each ended by a NUL byte (as `find -print0` writes them)
    #[arg(short = '0', long = "null", conflicts_with = "paths")]
    pub(crate) null: bool,
    /// Files, and directories with all that is below them
    #[arg(value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Enter directories (what is done anyway)
    #[arg(short = 'r', long, hide = true)]
    pub(crate) recursive: bool,
}

impl FilesArgs {
    /// Whether any file is named at all.
    pub(crate) fn is_empty(&self) -> bool {
        !self.null && self.paths.is_empty()
    }
}

/// A regular file.
#[derive(Debug, Clone)]
pub(crate) struct NamedFile {
    /// As the user named it.
    pub(crate) shown: PathBuf,
    /// As the agent is told.
    pub(crate) file: FileRef,
}

/// What the walk finds, in order.
#[derive(Debug)]
pub(crate) enum Found {
    /// Up to [`BATCH`] files.
    Files(Vec<NamedFile>),
    /// Something that was named, or a directory below it, and cannot be worked on.
    Problem { path: PathBuf, why: String },
}

/// Starts the walk. Dropping the receiver ends it.
pub(crate) fn walk(args: FilesArgs) -> io::Result<mpsc::Receiver<Found>> {
    // One batch being filled, one waiting, those being sent: no more are in memory.
    let (found, receiver) = mpsc::channel(1);
    std::thread::Builder::new().name("walk".to_owned()).spawn(move || {
        let mut walk = Walk { found, batch: Vec::new(), filesystems: HashMap::new() };
        // An error says that nobody wants to know any more.
        let _ = walk.run(args);
    })?;
    Ok(receiver)
}

/// The receiver is gone.
struct Unwanted;

struct Walk {
    found: mpsc::Sender<Found>,
    batch: Vec<NamedFile>,
    /// fsid by device number.
    filesystems: HashMap<u64, String>,
}

enum Kind {
    Regular(FileRef),
    Directory { dev: u64 },
    Other(&'static str),
}

impl Walk {
    fn run(&mut self, args: FilesArgs) -> Result<(), Unwanted> {
        if args.null {
            self.standard_input()?;
        }
        for path in args.paths {
            self.named(path)?;
        }
        self.flush()
    }

    fn standard_input(&mut self) -> Result<(), Unwanted> {
        let mut input = io::stdin().lock();
        loop {
            let mut name = Vec::new();
            let read = io::Read::take(&mut input, MAX_NAME_BYTES).read_until(0, &mut name);
            let why = match read {
                Ok(0) => return Ok(()),
                Ok(_) if name.len() as u64 == MAX_NAME_BYTES && name.last() != Some(&0) => {
                    "a name without end: are the paths separated by NUL bytes?".to_owned()
                }
                Ok(_) => {
                    name.pop_if(|last| *last == 0);
                    self.named(PathBuf::from(OsString::from_vec(name)))?;
                    continue;
                }
                Err(error) => error.to_string(),
            };
            return self.problem(Path::new("standard input"), why);
        }
    }

    /// Something that the user named: whatever is wrong with it is said.
    fn named(&mut self, path: PathBuf) -> Result<(), Unwanted> {
        match self.identify(&path) {
            Ok(Kind::Regular(file)) => self.add(path, file),
            Ok(Kind::Directory { dev }) => self.tree(path, dev),
            Ok(Kind::Other(what)) => {
                self.problem(&path, format!("is {what}, and only regular files have content to move"))
            }
            Err(error) => self.problem(&path, error.to_string()),
        }
    }

    fn tree(&mut self, top: PathBuf, dev: u64) -> Result<(), Unwanted> {
        let mut open: Vec<ReadDir> = Vec::new();
        self.enter(&top, &mut open)?;
        while let Some(directory) = open.last_mut() {
            let Some(entry) = directory.next() else {
                open.pop();
                continue;
            };
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.problem(&top, format!("a directory below it cannot be read: {error}"))?;
                    open.pop();
                    continue;
                }
            };
            let path = entry.path();
            match self.identify(&path) {
                Ok(Kind::Regular(file)) => self.add(path, file)?,
                Ok(Kind::Directory { dev: there }) if there == dev => self.enter(&path, &mut open)?,
                Ok(Kind::Directory { .. } | Kind::Other(_)) => {}
                // Gone since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.problem(&path, error.to_string())?,
            }
        }
        Ok(())
    }

    fn enter(&self, directory: &Path, open: &mut Vec<ReadDir>) -> Result<(), Unwanted> {
        match fs::read_dir(directory) {
            Ok(entries) => {
                open.push(entries);
                Ok(())
            }
            Err(error) => self.problem(directory, error.to_string()),
        }
    }

    /// What `path` is, and its name by handle, of the same inode.
    fn identify(&mut self, path: &Path) -> io::Result<Kind> {
        let flags = sys::OFlags::PATH | sys::OFlags::NOFOLLOW;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
        let metadata = file.metadata()?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            return Ok(Kind::Directory { dev: metadata.dev() });
        }
        if !kind.is_file() {
            return Ok(Kind::Other(if kind.is_symlink() { "a symbolic link" } else { "no regular file" }));
        }
        let raw = sys::handle::name_to_handle(&file)?;
        let handle = FileHandle { kind: raw.kind, bytes: raw.bytes.into() };
        let fsid = self.fsid(metadata.dev(), &file)?;
        let path = std::path::absolute(path)?.to_string_lossy().into_owned();
        Ok(Kind::Regular(FileRef { handle, fsid, path }))
    }

    fn fsid(&mut self, dev: u64, file: &File) -> io::Result<String> {
        if let Some(known) = self.filesystems.get(&dev) {
            return Ok(known.clone());
        }
        let here = sys::mounts::filesystem_of(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let fsid = fsid_text(here.fsid);
        self.filesystems.insert(dev, fsid.clone());
        Ok(fsid)
    }

    fn add(&mut self, shown: PathBuf, file: FileRef) -> Result<(), Unwanted> {
        self.batch.push(NamedFile { shown, file });
        if self.batch.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Unwanted> {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() { Ok(()) } else { self.send(Found::Files(batch)) }
    }

    fn problem(&self, path: &Path, why: String) -> Result<(), Unwanted> {
        self.send(Found::Problem { path: path.to_owned(), why })
    }

    fn send(&self, found: Found) -> Result<(), Unwanted> {
        self.found.blocking_send(found).map_err(|_| Unwanted)
    }
}
