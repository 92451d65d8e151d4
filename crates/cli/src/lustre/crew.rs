//! Several threads that each take a file on Lustre and work on it, until the walk ends; what became of each, told as it goes.

use super::{Filesystem, LustreFile};
use crate::exit::{CliError, Exit};
use crate::names::{FilesArgs, Found, walk};
use crate::output::{complain, escaped_path};
use crate::render::crewed::human;
use crate::watch::Told;
use ::lustre::{Outcome, Trouble, Work};
use maintenance::report::Watcher;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use sys::lustre::Library;
use tokio::sync::mpsc::Receiver;

/// How files are worked on.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct CrewArgs {
    /// Files that are worked on at one time
    #[arg(short, long, value_name = "N", default_value = "4")]
    pub(crate) jobs: NonZeroUsize,
    /// Move so many bytes of content a second at most, such as 100MB/s, for all files together
    #[arg(short, long, value_name = "RATE", value_parser = rate)]
    pub(crate) bandwidth_limit: Option<NonZeroU64>,
    /// Try a file that is in use so often before it is left as it is
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) tries: u32,
    /// Say what would be done, and change nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Print JSON: an object a file, one a line, and the totals last
    #[arg(long)]
    pub(crate) json: bool,
    /// Print only what is wrong
    #[arg(short, long, conflicts_with = "json")]
    pub(crate) quiet: bool,
}

pub(crate) fn rate(text: &str) -> Result<NonZeroU64, String> {
    let rate = config::parse_rate(text).and_then(NonZeroU64::new);
    rate.ok_or_else(|| "expected bytes a second, such as 100MB/s".to_owned())
}

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verb {
    Extend,
    Resync,
    Verify,
    Split,
    Rebalance,
}

impl Verb {
    pub(crate) fn plain(self) -> &'static str {
        match self {
            Self::Extend => "extend",
            Self::Resync => "resync",
            Self::Verify => "verify",
            Self::Split => "split",
            Self::Rebalance => "move",
        }
    }

    pub(crate) fn done(self) -> &'static str {
        match self {
            Self::Extend => "extended",
            Self::Resync => "resynced",
            Self::Verify => "verified",
            Self::Split => "split",
            Self::Rebalance => "moved",
        }
    }
}

/// How many files came out how.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Totals {
    pub(crate) done: u64,
    pub(crate) would: u64,
    pub(crate) already: u64,
    pub(crate) unsuited: u64,
    pub(crate) busy: u64,
    pub(crate) differing: u64,
    pub(crate) failed: u64,
    pub(crate) bytes: u64,
    /// Why those that are unsuited are.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) reasons: BTreeMap<&'static str, u64>,
}

impl Totals {
    /// When files are taken as they come, it is no failure that some cannot be worked on.
    pub(crate) fn exit(&self, verb: Verb) -> Exit {
        let left = if verb == Verb::Rebalance { 0 } else { self.unsuited + self.busy };
        if self.differing > 0 {
            Exit::Problems
        } else if left + self.failed > 0 {
            Exit::SomeFailed
        } else {
            Exit::Ok
        }
    }
}

/// A file for programs. A path that is not UTF-8 comes as lossy text and as bytes.
#[derive(Serialize)]
struct Line<'a> {
    path: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<&'a [u8]>,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<Difference>,
}

#[derive(Serialize, Clone, Copy)]
struct Difference {
    offset: u64,
    mirrors: [u32; 2],
}

#[derive(Serialize)]
struct End<T: Serialize> {
    command: Verb,
    #[serde(flatten)]
    totals: Totals,
    #[serde(flatten)]
    more: T,
}

/// Nothing more to tell.
#[derive(Serialize)]
struct NoMore {}

/// See the module.
pub(crate) struct Crew {
    work: Work,
    told: Arc<Told>,
    jobs: usize,
    verb: Verb,
    totals: Mutex<Totals>,
}

impl Crew {
    pub(crate) fn new(args: &CrewArgs, verb: Verb) -> Result<Self, CliError> {
        let library = Library::load().map_err(|error| CliError::new(Exit::NotHere, error.to_string()))?;
        let told = Arc::new(Told::with_lines(args.json, args.quiet));
        told.phase("MiB", None);
        let work = Work::new(&library)
            .limited_to(args.bandwidth_limit)
            .trying(args.tries)
            .dry(args.dry_run)
            .telling(mebibytes(Arc::clone(&told)));
        let totals = Mutex::new(Totals::default());
        Ok(Self { work, told, jobs: args.jobs.get(), verb, totals })
    }

    /// Works on all that `files` names. `prepare` finds out once for each filesystem what `job` needs to know of it.
    pub(crate) fn run<P: Send + Sync>(
        self,
        files: FilesArgs,
        prepare: impl Fn(&Filesystem) -> Result<P, String> + Sync,
        job: impl Fn(&Work, &Path, &P) -> Result<Outcome, Trouble> + Sync,
    ) -> Result<Exit, CliError> {
        self.run_until(files, prepare, |work, file, prepared| job(work, &file.path, prepared), || false)?;
        self.finish_plainly()
    }

    /// Prints the totals.
    pub(crate) fn finish_plainly(self) -> Result<Exit, CliError> {
        let text = self.human();
        self.finish(NoMore {}, &text)
    }

    /// As [`run`](Self::run), until it is `enough`; [`finish`](Self::finish) is to follow.
    pub(crate) fn run_until<P: Send + Sync>(
        &self,
        files: FilesArgs,
        prepare: impl Fn(&Filesystem) -> Result<P, String> + Sync,
        job: impl Fn(&Work, &LustreFile, &P) -> Result<Outcome, Trouble> + Sync,
        enough: impl Fn() -> bool + Sync,
    ) -> Result<(), CliError> {
        if files.is_empty() {
            return Err(crate::commands::no_files());
        }
        let found =
            walk(files).map_err(|why| CliError::new(Exit::SomeFailed, format!("cannot start a thread: {why}")))?;
        let queue = Mutex::new(Queue { found, files: Vec::new().into_iter(), at: None, prepared: HashMap::new() });
        let worker = || {
            loop {
                if enough() {
                    return;
                }
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next(&prepare);
                match next {
                    Some(Next::File(file, prepared)) => {
                        let outcome = job(&self.work, &file, &prepared);
                        self.tell(&file.shown, outcome.map_err(|trouble| trouble.of(&file.shown).to_string()));
                    }
                    Some(Next::Problem(path, why)) => {
                        self.tell(&path, Err(format!("{}: {why}", path.display())));
                    }
                    None => return,
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.jobs {
                if let Err(why) = std::thread::Builder::new().spawn_scoped(scope, worker) {
                    complain(&format!("cannot start more threads: {why}"));
                    break;
                }
            }
            worker();
        });
        Ok(())
    }

    /// The totals for people.
    pub(crate) fn human(&self) -> String {
        human(self.verb, &self.totals.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// By which files are worked on.
    pub(crate) fn work(&self) -> &Work {
        &self.work
    }

    /// Tells what became of a file, and counts it.
    pub(crate) fn tell(&self, path: &Path, outcome: Result<Outcome, String>) {
        let mut line = Line::of(path);
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = || escaped_path(path);
        let message = match outcome {
            Ok(Outcome::Done { bytes }) => {
                totals.done += 1;
                totals.bytes = totals.bytes.saturating_add(bytes);
                (line.result, line.bytes) = (self.verb.done(), Some(bytes));
                None
            }
            Ok(Outcome::Would { bytes }) => {
                totals.would += 1;
                totals.bytes = totals.bytes.saturating_add(bytes);
                (line.result, line.bytes) = ("would", Some(bytes));
                self.told.say(path, self.verb.plain());
                None
            }
            Ok(Outcome::Already(why)) => {
                totals.already += 1;
                (line.result, line.why) = ("already", Some(why.to_owned()));
                None
            }
            Ok(Outcome::Unsuited(why)) => {
                totals.unsuited += 1;
                *totals.reasons.entry(why).or_default() += 1;
                (line.result, line.why) = ("unsuited", Some(why.to_owned()));
                Some(format!("{}: {why}", shown()))
            }
            Ok(Outcome::Busy { tries }) => {
                totals.busy += 1;
                let why = format!("was in use or written at each of {tries} tries; it is as it was");
                let message = format!("{}: {why}", shown());
                (line.result, line.why) = ("busy", Some(why));
                Some(message)
            }
            Ok(Outcome::Differs(found)) => {
                totals.differing += 1;
                let difference = Difference { offset: found.offset, mirrors: [found.mirror, found.other] };
                (line.result, line.difference) = ("differs", Some(difference));
                let [one, other] = difference.mirrors;
                Some(format!("{}: mirrors {one} and {other} differ, first at byte {}", shown(), difference.offset))
            }
            Err(why) => {
                totals.failed += 1;
                let message = crate::output::escaped(&why).into_owned();
                (line.result, line.why) = ("failed", Some(why));
                Some(message)
            }
        };
        drop(totals);
        // What was only passed by is counted.
        if self.verb == Verb::Rebalance && matches!(line.result, "already" | "unsuited") {
            return;
        }
        self.told.line(&line, message.as_deref());
    }

    /// Whoever reads what is told gets it now.
    pub(crate) fn flush(&self) {
        self.told.flush();
    }

    /// Prints the totals and what else there is to tell.
    pub(crate) fn finish(self, more: impl Serialize, text: &str) -> Result<Exit, CliError> {
        let Self { work, told, verb, totals, .. } = self;
        // It has the other reference to who tells.
        drop(work);
        let totals = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
        let exit = totals.exit(verb);
        if let Some(told) = Arc::into_inner(told) {
            told.finish(&End { command: verb, totals, more }, text)?;
        }
        Ok(exit)
    }
}

/// Tells whole MiB of what comes in bytes.
fn mebibytes(told: Arc<Told>) -> impl Fn(u64) + Send + Sync {
    let bytes = AtomicU64::new(0);
    move |more| {
        let before = bytes.fetch_add(more, Ordering::Relaxed);
        let whole = (before.wrapping_add(more) >> 20).saturating_sub(before >> 20);
        if whole > 0 {
            told.advanced(whole);
        }
    }
}

impl<'a> Line<'a> {
    fn of(path: &'a Path) -> Self {
        let bytes = path.as_os_str().as_encoded_bytes();
        let path_bytes = str::from_utf8(bytes).is_err().then_some(bytes);
        Self { path: path.to_string_lossy(), path_bytes, result: "", bytes: None, why: None, difference: None }
    }
}

/// What a thread is to do next.
enum Next<P> {
    File(LustreFile, Arc<P>),
    Problem(PathBuf, String),
}

struct Queue<P> {
    found: Receiver<Found>,
    /// Of the last batch.
    files: std::vec::IntoIter<LustreFile>,
    /// What was prepared for its filesystem.
    at: Option<Result<Arc<P>, String>>,
    /// By mount point.
    prepared: HashMap<PathBuf, Result<Arc<P>, String>>,
}

impl<P> Queue<P> {
    fn next(&mut self, prepare: impl Fn(&Filesystem) -> Result<P, String>) -> Option<Next<P>> {
        loop {
            if let (Some(file), Some(at)) = (self.files.next(), &self.at) {
                return Some(match at {
                    Ok(prepared) => Next::File(file, Arc::clone(prepared)),
                    Err(why) => Next::Problem(file.shown, why.clone()),
                });
            }
            match self.found.blocking_recv()? {
                Found::Lustre(batch) => {
                    let top = batch.filesystem.top();
                    let prepared = match self.prepared.get(top) {
                        Some(known) => known.clone(),
                        None => {
                            let prepared = prepare(&batch.filesystem).map(Arc::new);
                            self.prepared.insert(top.to_owned(), prepared.clone());
                            prepared
                        }
                    };
                    (self.files, self.at) = (batch.files.into_iter(), Some(prepared));
                }
                Found::Files(batch) => {
                    let Some(first) = batch.into_iter().next() else { continue };
                    return Some(Next::Problem(first.shown, "is not on Lustre, nor is what follows it".to_owned()));
                }
                Found::Records(_) => {}
                Found::Problem { path, why } => return Some(Next::Problem(path, why)),
            }
        }
    }
}
