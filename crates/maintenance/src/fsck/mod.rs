//! Filesystem, queue and archive compared, and what does not fit put right.
//!
//! In this order, which is what makes it safe beside an agent that works:
//!
//! 1. What the queue names is read. 2. The archive is listed. 3. The filesystem is walked, and watched for what gets another name meanwhile;
//!    that is looked at again. 4. What the queue names is read again.
//!
//! So what was listed was there before the walk; a file that names it was found, or was moved and found again; and what is on
//! its way into or out of the archive is named by the queue. Whatever then is nobody's is judged (`judge`) once more by
//! itself. Nothing is removed when the walk was not complete, or when the result looks like the wrong filesystem.

pub(crate) mod comparison;
pub(crate) mod files;
mod flags;
pub(crate) mod judge;

use crate::report::{Finding, Problem, Watcher};
use crate::walk::Walker;
use crate::{Holdings, MaintenanceError};
use comparison::{Comparison, NamedBy, TURN};
use coordinator::Filesystem;
pub(crate) use files::RESIDENT;
use files::{Collector, MOVED, Names, Onlooker, Troubles, Wrong, look, open};
pub use flags::{Directly, SetFlags};
use judge::{Judge, Orphan};
use model::{HsmFlags, ObjectId};
use serde::Serialize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use transfer::TransferError;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Number of the archive.
    pub archive_id: u32,
    /// The agent's queue database.
    pub queue: PathBuf,
    /// Put right what can be; else only tell.
    pub repair: bool,
    /// Remove also when the walk was not complete, or when hardly anything is named.
    pub force: bool,
    /// Remove also what was archived from another filesystem, and is named by none of this one's files.
    pub foreign: bool,
    /// What is younger, counted from the start, is nobody's yet and left alone.
    pub min_age: Duration,
    /// Threads that walk, and then ask the archive; at least 1.
    pub threads: usize,
}

/// What was found, and what was done about it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// Objects in the archive.
    pub objects: u64,
    /// Manifests without an object: records of directories and links, and leftovers.
    pub manifests_alone: u64,
    /// Files with HSM state.
    pub files: u64,
    /// Of those, files that name somebody else's objects, which were imported: not looked at.
    pub imported: u64,
    /// Objects that files name.
    pub named: u64,
    /// What nobody names.
    pub orphans: u64,
    /// Of those, removed.
    pub removed: u64,
    /// Not named by a file, but the queue sees to it.
    pub claimed: u64,
    /// Not named by a file, but too young to tell.
    pub young: u64,
    /// Not named by a file, and archived from another filesystem.
    pub foreign: u64,
    /// Not named by a file that was found, and not to be judged since its manifest cannot be read.
    pub unreadable: u64,
    /// Not named by a file, and nothing says that Sifaka put it there: somebody else's, perhaps, and left alone.
    pub strange: u64,
    /// Copies of objects in a bucket under keys that nothing leads to. They are left alone.
    pub strays: u64,
    /// Files whose object is gone.
    pub missing: u64,
    /// Files marked lost although their object is there.
    pub found_again: u64,
    /// Files whose attributes contradict each other.
    pub wrong: u64,
    /// Files put right.
    pub repaired: u64,
    /// What could not be put right.
    pub failed: u64,
    /// Files and directories that could not be looked at.
    pub troubles: u64,
    /// Whether every file was seen.
    pub complete: bool,
    /// Why nothing was removed although there was something to remove.
    pub refused: Option<&'static str>,
}

impl Report {
    /// Whether something is wrong still.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let wrong = self.missing + self.found_again + self.wrong;
        self.orphans == self.removed && wrong == self.repaired && self.failed + self.troubles + self.unreadable == 0
    }
}

/// What is thought of something that no file was found to name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nobody's.
    Orphan,
    /// A file names it all the same, or what it describes is there.
    Missed,
    Claimed,
    Young,
    Foreign,
    Unreadable,
    /// It lies where the archive's objects lie, and nothing says that Sifaka put it there.
    NotOurs,
    /// Removed meanwhile.
    Gone,
}

/// Rounds of looking at what was moved. Each is smaller than the one before, unless somebody moves directories all the time.
const MAX_ROUNDS: usize = 1000;

/// Compares, and repairs if asked.
///
/// # Errors
/// The archive cannot be listed, or the queue or the temporary database not be read. What was repaired until then stays.
pub fn fsck(
    fs: &Filesystem,
    holdings: &dyn Holdings,
    flags: &dyn SetFlags,
    options: &Options,
    watcher: &dyn Watcher,
) -> Result<Report, MaintenanceError> {
    let started_ms = now_ms();
    let comparison = Comparison::new()?;
    let mut report = Report::default();
    watcher.phase("reading the queue", None);
    read_claims(&comparison, options)?;
    watcher.phase("listing the archive", None);
    list(holdings, &comparison, watcher, &mut report)?;
    watcher.phase("walking the filesystem", None);
    let (comparison, wrong) = walk((fs, holdings), comparison, options, watcher, &mut report, &Scope::default())?;
    watcher.phase("reading the queue again", None);
    read_claims(&comparison, options)?;
    (report.objects, report.manifests_alone) = comparison.amounts()?;
    report.named = comparison.known()?;
    let young_from_ms = started_ms.saturating_sub(u64::try_from(options.min_age.as_millis()).unwrap_or(u64::MAX));
    let judge = Judge::new(fs, holdings, comparison, options, young_from_ms);
    let mut run = Run { judge, flags, watcher, report };
    watcher.phase("checking what nobody names", None);
    run.orphans()?;
    watcher.phase("checking files", None);
    run.files_without_object()?;
    for (file, wrong) in wrong {
        run.wrong(&file, &wrong);
    }
    Ok(run.report)
}

/// Where a walk begins, and who looks on.
#[derive(Default)]
pub(crate) struct Scope<'a> {
    /// A directory, and where it is; `None`: the root. Only who walks all can say that nobody names something, so only then is it watched for what gets
    /// another name meanwhile.
    pub(crate) from: Option<(model::FileHandle, Vec<u8>)>,
    /// See [`Onlooker`].
    pub(crate) onlooker: Option<&'a dyn Onlooker>,
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn read_claims(comparison: &Comparison, options: &Options) -> Result<(), MaintenanceError> {
    let mut added = Ok(());
    comparison.begin()?;
    let read = queue::claims(&options.queue, &mut |claim| {
        if claim.archive_id != options.archive_id {
            return ControlFlow::Continue(());
        }
        added = match &claim.file {
            None => comparison.add_claim(&claim.uuid),
            Some(file) => comparison.add_stamp(&claim.uuid, file),
        };
        if added.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    comparison.end()?;
    read?;
    Ok(added?)
}

pub(crate) fn list(
    holdings: &dyn Holdings,
    comparison: &Comparison,
    watcher: &dyn Watcher,
    report: &mut Report,
) -> Result<(), MaintenanceError> {
    comparison.begin()?;
    let mut added = Ok(());
    let mut count = 0u64;
    let mut step = |result: Result<(), rusqlite::Error>| {
        if added.is_ok() {
            added = result;
        }
        count += 1;
        if count.is_multiple_of(TURN as u64) {
            watcher.advanced(TURN as u64);
        }
        if added.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    // Manifests first: an object that comes between has none in the list, and is young.
    let manifests = holdings.manifests(&mut |id| step(comparison.add_manifest(id.as_str())));
    let mut strays = 0;
    let stray = &mut |name: PathBuf, id: ObjectId| {
        strays += 1;
        let what =
            format!("nothing leads to {}: remove it yourself, unless files have lost this object", name.display());
        watcher.found(Finding::new(Problem::Stray, what).of(id.as_str()));
    };
    let objects = holdings.objects_and_strays(&mut |id| step(comparison.add_object(id.as_str())), stray);
    report.strays = strays;
    comparison.end()?;
    added?;
    // What is in a pack that cannot be read is not listed, so nobody's it cannot be.
    match manifests.and(objects) {
        Err(MaintenanceError::Archive(error @ TransferError::Damaged { .. })) => {
            report.failed += 1;
            watcher.found(Finding::new(Problem::DamagedManifest, error.to_string()));
            Ok(())
        }
        other => other,
    }
}

pub(crate) type WrongFiles = Vec<(NamedBy, Vec<Wrong>)>;

pub(crate) fn walk(
    (fs, holdings): (&Filesystem, &dyn Holdings),
    comparison: Comparison,
    options: &Options,
    watcher: &dyn Watcher,
    report: &mut Report,
    scope: &Scope<'_>,
) -> Result<(Comparison, WrongFiles), MaintenanceError> {
    let mut collector = Collector {
        archive_id: options.archive_id,
        holdings,
        comparison: Mutex::new(comparison),
        names: None,
        managed: AtomicU64::new(0),
        imported: AtomicU64::new(0),
        troubles: Mutex::new(Troubles::default()),
        wrong: Mutex::new(Vec::new()),
        watcher,
        onlooker: scope.onlooker,
    };
    let mut blind = None;
    if scope.from.is_none() {
        match Names::watch(fs) {
            Ok(names) => collector.names = Some(names),
            Err(error) => blind = Some(format!("renames cannot be watched for: {error}")),
        }
    }
    collector.comparison().begin()?;
    let walker = Walker::new(fs, &collector);
    match &scope.from {
        Some((directory, path)) => walker.look_again(directory, path, options.threads),
        None => walker.run(options.threads),
    }
    let mut rounds = 0;
    while let Some(names) = &collector.names {
        names.drain(&collector.comparison())?;
        let moved = collector.comparison().take_moved()?;
        if moved.is_empty() {
            break;
        }
        rounds += 1;
        if rounds > MAX_ROUNDS {
            blind = Some("directories are moved faster than they can be looked at".to_owned());
            break;
        }
        for handle in moved {
            walker.look_again(&handle, MOVED, options.threads);
        }
    }
    collector.comparison().end()?;
    if collector.names.as_ref().is_some_and(Names::lost) {
        blind = Some("more was renamed than could be kept account of".to_owned());
    }
    let troubles = collector.troubles.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = troubles.database {
        return Err(error.into());
    }
    for (path, error) in troubles.first {
        watcher.found(Finding::new(Problem::Failed, format!("cannot look at it: {error}")).at(&path));
    }
    report.files = collector.managed.load(Ordering::Relaxed);
    report.imported = collector.imported.load(Ordering::Relaxed);
    report.troubles = troubles.count + u64::from(blind.is_some());
    report.complete = report.troubles == 0;
    if let Some(why) = blind {
        watcher.found(Finding::new(Problem::Failed, why));
    }
    let comparison = collector.comparison.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok((comparison, collector.wrong.into_inner().unwrap_or_else(PoisonError::into_inner)))
}

/// The part after the comparison.
struct Run<'a> {
    judge: Judge<'a>,
    flags: &'a dyn SetFlags,
    watcher: &'a dyn Watcher,
    report: Report,
}

impl Run<'_> {
    fn options(&self) -> &Options {
        self.judge.options
    }

    fn orphans(&mut self) -> Result<(), MaintenanceError> {
        // All are found before any is removed: how many there are says whether this can be the right filesystem.
        let mut after = String::new();
        loop {
            let turn = self.judge.comparison().unnamed(&after)?;
            let Some(last) = turn.last() else { break };
            after.clone_from(last);
            let count = turn.len() as u64;
            for (id, verdict) in self.judge.for_each(turn, |id| self.judge.judge(id))? {
                match verdict {
                    Verdict::Orphan => self.judge.comparison().add_orphan(&id)?,
                    verdict => self.count(&id, verdict),
                }
            }
            self.watcher.advanced(count);
        }
        let orphans = self.judge.comparison().orphan_count()?;
        self.report.refused = match () {
            () if orphans == 0 || !self.options().repair || self.options().force => None,
            () if !self.report.complete => Some("not every file could be looked at"),
            () if self.report.named == 0 => Some("no file names anything in this archive: is it the right filesystem?"),
            () if orphans > self.report.named => Some(
                "more is nobody's than is named by files: is it the right filesystem, and the only one of this archive?",
            ),
            () => None,
        };
        let remove = self.options().repair && self.report.refused.is_none();
        let mut after = String::new();
        loop {
            let turn = self.judge.comparison().orphans(&after)?;
            let Some(last) = turn.last() else { return Ok(()) };
            after.clone_from(last);
            // Once more, since that may be long ago: each right before it is removed.
            let judged = self.judge.for_each(turn, |id| match self.judge.judge(id)? {
                Verdict::Orphan => Ok(Err(self.judge.orphan(id, remove)?)),
                verdict => Ok(Ok(verdict)),
            })?;
            for (id, judged) in judged {
                match judged {
                    Err(orphan) => self.orphan(&id, orphan),
                    Ok(verdict) => self.count(&id, verdict),
                }
            }
        }
    }

    fn count(&mut self, id: &str, verdict: Verdict) {
        let report = &mut self.report;
        match verdict {
            Verdict::Gone | Verdict::Missed | Verdict::Orphan => {}
            Verdict::Claimed => report.claimed += 1,
            Verdict::Young => report.young += 1,
            Verdict::Foreign => report.foreign += 1,
            Verdict::NotOurs => {
                report.strange += 1;
                let what = "it lies among the archive's objects, with neither Sifaka's mark nor a manifest, and no file names it: it is left alone";
                self.watcher.found(Finding::new(Problem::UnknownManifest, what).of(id));
            }
            Verdict::Unreadable => {
                report.unreadable += 1;
                let what = "no file names it, and its manifest cannot be read: it is left alone";
                self.watcher.found(Finding::new(Problem::DamagedManifest, what).of(id));
            }
        }
    }

    fn orphan(&mut self, id: &str, Orphan { manifest, removed }: Orphan) {
        self.report.orphans += 1;
        let what = match removed {
            None => "no file names it".to_owned(),
            Some(Ok(())) => {
                self.report.removed += 1;
                "no file names it: removed".to_owned()
            }
            Some(Err(error)) => {
                self.report.failed += 1;
                format!("no file names it, and it cannot be removed: {error}")
            }
        };
        let finding = Finding::new(Problem::Orphan, what).of(id);
        self.watcher.found(match &manifest {
            Some(manifest) => finding.at(&manifest.path),
            None => finding,
        });
    }

    fn files_without_object(&mut self) -> Result<(), MaintenanceError> {
        let mut after = None;
        loop {
            let turn = self.judge.comparison().without_object(after.as_ref())?;
            let Some(last) = turn.last() else { return Ok(()) };
            after = Some(last.handle.clone());
            for file in &turn {
                self.without_object(file)?;
            }
            self.watcher.advanced(turn.len() as u64);
        }
    }

    /// The file as it is now, and the archive as it is now: both may have changed since they were listed.
    fn without_object(&mut self, file: &NamedBy) -> Result<(), MaintenanceError> {
        let Some((state, others)) = self.state_now(file) else { return Ok(()) };
        let here = self.options().archive_id;
        let first = state.identity.uuid == file.uuid && state.archive_id() == Some(here);
        let further = others.iter().any(|copy| copy.archive_id == here && copy.identity.uuid == file.uuid);
        if !first && !further {
            return Ok(());
        }
        match ObjectId::parse(&file.uuid).map(|id| self.judge.holdings.head(&id)) {
            Ok(Ok(Some(_))) => return Ok(()),
            Ok(Ok(None)) | Err(_) => {}
            Ok(Err(error @ MaintenanceError::Unreachable(_))) => return Err(error),
            // Damaged is not gone.
            Ok(Err(error)) => {
                self.report.failed += 1;
                self.watcher.found(Finding::new(Problem::Failed, error.to_string()).at(&file.path).of(&file.uuid));
                return Ok(());
            }
        }
        let released = state.hsm.is_released();
        if released && (further || !others.is_empty()) {
            // Not lost: a reader gets it from there.
            self.report.missing += 1;
            let what = "its object is gone; another archive has a copy: restore it, then archive it with --force";
            self.watcher.found(Finding::new(Problem::NoObject, what).at(&file.path).of(&file.uuid));
            return Ok(());
        }
        let mark = if released { HsmFlags::LOST } else { HsmFlags::DIRTY };
        if state.hsm.flags.contains(mark) {
            // Known already; still not right when the content is gone.
            if released {
                self.report.missing += 1;
                let what = "its object is gone, and its content with it; it is marked lost";
                self.watcher.found(Finding::new(Problem::NoObject, what).at(&file.path).of(&file.uuid));
            }
            return Ok(());
        }
        self.report.missing += 1;
        let what = if released {
            "its object is gone, and its content with it"
        } else {
            "its object is gone; its content is here, and has to be archived again"
        };
        self.repair(file, Problem::NoObject, what, mark, HsmFlags::empty());
        Ok(())
    }

    /// With its further copies.
    fn state_now(&mut self, file: &NamedBy) -> Option<(coordinator::FileState, Vec<model::Copy>)> {
        let fd = open(self.judge.fs, &file.handle).ok()??;
        let state = look(&fd).ok()?.state?;
        let copies = coordinator::further_copies(&fd, &state);
        Some((state, copies))
    }

    fn wrong(&mut self, file: &NamedBy, wrong: &[Wrong]) {
        for wrong in wrong {
            if *wrong == Wrong::MarkedLost {
                self.marked_lost(file);
                continue;
            }
            self.report.wrong += 1;
            match wrong {
                Wrong::MarkedLost => {}
                Wrong::ReleasedWithoutObject => {
                    // Not made resident: its readers would get zeros.
                    let what = "it is released and names no object: its content is lost";
                    let lost = HsmFlags::LOST.with(HsmFlags::EXISTS).with(HsmFlags::ARCHIVED);
                    self.repair(file, Problem::Attribute, what, lost, HsmFlags::empty());
                }
                Wrong::CopyWithoutObject => {
                    let what = "it says that it is archived and names no object";
                    let copy = HsmFlags::EXISTS.with(HsmFlags::ARCHIVED);
                    self.repair(file, Problem::Attribute, what, HsmFlags::empty(), copy);
                }
                Wrong::LeftoverResidency => self.clear_residency(file),
                Wrong::Damaged => {
                    self.report.failed += 1;
                    let what = "its HSM attributes are damaged; look at them with `getfattr -d -m trusted -e hex`";
                    self.watcher.found(Finding::new(Problem::Attribute, what).at(&file.path));
                }
            }
        }
    }

    fn marked_lost(&mut self, file: &NamedBy) {
        let here = self.state_now(file).map(|(state, _)| state);
        let here = here.filter(|state| state.archive_id() == Some(self.options().archive_id));
        let id = here.and_then(|state| ObjectId::parse(&state.identity.uuid).ok());
        if id.is_some_and(|id| matches!(self.judge.holdings.head(&id), Ok(Some(_)))) {
            self.report.found_again += 1;
            let what = "it is marked lost, and its object is there";
            self.repair(file, Problem::Attribute, what, HsmFlags::empty(), HsmFlags::LOST);
        }
    }

    fn repair(&mut self, file: &NamedBy, problem: Problem, what: &'static str, set: HsmFlags, clear: HsmFlags) {
        let finding = |what: String| Finding::new(problem, what).at(&file.path).of(&file.uuid);
        if !self.options().repair {
            self.watcher.found(finding(what.to_owned()));
            return;
        }
        match self.flags.set(&file.handle, &file.path, set, clear) {
            Ok(()) => {
                self.report.repaired += 1;
                let marks = |flags: HsmFlags| flags.names().collect::<Vec<_>>().join(", ");
                let done = if set == HsmFlags::empty() {
                    format!("cleared {}", marks(clear))
                } else {
                    format!("marked {}", marks(set))
                };
                self.watcher.found(finding(format!("{what}: {done}")));
            }
            Err(why) => {
                self.report.failed += 1;
                self.watcher.found(finding(format!("{what}, and cannot be marked so: {why}")));
            }
        }
    }

    /// Harmless whatever happens beside: without the list, parts are only fetched once more.
    fn clear_residency(&mut self, file: &NamedBy) {
        let finding = |what: String| Finding::new(Problem::Attribute, what).at(&file.path);
        let what = "it has all its content, and a list of parts that are there";
        if !self.options().repair {
            self.watcher.found(finding(what.to_owned()));
            return;
        }
        let cleared = open(self.judge.fs, &file.handle).and_then(|fd| match fd {
            Some(fd) if look(&fd)?.wrong.contains(&Wrong::LeftoverResidency) => sys::xattr::remove(&fd, RESIDENT),
            _ => Ok(false),
        });
        match cleared {
            Ok(_) => {
                self.report.repaired += 1;
                self.watcher.found(finding(format!("{what}: removed that")));
            }
            Err(error) => {
                self.report.failed += 1;
                self.watcher.found(finding(format!("{what}, which cannot be removed: {error}")));
            }
        }
    }
}
