//! What to move from where to where: numbers alone.
//!
//! Each OST has a band around the mean level. A file is moved only when that brings an OST closer to its band, and never takes one out
//! of it; so each move lessens what is outside of the bands, no OST is ever filled beyond its band, and planning ends.

use std::cmp::Ordering;

/// How full an OST is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Its index.
    pub ost: u32,
    /// Bytes in use.
    pub used: u64,
    /// Bytes that are in use or that users can have.
    pub capacity: u64,
    /// Whether it takes new objects. Files can be moved away from it in any case.
    pub is_open: bool,
}

impl Level {
    /// In parts of 1.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        if self.capacity == 0 { 0.0 } else { self.used as f64 / self.capacity as f64 }
    }
}

/// A part of a file: what is on one OST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stripe {
    /// The OST's index.
    pub ost: u32,
    /// How many bytes are there.
    pub bytes: u64,
}

/// A part of a file that goes to another OST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Which of the file's stripes.
    pub stripe: usize,
    /// Where it is.
    pub from: u32,
    /// Where it goes.
    pub to: u32,
    /// How many bytes that are.
    pub bytes: u64,
}

/// See the module. The levels in it are those when all planned moves are done.
#[derive(Debug, Clone)]
pub struct Plan {
    places: Vec<Place>,
}

/// An OST and its band, in bytes.
#[derive(Debug, Clone, Copy)]
struct Place {
    level: Level,
    low: u64,
    mean: u64,
    high: u64,
}

impl Plan {
    /// To bring all within `distance` (a part of 1) of the mean of all.
    #[must_use]
    pub fn new(levels: &[Level], distance: f64) -> Self {
        let sum = |of: fn(&Level) -> u64| levels.iter().map(|level| u128::from(of(level))).sum::<u128>() as f64;
        let (used, capacity) = (sum(|level| level.used), sum(|level| level.capacity));
        let mean = if capacity > 0.0 { used / capacity } else { 0.0 };
        let places = levels.iter().map(|level| {
            let bytes = |part: f64| (part.clamp(0.0, 1.0) * level.capacity as f64) as u64;
            Place { level: *level, low: bytes(mean - distance), mean: bytes(mean), high: bytes(mean + distance) }
        });
        Self { places: places.collect() }
    }

    /// The levels when all planned moves are done.
    #[must_use]
    pub fn levels(&self) -> Vec<Level> {
        self.places.iter().map(|place| place.level).collect()
    }

    /// Whether all are within the distance then.
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        self.places.iter().all(|place| (place.low..=place.high).contains(&place.level.used))
    }

    /// What of a file is to be moved, which may only lie on those OSTs that `allowed` says. The move counts as done from then on.
    pub fn offer(&mut self, stripes: &[Stripe], allowed: impl Fn(u32) -> bool) -> Option<Move> {
        let is_on = |ost| stripes.iter().any(|stripe| stripe.ost == ost);
        let from = stripes.iter().enumerate().filter(|(_, stripe)| stripe.bytes > 0);
        let from = from.filter_map(|(number, stripe)| Some((number, stripe.bytes, self.find(stripe.ost)?)));
        let (stripe, bytes, from) = from.max_by(|(_, _, one), (_, _, other)| fuller(one, other))?;
        let elsewhere = |place: &&Place| place.level.is_open && !is_on(place.level.ost) && allowed(place.level.ost);
        let to = self.places.iter().filter(elsewhere).min_by(|one, other| fuller(one, other)).copied()?;
        if !helps(&from, &to, bytes) {
            return None;
        }
        let planned = Move { stripe, from: from.level.ost, to: to.level.ost, bytes };
        self.apply(planned);
        Some(planned)
    }

    /// A planned move was not made.
    pub fn undo(&mut self, planned: Move) {
        self.apply(Move { from: planned.to, to: planned.from, ..planned });
    }

    /// An OST was looked at once more. Others write to it, too: what it has beyond what was planned counts. What it has less is on its way.
    pub fn heard(&mut self, now: Level) {
        for place in self.places.iter_mut().filter(|place| place.level.ost == now.ost) {
            place.level.used = place.level.used.max(now.used);
            place.level.is_open &= now.is_open;
        }
    }

    fn apply(&mut self, Move { from, to, bytes, .. }: Move) {
        for place in &mut self.places {
            let used = &mut place.level.used;
            if place.level.ost == from {
                *used = used.saturating_sub(bytes);
            } else if place.level.ost == to {
                *used = used.saturating_add(bytes);
            }
        }
    }

    fn find(&self, ost: u32) -> Option<Place> {
        self.places.iter().find(|place| place.level.ost == ost).copied()
    }
}

fn fuller(one: &Place, other: &Place) -> Ordering {
    one.level.fraction().total_cmp(&other.level.fraction()).then(other.level.ost.cmp(&one.level.ost))
}

/// Whether one of them is outside of its band, and neither is taken out of it on the other side.
fn helps(from: &Place, to: &Place, bytes: u64) -> bool {
    let (source, target) = (from.level.used, to.level.used);
    let wanted = source > from.high || target < to.low;
    let after = (source.checked_sub(bytes), target.checked_add(bytes));
    wanted
        && source > from.mean
        && target < to.mean
        && after.0.is_some_and(|used| used >= from.low)
        && after.1.is_some_and(|used| used <= to.high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn level(ost: u32, used: u64, capacity: u64) -> Level {
        Level { ost, used, capacity, is_open: true }
    }

    /// In equal parts.
    fn on(osts: &[u32], bytes: u64) -> Vec<Stripe> {
        let part = bytes.div_ceil((osts.len() as u64).max(1));
        osts.iter().map(|ost| Stripe { ost: *ost, bytes: part }).collect()
    }

    /// What is outside of the bands.
    fn outside(plan: &Plan) -> u64 {
        let of = |place: &Place| {
            let used = place.level.used;
            used.saturating_sub(place.high) + place.low.saturating_sub(used)
        };
        plan.places.iter().map(of).sum()
    }

    #[test]
    fn what_is_within_the_distance_is_left() {
        let mut plan = Plan::new(&[level(0, 52, 100), level(1, 48, 100)], 0.05);
        assert!(plan.is_balanced());
        assert_eq!(plan.offer(&on(&[0], 1), |_| true), None);
    }

    #[test]
    fn files_go_from_the_fullest_to_the_emptiest() {
        let mut plan = Plan::new(&[level(0, 90, 100), level(1, 50, 100), level(2, 10, 100)], 0.05);
        assert_eq!(plan.offer(&on(&[1], 5), |_| true), None, "it is at the mean");
        let planned = Move { stripe: 0, from: 0, to: 2, bytes: 30 };
        assert_eq!(plan.offer(&on(&[0], 30), |_| true), Some(planned));
        assert_eq!(plan.offer(&on(&[0], 30), |_| true), None, "it would be too much");
        plan.undo(planned);
        assert_eq!(plan.offer(&on(&[0], 30), |ost| ost != 2), None, "the only place left is at the mean");
        assert_eq!(plan.offer(&on(&[1, 0], 60), |_| true), Some(Move { stripe: 1, ..planned }));
        assert_eq!(plan.offer(&on(&[0], 10), |_| true).map(|planned| planned.to), Some(2));
        assert!(plan.is_balanced());
    }

    #[test]
    fn a_new_ost_is_filled_though_none_is_too_full() {
        let mut levels: Vec<_> = (0..10).map(|ost| level(ost, 5200, 10_000)).collect();
        levels.push(level(10, 0, 10_000));
        let mut plan = Plan::new(&levels, 0.05);
        let moved: u64 =
            (0..4000).filter_map(|i| plan.offer(&on(&[i % 10], 10), |_| true)).map(|planned| planned.bytes).sum();
        assert!(plan.is_balanced(), "{plan:?}");
        let needed = plan.places[10].low;
        assert!((needed..needed + 10).contains(&moved), "{moved} for {needed}");
    }

    #[test]
    fn what_is_full_gives_and_takes_nothing() {
        let full = |ost, used| Level { is_open: false, ..level(ost, used, 100) };
        let mut plan = Plan::new(&[full(0, 100), full(1, 0), level(2, 20, 100)], 0.05);
        assert_eq!(plan.offer(&on(&[2], 1), |_| true), None);
        let planned = Move { stripe: 0, from: 0, to: 2, bytes: 20 };
        assert_eq!(plan.offer(&on(&[0], 20), |_| true), Some(planned));
    }

    #[test]
    fn a_stripe_without_data_is_not_moved() {
        let mut plan = Plan::new(&[level(0, 90, 100), level(1, 50, 100), level(2, 10, 100)], 0.05);
        let stripes = [Stripe { ost: 1, bytes: 8 }, Stripe { ost: 0, bytes: 0 }];
        assert_eq!(plan.offer(&stripes, |_| true), None, "what there is of it is on an OST at the mean");
        let planned = Move { stripe: 1, from: 0, to: 2, bytes: 8 };
        assert_eq!(plan.offer(&[Stripe { ost: 1, bytes: 0 }, Stripe { ost: 0, bytes: 8 }], |_| true), Some(planned));
    }

    #[test]
    fn what_others_write_to_an_ost_counts() {
        let levels = [level(0, 90, 100), level(1, 10, 100), level(2, 20, 100)];
        let mut plan = Plan::new(&levels, 0.05);
        let planned = plan.offer(&on(&[0], 5), |_| true).unwrap();
        assert_eq!(planned.to, 1);
        plan.undo(planned);
        plan.heard(level(1, 60, 100));
        assert_eq!(plan.offer(&on(&[0], 5), |_| true).map(|planned| planned.to), Some(2));
        plan.heard(level(2, 5, 100));
        assert_eq!(plan.levels()[2].used, 25, "what was planned is on its way");
        plan.heard(Level { is_open: false, ..level(2, 5, 100) });
        assert_eq!(plan.offer(&on(&[0], 5), |_| true), None);
    }

    proptest! {
        /// Whatever files come: no OST is filled beyond its band or emptied below it, each move lessens what is outside, bytes are kept, what is
        /// offered again and again comes to an end, and nothing is moved once all are within.
        #[test]
        fn moves_lead_into_the_bands_and_never_out_of_them(
            used in prop::collection::vec((0..1000_u64, 1000..2000_u64), 1..8),
            distance in 0.0..0.3,
            files in prop::collection::vec((prop::collection::hash_set(0..9_u32, 1..4), 0..400_u64), 1..200),
        ) {
            let levels: Vec<_> =
                (0..).zip(&used).map(|(ost, (used, capacity))| level(ost, *used, *capacity)).collect();
            let mut plan = Plan::new(&levels, distance);
            let total: u64 = used.iter().map(|(used, _)| used).sum();
            for _ in 0..3 {
                for (osts, bytes) in &files {
                    let osts: Vec<_> = osts.iter().copied().collect();
                    let (before, balanced) = (plan.clone(), plan.is_balanced());
                    let Some(planned) = plan.offer(&on(&osts, *bytes), |ost| ost != 7) else { continue };
                    prop_assert!(!balanced && planned.to != 7 && !osts.contains(&planned.to));
                    prop_assert_eq!(osts[planned.stripe], planned.from);
                    prop_assert!(outside(&plan) < outside(&before), "{:?}", planned);
                    let find = |ost| plan.find(ost).unwrap();
                    prop_assert!(find(planned.to).level.used <= find(planned.to).high);
                    prop_assert!(find(planned.from).level.used >= find(planned.from).low);
                    prop_assert_eq!(plan.levels().iter().map(|level| level.used).sum::<u64>(), total);
                    let mut undone = plan.clone();
                    undone.undo(planned);
                    prop_assert_eq!(undone.levels(), before.levels());
                }
            }
        }

        #[test]
        fn no_numbers_overflow(used: u64, capacity: u64, bytes: u64, distance in 0.0..1.0) {
            let levels = [level(0, used, capacity), level(1, capacity, used), level(2, 0, 0), level(3, u64::MAX, u64::MAX)];
            let mut plan = Plan::new(&levels, distance);
            for osts in [&[0][..], &[3], &[1, 0], &[9], &[]] {
                if let Some(planned) = plan.offer(&on(osts, bytes), |_| true) {
                    plan.undo(planned);
                }
            }
        }
    }
}
