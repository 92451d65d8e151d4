//! The question before a removal: does any file name the object still?
//!
//! It is asked of the queue for many objects at once, and then of the files that the queue names. See [`crate::shared`] for what
//! proves that none does. Where nothing proves it the object stays, and the action's failure says so: finding out takes a look at all
//! files, which is `sifaka fsck`'s.
//!
//! What was true when it was asked stays true until the removal has ended, however long that takes: the brain lets no new file come to
//! name an object once its removal has begun, and lets no removal go on that began while such a file was being made.

use crate::copies;
use crate::engine::Shared;
use crate::filesystem::Filesystem;
use crate::prepare::{ENOENT, ESTALE, Prepared, system};
use crate::shared::unreadable;
use model::{ActionId, Failure, FileHandle, Identity};
use queue::{Queue, Standing};
use sys::OFlags;

const EBUSY: i32 = 16;
const EINVAL: i32 = 22;

/// Referrers looked at for one question to the queue.
const PAGE: usize = 256;

/// A removal that a mover gets only when the object may go.
#[derive(Debug)]
pub(crate) struct Removal {
    /// Of the action.
    pub(crate) key: u64,
    pub(crate) archive_id: u32,
    pub(crate) identity: Identity,
}

impl Removal {
    fn id(&self) -> ActionId {
        ActionId(self.key)
    }
}

/// Lets removals go on whose objects may go: `tell` hears of each removal once. First, and together, of those that need no look at
/// files; then of one at a time, since looking may take long.
pub(crate) fn gate(shared: &Shared, removals: Vec<Removal>, tell: impl FnMut(Vec<(u64, Prepared)>)) {
    let (fs, queue) = (&*shared.fs, shared.queue.as_ref());
    Gate { fs, queue, doubted: shared.doubted, now_ms: shared.now_ms() }.pass(removals, tell);
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// No file names it.
    Remove,
    /// It is needed still: why.
    Keep(String),
}

enum First {
    Settled(Verdict),
    /// The files that the queue knows have to be looked at; whether it knows all.
    Look {
        complete: bool,
    },
}

struct Gate<'a> {
    fs: &'a Filesystem,
    queue: &'a dyn Queue,
    doubted: ActionId,
    now_ms: u64,
}

impl Gate<'_> {
    fn pass(&self, removals: Vec<Removal>, mut tell: impl FnMut(Vec<(u64, Prepared)>)) {
        let found = self.ask(&removals);
        let (mut settled, mut looks) = (Vec::new(), Vec::new());
        for (removal, standing) in removals.into_iter().zip(found) {
            match self.first_verdict(&removal, standing) {
                Ok(First::Look { complete }) => looks.push((removal, complete)),
                Ok(First::Settled(verdict)) => settled.push(answer(removal, Ok(verdict))),
                Err(failure) => settled.push(answer(removal, Err(failure))),
            }
        }
        if !settled.is_empty() {
            tell(settled);
        }
        for (removal, complete) in looks {
            let verdict = self.look(&removal, complete);
            tell(vec![answer(removal, verdict)]);
        }
    }

    /// One answer for each.
    fn ask(&self, removals: &[Removal]) -> Vec<Result<Standing, Failure>> {
        let mut asked = Vec::with_capacity(removals.len());
        for removal in removals {
            let Removal { archive_id, identity, .. } = removal;
            asked.push(queue::Removal { id: removal.id(), archive_id: *archive_id, uuid: &identity.uuid });
        }
        match self.queue.standing(&asked, self.now_ms) {
            Ok(found) => found.into_iter().map(Ok).collect(),
            Err(error) => asked.iter().map(|_| Err(unreadable(&error))).collect(),
        }
    }

    fn first_verdict(&self, removal: &Removal, standing: Result<Standing, Failure>) -> Result<First, Failure> {
        if removal.identity.uuid.is_empty() {
            // Files name objects by their ids.
            return Ok(First::Settled(Verdict::Remove));
        }
        if removal.id() <= self.doubted {
            return Err(unproven("was asked for before the queue database was lost or restored from an older copy"));
        }
        let Standing { waits, shared } = standing?;
        if waits {
            let why = "it was another file's too, whose grace period is not over";
            return Ok(First::Settled(Verdict::Keep(why.into())));
        }
        Ok(shared.map_or(First::Settled(Verdict::Remove), |complete| First::Look { complete }))
    }

    fn look(&self, removal: &Removal, complete: bool) -> Result<Verdict, Failure> {
        let (archive_id, uuid) = (removal.archive_id, &removal.identity.uuid);
        let mut after = None;
        loop {
            let page = self.queue.referrers(archive_id, uuid, after.as_ref(), PAGE).map_err(|e| unreadable(&e))?;
            for file in &page {
                if names(self.fs, file, uuid)? {
                    return Ok(Verdict::Keep(format!("file {file} names it")));
                }
            }
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
        }
        if complete {
            Ok(Verdict::Remove)
        } else {
            Err(unproven("may be named by files that the queue database does not know"))
        }
    }
}

fn answer(removal: Removal, verdict: Result<Verdict, Failure>) -> (u64, Prepared) {
    let Removal { key, identity, .. } = removal;
    let prepared = match verdict {
        Ok(Verdict::Remove) => Prepared::Run(None, identity),
        Ok(Verdict::Keep(why)) => {
            tracing::info!(object = identity.uuid, why, "the object is kept");
            Prepared::Done(identity.uuid)
        }
        Err(failure) => Prepared::Failed(failure),
    };
    (key, prepared)
}

fn unproven(why: &str) -> Failure {
    Failure::permanent(
        EBUSY,
        format!("the object is kept: it {why}. `sifaka fsck` finds out whether any file names it"),
    )
}

/// Whether the file is there and names the object.
fn names(fs: &Filesystem, file: &FileHandle, uuid: &str) -> Result<bool, Failure> {
    let fd = match fs.open(file, OFlags::PATH) {
        Ok(fd) => fd,
        Err(error) if matches!(error.raw_os_error(), Some(ESTALE | ENOENT | EINVAL)) => return Ok(false),
        Err(error) => return Err(system("looking at a file that may name it", &error)),
    };
    // One whose attributes are damaged may be repaired.
    Ok(copies::names(&fd, uuid).unwrap_or(true))
}

#[cfg(test)]
mod held;
#[cfg(test)]
mod tests;
