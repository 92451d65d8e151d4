//! What to fetch next for one file: pure, so that it can be tested against every order of events.

use super::{Run, Runs};

/// How much is fetched at one time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Fetches of one file that somebody waits for.
    pub(crate) demanded: usize,
    /// Fetches of one file beyond which nothing is fetched ahead or in the background.
    pub(crate) ahead: usize,
    /// Chunks of one fetch.
    pub(crate) piece: u64,
}

/// What is going on with a file's chunks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flight<'a> {
    /// Chunks that are there.
    pub(crate) resident: &'a Runs,
    /// Chunks that are being fetched.
    pub(crate) in_flight: &'a Runs,
    /// How many fetches that is.
    pub(crate) fetches: usize,
    /// Chunks that were part of a fetch that failed: each is fetched alone, so that one bad chunk does not take others with it.
    pub(crate) suspect: &'a Runs,
}

/// The next fetches: whether somebody waits for it, and the chunks. None overlaps another, or what is resident or in flight.
///
/// Each of `demanded` gets its first missing piece before any gets its second; then come the chunks of `ahead`, which never
/// are suspect ones unless `all_of_it` says that every one is wanted.
pub(crate) fn plan(
    flight: Flight<'_>,
    demanded: &[Run],
    ahead: &[Run],
    all_of_it: bool,
    limits: Limits,
) -> Vec<(bool, Run)> {
    let mut taken = flight.in_flight.clone();
    let mut fetches = Vec::new();
    let mut left: Vec<Run> = demanded.to_vec();
    while !left.is_empty() {
        let mut next = Vec::new();
        for run in left {
            if flight.fetches + fetches.len() >= limits.demanded {
                break;
            }
            let Some(piece) = first_piece(flight, &taken, &run, limits.piece) else { continue };
            taken.insert(piece.clone());
            next.push(piece.end..run.end);
            fetches.push((true, piece));
        }
        left = next;
    }
    for run in ahead {
        let mut run = run.clone();
        while flight.fetches + fetches.len() < limits.ahead
            && let Some(piece) = first_piece(flight, &taken, &run, limits.piece)
        {
            run.start = piece.end;
            if !all_of_it && flight.suspect.touches(&piece) {
                continue;
            }
            taken.insert(piece.clone());
            fetches.push((false, piece));
        }
    }
    fetches
}

/// The first chunks of the run that neither are there nor come: at most `most`, and a suspect chunk alone.
fn first_piece(flight: Flight<'_>, taken: &Runs, run: &Run, most: u64) -> Option<Run> {
    let mut run = run.clone();
    loop {
        let missing = flight.resident.first_gap(&run)?;
        let Some(free) = taken.first_gap(&missing) else {
            run.start = missing.end;
            continue;
        };
        let end = free.end.min(free.start.saturating_add(most.max(1)));
        if flight.suspect.contains(&(free.start..free.start + 1)) {
            return Some(free.start..free.start + 1);
        }
        return flight.suspect.first_gap(&(free.start..end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const CHUNKS: u64 = 64;

    fn run() -> impl Strategy<Value = Run> {
        (0..CHUNKS, 1u64..20).prop_map(|(s, n)| s..(s + n).min(CHUNKS))
    }

    fn set(of: &[Run]) -> Runs {
        let mut runs = Runs::default();
        of.iter().for_each(|r| runs.insert(r.clone()));
        runs
    }

    proptest! {
        #[test]
        fn what_is_planned_is_missing_and_wanted_and_comes_once(
            resident in prop::collection::vec(run(), 0..5),
            flying in prop::collection::vec(run(), 0..4),
            bad in prop::collection::vec(run(), 0..2),
            demanded in prop::collection::vec(run(), 0..6),
            ahead in prop::collection::vec(run(), 0..3),
            all: bool,
            piece in 1u64..9,
        ) {
            let (resident, in_flight, suspect) = (set(&resident), set(&flying), set(&bad));
            let flight = Flight { resident: &resident, in_flight: &in_flight, fetches: flying.len(), suspect: &suspect };
            let limits = Limits { demanded: 100, ahead: 50, piece };
            let fetches = plan(flight, &demanded, &ahead, all, limits);
            let mut seen = BTreeSet::new();
            for (_, run) in &fetches {
                prop_assert!(!run.is_empty() && run.end - run.start <= piece);
                prop_assert!(!resident.touches(run) && !in_flight.touches(run));
                prop_assert!(!suspect.touches(run) || run.end - run.start == 1);
                prop_assert!(run.clone().all(|c| seen.insert(c)), "twice");
            }
            let wanted: BTreeSet<u64> = demanded.iter().cloned().flatten()
                .filter(|c| !resident.contains(&(*c..c + 1)) && !in_flight.contains(&(*c..c + 1))).collect();
            let asked: BTreeSet<u64> = fetches.iter().filter(|f| f.0).flat_map(|f| f.1.clone()).collect();
            // The limits above are out of reach: everything that somebody waits for comes.
            prop_assert_eq!(&asked, &wanted);
            let prefetched = fetches.iter().filter(|f| !f.0).flat_map(|f| f.1.clone());
            for c in prefetched {
                prop_assert!(ahead.iter().any(|r| r.contains(&c)));
                prop_assert!(all || !suspect.contains(&(c..c + 1)));
            }
        }

        #[test]
        fn fetching_goes_on_until_everything_is_there(
            resident in prop::collection::vec(run(), 0..5), bad in prop::collection::vec(run(), 0..2), piece in 1u64..9, most in 1usize..5,
        ) {
            let (mut resident, suspect) = (set(&resident), set(&bad));
            let all = 0..CHUNKS;
            for _ in 0..=CHUNKS {
                let nothing = Runs::default();
                let flight = Flight { resident: &resident, in_flight: &nothing, fetches: 0, suspect: &suspect };
                let limits = Limits { demanded: 100, ahead: most, piece };
                let fetches = plan(flight, &[], std::slice::from_ref(&all), true, limits);
                prop_assert!(fetches.len() <= most);
                if fetches.is_empty() {
                    break;
                }
                fetches.into_iter().for_each(|(_, run)| resident.insert(run));
            }
            prop_assert!(resident.contains(&all));
        }
    }
}
