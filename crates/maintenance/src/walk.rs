//! Every regular file of a filesystem, above all those that have HSM state, found by walking it with several threads.
//!
//! What is walked is the filesystem itself, by a mount that is attached nowhere: nothing that is mounted over a directory hides what is
//! below it, and nothing leads elsewhere. Directories wait as handles, so that one that is renamed meanwhile is found all the same;
//! the waiting list has an end, and who finds it full goes down by itself. Files are looked at through `O_PATH` descriptors:
//! nobody's content is touched, no event is raised.
//!
//! A walk misses what is moved from where it has not been to where it has. Who needs certainty watches names meanwhile, and looks at
//! what was moved again ([`Walker::look_again`]).

use coordinator::{Filesystem, handle_of};
use model::{FileHandle, xattr};
use rustix::fs::{Dir, FileType};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use sys::handle::RawHandle;
use sys::{Mode, OFlags};

/// Directories that wait for a thread.
const MAX_WAITING: usize = 4096;
/// Directories that one thread has open, one in another.
const MAX_DEPTH: usize = 512;

/// A regular file with `trusted.hsm`.
pub(crate) struct Seen {
    /// Relative to the root; where it was.
    pub(crate) path: Vec<u8>,
    /// A name for it (`O_PATH`).
    pub(crate) fd: OwnedFd,
}

/// What is done with what is found, by any thread.
pub(crate) trait Visitor: Sync {
    fn file(&self, file: Seen);
    /// A regular file that has no HSM state.
    fn unmanaged(&self, _path: &[u8], _fd: &OwnedFd) {}
    /// Whether to end.
    fn is_stopped(&self) -> bool {
        false
    }
    /// Something could not be looked at: the walk is not complete.
    fn trouble(&self, path: &[u8], error: &io::Error);
    /// So many entries of directories more.
    fn passed(&self, entries: u64);
}

/// A directory to be walked.
struct Waiting {
    handle: FileHandle,
    path: Vec<u8>,
}

#[derive(Default)]
struct Shared {
    waiting: Vec<Waiting>,
    /// Threads that may still add some.
    busy: usize,
}

/// One walk.
pub(crate) struct Walker<'a> {
    fs: &'a Filesystem,
    visitor: &'a dyn Visitor,
    shared: Mutex<Shared>,
    changed: Condvar,
    entries: AtomicU64,
}

/// A directory being read.
struct Level {
    entries: Dir,
    fd: OwnedFd,
    path: Vec<u8>,
}

impl<'a> Walker<'a> {
    pub(crate) fn new(fs: &'a Filesystem, visitor: &'a dyn Visitor) -> Self {
        let (shared, changed) = (Mutex::default(), Condvar::new());
        Self { fs, visitor, shared, changed, entries: AtomicU64::new(0) }
    }

    /// Walks everything.
    pub(crate) fn run(&self, threads: usize) {
        match handle_of(self.fs.root()) {
            Ok(handle) => self.from(Waiting { handle, path: Vec::new() }, threads),
            Err(error) => self.visitor.trouble(b"", &error),
        }
    }

    /// Looks at one file, or at everything below a directory: of what was moved or linked, once more. `path` is where it is, or for messages.
    pub(crate) fn look_again(&self, handle: &FileHandle, path: &[u8], threads: usize) {
        let raw = RawHandle { kind: handle.kind, bytes: handle.bytes.to_vec() };
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let looked = sys::handle::open_by_handle(self.fs.root(), &raw, flags).and_then(|fd| {
            let kind = FileType::from_raw_mode(sys::file::stamp(&fd)?.mode);
            Ok((fd, kind))
        });
        match looked {
            Ok((fd, FileType::RegularFile)) => self.file(fd, path),
            Ok((_, FileType::Directory)) => {
                self.from(Waiting { handle: handle.clone(), path: path.to_vec() }, threads);
            }
            Ok(_) => {}
            Err(error) if is_gone(&error) => {}
            Err(error) => self.visitor.trouble(path, &error),
        }
    }

    fn from(&self, first: Waiting, threads: usize) {
        self.lock().waiting.push(first);
        std::thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                scope.spawn(|| self.work());
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(next) = self.next() {
            self.tree(next);
            let mut shared = self.lock();
            shared.busy -= 1;
            if shared.busy == 0 && shared.waiting.is_empty() {
                self.changed.notify_all();
            }
        }
    }

    fn next(&self) -> Option<Waiting> {
        let mut shared = self.lock();
        loop {
            if let Some(next) = shared.waiting.pop() {
                shared.busy += 1;
                return Some(next);
            }
            if shared.busy == 0 {
                return None;
            }
            shared = self.changed.wait(shared).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// One directory, and below it what finds no place in the waiting list.
    fn tree(&self, top: Waiting) {
        let mut levels = Vec::new();
        self.enter(top, &mut levels);
        while let Some(level) = levels.last_mut().filter(|_| !self.visitor.is_stopped()) {
            let Some(entry) = level.entries.next() else {
                levels.pop();
                continue;
            };
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.visitor.trouble(&level.path, &error.into());
                    levels.pop();
                    continue;
                }
            };
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            self.count();
            let path = join(&level.path, name);
            match self.kind(level, entry.file_type(), name) {
                Ok(Some((FileType::RegularFile, fd))) => self.file(fd, &path),
                Ok(Some((_, fd))) => {
                    let Ok(handle) = handle_of(&fd).map_err(|error| self.visitor.trouble(&path, &error)) else {
                        continue;
                    };
                    let directory = Waiting { handle, path };
                    if let Some(directory) = self.offer(directory) {
                        self.enter(directory, &mut levels);
                    }
                }
                Ok(None) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => self.visitor.trouble(&path, &error),
            }
        }
    }

    /// Opens an entry if it is a regular file or a directory.
    fn kind(&self, level: &Level, kind: FileType, name: &[u8]) -> io::Result<Option<(FileType, OwnedFd)>> {
        if !matches!(kind, FileType::RegularFile | FileType::Directory | FileType::Unknown) {
            return Ok(None);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&level.fd, OsStr::from_bytes(name), flags, Mode::empty())?;
        // The entry may be something else by now.
        let kind = FileType::from_raw_mode(sys::file::stamp(&fd)?.mode);
        Ok(matches!(kind, FileType::RegularFile | FileType::Directory).then_some((kind, fd)))
    }

    fn file(&self, fd: OwnedFd, path: &[u8]) {
        match sys::xattr::get(&fd, xattr::HSM) {
            Ok(None) => self.visitor.unmanaged(path, &fd),
            Ok(Some(_)) => self.visitor.file(Seen { path: path.to_vec(), fd }),
            Err(error) if is_gone(&error) => {}
            Err(error) => self.visitor.trouble(path, &error),
        }
    }

    /// Gives the directory back if there is no room.
    fn offer(&self, directory: Waiting) -> Option<Waiting> {
        let mut shared = self.lock();
        if shared.waiting.len() >= MAX_WAITING {
            return Some(directory);
        }
        shared.waiting.push(directory);
        self.changed.notify_one();
        None
    }

    fn enter(&self, directory: Waiting, levels: &mut Vec<Level>) {
        let Waiting { handle, path } = directory;
        if levels.len() >= MAX_DEPTH {
            self.visitor.trouble(&path, &Errno::MFILE.into());
            return;
        }
        let raw = RawHandle { kind: handle.kind, bytes: handle.bytes.to_vec() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOATIME;
        let opened = sys::handle::open_by_handle(self.fs.root(), &raw, flags)
            .and_then(|fd| Ok((Dir::read_from(fd.as_fd())?, fd)));
        match opened {
            Ok((entries, fd)) => levels.push(Level { entries, fd, path }),
            Err(error) if is_gone(&error) => {}
            Err(error) => self.visitor.trouble(&path, &error),
        }
    }

    fn count(&self) {
        const STEP: u64 = 256;
        if (self.entries.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(STEP) {
            self.visitor.passed(STEP);
        }
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

/// Removed since it was found.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::NOENT | Errno::STALE))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;
    use testkit::{FsKind, LoopFs};

    #[derive(Default)]
    struct Found {
        files: Mutex<BTreeSet<String>>,
        troubles: Mutex<Vec<String>>,
    }

    impl Visitor for Found {
        fn file(&self, file: Seen) {
            self.files.lock().unwrap().insert(String::from_utf8(file.path).unwrap());
        }

        fn trouble(&self, path: &[u8], error: &io::Error) {
            self.troubles.lock().unwrap().push(format!("{}: {error}", String::from_utf8_lossy(path)));
        }

        fn passed(&self, _: u64) {}
    }

    fn managed(path: &std::path::Path) {
        let file = fs::File::create(path).unwrap();
        sys::xattr::set(&file, xattr::HSM, &model::HsmState::default().encode()).unwrap();
    }

    #[test]
    fn managed_files_are_found_wherever_they_are() {
        for kind in FsKind::ALL {
            let disk = LoopFs::new(kind, 64);
            let mut expected = BTreeSet::new();
            let mut dir = disk.path();
            // Deeper than one path can name.
            for level in 0..30 {
                managed(&dir.join("f"));
                fs::write(dir.join("other"), "").unwrap();
                let relative = dir.strip_prefix(disk.path()).unwrap().join("f");
                expected.insert(relative.to_str().unwrap().to_owned());
                dir.push(format!("{level:-<100}"));
                fs::create_dir(&dir).unwrap();
            }
            // Hidden by a mount, and not lost for that.
            let hidden = disk.path().join("hidden");
            fs::create_dir(&hidden).unwrap();
            managed(&hidden.join("f"));
            expected.insert("hidden/f".to_owned());
            let cover = LoopFs::new(FsKind::Ext4, 16);
            let bound = rustix::mount::mount_bind(cover.path(), &hidden);
            let fs = Filesystem::at(&disk.path()).unwrap();
            let found = Found::default();
            Walker::new(&fs, &found).run(3);
            bound.unwrap();
            sys::mounts::unmount(&hidden, false).unwrap();
            assert_eq!(*found.files.lock().unwrap(), expected, "{kind:?}");
            assert_eq!(*found.troubles.lock().unwrap(), Vec::<String>::new());
        }
    }
}
