//! The guard alone, with this test in the agent's place: what it lets through, what it asks about, and what becomes of
//! waiting readers when one of the two dies.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use coordinator::guard::{GuardLink, GuardSetup, PendingEvent};
use model::{HsmFlags, HsmState};
use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use testkit::{FsKind, LoopFs, wait_until};

const LONG: Duration = Duration::from_secs(60);

struct Guarded {
    link: Arc<GuardLink>,
    events: Receiver<PendingEvent>,
    fs: LoopFs,
    sockets: tempfile::TempDir,
}

fn setup(fs: &LoopFs, sockets: &Path) -> GuardSetup {
    let words = [env!("CARGO_BIN_EXE_sifaka"), "guard", "run"];
    GuardSetup {
        mount_point: fs.path(),
        socket_dir: sockets.to_path_buf(),
        guard_command: words.into_iter().map(OsString::from).collect(),
        agent_command: vec!["/bin/false".into()],
    }
}

fn guarded(kind: FsKind) -> Guarded {
    let fs = LoopFs::new(kind, 0);
    let sockets = tempfile::tempdir().unwrap();
    let (sender, events) = channel();
    let fsid = sys::mounts::filesystem_of(fs.path()).unwrap().fsid;
    let link = GuardLink::connect(setup(&fs, sockets.path()), fsid, move |event| drop(sender.send(event))).unwrap();
    Guarded { link, events, fs, sockets }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.link.leave();
        let fsid = sys::mounts::filesystem_of(self.fs.path()).unwrap().fsid;
        let _ = coordinator::guard::stop_guard(self.sockets.path(), fsid);
    }
}

impl Guarded {
    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.fs.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn flag(&self, path: &Path, flags: HsmFlags) {
        let state = HsmState { flags, ..HsmState::default() };
        self.link.trust(std::process::id().cast_signed());
        let file = fs::File::open(path).unwrap();
        sys::xattr::set(&file, model::xattr::HSM, &state.encode()).unwrap();
        let group = sys::fanotify::PreContentGroup::from_fd(self.link.group().unwrap());
        group.unignore_inode(&file).unwrap();
    }

    fn release(&self, path: &Path) {
        self.flag(path, HsmFlags::RELEASED);
    }

    fn next(&self) -> PendingEvent {
        self.events.recv_timeout(LONG).expect("the guard asks")
    }

    fn asks_nothing(&self) {
        assert!(self.events.recv_timeout(Duration::from_millis(200)).is_err(), "the guard asked");
    }
}

fn cat(path: &Path) -> Child {
    Command::new("cat").arg(path).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn output(child: Child) -> Output {
    child.wait_with_output().unwrap()
}

fn refused(out: &Output) -> bool {
    !out.status.success() && out.stdout.is_empty()
}

#[test]
fn resident_files_are_read_without_asking() {
    for kind in FsKind::ALL {
        let g = guarded(kind);
        let path = g.file("plain", b"content");
        assert_eq!(output(cat(&path)).stdout, b"content");
        g.flag(&path, HsmFlags::EXISTS.with(HsmFlags::ARCHIVED));
        assert_eq!(output(cat(&path)).stdout, b"content");
        g.asks_nothing();
    }
}

#[test]
fn p5_a_released_file_is_read_after_the_answer_or_not_at_all() {
    for kind in FsKind::ALL {
        let g = guarded(kind);
        let path = g.file("released", b"00000000");
        g.release(&path);
        let reader = cat(&path);
        let event = g.next();
        assert!(event.is_open);
        // Restored, as an agent does it, and only then allowed.
        fs::write(&path, b"restored").unwrap();
        g.flag(&path, HsmFlags::EXISTS);
        event.allow();
        assert_eq!(output(reader).stdout, b"restored");

        g.release(&path);
        let reader = cat(&path);
        g.next().deny(5);
        assert!(refused(&output(reader)));

        // An agent that allows what is still released is not believed.
        let reader = cat(&path);
        g.next().allow();
        g.next().allow();
        let out = output(reader);
        assert!(refused(&out), "{out:?}");
    }
}

#[test]
fn an_unanswered_event_that_is_dropped_is_an_error_for_the_reader() {
    let g = guarded(FsKind::Ext4);
    let path = g.file("released", b"00000000");
    g.release(&path);
    let reader = cat(&path);
    drop(g.next());
    assert!(refused(&output(reader)));
}

#[test]
fn damaged_state_is_not_readable() {
    let g = guarded(FsKind::Ext4);
    let path = g.file("damaged", b"00000000");
    g.link.trust(std::process::id().cast_signed());
    sys::xattr::set(fs::File::open(&path).unwrap(), model::xattr::HSM, b"nonsense").unwrap();
    let file = fs::File::open(&path).unwrap();
    sys::fanotify::PreContentGroup::from_fd(g.link.group().unwrap()).unignore_inode(&file).unwrap();
    let reader = cat(&path);
    g.next().deny(5);
    assert!(refused(&output(reader)));
}

#[test]
fn a_held_file_is_asked_about_although_it_is_resident() {
    let g = guarded(FsKind::Ext4);
    let path = g.file("held", b"content");
    assert_eq!(output(cat(&path)).stdout, b"content");
    let file = fs::File::open(&path).unwrap();
    let hold = g.link.hold(&[file.as_fd()]).unwrap();
    let reader = cat(&path);
    let event = g.next();
    assert!(hold.is_in_force());
    drop(hold);
    event.allow();
    assert_eq!(output(reader).stdout, b"content");
    g.asks_nothing();
}

#[test]
fn a_second_agent_is_refused() {
    let g = guarded(FsKind::Ext4);
    let fsid = sys::mounts::filesystem_of(g.fs.path()).unwrap().fsid;
    let second = GuardLink::connect(setup(&g.fs, g.sockets.path()), fsid, drop);
    assert!(second.unwrap_err().to_string().contains("another agent"));
}

#[test]
fn p5_readers_wait_while_there_is_no_agent_and_the_next_one_hears_of_them() {
    let g = guarded(FsKind::Ext4);
    let path = g.file("released", b"00000000");
    g.release(&path);
    let told = cat(&path);
    let event = g.next();
    g.link.leave();
    let untold = cat(&path);
    let (sender, events) = channel();
    let fsid = sys::mounts::filesystem_of(g.fs.path()).unwrap().fsid;
    let next = GuardLink::connect(setup(&g.fs, g.sockets.path()), fsid, move |event| drop(sender.send(event))).unwrap();
    for _ in 0..2 {
        events.recv_timeout(LONG).expect("a waiting reader is handed over").deny(11);
    }
    assert!(refused(&output(told)));
    assert!(refused(&output(untold)));
    next.leave();
    drop(event);
}

#[test]
fn p5_no_reader_gets_through_when_the_guard_is_killed() {
    for kind in FsKind::ALL {
        let g = guarded(kind);
        let paths: Vec<_> = (0..8).map(|i| g.file(&format!("released{i}"), b"00000000")).collect();
        paths.iter().for_each(|path| g.release(path));
        for round in 0..10 {
            let before = g.link.info();
            let readers: Vec<_> = paths.iter().map(|path| cat(path)).collect();
            let known = g.next();
            sys::process::PidFd::open(before.pid.cast_signed()).unwrap().kill(9).unwrap();
            wait_until(LONG, "another guard", || g.link.info().guard_restarts > before.guard_restarts);
            // The one that the agent held goes on; what it did not know of got an error; the rest asks the new guard.
            known.deny(5);
            let answered = std::thread::scope(|scope| {
                let waiting = scope.spawn(|| readers.into_iter().map(output).collect::<Vec<_>>());
                while !waiting.is_finished() {
                    if let Ok(event) = g.events.recv_timeout(Duration::from_millis(10)) {
                        event.deny(5);
                    }
                }
                waiting.join().unwrap()
            });
            for out in &answered {
                assert!(refused(out), "round {round}: {out:?}");
            }
            assert_ne!(g.link.info().pid, before.pid);
        }
        assert_eq!(g.link.info().waiting, 0);
    }
}

#[test]
fn p5_an_event_that_outlived_two_guards_lets_nobody_else_through() {
    let g = guarded(FsKind::Ext4);
    let paths: Vec<_> = (0..8).map(|i| g.file(&format!("released{i}"), b"00000000")).collect();
    paths.iter().for_each(|path| g.release(path));
    let ask = || {
        let readers: Vec<_> = paths.iter().map(|path| cat(path)).collect();
        let events: Vec<_> = paths.iter().map(|_| g.next()).collect();
        (readers, events)
    };
    let (old_readers, old) = ask();
    for _ in 0..2 {
        let before = g.link.info();
        sys::process::PidFd::open(before.pid.cast_signed()).unwrap().kill(9).unwrap();
        wait_until(LONG, "another guard", || g.link.info().guard_restarts > before.guard_restarts);
    }
    for out in old_readers.into_iter().map(output) {
        assert!(refused(&out), "{out:?}");
    }
    // The third guard's numbers are those of the first.
    let (new_readers, new) = ask();
    old.into_iter().for_each(PendingEvent::allow);
    g.asks_nothing();
    assert_eq!(g.link.info().waiting, 8, "the old ones have their answer");
    new.into_iter().for_each(|event| event.deny(5));
    for out in new_readers.into_iter().map(output) {
        assert!(refused(&out), "{out:?}");
    }
}
