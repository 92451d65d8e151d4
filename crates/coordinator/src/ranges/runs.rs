//! Sets of chunks as runs: what is resident, what is in flight.

use std::collections::BTreeMap;
use std::ops::Range;

/// Chunks from the first to before the second.
pub(crate) type Run = Range<u64>;

/// A set of chunk numbers. Takes memory by the number of runs, not by the size of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs(BTreeMap<u64, u64>);

impl Runs {
    /// Adds a run, joining it with those that it touches.
    pub(crate) fn insert(&mut self, run: Run) {
        if run.is_empty() {
            return;
        }
        let Run { mut start, mut end } = run;
        if let Some((&before, &its_end)) = self.0.range(..=start).next_back()
            && its_end >= start
        {
            start = before;
            end = end.max(its_end);
        }
        while let Some((&next, &its_end)) = self.0.range(start..=end).next() {
            self.0.remove(&next);
            end = end.max(its_end);
        }
        self.0.insert(start, end);
    }

    /// Takes a run out.
    pub(crate) fn remove(&mut self, run: &Run) {
        if run.is_empty() {
            return;
        }
        let from =
            self.0.range(..=run.start).next_back().filter(|(_, end)| **end > run.start).map_or(run.start, |(s, _)| *s);
        let hit: Vec<(u64, u64)> = self.0.range(from..run.end).map(|(s, e)| (*s, *e)).collect();
        for (start, end) in hit {
            self.0.remove(&start);
            if start < run.start {
                self.0.insert(start, run.start);
            }
            if end > run.end {
                self.0.insert(run.end, end);
            }
        }
    }

    /// Adds a run; while there are more than `most` runs then, forgets others, shortest first.
    pub(crate) fn insert_bounded(&mut self, run: Run, most: usize) {
        let kept = run.start;
        self.insert(run);
        while self.0.len() > most {
            let others = self.0.iter().filter(|(start, end)| !(**start <= kept && kept < **end));
            let Some((&start, &end)) = others.min_by_key(|(start, end)| *end - *start) else { return };
            self.remove(&(start..end));
        }
    }

    /// Whether all of the run is in the set. The empty run is.
    pub(crate) fn contains(&self, run: &Run) -> bool {
        run.is_empty() || self.0.range(..=run.start).next_back().is_some_and(|(_, end)| *end >= run.end)
    }

    /// Whether any of the run is in the set.
    pub(crate) fn touches(&self, run: &Run) -> bool {
        !run.is_empty() && self.0.range(..run.end).next_back().is_some_and(|(_, end)| *end > run.start)
    }

    /// The first part of the run that is not in the set.
    pub(crate) fn first_gap(&self, run: &Run) -> Option<Run> {
        let mut start = run.start;
        if let Some((_, &end)) = self.0.range(..=start).next_back() {
            start = start.max(end);
        }
        if start >= run.end {
            return None;
        }
        let end = self.0.range(start..run.end).next().map_or(run.end, |(next, _)| *next);
        Some(start..end)
    }

    /// All of the run that is not in the set.
    pub(crate) fn gaps(&self, run: &Run) -> Self {
        let (mut gaps, mut rest) = (Self::default(), run.clone());
        while let Some(gap) = self.first_gap(&rest) {
            rest.start = gap.end;
            gaps.insert(gap);
        }
        gaps
    }

    /// The run of the set that holds this chunk.
    pub(crate) fn around(&self, chunk: u64) -> Option<Run> {
        self.0.range(..=chunk).next_back().filter(|(_, end)| **end > chunk).map(|(start, end)| *start..*end)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Run> + '_ {
        self.0.iter().map(|(start, end)| *start..*end)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn runs() -> impl Strategy<Value = Vec<(bool, Run)>> {
        prop::collection::vec((any::<bool>(), (0u64..60, 0u64..12).prop_map(|(s, n)| s..s + n)), 0..30)
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(steps in runs(), asked in (0u64..70, 0u64..12).prop_map(|(s, n)| s..s + n)) {
            let mut set = Runs::default();
            let mut model = BTreeSet::new();
            for (add, run) in steps {
                if add {
                    set.insert(run.clone());
                    model.extend(run);
                } else {
                    set.remove(&run);
                    model.retain(|c| !run.contains(c));
                }
            }
            prop_assert_eq!(set.iter().flatten().collect::<BTreeSet<_>>(), model.clone());
            // Runs that touch are one.
            let listed: Vec<Run> = set.iter().collect();
            prop_assert!(listed.windows(2).all(|w| w[0].end < w[1].start));
            prop_assert_eq!(set.contains(&asked), asked.clone().all(|c| model.contains(&c)));
            prop_assert_eq!(set.touches(&asked), asked.clone().any(|c| model.contains(&c)));
            let gap: Option<Run> = asked.clone().find(|c| !model.contains(c)).map(|start| {
                let end = (start..asked.end).find(|c| model.contains(c)).unwrap_or(asked.end);
                start..end
            });
            prop_assert_eq!(set.first_gap(&asked), gap);
            let gaps: BTreeSet<u64> = set.gaps(&asked).iter().flatten().collect();
            prop_assert_eq!(gaps, asked.clone().filter(|c| !model.contains(c)).collect());
            prop_assert_eq!(set.around(asked.start).is_some(), model.contains(&asked.start));
        }

        #[test]
        fn a_bounded_set_keeps_what_came_last_and_invents_nothing(steps in runs(), most in 1usize..5) {
            let mut set = Runs::default();
            let mut model = BTreeSet::new();
            for (_, run) in steps {
                set.insert_bounded(run.clone(), most);
                model.extend(run.clone());
                prop_assert!(set.contains(&run));
                prop_assert!(set.iter().count() <= most);
                prop_assert!(set.iter().flatten().all(|c| model.contains(&c)));
            }
        }
    }
}
