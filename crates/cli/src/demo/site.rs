//! The directory that everything of the demo is in, and how all of it goes away again.

use super::pace::spread;
use super::tree::Tree;
use super::{cannot_at, processes, wrong};
use crate::exit::{CliError, Exit};
use crate::output::{complain, escaped_path};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};
use transfer::{KernelDurability, PosixStore};

/// Besides the files and their archive copies: the filesystem's own structures, the queue, logs.
const SPARE_BYTES: u64 = 256 << 20;
/// A file takes whole blocks, twice, and an inode, twice.
const SPARE_BYTES_PER_FILE: u64 = 16 << 10;
/// `sun_path` holds 108 bytes, the last of them NUL.
const MAX_SOCKET_PATH_BYTES: usize = 107;
/// Lines of the agent's log that are shown.
const TAIL_LINES: usize = 30;
/// How long what was closed may go on being busy.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(5);
/// There is no event for "no longer busy".
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The directory. Dropped without [`Site::clean`] (after a panic), it cleans as well.
pub(super) struct Site {
    dir: PathBuf,
    pub(super) agent: Option<Child>,
    cleaned: bool,
}

impl Site {
    /// Makes it in `parent`, for its owner only.
    pub(super) fn create(parent: &Path) -> Result<Self, CliError> {
        let parent = fs::canonicalize(parent).map_err(cannot_at("use", parent))?;
        let dir = parent.join(format!("sifaka-demo-{}", std::process::id()));
        // Fails when it is there, or a link of that name is: what is not ours is not used.
        DirBuilder::new().mode(0o700).create(&dir).map_err(cannot_at("make", &dir))?;
        let site = Self { dir, agent: None, cleaned: false };
        let longest = site.run_dir().join("guard-0123456789abcdef.sock");
        if site.dir.to_str().is_none() || longest.as_os_str().len() > MAX_SOCKET_PATH_BYTES {
            let text =
                format!("the path of {} is too long for sockets, or no UTF-8: use --dir", escaped_path(&site.dir));
            return Err(CliError::new(Exit::Usage, text));
        }
        for dir in [site.run_dir(), site.archive(), site.mount_point(), site.dir("config")] {
            DirBuilder::new().mode(0o700).create(&dir).map_err(cannot_at("make", &dir))?;
        }
        Ok(site)
    }

    pub(super) fn dir(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where the filesystem is mounted.
    pub(super) fn mount_point(&self) -> PathBuf {
        self.dir("mnt")
    }

    pub(super) fn archive(&self) -> PathBuf {
        self.dir("archive")
    }

    pub(super) fn run_dir(&self) -> PathBuf {
        self.dir("run")
    }

    /// The archive, beside whatever mover has it open.
    pub(super) fn open_archive(&self) -> Result<PosixStore, CliError> {
        PosixStore::open(&self.archive(), Arc::new(KernelDurability)).map_err(|error| wrong(error.to_string()))
    }

    /// Ends agent and guard, and takes away the filesystem with all that is on it, and everything that the agent knew.
    pub(super) fn destroy_filesystem(&mut self) -> Result<(), CliError> {
        self.end_agent();
        self.unmount().map_err(wrong)?;
        let image = self.image();
        fs::remove_file(&image).map_err(cannot_at("remove", &image))?;
        let state = self.dir("state");
        fs::remove_dir_all(&state).map_err(cannot_at("remove", &state))
    }

    /// Refuses when there is not enough space for the files and their copies.
    pub(super) fn needs_space(&self, tree: &Tree) -> Result<(), CliError> {
        let stat = rustix::fs::statvfs(&self.dir).map_err(io::Error::from).map_err(cannot_at("look at", &self.dir))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let needed = tree.bytes() * 2 + tree.count() * SPARE_BYTES_PER_FILE + SPARE_BYTES;
        if free >= needed {
            return Ok(());
        }
        let mb = |bytes: u64| bytes / 1_000_000;
        let at = escaped_path(&self.dir);
        let text = format!("the demo needs {} MB in {at}, and {} MB are free: use --dir", mb(needed), mb(free));
        Err(CliError::new(Exit::SomeFailed, text))
    }

    pub(super) fn log(&self) -> PathBuf {
        self.dir("agent.log")
    }

    /// The last lines that the agent, its guard and its movers logged; `None` if there never was an agent.
    pub(super) fn log_tail(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&fs::read(self.log()).ok()?).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default();
        Some(tail.iter().map(|line| format!("  {}\n", crate::output::escaped(line))).collect())
    }

    /// Ends the processes, unmounts, detaches the loop device, removes the directory unless `keep`.
    ///
    /// # Errors
    /// Names what is left. Goes as far as it can.
    pub(super) fn clean(&mut self, keep: bool) -> Result<(), CliError> {
        self.cleaned = true;
        self.end_agent();
        if !processes::end_all() {
            return Err(self.left("processes that were killed do not end"));
        }
        self.unmount().map_err(|why| self.left(&why))?;
        if keep {
            complain(&format!("kept: {}", escaped_path(&self.dir)));
            return Ok(());
        }
        self.remove().map_err(cannot_at("remove", &self.dir))
    }

    /// The archive's thousands of directories first and by many threads: one alone waits for the journal at every few of them.
    fn remove(&self) -> io::Result<()> {
        let objects: Vec<PathBuf> =
            fs::read_dir(self.archive().join("objects")).into_iter().flatten().flatten().map(|e| e.path()).collect();
        spread(&objects, |directory| fs::remove_dir_all(directory))?;
        fs::remove_dir_all(&self.dir)
    }

    /// Unmounts whatever is mounted below the directory: the filesystem, and what an agent that was killed left.
    pub(super) fn unmount(&self) -> Result<(), String> {
        let deadline = Instant::now() + UNMOUNT_PATIENCE;
        loop {
            let mounts = sys::mounts::mounts_under(&self.dir).map_err(|why| format!("/proc/self/mountinfo: {why}"))?;
            if mounts.is_empty() && !self.is_attached() {
                return Ok(());
            }
            for mount in &mounts {
                if let Err(why) = sys::mounts::unmount(mount, false)
                    && Instant::now() > deadline
                {
                    return Err(format!("cannot unmount {}: {why}", escaped_path(mount)));
                }
            }
            if mounts.is_empty() && Instant::now() > deadline {
                return Err("the loop device is not detached".to_owned());
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    pub(super) fn image(&self) -> PathBuf {
        self.dir("image")
    }

    /// Whether a loop device has the image as its file.
    fn is_attached(&self) -> bool {
        let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
        let mut files = devices.filter_map(|device| fs::read(device.path().join("loop/backing_file")).ok());
        let image = self.image();
        files.any(|file| file.trim_ascii_end() == image.as_os_str().as_encoded_bytes())
    }

    fn left(&self, why: &str) -> CliError {
        CliError::new(Exit::SomeFailed, format!("demo: cannot clean up {}: {why}", escaped_path(&self.dir)))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if !self.cleaned
            && let Err(error) = self.clean(false)
        {
            error.report();
        }
    }
}
