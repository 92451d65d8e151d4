use super::*;
use model::HsmFlags;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use testkit::{FsKind, LoopFs};

fn guard(on: &Path, most_waiting: usize) -> Guard {
    let group = PreContentGroup::new().unwrap();
    group.mark_filesystem(File::open(on).unwrap()).unwrap();
    Guard {
        group,
        adopted: false,
        floor: 0,
        device: String::new(),
        pending: Pending::starting_at(1),
        trusted: Trusted::default(),
        starter: AgentStarter::new(),
        agent: None,
        holds: HashMap::new(),
        resident: Resident::default(),
        buffer: EventBuffer::with_capacity(EVENT_BYTES),
        most_waiting,
        looked_for_gone: None,
        done: false,
    }
}

fn cat(path: &Path) -> Child {
    Command::new("cat").arg(path).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

impl Guard {
    fn poll(&mut self) {
        let tick = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        let mut poll = [PollFd::new(&self.group, PollFlags::IN)];
        if rustix::event::poll(&mut poll, Some(&tick)).unwrap() > 0 {
            self.take_events().unwrap();
        }
    }

    fn output(&mut self, mut child: Child) -> Output {
        while child.try_wait().unwrap().is_none() {
            self.poll();
        }
        child.wait_with_output().unwrap()
    }

    fn waits(&mut self, pid: u32) -> bool {
        self.pending.waiting_pids().contains(&pid.cast_signed())
    }
}

#[test]
fn a_full_guard_goes_on_answering_and_forgets_who_is_gone() {
    let fs = LoopFs::new(FsKind::Ext4, 0);
    let (released, plain) = (fs.path().join("released"), fs.path().join("plain"));
    std::fs::write(&released, "00000000").unwrap();
    std::fs::write(&plain, "content").unwrap();
    let state = HsmState { flags: HsmFlags::RELEASED, ..HsmState::default() };
    sys::xattr::set(File::open(&released).unwrap(), model::xattr::HSM, &state.encode()).unwrap();

    let mut guard = guard(&fs.path(), 2);
    let mut readers: Vec<Child> = (0..2).map(|_| cat(&released)).collect();
    while guard.pending.len() < 2 {
        guard.poll();
    }
    // One too many is told so; who needs nothing and who is trusted do not notice.
    let refused = cat(&released);
    let refused = guard.output(refused);
    assert!(refused.stdout.is_empty(), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("busy"), "{refused:?}");
    let through = cat(&plain);
    assert_eq!(guard.output(through).stdout, b"content");
    let mut trusted = Command::new("sh");
    trusted.args(["-c", "read go; exec cat \"$1\"", "sh"]).arg(&released).stdin(Stdio::piped());
    let mut trusted = trusted.stdout(Stdio::piped()).spawn().unwrap();
    guard.trust(trusted.id().cast_signed());
    drop(trusted.stdin.take());
    assert_eq!(guard.output(trusted).stdout, b"00000000");

    // Of one that was killed the kernel says nothing; its place is free when somebody needs it.
    let mut killed = readers.remove(0);
    killed.kill().unwrap();
    killed.wait().unwrap();
    guard.looked_for_gone = None;
    let next = cat(&released);
    while !guard.waits(next.id()) {
        guard.poll();
    }
    assert_eq!(guard.pending.len(), 2);
    assert!(guard.waits(readers.first().unwrap().id()) && !guard.waits(killed.id()));

    for waiting in guard.pending.take_ended(|_| true) {
        guard.answer(waiting.number, Verdict::Deny(EIO));
    }
    for reader in readers.into_iter().chain([next]) {
        assert!(guard.output(reader).stdout.is_empty());
    }
}
