//! The threads of a walk, and what they share.

use super::{Buffer, Directory, Entry, Found, Visitor, as_path, kind_of};
use rustix::fs::{AtFlags, FileType, StatxFlags};
use rustix::io::Errno;
use std::io;
use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use sys::file::stamp;
use sys::{Mode, OFlags};

/// Directories and batches that wait for a thread.
const MAX_WAITING: usize = 4096;
/// Entries that are given away at a time, and worked on between two looks at whether others are idle.
const BATCH: usize = 64;
/// Directories one in another. Each takes descriptors, of which there are only so many for all trees that a job works on.
const MAX_DEPTH: u32 = 4096;
/// Without descriptors for so many levels little would be done.
const LEAST_DEPTH: u64 = 16;
/// A directory at the source and one at the destination, which is half of what there is: the rest is for others.
const DESCRIPTORS_A_LEVEL: u64 = 4;
/// For what a thread has open in directories that are not deep.
const DESCRIPTORS_A_THREAD: u64 = 64;
/// More threads than this help no filesystem.
const MAX_USEFUL: usize = 64;

/// How many threads may work at present; changed while they do.
#[derive(Debug)]
pub struct Pace {
    limit: AtomicUsize,
    most: usize,
}

impl Pace {
    /// `first` threads of at most `most`.
    pub fn new(first: usize, most: usize) -> Self {
        let most = most.max(1);
        Self { limit: AtomicUsize::new(first.clamp(1, most)), most }
    }

    /// `asked` threads; without a number as many as are good to begin with, and as many at most as are of use to any filesystem.
    pub fn usual(asked: Option<usize>) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, NonZero::get);
        let (first, most) = asked.map_or((cores.max(2), (cores * 4).clamp(8, MAX_USEFUL)), |asked| (asked, asked));
        let room = usize::try_from(descriptors() / DESCRIPTORS_A_THREAD).unwrap_or(usize::MAX).max(1);
        Self::new(first.min(room), most.min(room))
    }

    /// How many now.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// How many at most.
    pub fn most(&self) -> usize {
        self.most
    }

    /// From now on; between 1 and the most. Follow it by [`Walker::wake`].
    pub fn set(&self, limit: usize) {
        self.limit.store(limit.clamp(1, self.most), Ordering::Relaxed);
    }
}

enum Task<V: Visitor> {
    /// One to be opened. Its parent is held.
    Enter { parent: Arc<Directory<V::Kept>>, name: Box<[u8]> },
    /// One that is open, to be listed.
    List { directory: Arc<Directory<V::Kept>> },
    /// Their directory is held.
    Entries { directory: Arc<Directory<V::Kept>>, entries: Vec<Entry> },
}

/// A directory that is open, and the entries of it that are wanted: all of them, if that is not said.
pub(crate) type Part<V> = (Arc<Directory<<V as Visitor>::Kept>>, Option<Vec<Entry>>);

struct Shared<V: Visitor> {
    waiting: Vec<Task<V>>,
    /// Threads that may still add some.
    busy: usize,
}

/// One walk. What a visitor may ask of it, it asks the same.
pub struct Walker<'a, V: Visitor> {
    visitor: &'a V,
    pace: &'a Pace,
    stop: &'a AtomicBool,
    cross: bool,
    max_depth: u32,
    /// Of the root.
    mount: OnceLock<Option<u64>>,
    shared: Mutex<Shared<V>>,
    changed: Condvar,
    /// For threads that are more than may work.
    paused: Condvar,
    /// Threads that wait, as of a moment ago.
    idle: AtomicUsize,
    /// Length of `waiting`, as of a moment ago.
    queued: AtomicUsize,
    /// Cleared when the kernel refuses it: only owners may ask for it.
    noatime: AtomicBool,
}

/// A directory that a thread is in.
struct Level<V: Visitor> {
    directory: Arc<Directory<V::Kept>>,
    /// In it, to be entered.
    below: Vec<Box<[u8]>>,
    ended: bool,
}

impl<'a, V: Visitor> Walker<'a, V> {
    /// `stop` ends the walk soon, with what is under way finished. `cross`: other filesystems are entered.
    pub fn new(visitor: &'a V, pace: &'a Pace, stop: &'a AtomicBool, cross: bool) -> Self {
        let shared = Mutex::new(Shared { waiting: Vec::new(), busy: 0 });
        let (changed, paused) = (Condvar::new(), Condvar::new());
        let (idle, queued) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let noatime = AtomicBool::new(true);
        let levels = (descriptors() / DESCRIPTORS_A_LEVEL).max(LEAST_DEPTH);
        let max_depth = u32::try_from(levels).unwrap_or(u32::MAX).min(MAX_DEPTH);
        Self {
            max_depth,
            visitor,
            pace,
            stop,
            cross,
            mount: OnceLock::new(),
            shared,
            changed,
            paused,
            idle,
            queued,
            noatime,
        }
    }

    /// Walks `root` and all below it.
    ///
    /// # Errors
    /// The root cannot be looked at. What goes wrong below it is told to the visitor.
    pub fn run(&self, root: OwnedFd) -> io::Result<()> {
        let mount = mount_of(root.as_fd())?;
        self.mount.get_or_init(|| mount);
        let found = stamp(&root)?;
        let entered = Found { parent: None, name: b"", fd: root.as_fd(), stamp: &found };
        let Some(kept) = self.visitor.enter(entered) else { return Ok(()) };
        let directory = Arc::new(Directory::new(None, Box::default(), root, found, kept));
        self.lock().busy = 1;
        std::thread::scope(|scope| {
            let first = Busy(self);
            for index in 1..self.pace.most() {
                let worker = move || self.work(index);
                if let Err(error) = std::thread::Builder::new().name("walk".to_owned()).spawn_scoped(scope, worker) {
                    tracing::debug!(%error, "no further thread for a walk: it takes longer");
                    break;
                }
            }
            self.tree(directory, &mut Buffer::new());
            drop(first);
            self.work(0);
        });
        Ok(())
    }

    /// Walks these directories, which are open, and which nobody has entered: all in them, or only the entries that are named. What is below `root` is on its filesystem.
    ///
    /// # Errors
    /// The root cannot be looked at.
    pub(crate) fn run_these(&self, root: BorrowedFd<'_>, these: Vec<Part<V>>) -> io::Result<()> {
        let mount = mount_of(root)?;
        self.mount.get_or_init(|| mount);
        let tasks = these.into_iter().map(|(directory, entries)| match entries {
            None => Task::List { directory },
            Some(entries) => Task::Entries { directory, entries },
        });
        self.lock().waiting.extend(tasks);
        std::thread::scope(|scope| {
            for index in 1..self.pace.most() {
                if std::thread::Builder::new().spawn_scoped(scope, move || self.work(index)).is_err() {
                    break;
                }
            }
            self.work(0);
        });
        Ok(())
    }

    /// Threads look again how many of them may work.
    pub fn wake(&self) {
        let _shared = self.lock();
        self.everybody();
    }

    /// Whether the walk is to end soon.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether other threads wait for work.
    pub fn is_hungry(&self) -> bool {
        self.idle.load(Ordering::Relaxed) > self.queued.load(Ordering::Relaxed)
    }

    fn release(&self, directory: Arc<Directory<V::Kept>>) {
        let mut last = directory.release().then_some(directory);
        while let Some(directory) = last {
            self.visitor.leave(&directory);
            let Some(parent) = directory.parent() else { return };
            if directory.is_flawed() {
                parent.mark_flawed();
            }
            last = parent.release().then(|| Arc::clone(parent));
        }
    }

    /// An entry turned out to be a directory: it is walked, too.
    pub fn also(&self, directory: &Arc<Directory<V::Kept>>, name: &[u8]) {
        let task = Task::Enter { parent: directory.hold(), name: name.into() };
        let mut shared = self.lock();
        shared.waiting.push(task);
        self.queued.store(shared.waiting.len(), Ordering::Relaxed);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Shared<V>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the task back if there is no room.
    fn offer(&self, task: Task<V>) -> Option<Task<V>> {
        let mut shared = self.lock();
        if shared.waiting.len() >= MAX_WAITING {
            return Some(task);
        }
        shared.waiting.push(task);
        self.queued.store(shared.waiting.len(), Ordering::Relaxed);
        self.changed.notify_one();
        None
    }

    fn work(&self, index: usize) {
        let mut buffer = Buffer::new();
        while let Some(task) = self.next(index) {
            let _busy = Busy(self);
            match task {
                Task::Enter { parent, name } => {
                    if let Some(directory) = self.open(&parent, name) {
                        self.tree(directory, &mut buffer);
                    }
                }
                Task::List { directory } => self.tree(directory, &mut buffer),
                Task::Entries { directory, entries } => {
                    if !self.is_stopped() {
                        self.visitor.entries(self, &directory, &entries);
                    } else {
                        directory.mark_flawed();
                    }
                    self.release(directory);
                }
            }
        }
    }

    fn next(&self, index: usize) -> Option<Task<V>> {
        let mut shared = self.lock();
        loop {
            let may = index < self.pace.limit();
            if may && let Some(task) = shared.waiting.pop() {
                self.queued.store(shared.waiting.len(), Ordering::Relaxed);
                shared.busy += 1;
                return Some(task);
            }
            if shared.busy == 0 && shared.waiting.is_empty() {
                self.everybody();
                return None;
            }
            if may {
                self.idle.fetch_add(1, Ordering::Relaxed);
                shared = self.changed.wait(shared).unwrap_or_else(PoisonError::into_inner);
                self.idle.fetch_sub(1, Ordering::Relaxed);
            } else {
                shared = self.paused.wait(shared).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn rested(&self) {
        let mut shared = self.lock();
        shared.busy -= 1;
        if std::thread::panicking() {
            // Whoever waits for what this thread was to do would wait for ever.
            self.stop.store(true, Ordering::Relaxed);
            self.pace.set(self.pace.most());
            shared.waiting.clear();
            self.everybody();
        }
        if shared.busy == 0 && shared.waiting.is_empty() {
            self.everybody();
        }
    }

    fn everybody(&self) {
        self.changed.notify_all();
        self.paused.notify_all();
    }

    /// One directory, and below it what finds no place in the waiting list.
    fn tree(&self, top: Arc<Directory<V::Kept>>, buffer: &mut Buffer) {
        let mut levels = vec![Level::<V> { directory: top, below: Vec::new(), ended: false }];
        while let Some(level) = levels.last_mut() {
            if self.is_stopped() && !(level.ended && level.below.is_empty()) {
                level.directory.mark_flawed();
                level.below.clear();
                level.ended = true;
            }
            if let Some(name) = level.below.pop() {
                let task = Task::Enter { parent: level.directory.hold(), name };
                if let Some(Task::Enter { parent, name }) = self.offer(task)
                    && let Some(directory) = self.open(&parent, name)
                {
                    levels.push(Level { directory, below: Vec::new(), ended: false });
                }
            } else if level.ended {
                if let Some(level) = levels.pop() {
                    self.release(level.directory);
                }
            } else {
                self.read(level, buffer);
            }
        }
    }

    /// The next entries of a directory: files are worked on, directories noted.
    fn read(&self, level: &mut Level<V>, buffer: &mut Buffer) {
        let directory = &level.directory;
        let entries = match buffer.fill(directory.fd(), directory.depth()) {
            Ok(Some(entries)) => entries,
            Ok(None) => {
                level.ended = true;
                return;
            }
            Err(error) => {
                directory.mark_flawed();
                self.visitor.trouble(directory, b"", "read the directory", &error);
                level.ended = true;
                return;
            }
        };
        let mut files = Vec::new();
        for entry in entries {
            if entry.kind != FileType::Directory {
                files.push(entry);
            } else if self.visitor.wants(directory, &entry.name) {
                level.below.push(entry.name);
            }
        }
        self.files(directory, files);
    }

    fn files(&self, directory: &Arc<Directory<V::Kept>>, mut files: Vec<Entry>) {
        while !files.is_empty() {
            if self.is_stopped() {
                directory.mark_flawed();
                return;
            }
            let rest = files.split_off(files.len().min(BATCH));
            if !rest.is_empty() && self.is_hungry() {
                let task = Task::Entries { directory: directory.hold(), entries: files };
                if let Some(Task::Entries { directory, entries }) = self.offer(task) {
                    self.visitor.entries(self, &directory, &entries);
                    self.release(directory);
                }
            } else {
                self.visitor.entries(self, directory, &files);
            }
            files = rest;
        }
    }

    /// The parent is released if there is nothing to enter.
    fn open(&self, parent: &Arc<Directory<V::Kept>>, name: Box<[u8]>) -> Option<Arc<Directory<V::Kept>>> {
        let opened = self.try_open(parent, &name);
        let none = match opened {
            Ok(Some((fd, found))) => {
                let entered = Found { parent: Some(parent), name: &name, fd: fd.as_fd(), stamp: &found };
                match self.visitor.enter(entered) {
                    Some(kept) => {
                        return Some(Arc::new(Directory::new(Some(Arc::clone(parent)), name, fd, found, kept)));
                    }
                    None => Ok(()),
                }
            }
            Ok(None) => {
                self.visitor.elsewhere(parent, &name);
                Ok(())
            }
            Err(error) => Err(error),
        };
        if let Err(error) = none {
            self.not_entered(parent, &name, &error);
        }
        self.release(Arc::clone(parent));
        None
    }

    fn not_entered(&self, parent: &Arc<Directory<V::Kept>>, name: &[u8], error: &io::Error) {
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        if errno == Some(Errno::NOENT) {
            return;
        }
        // It was a directory when it was listed.
        if matches!(errno, Some(Errno::NOTDIR | Errno::LOOP))
            && let Ok(kind) = kind_of(parent.fd(), name)
            && kind != FileType::Directory
        {
            self.visitor.entries(self, parent, &[Entry { name: name.into(), kind }]);
            return;
        }
        parent.mark_flawed();
        self.visitor.trouble(parent, name, "open the directory", error);
    }

    fn try_open(
        &self,
        parent: &Arc<Directory<V::Kept>>,
        name: &[u8],
    ) -> io::Result<Option<(OwnedFd, sys::file::FileStamp)>> {
        if parent.depth() >= self.max_depth {
            let (levels, descriptors) = (self.max_depth, descriptors());
            let why = format!(
                "more than {levels} directories one in another are not entered with {descriptors} open files allowed"
            );
            return Err(io::Error::other(why));
        }
        let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if self.noatime.load(Ordering::Relaxed) {
            flags |= OFlags::NOATIME;
        }
        let open = |flags| rustix::fs::openat(parent.fd(), as_path(name), flags, Mode::empty());
        let fd = match open(flags) {
            Err(Errno::PERM) if flags.contains(OFlags::NOATIME) => {
                self.noatime.store(false, Ordering::Relaxed);
                open(flags.difference(OFlags::NOATIME))?
            }
            other => other?,
        };
        if !self.cross && self.mount.get() != Some(&mount_of(fd.as_fd())?) {
            return Ok(None);
        }
        let found = stamp(&fd)?;
        Ok(Some((fd, found)))
    }
}

/// How many this process may have open.
fn descriptors() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// A thread that works on something.
struct Busy<'w, 'a, V: Visitor>(&'w Walker<'a, V>);

impl<V: Visitor> Drop for Busy<'_, '_, V> {
    fn drop(&mut self) {
        self.0.rested();
    }
}

/// By the mount and not by the device: subvolumes of btrfs have devices of their own. `None` where the kernel does not say.
pub(crate) fn mount_of(fd: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let found = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    Ok((found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id))
}
