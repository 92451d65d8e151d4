//! Other processes: handles on them, what children inherit from us, and what one that waits is doing.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, Signal};

use crate::check;

/// A process that keeps its identity: unlike a number, it is never reused. Readable once the process has ended.
#[derive(Debug)]
pub struct PidFd {
    fd: OwnedFd,
}

impl PidFd {
    /// `ESRCH` when there is no such process; `EINVAL` for numbers that are none.
    pub fn open(pid: i32) -> io::Result<Self> {
        // `from_raw` panics at negative numbers.
        let pid = Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw).ok_or(Errno::INVAL)?;
        Ok(Self { fd: rustix::process::pidfd_open(pid, PidfdFlags::empty())? })
    }

    /// A close-on-exec duplicate of the process's descriptor `number`. `EBADF` when it has none; `EPERM` without the
    /// right to trace it (`PTRACE_MODE_ATTACH_REALCREDS`).
    pub fn get_fd(&self, number: RawFd) -> io::Result<OwnedFd> {
        Ok(rustix::process::pidfd_getfd(&self.fd, number, PidfdGetfdFlags::empty())?)
    }

    /// Sends a signal (by number, standard signals only). `ESRCH` once the process has been reaped.
    pub fn kill(&self, signal: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal).ok_or(Errno::INVAL)?;
        Ok(rustix::process::pidfd_send_signal(&self.fd, signal)?)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether the process has ended, reaped or not. In doubt it has not: of number 0, by which processes outside our namespace go, and when no
/// descriptor is to be had.
#[must_use]
pub fn has_ended(pid: i32) -> bool {
    match PidFd::open(pid) {
        Ok(process) => {
            let mut poll = [PollFd::new(&process, PollFlags::IN)];
            rustix::event::poll(&mut poll, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
        }
        Err(error) => error.raw_os_error() == Some(libc::ESRCH),
    }
}

/// Has the child killed (SIGKILL) when the *thread* that spawns it ends: spawn from one that lives as long as the process.
///
/// The setting does not survive a set-user-id program. `command` must be spawned by this process, not by a fork of it.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    let parent = std::process::id();
    let hook = move || {
        // SAFETY: integers only.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, 0, 0, 0) })?;
        // The parent may have died before the call above, and then nobody tells us.
        // SAFETY: getppid has no preconditions.
        if unsafe { libc::getppid() }.cast_unsigned() != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: the hook makes async-signal-safe calls only and allocates nothing.
    unsafe { command.pre_exec(hook) }
}

/// A socket that both sides find ended when this is dropped, whoever else holds it.
struct ShutOnDrop(UnixStream);

impl Drop for ShutOnDrop {
    fn drop(&mut self) {
        // Fails only when the other side did it.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Spawns `command` with the child held before its program starts: `held` is called with the child's pid, and only when it
/// returned `Ok` does the program run. When it fails, so does this, and no program has run.
///
/// `held` runs on another thread, since the calling one cannot return from the spawn before the program runs. Hooks that
/// were added to `command` before (such as [`die_with_parent`], which sees to it that a child is not held for ever when this process
/// dies) take effect before the child is held. Descriptors need care: the child is a copy of this process until it is released.
pub fn spawn_held(mut command: Command, held: impl FnOnce(i32) -> io::Result<()> + Send) -> io::Result<Child> {
    let (here, there) = UnixStream::pair()?;
    // Closing would not end the other side's wait: forked processes hold copies of both ends until they run their programs.
    let (mut here, in_child) = (ShutOnDrop(here), ShutOnDrop(there.try_clone()?));
    let hook = move || {
        // SAFETY: getpid has no preconditions.
        let pid = unsafe { libc::getpid() }.to_ne_bytes();
        // Anything but the one byte means that we are not to run.
        if rustix::io::write(&there, &pid)? == pid.len() && rustix::io::read(&there, &mut [0u8; 1])? == 1 {
            return Ok(());
        }
        Err(io::Error::from_raw_os_error(libc::ECANCELED))
    };
    // SAFETY: the hook makes async-signal-safe calls only and allocates nothing.
    unsafe { command.pre_exec(hook) };
    std::thread::scope(|scope| {
        let holder = scope.spawn(move || {
            let mut pid = [0; 4];
            // Ends early when the child never came so far.
            here.0.read_exact(&mut pid)?;
            held(i32::from_ne_bytes(pid))?;
            here.0.write_all(&[1])
        });
        let child = command.spawn();
        drop(in_child);
        let held = holder.join().unwrap_or_else(|_| Err(io::Error::other("the callback of a held child panicked")));
        match (child, held) {
            (Ok(child), Ok(())) => Ok(child),
            // The program cannot be there: it is what the child's own error says.
            (Err(error), Ok(())) => Err(error),
            (Err(_), Err(error)) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
            (Err(error), Err(_)) => Err(error),
            (Ok(mut child), Err(error)) => {
                // It died in the hooks without a word, so there is only its end to collect.
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    })
}

/// Has `fd` stay open in the child, under the number returned. The command keeps it open here until it is dropped.
pub fn inherit_fd(command: &mut Command, fd: OwnedFd) -> RawFd {
    let number = fd.as_raw_fd();
    let hook = move || Ok(rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty())?);
    // SAFETY: the hook makes one async-signal-safe call and allocates nothing. It runs in the child, whose descriptor
    // table is its own, so the flag changes there only.
    unsafe { command.pre_exec(hook) };
    number
}

/// Takes over a descriptor that the parent left open under this number (see [`inherit_fd`]); close-on-exec from now on.
///
/// Refuses numbers below 3 and numbers that are not open. Call it once a number, at the start of the program, before anything
/// else opens files: that is what makes the number ours.
pub fn adopt_fd(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(Errno::BADF.into());
    }
    // SAFETY: F_SETFD touches no memory; on a number that is not open it fails.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: the number is open, and by the contract above nobody in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Raises the limit of open files as far as we may, and says what it is now. Never lowers it, never fails.
///
/// The hard limit goes up to 2^20 (the usual `fs.nr_open`) when we have the right; the soft limit up to the hard one.
pub fn raise_nofile_limit() -> u64 {
    const WANTED: u64 = 1 << 20;
    let before = rustix::process::getrlimit(Resource::Nofile);
    let set = |limit: u64, hard: Option<u64>| {
        rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum: hard }).is_ok()
    };
    match before.maximum {
        Some(hard) => {
            let raised = hard < WANTED && set(WANTED, Some(WANTED));
            if !raised {
                set(hard, Some(hard));
            }
        }
        None => {
            set(before.current.unwrap_or(WANTED).max(WANTED), None);
        }
    }
    rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The user that process `pid` was started by (its real user id): `None` when there is no such process.
pub fn real_uid(pid: i32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_ascii_whitespace().next()?.parse().ok()
}

/// How likely the kernel is to kill this process when memory runs out: -1000 (never) to 1000.
pub fn set_oom_score(score: i32) -> io::Result<()> {
    std::fs::write("/proc/self/oom_score_adj", score.to_string())
}

/// Who connected the Unix socket at the other end: process, user, group, at the time of the connect.
pub fn peer_credentials(socket: impl AsFd) -> io::Result<(i32, u32, u32)> {
    let peer = rustix::net::sockopt::socket_peercred(socket)?;
    Ok((peer.pid.as_raw_nonzero().get(), peer.uid.as_raw(), peer.gid.as_raw()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_process_has_a_user() {
        use std::os::unix::process::CommandExt;
        let mut child = Command::new("sleep").arg("1000").uid(4321).spawn().unwrap();
        assert_eq!(real_uid(child.id() as i32), Some(4321));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((real_uid(child.id() as i32), real_uid(0), real_uid(-1)), (None, None, None));
    }

    #[test]
    fn one_that_was_killed_has_ended_whether_reaped_or_not() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id() as i32;
        assert!(!has_ended(pid));
        child.kill().unwrap();
        while !has_ended(pid) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(has_ended(pid));
        assert!(!has_ended(0) && !has_ended(-1) && !has_ended(std::process::id() as i32));
    }

    #[test]
    fn a_held_child_runs_only_after_the_callback() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ran");
        let mut command = Command::new("touch");
        command.arg(&file);
        let mut seen = None;
        let mut child = spawn_held(command, |pid| {
            std::thread::sleep(std::time::Duration::from_millis(100));
            seen = Some((pid, file.exists(), Path::new(&format!("/proc/{pid}")).exists()));
            Ok(())
        })
        .unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(seen, Some((child.id() as i32, false, true)));
        assert!(file.exists());
    }

    #[test]
    fn a_held_child_that_may_not_run_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ran");
        let mut command = Command::new("touch");
        command.arg(&file);
        let mut held = None;
        let error = spawn_held(command, |pid| {
            held = Some(pid);
            Err(io::Error::from_raw_os_error(libc::EPERM))
        })
        .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        assert!(!file.exists() && !Path::new(&format!("/proc/{}", held.unwrap())).exists());
    }

    #[test]
    fn a_program_that_is_not_there_is_said_to_be_so() {
        let error = spawn_held(Command::new("/nonexistent/program"), |_| Ok(())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
