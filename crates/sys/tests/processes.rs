//! Children, sockets and signals.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed unwrap here is a failed test")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sifaka_sys::process::{self, PidFd};
use sifaka_sys::signals::{Signals, unblock_in_child};
use sifaka_sys::{Mode, seqpacket};

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

fn wait_readable(fd: &impl AsFd) -> bool {
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&Timespec { tv_sec: 20, tv_nsec: 0 })).unwrap() == 1
}

#[test]
fn a_descriptor_is_fetched_from_another_process() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"content").unwrap();
    let mut child = Command::new("sleep").arg("600").stdin(Stdio::from(file)).spawn().unwrap();
    let pidfd = PidFd::open(child.id().cast_signed()).unwrap();
    let fetched = pidfd.get_fd(0).unwrap();
    assert!(rustix::io::fcntl_getfd(&fetched).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    let mut content = [0; 7];
    std::os::unix::fs::FileExt::read_exact_at(&File::from(fetched), &mut content, 0).unwrap();
    assert_eq!(&content, b"content");
    assert_eq!(errno(pidfd.get_fd(999)), libc::EBADF);

    pidfd.kill(libc::SIGKILL).unwrap();
    assert!(wait_readable(&pidfd), "the end of the process is not told");
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert_eq!(errno(pidfd.kill(libc::SIGKILL)), libc::ESRCH);
    assert_eq!(errno(PidFd::open(0)), libc::EINVAL);
}

#[test]
fn a_child_dies_with_the_thread_that_spawned_it() {
    let spawner = std::thread::spawn(|| process::die_with_parent(Command::new("sleep").arg("600")).spawn().unwrap());
    let mut child = spawner.join().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn a_descriptor_is_inherited_only_by_the_child_it_is_for() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"content").unwrap();
    drop(writer);
    let mut command = Command::new("sh");
    let number = process::inherit_fd(&mut command, OwnedFd::from(reader));
    let script = format!("exec cat /proc/self/fd/{number}");
    let stranger = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(!stranger.status.success());
    assert_eq!(command.args(["-c", &script]).output().unwrap().stdout, b"content");
}

#[test]
fn limits_and_scores_are_set() {
    let before = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let now = process::raise_nofile_limit();
    assert!(now >= before.maximum.unwrap_or(1 << 20), "{now} {before:?}");
    process::set_oom_score(321).unwrap();
    assert_eq!(std::fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim(), "321");
    assert_eq!(errno(process::set_oom_score(2000)), libc::EINVAL);
}

#[test]
fn messages_keep_their_bounds_and_carry_descriptors() {
    let (here, there) = seqpacket::pair().unwrap();
    let mut buffer = [0; 100];
    assert_eq!(seqpacket::recv(&there, &mut buffer).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);

    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"content").unwrap();
    seqpacket::send(&here, b"first", &[file.as_fd(), file.as_fd()]).unwrap();
    seqpacket::send(&here, b"second", &[]).unwrap();
    let (length, fds) = seqpacket::recv(&there, &mut buffer).unwrap().unwrap();
    assert_eq!((&buffer[..length], fds.len()), (b"first".as_slice(), 2));
    for fd in fds {
        assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        assert_eq!(sifaka_sys::file::stamp(&fd).unwrap().ino, sifaka_sys::file::stamp(&file).unwrap().ino);
    }
    let (length, fds) = seqpacket::recv(&there, &mut buffer).unwrap().unwrap();
    assert_eq!((&buffer[..length], fds.len()), (b"second".as_slice(), 0));

    assert_eq!(errno(seqpacket::send(&here, b"", &[])), libc::EINVAL);
    let many = vec![file.as_fd(); seqpacket::MAX_FDS];
    seqpacket::send(&here, b"many", &many).unwrap();
    assert_eq!(seqpacket::recv(&there, &mut buffer).unwrap().unwrap().1.len(), seqpacket::MAX_FDS);
    let too_many = vec![file.as_fd(); seqpacket::MAX_FDS + 1];
    assert_eq!(errno(seqpacket::send(&here, b"too many", &too_many)), libc::EINVAL);

    drop(here);
    assert!(seqpacket::recv(&there, &mut buffer).unwrap().is_none());
    assert_eq!(errno(seqpacket::send(&there, b"late", &[])), libc::EPIPE);
}

#[test]
fn what_comes_with_a_cut_message_is_closed() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let (here, there) = seqpacket::pair().unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    seqpacket::send(&here, b"longer than four", &[writer.as_fd()]).unwrap();
    assert_eq!(errno(seqpacket::recv(&there, &mut [0; 4])), libc::EMSGSIZE);

    // Room for one descriptor of the two: the lowest free number is the only one below the limit.
    seqpacket::send(&here, b"two", &[writer.as_fd(), writer.as_fd()]).unwrap();
    drop(writer);
    let free = rustix::io::dup(&here).unwrap().as_raw_fd();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(free as u64 + 1), ..limit }).unwrap();
    let cut = seqpacket::recv(&there, &mut [0; 100]);
    setrlimit(Resource::Nofile, limit).unwrap();
    assert_eq!(errno(cut), libc::EMSGSIZE);
    // Ends only when no writer is left open anywhere.
    assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn a_listener_replaces_the_dead_and_not_the_living() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let mode = Mode::RUSR | Mode::WUSR;
    let dead = seqpacket::listen(&path, mode).unwrap();
    drop(dead);
    assert_eq!(errno(seqpacket::connect(&path)), libc::ECONNREFUSED);

    let listener = seqpacket::listen(&path, mode).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert!(seqpacket::accept(&listener).unwrap().is_none());
    let here = seqpacket::connect(&path).unwrap();
    let there = seqpacket::accept(&listener).unwrap().unwrap();
    seqpacket::send(&here, b"hello", &[]).unwrap();
    assert_eq!(seqpacket::recv(&there, &mut [0; 10]).unwrap().unwrap().0, 5);
    let (pid, uid, gid) = process::peer_credentials(&there).unwrap();
    assert_eq!(pid.cast_unsigned(), std::process::id());
    assert_eq!((uid, gid), (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()));

    assert_eq!(errno(seqpacket::listen(&path, mode)), libc::EADDRINUSE);
    let file = directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert_eq!(errno(seqpacket::listen(&file, mode)), libc::EADDRINUSE);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    assert_eq!(errno(seqpacket::connect(directory.path().join("x".repeat(120)))), libc::ENAMETOOLONG);
}

#[test]
fn a_blocked_signal_is_read_and_not_inherited() {
    let signals = Signals::block(&[libc::SIGTERM, libc::SIGUSR1]).unwrap();
    assert_eq!(signals.next().unwrap(), None);
    // SAFETY: raise has no preconditions. To this thread, because the harness's others do not block the signal.
    assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0);
    assert!(wait_readable(&signals));
    assert_eq!(signals.next().unwrap(), Some(libc::SIGUSR1));
    assert_eq!(signals.next().unwrap(), None);
    assert_eq!(errno(Signals::block(&[9999])), libc::EINVAL);

    let blocked = |command: &mut Command| {
        let status = command.args(["^SigBlk", "/proc/self/status"]).output().unwrap().stdout;
        let line = String::from_utf8(status).unwrap();
        u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
    };
    assert_ne!(blocked(&mut Command::new("grep")) & (1 << (libc::SIGTERM - 1)), 0);
    assert_eq!(blocked(unblock_in_child(&mut Command::new("grep"))), 0);
}
