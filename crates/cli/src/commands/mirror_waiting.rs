//! Files that wait for being resynced, which several threads take and put back.
//!
//! Each is there once, whatever number of records tells of it. One that is in use or fails waits longer each time, and is given up after a
//! while; one that was just copied rests, so that a file that is written all the time is not copied all the time.

use crate::output::{complain, escaped};
use ::lustre::Outcome as Came;
use model::Fid;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between tries of a file that is in use or fails: at first.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// The longest for one that is in use.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The longest for one that fails: each try may copy much of it.
const LONGEST_PAUSE_OF_FAILING: Duration = Duration::from_secs(600);
/// A file that is in use or fails for longer does not hold up the changelog any more. One that is written to is told of once more when it is closed.
const GIVE_UP: Duration = Duration::from_secs(3600);
/// A file that was copied rests for so many times as long as that took.
const REST: u32 = 9;
const SHORTEST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(600);

/// How a try came out.
pub(crate) enum Tried {
    /// There is nothing to do with it, or it is gone.
    Done,
    /// It was brought up to date.
    Copied,
    Busy(Came),
    Failed(String),
    /// Its filesystem is not there. It is not given up for that.
    Away,
}

/// See the module.
pub(crate) struct Waiting {
    most: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    files: HashMap<Fid, File>,
    /// Those that nobody has taken, by when they are to be tried.
    queue: BTreeSet<(Instant, Fid)>,
    /// Those that are not to be copied before.
    resting: HashMap<Fid, Instant>,
    ended: bool,
}

struct File {
    /// The first record that is not done because of it.
    index: u64,
    since: Instant,
    pause: Duration,
    /// When somebody took it.
    taken: Option<Instant>,
    /// The first record that came since then: what was done may be older.
    again: Option<u64>,
    /// Whether it was told that it fails.
    is_told: bool,
}

impl Waiting {
    /// For about so many files, beyond which [`has_room`](Self::has_room) says no.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, state: Mutex::default(), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is room for more; waits for that.
    pub(crate) fn has_room(&self, patience: Duration) -> bool {
        let is_full = |state: &mut State| state.files.len() >= self.most;
        let waited = self.changed.wait_timeout_while(self.state(), patience, is_full);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !is_full(&mut state)
    }

    /// The first record that is not done.
    pub(crate) fn first(&self) -> Option<u64> {
        self.state().files.values().map(|file| file.index).min()
    }

    /// A record tells of this file.
    pub(crate) fn add(&self, fid: Fid, index: u64) {
        let mut state = self.state();
        let now = Instant::now();
        match state.files.get_mut(&fid) {
            Some(file) if file.taken.is_some() => {
                file.again = Some(file.again.map_or(index, |first| first.min(index)));
            }
            Some(file) => file.index = file.index.min(index),
            None => state.wait(fid, index, now),
        }
        self.changed.notify_all();
    }

    /// The next file that is due; waits for that. `None` when it is the end.
    pub(crate) fn take(&self) -> Option<Fid> {
        let mut state = self.state();
        loop {
            if state.ended {
                return None;
            }
            let now = Instant::now();
            match state.queue.first().copied() {
                Some((due, fid)) if due <= now => {
                    state.queue.pop_first();
                    let Some(file) = state.files.get_mut(&fid) else { continue };
                    file.taken = Some(now);
                    return Some(fid);
                }
                Some((due, _)) => {
                    let waited = self.changed.wait_timeout(state, due.saturating_duration_since(now));
                    (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
                }
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// A file that was taken was tried. Gives how it came out when it is given up, to be told.
    pub(crate) fn put_back(&self, fid: Fid, tried: Tried) -> Option<Result<Came, String>> {
        let given_up = self.state().put_back(fid, tried, Instant::now());
        self.changed.notify_all();
        given_up
    }

    /// Nothing more is taken.
    pub(crate) fn end(&self) {
        self.state().ended = true;
        self.changed.notify_all();
    }
}

impl State {
    fn wait(&mut self, fid: Fid, index: u64, now: Instant) {
        let due = self.resting.get(&fid).copied().map_or(now, |rested| rested.max(now));
        let file = File { index, since: now, pause: FIRST_PAUSE, taken: None, again: None, is_told: false };
        self.files.insert(fid, file);
        self.queue.insert((due, fid));
    }

    fn put_back(&mut self, fid: Fid, tried: Tried, now: Instant) -> Option<Result<Came, String>> {
        let mut file = self.files.remove(&fid)?;
        let took = file.taken.take().map_or(Duration::ZERO, |taken| now.saturating_duration_since(taken));
        let (longest, outcome) = match tried {
            Tried::Done | Tried::Copied => {
                if matches!(tried, Tried::Copied) {
                    self.rest(fid, now, took.saturating_mul(REST).clamp(SHORTEST_REST, LONGEST_REST));
                }
                if let Some(index) = file.again {
                    self.wait(fid, index, now);
                }
                return None;
            }
            Tried::Away => {
                (file.since, file.again) = (now, None);
                self.queue.insert((now + FIRST_PAUSE, fid));
                self.files.insert(fid, file);
                return None;
            }
            Tried::Busy(outcome) => (LONGEST_PAUSE, Ok(outcome)),
            Tried::Failed(why) => {
                if !std::mem::replace(&mut file.is_told, true) {
                    complain(&format!("{}: it is tried again", escaped(&why)));
                }
                (LONGEST_PAUSE_OF_FAILING, Err(why))
            }
        };
        if now.saturating_duration_since(file.since) > GIVE_UP {
            // A try that fails may itself be in the changelog.
            self.rest(fid, now, LONGEST_REST);
            if let Some(index) = file.again {
                self.wait(fid, index, now);
            }
            return Some(outcome);
        }
        // Its first record is not done either.
        file.again = None;
        self.queue.insert((now + file.pause, fid));
        file.pause = file.pause.saturating_mul(2).min(longest);
        self.files.insert(fid, file);
        None
    }

    fn rest(&mut self, fid: Fid, now: Instant, pause: Duration) {
        // Now and then those that do not rest any more go.
        if self.resting.len() >= 1024 && self.resting.len().is_power_of_two() {
            self.resting.retain(|_, rested| *rested > now);
        }
        self.resting.insert(fid, now + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FID: Fid = Fid { seq: 0x2_0000_0401, oid: 7, ver: 0 };
    const OTHER: Fid = Fid { oid: 8, ..FID };

    fn busy() -> Tried {
        Tried::Busy(Came::Busy { tries: 1 })
    }

    #[test]
    fn a_file_is_there_once_and_holds_back_its_first_record() {
        let waiting = Waiting::new(3);
        for (fid, index) in [(FID, 5), (OTHER, 6), (FID, 7), (FID, 4)] {
            waiting.add(fid, index);
        }
        assert_eq!(waiting.first(), Some(4));
        let taken = [waiting.take().unwrap(), waiting.take().unwrap()];
        assert!(taken.contains(&FID) && taken.contains(&OTHER));
        assert!(waiting.put_back(FID, Tried::Done).is_none());
        assert_eq!(waiting.first(), Some(6));
        assert!(waiting.put_back(OTHER, busy()).is_none());
        assert_eq!(waiting.first(), Some(6), "in use");
        assert!(waiting.has_room(Duration::ZERO));
        waiting.end();
        assert_eq!(waiting.take(), None);
    }

    #[test]
    fn what_comes_while_a_file_is_copied_has_it_copied_again_after_a_rest() {
        let waiting = Waiting::new(1);
        waiting.add(FID, 1);
        assert!(!waiting.has_room(Duration::ZERO));
        assert_eq!(waiting.take(), Some(FID));
        waiting.add(FID, 2);
        let begun = Instant::now();
        assert!(waiting.put_back(FID, Tried::Copied).is_none());
        assert_eq!(waiting.first(), Some(2));
        assert_eq!(waiting.take(), Some(FID));
        assert!(begun.elapsed() >= SHORTEST_REST);
        assert!(waiting.put_back(FID, Tried::Done).is_none());
        assert_eq!(waiting.first(), None);
    }

    #[test]
    fn a_file_that_fails_is_tried_for_a_while_and_rests_when_it_is_given_up() {
        let mut state = State::default();
        let begun = Instant::now();
        state.wait(FID, 1, begun);
        let (mut now, mut tries) = (begun, 0);
        let failing = loop {
            tries += 1;
            let (due, _) = state.queue.pop_first().unwrap();
            now = due.max(now);
            state.files.get_mut(&FID).unwrap().taken = Some(now);
            if let Some(outcome) = state.put_back(FID, Tried::Failed("why".into()), now) {
                break outcome;
            }
        };
        assert_eq!(failing, Err("why".to_owned()));
        assert!((5..20).contains(&tries) && now - begun > GIVE_UP, "{tries}");
        assert!(state.files.is_empty());
        // Its own last try is in the log.
        state.wait(FID, 9, now);
        assert_eq!(state.queue.first(), Some(&(now + LONGEST_REST, FID)));
    }
}
