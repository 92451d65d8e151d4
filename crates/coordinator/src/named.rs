//! New files that name objects which are in the archive already: clones of files, and deleted files that come back.
//!
//! The order, of which SEMANTICS.md (P7) says why:
//! 1. the objects are held: the brain starts no removal of them meanwhile;
//! 2. what the new files are made from is looked at (again): now it cannot lose its object any more;
//! 3. the queue knows the new files, durably; then the filesystem's note says so;
//! 4. the marks are set, the new files are complete and synced;
//! 5. they get their names; their directories are synced;
//! 6. the removals of objects that were undeleted are cancelled. A crash before that does no harm: a removal looks for files that
//!    name its object.

use crate::copies;
use crate::engine::{Engine, Msg, ObjectKey, Selection, Shared, Target};
use crate::filesystem::stamp_of;
use crate::newfile::{Blueprint, NewFile, check_name};
use crate::prepare::{EIO, EPERM, attribute, is_archived_as_it_is, system};
use crate::shared;
use crate::state::FileState;
use model::{ActionId, Command, Copy, Failure, FileHandle, Identity, Stamp};
use queue::{About, Change, ObjectRef, QueueError, RetiredObject, SyncedStamp};
use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use sys::OFlags;
use sys::lease::ReadLease;
use tokio::sync::oneshot;

const EBUSY: i32 = 16;
const ENOENT: i32 = 2;
/// Made together at most: each takes three descriptors.
const TOGETHER: usize = 512;
/// Objects of one deleted file that are looked through for its further copies.
const MAX_RETIRED: usize = 1024;
/// Above this many new files one sync of the filesystem is cheaper than theirs.
const SYNC_EACH: usize = 4;

/// Where a new file is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewName {
    /// Its directory.
    pub directory: FileHandle,
    /// Its name there.
    pub name: Vec<u8>,
    /// How people call it.
    pub path: String,
}

/// What a new file is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file that is archived as it is.
    File(Target),
    /// What waits for its removal by this action.
    Retired(ActionId),
}

/// One new file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Make {
    /// From what.
    pub source: Source,
    /// Where.
    pub at: NewName,
}

impl Engine {
    /// Makes released files that name objects of the archive, durably; a result each. None replaces a file that is there.
    pub async fn make_files(self: &Arc<Self>, makes: Vec<Make>) -> Vec<Result<(), Failure>> {
        let (shared, messages) = (Arc::clone(&self.shared), self.messages.clone());
        let count = makes.len();
        let all = move || makes.chunks(TOGETHER).flat_map(|some| make_all(&shared, &messages, some)).collect();
        let made = tokio::task::spawn_blocking(all).await;
        made.unwrap_or_else(|e| {
            let failure = Failure::temporary(EIO, format!("the request was cut short: {e}"));
            vec![Err(failure); count]
        })
    }
}

/// Objects that no removal is started of. Ends when dropped.
struct Hold {
    messages: Sender<Msg>,
    objects: Vec<ObjectKey>,
}

impl Hold {
    /// Of those that are not being removed already.
    fn take(messages: &Sender<Msg>, objects: Vec<ObjectKey>) -> Self {
        let (reply, held) = oneshot::channel();
        let _ = messages.send(Msg::Hold(objects, reply));
        Self { messages: messages.clone(), objects: held.blocking_recv().unwrap_or_default() }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let _ = self.messages.send(Msg::LetGo(std::mem::take(&mut self.objects)));
    }
}

/// What was found of a source.
struct Found {
    plan: Blueprint,
    object: ObjectRef,
    /// The source, if it is a file: its handle and a name for it.
    file: Option<(FileHandle, OwnedFd)>,
    /// No file but the source names the object.
    complete: bool,
    removal: Option<ActionId>,
    /// The removals of further copies, which are in the plan.
    copies: Vec<(ActionId, ObjectRef)>,
}

impl Found {
    fn key(&self) -> ObjectKey {
        key(&self.object)
    }

    fn keys(&self) -> impl Iterator<Item = ObjectKey> {
        std::iter::once(self.key()).chain(self.copies.iter().map(|(_, object)| key(object)))
    }

    /// Leaves out copies of which a removal runs.
    fn keep_copies(&mut self, is_held: impl Fn(&ObjectKey) -> bool) {
        self.copies.retain(|(_, object)| is_held(&key(object)));
        let copies = &self.copies;
        self.plan.copies.retain(|copy| copies.iter().any(|(_, object)| *object == copies::object(copy)));
    }
}

fn key(object: &ObjectRef) -> ObjectKey {
    (object.archive_id, object.uuid.clone())
}

/// One new file on its way.
struct Step {
    at: usize,
    found: Found,
    new: NewFile,
    failed: Option<Failure>,
}

fn queue_failed(error: &QueueError) -> Failure {
    Failure::temporary(EIO, error.to_string())
}

/// Blocking. One result for each, in their order.
pub(crate) fn make_all(shared: &Arc<Shared>, messages: &Sender<Msg>, makes: &[Make]) -> Vec<Result<(), Failure>> {
    let mut results: Vec<Result<(), Failure>> = makes.iter().map(|_| Ok(())).collect();
    let mut settle = |at: usize, failure: Failure| {
        if let Some(slot) = results.get_mut(at) {
            *slot = Err(failure);
        }
    };
    let first_looks = makes.iter().filter_map(|make| look(shared, make).ok());
    let hold = Hold::take(messages, first_looks.flat_map(|found| found.keys().collect::<Vec<_>>()).collect());
    let held: HashSet<&ObjectKey> = hold.objects.iter().collect();
    let mut steps = Vec::new();
    for (at, make) in makes.iter().enumerate() {
        let found = look(shared, make).and_then(|mut found| {
            found.keep_copies(|key| held.contains(key));
            if held.contains(&found.key()) {
                Ok(found)
            } else {
                Err(Failure::temporary(EBUSY, "its object is being removed or replaced at this moment"))
            }
        });
        let made = found.and_then(|found| {
            let like = found.file.as_ref().map(|(_, fd)| fd);
            let new = NewFile::create(&shared.fs, &make.at.directory, &found.plan, like)?;
            Ok(Step { at, found, new, failed: None })
        });
        match made {
            Ok(step) => steps.push(step),
            Err(failure) => settle(at, failure),
        }
    }
    if !steps.is_empty() {
        let registered = register(shared, &steps, makes);
        match registered {
            Ok(()) => complete(shared, &mut steps, makes),
            Err(failure) => steps.iter_mut().for_each(|step| step.failed = Some(failure.clone())),
        }
        end(shared, messages, &steps);
    }
    for step in steps {
        if let Some(failure) = step.failed {
            settle(step.at, failure);
        }
    }
    drop(hold);
    results
}

fn look(shared: &Shared, make: &Make) -> Result<Found, Failure> {
    check_name(&make.at.name)?;
    match &make.source {
        Source::File(target) => look_at_file(shared, target),
        Source::Retired(id) => look_at_retired(shared, *id),
    }
}

fn look_at_file(shared: &Shared, target: &Target) -> Result<Found, Failure> {
    let fd = shared.fs.open(&target.handle, OFlags::PATH).map_err(|e| system("opening it by its handle", &e))?;
    let read = || FileState::read(&fd).map_err(|e| attribute(&e));
    let (state, stat) = (read()?, sys::file::stamp(&fd).map_err(|e| system("looking at it", &e))?);
    // An archive's commit says dirty before it changes anything else: two equal looks have none between them.
    if state != read()? {
        return Err(Failure::temporary(EBUSY, "its state is being changed"));
    }
    let now = stamp_of(&stat);
    let archived = "archive it first (`sifaka archive --wait`)";
    if !state.belongs_to(&target.handle) || state.record.is_none() || state.identity.uuid.is_empty() {
        return Err(Failure::permanent(EPERM, format!("it is not archived: {archived}")));
    }
    if !state.hsm.is_clean_copy() || (!state.hsm.is_released() && !is_archived_as_it_is(&state, &now)) {
        return Err(Failure::permanent(EPERM, format!("the archive does not hold its present content: {archived}")));
    }
    let archive_id =
        state.archive_id().ok_or_else(|| Failure::permanent(EIO, "its attributes name an archive that cannot be"))?;
    let record_size = state.record.as_ref().map_or(now.size, |record| record.size);
    if record_size != now.size {
        return Err(Failure::permanent(EPERM, format!("its size is not the archived one: {archived}")));
    }
    // Such an action may be run once more after a crash, and would write the object once more, with other content.
    let unfinished = |e: &queue::QueuedAction| {
        let own = &e.action.identity.uuid;
        e.action.command == Command::Archive && !own.is_empty() && state.identity.uuid.starts_with(own)
    };
    if shared.queue.of_file(&target.handle).map_err(|e| queue_failed(&e))?.iter().any(unfinished) {
        return Err(Failure::temporary(EBUSY, "archiving it has not quite ended"));
    }
    let object = ObjectRef { archive_id, uuid: state.identity.uuid.clone(), url: state.identity.url.clone() };
    let atime = model::Timestamp { seconds: stat.atime.0, nanos: stat.atime.1 };
    let plan = Blueprint {
        identity: state.identity,
        archive_id,
        size: now.size,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        atime: Some(atime),
        mtime: now.mtime,
        copies: Vec::new(),
    };
    let complete = !shared::is_marked(&fd, &object.uuid);
    let file = Some((target.handle.clone(), fd));
    Ok(Found { plan, object, file, complete, removal: None, copies: Vec::new() })
}

fn look_at_retired(shared: &Shared, id: ActionId) -> Result<Found, Failure> {
    let gone = || Failure::permanent(ENOENT, format!("nothing waits for its removal under number {id} (any more)"));
    let entry = shared.queue.get(id).map_err(|e| queue_failed(&e))?.ok_or_else(gone)?;
    let (archive_id, uuid) = (entry.action.archive_id, entry.action.identity.uuid);
    let waiting = shared.queue.retired_object(archive_id, &uuid, usize::MAX).map_err(|e| queue_failed(&e))?;
    let found = waiting.into_iter().find(|found| found.id == id).ok_or_else(gone)?;
    let copies = copies_of_deleted(shared, &found)?;
    let further = |copy: &RetiredObject| {
        let ObjectRef { archive_id, uuid, url } = copy.object.clone();
        Copy { archive_id, identity: Identity { uuid, hash: copy.retired.about.hash, url } }
    };
    let about = found.retired.about;
    if about.mode == 0 {
        return Err(Failure::permanent(
            ENOENT,
            "nothing but the object's name was recorded of the file: `sifaka import` can make a file of it",
        ));
    }
    let object = found.object;
    let plan = Blueprint {
        identity: Identity { uuid: object.uuid.clone(), hash: about.hash, url: object.url.clone() },
        archive_id,
        size: about.size,
        mode: about.mode,
        uid: about.uid,
        gid: about.gid,
        atime: None,
        mtime: about.mtime,
        copies: copies.iter().map(further).collect(),
    };
    let copies = copies.into_iter().map(|copy| (copy.id, copy.object)).collect();
    Ok(Found { plan, object, file: None, complete: id > shared.doubted, removal: Some(id), copies })
}

/// The further copies of a deleted file: they wait like its first one, and are no file alone.
fn copies_of_deleted(shared: &Shared, deleted: &RetiredObject) -> Result<Vec<RetiredObject>, Failure> {
    if deleted.retired.replaced {
        return Ok(Vec::new());
    }
    let of_file = shared.queue.retired_of_file(&deleted.retired.file, MAX_RETIRED).map_err(|e| queue_failed(&e))?;
    let is_copy = |other: &RetiredObject| {
        !other.retired.replaced
            && other.retired.about.mode == 0
            && other.retired.retired_ms == deleted.retired.retired_ms
    };
    Ok(of_file.into_iter().filter(is_copy).take(model::Copies::MAX).collect())
}

/// Step 3.
fn register(shared: &Shared, steps: &[Step], makes: &[Make]) -> Result<(), Failure> {
    let mut changes = Vec::new();
    for step in steps {
        let (found, new) = (&step.found, step.new.handle.clone());
        let files = found.file.iter().map(|(file, _)| file.clone()).chain([new.clone()]).collect();
        changes.push(Change::Share { object: found.object.clone(), complete: found.complete, files });
        for (_, copy) in &found.copies {
            let (object, files) = (copy.clone(), vec![new.clone()]);
            changes.push(Change::Share { object, complete: found.complete, files });
        }
        if !found.copies.is_empty() {
            changes.push(copies::remember(&new, &found.plan.copies));
        }
        // A stamp that no file has: only its object counts, until the file is restored.
        let stamp = SyncedStamp { stamp: Stamp::default(), object: Some(found.object.clone()) };
        changes.push(Change::SetStamp { file: new.clone(), stamp });
        let path = makes.get(step.at).and_then(|make| path_of(shared, &make.at)).unwrap_or_default();
        let Blueprint { size, mode, uid, gid, mtime, .. } = found.plan;
        let mode = 0o100_000 | (mode & 0o7777);
        let about = About { path, size, mode, uid, gid, mtime, hash: found.plan.identity.hash };
        changes.push(Change::Describe { file: new, about });
    }
    shared.queue.apply(&changes).map_err(|e| queue_failed(&e))?;
    shared::note(shared)
}

/// Below the filesystem's root.
fn path_of(shared: &Shared, at: &NewName) -> Option<Vec<u8>> {
    let mut path = shared.fs.path_of_directory(&at.directory)?;
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(&at.name);
    Some(path)
}

/// Steps 4 and 5.
fn complete(shared: &Shared, steps: &mut [Step], makes: &[Make]) {
    let mut marked = Vec::new();
    each(steps, |step| {
        if let Some((file, _)) = &step.found.file {
            marked.extend(mark_source(shared, file, &step.found.object)?);
        }
        step.new.release(&step.found.plan, shared.group.as_ref())
    });
    let synced =
        if steps.len() > SYNC_EACH { shared.fs.sync() } else { marked.iter().try_for_each(sys::file::sync_all) };
    if let Err(error) = synced {
        let failure = system("syncing the filesystem", &error);
        return each(steps, |_| Err(failure.clone()));
    }
    if steps.len() <= SYNC_EACH {
        each(steps, |step| step.new.sync());
    }
    each(steps, |step| step.new.link(makes.get(step.at).map_or(b"", |make| &make.at.name)));
    if steps.len() > SYNC_EACH && shared.fs.sync().is_ok() {
        return;
    }
    each(steps, |step| step.new.sync_directory());
}

/// What has not failed yet.
fn each(steps: &mut [Step], mut work: impl FnMut(&Step) -> Result<(), Failure>) {
    for step in steps.iter_mut().filter(|step| step.failed.is_none()) {
        step.failed = work(step).err();
    }
}

/// Marks the file that an object had to itself so far; gives it back to be synced. That changes its ctime: if it is sure that
/// nothing else did, its recorded stamp moves with it, so that its release needs no new proof.
fn mark_source(shared: &Shared, file: &FileHandle, object: &ObjectRef) -> Result<Option<Arc<OwnedFd>>, Failure> {
    let flags = OFlags::RDONLY | OFlags::NOATIME | OFlags::NONBLOCK;
    let fd = Arc::new(shared.fs.open(file, flags).map_err(|e| system("opening the file to mark it", &e))?);
    if shared::is_marked(&fd, &object.uuid) {
        return Ok(None);
    }
    let lease = ReadLease::take(Arc::clone(&fd)).ok().flatten();
    let stamp = || sys::file::stamp(&fd).map(|stamp| stamp_of(&stamp)).map_err(|e| system("looking at it", &e));
    let before = stamp()?;
    let known = shared.queue.stamp(file).map_err(|e| queue_failed(&e))?;
    shared::mark(&fd, &object.uuid).map_err(|e| system("marking the file", &e))?;
    let after = stamp()?;
    if lease.is_some_and(|lease| lease.still_held()) && known.is_some_and(|known| known.stamp == before) {
        let stamp = SyncedStamp { stamp: after, object: Some(object.clone()) };
        let changes = [Change::SetStamp { file: file.clone(), stamp }];
        shared.queue.apply(&changes).map_err(|e| queue_failed(&e))?;
    }
    Ok(Some(fd))
}

/// Step 6; and what was said of files that did not come to be is taken back.
fn end(shared: &Shared, messages: &Sender<Msg>, steps: &[Step]) {
    let mut changes = Vec::new();
    let mut undone = Vec::new();
    for Step { found, new, failed, .. } in steps {
        match (failed, found.removal) {
            (None, removal) => undone.extend(removal.into_iter().chain(found.copies.iter().map(|(id, _)| *id))),
            (Some(_), _) => {
                let file = &new.handle;
                let forget = |(archive_id, uuid)| Change::ForgetReferrer { archive_id, uuid, file: file.clone() };
                changes.extend(found.keys().map(forget));
                changes.push(Change::ForgetStamp { file: file.clone() });
            }
        }
    }
    if let Err(error) = shared.queue.apply(&changes) {
        // Rows about files that are not there do no harm.
        tracing::warn!(%error, "cannot take back what was recorded of files that could not be made");
    }
    if !undone.is_empty() {
        let (reply, done) = oneshot::channel();
        let _ = messages.send(Msg::Cancel(Selection::Actions(undone), reply));
        let _ = done.blocking_recv();
    }
}
