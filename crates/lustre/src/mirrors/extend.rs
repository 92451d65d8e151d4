//! A further mirror.

use crate::guarded::{ENCRYPTED, copy, look};
use crate::outcome::{Outcome, Stop, Trouble};
use crate::work::Work;
use std::io;
use std::path::Path;
use sys::lustre::{Layout, Library};

/// Where a new mirror's objects shall be.
#[derive(Debug, Clone, Default)]
pub struct Target {
    /// In this pool.
    pub pool: Option<String>,
    /// On these OSTs: those of the pool, or one for each stripe.
    pub osts: Vec<u32>,
    /// Over how many OSTs of the pool.
    pub stripe_count: Option<u32>,
    /// Bytes a stripe, a multiple of 64 KiB.
    pub stripe_size: Option<u64>,
    /// Also if the file has a mirror there.
    pub another: bool,
}

impl Target {
    fn layout(&self, library: &Library) -> io::Result<Layout> {
        let mut layout = Layout::new(library)?;
        if let Some(pool) = &self.pool {
            layout.set_pool(pool)?;
        }
        let stripes = if self.pool.is_some() { self.stripe_count } else { u32::try_from(self.osts.len()).ok() };
        if let Some(count) = stripes {
            layout.set_stripe_count(count)?;
        }
        if let Some(bytes) = self.stripe_size {
            layout.set_stripe_size(bytes)?;
        }
        if self.pool.is_none() {
            for (stripe, ost) in (0..).zip(&self.osts) {
                layout.set_ost(stripe, *ost)?;
            }
        }
        layout.set_composite()?;
        Ok(layout)
    }
}

/// Lustre allows no more mirrors of a file.
const MAX_MIRRORS: usize = 16;

/// Sees to it that the file has a mirror at `target`. Those it has stay.
pub fn extend(work: &Work, path: &Path, target: &Target) -> Result<Outcome, Trouble> {
    let seen = match look(work, path)? {
        Ok(seen) => seen,
        Err(outcome) => return Ok(outcome),
    };
    if !target.another
        && let Some(there) = seen.mirrors.iter().find(|mirror| mirror.is_on(&target.osts, target.pool.as_deref()))
    {
        return Ok(if there.in_sync() {
            Outcome::Already("has a mirror there")
        } else {
            Outcome::Unsuited("has a mirror there, which is stale: resync it")
        });
    }
    if seen.mirrors.len() >= MAX_MIRRORS {
        return Ok(Outcome::Unsuited("has as many mirrors as a file can have"));
    }
    if seen.is_encrypted {
        return Ok(Outcome::Unsuited(ENCRYPTED));
    }
    if work.is_dry() {
        return Ok(Outcome::Would { bytes: seen.stamp.size });
    }
    let layout = target.layout(work.library()).map_err(Trouble::io("make a layout for", path))?;
    work.try_until_free(path, || {
        let copy = copy(work, path, &layout)?;
        copy.lease.merge(&copy.file).map_err(Stop::unless_busy("add a mirror to", path))?;
        Ok(Outcome::Done { bytes: copy.bytes })
    })
}
