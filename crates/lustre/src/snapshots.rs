//! Snapshots: after each archive a released file beside the original that names the same object, so that the version stays readable
//! when the original has moved on.
//!
//! They are made after the coordinator was told of the end, on threads of their own: an archive does not fail with its snapshot, and waits
//! for none but when thousands are ahead of it. What they need is taken along, so that it does not matter what becomes of the file
//! meanwhile. A crash leaves out those that were not made yet. Nobody but administrators and users removes them.
//!
//! Users may own the directories, and this works as root: everything goes through descriptors of directories that were reached without
//! symbolic links, and the library, which follows them, makes the file in a directory where nobody else can write.

use crate::file::LustreFile;
use crate::place::Place;
use crate::source::{HANGING, join_within};
use model::{Fid, Identity, SNAPSHOT_DIRECTORY, Timestamp, snapshot_name, xattr};
use parking_lot::Mutex;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use sys::file::{FileStamp, open_beneath, stamp, stamp_at};
use sys::lustre::{Import, Library, fid2path};
use sys::{Mode, OFlags};

/// What one makes is mostly waiting for the MDT.
const THREADS: usize = 4;
/// So many may wait; whoever ends an archive then waits for room.
const WAITING: usize = 4096;

/// A version that was archived.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) fid: Fid,
    /// For messages.
    pub(crate) shown: String,
    pub(crate) archive_id: u32,
    pub(crate) identity: Identity,
    /// Of the file between the begin and the end of its archive.
    pub(crate) stamp: FileStamp,
    pub(crate) layout: Option<Vec<u8>>,
    /// Its access ACL: without it the group would have what the mask allows to others.
    pub(crate) acl: Option<Vec<u8>>,
}

/// Whether a file is a snapshot itself, by its path.
pub(crate) fn is_snapshot(path: &Path) -> bool {
    path.parent().and_then(Path::file_name) == Some(OsStr::new(SNAPSHOT_DIRECTORY))
}

/// The threads that make them.
pub(crate) struct Snapshots {
    /// `None` when it is over.
    wanted: Mutex<Option<SyncSender<Snapshot>>>,
    shared: Arc<Maker>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Snapshots {
    /// `root` is that of the filesystem that is mounted at `mount`.
    pub(crate) fn start(library: &Library, mount: &Path, root: &OwnedFd) -> io::Result<Self> {
        let (wanted, incoming) = sync_channel(WAITING);
        let shared = Arc::new(Maker {
            library: library.clone(),
            mount: mount.to_owned(),
            root: root.try_clone()?,
            incoming: Mutex::new(incoming),
            until: Mutex::new(None),
        });
        let this = Self { wanted: Mutex::new(Some(wanted)), shared, threads: Mutex::default() };
        for number in 0..THREADS {
            let maker = Arc::clone(&this.shared);
            let thread = std::thread::Builder::new().name(format!("snapshots-{number}")).spawn(move || maker.run())?;
            this.threads.lock().push(thread);
        }
        Ok(this)
    }

    /// Has it made.
    pub(crate) fn make(&self, snapshot: Snapshot) {
        let wanted = self.wanted.lock().clone();
        if let Some(wanted) = wanted {
            // Nobody receives any more: that has been said.
            let _ = wanted.send(snapshot);
        }
    }

    /// Makes those that wait, as far as they can be made in this time, and ends.
    pub(crate) fn stop(&self, patience: Duration) {
        *self.shared.until.lock() = Some(Instant::now() + patience);
        self.wanted.lock().take();
        let threads = std::mem::take(&mut *self.threads.lock());
        if !join_within(patience + HANGING, threads) {
            tracing::warn!("Lustre does not answer: snapshots that were being made may be missing");
        }
    }
}

impl Drop for Snapshots {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

/// What the threads share.
struct Maker {
    library: Library,
    mount: PathBuf,
    root: OwnedFd,
    incoming: Mutex<Receiver<Snapshot>>,
    /// From then on none is made.
    until: Mutex<Option<Instant>>,
}

/// What was refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {why}")]
struct MakeError {
    what: &'static str,
    why: String,
}

fn failed<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> MakeError {
    move |why| MakeError { what, why: why.to_string() }
}

impl Maker {
    fn run(&self) {
        loop {
            let next = self.incoming.lock().recv();
            let Ok(snapshot) = next else { return };
            let late = self.until.lock().is_some_and(|until| Instant::now() >= until);
            let made = if late { Err(failed("make it")("the agent is stopping")) } else { self.make(&snapshot) };
            if let Err(error) = made {
                let path = &snapshot.shown;
                tracing::warn!(path, %error, "no snapshot of the archived version was made; the archive itself is done");
            }
        }
    }

    /// One for each name of the file, all of them names of one.
    fn make(&self, snapshot: &Snapshot) -> Result<(), MakeError> {
        let mut made = Made::default();
        let (mut names, mut first_failure) = (0, None);
        // Lustre tells a bounded number of names; the bound here is for a library that does not.
        for number in 0..u32::try_from(snapshot.stamp.nlink).unwrap_or(u32::MAX) {
            let path = match fid2path(&self.library, &self.mount, snapshot.fid, number) {
                Ok(path) => path,
                Err(error) if number == 0 => return Err(failed("find out its name")(error)),
                Err(_) => break,
            };
            let path = path.strip_prefix("/").unwrap_or(&path);
            if is_snapshot(path) {
                continue;
            }
            // What is wrong with one name, or with its directory, is nothing to the others.
            match self.make_at(snapshot, path, &mut made) {
                Ok(is_there) => names += u32::from(is_there),
                Err(error) => drop(first_failure.get_or_insert(error)),
            }
        }
        match first_failure {
            Some(error) => Err(error),
            None if names == 0 => Err(failed("make it")("the file has no name any more")),
            None => Ok(()),
        }
    }

    /// Whether the file is at `path`: then its snapshot is beside it.
    fn make_at(&self, snapshot: &Snapshot, path: &Path, made: &mut Made) -> Result<bool, MakeError> {
        let Some(name) = path.file_name() else { return Ok(false) };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let parent = match open_beneath(&self.root, parent, flags, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            parent => parent.map_err(failed("open its directory"))?,
        };
        // The path is of a moment ago.
        if stamp_at(&parent, name).ok().map(|found| found.ino) != Some(snapshot.stamp.ino) {
            return Ok(false);
        }
        let directory = sys::directory::open_or_make(&parent, Path::new(SNAPSHOT_DIRECTORY))
            .map_err(failed("make its .hsmsnapshot"))?;
        let mtime = timestamp(snapshot.stamp.mtime);
        // Another version of the same second has the name, perhaps.
        for fraction in [false, true] {
            let name = snapshot_name(name.as_bytes(), mtime, fraction);
            if self.place(snapshot, &directory, Path::new(OsStr::from_bytes(&name)), made)? {
                return Ok(true);
            }
        }
        Err(failed("make it")("other files have its name"))
    }

    /// `false` when another file has the name. One that names the same object is fine.
    fn place(&self, snapshot: &Snapshot, directory: &OwnedFd, name: &Path, made: &mut Made) -> Result<bool, MakeError> {
        match open_beneath(directory, name, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(there) => {
                let ours = sys::xattr::get(&there, xattr::UUID).ok().flatten();
                let is_other = stamp(&there).is_ok_and(|found| found.ino != snapshot.stamp.ino);
                let same = is_other && ours.as_deref() == Some(snapshot.identity.uuid.as_bytes());
                if same && made.file.is_none() {
                    made.file = Some(there);
                }
                return Ok(same);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // A symbolic link.
            Err(error) if error.raw_os_error() == Some(ELOOP) => return Ok(false),
            Err(error) => return Err(failed("look at what is there")(error)),
        }
        let file = match &made.file {
            Some(file) => file,
            None => made.file.insert(self.import(snapshot, directory, &mut made.place)?),
        };
        match sys::file::link_fd(file, directory, name) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(failed("give it its name")(error)),
        }
    }

    fn import(
        &self,
        snapshot: &Snapshot,
        directory: &OwnedFd,
        place: &mut Option<Place>,
    ) -> Result<OwnedFd, MakeError> {
        let place = place.insert(Place::make(directory).map_err(failed("make a directory for it"))?);
        let wanted = &snapshot.stamp;
        let new = Import {
            archive_id: snapshot.archive_id,
            size: wanted.size,
            uid: wanted.uid,
            gid: wanted.gid,
            // Nobody gets a right from a version that was replaced, perhaps because of that.
            permissions: wanted.mode & 0o777,
            atime: timestamp(wanted.atime),
            mtime: timestamp(wanted.mtime),
            ..Import::default()
        };
        let (fid, fd) = place.import(&self.library, &new).map_err(failed("import it"))?;
        let file = LustreFile::of(fid, fd).map_err(failed("look at it"))?;
        file.set_acl(snapshot.acl.as_deref()).map_err(failed("give it its ACL"))?;
        file.name_shared(&snapshot.identity, snapshot.layout.as_deref()).map_err(failed("make it name its object"))?;
        Ok(file.into_fd())
    }
}

const ELOOP: i32 = 40;

/// What there is of a snapshot.
#[derive(Default)]
struct Made {
    /// The released file, by any name.
    file: Option<OwnedFd>,
    /// Where it was made; goes when it has its names.
    place: Option<Place>,
}

fn timestamp((seconds, nanos): sys::file::Moment) -> Timestamp {
    Timestamp { seconds, nanos }
}
