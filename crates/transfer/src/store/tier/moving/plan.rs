//! From which root to which one. Pure: what was moved is counted, and no filesystem is asked.

use std::path::PathBuf;

/// A root, in bytes.
#[derive(Debug, Clone)]
pub(super) struct Gauge {
    pub(super) path: PathBuf,
    pub(super) total: u64,
    pub(super) used: u64,
    pub(super) reserve: u64,
    /// The filesystem that it is on: between two roots of one, nothing is gained by moving.
    pub(super) device: u64,
    /// Whether it takes anything.
    pub(super) takes: bool,
}

impl Gauge {
    #[expect(clippy::cast_precision_loss, reason = "a level")]
    pub(super) fn fraction(&self) -> f64 {
        if self.total == 0 { 1.0 } else { self.used as f64 / self.total as f64 }
    }

    fn has_room_for(&self, bytes: u64) -> bool {
        self.takes && self.total.saturating_sub(self.used).saturating_sub(self.reserve) >= bytes
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) gauges: Vec<Gauge>,
    within: f64,
    /// The root that is emptied.
    drain: Option<usize>,
    /// Roots of which nothing (more) can be moved.
    exhausted: Vec<usize>,
}

impl Plan {
    pub(super) fn new(gauges: Vec<Gauge>, within: f64, drain: Option<usize>) -> Self {
        Self { gauges, within, drain, exhausted: Vec::new() }
    }

    fn mean(&self) -> f64 {
        let (used, total) = self.in_use().fold((0.0, 0.0), |(used, total), (_, gauge)| {
            #[expect(clippy::cast_precision_loss, reason = "a level")]
            let size = gauge.total as f64;
            (used + gauge.fraction() * size, total + size)
        });
        if total > 0.0 { used / total } else { 0.0 }
    }

    fn in_use(&self) -> impl Iterator<Item = (usize, &Gauge)> {
        self.gauges.iter().enumerate().filter(|(_, gauge)| gauge.takes)
    }

    /// Whether each root is about as full as all together.
    pub(super) fn is_balanced(&self) -> bool {
        let mean = self.mean();
        self.in_use().all(|(_, gauge)| (gauge.fraction() - mean).abs() <= self.within)
    }

    /// The root that is to lose something next.
    pub(super) fn source(&self) -> Option<usize> {
        if self.drain.is_some() {
            return self.drain.filter(|root| !self.exhausted.contains(root));
        }
        if self.is_balanced() {
            return None;
        }
        let mean = self.mean();
        let above = self.in_use().filter(|(n, gauge)| gauge.fraction() > mean && !self.exhausted.contains(n));
        above.max_by(|(_, a), (_, b)| a.fraction().total_cmp(&b.fraction())).map(|(n, _)| n)
    }

    /// Nothing more can be moved from this one.
    pub(super) fn exhaust(&mut self, root: usize) {
        self.exhausted.push(root);
    }

    /// Whether more is to be moved from this root.
    pub(super) fn goes_on(&self, source: usize) -> bool {
        self.drain == Some(source)
            || !self.is_balanced() && self.gauges.get(source).is_some_and(|gauge| gauge.fraction() > self.mean())
    }

    /// Where so many bytes from this root go: to the emptiest one, unless that would become the fuller of the two.
    pub(super) fn destination(&self, source: usize, bytes: u64) -> Option<usize> {
        let from = self.gauges.get(source)?;
        let is_drain = self.drain == Some(source);
        let suits = |(n, gauge): &(usize, &Gauge)| {
            *n != source
                && gauge.has_room_for(bytes)
                && (is_drain || gauge.device != from.device && gauge.with(bytes) <= from.fraction())
        };
        self.in_use().filter(suits).min_by(|(_, a), (_, b)| a.fraction().total_cmp(&b.fraction())).map(|(n, _)| n)
    }

    /// These bytes were moved.
    pub(super) fn moved(&mut self, from: usize, to: usize, bytes: u64) {
        self.gone(from, bytes);
        if let Some(gauge) = self.gauges.get_mut(to) {
            gauge.used = gauge.used.saturating_add(bytes);
        }
    }

    /// These bytes were removed, or came back from where they were to go.
    pub(super) fn gone(&mut self, from: usize, bytes: u64) {
        if let Some(gauge) = self.gauges.get_mut(from) {
            gauge.used = gauge.used.saturating_sub(bytes);
        }
    }
}

impl Gauge {
    #[expect(clippy::cast_precision_loss, reason = "a level")]
    fn with(&self, bytes: u64) -> f64 {
        if self.total == 0 { 1.0 } else { self.used.saturating_add(bytes) as f64 / self.total as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauges(used: &[u64]) -> Vec<Gauge> {
        let gauge = |(n, used): (usize, &u64)| Gauge {
            path: format!("/{n}").into(),
            total: 1000,
            used: *used,
            reserve: 20,
            device: n as u64,
            takes: true,
        };
        used.iter().enumerate().map(gauge).collect()
    }

    fn run(plan: &mut Plan, bytes: u64) -> usize {
        let mut moves = 0;
        while let Some(source) = plan.source() {
            while plan.goes_on(source)
                && let Some(to) = plan.destination(source, bytes)
            {
                plan.moved(source, to, bytes);
                moves += 1;
            }
            plan.exhaust(source);
        }
        moves
    }

    #[test]
    fn fuller_roots_give_to_emptier_ones_until_all_are_about_equal() {
        for used in [[900, 100, 200], [500, 500, 0], [980, 980, 100], [300, 310, 290]] {
            let mut plan = Plan::new(gauges(&used), 0.05, None);
            let moves = run(&mut plan, 7);
            assert!(plan.is_balanced(), "{used:?}: {:?}", plan.gauges);
            assert!(moves <= 200);
            assert_eq!(plan.gauges.iter().map(|gauge| gauge.used).sum::<u64>(), used.iter().sum::<u64>());
        }
    }

    #[test]
    fn a_file_that_would_only_turn_it_round_stays() {
        let mut plan = Plan::new(gauges(&[600, 100]), 0.05, None);
        assert_eq!(run(&mut plan, 600), 0);
        let mut plan = Plan::new(gauges(&[600, 100]), 0.05, None);
        plan.gauges[1].device = 0;
        assert_eq!(run(&mut plan, 1), 0, "on one filesystem");
    }

    #[test]
    fn a_root_is_emptied_as_far_as_the_others_have_room() {
        let mut all = gauges(&[500, 700, 900]);
        all[0].takes = false;
        let mut plan = Plan::new(all, 0.05, Some(0));
        run(&mut plan, 10);
        assert_eq!(plan.gauges.iter().map(|gauge| gauge.used).collect::<Vec<_>>(), [140, 980, 980]);
    }
}
