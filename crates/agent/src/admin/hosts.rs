//! Movers on other hosts, as the admin API tells of them.

use super::api::Validate;
use super::control::{ControlError, ErrorCode};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

/// Whoever knows the hosts.
pub trait HostControl: Send + Sync + 'static {
    /// Who leads, and which hosts there are.
    fn report(&self) -> BoxFuture<'_, HostsReport>;

    /// Has the hosts of this name take nothing more, and end when they have nothing left. How many there are; `None` if this agent does not lead.
    fn drain(&self, name: String) -> BoxFuture<'_, Option<usize>>;
}

/// How a drain is answered.
///
/// # Errors
/// This agent does not lead, or there is no host of that name.
pub fn drained(name: &str, hosts: Option<usize>) -> Result<Draining, ControlError> {
    match hosts {
        None => {
            let message = "this agent does not lead: ask the one that does (`sifaka hosts` says where it is)";
            Err(ControlError::new(ErrorCode::Unavailable, message))
        }
        Some(0) => Err(ControlError::new(ErrorCode::NotFound, format!("there is no host {name:?}"))),
        Some(hosts) => Ok(Draining { hosts }),
    }
}

/// What an agent is to the hosts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It does not know: the servers cannot be reached.
    #[default]
    Unreachable,
    /// Another agent leads.
    Standby,
    /// The hosts work for this one.
    Leading,
}

impl Role {
    /// As in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Standby => "standby",
            Self::Leading => "leading",
        }
    }
}

/// `GET /v1/hosts`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HostsReport {
    /// What this agent is to them.
    pub role: Role,
    /// Counts the agents that have led; 0 unless this one does.
    pub epoch: u64,
    /// Where the agent runs that leads, when it is another.
    pub leader: Option<String>,
    /// Hosts that this agent waits for before it gives out anything: they may have works of the one before it.
    pub waits_for: Vec<String>,
    /// The hosts, if this agent leads.
    pub hosts: Vec<HostState>,
}

/// A host of movers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HostState {
    /// What it is called.
    pub name: String,
    /// Its process.
    pub id: String,
    /// Program and version.
    pub software: String,
    /// The groups it is in.
    pub groups: Vec<String>,
    /// Texts for people: name=value.
    pub labels: Vec<String>,
    /// The archives that it has movers for, and how many actions these take at once.
    pub archives: Vec<(u32, u32)>,
    /// How long ago it was heard, in milliseconds.
    pub heard_ms: u64,
    /// Actions that it has.
    pub actions: usize,
    /// It takes nothing more.
    pub draining: bool,
    /// Actions of an earlier agent that its movers have not ended.
    pub ending: u32,
    /// Actions that it has finished.
    pub finished: u64,
    /// Bytes that it has moved.
    pub moved_bytes: u64,
}

/// `POST /v1/hosts/drain`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DrainRequest {
    /// The host's name.
    pub name: String,
}

impl Validate for DrainRequest {
    fn validate(&self) -> Result<(), String> {
        match self.name.len() {
            1..=256 => Ok(()),
            _ => Err("name: 1 to 256 bytes".into()),
        }
    }
}

/// How many hosts have that name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Draining {
    /// They take nothing more, and end when they have nothing left.
    pub hosts: usize,
}
