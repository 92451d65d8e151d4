//! The agent's end: connects to the guard, starts one where there is none, and again when it dies.

use super::message::{Inode, MAX_BYTES, ToAgent, ToGuard, VERSION, WITH_RANGES};
use super::{REGION, socket_path};
use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use sys::fanotify::{OPEN_PERM, PreContentGroup, Verdict};

const EIO: i32 = 5;
/// How long a new guard may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a guard may take to acknowledge a hold; its loop never waits for anything, so this is generous.
const HOLD_TIMEOUT: Duration = Duration::from_secs(10);

/// How to reach and to start the guard, and how the guard is to start us.
#[derive(Debug, Clone)]
pub struct GuardSetup {
    /// The filesystem's mount point.
    pub mount_point: PathBuf,
    /// Directory of the sockets.
    pub socket_dir: PathBuf,
    /// Program and first arguments of the guard; `--mount`, `--socket` and the like are appended.
    pub guard_command: Vec<OsString>,
    /// The command line that starts this agent again.
    pub agent_command: Vec<OsString>,
}

/// Why there is no guard.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Two agents for one filesystem.
    #[error("another agent (pid {pid}) serves this filesystem already: stop it first")]
    Busy {
        /// Of the other agent.
        pid: u32,
    },
    /// The guard did not start.
    #[error("cannot start the guard for {mount_point}: {why}")]
    Start {
        /// The filesystem.
        mount_point: PathBuf,
        /// What it said or did.
        why: String,
    },
    /// Talking to it failed.
    #[error("cannot {what} the guard at {socket}: {source}")]
    Talk {
        /// What was being done.
        what: &'static str,
        /// Its socket.
        socket: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The guard was replaced in the middle of an exchange.
    #[error("the guard was replaced meanwhile; try again")]
    Replaced,
}

/// Figures for `sifaka status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GuardInfo {
    /// The guard's process.
    pub pid: u32,
    /// How often this agent had to start a guard anew.
    pub guard_restarts: u64,
    /// How often the guard started an agent.
    pub agent_restarts: u64,
    /// Events received since the agent started.
    pub events: u64,
    /// Events not answered yet.
    pub waiting: u64,
}

/// Somebody waits in the kernel until this is answered. Dropping it unanswered gives the reader EIO, or leaves him to the next
/// agent after `GuardLink::leave_events_to_the_guard`.
#[derive(Debug)]
pub struct PendingEvent {
    link: Weak<GuardLink>,
    seq: u64,
    generation: u64,
    number: i32,
    answered: bool,
    /// The file; accesses through this descriptor raise no events.
    pub file: OwnedFd,
    /// Who waits.
    pub pid: i32,
    /// Whether it is an open (and not an access).
    pub is_open: bool,
    /// Offset and count of the access, if the kernel said.
    pub range: Option<(u64, u64)>,
    /// What the waiting process is about, once somebody has looked.
    pub(crate) calls: Option<sys::caller::Calls>,
    /// Until when it waits at most, since it began to; `None` for ever.
    pub(crate) deadline: OnceCell<Option<Instant>>,
}

impl PendingEvent {
    /// Lets the reader go on.
    pub fn allow(mut self) {
        self.answer(0);
    }

    /// Lets the access fail with this errno (the kernel knows EIO, EPERM, EBUSY, ETXTBSY, EAGAIN, ENOSPC, EDQUOT; others become EIO).
    pub fn deny(mut self, errno: i32) {
        self.answer(if errno == 0 { EIO } else { errno });
    }

    fn answer(&mut self, errno: i32) {
        self.answered = true;
        if let Some(link) = self.link.upgrade() {
            link.answer(self.seq, self.generation, self.number, errno);
        }
    }
}

impl Drop for PendingEvent {
    fn drop(&mut self) {
        let left = |link: &Arc<GuardLink>| {
            // Of an event that a guard before this one took, nobody but us knows.
            link.leaving_events.load(Ordering::SeqCst) && link.state.lock().generation == self.generation
        };
        if !self.answered && !self.link.upgrade().as_ref().is_some_and(left) {
            self.answer(EIO);
        }
    }
}

/// While it lives, every access to its files comes to this agent; see [`GuardLink::hold`].
#[derive(Debug)]
pub struct Hold {
    link: Arc<GuardLink>,
    token: u64,
    generation: u64,
}

impl Hold {
    /// Whether the guard that promised it still runs. Ask after having made something visible that a new guard would
    /// respect by itself (the RELEASED flag) and before relying on the hold no more.
    #[must_use]
    pub fn is_in_force(&self) -> bool {
        self.link.state.lock().generation == self.generation
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let _ = self.link.tell(&ToGuard::Unhold { token: self.token }, &[], Some(self.generation));
    }
}

struct State {
    /// What the guard speaks: it may be of another build.
    version: u32,
    socket: Arc<OwnedFd>,
    group: Arc<PreContentGroup>,
    generation: u64,
    guard_pid: u32,
    floor: u32,
    child: Option<Child>,
    agent_restarts: u64,
    guard_restarts: u64,
    trusted: HashSet<i32>,
    /// Unanswered events: sequence number to descriptor number.
    outstanding: HashMap<u64, i32>,
    acknowledged: HashMap<u64, usize>,
}

/// The connection to the guard.
pub struct GuardLink {
    setup: GuardSetup,
    socket_path: PathBuf,
    state: Mutex<State>,
    held: Condvar,
    events: AtomicU64,
    next_token: AtomicU64,
    leaving: AtomicBool,
    leaving_events: AtomicBool,
    wake: OwnedFd,
    woken: OwnedFd,
    reader: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for GuardLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuardLink").field("socket", &self.socket_path).finish_non_exhaustive()
    }
}

/// What comes of connecting.
struct Connected {
    socket: OwnedFd,
    group: PreContentGroup,
    version: u32,
    pid: u32,
    floor: u32,
    agent_restarts: u64,
}

impl GuardLink {
    /// Connects to the filesystem's guard, or starts one. `on_event` is called on a thread of the link for each event
    /// and must not block: while it does, nobody hears the guard.
    pub fn connect(
        setup: GuardSetup,
        fsid: [u8; 8],
        on_event: impl Fn(PendingEvent) + Send + 'static,
    ) -> Result<Arc<Self>, LinkError> {
        let path = socket_path(&setup.socket_dir, fsid);
        let (child, connected) = match hail(&path, &setup) {
            Ok(connected) => (None, connected),
            Err(LinkError::Talk { .. }) => {
                let mut child = spawn(&setup, &path, None, 0)?;
                let connected = hail_until_up(&path, &setup, &mut child)?;
                (Some(child), connected)
            }
            Err(error) => return Err(error),
        };
        let (wake, woken) = sys::seqpacket::pair().map_err(|source| LinkError::Talk {
            what: "prepare for",
            socket: path.clone(),
            source,
        })?;
        let link = Arc::new(Self {
            setup,
            socket_path: path,
            state: Mutex::new(State {
                version: connected.version,
                socket: Arc::new(connected.socket),
                group: Arc::new(connected.group),
                generation: 0,
                guard_pid: connected.pid,
                floor: connected.floor,
                child,
                agent_restarts: connected.agent_restarts,
                guard_restarts: 0,
                trusted: HashSet::new(),
                outstanding: HashMap::new(),
                acknowledged: HashMap::new(),
            }),
            held: Condvar::new(),
            events: AtomicU64::new(0),
            next_token: AtomicU64::new(1),
            leaving: AtomicBool::new(false),
            leaving_events: AtomicBool::new(false),
            wake,
            woken,
            reader: Mutex::new(None),
        });
        let for_thread = Arc::downgrade(&link);
        let thread =
            std::thread::Builder::new().name("guard-link".into()).spawn(move || listen(&for_thread, &on_event));
        let thread =
            thread.map_err(|source| LinkError::Talk { what: "listen to", socket: link.socket_path.clone(), source })?;
        *link.reader.lock() = Some(thread);
        Ok(link)
    }

    /// The group's descriptor, for processes that should hold it open as well.
    pub fn group(&self) -> io::Result<OwnedFd> {
        self.state.lock().group.try_clone().map(OwnedFd::from)
    }

    /// Lets all accesses of a process through from now on. Say it before the process touches any file of the filesystem.
    pub fn trust(&self, pid: i32) {
        self.state.lock().trusted.insert(pid);
        let _ = self.tell(&ToGuard::Trust { pid }, &[], None);
    }

    /// Say it before the process is reaped: after that its number may be somebody else's.
    pub fn distrust(&self, pid: i32) {
        self.state.lock().trusted.remove(&pid);
        let _ = self.tell(&ToGuard::Distrust { pid }, &[], None);
    }

    /// Whether accesses of this process are let through: the agent itself, and its movers.
    pub fn is_trusted(&self, pid: i32) -> bool {
        pid.cast_unsigned() == std::process::id() || self.state.lock().trusted.contains(&pid)
    }

    /// From the return of this on, every open and access of these files by others comes to this agent as an event, even
    /// though they are resident; their ignore marks are gone. Until the returned value is dropped, or the guard dies.
    pub fn hold(self: &Arc<Self>, files: &[BorrowedFd<'_>]) -> Result<Hold, LinkError> {
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        let generation = self.state.lock().generation;
        let hold = Hold { link: Arc::clone(self), token, generation };
        let mut messages = 0;
        for part in files.chunks(sys::seqpacket::MAX_FDS) {
            self.tell(&ToGuard::Hold { token }, part, Some(generation))?;
            messages += 1;
        }
        let deadline = Instant::now() + HOLD_TIMEOUT;
        let mut state = self.state.lock();
        loop {
            if state.generation != generation {
                state.acknowledged.remove(&token);
                return Err(LinkError::Replaced);
            }
            if state.acknowledged.get(&token).copied().unwrap_or(0) >= messages {
                state.acknowledged.remove(&token);
                return Ok(hold);
            }
            if self.held.wait_until(&mut state, deadline).timed_out() {
                return Err(self.talk("hold files with")(io::ErrorKind::TimedOut.into()));
            }
        }
    }

    /// Whether the guard can be told that parts of a released file are there. One of an older build cannot, and denies every
    /// access to a released file.
    pub(crate) fn knows_ranges(&self) -> bool {
        self.state.lock().version >= WITH_RANGES
    }

    /// These bytes of a released file are there: from now on the guard lets reads of them through by itself, and takes an
    /// answer that allows one. Until [`Self::forget`], the next hold of the file, or the guard's end; so say it again before each answer.
    pub(crate) fn resident(&self, inode: Inode, size: u64, bytes: &std::ops::Range<u64>) {
        // A guard that cannot be told asks.
        let _ = self.tell(&ToGuard::Resident { inode, size, start: bytes.start, end: bytes.end }, &[], None);
    }

    /// Nothing of the file is known to be there any more.
    pub(crate) fn forget(&self, inode: Inode) {
        let _ = self.tell(&ToGuard::Forget { inode }, &[], None);
    }

    /// Figures for the status page.
    pub fn info(&self) -> GuardInfo {
        let state = self.state.lock();
        GuardInfo {
            pid: state.guard_pid,
            guard_restarts: state.guard_restarts,
            agent_restarts: state.agent_restarts,
            events: self.events.load(Ordering::Relaxed),
            waiting: state.outstanding.len() as u64,
        }
    }

    /// From now on events that are dropped unanswered stay with the guard, which hands them to the next agent. Before
    /// [`Self::leave`].
    pub(crate) fn leave_events_to_the_guard(&self) {
        self.leaving_events.store(true, Ordering::SeqCst);
    }

    /// Leaves in order: the guard stays, keeps readers of released files waiting, and starts no agent.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
        let _ = self.tell(&ToGuard::Goodbye, &[], None);
        let _ = sys::seqpacket::send(&self.wake, b"x", &[]);
        if let Some(thread) = self.reader.lock().take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }

    fn talk(&self, what: &'static str) -> impl Fn(io::Error) -> LinkError + '_ {
        move |source| LinkError::Talk { what, socket: self.socket_path.clone(), source }
    }

    /// Sends one message, waiting while the guard's queue is full. With a generation, only to that guard.
    fn tell(&self, message: &ToGuard, fds: &[BorrowedFd<'_>], generation: Option<u64>) -> Result<(), LinkError> {
        let bytes = message.encode();
        loop {
            let socket = {
                let state = self.state.lock();
                if generation.is_some_and(|g| g != state.generation) {
                    return Err(LinkError::Replaced);
                }
                Arc::clone(&state.socket)
            };
            match sys::seqpacket::send(&*socket, &bytes, fds) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut poll = [PollFd::new(&*socket, PollFlags::OUT)];
                    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
                    let _ = rustix::event::poll(&mut poll, Some(&second));
                }
                Err(error) => return Err(self.talk("talk to")(error)),
            }
        }
    }

    fn answer(&self, seq: u64, generation: u64, number: i32, errno: i32) {
        let current = {
            let state = self.state.lock();
            if !state.outstanding.contains_key(&seq) {
                // Answered when the guard died that came after its own: its number may be another event's by now.
                return;
            }
            state.generation
        };
        let told = generation == current && self.tell(&ToGuard::Answer { seq, errno }, &[], Some(generation)).is_ok();
        // With the lock, so that no other guard takes the number meanwhile.
        let mut state = self.state.lock();
        if state.outstanding.remove(&seq).is_none() || told && state.generation == generation {
            return;
        }
        let verdict = match errno {
            // The guard died, and whether it had heard the answer, nobody knows. If it took another event under the number then, that one
            // must not be let through.
            _ if told => Verdict::Deny(EIO),
            // The guard that took the event is gone: nobody but us knows it.
            0 => Verdict::Allow,
            errno => Verdict::Deny(errno),
        };
        if !state.outstanding.values().any(|other| *other == number) {
            let _ = state.group.answer(number, verdict);
        }
    }

    fn take(self: &Arc<Self>, bytes: &[u8], mut fds: Vec<OwnedFd>, on_event: &impl Fn(PendingEvent)) {
        match ToAgent::decode(bytes) {
            Some(ToAgent::Event { seq, number, pid, mask, range }) => {
                let Some(file) = fds.pop() else {
                    tracing::error!(pid, "no descriptor is left for the file of an access: its reader gets an error");
                    let _ = self.tell(&ToGuard::Answer { seq, errno: EIO }, &[], None);
                    return;
                };
                if self.is_trusted(pid) {
                    // Taken by a guard before it knew the process; hearing of it, the guard lets it through.
                    return;
                }
                self.events.fetch_add(1, Ordering::Relaxed);
                let generation = {
                    let mut state = self.state.lock();
                    state.outstanding.insert(seq, number);
                    state.generation
                };
                let is_open = mask & OPEN_PERM != 0;
                let link = Arc::downgrade(self);
                on_event(PendingEvent {
                    link,
                    seq,
                    generation,
                    number,
                    answered: false,
                    file,
                    pid,
                    is_open,
                    range,
                    calls: None,
                    deadline: OnceCell::new(),
                });
            }
            Some(ToAgent::Held { token }) => {
                *self.state.lock().acknowledged.entry(token).or_insert(0) += 1;
                self.held.notify_all();
            }
            Some(ToAgent::Welcome { .. } | ToAgent::Busy { .. }) | None => {
                tracing::warn!("the guard said something unexpected; ignored");
            }
        }
    }

    /// The guard died. Readers whose events it had taken and not passed on get EIO; then a new guard goes on, with event
    /// numbers from the other region.
    fn replace_guard(&self) -> Result<(), LinkError> {
        let (group, old_floor, known, old_pid) = {
            let mut state = self.state.lock();
            state.generation += 1;
            if let Some(mut child) = state.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
            // Events of two guards ago: their numbers are those that the next guard uses, and must not mean two events.
            let again = if state.floor == 0 { REGION } else { 0 };
            let again = again.cast_signed()..(again + REGION).cast_signed();
            state.outstanding.retain(|_, number| !again.contains(number));
            let known: HashSet<i32> = state.outstanding.values().copied().collect();
            (Arc::clone(&state.group), state.floor, known, state.guard_pid)
        };
        self.held.notify_all();
        tracing::error!(guard = old_pid, outstanding = known.len(), "the guard died; starting another");
        let floor = if old_floor == 0 { REGION } else { 0 };
        for number in 0..2 * REGION {
            let number = number.cast_signed();
            if !known.contains(&number) {
                let _ = group.answer(number, Verdict::Deny(EIO));
            }
        }
        let descriptor = group.try_clone().map(OwnedFd::from).map_err(self.talk("duplicate the group of"))?;
        let mut child = spawn(&self.setup, &self.socket_path, Some(descriptor), floor)?;
        let connected = hail_until_up(&self.socket_path, &self.setup, &mut child)?;
        let trusted: Vec<i32> = {
            let mut state = self.state.lock();
            state.socket = Arc::new(connected.socket);
            state.version = connected.version;
            state.guard_pid = connected.pid;
            state.floor = connected.floor;
            state.child = Some(child);
            state.guard_restarts += 1;
            state.trusted.iter().copied().collect()
        };
        for pid in trusted {
            self.tell(&ToGuard::Trust { pid }, &[], None)?;
        }
        Ok(())
    }
}

/// The link's thread: hears the guard, and replaces it when it dies.
fn listen(link: &Weak<GuardLink>, on_event: &impl Fn(PendingEvent)) {
    let mut buffer = vec![0; MAX_BYTES];
    loop {
        let Some(link) = link.upgrade() else { return };
        if link.leaving.load(Ordering::SeqCst) {
            return;
        }
        let socket = Arc::clone(&link.state.lock().socket);
        let mut poll = [PollFd::new(&*socket, PollFlags::IN), PollFd::new(&link.woken, PollFlags::IN)];
        // A bounded wait, so that a link nobody holds any more ends its thread.
        let _ = rustix::event::poll(&mut poll, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }));
        let dead = loop {
            match sys::seqpacket::recv(&*socket, &mut buffer) {
                Ok(Some((n, fds))) => link.take(buffer.get(..n).unwrap_or_default(), fds, on_event),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
                Ok(None) | Err(_) => break true,
            }
        };
        if dead
            && !link.leaving.load(Ordering::SeqCst)
            && let Err(error) = link.replace_guard()
        {
            tracing::error!(%error, "no guard: accesses to files that are not in the cache wait; trying again");
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

/// Says hello and waits for the welcome.
fn hail(path: &Path, setup: &GuardSetup) -> Result<Connected, LinkError> {
    let talk = |what| move |source| LinkError::Talk { what, socket: path.to_path_buf(), source };
    let socket = sys::seqpacket::connect(path).map_err(talk("connect to"))?;
    let hello = ToGuard::Hello { version: VERSION, command_line: setup.agent_command.clone() };
    // A guard that is busy says so and closes, maybe before this is sent: its word is what counts.
    let _ = sys::seqpacket::send(&socket, &hello.encode(), &[]);
    let mut poll = [PollFd::new(&socket, PollFlags::IN)];
    // A guard that still waits for the last agent's movers to end answers only after that.
    let patience = Timespec { tv_sec: START_TIMEOUT.as_secs().cast_signed(), tv_nsec: 0 };
    rustix::event::poll(&mut poll, Some(&patience)).map_err(|e| talk("wait for")(e.into()))?;
    let mut buffer = vec![0; MAX_BYTES];
    let received = match sys::seqpacket::recv(&socket, &mut buffer) {
        // Told once when the other end closed without reading; what it said before can still be read.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => sys::seqpacket::recv(&socket, &mut buffer),
        received => received,
    };
    let received = received.map_err(talk("hear"))?;
    let (n, mut fds) = received.ok_or_else(|| talk("hear")(io::ErrorKind::UnexpectedEof.into()))?;
    match (ToAgent::decode(buffer.get(..n).unwrap_or_default()), fds.pop()) {
        (Some(ToAgent::Welcome { version, pid, floor, agent_restarts }), Some(group)) => {
            Ok(Connected { socket, group: PreContentGroup::from_fd(group), version, pid, floor, agent_restarts })
        }
        (Some(ToAgent::Busy { pid }), _) => Err(LinkError::Busy { pid }),
        _ => Err(talk("understand")(io::ErrorKind::InvalidData.into())),
    }
}

fn hail_until_up(path: &Path, setup: &GuardSetup, child: &mut Child) -> Result<Connected, LinkError> {
    let failed = |why: String| LinkError::Start { mount_point: setup.mount_point.clone(), why };
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match hail(path, setup) {
            Err(LinkError::Talk { source, .. }) => {
                if let Ok(Some(status)) = child.try_wait() {
                    return Err(failed(format!("it ended with {status}; its message is above")));
                }
                if Instant::now() > deadline {
                    return Err(failed(format!("it does not answer after {} s: {source}", START_TIMEOUT.as_secs())));
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            other => return other,
        }
    }
}

fn spawn(setup: &GuardSetup, socket: &Path, group: Option<OwnedFd>, floor: u32) -> Result<Child, LinkError> {
    let failed = |why: String| LinkError::Start { mount_point: setup.mount_point.clone(), why };
    let (program, arguments) = setup.guard_command.split_first().ok_or_else(|| failed("no command".into()))?;
    let mut command = Command::new(program);
    command.args(arguments).arg("--mount").arg(&setup.mount_point).arg("--socket").arg(socket);
    if let Some(group) = group {
        let number = sys::process::inherit_fd(&mut command, group);
        command.arg("--group-fd").arg(number.to_string()).arg("--floor").arg(floor.to_string());
    }
    // A group of its own: an interrupt typed at the agent's terminal is not for the guard.
    command.stdin(Stdio::null()).process_group(0);
    sys::signals::unblock_in_child(&mut command);
    command.spawn().map_err(|error| failed(error.to_string()))
}

/// Tells a filesystem's guard to end. Files that are released then are no longer protected.
pub fn stop_guard(socket_dir: &Path, fsid: [u8; 8]) -> Result<(), LinkError> {
    let path = socket_path(socket_dir, fsid);
    let talk = |what| {
        let path = path.clone();
        move |source| LinkError::Talk { what, socket: path, source }
    };
    let socket = sys::seqpacket::connect(&path).map_err(talk("connect to"))?;
    sys::seqpacket::send(&socket, &ToGuard::Stop.encode(), &[]).map_err(talk("talk to"))?;
    // Its end closes the connection.
    let mut buffer = [0; 64];
    loop {
        let mut poll = [PollFd::new(&socket, PollFlags::IN)];
        rustix::event::poll(&mut poll, None).map_err(|e| talk("wait for")(e.into()))?;
        match sys::seqpacket::recv(&socket, &mut buffer).map_err(talk("hear"))? {
            None => return Ok(()),
            Some((n, _)) => {
                if let Some(ToAgent::Busy { pid }) = ToAgent::decode(buffer.get(..n).unwrap_or_default()) {
                    return Err(LinkError::Busy { pid });
                }
            }
        }
    }
}
