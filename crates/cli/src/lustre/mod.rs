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
pub(crate) use crew::{Crew, CrewArgs, Totals, Verb, rate};
pub(crate) use make::{Import, clone, import};
pub(crate) use release::release;
pub(crate) use restripe::{archive_again, restripe};
pub(crate) use status::of as status;
pub(crate) use wait::Waiting;

use crate::exit::{CliError, Exit};
use agent::admin::api::Refused;
use model::{Fid, HsmFlags};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use sys::lustre::{Library, fid2path, path2fid, state, state_set};

/// The directory at the root that holds no files of users.
pub(crate) const OWN_DIRECTORY: &str = ".lustre";
/// Files by their FIDs, from the root.
const FIDS: &str = ".lustre/fid";

/// A Lustre filesystem as it is mounted here.
#[derive(Debug)]
pub(crate) struct Filesystem {
    library: Library,
    /// Where it is mounted.
    top: PathBuf,
    /// Whether files can be opened by FID: users may not, and a mount of a subdirectory has no way to.
    by_fid: bool,
}

/// A regular file on Lustre.
#[derive(Debug, Clone)]
pub(crate) struct LustreFile {
    /// As the user named it; a path of it where the user gave a FID.
    pub(crate) shown: PathBuf,
    /// By which it is opened: by its FID where that is possible, because other files can take a name.
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
        let found = match ::lustre::filesystem_at(directory) {
            Ok(found) => found,
            // What is not there is on no filesystem; who opens it says so.
            Err(why) if matches!(why.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => None,
            Err(why) => return Err(format!("it is on Lustre, and {why}")),
        };
        Ok(found.map(|found| {
            let (library, top) = (found.library, found.mount_point);
            let by_fid = rustix::fs::access(top.join(FIDS), rustix::fs::Access::EXEC_OK).is_ok();
            Arc::new(Self { library, top, by_fid })
        }))
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

    /// The kernel's number of the filesystem, if files of it can be opened by FID at present.
    pub(crate) fn device_of_fids(&self) -> io::Result<u64> {
        Ok(rustix::fs::stat(self.top.join(FIDS))?.st_dev)
    }

    /// By which a file is opened whose FID is known.
    pub(crate) fn path_by_fid(&self, fid: Fid) -> PathBuf {
        self.top.join(FIDS).join(fid.to_string())
    }

    /// A file that was found by its name.
    pub(crate) fn named(&self, shown: PathBuf, fid: Fid) -> LustreFile {
        let path = if self.by_fid { self.path_by_fid(fid) } else { shown.clone() };
        LustreFile { shown, path, fid }
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
        state_set(&self.library, &file.path, set, clear, archive.unwrap_or(0))?;
        // Of a file that is in no archive, the MDT changes nothing then, and says that it has.
        let Some(id) = archive else { return Ok(()) };
        if state(&self.library, &file.path)?.archive_id == id {
            Ok(())
        } else {
            Err(io::Error::other("it is in no archive, and nothing was set: --flag exists says that it is in one"))
        }
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
    refuse_saying(command, path, "")
}

/// As [`refuse`], with what to do instead.
pub(crate) fn refuse_saying(command: &str, path: &Path, instead: &str) -> Result<(), CliError> {
    let found = if path.is_dir() { Filesystem::of(path) } else { Filesystem::of_parent(path) };
    let why = match found {
        Ok(None) => return Ok(()),
        Ok(Some(_)) => format!("it is on Lustre, and `sifaka {command}` is for local filesystems{instead}"),
        Err(why) => why,
    };
    Err(CliError::new(Exit::NotHere, format!("{}: {why}", crate::output::escaped_path(path))))
}

/// Runs what blocks beside the runtime.
pub(crate) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, CliError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|why| CliError::new(Exit::SomeFailed, format!("a thread has ended: {why}")))
}
