//! A process beside a host's own that kills it when it hangs: its movers end with it, as they must once its lease is over.
//!
//! A stopped process (SIGSTOP, a debugger, memory that is paged out) cannot end its movers. So another one, which does nothing else, is told how long
//! the process may live without saying more.

use super::now;
use crate::Time;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use sys::process::PidFd;

/// The hidden command of the program that runs a watchdog.
pub const WATCHDOG_COMMAND: &str = "mover-host-watchdog";

const SIGKILL: i32 = 9;

/// The other process. Dropping it ends it.
pub struct Watchdog {
    child: Child,
    told: Option<Time>,
}

impl Watchdog {
    /// Starts this program as a watchdog of this process.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start() -> io::Result<Self> {
        Ok(Self { child: spawn()?, told: None })
    }

    /// It is to kill this process then, unless it is told something else before; `None`: not at all.
    pub(crate) fn bite_at(&mut self, at: Option<Time>) {
        if self.told == at {
            return;
        }
        self.told = at;
        if self.write().is_err() {
            tracing::warn!("the watchdog has ended: starting another");
            self.end();
            match spawn() {
                Ok(child) => {
                    self.child = child;
                    let _ = self.write();
                }
                Err(error) => tracing::error!(%error, "cannot start a watchdog"),
            }
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let text = self.told.map_or_else(|| "-\n".to_owned(), |at| format!("{}\n", at.0));
        let Some(pipe) = &mut self.child.stdin else { return Err(io::ErrorKind::BrokenPipe.into()) };
        pipe.write_all(text.as_bytes())
    }
}

impl Watchdog {
    fn end(&mut self) {
        // It may be stopped itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.end();
    }
}

fn spawn() -> io::Result<Child> {
    // A group of its own: whoever stops ours must not stop it too.
    let child = Command::new("/proc/self/exe")
        .arg0("sifaka")
        .arg(WATCHDOG_COMMAND)
        .arg(std::process::id().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()?;
    if let Some(pipe) = &child.stdin {
        // One that takes nothing any more counts as ended.
        rustix::io::ioctl_fionbio(pipe, true)?;
    }
    Ok(child)
}

/// Watches the parent, which has this number: what [`WATCHDOG_COMMAND`] does. Returns when the parent has ended, or closed the pipe.
///
/// # Errors
/// There is no parent to watch.
pub fn run_watchdog(parent: i32) -> io::Result<()> {
    let pidfd = PidFd::open(parent)?;
    // Its number may be another's by now, unless it is our parent still.
    if rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(parent) {
        return Err(io::Error::other("the process to be watched is not the one that started this"));
    }
    let mut pipe = std::fs::File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (mut text, mut bite_at) = (String::new(), None::<Time>);
    loop {
        let left = bite_at.map(|at| at.since(now()));
        if bite_at.is_some_and(|at| now() >= at) {
            eprintln!("sifaka mover-host hangs: its lease is over, it is killed");
            return pidfd.kill(SIGKILL);
        }
        if !readable(&pipe, left)? {
            continue;
        }
        let mut buffer = [0; 4096];
        let read = pipe.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        text.push_str(&String::from_utf8_lossy(buffer.get(..read).unwrap_or_default()));
        // The last whole line is what holds.
        if let Some((lines, rest)) = text.rsplit_once('\n') {
            let last = lines.rsplit('\n').next().unwrap_or_default();
            bite_at = last.parse().ok().map(Time);
            text = rest.to_owned();
        }
    }
}

fn readable(pipe: &impl AsFd, timeout: Option<std::time::Duration>) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(pipe, PollFlags::IN)];
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match poll(&mut fds, timeout.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
