//! What earlier attempts of an action may have left in the archive.
//!
//! An agent that lost a result (it crashed, or the mover did) tries again under the same proposed id. An object of its own is replaced by that,
//! but a member of a pack has an id that says which pack it is in, so each attempt may leave one. They are looked for only when there
//! may be any, and removed only when the new one is durable: until then one of them may be the only copy.

use model::ObjectId;
use plugin::Task;
use std::sync::Arc;
use transfer::pack::MemberId;
use transfer::{Done, Store, TransferError};

/// How a removal ends.
pub(super) type Removed = Box<dyn FnOnce(Result<(), TransferError>) + Send>;

/// The ids of what earlier attempts stored.
pub(super) fn earlier<S: Store>(store: &S, task: &Task) -> Result<Vec<ObjectId>, TransferError> {
    if task.attempted_since_ms == 0 || task.identity.uuid.is_empty() {
        return Ok(Vec::new());
    }
    store.attempts(&ObjectId::parse(&task.identity.uuid)?, task.attempted_since_ms)
}

/// Ends with `done` after those were removed that were stored before: if one cannot be, that is the error, and the next attempt finds
/// both.
pub(super) fn instead_of<S: Store + 'static>(store: Arc<S>, earlier: Vec<ObjectId>, done: Done) -> Done {
    if earlier.is_empty() {
        return done;
    }
    Box::new(move |result| match result {
        Err(error) => done(Err(error)),
        Ok(stored) => {
            // An object of its own has replaced, in any encoding, one that was there; and it goes by the same id.
            let is_packed = |id: &ObjectId| MemberId::parse(id).is_some();
            let old = earlier.into_iter().filter(|id| *id != stored.id && (is_packed(id) || is_packed(&stored.id)));
            remove_all(
                store,
                S::remove_attempt,
                old.collect(),
                Box::new(move |removed| done(removed.map(|()| stored))),
            );
        }
    })
}

/// How one is removed.
pub(super) type Remove<S> = fn(&S, &ObjectId, Removed);

/// Removes one after the other; `done` is called when all are gone, durably, or with the first error.
pub(super) fn remove_all<S: Store + 'static>(store: Arc<S>, remove: Remove<S>, mut ids: Vec<ObjectId>, done: Removed) {
    match ids.pop() {
        None => done(Ok(())),
        Some(id) => {
            let next = store.clone();
            let go_on = move |removed: Result<(), TransferError>| match removed {
                Ok(()) => remove_all(next, remove, ids, done),
                Err(error) => done(Err(error)),
            };
            remove(&store, &id, Box::new(go_on));
        }
    }
}
