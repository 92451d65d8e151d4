//! What the stream holds, and where in it.

use super::bounds::{MessageError, decode, epoch, sense};
use crate::pdm;
use crate::sifaka_cluster_v1 as wire;
use crate::{Instruction, Task};
use model::Class;
use prost::Message;
use std::fmt;

/// A set of hosts, by name. Part of a subject: letters, digits, `-` and `_`, at most 64 of them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Group(Box<str>);

impl Group {
    const ANY: &str = "any";

    /// All hosts.
    #[must_use]
    pub fn any() -> Self {
        Self(Self::ANY.into())
    }

    /// The group of this name; `None` if no group can have it. `any` is all hosts.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (!name.is_empty() && name.len() <= 64 && name.chars().all(allowed)).then(|| Self(name.into()))
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is all hosts.
    #[must_use]
    pub fn is_any(&self) -> bool {
        &*self.0 == Self::ANY
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The hosts of a group that serve an archive: towards the agent one mover.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pool {
    /// The archive.
    pub archive: u32,
    /// The hosts.
    pub group: Group,
}

/// A pool's works of one class: a subject, and a consumer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Lane {
    /// Who may do them.
    pub pool: Pool,
    /// How urgent they are.
    pub class: Class,
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.archive, self.group)
    }
}

/// As the end of a subject: `archive.group.class`.
impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = match self.class {
            Class::Reader => "reader",
            Class::Restore => "restore",
            Class::Remove => "remove",
            Class::Archive => "archive",
        };
        write!(f, "{}.{class}", self.pool)
    }
}

/// Something to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Work {
    /// Of the agent that wants it done; not 0.
    pub epoch: u64,
    /// Which publication of the action this is.
    pub serial: u32,
    /// Where in the stream it is.
    pub lane: Lane,
    /// What to do. `task.id` is unique within the epoch.
    pub task: Task,
}

impl Work {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let class = match self.lane.class {
            Class::Reader => wire::Class::Reader,
            Class::Restore => wire::Class::Restore,
            Class::Remove => wire::Class::Remove,
            Class::Archive => wire::Class::Archive,
        };
        let item: pdm::ActionItem = Instruction::Run(self.task.clone()).into();
        let Pool { archive, group } = &self.lane.pool;
        let work = wire::Work {
            epoch: self.epoch,
            serial: self.serial,
            archive: *archive,
            group: group.as_str().to_owned(),
            class: class.into(),
            item: Some(item),
        };
        work.encode_to_vec()
    }

    /// From bytes.
    ///
    /// # Errors
    /// They are no work: nobody can do it.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let work: wire::Work = decode(bytes)?;
        let class = match wire::Class::try_from(work.class) {
            Ok(wire::Class::Reader) => Class::Reader,
            Ok(wire::Class::Restore) => Class::Restore,
            Ok(wire::Class::Remove) => Class::Remove,
            Ok(wire::Class::Archive) => Class::Archive,
            Ok(wire::Class::Unspecified) | Err(_) => return Err(MessageError::Field("class")),
        };
        sense(work.epoch > 0, "epoch")?;
        let group = Group::new(&work.group).ok_or(MessageError::Field("group"))?;
        let item = work.item.ok_or(MessageError::Field("item"))?;
        let Instruction::Run(task) = item.try_into()? else {
            return Err(MessageError::Field("item"));
        };
        sense(task.id.0 > 0, "id")?;
        let pool = Pool { archive: work.archive, group };
        Ok(Self { epoch: epoch(work.epoch)?, serial: work.serial, lane: Lane { pool, class }, task })
    }
}
