//! One action on its way through the agent.

use crate::slots::Slot;
use crate::source::Work;
use model::limits::{MAX_ACTION_DATA_BYTES, MAX_WIRE_TEXT_BYTES};
use model::{ActionId, Command, Extent, Failure, Outcome};
use proto::{Capabilities, Instruction, Report, ReportBody, Task, WireError, pdm};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The wall clock may have been set meanwhile, and archives' filesystems have clocks of their own. Too early costs only time.
const CLOCK_SLACK: Duration = Duration::from_secs(60);
const EINVAL: i32 = 22;
const ENODATA: i32 = 61;
const EPROTO: i32 = 71;
const ENOTCONN: i32 = 107;

/// Gives out an agent's action ids: ascending from 1, never one twice.
#[derive(Debug)]
pub struct ActionIds(AtomicU64);

impl Default for ActionIds {
    fn default() -> Self {
        Self(AtomicU64::new(1))
    }
}

impl ActionIds {
    /// The next id.
    pub fn next(&self) -> ActionId {
        ActionId(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// An action between the source that gave it and the result that the source gets.
///
/// Holds its place in the agent (a [`Slot`]) and the source's [`Work`] with all that it keeps alive.
pub struct Action {
    id: ActionId,
    handle: Option<u64>,
    work: Work,
    started: Instant,
    bytes: u64,
    takeovers: u32,
    stop: Option<Stop>,
    slot: Slot,
}

/// Why an action should end early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// The source asked for it: its end is "cancelled".
    Cancelled,
    /// The agent is going down: to the source that is a temporary failure.
    Interrupted,
}

/// What a report did to an action.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Update {
    /// It goes on; these bytes were moved.
    Progress(Extent),
    /// It ended so.
    Completed(Outcome),
}

/// An action with its one result.
#[derive(Debug)]
pub struct Finished {
    /// The action, with its slot.
    pub action: Action,
    /// How it ended.
    pub outcome: Outcome,
}

impl Action {
    /// A work that was accepted at `started` and holds `slot`.
    #[must_use]
    pub fn new(id: ActionId, work: Work, started: Instant, slot: Slot) -> Self {
        Self { id, handle: None, work, started, bytes: 0, takeovers: 0, stop: None, slot }
    }

    /// Its name towards movers.
    #[must_use]
    pub fn id(&self) -> ActionId {
        self.id
    }

    /// The endpoint that has it, once one has.
    #[must_use]
    pub fn handle(&self) -> Option<u64> {
        self.handle
    }

    /// Gives it to an endpoint.
    pub fn set_handle(&mut self, handle: u64) {
        self.handle = Some(handle);
    }

    /// The source's name for it.
    #[must_use]
    pub fn key(&self) -> u64 {
        self.work.key
    }

    /// Which archive's movers may have it.
    #[must_use]
    pub fn archive_id(&self) -> u32 {
        self.work.archive_id
    }

    /// What it asks for.
    #[must_use]
    pub fn command(&self) -> Command {
        self.work.command
    }

    /// What a mover has to be able to do, beyond Lemur's protocol, to be given it.
    #[must_use]
    pub fn needs(&self) -> Capabilities {
        let work = &self.work;
        Capabilities {
            verify: work.command == Command::Verify,
            range: work.command == Command::Restore && work.extent != Extent::WHOLE,
            namespace: work.metadata_only,
            ..Capabilities::default()
        }
    }

    /// When the agent accepted it.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Bytes that its mover reported as moved.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that it moves if it succeeds, as its source knows.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.work.size
    }

    /// It should end early: from now on it is not given to another mover. What the source asked for is not undone.
    pub fn mark_stop(&mut self, stop: Stop) {
        if self.stop != Some(Stop::Cancelled) {
            self.stop = Some(stop);
        }
    }

    /// Whether it should end early, and why.
    #[must_use]
    pub fn stop(&self) -> Option<Stop> {
        self.stop
    }

    /// Takes it from a mover that is gone; gives how often that happened before. What that mover has stored is an earlier attempt's to the next one.
    pub fn take_over(&mut self) -> u32 {
        self.handle = None;
        if self.work.command == Command::Archive && self.work.attempted_since_ms == 0 {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let accepted = now.saturating_sub(self.started.elapsed()).saturating_sub(CLOCK_SLACK);
            self.work.attempted_since_ms = u64::try_from(accepted.as_millis()).unwrap_or(u64::MAX).max(1);
        }
        let before = self.takeovers;
        self.takeovers += 1;
        before
    }

    /// Checks what has to be true before a mover is asked.
    ///
    /// # Errors
    /// The failure to end the action with: nothing that a mover would accept, or no object to work on.
    pub fn prepare(&self) -> Result<(), Failure> {
        let Work { primary_path, write_path, file_path, identity, data, .. } = &self.work;
        if matches!(self.work.command, Command::Restore | Command::Remove)
            && identity.uuid.is_empty()
            && identity.url.is_empty()
        {
            let message = format!("{self}: the file names no archived object (no uuid, no url)");
            return Err(Failure::permanent(ENODATA, message));
        }
        for text in [primary_path, write_path, file_path, &identity.uuid, &identity.url] {
            if text.len() > MAX_WIRE_TEXT_BYTES || text.contains('\0') {
                let message =
                    format!("{self}: a path or name is longer than {MAX_WIRE_TEXT_BYTES} bytes or holds a NUL");
                return Err(Failure::permanent(EINVAL, message));
            }
        }
        if self.work.tree_path.len() > MAX_WIRE_TEXT_BYTES {
            let message = format!("{self}: its path has {} bytes", self.work.tree_path.len());
            return Err(Failure::permanent(EINVAL, message));
        }
        if data.len() > MAX_ACTION_DATA_BYTES {
            let message = format!("{self}: {} bytes of request data, at most {MAX_ACTION_DATA_BYTES}", data.len());
            return Err(Failure::permanent(EINVAL, message));
        }
        Ok(())
    }

    /// The message that asks a mover for it.
    #[must_use]
    pub fn as_message(&self) -> pdm::ActionItem {
        let work = &self.work;
        Instruction::Run(Task {
            id: self.id,
            command: work.command,
            primary_path: work.primary_path.clone(),
            write_path: work.write_path.clone(),
            extent: work.extent,
            data: work.data.clone(),
            identity: work.identity.clone(),
            file_path: work.file_path.clone(),
            expected_size: work.expected_size,
            tree_path: work.tree_path.clone(),
            attempted_since_ms: work.attempted_since_ms,
            metadata_only: work.metadata_only,
            owner: work.owner,
            reader_waits: work.reader_waits,
            sync_target: work.sync_target,
        })
        .into()
    }

    /// Takes in what its mover reported.
    ///
    /// # Errors
    /// The report ends the action but says nothing that such an action can end with.
    pub fn update(&mut self, body: ReportBody) -> Result<Update, WireError> {
        if let ReportBody::Progress(extent) = body {
            if extent.length != u64::MAX {
                self.bytes = self.bytes.saturating_add(extent.length);
            }
            return Ok(Update::Progress(extent));
        }
        // Only progress has no outcome.
        let outcome = body.outcome(self.work.command).transpose()?;
        Ok(outcome.map_or(Update::Progress(Extent { offset: 0, length: 0 }), Update::Completed))
    }

    /// Ends it with a mover's outcome.
    #[must_use]
    pub fn complete(self, outcome: Outcome) -> Finished {
        match outcome {
            // Nobody cancelled it as far as the source knows.
            Outcome::Failed(failure) if failure.is_cancelled() && self.stop == Some(Stop::Interrupted) => {
                self.end_stopped(Stop::Interrupted)
            }
            outcome => Finished { action: self, outcome },
        }
    }

    /// Ends it early.
    #[must_use]
    pub fn end_stopped(self, stop: Stop) -> Finished {
        let failure = match stop {
            Stop::Cancelled => Failure::cancelled(),
            Stop::Interrupted => Failure::temporary(ENOTCONN, format!("{self}: the agent was stopped")),
        };
        Finished { outcome: Outcome::Failed(failure), action: self }
    }

    /// Ends it with a failure.
    #[must_use]
    pub fn fail(self, failure: Failure) -> Finished {
        self.complete(Outcome::Failed(failure))
    }

    /// Ends it because its mover said that it ended, in words that make no sense.
    #[must_use]
    pub fn fail_wire(self, error: &WireError) -> Finished {
        let message = format!("{self}: the mover's result makes no sense: {error}");
        self.fail(Failure::permanent(EPROTO, message))
    }

    /// The slot, once everything else has been done.
    pub(crate) fn into_slot(self) -> Slot {
        self.slot
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Work { command, archive_id, primary_path, write_path, file_path, .. } = &self.work;
        let path = [file_path, primary_path, write_path].into_iter().find(|p| !p.is_empty());
        write!(f, "action {} ({command}, archive {archive_id}", self.id)?;
        match path {
            Some(path) => write!(f, ", {})", path.escape_debug()),
            None => f.write_str(")"),
        }
    }
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The parts of a status message that are needed even when the rest makes no sense.
pub(crate) struct Addressed {
    pub(crate) id: ActionId,
    pub(crate) handle: Option<u64>,
    pub(crate) ends: bool,
    pub(crate) body: Result<ReportBody, WireError>,
}

impl From<pdm::ActionStatus> for Addressed {
    fn from(status: pdm::ActionStatus) -> Self {
        let id = ActionId(status.id);
        let handle = status.handle.map(|h| h.id);
        let ends = status.completed || status.error != 0;
        Self { id, handle, ends, body: Report::try_from(status).map(|report| report.body) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::Slots;
    use crate::source::MemorySource;

    #[tokio::test]
    async fn p7_the_next_mover_looks_for_what_the_one_before_it_has_stored() {
        let attempted = async |command, known| {
            let work = Work { command, attempted_since_ms: known, ..MemorySource::noop(1, 1) };
            let slot = Slots::new(1).acquire(1).await.unwrap();
            let mut action = Action::new(ActionIds::default().next(), work, Instant::now(), slot);
            assert_eq!((action.as_message().attempted_since_ms, action.take_over()), (known, 0));
            action.as_message().attempted_since_ms
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let since = attempted(Command::Archive, 0).await;
        assert!(since < now && since + 3_600_000 > now, "{since} at {now}");
        assert_eq!(attempted(Command::Archive, 7).await, 7, "an earlier attempt is known");
        assert_eq!(attempted(Command::Restore, 0).await, 0);
    }
}
