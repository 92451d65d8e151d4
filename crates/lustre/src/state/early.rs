//! What waits in lanes for long: the coordinator hears nothing of it there, and would give it up. So it begins before its turn, and waits then.

use super::{Phase, State, Stop};
use crate::workers::Job;
use model::{Class, Command};

impl State {
    /// Has what came by `until_ms` begin although it is not its turn, so that the coordinator hears of it from now on.
    pub(crate) fn begin_early(&mut self, until_ms: u64) {
        if self.stopping || self.renewing || self.handle.is_none() {
            return;
        }
        for (archive_id, class) in self.lanes_known() {
            while self.may_hold(archive_id) {
                match self.lanes.take_old(archive_id, class, until_ms) {
                    Err(load) => self.urgent.push_back(Job::Load(load)),
                    Ok(None) => break,
                    Ok(Some(entry)) => self.begin_as(entry, true),
                }
            }
        }
    }

    /// Ends the readers in lanes that came by `until_ms`.
    pub(crate) fn time_out(&mut self, until_ms: u64) {
        if self.stopping || self.handle.is_none() {
            return;
        }
        for (archive_id, class) in self.lanes_known().into_iter().filter(|(_, class)| *class == Class::Reader) {
            loop {
                match self.lanes.take_old(archive_id, class, until_ms) {
                    Err(load) => self.urgent.push_back(Job::Load(load)),
                    Ok(None) => break,
                    Ok(Some(entry)) => {
                        let id = entry.id;
                        self.begin(entry);
                        self.stop(id, Stop::TimedOut);
                    }
                }
            }
        }
    }

    fn lanes_known(&self) -> Vec<(u32, Class)> {
        self.known.iter().flat_map(|archive_id| Class::ALL.map(|class| (*archive_id, class))).collect()
    }

    /// The one that came first of those that began early and could go on.
    pub(super) fn next_early(&self, archive_id: u32) -> Option<u64> {
        let waiting = self.early.range((archive_id, 0)..=(archive_id, u64::MAX)).map(|(_, id)| *id);
        let ready = |id: &u64| {
            let active = self.active.get(id);
            active.is_some_and(|a| a.begun && !a.reporting && matches!(a.phase, Phase::Waiting(_)))
        };
        waiting.into_iter().find(ready)
    }

    /// The turn has come of what began early.
    pub(super) fn promote(&mut self, id: u64) {
        self.set_in_flight(id, true);
        let Some(active) = self.active.get_mut(&id) else { return };
        active.early = false;
        self.early.remove(&(active.entry.archive_id, id));
        if active.entry.command == Command::Remove {
            // It was confirmed, and the file looked at, long ago.
            active.begun = false;
            active.phase = Phase::Beginning;
            self.jobs.push_back(Job::Begin(id));
        } else {
            self.give(id);
        }
    }
}
