//! Reads every manifest of an archive into a catalog.

use super::catalog::{Catalog, Entry, TURN};
use super::{Counts, Options};
use crate::report::{Finding, Problem, Watcher};
use crate::{Holdings, MaintenanceError};
use model::ObjectId;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use transfer::TransferError;
use transfer::manifest::Manifest;

/// Batches on their way between threads.
const WAITING: usize = 4;
/// Manifests that one thread reads in a row: few, so that all threads have some, since in a bucket each is a request.
const BATCH: usize = 64;

/// An error in its place says that there is no more to come.
type Read = Result<Vec<(ObjectId, Result<Manifest, MaintenanceError>)>, MaintenanceError>;

pub(super) fn scan(
    holdings: &dyn Holdings,
    options: &Options,
    watcher: &dyn Watcher,
    counts: &mut Counts,
) -> Result<Catalog, MaintenanceError> {
    let mut catalog = Catalog::new()?;
    watcher.phase("listing objects", None);
    let listed = list_objects(holdings, &mut catalog, watcher);
    tell_unreadable(listed, watcher, counts)?;
    watcher.phase("reading manifests", None);
    let (ids, waiting) = sync_channel(WAITING);
    let (read, manifests) = sync_channel(WAITING);
    // Only the readers have it: when the last of them is gone, the lister finds that nobody listens.
    let waiting = Arc::new(Mutex::new(waiting));
    std::thread::scope(|scope| {
        let lister = scope.spawn(|| list_manifests(holdings, ids));
        for _ in 0..options.threads.max(1) {
            let (read, waiting) = (read.clone(), waiting.clone());
            scope.spawn(move || read_manifests(holdings, &waiting, &read));
        }
        drop((read, waiting));
        let stored = store(&mut catalog, &manifests, options, watcher, counts);
        // Whoever still wants to send something finds that nobody listens.
        drop(manifests);
        let listed = lister.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        stored?;
        tell_unreadable(listed, watcher, counts)
    })?;
    Ok(catalog)
}

/// A pack that cannot be read holds up nothing else.
fn tell_unreadable(
    listed: Result<(), MaintenanceError>,
    watcher: &dyn Watcher,
    counts: &mut Counts,
) -> Result<(), MaintenanceError> {
    match listed {
        Err(MaintenanceError::Archive(error @ TransferError::Damaged { .. })) => {
            counts.count(Problem::DamagedManifest);
            watcher.found(Finding::new(Problem::DamagedManifest, error.to_string()));
            Ok(())
        }
        other => other,
    }
}

fn list_objects(holdings: &dyn Holdings, catalog: &mut Catalog, watcher: &dyn Watcher) -> Result<(), MaintenanceError> {
    let mut batch = Vec::with_capacity(TURN);
    let mut added = Ok(());
    let listed = holdings.objects(&mut |id| {
        batch.push(id.to_string());
        if batch.len() < TURN {
            return ControlFlow::Continue(());
        }
        watcher.advanced(batch.len() as u64);
        added = catalog.add_objects(&std::mem::take(&mut batch));
        if added.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    added?;
    watcher.advanced(batch.len() as u64);
    catalog.add_objects(&batch)?;
    listed
}

fn list_manifests(holdings: &dyn Holdings, to: SyncSender<Vec<ObjectId>>) -> Result<(), MaintenanceError> {
    let mut batch = Vec::with_capacity(BATCH);
    let listed = holdings.manifests(&mut |id| {
        batch.push(id);
        if batch.len() >= BATCH && to.send(std::mem::take(&mut batch)).is_err() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    // An error says that storing them has failed, which is told elsewhere.
    let _ = to.send(batch);
    listed
}

fn read_manifests(holdings: &dyn Holdings, ids: &Mutex<Receiver<Vec<ObjectId>>>, to: &SyncSender<Read>) {
    loop {
        let next = ids.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(batch) = next else { return };
        let read = batch.into_iter().map(|id| {
            let gone = || MaintenanceError::ManifestGone { id: id.to_string() };
            match holdings.manifest(&id).and_then(|manifest| manifest.ok_or_else(gone)) {
                Err(error @ MaintenanceError::Unreachable(_)) => Err(error),
                manifest => Ok((id, manifest)),
            }
        });
        let read: Read = read.collect();
        let is_last = read.is_err();
        if to.send(read).is_err() || is_last {
            return;
        }
    }
}

/// What could not be read now is no damage.
pub(super) fn problem_of(error: &MaintenanceError) -> Problem {
    match error {
        MaintenanceError::Archive(TransferError::Service { .. } | TransferError::Cold { .. }) => Problem::Failed,
        _ => Problem::DamagedManifest,
    }
}

fn store(
    catalog: &mut Catalog,
    manifests: &Receiver<Read>,
    options: &Options,
    watcher: &dyn Watcher,
    counts: &mut Counts,
) -> Result<(), MaintenanceError> {
    for batch in manifests {
        let batch = batch?;
        watcher.advanced(batch.len() as u64);
        let mut entries = Vec::with_capacity(batch.len());
        for (id, manifest) in batch {
            match manifest {
                Ok(manifest) => {
                    counts.manifests += 1;
                    entries.extend(Entry::of(id.to_string(), &manifest, &options.prefix));
                }
                Err(error) => {
                    let problem = problem_of(&error);
                    counts.count(problem);
                    watcher.found(Finding::new(problem, error.to_string()).of(id.as_str()));
                }
            }
        }
        catalog.add(&entries)?;
    }
    Ok(())
}
