//! A mirror removed.

use crate::guarded::{Access, directory_of, lease, look, mdt_of, mirrors, open};
use crate::outcome::{Outcome, Stop, Trouble};
use crate::shape::Mirror;
use crate::work::Work;
use std::os::fd::AsFd;
use std::path::Path;
use sys::lustre::{LeaseMode, create_volatile_empty};

/// Which mirror of a file goes.
#[derive(Debug, Clone)]
pub enum Which {
    /// The one with this id.
    Id(u32),
    /// The one that lies in this pool, wholly.
    Pool {
        /// Its name.
        name: String,
        /// Its OSTs.
        osts: Vec<u32>,
    },
}

impl Which {
    /// The id of the mirror that is meant.
    fn find(&self, mirrors: &[Mirror]) -> Result<u32, Outcome> {
        let is_meant = |mirror: &&Mirror| match self {
            Self::Id(id) => mirror.id == *id,
            Self::Pool { name, osts } => mirror.is_on(osts, Some(name)),
        };
        let mut meant = mirrors.iter().filter(is_meant);
        let Some(victim) = meant.next() else { return Err(Outcome::Already("has no such mirror")) };
        if meant.next().is_some() {
            return Err(Outcome::Unsuited("has several mirrors there: name one by its id"));
        }
        if mirrors.iter().any(|other| other.id != victim.id && other.in_sync()) {
            Ok(victim.id)
        } else if mirrors.len() == 1 {
            Err(Outcome::Unsuited("has one mirror only, which stays"))
        } else {
            Err(Outcome::Unsuited("has no other mirror that is in sync: resync it first"))
        }
    }
}

/// Removes one mirror, if another one has all the content.
pub fn split(work: &Work, path: &Path, which: &Which) -> Result<Outcome, Trouble> {
    let seen = match look(work, path)? {
        Ok(seen) => seen,
        Err(outcome) => return Ok(outcome),
    };
    if let Err(outcome) = which.find(&seen.mirrors) {
        return Ok(outcome);
    }
    if work.is_dry() {
        return Ok(Outcome::Would { bytes: 0 });
    }
    // Before the lease: Lustre's library opens the file for this, which would break it.
    let mdt = mdt_of(work, open(path, Access::Read)?, path)?;
    work.try_until_free(path, || {
        let lease = lease(work, path, Access::Write, LeaseMode::Write)?;
        // What was seen before the lease may have changed.
        let mirror = match which.find(&mirrors(work, lease.as_fd(), path)?) {
            Ok(mirror) => mirror,
            Err(outcome) => return Ok(outcome),
        };
        // What goes goes with this file when it is closed.
        let rest = create_volatile_empty(work.library(), directory_of(path), mdt)
            .map_err(Trouble::io("make a file without a name in the directory of", path))?;
        lease.split(&rest, mirror).map_err(Stop::unless_busy("remove a mirror of", path))?;
        Ok(Outcome::Done { bytes: 0 })
    })
}
