//! Room for actions in flight, as values that give it back when dropped.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A fixed number of places for actions between the source and its results. Bounds the agent's memory (P6).
#[derive(Clone, Debug)]
pub struct Slots {
    semaphore: Arc<Semaphore>,
    total: usize,
}

/// Places taken from a [`Slots`]; dropping gives them back.
#[derive(Debug)]
pub struct Slot(OwnedSemaphorePermit);

impl Slots {
    /// `total` places, at least one.
    #[must_use]
    pub fn new(total: usize) -> Self {
        let total = total.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self { semaphore: Arc::new(Semaphore::new(total)), total }
    }

    /// Waits for at least one free place and takes all that are free, `max` at the most. Always `Some`: nothing closes it.
    pub async fn acquire(&self, max: usize) -> Option<Slot> {
        let mut first = Arc::clone(&self.semaphore).acquire_owned().await.ok()?;
        let more = self.semaphore.available_permits().min(max.saturating_sub(1));
        if let Ok(rest) = Arc::clone(&self.semaphore).try_acquire_many_owned(u32::try_from(more).unwrap_or(0)) {
            first.merge(rest);
        }
        Some(Slot(first))
    }

    /// Waits until no place is taken.
    pub async fn all_free(&self) {
        let all = u32::try_from(self.total).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        drop(self.semaphore.acquire_many(all).await);
    }

    /// How many places are taken.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.total.saturating_sub(self.semaphore.available_permits())
    }

    /// How many places there are.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }
}

impl Slot {
    /// How many places these are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.num_permits()
    }

    /// Splits one place off. `None` when none is left.
    pub fn split_one(&mut self) -> Option<Self> {
        self.0.split(1).map(Self)
    }

    /// Joins places of the same [`Slots`], so that they are given back in one step.
    pub fn merge(&mut self, other: Self) {
        self.0.merge(other.0);
    }
}

#[cfg(test)]
mod tests {
    use super::Slots;

    #[tokio::test]
    async fn places_come_back_whatever_becomes_of_them() {
        let slots = Slots::new(5);
        let mut batch = slots.acquire(4).await.unwrap();
        assert_eq!((batch.count(), slots.in_use()), (4, 4));
        let mut one = batch.split_one().unwrap();
        drop(batch);
        assert_eq!(slots.in_use(), 1);
        let rest = slots.acquire(100).await.unwrap();
        assert_eq!((rest.count(), slots.in_use()), (4, 5));
        one.merge(rest);
        drop(one);
        assert_eq!(slots.in_use(), 0);
        slots.all_free().await;
    }
}
