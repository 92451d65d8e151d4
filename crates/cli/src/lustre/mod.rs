//! Files on Lustre: commands ask Lustre's coordinator, through its client library, and no agent of ours.
//!
//! Here: which files are on Lustre, and what each command does with those. Not here: the walk ([`crate::names`] hands over
//! batches), and the agent that carries out what the coordinator gives it.
//!
//! All of this blocks: commands do it with [`off_thread`].

mod ask;
mod crew;
mod identity;
mod make;
mod release;
mod restripe;
mod status;
mod wait;

pub(crate) use ask::{Ask, ask, cancel};
pub(crate) use crew::{Crew, CrewArgs, Totals, Verb};
pub(crate) use make::{Import, clone, import};
pub(crate) use release::release;
pub(crate) use restripe::{Striping, archive_again, restripe};
pub(crate) use status::of as status;
pub(crate) use wait::Waiting;

use crate::exit::{CliError, Exit};
use agent::admin::api::Refused;
use model::{Fid, HsmFlags};
use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use sys::lustre::{Library, fid2path, path2fid, state_set};

/// `LL_SUPER_MAGIC`.
const MAGIC: u64 = 0x0bd0_0bd0;
/// The directory at the root that holds no files of users.
pub(crate) const OWN_DIRECTORY: &str = ".lustre";

/// A Lustre filesystem as it is mounted here.
#[derive(Debug)]
pub(crate) struct Filesystem {
    library: Library,
    /// Where it is mounted.
    top: PathBuf,
}

/// A regular file on Lustre.
#[derive(Debug, Clone)]
pub(crate) struct LustreFile {
    /// As the user named it; a path of it where the user gave a FID.
    pub(crate) shown: PathBuf,
    /// By which it is opened.
    pub(crate) path: PathBuf,
    pub(crate) fid: Fid,
}

/// Files of one filesystem, as many as one call of the agent takes.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) filesystem: Arc<Filesystem>,
    pub(crate) files: Vec<LustreFile>,
}

impl Filesystem {
    /// The one that a directory is on; `None` when it is not on Lustre. The error is for people.
    pub(crate) fn of(directory: &Path) -> Result<Option<Arc<Self>>, String> {
        let library = match Library::load() {
            Ok(library) => library,
            Err(error) if has_magic(directory) => return Err(format!("it is on Lustre, and {error}")),
            Err(_) => return Ok(None),
        };
        if !is_on_lustre(&library, directory) {
            return Ok(None);
        }
        let top = top(&library, directory).map_err(|error| format!("its mount point cannot be found: {error}"))?;
        Ok(Some(Arc::new(Self { library, top })))
    }

    /// That of a file that is yet to be made.
    pub(crate) fn of_parent(path: &Path) -> Result<Option<Arc<Self>>, String> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        Self::of(parent.unwrap_or(Path::new(".")))
    }

    pub(crate) fn library(&self) -> &Library {
        &self.library
    }

    /// Where it is mounted.
    pub(crate) fn top(&self) -> &Path {
        &self.top
    }

    /// The FID of a file of it.
    pub(crate) fn fid(&self, path: &Path) -> io::Result<Fid> {
        path2fid(&self.library, path)
    }

    /// By which a file is opened whose FID is known.
    pub(crate) fn path_by_fid(&self, fid: Fid) -> PathBuf {
        self.top.join(OWN_DIRECTORY).join("fid").join(fid.to_string())
    }

    /// A path of the file, if it has one.
    pub(crate) fn path_of(&self, fid: Fid) -> io::Result<Option<PathBuf>> {
        match fid2path(&self.library, &self.top, fid, 0) {
            Ok(path) => Ok(Some(self.top.join(path.strip_prefix("/").unwrap_or(&path)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets and clears flags of a file, and gives it another archive's number.
    pub(crate) fn set(
        &self,
        file: &LustreFile,
        set: HsmFlags,
        clear: HsmFlags,
        archive: Option<u32>,
    ) -> io::Result<()> {
        state_set(&self.library, &file.path, set, clear, archive.unwrap_or(0))
    }
}

impl LustreFile {
    /// For a command's answer.
    pub(crate) fn refused(&self, errno: i32, message: impl Into<String>) -> Refused {
        refused(&self.shown, errno, message)
    }

    /// As [`refused`](Self::refused), by what the library answered.
    pub(crate) fn failed(&self, error: &io::Error) -> Refused {
        failed(&self.shown, error)
    }
}

fn refused(path: &Path, errno: i32, message: impl Into<String>) -> Refused {
    Refused { path: absolute(path), errno, message: message.into() }
}

fn failed(path: &Path, error: &io::Error) -> Refused {
    refused(path, error.raw_os_error().unwrap_or(nix::libc::EIO), error.to_string())
}

/// As text for JSON and messages.
fn absolute(path: &Path) -> String {
    let absolute = std::path::absolute(path);
    absolute.as_deref().unwrap_or(path).to_string_lossy().into_owned()
}

/// Which filesystems are on Lustre, one look each.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    known: HashMap<u64, Result<Option<Arc<Filesystem>>, String>>,
}

impl Looks {
    /// Whether the device is Lustre's; `directory` is on it.
    pub(crate) fn look(&mut self, device: u64, directory: &Path) -> Result<Option<Arc<Filesystem>>, String> {
        self.known.entry(device).or_insert_with(|| Filesystem::of(directory)).clone()
    }
}

/// The FID that an argument is. Without a filesystem, a file of that very name is meant if there is one.
pub(crate) fn fid_meant(argument: &Path, filesystem: Option<&Path>) -> Option<Fid> {
    let fid = argument.to_str().filter(|text| text.starts_with(['[', '0']))?.parse().ok()?;
    (filesystem.is_some() || argument.symlink_metadata().is_err()).then_some(fid)
}

/// The path that an argument means: of a FID one that the file has.
pub(crate) fn path_meant(argument: PathBuf, filesystem: Option<&Path>) -> Result<PathBuf, (PathBuf, String)> {
    let Some(fid) = fid_meant(&argument, filesystem) else { return Ok(argument) };
    let found = filesystem.ok_or_else(|| FS_IS_MISSING.to_owned()).and_then(Filesystem::of);
    let path = found.and_then(|found| {
        let path = found.ok_or_else(|| "is no file on Lustre: --fs names another filesystem".to_owned())?.path_of(fid);
        path.map_err(|why| why.to_string())?.ok_or_else(|| "no path leads to a file with this FID".to_owned())
    });
    path.map_err(|why| (argument, why))
}

/// Said of a FID.
pub(crate) const FS_IS_MISSING: &str = "is a FID: say with --fs of which filesystem";

/// An error when something at `path` is, or would be, on Lustre: for commands about what only agents on local filesystems keep.
pub(crate) fn refuse(command: &str, path: &Path) -> Result<(), CliError> {
    let found = if path.is_dir() { Filesystem::of(path) } else { Filesystem::of_parent(path) };
    let why = match found {
        Ok(None) => return Ok(()),
        Ok(Some(_)) => format!("it is on Lustre, and `sifaka {command}` is for local filesystems"),
        Err(why) => why,
    };
    Err(CliError::new(Exit::NotHere, format!("{}: {why}", crate::output::escaped_path(path))))
}

/// Runs what blocks beside the runtime.
pub(crate) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, CliError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|why| CliError::new(Exit::SomeFailed, format!("a thread has ended: {why}")))
}

fn has_magic(path: &Path) -> bool {
    // The type's size is the platform's.
    rustix::fs::statfs(path).is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| kind == MAGIC))
}

/// A directory that may not be read has no FID for us.
fn is_on_lustre(library: &Library, directory: &Path) -> bool {
    path2fid(library, directory).is_ok() || has_magic(directory)
}

/// The topmost directory above that is on the same filesystem.
fn top(library: &Library, directory: &Path) -> io::Result<PathBuf> {
    let directory = directory.canonicalize()?;
    let device = directory.metadata()?.dev();
    let here = |path: &&Path| path.metadata().is_ok_and(|found| found.dev() == device) && is_on_lustre(library, path);
    Ok(directory.ancestors().take_while(here).last().unwrap_or(&directory).to_owned())
}
