//! Restores that wait until an object is thawed out of a cold storage class.
//!
//! A mover that finds an object cold asks for its thaw, says when it is worth to ask again, and is done with the action. Until then nothing is held for it: no
//! place in a mover, no lock of the inode, no descriptor but those of blocked readers. It counts as no attempt, so no limit of them ends it. What is in the queue
//! is put back there, with since when it waits; of what readers wait for, the guard keeps the readers, and the next agent finds the object on its way.

use super::brain::Brain;
use super::job::Job;
use model::{ActionId, Failure, FileHandle, Thaw};
use queue::Change;
use std::time::{Duration, Instant};

/// However soon a mover says to ask again.
const SHORTEST: Duration = Duration::from_secs(1);
/// However late.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Whoever has waited for so many times the pause waits longer between two looks.
const SHARE_OF_WAITED: u64 = 8;
/// But no longer than this, if the mover does not say so.
const LONGEST_GROWN: Duration = Duration::from_secs(3600);

/// A restore that blocked readers wait for, and that waits for a thaw. It is in no queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thawing {
    /// A name for it, above 2^63. No mover has ever heard of it.
    pub id: ActionId,
    /// In which archive the object is.
    pub archive_id: u32,
    /// Of which file.
    pub path: String,
    /// Since when it is waited for, as far as this agent knows.
    pub since_ms: u64,
    /// When the mover is asked again.
    pub again_ms: u64,
    /// What the mover said.
    pub said: Failure,
}

/// When to ask again. What has not come for long is asked for less often.
fn pause(thaw: Thaw, waited_ms: u64) -> Duration {
    let grown = Duration::from_millis(waited_ms / SHARE_OF_WAITED).min(LONGEST_GROWN);
    Duration::from_secs(u64::from(thaw.again_s)).clamp(SHORTEST, LONGEST).max(grown)
}

fn milliseconds(pause: Duration) -> u64 {
    u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)
}

impl Brain {
    /// Puts an action back into the queue until its object may have been thawed.
    pub(super) fn entry_waits_for_thaw(&mut self, id: ActionId, job: &Job, failure: Failure, thaw: Thaw) {
        let now_ms = self.shared.now_ms();
        let before = job.last_failure.as_ref().and_then(|failure| failure.thaw);
        let since_ms = before.map_or(now_ms, |thaw| thaw.since_ms);
        let pause = pause(thaw, now_ms.saturating_sub(since_ms));
        tracing::info!(action = %id, path = job.action.path, %failure, ?pause, "waits for a thaw");
        let not_before_ms = now_ms.saturating_add(milliseconds(pause));
        let failure = Failure { thaw: Some(Thaw { since_ms, again_s: 0 }), ..failure };
        self.record(vec![Change::PutBack { id, not_before_ms, failure }], vec![id]);
        let (class, owner) = (job.action.class, job.action.owner);
        self.outgoing.record(Vec::new(), super::Msg::Submitted { class, owner, not_before_ms });
        self.due(Instant::now() + pause);
    }

    /// Notes that readers of a file wait for a thaw. Gives back when the mover is to be asked again.
    pub(super) fn readers_wait_for_thaw(
        &mut self,
        file: &FileHandle,
        (archive_id, path): (u32, &str),
        said: &Failure,
        thaw: Thaw,
    ) -> Instant {
        let now_ms = self.shared.now_ms();
        let id = ActionId(self.ephemeral_key());
        let mut thawing = self.shared.thawing.lock();
        let known = thawing.get(file).map(|known| (known.id, known.since_ms));
        let (id, since_ms) = known.unwrap_or((id, now_ms));
        let pause = pause(thaw, now_ms.saturating_sub(since_ms));
        tracing::info!(path, failure = %said, ?pause, "readers wait for a thaw");
        let again_ms = now_ms.saturating_add(milliseconds(pause));
        let path = path.to_owned();
        thawing.insert(file.clone(), Thawing { id, archive_id, path, since_ms, again_ms, said: said.clone() });
        drop(thawing);
        let at = Instant::now() + pause;
        self.due(at);
        self.put_deadlines_off(file, at);
        at
    }

    /// A thaw takes as long as it takes: `restore.timeout_s` is for what nobody hears of any more.
    fn put_deadlines_off(&mut self, file: &FileHandle, heard_again: Instant) {
        let Some(timeout) = self.config.restore_timeout else { return };
        let deadline = heard_again + timeout;
        let Some(inode) = self.inodes.get_mut(file) else { return };
        let parts = inode.parts.as_deref_mut();
        let of_parts =
            parts.map(|parts| parts.readers.iter_mut().map(|reader| &mut reader.waiting).chain(&mut parts.whole));
        for waiting in inode.blocked.iter_mut().chain(of_parts.into_iter().flatten()) {
            if waiting.deadline.is_some_and(|earlier| earlier < deadline) {
                waiting.deadline = Some(deadline);
                waiting.event.deadline = std::cell::OnceCell::from(Some(deadline));
            }
        }
        self.due(deadline);
    }

    /// When the object of a file that is being thawed is looked at next.
    pub(super) fn next_look(&self, file: &FileHandle) -> Option<Instant> {
        let inode = self.inodes.get(file)?;
        let look = inode.retry.map(|(at, _)| at).or_else(|| inode.parts.as_ref()?.retry_at)?;
        self.shared.thawing.lock().contains_key(file).then_some(look)
    }

    /// Nobody waits for a thaw of this file any more, or it is over.
    pub(super) fn thaw_is_over(&mut self, file: &FileHandle) {
        self.shared.thawing.lock().remove(file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_mover_makes_us_ask_all_the_time_or_never() {
        let after = |again_s| pause(Thaw { since_ms: 0, again_s }, 0);
        assert_eq!((after(0), after(300), after(u32::MAX)), (SHORTEST, Duration::from_secs(300), LONGEST));
    }

    #[test]
    fn p6_who_waits_for_long_asks_less_often() {
        let after = |again_s, waited_s: u64| pause(Thaw { since_ms: 0, again_s }, waited_s * 1000).as_secs();
        assert_eq!((after(300, 2000), after(300, 4000), after(300, u64::MAX / 1000)), (300, 500, 3600));
        assert_eq!(after(7200, 48 * 3600), 7200);
        let (mut waited, mut looks) = (0, 0);
        while waited < 48 * 3600 {
            waited += after(300, waited);
            looks += 1;
        }
        assert!((50..80).contains(&looks), "{looks} looks in two days");
    }
}
