//! Programs that are run for their work: what they inherit, what they say through pipes, and their end with all that they started.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal};

use crate::check;

/// Has the program get no descriptor of ours but the standard three, whoever left them open for it. Not together with
/// [`crate::process::inherit_fd`].
pub fn inherit_nothing(command: &mut Command) -> &mut Command {
    let hook = || {
        // Marked and not closed: the standard library tells of a failed exec through one of them.
        let mark = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
        // SAFETY: integers only; it changes a flag of descriptors in the child's own table.
        check(unsafe { libc::close_range(3, libc::c_uint::MAX, mark) })?;
        Ok(())
    };
    // SAFETY: the hook makes one async-signal-safe call and allocates nothing.
    unsafe { command.pre_exec(hook) }
}

/// Sends a signal (by number, standard signals only) to the whole process group that `leader` leads. `ESRCH` when nobody is left in it.
///
/// The number is the group's only until its leader has been waited for.
pub fn kill_group(leader: i32, signal: i32) -> io::Result<()> {
    let signal = Signal::from_named_raw(signal).ok_or(rustix::io::Errno::INVAL)?;
    // Group 1 would be init's; 0 and below mean other things.
    let group = Some(leader).filter(|pid| *pid > 1).and_then(Pid::from_raw).ok_or(rustix::io::Errno::INVAL)?;
    Ok(rustix::process::kill_process_group(group, signal)?)
}

/// What is waited for on a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// Something to read, or the end; of a pidfd, the end of its process.
    Read,
    /// Room to write, or nobody who reads.
    Write,
}

/// Waits until one of the descriptors is ready or the time is over, and says of each whether it is. A signal ends the wait early.
pub fn wait_ready(descriptors: &[(BorrowedFd<'_>, Wanted)], timeout: Duration) -> io::Result<Vec<bool>> {
    let flags = |wanted: Wanted| match wanted {
        Wanted::Read => PollFlags::IN,
        Wanted::Write => PollFlags::OUT,
    };
    let mut polled: Vec<_> = descriptors.iter().map(|(fd, wanted)| PollFd::new(fd, flags(*wanted))).collect();
    let timeout = Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    match rustix::event::poll(&mut polled, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(polled.iter().map(|fd| !fd.revents().is_empty()).collect()),
        Err(error) => Err(error.into()),
    }
}

/// Reads and writes on this open file do not wait any more, but fail with `EAGAIN`. That is so for everybody who shares it.
pub fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(fd, true)?)
}

/// How many bytes in this pipe nobody has read yet.
pub fn unread(fd: impl AsFd) -> io::Result<u64> {
    Ok(rustix::io::ioctl_fionread(fd)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::PidFd;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::process::Stdio;

    #[test]
    fn a_program_gets_no_descriptor_of_ours() {
        let mut command = Command::new("ls");
        command.arg("/proc/self/fd");
        crate::process::inherit_fd(&mut command, File::open("/dev/null").unwrap().into());
        // Three, and the directory that it lists.
        let with = String::from_utf8(command.output().unwrap().stdout).unwrap();
        inherit_nothing(&mut command);
        let without = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert!(with.lines().count() >= 5, "{with}");
        assert_eq!(without.lines().count(), 4, "{without}");
        let missing = inherit_nothing(&mut Command::new("/nonexistent")).spawn().unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_group_ends_with_what_it_started() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & echo $!; wait"]).process_group(0).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut pid = [0; 32];
        let read = out.read(&mut pid).unwrap();
        let started: i32 = std::str::from_utf8(&pid[..read]).unwrap().trim().parse().unwrap();
        let process = PidFd::open(started).unwrap();
        let leader = child.id().cast_signed();
        let patience = Duration::from_secs(20);
        assert_eq!(wait_ready(&[(process.as_fd(), Wanted::Read)], Duration::ZERO).unwrap(), [false]);
        kill_group(leader, 9).unwrap();
        assert_eq!(wait_ready(&[(process.as_fd(), Wanted::Read)], patience).unwrap(), [true]);
        child.wait().unwrap();
        for none in [0, 1, -5] {
            assert_eq!(kill_group(none, 9).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        }
    }

    #[test]
    fn what_nobody_read_can_be_told() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"abc").unwrap();
        assert_eq!(unread(&reader).unwrap(), 3);
        set_nonblocking(&writer).unwrap();
        while writer.write(&[0; 4096]).is_ok() {}
        let ready = wait_ready(&[(reader.as_fd(), Wanted::Read), (writer.as_fd(), Wanted::Write)], Duration::ZERO);
        assert_eq!(ready.unwrap(), [true, false]);
        drop(reader);
        assert_eq!(writer.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
