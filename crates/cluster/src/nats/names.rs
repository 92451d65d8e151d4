//! What things are called at the servers. All begin with the filesystem, so that several can share servers.

use crate::{HostId, Lane};

/// The names of one filesystem.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    filesystem: String,
}

impl Names {
    pub(crate) fn new(filesystem: &str) -> Self {
        Self { filesystem: filesystem.to_owned() }
    }

    /// Where the agent hears what hosts ask.
    pub(crate) fn ask(&self) -> String {
        format!("sifaka.v1.{}.ask", self.filesystem)
    }

    /// Where all hosts hear what the agent tells.
    pub(crate) fn tell_all(&self) -> String {
        format!("sifaka.v1.{}.tell", self.filesystem)
    }

    /// Where one hears it.
    pub(crate) fn tell(&self, instance: u128) -> String {
        format!("sifaka.v1.{}.tell.{instance:032x}", self.filesystem)
    }

    /// The stream of works.
    pub(crate) fn works(&self) -> String {
        format!("SIFAKA_{}_WORK", self.filesystem)
    }

    /// What that stream takes.
    pub(crate) fn all_lanes(&self) -> String {
        format!("sifaka.v1.{}.work.>", self.filesystem)
    }

    /// A part of it.
    pub(crate) fn lane(&self, lane: &Lane) -> String {
        format!("sifaka.v1.{}.work.{lane}", self.filesystem)
    }

    /// That part's consumer.
    pub(crate) fn consumer(lane: &Lane) -> String {
        lane.to_string().replace('.', "-")
    }

    /// Where a host asks for messages of a lane.
    pub(crate) fn pull(&self, lane: &Lane) -> String {
        format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.works(), Self::consumer(lane))
    }

    /// The stream that keeps who leads, and who is there: a key-value bucket, as NATS's tools know it.
    pub(crate) fn bucket(&self) -> String {
        format!("KV_SIFAKA_{}", self.filesystem)
    }

    /// All its keys.
    pub(crate) fn keys(&self) -> String {
        format!("$KV.SIFAKA_{}.>", self.filesystem)
    }

    /// Who leads.
    pub(crate) fn leader(&self) -> String {
        format!("$KV.SIFAKA_{}.leader", self.filesystem)
    }

    /// All hosts.
    pub(crate) fn members(&self) -> String {
        format!("$KV.SIFAKA_{}.host.>", self.filesystem)
    }

    /// A host's session.
    pub(crate) fn member(&self, id: HostId) -> String {
        format!("$KV.SIFAKA_{}.host.{id}", self.filesystem)
    }
}
