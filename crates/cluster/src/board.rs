//! The agent's side: which host may run what.
//!
//! A [`Board`] stands for the hosts towards the agent, and for one epoch: whoever takes the lead makes a new one. Calls put something in (what the agent
//! wants, what hosts ask, the time); what is to be done is then taken out with [`Board::next_output`], in that order. Each work that
//! was offered gets exactly one result, as the last [`Output::Status`] of its id.
//!
//! Whoever connects it: gives requests of all hosts to [`Board::hear`] in the order in which they came (one subscription); calls
//! [`Board::tick`] at [`Board::wake_at`], and tells through [`Board::lead_until`] how long the lead is valid. When it is not, or [`Output::Deposed`] came,
//! calls [`Board::depose`].

mod asks;
mod hosts;
mod works;

use crate::{Group, HostId, Lane, Pool, Terms, Time};
use hosts::{Capacity, Host};
use proto::cluster::{Member, Tell};
use proto::{Capabilities, Instruction, WireError, pdm};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use works::Entry;

pub use hosts::HostView;

/// The most sessions of hosts that are known at once.
pub const MAX_HOSTS: usize = 16_384;
/// The most pools.
pub const MAX_POOLS: usize = 4096;
/// A work whose hosts died so often is given back to the agent.
pub const MAX_LOSSES: u32 = 3;

/// What is to be done.
#[derive(Clone, PartialEq, Debug)]
pub enum Output {
    /// Publish this in the stream on the subject of `lane`, with this `Nats-Msg-Id`; then [`Board::published`], whatever became of it.
    Publish {
        /// Where.
        lane: Lane,
        /// The same for each attempt of one publication.
        msg_id: String,
        /// Of the work.
        id: u64,
        /// Which publication.
        serial: u32,
        /// A [`proto::cluster::Work`].
        payload: Vec<u8>,
    },
    /// Delete this message of the stream, if it is there: nobody needs it any more. Whether that works does not matter.
    Delete {
        /// Its sequence number.
        at: u64,
    },
    /// Answer a host's request.
    Answer {
        /// As given to [`Board::hear`].
        reply_to: String,
        /// A [`proto::cluster::Answer`].
        payload: Vec<u8>,
    },
    /// Tell a host, or all of them. May be lost.
    Tell {
        /// The process; all if `None`.
        to: Option<u128>,
        /// A [`proto::cluster::Tell`].
        payload: Vec<u8>,
    },
    /// Progress or the result of a work, for the agent's endpoint of its pool.
    Status {
        /// Whose endpoint.
        pool: Pool,
        /// As movers report; `id` is that of the [`pdm::ActionItem`].
        status: pdm::ActionStatus,
    },
    /// From now on a pool takes so many works at once; 0: it has no host, and is to be given nothing. Make an endpoint for it if there is none, and never remove
    /// one that has works.
    Serve {
        /// Which.
        pool: Pool,
        /// How many works it takes at once: more than its hosts' credits by a little.
        credits: u32,
        /// What all its hosts can do.
        capabilities: Capabilities,
    },
    /// This session of a host is over, and has nothing running: remove its key from the registry. Whether that works does not matter.
    Unregister(HostId),
    /// Hosts know of a later epoch: this agent does not lead any more. Its next epoch has to be above this one.
    Deposed {
        /// The highest epoch that was heard of.
        epoch: u64,
    },
}

/// The agent's side. See the module.
#[derive(Debug)]
pub struct Board {
    epoch: u64,
    terms: Terms,
    lead_until: Time,
    deposed: bool,
    /// Works are published.
    open: bool,
    opens_at: Time,
    /// Hosts that may run works of earlier epochs, with their names, as far as the registry knows.
    members: BTreeMap<HostId, String>,
    /// The registry could be read.
    knows_members: bool,
    hosts: BTreeMap<HostId, Host>,
    works: BTreeMap<u64, Entry>,
    /// When something has to be done about works.
    due: BTreeSet<(Time, u64)>,
    pools: BTreeMap<Pool, Capacity>,
    /// When all hosts and pools are looked at next.
    look_at: Time,
    ignored: u64,
    out: VecDeque<Output>,
}

impl Board {
    /// A board for an agent that has just taken the lead with `epoch`, valid until `lead_until`. `members`: the hosts in the registry, read after that; `None` if it cannot be read.
    #[must_use]
    pub fn new(epoch: u64, terms: Terms, members: Option<Vec<Member>>, lead_until: Time, now: Time) -> Self {
        let mut board = Self {
            epoch,
            terms,
            lead_until,
            deposed: false,
            open: false,
            opens_at: now + terms.dead_after(),
            knows_members: members.is_some(),
            members: members.into_iter().flatten().map(|member| (member.id, member.name)).collect(),
            hosts: BTreeMap::new(),
            works: BTreeMap::new(),
            due: BTreeSet::new(),
            pools: BTreeMap::new(),
            look_at: now,
            ignored: 0,
            out: VecDeque::new(),
        };
        let tell = Tell { epoch, announce: true, ..Tell::default() };
        board.out.push_back(Output::Tell { to: None, payload: tell.encode() });
        board.open_if_clear(now);
        board
    }

    /// What is to be done next.
    pub fn next_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// The lead is valid until then, by this machine's clock.
    pub fn lead_until(&mut self, until: Time) {
        self.lead_until = until;
    }

    /// The agent wants something done by a pool. `wall_ms` is the time since 1970 by the wall clock.
    ///
    /// # Errors
    /// The item makes no sense; it gets no result.
    pub fn offer(&mut self, now: Time, wall_ms: u64, pool: Pool, item: pdm::ActionItem) -> Result<(), WireError> {
        let op = item.op;
        let Instruction::Run(task) = item.try_into()? else { return Err(WireError::Command(op)) };
        self.accept(now, wall_ms, pool, task);
        Ok(())
    }

    /// Time has passed. Cheap.
    pub fn tick(&mut self, now: Time) {
        if !self.leads(now) {
            return;
        }
        // It may be called as often as anything comes in, and there may be many hosts.
        if now >= self.look_at {
            self.look_at = now + self.terms.retry() / 2;
            self.end_dead_hosts(now);
            self.open_if_clear(now);
            if self.open {
                self.end_unserved(now);
            }
        }
        if self.open {
            self.attend_works(now);
        }
    }

    /// When [`Self::tick`] is to be called next, at the latest.
    #[must_use]
    pub fn wake_at(&self, now: Time) -> Time {
        let regular = now + self.terms.retry();
        self.due.first().map_or(regular, |&(at, _)| at.min(regular))
    }

    /// It leads no more: every work ends as a temporary failure, and nothing is answered any more.
    pub fn depose(&mut self) {
        self.deposed = true;
        self.end_all();
    }

    /// Hosts that works wait for after a change of agents, by name where it is known.
    #[must_use]
    pub fn waits_for(&self) -> Vec<String> {
        if self.open {
            return Vec::new();
        }
        self.members.iter().map(|(id, name)| if name.is_empty() { id.to_string() } else { name.clone() }).collect()
    }

    /// Messages that made no sense.
    #[must_use]
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// Works that have no result yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.works.len()
    }

    fn leads(&self, now: Time) -> bool {
        !self.deposed && now < self.lead_until
    }

    /// Begins to publish when nothing of earlier epochs can be running.
    fn open_if_clear(&mut self, now: Time) {
        if self.open {
            return;
        }
        let clear = self.knows_members && self.members.is_empty();
        if !clear && now < self.opens_at {
            return;
        }
        // Who has not been heard in all that time has lost its lease, and is in the registry for nothing.
        for id in std::mem::take(&mut self.members).into_keys() {
            self.out.push_back(Output::Unregister(id));
        }
        self.open = true;
        self.publish_all(now);
    }
}

/// The pools that a host is in.
pub(crate) fn pools_of(groups: &[Group], archive: u32) -> impl Iterator<Item = Pool> + '_ {
    let any = std::iter::once(Group::any());
    let own = groups.iter().filter(|group| !group.is_any()).cloned();
    any.chain(own).map(move |group| Pool { archive, group })
}
