//! Finding what may be in any root.

use super::super::posix::PosixStore;
use super::member::Member;
use super::moving::RunLock;
use super::{Roots, forms, group_of};
use crate::TransferError;
use model::ObjectId;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// An object that moves each time it was found is looked for so often.
const LOOKS: usize = 16;

/// Is told each id, until it says to stop.
type Visit<'v> = &'v mut dyn FnMut(ObjectId) -> ControlFlow<()>;

/// Whether an error is of what is in this root, and not of a file that is moved to or from it.
pub(super) fn is_of(error: &TransferError, root: &Path) -> bool {
    use TransferError as E;
    match error {
        E::Io { path, .. }
        | E::Damaged { path, .. }
        | E::Mismatch { path, .. }
        | E::DamagedChunk { path, .. }
        | E::NoManifest { path, .. }
        | E::Missing { path }
        | E::Unavailable { path, .. }
        | E::NotRegular { path }
        | E::Busy { path, .. }
        | E::NotDurable { path, .. } => path.starts_with(root),
        _ => false,
    }
}

impl Roots {
    /// Reads an object where it is. Where that fails because of what is there, another root may have it, too.
    pub(super) fn read<T>(
        &self,
        id: &ObjectId,
        mut read: impl FnMut(&PosixStore) -> Result<T, TransferError>,
    ) -> Result<T, TransferError> {
        if !self.are_several() {
            return self.only().and_then(|store| read(&store));
        }
        let mut failed: Option<TransferError> = None;
        let mut missing = None;
        for (member, _) in self.by_wish(group_of(id)) {
            let store = match member.store(&self.known) {
                Ok(store) => store,
                Err(error) => {
                    missing.get_or_insert(error);
                    continue;
                }
            };
            match read(&store) {
                Ok(done) => return Ok(done),
                Err(error @ TransferError::Missing { .. }) => drop(missing.get_or_insert(error)),
                Err(error) if is_of(&error, member.path()) => {
                    member.look_after(&store);
                    failed.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(error) = failed.take_if(|error| !matches!(error, TransferError::NoManifest { .. })) {
            return Err(error);
        }
        // It may have moved meanwhile: from a root that was looked into last to one that was looked into first.
        let mut looks = 0;
        while let Some(store) = self.find(id)? {
            match read(&store) {
                Err(error) if is_of(&error, store.root()) && looks < LOOKS && !store.has(id).unwrap_or(true) => {
                    looks += 1
                }
                other => return other,
            }
        }
        Err(failed.or(missing).unwrap_or_else(|| TransferError::Missing { path: id.as_str().into() }))
    }

    /// Looks at an object where it is.
    pub(super) fn look<T>(
        &self,
        id: &ObjectId,
        mut look: impl FnMut(&PosixStore) -> Result<Option<T>, TransferError>,
    ) -> Result<Option<T>, TransferError> {
        if !self.are_several() {
            return self.only().and_then(|store| look(&store));
        }
        let missing = || TransferError::Missing { path: id.as_str().into() };
        match self.read(id, |store| look(store)?.ok_or_else(missing)) {
            Ok(found) => Ok(Some(found)),
            Err(TransferError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The root that has it, looked for while nothing moves; `None` when it is in none.
    ///
    /// # Errors
    /// It was not found, and a root is not there or cannot be looked into.
    fn find(&self, id: &ObjectId) -> Result<Option<Arc<PosixStore>>, TransferError> {
        let stores: Vec<_> = self.there().collect();
        let _held = Self::hold(&stores)?;
        let mut failed = None;
        for store in stores {
            match store.has(id) {
                Ok(true) => return Ok(Some(store)),
                Ok(false) => {}
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => self.all().map(|_| None),
        }
    }

    /// Whether something of a proposed id is in this root by itself.
    pub(super) fn has_a_form(&self, member: &Member, id: &ObjectId) -> bool {
        let Ok(store) = member.store(&self.known) else { return false };
        forms(id).iter().any(|form| store.has(form).unwrap_or(false))
    }

    /// Visits what each root has. What is in two is visited twice.
    pub(super) fn list(
        &self,
        list: fn(&PosixStore, Visit<'_>) -> Result<(), TransferError>,
        visit: Visit<'_>,
    ) -> Result<(), TransferError> {
        if !self.are_several() {
            return self.only().and_then(|store| list(&store, visit));
        }
        let mut is_over = false;
        let mut failed = None;
        let stores = self.all()?;
        let _quiet = stores.iter().map(|store| RunLock::shared(store.root_dir())).collect::<Result<Vec<_>, _>>()?;
        for store in stores {
            let mut visit = |id| {
                let flow = visit(id);
                is_over = flow.is_break();
                flow
            };
            if let Err(error) = list(&store, &mut visit) {
                failed.get_or_insert(error);
            }
            if is_over {
                return Ok(());
            }
        }
        failed.map_or(Ok(()), Err)
    }
}
