//! Events of real processes on real filesystems.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed unwrap here is a failed test")]

mod loopfs;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use loopfs::{LoopFs, on_every_filesystem};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sifaka_sys::caller::Caller;
use sifaka_sys::fanotify::{
    ATTRIB, CLOSE_WRITE, ChangeEvent, ChangeGroup, DELETE_SELF, EventBuffer, MODIFY, MOVE_SELF, OPEN_PERM, PRE_ACCESS,
    PermissionEvent, PreContentGroup, Verdict,
};
use sifaka_sys::process::PidFd;
use sifaka_sys::{Mode, OFlags, handle};

on_every_filesystem!(
    an_allowed_reader_reads,
    a_denied_reader_gets_the_error,
    an_access_names_its_range,
    an_ignored_inode_is_silent_until_it_is_no_longer,
    of_ignored_opens_only_the_content_is_asked_for,
    a_changed_file_is_named_by_its_handle,
    who_gets_another_name_is_told,
);

/// What an answered event was.
#[derive(Debug)]
struct Seen {
    mask: u64,
    pid: i32,
    range: Option<(u64, u64)>,
}

/// Starts the program, answers its events until it ends, and tells both.
fn run(
    group: &PreContentGroup,
    command: &mut Command,
    decide: impl Fn(&PermissionEvent) -> Verdict,
) -> (Output, Vec<Seen>) {
    let child = spawn(command);
    let child_pid = i32::try_from(child.id()).unwrap();
    let ended = PidFd::open(child_pid).unwrap();
    let mut buffer = EventBuffer::default();
    let mut seen = Vec::new();
    loop {
        let (event, end) = wait(group, Some(&ended));
        assert!(event || end, "neither an event nor the end of the program within the time limit");
        for event in group.read(&mut buffer).unwrap() {
            assert_eq!(event.fd.as_ref().map(AsRawFd::as_raw_fd), Ok(event.number));
            group.answer(event.number, decide(&event)).unwrap();
            seen.push(Seen { mask: event.mask, pid: event.pid, range: event.range });
        }
        if end && !event {
            break;
        }
    }
    assert!(seen.iter().all(|seen| seen.pid == child_pid), "events of others: {seen:?}");
    (child.wait_with_output().unwrap(), seen)
}

fn spawn(command: &mut Command) -> Child {
    command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Which of the two is ready, after at most 20 seconds.
fn wait(group: &impl AsFd, process: Option<&PidFd>) -> (bool, bool) {
    let mut fds = vec![PollFd::new(group, PollFlags::IN)];
    fds.extend(process.map(|process| PollFd::new(process, PollFlags::IN)));
    poll(&mut fds, Some(&Timespec { tv_sec: 20, tv_nsec: 0 })).unwrap();
    (!fds[0].revents().is_empty(), fds.get(1).is_some_and(|fd| !fd.revents().is_empty()))
}

fn cat(path: &Path) -> Command {
    let mut command = Command::new("cat");
    command.arg(path);
    command
}

fn marked(fs: &LoopFs) -> PreContentGroup {
    let group = PreContentGroup::new().unwrap();
    group.mark_filesystem(sifaka_sys::mounts::open_mount(fs.root()).unwrap()).unwrap();
    group
}

/// The next events of the group; the test fails when none comes.
fn next_event(group: &PreContentGroup) -> PermissionEvent {
    assert!(wait(group, None).0, "no event within the time limit");
    let mut events = group.read(&mut EventBuffer::default()).unwrap();
    let event = events.next().unwrap();
    assert_eq!(events.len(), 0);
    event
}

fn an_allowed_reader_reads(fs: &LoopFs) {
    std::fs::write(fs.path("file"), "content").unwrap();
    let group = marked(fs);
    let (output, seen) = run(&group, &mut cat(&fs.path("file")), |_| Verdict::Allow);
    assert_eq!(output.stdout, b"content");
    assert_eq!(seen[0].mask, OPEN_PERM);
    assert!(seen.iter().any(|seen| seen.mask == PRE_ACCESS), "{seen:?}");

    group.unmark_filesystem(File::open("/").unwrap()).unwrap_err();
    group.unmark_filesystem(sifaka_sys::mounts::open_mount(fs.root()).unwrap()).unwrap();
    let (_, seen) = run(&group, &mut cat(&fs.path("file")), |_| Verdict::Deny(libc::EIO));
    assert!(seen.is_empty(), "{seen:?}");
}

fn of_ignored_opens_only_the_content_is_asked_for(fs: &LoopFs) {
    std::fs::write(fs.path("file"), "content").unwrap();
    let group = marked(fs);
    let named = rustix::fs::open(fs.path("file"), OFlags::PATH, Mode::empty()).unwrap();
    let masks = || {
        let (_, seen) = run(&group, &mut cat(&fs.path("file")), |_| Verdict::Allow);
        [OPEN_PERM, PRE_ACCESS].map(|mask| seen.iter().any(|seen| seen.mask == mask))
    };
    assert_eq!(masks(), [true, true]);
    group.ignore_opens(&named).unwrap();
    assert_eq!(masks(), [false, true]);
    // Nobody answers for this process: it would wait for ever.
    drop(sifaka_sys::file::reopen(&named, OFlags::WRONLY).unwrap());
    group.unignore_opens(&named).unwrap();
    group.unignore_opens(&named).unwrap();
    assert_eq!(masks(), [true, true]);
}

fn a_denied_reader_gets_the_error(fs: &LoopFs) {
    std::fs::write(fs.path("file"), "content").unwrap();
    let group = marked(fs);
    for (errno, message) in
        [(libc::EIO, "Input/output error"), (libc::EBUSY, "resource busy"), (libc::ENOENT, "Input/output")]
    {
        let deny = |event: &PermissionEvent| match event.mask {
            PRE_ACCESS => Verdict::Deny(errno),
            _ => Verdict::Allow,
        };
        let (output, _) = run(&group, &mut cat(&fs.path("file")), deny);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.stdout.is_empty() && complaint.contains(message), "{complaint}");
    }
}

fn an_access_names_its_range(fs: &LoopFs) {
    std::fs::write(fs.path("file"), vec![b'x'; 2 << 20]).unwrap();
    let group = marked(fs);
    let mut dd = Command::new("dd");
    dd.args(["bs=15", "count=1", "iflag=skip_bytes", "skip=1048576"]);
    dd.arg(format!("if={}", fs.path("file").display()));
    let (output, seen) = run(&group, &mut dd, |_| Verdict::Allow);
    assert_eq!(output.stdout, [b'x'; 15]);
    let ranges: Vec<_> = seen.iter().filter(|seen| seen.mask == PRE_ACCESS).map(|seen| seen.range).collect();
    assert_eq!(ranges, [Some((1 << 20, 4096))]);
}

fn an_ignored_inode_is_silent_until_it_is_no_longer(fs: &LoopFs) {
    std::fs::write(fs.path("file"), "content").unwrap();
    std::fs::write(fs.path("other"), "other").unwrap();
    let group = marked(fs);
    let events = |name: &str| run(&group, &mut cat(&fs.path(name)), |_| Verdict::Allow).1.len();
    let path_only = rustix::fs::open(fs.path("file"), OFlags::PATH, Mode::empty()).unwrap();
    group.unignore_inode(&path_only).unwrap();

    for evictable in [true, false] {
        assert!(events("file") >= 2);
        group.ignore_inode(&path_only, evictable).unwrap();
        assert_eq!(events("file"), 0);
        assert!(events("other") >= 2);
        group.unignore_inode(&path_only).unwrap();
    }

    // Through the event's own descriptor, before its answer; and a change does not undo it.
    let ignore = |event: &PermissionEvent| {
        group.ignore_inode(event.fd.as_ref().unwrap(), true).unwrap();
        Verdict::Allow
    };
    let (output, seen) = run(&group, &mut cat(&fs.path("file")), ignore);
    assert_eq!(output.stdout, b"content");
    assert_eq!(seen.len(), 1, "{seen:?}");
    let mut append = Command::new("sh");
    append.args(["-c", r#"echo more >> "$0""#]).arg(fs.path("file"));
    assert!(run(&group, &mut append, |_| Verdict::Allow).1.is_empty());
    assert_eq!(events("file"), 0);
    group.unignore_inode(&path_only).unwrap();
    assert!(events("file") >= 2);
}

#[test]
fn a_duplicate_keeps_waiting_events_and_answers_them() {
    let fs = LoopFs::new("ext4");
    std::fs::write(fs.path("file"), "content").unwrap();
    let group = marked(&fs);
    let spare = group.try_clone().unwrap();
    let reader = spawn(&mut cat(&fs.path("file")));
    let event = next_event(&group);
    drop(group);
    spare.answer(event.number, Verdict::Deny(libc::EPERM)).unwrap();
    let output = reader.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("Operation not permitted"));
    assert_eq!(spare.answer(event.number, Verdict::Allow).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    assert_eq!(spare.read(&mut EventBuffer::default()).unwrap().len(), 0);
}

/// The claim of `PermissionEvent::fd`: such an event has been denied by the kernel.
#[test]
fn an_event_without_descriptor_is_denied_and_says_why() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let fs = LoopFs::new("ext4");
    std::fs::write(fs.path("file"), "content").unwrap();
    let group = marked(&fs);
    let reader = spawn(&mut cat(&fs.path("file")));
    assert!(wait(&group, None).0);
    let limit = getrlimit(Resource::Nofile);
    let mut buffer = EventBuffer::default();
    setrlimit(Resource::Nofile, rustix::process::Rlimit { current: Some(0), ..limit }).unwrap();
    let read = group.read(&mut buffer);
    setrlimit(Resource::Nofile, limit).unwrap();
    let event = read.unwrap().next().unwrap();
    assert_eq!(event.fd.as_ref().unwrap_err(), &libc::EMFILE);
    assert_eq!(event.number, -libc::EMFILE);
    let output = reader.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("Operation not permitted"));
}

#[test]
fn the_flags_of_a_waiting_open_are_read() {
    let fs = LoopFs::new("ext4");
    std::fs::write(fs.path("file"), "content").unwrap();
    let group = marked(&fs);
    let write = libc::O_WRONLY | libc::O_CREAT;
    for (program, relevant) in [
        (r#"exec cat "$0""#, libc::O_RDONLY),
        (r#": >> "$0""#, write | libc::O_APPEND),
        (r#": > "$0""#, write | libc::O_TRUNC),
        (r#": <> "$0""#, libc::O_RDWR | libc::O_CREAT),
    ] {
        let child = spawn(Command::new("sh").args(["-c", program]).arg(fs.path("file")));
        let event = next_event(&group);
        assert_eq!(event.mask, OPEN_PERM);
        // The event is queued a moment before its process falls asleep.
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut caller = Caller::new(event.pid);
        let flags = loop {
            match caller.look(64).and_then(|calls| calls.open_flags) {
                Some(flags) => break flags,
                None => assert!(Instant::now() < deadline, "no flags for {program}"),
            }
        };
        let mask = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND;
        assert_eq!(flags & mask, relevant, "{program}");
        group.answer(event.number, Verdict::Deny(libc::EPERM)).unwrap();
        drop(event);
        assert!(!child.wait_with_output().unwrap().status.success());
    }
}

#[test]
fn a_filesystem_without_pre_content_events_is_refused() {
    let fs = LoopFs::new("tmpfs");
    let group = PreContentGroup::new().unwrap();
    let refused = group.mark_filesystem(File::open(fs.root()).unwrap()).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EOPNOTSUPP));
}

fn changes(group: &ChangeGroup) -> Vec<ChangeEvent> {
    let mut buffer = EventBuffer::default();
    let mut all = Vec::new();
    loop {
        let before = all.len();
        all.extend(group.read(&mut buffer).unwrap());
        if all.len() == before {
            return all;
        }
    }
}

fn a_changed_file_is_named_by_its_handle(fs: &LoopFs) {
    std::fs::write(fs.path("file"), "content").unwrap();
    std::fs::write(fs.path("other"), "content").unwrap();
    let file = rustix::fs::open(fs.path("file"), OFlags::PATH, Mode::empty()).unwrap();
    let named = handle::name_to_handle(&file).unwrap();
    drop(file);
    let group = ChangeGroup::new().unwrap();
    group.mark_filesystem(sifaka_sys::mounts::open_mount(fs.root()).unwrap()).unwrap();
    assert!(changes(&group).is_empty());

    std::fs::read(fs.path("other")).unwrap();
    std::fs::OpenOptions::new().append(true).open(fs.path("file")).unwrap().write_all(b"more").unwrap();
    let modified = changes(&group);
    let all = modified.iter().fold(0, |all, event| all | event.mask);
    assert_eq!(all, MODIFY | CLOSE_WRITE, "{modified:?}");
    for event in &modified {
        assert_eq!(event.handle.as_ref(), Some(&named));
        assert_eq!(event.pid.cast_unsigned(), std::process::id());
        assert!(!event.overflow);
    }

    std::fs::remove_file(fs.path("file")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    // The inode goes when its last reference does, which may be a moment after unlink.
    let deleted = loop {
        let deleted = changes(&group);
        if !deleted.is_empty() {
            break deleted;
        }
        assert!(Instant::now() < deadline, "no event for the deletion");
    };
    assert_eq!((deleted[0].mask, deleted[0].handle.as_ref()), (DELETE_SELF, Some(&named)));
}

fn who_gets_another_name_is_told(fs: &LoopFs) {
    let path = |name: &str| fs.path(name);
    let handle_of = |name: &str| handle::name_to_handle(File::open(path(name)).unwrap()).unwrap();
    std::fs::create_dir(path("dir")).unwrap();
    for name in ["renamed", "linked", "written"] {
        std::fs::write(path(name), "content").unwrap();
    }
    let handles = ["dir", "renamed", "linked"].map(handle_of);
    let written = handle_of("written");
    let group = ChangeGroup::new().unwrap();
    group.mark_names(File::open(fs.path(".")).unwrap()).unwrap();
    std::fs::rename(path("renamed"), path("dir/renamed")).unwrap();
    std::fs::rename(path("dir"), path("dir2")).unwrap();
    std::fs::hard_link(path("linked"), path("link")).unwrap();
    std::fs::write(path("written"), "other content").unwrap();
    let events = changes(&group);
    for (handle, mask) in handles.iter().zip([MOVE_SELF, MOVE_SELF, ATTRIB]) {
        let told = |e: &ChangeEvent| e.handle.as_ref() == Some(handle) && e.mask & mask != 0;
        assert!(events.iter().any(told), "{events:?}");
    }
    assert!(events.iter().all(|e| e.handle.as_ref() != Some(&written)), "{events:?}");
}

#[test]
fn lost_changes_are_told() {
    let fs = LoopFs::new("tmpfs");
    let limit: usize =
        std::fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap().trim().parse().unwrap();
    let group = ChangeGroup::new().unwrap();
    group.mark_filesystem(File::open(fs.root()).unwrap()).unwrap();
    for number in 0..limit + 10 {
        std::fs::write(fs.path(&number.to_string()), "x").unwrap();
    }
    let events = changes(&group);
    assert_eq!(events.iter().filter(|event| event.overflow).count(), 1);
    assert!(events.iter().all(|event| event.overflow == event.handle.is_none()));
}
