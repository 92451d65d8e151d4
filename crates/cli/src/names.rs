//! From what the user named to files by handle, or by FID: arguments or standard input, directories walked.
//!
//! Runs on a thread of its own (it blocks) and hands over batches; memory is bounded by the depth of the tree and the size of
//! a batch. Symbolic links are not followed, other filesystems are not entered. Names may be any bytes.

use crate::lustre::{self, Filesystem, Looks, LustreFile};
use agent::admin::api::{FileRef, RecordRef, fsid_text};
use clap::Args;
use model::{Fid, FileHandle};
use rustix::fs::{CWD, Dir, Mode, OFlags};
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufRead};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

/// A directory of snapshots.
pub(crate) const SNAPSHOTS: &str = model::SNAPSHOT_DIRECTORY;
/// Files sent to the agent in one call.
const BATCH: usize = 1000;
/// Directories above what was named that are remembered, so that each is recorded once.
const MAX_ABOVE: usize = 1 << 16;
/// A name on standard input longer than this is no name; the kernel's limit is 4096.
const MAX_NAME_BYTES: u64 = 64 << 10;

/// Which files a command is for.
#[derive(Args, Debug, Clone)]
pub(crate) struct FilesArgs {
    /// Read the paths from standard input, each ended by a NUL byte (as `find -print0` writes them)
    #[arg(short = '0', long = "null", conflicts_with = "paths")]
    pub(crate) null: bool,
    /// Files, and directories with all that is below them; on Lustre also FIDs, as `[0x200000401:0x1:0x0]`
    #[arg(value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// The Lustre filesystem that FIDs are of: a path on it
    #[arg(long, env = "SIFAKA_FS", value_name = "MOUNT")]
    pub(crate) fs: Option<PathBuf>,
    /// Enter directories (what is done anyway)
    #[arg(short = 'r', long, hide = true)]
    pub(crate) recursive: bool,
    /// Find also what has no content: directories (with those above what is named), links, special files
    #[arg(skip)]
    pub(crate) records: bool,
    /// Find also files of FIDs that are gone
    #[arg(skip)]
    pub(crate) gone_too: bool,
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
    /// Up to [`BATCH`] files on Lustre.
    Lustre(lustre::Batch),
    /// Up to [`BATCH`] of what has no content, if asked for.
    Records(Vec<RecordRef>),
    /// Something that was named, or a directory below it, and cannot be worked on.
    Problem { path: PathBuf, why: String },
}

/// Starts the walk. Dropping the receiver ends it.
pub(crate) fn walk(args: FilesArgs) -> io::Result<mpsc::Receiver<Found>> {
    // One batch being filled, one waiting, those being sent: no more are in memory.
    let (found, receiver) = mpsc::channel(1);
    std::thread::Builder::new().name("walk".to_owned()).spawn(move || {
        let mut walk = Walk {
            found,
            batch: Vec::new(),
            filesystems: HashMap::new(),
            lustre: Looks::default(),
            lustre_batch: None,
            fs: args.fs.clone(),
            gone_too: args.gone_too,
            records: args.records.then(Vec::new),
            above: HashSet::new(),
        };
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
    lustre: Looks,
    /// Being filled. Only one of this and `batch` has anything in it: that keeps the order.
    lustre_batch: Option<lustre::Batch>,
    /// Of which FIDs are.
    fs: Option<PathBuf>,
    gone_too: bool,
    /// Being filled, if asked for.
    records: Option<Vec<RecordRef>>,
    /// Device and inode of directories above what was named that were recorded.
    above: HashSet<(u64, u64)>,
}

/// Something at a path.
struct Inode {
    /// A bare name of it (`O_PATH`).
    opened: OwnedFd,
    kind: Kind,
    dev: u64,
    ino: u64,
    links: u64,
    home: Home,
}

/// On what filesystem it is.
enum Home {
    /// One that our agent looks after, or may.
    Local(FileRef),
    /// With the FID of what is a regular file.
    Lustre(Arc<Filesystem>, Option<Fid>),
}

impl Inode {
    /// `None` on Lustre.
    fn handle(&self) -> Option<FileHandle> {
        match &self.home {
            Home::Local(file) => Some(file.handle.clone()),
            Home::Lustre(..) => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Regular,
    Directory,
    Link,
    Special,
}

/// A directory that is being read. What is in it is found through its descriptor: whoever renames it, or puts a link in its place, leads
/// nobody elsewhere.
struct OpenDirectory {
    entries: Dir,
    /// As the user has it.
    path: PathBuf,
    /// `None` on Lustre.
    handle: Option<FileHandle>,
}

impl Walk {
    fn run(&mut self, args: FilesArgs) -> Result<(), Unwanted> {
        if args.null {
            self.standard_input()?;
        }
        for path in args.paths {
            self.named(path)?;
        }
        self.flush_all()
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
        match lustre::fid_meant(&path, self.fs.as_deref()) {
            Some(fid) => self.named_by_fid(path, fid),
            None => self.named_by_path(path),
        }
    }

    fn named_by_fid(&mut self, given: PathBuf, fid: Fid) -> Result<(), Unwanted> {
        let Some(mount) = &self.fs else {
            return self.problem(&given, lustre::FS_IS_MISSING.to_owned());
        };
        let found = match fs::metadata(mount) {
            Ok(metadata) => self.lustre.look(metadata.dev(), mount),
            Err(error) => Err(error.to_string()),
        };
        let filesystem = match found {
            Ok(Some(filesystem)) => filesystem,
            Ok(None) => return self.problem(&mount.clone(), "is not on Lustre, and --fs names it".to_owned()),
            Err(why) => return self.problem(&mount.clone(), why),
        };
        let shown = match filesystem.path_of(fid) {
            Ok(shown) => shown,
            Err(error) => return self.problem(&given, error.to_string()),
        };
        let path = filesystem.path_by_fid(fid);
        match (fs::symlink_metadata(&path), shown) {
            (Ok(found), shown) if found.is_file() => {
                self.add_lustre(filesystem, LustreFile { shown: shown.unwrap_or(given), path, fid })
            }
            // A directory, or nothing with content: as if it were named by its path.
            (Ok(_), Some(shown)) => self.named_by_path(shown),
            (Err(error), None) if error.kind() == io::ErrorKind::NotFound && self.gone_too => {
                self.add_lustre(filesystem, LustreFile { shown: given, path, fid })
            }
            (Err(error), _) => self.problem(&given, error.to_string()),
            (Ok(_), None) => self.problem(&given, "is no regular file, and has no path".to_owned()),
        }
    }

    fn named_by_path(&mut self, path: PathBuf) -> Result<(), Unwanted> {
        let inode = match self.identify(&path) {
            Ok(inode) => inode,
            Err(error) => return self.problem(&path, error.to_string()),
        };
        if self.records.is_some() && inode.handle().is_some() {
            let parent = match inode.kind {
                Kind::Directory => path.join(".."),
                _ => path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned(),
            };
            let recorded = match self.record_above(&parent, inode.dev) {
                Ok(handle) => self.record(&inode, handle, path.file_name()),
                Err(error) => return self.problem(&parent, error.to_string()),
            };
            recorded?;
        }
        match inode.kind {
            Kind::Regular => self.add(path, inode.home),
            Kind::Directory => self.tree(path, inode),
            Kind::Link | Kind::Special if self.records.is_some() && inode.handle().is_some() => Ok(()),
            Kind::Link => self.problem(&path, "is a symbolic link, and only regular files have content to move".into()),
            Kind::Special => {
                self.problem(&path, "is no regular file, and only regular files have content to move".into())
            }
        }
    }

    /// The directory and all above it on its filesystem. Gives its handle.
    fn record_above(&mut self, directory: &Path, dev: u64) -> io::Result<Option<FileHandle>> {
        let mut nearest = None;
        let mut path = fs::canonicalize(directory)?;
        loop {
            let inode = self.identify(&path)?;
            if inode.dev != dev || inode.kind != Kind::Directory {
                return Ok(nearest);
            }
            nearest = nearest.or_else(|| inode.handle());
            if self.above.len() >= MAX_ABOVE {
                self.above.clear();
            }
            if !self.above.insert((inode.dev, inode.ino)) {
                return Ok(nearest);
            }
            if self.record(&inode, None, None).is_err() {
                return Ok(nearest);
            }
            if !path.pop() {
                return Ok(nearest);
            }
        }
    }

    /// Whatever is not fully told by a file's own manifest: directories, links, special files, and names of files with several.
    fn record(
        &mut self,
        inode: &Inode,
        parent: Option<FileHandle>,
        name: Option<&std::ffi::OsStr>,
    ) -> Result<(), Unwanted> {
        let (Some(records), Home::Local(file)) = (&mut self.records, &inode.home) else { return Ok(()) };
        if inode.kind == Kind::Regular && inode.links < 2 {
            return Ok(());
        }
        let FileRef { handle, fsid, path } = file.clone();
        let (parent, name) = match (inode.kind, parent, name) {
            (Kind::Directory, ..) => (None, Vec::new()),
            (_, Some(parent), Some(name)) => (Some(parent), name.as_bytes().to_vec()),
            _ => return Ok(()),
        };
        records.push(RecordRef { handle, fsid, path, parent, name });
        if records.len() < BATCH {
            return Ok(());
        }
        let full = std::mem::take(records);
        self.send(Found::Records(full))
    }

    fn tree(&mut self, top: PathBuf, inode: Inode) -> Result<(), Unwanted> {
        let dev = inode.dev;
        let mut open: Vec<OpenDirectory> = Vec::new();
        self.enter(top, &inode, &mut open)?;
        while let Some(directory) = open.last_mut() {
            let Some(entry) = directory.entries.next() else {
                open.pop();
                continue;
            };
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    let why = format!("it cannot be read to its end: {}", io::Error::from(error));
                    if let Some(directory) = open.pop() {
                        self.problem(&directory.path, why)?;
                    }
                    continue;
                }
            };
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let path = directory.path.join(name);
            let parent = directory.handle.clone().filter(|_| self.records.is_some());
            let found =
                directory.entries.fd().map_err(io::Error::from).and_then(|fd| self.identify_in(fd, name, &path));
            match found {
                Ok(inode) if inode.dev != dev => {}
                // Versions of what is beside it, which are released and archived. They are entered when they are named.
                Ok(inode) if inode.kind == Kind::Directory && name == SNAPSHOTS => {}
                Ok(inode) if matches!(inode.home, Home::Lustre(..)) && name == lustre::OWN_DIRECTORY => {}
                Ok(inode) => {
                    self.record(&inode, parent, Some(name))?;
                    match inode.kind {
                        Kind::Regular => self.add(path, inode.home)?,
                        Kind::Directory => self.enter(path, &inode, &mut open)?,
                        Kind::Link | Kind::Special => {}
                    }
                }
                // Gone since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.problem(&path, error.to_string())?,
            }
        }
        Ok(())
    }

    fn enter(&self, path: PathBuf, directory: &Inode, open: &mut Vec<OpenDirectory>) -> Result<(), Unwanted> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&directory.opened, c".", flags, Mode::empty());
        match opened.and_then(Dir::new) {
            Ok(entries) => {
                open.push(OpenDirectory { entries, path, handle: directory.handle() });
                Ok(())
            }
            Err(error) => self.problem(&path, io::Error::from(error).to_string()),
        }
    }

    /// What `path` is, and its name by handle, of the same inode.
    fn identify(&mut self, path: &Path) -> io::Result<Inode> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        self.describe(open_bare(CWD, path)?, path, path, parent)
    }

    /// As [`identify`](Self::identify), of what has this name in an open directory. `shown` is the user's path of it.
    fn identify_in(&mut self, directory: BorrowedFd<'_>, name: &OsStr, shown: &Path) -> io::Result<Inode> {
        let opened = open_bare(directory, Path::new(name))?;
        // For calls that take paths. The dot: they do not follow what comes last.
        let parent = PathBuf::from(format!("/proc/self/fd/{}/.", directory.as_raw_fd()));
        self.describe(opened, shown, &parent.join(name), &parent)
    }

    fn describe(&mut self, opened: OwnedFd, shown: &Path, path: &Path, parent: &Path) -> io::Result<Inode> {
        let file = File::from(opened);
        let metadata = file.metadata()?;
        let kind = match metadata.file_type() {
            kind if kind.is_file() => Kind::Regular,
            kind if kind.is_dir() => Kind::Directory,
            kind if kind.is_symlink() => Kind::Link,
            _ => Kind::Special,
        };
        let directory = if kind == Kind::Directory { path } else { parent };
        let lustre = self.lustre.look(metadata.dev(), directory).map_err(io::Error::other)?;
        let home = match (lustre, kind) {
            (None, _) => Home::Local(self.local(shown, &file, metadata.dev())?),
            (Some(filesystem), Kind::Regular) => {
                let fid = filesystem.fid(path)?;
                Home::Lustre(filesystem, Some(fid))
            }
            (Some(filesystem), _) => Home::Lustre(filesystem, None),
        };
        let (dev, ino, links) = (metadata.dev(), metadata.ino(), metadata.nlink());
        Ok(Inode { opened: file.into(), kind, dev, ino, links, home })
    }

    fn local(&mut self, path: &Path, file: &File, dev: u64) -> io::Result<FileRef> {
        let raw = sys::handle::name_to_handle(file)?;
        let handle = FileHandle { kind: raw.kind, bytes: raw.bytes.into() };
        let fsid = self.fsid(dev, file)?;
        let path = std::path::absolute(path)?.to_string_lossy().into_owned();
        Ok(FileRef { handle, fsid, path })
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

    fn add(&mut self, shown: PathBuf, home: Home) -> Result<(), Unwanted> {
        match home {
            Home::Local(file) => {
                self.flush_lustre()?;
                self.batch.push(NamedFile { shown, file });
                if self.batch.len() >= BATCH { self.flush() } else { Ok(()) }
            }
            Home::Lustre(filesystem, Some(fid)) => {
                let file = filesystem.named(shown, fid);
                self.add_lustre(filesystem, file)
            }
            Home::Lustre(_, None) => Ok(()),
        }
    }

    fn add_lustre(&mut self, filesystem: Arc<Filesystem>, file: LustreFile) -> Result<(), Unwanted> {
        self.flush()?;
        if self.lustre_batch.as_ref().is_some_and(|batch| !Arc::ptr_eq(&batch.filesystem, &filesystem)) {
            self.flush_lustre()?;
        }
        let batch = self.lustre_batch.get_or_insert_with(|| lustre::Batch { filesystem, files: Vec::new() });
        batch.files.push(file);
        if batch.files.len() >= BATCH { self.flush_lustre() } else { Ok(()) }
    }

    fn flush_lustre(&mut self) -> Result<(), Unwanted> {
        self.lustre_batch.take().map_or(Ok(()), |batch| self.send(Found::Lustre(batch)))
    }

    fn flush(&mut self) -> Result<(), Unwanted> {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() { Ok(()) } else { self.send(Found::Files(batch)) }
    }

    fn flush_all(&mut self) -> Result<(), Unwanted> {
        self.flush()?;
        self.flush_lustre()?;
        match self.records.as_mut().map(std::mem::take) {
            Some(records) if !records.is_empty() => self.send(Found::Records(records)),
            _ => Ok(()),
        }
    }

    fn problem(&self, path: &Path, why: String) -> Result<(), Unwanted> {
        self.send(Found::Problem { path: path.to_owned(), why })
    }

    fn send(&self, found: Found) -> Result<(), Unwanted> {
        self.found.blocking_send(found).map_err(|_| Unwanted)
    }
}

/// Opens nothing, and follows no link that `path` is itself.
fn open_bare(directory: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(directory, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use testkit::{FsKind, LoopFs};

    fn handle(path: &Path) -> FileHandle {
        let raw = sys::handle::name_to_handle(open_bare(CWD, path).unwrap()).unwrap();
        FileHandle { kind: raw.kind, bytes: raw.bytes.into() }
    }

    /// The owner of a tree may put a link in a directory's place while root walks it.
    #[test]
    fn a_directory_that_is_exchanged_leads_nobody_elsewhere() {
        let fs = LoopFs::new(FsKind::Ext4, 64);
        let [tree, other] = ["tree", "other"].map(|name| fs.path().join(name));
        let inside = tree.join("a");
        for directory in [&inside, &other] {
            fs::create_dir_all(directory).unwrap();
            (0..3 * BATCH).for_each(|i| drop(File::create(directory.join(i.to_string())).unwrap()));
        }
        let args = FilesArgs {
            null: false,
            paths: vec![tree.clone()],
            fs: None,
            recursive: false,
            records: false,
            gone_too: false,
        };
        let mut found = walk(args).unwrap();
        // It cannot have come to its end: nobody takes more than what is in the channel.
        let mut files = match found.blocking_recv() {
            Some(Found::Files(files)) => files,
            other => panic!("{other:?}"),
        };
        fs::rename(&inside, tree.join("b")).unwrap();
        std::os::unix::fs::symlink(&other, &inside).unwrap();
        while let Some(next) = found.blocking_recv() {
            let Found::Files(more) = next else { panic!("{next:?}") };
            files.extend(more);
        }
        let known: HashSet<_> = (0..3 * BATCH).map(|i| handle(&tree.join("b").join(i.to_string())).bytes).collect();
        assert_eq!(files.len(), 3 * BATCH);
        assert!(files.iter().all(|file| known.contains(&file.file.handle.bytes)), "of another directory");
    }
}
