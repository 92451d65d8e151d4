//! Objects at the end of their life: of deleted files, of removed copies; and those that must not end just now.

use super::brain::Brain;
use super::{ObjectKey, removal_action};
use model::{Command, FileHandle, Identity};
use queue::{About, Change, NewAction, ObjectRef, Retired};
use std::collections::{HashMap, HashSet};

impl Brain {
    /// The last link of files went: their archive copies go after the grace period.
    pub(super) fn deleted(&mut self, files: Vec<FileHandle>) {
        let now_ms = self.shared.now_ms();
        let until_ms = now_ms + u64::try_from(self.config.remove_grace.as_millis()).unwrap_or(u64::MAX / 4);
        let mut changes = Vec::new();
        for file in files {
            // Its descriptor would keep the inode, and its blocks.
            self.drop_parts(&file);
            self.forget_idle(&file);
            let Ok(Some(stamp)) = self.shared.queue.stamp(&file) else { continue };
            if let Some(object) = stamp.object {
                let about = self.shared.queue.about(&file).ok().flatten().unwrap_or_default();
                let name = if about.path.is_empty() {
                    format!("removed file {file}")
                } else {
                    format!("removed file {}", String::from_utf8_lossy(&about.path))
                };
                let (archive_id, uuid) = (object.archive_id, object.uuid.clone());
                let mut retire = |object: ObjectRef, about: About| {
                    let identity = Identity { uuid: object.uuid, hash: None, url: object.url };
                    let removal = removal_action(object.archive_id, identity, name.clone(), until_ms);
                    let removal = NewAction { created_ms: now_ms, ..removal };
                    let retired = Retired { replaced: false, file: file.clone(), about, retired_ms: now_ms };
                    changes.push(Change::Retire { removal, retired });
                };
                // Further copies come back with the first; alone they are no file.
                let further = About { hash: about.hash, ..About::default() };
                retire(object, about);
                let copies = self.shared.queue.copies(&file).unwrap_or_default();
                copies.into_iter().for_each(|copy| retire(copy, further.clone()));
                changes.push(Change::ForgetReferrer { archive_id, uuid, file: file.clone() });
            }
            changes.push(Change::ForgetStamp { file });
        }
        self.record(changes, Vec::new());
    }

    /// The file has forgotten its object, which goes now, if no other file names it.
    pub(super) fn remove_detached(&mut self, key: u64) {
        let Some(job) = self.jobs.get_mut(&key) else { return };
        job.file = None;
        let action = NewAction { file: None, identity: job.identity.clone(), ..job.action.clone() };
        job.began_held = is_held(&self.held, &action);
        self.outgoing.prepare(key, action);
    }

    /// A mover removed the object.
    pub(super) fn object_removed(&mut self, key: u64) {
        let Some(job) = self.jobs.get(&key) else { return };
        let (archive_id, uuid) = (job.action.archive_id, job.identity.uuid.clone());
        let mut changes = vec![Change::ForgetShared { archive_id, uuid: uuid.clone() }];
        if job.detached {
            changes.push(Change::SettleOrphanCheck { archive_id, uuid });
        }
        self.succeeded(key, 0, changes);
    }

    /// The file does not name the object any more, and others do.
    pub(super) fn object_settled(&mut self, key: u64) {
        let Some(job) = self.jobs.get(&key) else { return };
        let (archive_id, uuid) = (job.action.archive_id, job.identity.uuid.clone());
        self.succeeded(key, 0, vec![Change::SettleOrphanCheck { archive_id, uuid }]);
    }

    /// Holds the objects of which no removal runs, and returns them.
    pub(super) fn hold(&mut self, objects: Vec<ObjectKey>) -> Vec<ObjectKey> {
        let removals = self.jobs.values().filter(|job| job.action.command == Command::Remove);
        let going: HashSet<(u32, &str)> = removals
            .flat_map(|job| {
                [&job.identity.uuid, &job.action.identity.uuid].map(|uuid| (job.action.archive_id, uuid.as_str()))
            })
            .collect();
        let free: Vec<_> = objects.into_iter().filter(|(id, uuid)| !going.contains(&(*id, uuid.as_str()))).collect();
        for object in &free {
            *self.held.entry(object.clone()).or_default() += 1;
        }
        free
    }

    /// Ends a hold.
    pub(super) fn let_go(&mut self, objects: &[ObjectKey]) {
        for object in objects {
            if let Some(count) = self.held.get_mut(object) {
                *count -= 1;
                if *count == 0 {
                    self.held.remove(object);
                }
            }
        }
    }
}

/// Whether the action removes an object of which no removal is to be started. Asked before it looks whether the object may go: what it
/// sees then may be from before the files were made for whom it was held, and be told only after the hold has ended.
pub(super) fn is_held(held: &HashMap<ObjectKey, usize>, action: &NewAction) -> bool {
    !held.is_empty()
        && action.command == Command::Remove
        && held.contains_key(&(action.archive_id, action.identity.uuid.clone()))
}
