//! Removing from every root.

use super::super::posix::PosixStore;
use super::{Roots, forms};
use crate::TransferError;
use crate::pack::MemberId;
use model::ObjectId;
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;

/// How a removal ends.
pub(super) type Removed = Box<dyn FnOnce(Result<(), TransferError>) + Send>;

/// Ends when all have ended, with the first error.
struct Joint {
    left: usize,
    failed: Option<TransferError>,
    done: Option<Removed>,
}

impl Joint {
    fn ended(joint: &Mutex<Self>, result: Result<(), TransferError>) {
        let mut joint = joint.lock();
        joint.left = joint.left.saturating_sub(1);
        if let Err(error) = result {
            joint.failed.get_or_insert(error);
        }
        if joint.left > 0 {
            return;
        }
        let (done, failed) = (joint.done.take(), joint.failed.take());
        drop(joint);
        if let Some(done) = done {
            done(failed.map_or(Ok(()), Err));
        }
    }
}

impl Roots {
    /// Removes it wherever it is. With a root away it ends with that error when it is removed from the others: there may be another copy in it.
    pub(super) fn remove(&self, id: &ObjectId, remove: fn(&PosixStore, &ObjectId, Removed), done: Removed) {
        if !self.are_several() {
            return match self.only() {
                Ok(store) => remove(&store, id, done),
                Err(error) => done(Err(error)),
            };
        }
        let mut stores = Vec::with_capacity(self.members.len());
        let mut failed = self.know_all().err();
        for member in &self.members {
            match member.store(&self.known) {
                Ok(store) => stores.push(store),
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        // Or what is on its way from one root to another would be in neither when it is looked at.
        let held = match Self::hold(&stores) {
            Ok(held) => held,
            Err(error) => return done(Err(error)),
        };
        let joint = Joint { left: stores.len().max(1), failed, done: Some(done) };
        let joint = Arc::new(Mutex::new(joint));
        if stores.is_empty() {
            return Joint::ended(&joint, Ok(()));
        }
        for store in stores {
            let joint = joint.clone();
            remove(&store, id, Box::new(move |result| Joint::ended(&joint, result)));
        }
        drop(held);
    }

    /// Removes what earlier attempts left in other roots under an id that was stored in this one. Where that fails, who reads finds the right one by
    /// its hash, and who removes removes both.
    pub(super) fn forget_elsewhere(&self, id: &ObjectId, here: &Path) {
        // Members of packs are looked for, and removed, by whoever knows of the attempts.
        if MemberId::parse(id).is_some() {
            return;
        }
        let stores: Vec<_> = self.there().collect();
        let forgotten = Self::hold(&stores).and_then(|_held| {
            let others = stores.iter().filter(|store| store.root() != here);
            others.into_iter().try_for_each(|store| store.forget(&forms(id)))
        });
        if let Err(error) = forgotten {
            tracing::warn!(%id, %error, "cannot remove what an earlier attempt may have left in another root");
        }
    }
}
