//! The guard's loop: one thread, one `poll`.
//!
//! Nothing here may wait for the agent, for a disk of its own, or for a terminal: while the guard waits, every first
//! access on the filesystem waits with it.

use super::message::{Inode, MAX_BYTES, ToAgent, ToGuard, VERSION};
use super::pending::{Pending, Waiting};
use super::resident::Resident;
use super::supervise::{AgentStarter, Trusted};
use super::{MAX_PENDING, REGION};
use model::HsmState;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};
use sys::fanotify::{EventBuffer, OPEN_PERM, PermissionEvent, PreContentGroup, Verdict};
use sys::signals::Signals;

const EIO: i32 = 5;
const EBUSY: i32 = 16;
const SIGHUP: i32 = 1;
const SIGTERM: i32 = 15;
const SIGINT: i32 = 2;

/// What one read of events fills at most; an event takes 24 bytes or more, and a descriptor.
const EVENT_BYTES: usize = 8 << 10;
/// Descriptors of the guard's own, with those of the processes that it trusts.
const OWN_DESCRIPTORS: usize = 128;
const _: () = assert!(MAX_PENDING + EVENT_BYTES / 24 + OWN_DESCRIPTORS <= REGION as usize);
/// How often a guard that holds all the events that it can looks for readers that are gone.
const LOOK_FOR_GONE: Duration = Duration::from_secs(1);

/// How a guard is started.
#[derive(Debug)]
pub struct GuardOptions {
    /// Any directory of the filesystem to guard.
    pub mount_point: PathBuf,
    /// Where the agent connects.
    pub socket: PathBuf,
    /// A group that a guard before this one made, whose marks and waiting events go on.
    pub group: Option<OwnedFd>,
    /// First number of the region for event descriptors.
    pub floor: u32,
}

/// Runs the guard until it is told to end or the filesystem is gone. Returns an error if it cannot begin.
pub fn run(options: GuardOptions) -> io::Result<()> {
    let signals = Signals::termination_and_children()?;
    // Nobody who runs out of memory should get rid of the one process that readers depend on.
    let _ = sys::process::set_oom_score(-1000);
    sys::process::raise_nofile_limit();
    let filesystem = sys::mounts::filesystem_of(&options.mount_point)?;
    let listener = sys::seqpacket::listen(&options.socket, sys::Mode::RUSR | sys::Mode::WUSR)?;
    let adopted = options.group.is_some();
    let group = match options.group {
        Some(fd) => PreContentGroup::from_fd(fd),
        None => {
            let group = PreContentGroup::new()?;
            group.mark_filesystem(File::open(&options.mount_point)?)?;
            group
        }
    };
    silence_own_output(&group, filesystem.dev);
    let mounts = File::open("/proc/self/mountinfo")?;
    let _placeholders = fill_below(options.floor)?;
    let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let mut guard = Guard {
        group,
        adopted,
        floor: options.floor,
        device: filesystem.device,
        pending: Pending::starting_at(u64::try_from(epoch).unwrap_or(1)),
        trusted: Trusted::default(),
        starter: AgentStarter::new(),
        agent: None,
        holds: HashMap::new(),
        resident: Resident::default(),
        buffer: EventBuffer::with_capacity(EVENT_BYTES),
        most_waiting: MAX_PENDING,
        looked_for_gone: None,
        done: false,
    };
    guard.serve(&signals, &listener, &mounts)?;
    let _ = std::fs::remove_file(&options.socket);
    Ok(())
}

/// Writes by this process to a file on the guarded filesystem would wait for this process: lets them pass for ever.
fn silence_own_output(group: &PreContentGroup, device: u64) {
    for fd in [io::stdout().as_fd(), io::stderr().as_fd()] {
        if sys::file::stamp(fd).is_ok_and(|s| s.is_regular && s.dev == device) {
            let _ = group.ignore_inode(fd, false);
        }
    }
}

/// Occupies every descriptor number below `floor`, so that event descriptors come above it.
fn fill_below(floor: u32) -> io::Result<Vec<OwnedFd>> {
    let mut fillers = Vec::new();
    if floor > 0 {
        let null: OwnedFd = File::open("/dev/null")?.into();
        fillers.push(null);
        while let Some(last) = fillers.last() {
            if u32::try_from(last.as_raw_fd()).is_ok_and(|n| n + 1 >= floor) {
                break;
            }
            let next = last.try_clone()?;
            fillers.push(next);
        }
    }
    Ok(fillers)
}

struct Agent {
    socket: OwnedFd,
    pid: i32,
    greeted: bool,
}

struct Guard {
    group: PreContentGroup,
    adopted: bool,
    floor: u32,
    /// See [`sys::mounts::FsInfo::device`].
    device: String,
    pending: Pending,
    trusted: Trusted,
    starter: AgentStarter,
    agent: Option<Agent>,
    /// Inodes whose every access goes to the agent, by token.
    holds: HashMap<u64, Vec<u64>>,
    /// Parts of released files that are there.
    resident: Resident,
    buffer: EventBuffer,
    /// See [`MAX_PENDING`].
    most_waiting: usize,
    looked_for_gone: Option<Instant>,
    done: bool,
}

impl Guard {
    fn serve(&mut self, signals: &Signals, listener: &OwnedFd, mounts: &File) -> io::Result<()> {
        while !self.done {
            let ready = self.wait(signals.as_fd(), listener.as_fd(), mounts.as_fd())?;
            if ready.group {
                self.take_events()?;
            }
            if ready.agent {
                self.hear_agent();
            }
            if ready.signal {
                self.take_signals(signals)?;
            }
            self.trusted.reap(|fd| {
                let mut poll = [PollFd::new(fd, PollFlags::IN)];
                rustix::event::poll(&mut poll, Some(&Timespec::default())).is_ok_and(|n| n > 0)
            });
            if self.trusted.dying().is_empty() {
                if ready.listener {
                    self.accept(listener)?;
                }
                if let Some(text) = self.starter.start_if_due(Instant::now()) {
                    log(&text);
                }
            }
            if ready.mounts && !self.is_mounted() {
                log("the filesystem is not mounted any more: the guard ends");
                self.done = true;
            }
            self.tell_agent();
        }
        Ok(())
    }

    fn wait(&self, signals: BorrowedFd<'_>, listener: BorrowedFd<'_>, mounts: BorrowedFd<'_>) -> io::Result<Ready> {
        let none = PollFlags::empty();
        let dying = self.trusted.dying();
        let accepting = if dying.is_empty() { PollFlags::IN } else { none };
        let mut fds = vec![
            PollFd::from_borrowed_fd(signals, PollFlags::IN),
            PollFd::from_borrowed_fd(self.group.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(listener, accepting),
            PollFd::from_borrowed_fd(mounts, PollFlags::PRI),
        ];
        let agent_at = fds.len();
        if let Some(agent) = &self.agent {
            let out = if agent.greeted && self.pending.first_untold().is_some() { PollFlags::OUT } else { none };
            fds.push(PollFd::new(&agent.socket, PollFlags::IN | out));
        }
        fds.extend(dying.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let timeout = self.starter.due().map(|due| {
            let left = due.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) }
        });
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let got = |i: usize| fds.get(i).is_some_and(|fd| !fd.revents().is_empty());
        Ok(Ready {
            signal: got(0),
            group: got(1),
            listener: got(2),
            mounts: got(3),
            agent: self.agent.is_some() && got(agent_at),
        })
    }

    fn take_events(&mut self) -> io::Result<()> {
        let events = match self.group.read(&mut self.buffer) {
            Ok(events) => events,
            // One unreadable event must not end the guard, and with it the protection of all other files.
            Err(error) => {
                log(&format!("cannot read an event: {error}"));
                return Ok(());
            }
        };
        for event in events {
            self.decide(event);
        }
        Ok(())
    }

    /// The whole of the protection: lets through what needs nothing, keeps the rest for the agent.
    fn decide(&mut self, event: PermissionEvent) {
        let Ok(file) = event.fd else {
            return;
        };
        if self.trusted.contains(event.pid) {
            self.answer(event.number, Verdict::Allow);
            return;
        }
        if !self.is_held(&file) && is_resident(&file) {
            // Only after this mark does the file cost nothing. A release takes it away while it holds the inode.
            let _ = self.group.ignore_inode(&file, true);
            self.answer(event.number, Verdict::Allow);
            return;
        }
        let PermissionEvent { number, pid, mask, range, .. } = event;
        let waiting = Waiting { file, number, pid, mask, range };
        if self.finds_what_is_there(&waiting) {
            self.answer(waiting.number, Verdict::Allow);
            return;
        }
        if self.pending.len() >= self.most_waiting {
            self.forget_who_is_gone();
        }
        if self.pending.len() >= self.most_waiting {
            self.answer(waiting.number, Verdict::Deny(EBUSY));
            return;
        }
        self.pending.add(waiting);
    }

    /// The kernel does not say that a process was killed while it waited.
    fn forget_who_is_gone(&mut self) {
        if self.looked_for_gone.is_some_and(|at| at.elapsed() < LOOK_FOR_GONE) {
            return;
        }
        let gone = self.pending.take_ended(sys::process::has_ended);
        for waiting in &gone {
            // It frees what the kernel keeps of the event.
            self.answer(waiting.number, Verdict::Deny(EIO));
        }
        let (gone, left) = (gone.len(), self.pending.len());
        log(&format!("{left} accesses wait, and no more can; those of {gone} processes that are gone were forgotten"));
        self.looked_for_gone = Some(Instant::now());
    }

    /// Whether somebody reads only parts of a released file that the agent said are there.
    ///
    /// That it is a read follows from two things. Nobody gets the file open for writing while it is there in parts: the agent
    /// lets such an open through only when all is there and this is forgotten. And the caller is looked at: truncate(2) needs no open, and a
    /// mapping may be made to reach further without a word.
    fn finds_what_is_there(&mut self, waiting: &Waiting) -> bool {
        let Some((offset, count)) = waiting.range.filter(|_| waiting.mask & OPEN_PERM == 0) else { return false };
        self.is_known_there(waiting, offset, count) && !self.is_held(&waiting.file) && only_reads(waiting.pid)
    }

    fn is_known_there(&mut self, waiting: &Waiting, offset: u64, count: u64) -> bool {
        if self.resident.is_empty() {
            return false;
        }
        let stamp = sys::file::stamp(&waiting.file);
        stamp.is_ok_and(|s| self.resident.covers(Inode { dev: s.dev, ino: s.ino }, s.size, offset, count))
    }

    fn is_held(&self, file: &OwnedFd) -> bool {
        if self.holds.is_empty() {
            return false;
        }
        // A file that cannot be looked at is treated as held: the agent decides.
        sys::file::stamp(file).map_or(true, |s| self.holds.values().any(|inodes| inodes.contains(&s.ino)))
    }

    /// The process may have been killed meanwhile, and its event with it.
    fn answer(&self, number: i32, verdict: Verdict) {
        let _ = self.group.answer(number, verdict);
    }

    fn accept(&mut self, listener: &OwnedFd) -> io::Result<()> {
        while let Some(socket) = sys::seqpacket::accept(listener)? {
            let Ok((pid, uid, _)) = sys::process::peer_credentials(&socket) else { continue };
            if uid != 0 && uid != rustix::process::geteuid().as_raw() {
                log(&format!("refused a connection of user {uid}, pid {pid}"));
                continue;
            }
            if let Some(agent) = &self.agent {
                let busy = ToAgent::Busy { pid: agent.pid.unsigned_abs() };
                let _ = sys::seqpacket::send(&socket, &busy.encode(), &[]);
                continue;
            }
            self.agent = Some(Agent { socket, pid, greeted: false });
        }
        Ok(())
    }

    fn hear_agent(&mut self) {
        let mut buffer = vec![0; MAX_BYTES];
        while let Some(agent) = &self.agent {
            match sys::seqpacket::recv(&agent.socket, &mut buffer) {
                Ok(Some((n, fds))) => match ToGuard::decode(buffer.get(..n).unwrap_or_default()) {
                    Some(message) => self.obey(message, fds),
                    None => log("the agent said something unknown; ignored"),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(None) | Err(_) => self.agent_is_gone(),
            }
        }
    }

    fn obey(&mut self, message: ToGuard, fds: Vec<OwnedFd>) {
        match message {
            ToGuard::Hello { version, command_line } => self.greet(version, command_line),
            ToGuard::Answer { seq, errno } => self.answer_for_agent(seq, errno),
            ToGuard::Trust { pid } => self.trust(pid),
            ToGuard::Distrust { pid } => self.trusted.remove(pid),
            ToGuard::Hold { token } => self.hold(token, &fds),
            ToGuard::Unhold { token } => drop(self.holds.remove(&token)),
            ToGuard::Resident { inode, size, start, end } => self.resident.learn(inode, size, start..end),
            ToGuard::Forget { inode } => self.resident.forget(inode),
            ToGuard::Goodbye => {
                self.resident.forget_all();
                self.starter.do_not_start();
                self.trusted = Trusted::default();
                self.holds.clear();
                self.agent = None;
                self.pending.forget_what_was_told();
            }
            ToGuard::Stop => {
                log("told to end");
                self.done = true;
            }
        }
    }

    fn greet(&mut self, version: u32, command_line: Vec<std::ffi::OsString>) {
        let Some(agent) = &mut self.agent else { return };
        if version != VERSION {
            log(&format!("the agent speaks version {version}, this guard {VERSION}"));
        }
        let welcome = ToAgent::Welcome {
            version: VERSION,
            pid: std::process::id(),
            floor: self.floor,
            agent_restarts: self.starter.restarts(),
        };
        if sys::seqpacket::send(&agent.socket, &welcome.encode(), &[self.group.as_fd()]).is_err() {
            return;
        }
        agent.greeted = true;
        let pid = agent.pid;
        self.starter.learn(command_line);
        self.pending.forget_what_was_told();
        self.trust(pid);
    }

    /// What the process waits for already is let through too: a guard that was just started may have taken events of
    /// processes that it had not been told of, and the agent cannot answer for a file that it waits for itself.
    fn trust(&mut self, pid: i32) {
        self.trusted.add(pid);
        for waiting in self.pending.take_of(pid) {
            self.answer(waiting.number, Verdict::Allow);
        }
    }

    fn answer_for_agent(&mut self, seq: u64, errno: i32) {
        let Some(waiting) = self.pending.remove(seq) else { return };
        let resident = is_resident(&waiting.file);
        let held = self.is_held(&waiting.file);
        let there = !resident && !held && waiting.range.is_some_and(|(o, n)| self.is_known_there(&waiting, o, n));
        let verdict = match errno {
            // Whatever the agent believes: nobody reads a file that says it is released, but for the parts of it that the
            // agent said before are there. At open, only its flags can have spoken for it, and the accesses that follow will ask again.
            0 if !resident && waiting.mask & OPEN_PERM == 0 && !there => Verdict::Deny(EIO),
            0 => Verdict::Allow,
            errno => Verdict::Deny(errno),
        };
        if verdict == Verdict::Allow && resident && !held {
            let _ = self.group.ignore_inode(&waiting.file, true);
        }
        self.answer(waiting.number, verdict);
    }

    fn hold(&mut self, token: u64, files: &[OwnedFd]) {
        let mut inodes = Vec::with_capacity(files.len());
        for file in files {
            if let Ok(stamp) = sys::file::stamp(file) {
                inodes.push(stamp.ino);
                self.resident.forget_number(stamp.ino);
            }
        }
        self.holds.entry(token).or_default().extend(inodes);
        let unmarked = files.iter().all(|file| self.group.unignore_inode(file).is_ok());
        if let (Some(agent), true) = (&self.agent, unmarked) {
            // Without the acknowledgement the agent does not release.
            let _ = sys::seqpacket::send(&agent.socket, &ToAgent::Held { token }.encode(), &[]);
        }
    }

    /// The agent's end of the socket is closed, and it did not say goodbye.
    fn agent_is_gone(&mut self) {
        let Some(agent) = self.agent.take() else { return };
        self.pending.forget_what_was_told();
        self.resident.forget_all();
        if !agent.greeted {
            return;
        }
        log(&format!("lost the agent (pid {}); {} accesses wait", agent.pid, self.pending.len()));
        self.trusted.kill();
        self.holds.clear();
        if self.adopted {
            self.answer_orphans();
        }
        self.starter.plan(Instant::now());
    }

    /// Events that a guard before this one had taken were known to the agent alone, which is gone: their readers get EIO.
    fn answer_orphans(&mut self) {
        let first = if self.floor == 0 { REGION } else { 0 };
        for number in first..first + REGION {
            self.answer(number.cast_signed(), Verdict::Deny(EIO));
        }
        self.adopted = false;
    }

    fn tell_agent(&mut self) {
        let Some(agent) = self.agent.as_ref().filter(|a| a.greeted) else { return };
        while let Some((seq, waiting)) = self.pending.first_untold() {
            let Waiting { number, pid, mask, range, file } = waiting;
            let message = ToAgent::Event { seq, number: *number, pid: *pid, mask: *mask, range: *range };
            match sys::seqpacket::send(&agent.socket, &message.encode(), &[file.as_fd()]) {
                Ok(()) => self.pending.told(seq),
                // Full, or closed: `poll` tells which.
                Err(_) => return,
            }
        }
    }

    fn take_signals(&mut self, signals: &Signals) -> io::Result<()> {
        while let Some(signal) = signals.next()? {
            match signal {
                // Ending would open every released file to whoever reads it. `sifaka guard stop` looks first.
                // Sent to a whole service, it means the agent and its movers: the guard has no configuration.
                SIGHUP => {}
                SIGTERM | SIGINT => log("ignored a request to end: use `sifaka guard stop`"),
                _ => {
                    if let Some(text) = self.starter.reap(Instant::now(), self.agent.is_some()) {
                        log(&text);
                    }
                }
            }
        }
        Ok(())
    }

    /// In doubt it is.
    fn is_mounted(&self) -> bool {
        sys::mounts::is_mounted(&self.device).unwrap_or(true)
    }
}

struct Ready {
    signal: bool,
    group: bool,
    listener: bool,
    mounts: bool,
    agent: bool,
}

/// What cannot be read or understood is not resident: the agent decides, and denies.
fn is_resident(file: &OwnedFd) -> bool {
    match sys::xattr::get(file, model::xattr::HSM) {
        Ok(None) => true,
        Ok(Some(bytes)) => HsmState::decode(&bytes).is_ok_and(|state| !state.is_released()),
        Err(_) => false,
    }
}

/// One look only: in doubt, the agent takes the time that it needs.
fn only_reads(pid: i32) -> bool {
    const MOST_THREADS: usize = 64;
    sys::caller::Caller::new(pid).look(MOST_THREADS).is_some_and(|calls| !calls.truncate && !calls.maps)
}

/// A line on stderr, or nowhere if nobody takes it: the guard waits for no reader of its log.
fn log(text: &str) {
    let stderr = io::stderr();
    let mut poll = [PollFd::new(&stderr, PollFlags::OUT)];
    let writable = rustix::event::poll(&mut poll, Some(&Timespec::default())).is_ok_and(|n| n > 0);
    if writable {
        let _ = stderr.lock().write_all(format!("guard[{}]: {text}\n", std::process::id()).as_bytes());
    }
}

#[cfg(test)]
mod tests;
