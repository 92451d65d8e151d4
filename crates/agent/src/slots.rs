//! Room for actions in flight, as values that give it back when dropped.

use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A number of places for actions between the source and its results. Bounds the agent's memory (P6).
#[derive(Clone, Debug)]
pub struct Slots {
    semaphore: Arc<Semaphore>,
    places: Arc<Mutex<Places>>,
}

#[derive(Debug)]
struct Places {
    /// How many there are to be.
    wanted: usize,
    /// How many there are: more while places that are taken have not come back since there are to be fewer.
    existing: usize,
}

/// Places taken from a [`Slots`]; dropping gives them back.
#[derive(Debug)]
pub struct Slot(OwnedSemaphorePermit);

impl Slots {
    /// `total` places, at least one.
    #[must_use]
    pub fn new(total: usize) -> Self {
        let total = Self::within_bounds(total);
        let places = Places { wanted: total, existing: total };
        Self { semaphore: Arc::new(Semaphore::new(total)), places: Arc::new(Mutex::new(places)) }
    }

    fn within_bounds(total: usize) -> usize {
        total.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize))
    }

    /// Changes the number of places, to at least one. Places that are taken stay so until they come back.
    pub fn resize(&self, total: usize) {
        let mut places = self.places.lock();
        places.wanted = Self::within_bounds(total);
        let more = places.wanted.saturating_sub(places.existing);
        self.semaphore.add_permits(more);
        let fewer = self.semaphore.forget_permits(places.existing.saturating_sub(places.wanted));
        places.existing = places.existing + more - fewer;
    }

    /// Waits for at least one free place and takes all that are free, `max` at the most. Always `Some`: nothing closes it.
    pub async fn acquire(&self, max: usize) -> Option<Slot> {
        let mut first = loop {
            let first = Arc::clone(&self.semaphore).acquire_owned().await.ok()?;
            let mut places = self.places.lock();
            if places.existing <= places.wanted {
                break first;
            }
            // There are too many: this one is not given out again.
            first.forget();
            places.existing -= 1;
        };
        let more = self.semaphore.available_permits().min(max.saturating_sub(1));
        if let Ok(rest) = Arc::clone(&self.semaphore).try_acquire_many_owned(u32::try_from(more).unwrap_or(0)) {
            first.merge(rest);
        }
        Some(Slot(first))
    }

    /// Waits until no place is taken. Nobody may be taking places, or changing their number, meanwhile.
    pub async fn all_free(&self) {
        let all = u32::try_from(self.places.lock().existing).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        drop(self.semaphore.acquire_many(all).await);
    }

    /// How many places are taken.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.places.lock().existing.saturating_sub(self.semaphore.available_permits())
    }

    /// How many places there are to be.
    #[must_use]
    pub fn total(&self) -> usize {
        self.places.lock().wanted
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
    #[tokio::test]
    async fn the_number_of_places_changes_with_some_of_them_taken() {
        let slots = Slots::new(5);
        let taken = slots.acquire(4).await.unwrap();
        slots.resize(2);
        assert_eq!((slots.total(), slots.in_use()), (2, 4));
        drop(taken);
        let two = slots.acquire(9).await.unwrap();
        assert_eq!((two.count(), slots.in_use()), (2, 2));
        slots.resize(6);
        let rest = slots.acquire(9).await.unwrap();
        assert_eq!((rest.count(), slots.in_use(), slots.total()), (4, 6, 6));
        slots.resize(0);
        drop((two, rest));
        let one = slots.acquire(9).await.unwrap();
        assert_eq!((one.count(), slots.total()), (1, 1));
        drop(one);
        slots.all_free().await;
        assert_eq!(slots.in_use(), 0);
    }
}
