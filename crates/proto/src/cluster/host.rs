//! What hosts ask, and what the agent says.

use super::bounds::{
    MAX_ASK_ITEMS, MAX_GROUPS, MAX_HELD, MAX_NAME_BYTES, MAX_SERVED, MessageError, at_most, decode, epoch, name, sense,
};
use super::work::Group;
use crate::sifaka_cluster_v1 as wire;
use crate::{Capabilities, pdm};
use model::limits::MAX_CREDITS;
use prost::Message;
use std::fmt;

/// A session of a host: it begins when nothing of the one before it runs, and is over when its lease is lost, or another agent leads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostId {
    /// The process: random.
    pub instance: u128,
    /// Counts its sessions.
    pub session: u32,
}

/// As a key of the registry.
impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{}", self.instance, self.session)
    }
}

/// What a host's movers can do for one archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Served {
    /// The archive.
    pub archive: u32,
    /// What all its movers can do.
    pub capabilities: Capabilities,
    /// How many works they take at once, together.
    pub credits: u32,
}

/// What a host is and has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Announce {
    /// The highest version of the protocol that it speaks.
    pub version: u32,
    /// What people call it.
    pub name: String,
    /// Its program and version.
    pub software: String,
    /// The groups it belongs to, besides that of all hosts.
    pub groups: Vec<Group>,
    /// For people: name=value.
    pub labels: Vec<String>,
    /// For which archives it has movers.
    pub served: Vec<Served>,
    /// It takes nothing more.
    pub draining: bool,
    /// It has nothing, and ends.
    pub leaving: bool,
    /// The works of this epoch that it has, or claims: ascending.
    pub held: Vec<u64>,
    /// Works that it finished since it started.
    pub finished: u64,
    /// Bytes that it moved since it started.
    pub moved_bytes: u64,
    /// Works that it gave up and its movers have not ended, for people: what is of another agent's time is ended before a session begins.
    pub ending: u32,
}

/// What a host sends.
#[derive(Clone, PartialEq, Debug)]
pub struct Ask {
    /// Who.
    pub from: HostId,
    /// Grows with each.
    pub seq: u64,
    /// For which agent it works; 0 when it knows none.
    pub epoch: u64,
    /// What it is and has.
    pub announce: Option<Announce>,
    /// Progress and results; their ids are those of the agent. The endpoint of the agent checks them.
    pub statuses: Vec<pdm::ActionStatus>,
    /// What it wants to run.
    pub claims: Vec<u64>,
}

/// What the agent answers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Answer {
    /// Its epoch; not 0.
    pub epoch: u64,
    /// Of the [`Ask`].
    pub seq: u64,
    /// The highest version of the protocol that it speaks.
    pub version: u32,
    /// Nothing was taken in: announce first.
    pub announce: bool,
    /// Of the claims, those to run.
    pub granted: Vec<u64>,
    /// Stop these; their results are waited for.
    pub cancel: Vec<u64>,
    /// Stop these, and forget them.
    pub forget: Vec<u64>,
    /// Take nothing more, and end.
    pub drain: bool,
}

/// What the agent says unasked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tell {
    /// Its epoch; not 0.
    pub epoch: u64,
    /// Announce yourself.
    pub announce: bool,
    /// Stop these.
    pub cancel: Vec<u64>,
    /// Take nothing more, and end.
    pub drain: bool,
}

/// Ascending numbers as differences.
fn differences(ids: &[u64]) -> Vec<u64> {
    let mut last = 0;
    let difference = |&id: &u64| {
        let difference = id.saturating_sub(last);
        last = id;
        difference
    };
    ids.iter().map(difference).collect()
}

/// The other way; `None` unless they ascend.
fn sums(differences: &[u64]) -> Option<Vec<u64>> {
    let mut last = 0u64;
    let sum = |&difference: &u64| {
        last = last.checked_add(difference)?;
        (difference > 0).then_some(last)
    };
    differences.iter().map(sum).collect()
}

impl From<Announce> for wire::Announce {
    fn from(announce: Announce) -> Self {
        let served = |served: Served| wire::Served {
            archive: served.archive,
            capabilities: served.capabilities.bits(),
            credits: served.credits,
        };
        Self {
            version: announce.version,
            name: announce.name,
            software: announce.software,
            groups: announce.groups.iter().map(|group| group.as_str().to_owned()).collect(),
            labels: announce.labels,
            served: announce.served.into_iter().map(served).collect(),
            draining: announce.draining,
            leaving: announce.leaving,
            held: differences(&announce.held),
            finished: announce.finished,
            moved_bytes: announce.moved_bytes,
            ending: announce.ending,
        }
    }
}

impl TryFrom<wire::Announce> for Announce {
    type Error = MessageError;

    fn try_from(announce: wire::Announce) -> Result<Self, MessageError> {
        at_most("groups", announce.groups.len(), MAX_GROUPS)?;
        at_most("labels", announce.labels.len(), MAX_GROUPS)?;
        at_most("archives", announce.served.len(), MAX_SERVED)?;
        at_most("works held", announce.held.len(), MAX_HELD)?;
        sense(!announce.name.is_empty(), "name")?;
        for (text, field) in [(&announce.name, "name"), (&announce.software, "software")] {
            name(text, field)?;
        }
        announce.labels.iter().try_for_each(|label| name(label, "label"))?;
        let groups: Option<Vec<_>> = announce.groups.iter().map(|name| Group::new(name)).collect();
        let served = |served: wire::Served| Served {
            archive: served.archive,
            capabilities: Capabilities::from_bits(served.capabilities),
            credits: served.credits.min(MAX_CREDITS),
        };
        Ok(Self {
            version: announce.version,
            name: announce.name,
            software: announce.software,
            groups: groups.ok_or(MessageError::Field("groups"))?,
            labels: announce.labels,
            served: announce.served.into_iter().map(served).collect(),
            draining: announce.draining,
            leaving: announce.leaving,
            held: sums(&announce.held).ok_or(MessageError::Field("held"))?,
            finished: announce.finished,
            moved_bytes: announce.moved_bytes,
            ending: announce.ending,
        })
    }
}

/// From the sixteen bytes on the wire.
pub(super) fn instance(bytes: &[u8]) -> Result<u128, MessageError> {
    let bytes = bytes.try_into().map_err(|_| MessageError::Field("instance"))?;
    Ok(u128::from_be_bytes(bytes))
}

impl Ask {
    /// As bytes.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let ask = wire::Ask {
            instance: self.from.instance.to_be_bytes().to_vec(),
            session: self.from.session,
            seq: self.seq,
            epoch: self.epoch,
            announce: self.announce.map(Into::into),
            statuses: self.statuses,
            claims: self.claims,
        };
        ask.encode_to_vec()
    }

    /// From bytes.
    ///
    /// # Errors
    /// It is to be ignored.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let ask: wire::Ask = decode(bytes)?;
        at_most("statuses", ask.statuses.len(), MAX_ASK_ITEMS)?;
        at_most("claims", ask.claims.len(), MAX_ASK_ITEMS)?;
        Ok(Self {
            from: HostId { instance: instance(&ask.instance)?, session: ask.session },
            seq: ask.seq,
            epoch: epoch(ask.epoch)?,
            announce: ask.announce.map(TryInto::try_into).transpose()?,
            statuses: ask.statuses,
            claims: ask.claims,
        })
    }
}

impl Answer {
    /// As bytes.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let Self { epoch, seq, version, announce, granted, cancel, forget, drain } = self;
        wire::Answer { epoch, seq, version, announce, granted, cancel, forget, drain }.encode_to_vec()
    }

    /// From bytes.
    ///
    /// # Errors
    /// It is to be ignored.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let answer: wire::Answer = decode(bytes)?;
        at_most("works granted", answer.granted.len(), MAX_ASK_ITEMS)?;
        at_most("works cancelled", answer.cancel.len(), MAX_HELD)?;
        at_most("works forgotten", answer.forget.len(), MAX_HELD)?;
        sense(answer.epoch > 0, "epoch")?;
        let wire::Answer { epoch: e, seq, version, announce, granted, cancel, forget, drain } = answer;
        Ok(Self { epoch: epoch(e)?, seq, version, announce, granted, cancel, forget, drain })
    }
}

impl Tell {
    /// As bytes.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let Self { epoch, announce, cancel, drain } = self;
        wire::Tell { epoch, announce, cancel, drain }.encode_to_vec()
    }

    /// From bytes.
    ///
    /// # Errors
    /// It is to be ignored.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let tell: wire::Tell = decode(bytes)?;
        at_most("works cancelled", tell.cancel.len(), MAX_HELD)?;
        sense(tell.epoch > 0, "epoch")?;
        Ok(Self { epoch: epoch(tell.epoch)?, announce: tell.announce, cancel: tell.cancel, drain: tell.drain })
    }
}

const _: () = assert!(MAX_NAME_BYTES < 1024 && MAX_HELD * 10 < super::bounds::MAX_MESSAGE_BYTES);
