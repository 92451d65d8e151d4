//! Content that goes from front to back, a step at a time: within the rate that is allowed, and no further once the run is to end.

use super::{Run, Trouble};
use objects::plain::{Content, Found, Plain};
use std::ops::ControlFlow;
use std::path::PathBuf;
use transfer::{Monitor as _, TransferError};

/// Read, written and compared at a time.
pub(super) const STEP: usize = 1 << 20;
/// What a request that names a version says when that is no more.
const EEXIST: i32 = 17;

/// One version of an object, to be read from front to back.
pub(super) struct Reading<'m> {
    content: Content<'m>,
    shown: PathBuf,
}

impl<'m> Reading<'m> {
    pub(super) fn begin(run: &'m Run<'_>, plain: &Plain, key: &str, found: &Found) -> Result<Self, Trouble> {
        Ok(Self { content: plain.read(key, found, run)?, shown: plain.shown(key) })
    }

    /// Fills the buffer, but at the end. [`Trouble::Changed`] when the version is no more.
    pub(super) fn read(&self, buffer: &mut [u8], at: u64) -> Result<usize, Trouble> {
        match self.content.read(buffer, at).map_err(TransferError::io("read", &self.shown)) {
            Err(TransferError::Service { errno: EEXIST, .. } | TransferError::Missing { .. }) => Err(Trouble::Changed),
            read => Ok(read?),
        }
    }
}

impl Run<'_> {
    /// Has each step of so many bytes done, by a buffer of the step's length and where it begins, until there are no more or one of them breaks.
    pub(super) fn steps<T>(
        &self,
        bytes: u64,
        mut step: impl FnMut(&mut [u8], u64) -> Result<ControlFlow<T>, Trouble>,
    ) -> Result<Option<T>, Trouble> {
        let mut buffer = vec![0; usize::try_from(bytes).unwrap_or(STEP).min(STEP)];
        let mut at = 0;
        while at < bytes {
            if self.cancelled() {
                return Err(Trouble::Stopped);
            }
            let room = usize::try_from(bytes - at).unwrap_or(STEP).min(STEP);
            if let ControlFlow::Break(end) = step(buffer.get_mut(..room).unwrap_or_default(), at)? {
                return Ok(Some(end));
            }
            self.limiter.spend(room as u64);
            at += room as u64;
        }
        Ok(None)
    }

    /// Moves so many bytes. What turns out to be shorter has changed.
    pub(super) fn pour(
        &self,
        bytes: u64,
        mut read: impl FnMut(&mut [u8], u64) -> Result<usize, Trouble>,
        mut write: impl FnMut(&[u8], u64) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        let poured = self.steps::<()>(bytes, |step, at| {
            if read(step, at)? < step.len() {
                return Err(Trouble::Changed);
            }
            write(step, at)?;
            self.tally.moved(step.len() as u64);
            Ok(ControlFlow::Continue(()))
        });
        poured.map(drop)
    }

    /// Where two that have so many bytes differ first, to within a step; `None`: nowhere.
    pub(super) fn difference(
        &self,
        bytes: u64,
        mut one: impl FnMut(&mut [u8], u64) -> Result<usize, Trouble>,
        mut other: impl FnMut(&mut [u8], u64) -> Result<usize, Trouble>,
    ) -> Result<Option<u64>, Trouble> {
        let mut beside = vec![0; usize::try_from(bytes).unwrap_or(STEP).min(STEP)];
        self.steps(bytes, |step, at| {
            let there = beside.get_mut(..step.len()).unwrap_or_default();
            let (here, far) = (one(step, at)?, other(there, at)?);
            let is_whole = here == step.len() && far == here;
            Ok(if is_whole && step == there { ControlFlow::Continue(()) } else { ControlFlow::Break(at) })
        })
    }
}
