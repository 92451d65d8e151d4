//! Removals of objects that no action of a user asks for: what they are, and those that a crash left to be entered.

use crate::filesystem::Filesystem;
use model::{Class, Command, Identity};
use queue::{Change, NewAction, Queue};

/// Objects that a crash left between two names: those that their file does not name are removed. A file that cannot be
/// looked at now may name its object: that check stays owed.
pub(super) fn settle_orphans(fs: &Filesystem, queue: &dyn Queue, now_ms: u64) -> Result<(), queue::QueueError> {
    loop {
        let mut changes = Vec::new();
        for check in queue.orphan_checks(1000)? {
            let named = match fs.open(&check.file, sys::OFlags::PATH) {
                Ok(fd) => crate::copies::names(&fd, &check.uuid).ok(),
                Err(error) => (error.raw_os_error() == Some(crate::prepare::ESTALE)).then_some(false),
            };
            let Some(named) = named else {
                tracing::warn!(object = check.uuid, file = %check.file, "cannot tell whether the file names the object; it is kept");
                continue;
            };
            if !named {
                let identity = Identity { uuid: check.uuid.clone(), hash: None, url: check.url };
                changes.push(removal(
                    check.archive_id,
                    identity,
                    format!("object {} no file names", check.uuid),
                    now_ms,
                ));
            }
            changes.push(Change::SettleOrphanCheck { archive_id: check.archive_id, uuid: check.uuid });
        }
        if changes.is_empty() {
            return Ok(());
        }
        queue.apply(&changes)?;
    }
}

/// The removal of an object that no file names (any more).
pub(crate) fn removal(archive_id: u32, identity: Identity, path: String, not_before_ms: u64) -> Change {
    Change::Submit(removal_action(archive_id, identity, path, not_before_ms))
}

/// The removal of whatever attempts of an archive that is given up may have stored, under the id that was proposed for it. Says by the time it was
/// asked for since when there may be anything: see [`may_be_left_since_ms`].
pub(crate) fn removal_of_attempts(archive: &NewAction, now_ms: u64) -> Change {
    let path = format!("what is left of archiving {}", archive.path);
    let removal = removal_action(archive.archive_id, crate::copies::proposed(archive), path, now_ms);
    Change::Submit(NewAction { created_ms: archive.created_ms.min(now_ms.saturating_sub(1)), ..removal })
}

/// What a mover is told as `attempted_since_ms`: not before when it may find what an earlier attempt stored; 0 when there was none.
pub(crate) fn may_be_left_since_ms(action: &NewAction, maybe_begun: bool) -> u64 {
    // Removals that wait for a grace period look so too: then it only takes longer.
    let of_attempts =
        action.command == Command::Remove && action.file.is_none() && action.created_ms < action.not_before_ms;
    if maybe_begun || of_attempts { action.created_ms } else { 0 }
}

/// As [`removal`], not yet entered.
pub(crate) fn removal_action(archive_id: u32, identity: Identity, path: String, not_before_ms: u64) -> NewAction {
    NewAction {
        request: queue::RequestId(0),
        class: Class::Remove,
        command: Command::Remove,
        archive_id,
        owner: 0,
        file: None,
        path,
        identity,
        data: Vec::new(),
        not_before_ms,
        created_ms: not_before_ms,
    }
}
