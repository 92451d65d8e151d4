//! One file moved to other OSTs: a copy, and a swap of layouts under the lease that proves the copy.

use super::plan::Move;
use crate::guarded::{copy, look, mirrors};
use crate::outcome::{Outcome, Trouble};
use crate::work::Work;
use model::{HsmFlags, HsmState};
use std::os::fd::AsFd;
use std::path::Path;
use sys::lustre::{Component, Layout, state};

/// A file that can be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its only component.
    component: Component,
    /// Bytes on OSTs.
    pub bytes: u64,
    /// Whether the archive has it: it has to be archived again then, before Lustre releases it.
    pub is_archived: bool,
}

impl Candidate {
    /// The OSTs it is on, a stripe on each.
    #[must_use]
    pub fn osts(&self) -> &[u32] {
        &self.component.osts
    }

    /// The pool it was made in, empty for none.
    #[must_use]
    pub fn pool(&self) -> &str {
        &self.component.pool
    }
}

/// Whether the file can be moved: one with a single, plain layout that is wholly here.
pub fn candidate(work: &Work, path: &Path) -> Result<Result<Candidate, Outcome>, Trouble> {
    let seen = match look(work, path)? {
        Ok(seen) => seen,
        Err(outcome) => return Ok(Err(outcome)),
    };
    if seen.is_mirrored() {
        return Ok(Err(Outcome::Unsuited("has mirrors")));
    }
    let mut components = seen.mirrors.into_iter().flat_map(|mirror| mirror.components);
    let (Some(component), None) = (components.next(), components.next()) else {
        return Ok(Err(Outcome::Unsuited("has a layout of several components")));
    };
    let hsm = state(work.library(), path).map_err(Trouble::io("read the HSM state of", path))?;
    let is_archived = hsm.flags.contains(HsmFlags::EXISTS);
    if is_archived && !(HsmState { flags: hsm.flags, ..HsmState::default() }).is_clean_copy() {
        return Ok(Err(Outcome::Unsuited("is not archived as it is: archive it first")));
    }
    Ok(Ok(Candidate { component, bytes: seen.stamp.blocks.saturating_mul(512), is_archived }))
}

/// Moves one of the file's stripes as planned, by copying all of it: its layout is as it was otherwise.
pub fn migrate(work: &Work, path: &Path, file: &Candidate, planned: Move) -> Result<Outcome, Trouble> {
    if work.is_dry() {
        return Ok(Outcome::Would { bytes: file.bytes });
    }
    let layout = layout(work, &file.component, planned).map_err(Trouble::io("make a layout for", path))?;
    work.try_until_free(path, || {
        let copy = copy(work, path, &layout)?;
        let now = mirrors(work, copy.lease.as_fd(), path)?;
        if !now.iter().flat_map(|mirror| &mirror.components).eq([&file.component]) {
            // Somebody else has given it another layout.
            return Ok(Outcome::Unsuited("has got another layout meanwhile"));
        }
        copy.take_its_place(work, path)
    })
}

fn layout(work: &Work, present: &Component, planned: Move) -> std::io::Result<Layout> {
    let mut layout = Layout::new(work.library())?;
    layout.set_stripe_count(u32::try_from(present.osts.len()).unwrap_or(u32::MAX))?;
    layout.set_stripe_size(present.stripe_size)?;
    if !present.pool.is_empty() {
        layout.set_pool(&present.pool)?;
    }
    for (stripe, ost) in (0..).zip(&present.osts) {
        let is_moved = usize::try_from(stripe).is_ok_and(|stripe| stripe == planned.stripe);
        layout.set_ost(stripe, if is_moved { planned.to } else { *ost })?;
    }
    Ok(layout)
}
