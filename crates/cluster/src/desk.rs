//! A host's side: what to take, and when it may not go on.
//!
//! A [`Desk`] stands for the agent towards the host's movers. Calls put something in (what movers can do, deliveries, answers, results, the time);
//! what is to be done is then taken out with [`Desk::next_output`], in that order.
//!
//! Whoever connects it: calls [`Desk::tick`] at [`Desk::wake_at`], and before anything else after a pause; acknowledges by the subject that came with a message; and has
//! *somebody else* (a process that a stopped `mover-host` cannot stop) kill all movers at [`Desk::fence_at`] unless that moves on meanwhile: a host whose own process hangs
//! must not go on either.

mod asking;
mod fences;
mod pulls;
mod works;

use crate::{Group, HostId, Lane, Served, Terms, Time};
use asking::Flight;
use fences::Lease;
use proto::Task;
use pulls::{Pull, Wish};
use std::collections::{BTreeMap, VecDeque};
use works::{Entry, Moved};

/// What a host is: does not change while it runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The process: random.
    pub instance: u128,
    /// What people call it: not empty, at most [`proto::cluster::MAX_NAME_BYTES`], without control characters.
    pub name: String,
    /// Program and version.
    pub software: String,
    /// The groups it is in, besides that of all hosts.
    pub groups: Vec<Group>,
    /// For people: name=value.
    pub labels: Vec<String>,
}

/// Names a request for works.
pub type PullId = u64;

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Another session begins: put it into the registry ([`proto::cluster::Member`], under the key that [`HostId`] has as text), for as long as it takes; then remove those of earlier sessions of
    /// this instance, and call [`Desk::registered`]. Nothing is announced before.
    Register(HostId),
    /// Send this to the agent, with a subject for the reply; then [`Desk::answered`], or [`Desk::unanswered`] if it is known that nobody is there. Needs no timeout.
    Ask {
        /// To be given back with the answer.
        seq: u64,
        /// A [`proto::cluster::Ask`].
        payload: Vec<u8>,
    },
    /// Ask for up to `batch` messages of a lane's consumer, and let the request wait at the server for `expires`. Each message goes to [`Desk::delivered`] with
    /// `id`; when there will be none any more, [`Desk::pull_ended`].
    Pull {
        /// Names it.
        id: PullId,
        /// Which consumer.
        lane: Lane,
        /// How many messages.
        batch: u32,
        /// How long.
        expires: std::time::Duration,
    },
    /// Acknowledge a message: it is gone from the stream.
    Ack {
        /// Its reply subject.
        ack_to: String,
    },
    /// Give a message back: somebody may have it after this time.
    GiveBack {
        /// Its reply subject.
        ack_to: String,
        /// How long nobody gets it.
        delay: std::time::Duration,
    },
    /// Have a mover do this; then [`Desk::ended`], exactly once.
    Run {
        /// Its name here.
        key: u64,
        /// For movers of which archive.
        archive: u32,
        /// What; its id means nothing here.
        task: Box<Task>,
    },
    /// Cancel these, by their keys.
    Cancel(Vec<u64>),
    /// Kill all movers, now. Comes again while there is something that has not ended.
    KillMovers,
    /// It was drained, and has nothing left: remove it from the registry, and end.
    Left(HostId),
}

/// A host's side. See the module.
#[derive(Debug)]
pub struct Desk {
    identity: Identity,
    terms: Terms,
    session: u32,
    registered: bool,
    /// The agent it works for; 0: none that it knows.
    epoch: u64,
    lease: Option<Lease>,
    /// The session is over, and movers have something yet.
    over: bool,
    /// When the session began.
    began: Time,
    /// Movers that have something then are killed, and again after a while.
    kill_at: Option<Time>,
    served: Vec<Served>,
    /// Works of this epoch, by the agent's ids.
    works: BTreeMap<u64, Entry>,
    /// What movers have, by our keys: the work, unless nobody wants the result any more.
    movers: BTreeMap<u64, Option<u64>>,
    moved: BTreeMap<u64, Moved>,
    pulls: BTreeMap<PullId, Pull>,
    wishes: BTreeMap<Lane, Wish>,
    flight: Option<Flight>,
    /// When an Ask that is not urgent is due.
    announce_at: Time,
    progress_at: Time,
    /// Asks in a row that nobody answered.
    unanswered: u32,
    last_seq: u64,
    last_key: u64,
    last_pull: PullId,
    draining: bool,
    left: bool,
    finished: u64,
    moved_bytes: u64,
    out: VecDeque<Output>,
}

impl Desk {
    /// A desk that begins to register.
    #[must_use]
    pub fn new(identity: Identity, terms: Terms, now: Time) -> Self {
        let mut desk = Self {
            identity,
            terms,
            session: 0,
            registered: false,
            epoch: 0,
            lease: None,
            over: false,
            began: now,
            kill_at: None,
            served: Vec::new(),
            works: BTreeMap::new(),
            movers: BTreeMap::new(),
            moved: BTreeMap::new(),
            pulls: BTreeMap::new(),
            wishes: BTreeMap::new(),
            flight: None,
            announce_at: now,
            progress_at: now,
            unanswered: 0,
            last_seq: 0,
            last_key: 0,
            last_pull: 0,
            draining: false,
            left: false,
            finished: 0,
            moved_bytes: 0,
            out: VecDeque::new(),
        };
        desk.begin_session(now);
        desk
    }

    /// What is to be done next.
    pub fn next_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// Which session of the host it is.
    #[must_use]
    pub fn id(&self) -> HostId {
        HostId { instance: self.identity.instance, session: self.session }
    }

    /// The agent it works for; 0: none that it knows.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Works that it has, in whatever state.
    #[must_use]
    pub fn held(&self) -> usize {
        self.works.len()
    }

    /// Works that movers have.
    #[must_use]
    pub fn running(&self) -> usize {
        self.movers.len()
    }

    /// Whether it takes nothing more.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// [`Output::Register`] was done, for this session.
    pub fn registered(&mut self, now: Time, id: HostId) {
        self.advance(now);
        self.registered |= id == self.id();
        self.settle(now);
    }

    /// What the movers here can do from now on: all archives.
    pub fn serve(&mut self, now: Time, served: Vec<Served>) {
        self.advance(now);
        if self.served != served {
            self.served = served;
            self.announce_at = now;
        }
        self.settle(now);
    }

    /// It takes nothing more, finishes what it has, and ends: [`Output::Left`].
    pub fn drain(&mut self, now: Time) {
        self.advance(now);
        self.begin_drain(now);
        self.settle(now);
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Time) {
        self.advance(now);
        self.settle(now);
    }

    /// When [`Self::tick`] is to be called next, at the latest.
    #[must_use]
    pub fn wake_at(&self, now: Time) -> Time {
        let regular = now + self.terms.retry();
        [self.ask_at(), self.fence_at()].into_iter().flatten().fold(regular, Time::min)
    }

    fn begin_drain(&mut self, now: Time) {
        if !self.draining {
            self.draining = true;
            self.announce_at = now;
            self.give_back_claims();
        }
    }

    fn begin_session(&mut self, now: Time) {
        self.began = now;
        self.registered = false;
        self.out.push_back(Output::Register(self.id()));
    }

    /// What follows from whatever came in.
    fn settle(&mut self, now: Time) {
        self.pull(now);
        self.ask(now);
        self.leave();
    }

    /// Ends when it is drained, and the agent knows, or nobody is there to be told.
    fn leave(&mut self) {
        if self.draining && !self.left && self.is_idle() && self.lease.is_none() && self.flight.is_none() {
            self.left = true;
            self.out.push_back(Output::Left(self.id()));
        }
    }

    fn is_idle(&self) -> bool {
        self.works.is_empty() && self.movers.is_empty()
    }
}
