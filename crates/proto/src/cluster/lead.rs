//! What the key-value buckets hold: who leads, and which hosts there may be.

use super::bounds::{MessageError, decode, epoch, name, sense};
use super::host::{HostId, instance};
use crate::sifaka_cluster_v1 as wire;
use prost::Message;

/// Who leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leader {
    /// Grows with each that takes the lead; not 0.
    pub epoch: u64,
    /// The agent's process: random.
    pub instance: u128,
    /// Where it runs, for people.
    pub host: String,
    /// For how long the lead is valid since it was last refreshed.
    pub ttl_ms: u32,
}

/// A host that may be running works.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Which.
    pub id: HostId,
    /// What people call it.
    pub name: String,
}

impl Leader {
    /// As bytes.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let Self { epoch, instance, host, ttl_ms } = self;
        wire::Leader { epoch, instance: instance.to_be_bytes().to_vec(), host, ttl_ms }.encode_to_vec()
    }

    /// From bytes.
    ///
    /// # Errors
    /// It says nothing about who leads.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let leader: wire::Leader = decode(bytes)?;
        sense(leader.epoch > 0, "epoch")?;
        name(&leader.host, "host")?;
        Ok(Self {
            epoch: epoch(leader.epoch)?,
            instance: instance(&leader.instance)?,
            host: leader.host,
            ttl_ms: leader.ttl_ms,
        })
    }
}

impl Member {
    /// As bytes.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let HostId { instance, session } = self.id;
        wire::Member { instance: instance.to_be_bytes().to_vec(), session, name: self.name }.encode_to_vec()
    }

    /// From bytes.
    ///
    /// # Errors
    /// It names no host.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let member: wire::Member = decode(bytes)?;
        name(&member.name, "name")?;
        let id = HostId { instance: instance(&member.instance)?, session: member.session };
        Ok(Self { id, name: member.name })
    }
}
