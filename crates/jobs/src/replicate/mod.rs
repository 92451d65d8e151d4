//! A copy of a tree in another place, kept up to date: for the day on which the tree is lost.
//!
//! For: `sifaka replicate`. Not for: one copy at one time ([`crate::migrate`], which does the work here, too). **Blocks.**
//!
//! - `control`: what a replica says of itself, and who may write to it.
//! - `follow`: what the kernel tells of changes is brought over (`listener`, `pending`); `moves`: renames.
//! - `pulse`: what goes on beside the copying. `status`: what is told of it.
//! - `points`: what the replica was at some moments; `instants`: when.
//!
//! What is removed or replaced in the replica stays in it for a grace period ([`crate::migrate::Attic`]). Whoever replicates into a directory that is no
//! replica of the same source, or was promoted, has to say so ([`Plan::adopt`]).

mod control;
mod follow;
mod instants;
mod listener;
mod moves;
mod pending;
mod points;
mod pulse;
mod status;

pub use control::{NAME, Replica};
pub use points::{Method, Point, Retention};
pub use status::{Mode, Pass, PointsStatus, Status};

use crate::failure::JobError;
use crate::filter::Filter;
use crate::migrate::{Attic, End, Existing, Options, migrate};
use crate::report::{Tally, Watcher};
use control::Control;
use listener::Listener;
use parking_lot::Mutex;
use points::Points;
use pulse::Pulse;
use std::num::NonZeroU64;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use sys::OFlags;

/// Between two looks at whether it is to end.
const TICK: Duration = Duration::from_millis(100);
/// Whoever promotes a replica waits so long for its replicator to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two passes where nobody tells what changes, and where somebody does.
const EVERY: Duration = Duration::from_secs(600);
const EVERY_DAY: Duration = Duration::from_secs(86_400);
const REMOVED: &str = "removed";

/// What a replication is to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// One pass, and no more.
    pub once: bool,
    /// From the end of a pass to the next one. Without it ten minutes, and a day where the kernel tells what changes.
    pub every: Option<Duration>,
    /// The kernel is asked to tell what changes, where it can.
    pub events: bool,
    /// For so long what was removed or replaced is kept; not at all if it is nothing.
    pub grace: Duration,
    /// The destination becomes a replica of the source, whatever it was.
    pub adopt: bool,
    /// What the job is for.
    pub filter: Filter,
    /// Bytes of content a second, all threads together.
    pub limit: Option<NonZeroU64>,
    /// So many threads; without a number they are adapted.
    pub threads: Option<usize>,
    /// Other filesystems below the source are entered.
    pub cross: bool,
    /// Where a pass keeps how far it is.
    pub state: PathBuf,
    /// Somebody is told when the replica lags by more.
    pub alarm_after: Option<Duration>,
    /// Points in time are taken. Without it those that there are stay as they are.
    pub points: Option<Retention>,
}

/// Who is told how it goes.
pub trait Observer: Watcher {
    /// Of files that this asks for: itself.
    fn watcher(&self) -> &dyn Watcher;
    /// A status was written.
    fn status(&self, status: &Status);
    /// The replica lags by so many seconds, which is more than it should.
    fn alarm(&self, lag: u64);
    /// A point in time was taken, or could not be, for this reason.
    fn point(&self, taken: Result<&Point, &str>);
    /// A pass begins: problems are told again.
    fn begins(&self);
}

/// Why it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// One pass was asked for, and is done.
    Done,
    /// It was asked to.
    Interrupted,
    /// The replica was promoted meanwhile.
    Promoted,
}

/// Keeps the directory `target` a copy of what is in the directory `source`, until `stop` is set.
///
/// However it ends, the next run brings the replica up to date again. Sets the process's umask to nothing.
///
/// # Errors
/// It cannot begin, or not go on. What goes wrong with single files is told, counted, and tried again in the next pass.
pub fn replicate(
    source: &Path,
    target: &Path,
    plan: &Plan,
    tally: &Tally,
    observer: &dyn Observer,
    stop: &AtomicBool,
) -> Result<Ended, JobError> {
    let from = open_root(source)?;
    let to = open_or_make(target)?;
    apart(&from, source, &to, target)?;
    may_be_source(&from, source)?;
    let control = prepare(source, &to, target, plan)?;
    let _lock = control.lock()?;
    adopt(&control, source, target, plan)?;
    let earlier: Status = control.read(status::NAME).unwrap_or_default().unwrap_or_default();
    let status = Status {
        synced_to: earlier.synced_to.filter(|_| !plan.adopt),
        last_pass: earlier.last_pass,
        host: host(),
        ..Status::default()
    };
    let pulse = Pulse::new(&control, tally, observer, stop, plan.alarm_after, status);
    let attic = (!plan.grace.is_zero())
        .then(|| control.directory(REMOVED).map(|root| Arc::new(Attic::new(root, plan.grace))))
        .transpose()?;
    let points = Points::open(&control)?;
    let due = Mutex::new(Due::first(plan, &points)?);
    let control = &control;
    let replication = Replication { source, target, plan, tally, observer, control, pulse: &pulse, attic, points, due };
    std::thread::scope(|scope| {
        scope.spawn(|| pulse.run());
        let ended = replication.run();
        pulse.end();
        if let Err(error) = &ended {
            pulse.status.lock().trouble = Some(error.to_string());
        }
        if !pulse.promoted.load(Ordering::Relaxed) {
            pulse.write(None);
        }
        ended
    })
}

/// Marks a replica as promoted: nothing is replicated into it any more, and a replicator that runs is told to end. Waits for that.
///
/// # Errors
/// It is no replica. [`JobError::Running`]: it is promoted, but a replicator has not ended yet.
pub fn promote(target: &Path) -> Result<Replica, JobError> {
    let control = of_replica(target)?;
    let none = || JobError::Senseless(format!("{} is no replica", target.display()));
    let mut replica = control.replica()?.ok_or_else(none)?;
    if replica.promoted.is_none() {
        replica.promoted = Some(now());
        control.set_replica(&replica)?;
    }
    let began = Instant::now();
    loop {
        match control.lock() {
            Err(JobError::Running { .. }) if began.elapsed() < PATIENCE => std::thread::sleep(TICK),
            Err(error) => return Err(error),
            Ok(_) => {
                // Nobody else would do it any more.
                if let Err(error) = Points::open(&control)?.sweep(&|| false) {
                    tracing::warn!(%error, "cannot remove what is left of points in time");
                }
                return Ok(replica);
            }
        }
    }
}

/// What a replica says of itself.
///
/// # Errors
/// It is none, or what it says makes no sense.
pub fn look(target: &Path) -> Result<(Replica, Status), JobError> {
    let control = of_replica(target)?;
    let none = || JobError::Senseless(format!("{} is no replica", target.display()));
    let replica = control.replica()?.ok_or_else(none)?;
    Ok((replica, control.read(status::NAME)?.unwrap_or_default()))
}

/// The points in time of a replica, the oldest first.
///
/// # Errors
/// It is no replica, or cannot be read.
pub fn points(target: &Path) -> Result<Vec<Point>, JobError> {
    let control = of_replica(target)?;
    if control.has(points::NAME).map_err(JobError::io("find points in time in", target))? {
        Points::open(&control)?.list()
    } else {
        Ok(Vec::new())
    }
}

/// For [`Options::names_outside`], of whoever else writes into a directory: it may be a replica, and its files may have names in points in time.
pub fn names_outside(target: &Path) -> Option<u64> {
    let control = of_replica(target).ok()?;
    if !control.has(points::NAME).ok()? {
        return None;
    }
    Points::open(&control).ok()?.names_outside()
}

fn of_replica(target: &Path) -> Result<Control, JobError> {
    let control = Control::open(open_root(target)?.as_fd(), target)?;
    control.ok_or_else(|| JobError::Senseless(format!("{} is no replica: there is no {NAME} in it", target.display())))
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "?".to_owned(), |name| name.trim().to_owned())
}

fn open_root(path: &Path) -> Result<OwnedFd, JobError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, sys::Mode::empty()).map_err(JobError::io("open", path))
}

fn open_or_make(path: &Path) -> Result<OwnedFd, JobError> {
    match rustix::fs::mkdir(path, sys::Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => open_root(path),
        Err(error) => Err(JobError::io("make the directory", path)(error)),
    }
}

fn apart(from: &OwnedFd, source: &Path, to: &OwnedFd, target: &Path) -> Result<(), JobError> {
    crate::migrate::separate(from, source, to, target, false)
}

/// A source that is a replica itself has to be promoted; another thing of that name would not be copied.
fn may_be_source(from: &OwnedFd, source: &Path) -> Result<(), JobError> {
    let reserved = |why: &str| {
        let path = source.join(NAME);
        JobError::Senseless(format!("{}: {why}", path.display()))
    };
    let found = match rustix::fs::statat(from, NAME, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        other => other.map_err(JobError::io("find", &source.join(NAME)))?,
    };
    let is_directory = rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::Directory;
    let control = if is_directory { Control::open(from.as_fd(), source)? } else { None };
    match control.map(|control| control.replica()).transpose()?.flatten() {
        None => Err(reserved("this name is a replica's own and is not copied: rename it first")),
        Some(replica) if replica.promoted.is_none() => Err(reserved(
            "the source is a replica itself; if it is to take its source's place, promote it first (sifaka replicate --promote)",
        )),
        Some(_) => Ok(()),
    }
}

/// Finds or makes the control directory, if the destination may become a replica at all.
fn prepare(source: &Path, to: &OwnedFd, target: &Path, plan: &Plan) -> Result<Control, JobError> {
    if let Some(control) = Control::open(to.as_fd(), target)? {
        return Ok(control);
    }
    if !plan.adopt && !control::is_empty(to).map_err(JobError::io("list", target))? {
        return Err(JobError::Senseless(format!(
            "{} is no replica and not empty: what {} does not have would be removed from it; say --adopt if that is meant",
            target.display(),
            source.display()
        )));
    }
    Control::make(to.as_fd(), target)
}

/// With the lock held.
fn adopt(control: &Control, source: &Path, target: &Path, plan: &Plan) -> Result<(), JobError> {
    let wanted = Replica::of(source)?;
    let refused = |why: String| Err(JobError::Senseless(why));
    let (source, target) = (source.display(), target.display());
    match control.replica() {
        Ok(None) => control.set_replica(&wanted),
        _ if plan.adopt => control.set_replica(&wanted),
        Ok(Some(found)) if found.promoted.is_some() => refused(format!(
            "{target} was promoted: it is nobody's replica any more; with --adopt it becomes one of {source}, and what was changed in it is removed"
        )),
        Ok(Some(found)) if found.source_id != wanted.source_id => refused(format!(
            "{target} is a replica of {} ({}), and {source} is something else ({}): is it mounted? With --adopt it becomes one of that",
            found.source, found.source_id, wanted.source_id
        )),
        Ok(Some(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// When the next point in time is due.
struct Due {
    at: Instant,
    /// The last look at what was kept for long enough.
    expired: Option<Instant>,
}

impl Due {
    fn first(plan: &Plan, points: &Points) -> Result<Self, JobError> {
        let every = plan.points.map(|retention| retention.every).unwrap_or_default();
        // Who is called by a clock is not always called at the same moment.
        let every = if plan.once { every - every / 10 } else { every };
        let newest = points.list()?.pop();
        let age = newest.map_or(every, |point| Duration::from_secs(now().saturating_sub(point.synced_to)));
        Ok(Self { at: Instant::now() + every.saturating_sub(age), expired: None })
    }
}

/// One run.
struct Replication<'a> {
    source: &'a Path,
    target: &'a Path,
    plan: &'a Plan,
    tally: &'a Tally,
    observer: &'a dyn Observer,
    control: &'a Control,
    pulse: &'a Pulse<'a>,
    attic: Option<Arc<Attic>>,
    points: Points,
    due: Mutex<Due>,
}

impl Replication<'_> {
    fn run(&self) -> Result<Ended, JobError> {
        self.tell_points();
        let may_listen = self.plan.events && !self.plan.once && !self.plan.cross;
        if let Some(listener) = may_listen.then(|| Listener::new(self.source)).flatten() {
            return self.follow(&listener);
        }
        loop {
            if self.pass()? {
                self.point(false);
            }
            if let Some(ended) = self.ended() {
                return Ok(ended);
            }
            if self.plan.once {
                return Ok(Ended::Done);
            }
            let due = Instant::now() + self.plan.every.unwrap_or(EVERY);
            while Instant::now() < due && !self.pulse.is_stopped() {
                std::thread::sleep(TICK);
            }
            if let Some(ended) = self.ended() {
                return Ok(ended);
            }
        }
    }

    fn ended(&self) -> Option<Ended> {
        let promoted = self.pulse.promoted.load(Ordering::Relaxed);
        self.pulse.is_stopped().then_some(if promoted { Ended::Promoted } else { Ended::Interrupted })
    }

    fn options(&self) -> Options {
        Options {
            existing: Existing::Update,
            delete: true,
            cross: self.plan.cross,
            filter: self.plan.filter.clone(),
            limit: self.plan.limit,
            threads: self.plan.threads,
            state: Some(self.plan.state.clone()),
            attic: self.attic.clone(),
            reserved: Some(NAME),
            names_outside: self.names_outside(),
            ..Options::default()
        }
    }

    /// Over the whole tree. What an interrupted pass had finished may have changed since: after the rest, all is looked at once more.
    /// Whether all is at the destination.
    fn pass(&self) -> Result<bool, JobError> {
        self.is_still_there()?;
        self.observer.begins();
        self.pulse.status.lock().in_pass = true;
        loop {
            let (began, before) = (now(), self.failed());
            let options = self.options();
            let End { interrupted, resumed, .. } =
                migrate(self.source, self.target, &options, self.tally, self.observer.watcher(), &self.pulse.stop)?;
            if interrupted {
                return Ok(false);
            }
            if resumed {
                continue;
            }
            let pass = Pass { began, ended: now(), failed: self.failed() - before };
            {
                let mut status = self.pulse.status.lock();
                (status.in_pass, status.last_pass) = (false, Some(pass));
                if pass.failed == 0 {
                    status.synced_to = Some(began);
                }
            }
            self.pulse.write(Some(std::process::id()));
            self.purge();
            return Ok(pass.failed == 0);
        }
    }

    fn failed(&self) -> u64 {
        let totals = self.tally.totals();
        totals.failed + totals.refused
    }

    /// An empty directory on which nothing is mounted is not the source, and would empty the replica.
    fn is_still_there(&self) -> Result<(), JobError> {
        let (found, replica) = (control::identity(self.source)?, self.control.replica()?);
        match replica {
            Some(replica) if replica.source_id == found => Ok(()),
            _ => {
                let source = self.source.display();
                Err(JobError::Senseless(format!("{source} is not what it was when this began: is it still mounted?")))
            }
        }
    }

    fn purge(&self) {
        self.expire();
        let Some(attic) = &self.attic else { return };
        if let Err(error) = attic.purge(&|| self.pulse.is_stopped()) {
            tracing::warn!(%error, "cannot remove all that was kept for longer than the grace period");
        }
    }

    /// Of files of the replica: where there are any in points in time, none of those is changed in place.
    fn names_outside(&self) -> Option<u64> {
        self.points.names_outside()
    }
}
