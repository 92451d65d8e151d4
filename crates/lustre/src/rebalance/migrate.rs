//! One file moved to other OSTs: a copy, and a swap of layouts under the lease that proves the copy.

use super::plan::{Move, Stripe};
use crate::guarded::{ENCRYPTED, copy, look, mirrors};
use crate::outcome::{Outcome, Stop, Trouble};
use crate::work::Work;
use model::{HsmFlags, HsmState};
use std::os::fd::AsFd;
use std::path::Path;
use sys::lustre::{Component, Layout, current_action, state};

/// A file that can be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its only component.
    component: Component,
    /// Its length.
    size: u64,
    /// Bytes on OSTs.
    pub bytes: u64,
    /// Whether the archive has it: it has to be archived again then, before Lustre releases it.
    pub is_archived: bool,
}

impl Candidate {
    /// Its stripes, in order.
    #[must_use]
    pub fn stripes(&self) -> Vec<Stripe> {
        let Self { component: Component { osts, stripe_size, .. }, size, bytes, .. } = self;
        parts(osts, *stripe_size, *size, *bytes)
    }

    /// The pool it was made in, empty for none.
    #[must_use]
    pub fn pool(&self) -> &str {
        &self.component.pool
    }
}

/// How `bytes` lie on `osts`, of a file of this size: those of a small file are all in the first stripe.
fn parts(osts: &[u32], stripe_size: u64, size: u64, bytes: u64) -> Vec<Stripe> {
    let (stripe_size, size) = (u128::from(stripe_size.max(1)), u128::from(size));
    let round = stripe_size * osts.len().max(1) as u128;
    let part = |(stripe, ost): (u128, &u32)| {
        let begun = (size % round).saturating_sub(stripe_size * stripe).min(stripe_size);
        let length = size / round * stripe_size + begun;
        // Holes are taken to be everywhere.
        let bytes = length * u128::from(bytes) / size.max(1);
        Stripe { ost: *ost, bytes: u64::try_from(bytes).unwrap_or(u64::MAX) }
    };
    (0..).zip(osts).map(part).collect()
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
    if seen.is_encrypted {
        return Ok(Err(Outcome::Unsuited(ENCRYPTED)));
    }
    let mut components = seen.mirrors.into_iter().flat_map(|mirror| mirror.components);
    let (Some(component), None) = (components.next(), components.next()) else {
        return Ok(Err(Outcome::Unsuited("has a layout of several components")));
    };
    let is_twice = |(at, ost)| component.osts.iter().skip(at + 1).any(|other| other == ost);
    if component.osts.iter().enumerate().any(is_twice) {
        return Ok(Err(Outcome::Unsuited("has several stripes on an OST")));
    }
    let hsm = state(work.library(), path).map_err(Trouble::io("read the HSM state of", path))?;
    let is_archived = hsm.flags.contains(HsmFlags::EXISTS);
    if is_archived && !(HsmState { flags: hsm.flags, ..HsmState::default() }).is_clean_copy() {
        return Ok(Err(Outcome::Unsuited("is not archived as it is: archive it first")));
    }
    let (size, bytes) = (seen.stamp.size, seen.stamp.blocks.saturating_mul(512));
    Ok(Ok(Candidate { component, size, bytes, is_archived }))
}

/// Moves one of the file's stripes as planned, by copying all of it: its layout is as it was otherwise.
pub fn migrate(work: &Work, path: &Path, file: &Candidate, planned: Move) -> Result<Outcome, Trouble> {
    if work.is_dry() {
        return Ok(Outcome::Would { bytes: file.bytes });
    }
    // The archive would have been for nothing: it fails when the file has other objects at its end.
    if current_action(work.library(), path).map_err(Trouble::io("find out what is done with", path))?.action.is_some() {
        return Ok(Outcome::Unsuited("is being archived, restored or removed"));
    }
    let layout = layout(work, &file.component, planned).map_err(Trouble::io("make a layout for", path))?;
    work.try_until_free(path, || {
        let copy = copy(work, path, &layout)?;
        let now = mirrors(work, copy.lease.as_fd(), path)?;
        if !now.iter().flat_map(|mirror| &mirror.components).eq([&file.component]) {
            // Somebody else has given it another layout.
            return Err(Stop::Unsuited("has got another layout meanwhile"));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_where_the_stripes_are() {
        let of = |stripes: u32, stripe_size, size, bytes| {
            let osts: Vec<_> = (0..stripes).collect();
            parts(&osts, stripe_size, size, bytes).iter().map(|stripe| stripe.bytes).collect::<Vec<_>>()
        };
        assert_eq!(of(4, 10, 7, 7), [7, 0, 0, 0]);
        assert_eq!(of(4, 10, 25, 25), [10, 10, 5, 0]);
        assert_eq!(of(2, 10, 45, 45), [25, 20]);
        assert_eq!(of(2, 10, 40, 20), [10, 10], "half of it is holes");
        assert_eq!(of(1, 0, 0, 0), [0]);
        assert_eq!(of(2, u64::MAX, u64::MAX, u64::MAX), [u64::MAX, 0]);
    }
}
