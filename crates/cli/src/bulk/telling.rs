//! What a job tells while it runs: how far it is, what somebody has to look at, and all that it did in a report.

use crate::exit::{CliError, Exit};
use crate::output::{complain, escaped, escaped_path};
use crate::render::units::{bytes, span};
use crate::watch::Told;
use jobs::report::{Event, Kind, Tally, Totals, Watcher};
use jobs::verify::{self, Difference, Found};
use maintenance::report::Watcher as _;
use serde::Serialize;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Problems that people are told one by one. The report has all.
const MAX_TOLD: u64 = 1000;
const TICK: Duration = Duration::from_millis(500);

/// See the module.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct TellingArgs {
    /// Write down what became of each file, or how it compares, as JSON, an object a line
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print JSON: an object a problem, one a line, and the totals last
    #[arg(long)]
    json: bool,
    /// Print only what is wrong
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
}

impl TellingArgs {
    /// Without a report.
    pub(crate) fn plain(json: bool, quiet: bool) -> Self {
        Self { report: None, json, quiet }
    }

    /// Where all is written down.
    pub(crate) fn report(&self) -> Option<&Path> {
        self.report.as_deref()
    }

    /// For programs.
    pub(crate) fn json(&self) -> bool {
        self.json
    }
}

/// An event for programs. A path that is not UTF-8 comes as lossy text and as bytes.
#[derive(Serialize)]
struct Line<'a> {
    path: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<&'a [u8]>,
    kind: Kind,
    did: jobs::report::Did,
    #[serde(skip_serializing_if = "is_zero")]
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
}

/// How something compares, for programs.
#[derive(Serialize)]
struct Compared<'a> {
    path: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<&'a [u8]>,
    kind: Kind,
    found: &'static str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    differs: &'a [Difference],
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Tells of one job.
pub(crate) struct Telling {
    told: Told,
    report: Option<Mutex<BufWriter<File>>>,
    /// The report could not be written: told once, at the end.
    broken: Mutex<Option<String>>,
    problems: AtomicU64,
    most: u64,
    began: Instant,
    /// `would` before what is done, one line each.
    dry: bool,
}

impl Telling {
    pub(crate) fn new(args: &TellingArgs, dry: bool) -> Result<Self, CliError> {
        let failed = |path: &PathBuf, why| {
            CliError::new(Exit::SomeFailed, format!("cannot make the report {}: {why}", escaped_path(path)))
        };
        let made = args.report.as_ref().map(|path| File::create(path).map_err(|why| failed(path, why))).transpose()?;
        let told = Told::with_lines(args.json, args.quiet);
        told.phase("", None);
        Ok(Self {
            told,
            report: made.map(|file| Mutex::new(BufWriter::new(file))),
            broken: Mutex::default(),
            problems: AtomicU64::new(0),
            most: if args.json { u64::MAX } else { MAX_TOLD },
            began: Instant::now(),
            dry,
        })
    }

    /// Problems are told one by one again.
    pub(crate) fn again(&self) {
        self.problems.store(0, Ordering::Relaxed);
    }

    /// What else is to be known, while it runs: the JSON for programs; for people the message, if there is one.
    pub(crate) fn line(&self, json: &impl Serialize, message: Option<&str>) {
        self.told.line(json, message);
        self.told.flush();
    }

    /// Runs the job, and tells meanwhile how far it is.
    pub(crate) fn during<T: Send>(&self, tally: &Tally, job: impl FnOnce() -> T + Send) -> T {
        self.saying(|| self.far(&tally.totals()), job)
    }

    /// As [`during`](Self::during), in words of the command's own.
    pub(crate) fn saying<T: Send>(&self, far: impl Fn() -> String + Sync, job: impl FnOnce() -> T + Send) -> T {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let teller = scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    self.told.at(&far());
                    std::thread::park_timeout(TICK);
                }
            });
            let done = job();
            over.store(true, Ordering::Relaxed);
            teller.thread().unpark();
            done
        })
    }

    /// So many a second, since it began.
    pub(crate) fn per_second(&self, count: u64) -> u64 {
        (u128::from(count) * 1000 / self.began.elapsed().as_millis().max(1)) as u64
    }

    fn far(&self, totals: &Totals) -> String {
        let per_second = |count| self.per_second(count);
        let Totals { same, bytes: moved, .. } = *totals;
        let problems = totals.refused + totals.changed + totals.failed;
        let mut text = format!(
            "{} entries ({}/s), {same} the same, {} ({}/s)",
            totals.seen(),
            per_second(totals.seen()),
            bytes(moved),
            bytes(per_second(moved))
        );
        if problems > 0 {
            text += &format!(", {problems} problems");
        }
        text
    }

    /// Ends it with the totals.
    pub(crate) fn finish(self, totals: &impl Serialize, human: &str) -> Result<(), CliError> {
        let more = self.problems.load(Ordering::Relaxed).saturating_sub(self.most);
        if more > 0 {
            let all = if self.report.is_some() { "the report has all" } else { "--report FILE would have them" };
            complain(&format!("{more} further problems were not told one by one: {all}"));
        }
        let flushed = self.report.map(|report| report.into_inner().unwrap_or_else(PoisonError::into_inner).flush());
        let broken = self.broken.into_inner().unwrap_or_else(PoisonError::into_inner);
        let broken = broken.or_else(|| flushed.and_then(Result::err).map(|error| error.to_string()));
        let human = format!("{human}in {}\n", span(self.began.elapsed().as_millis().try_into().unwrap_or(u64::MAX)));
        self.told.finish(totals, &human)?;
        match broken {
            Some(why) => Err(CliError::new(Exit::SomeFailed, format!("the report is not complete: {why}"))),
            None => Ok(()),
        }
    }

    /// Told at once, unless there were too many.
    pub(super) fn problem(&self, path: &Path, line: &impl Serialize, text: &str) {
        if self.problems.fetch_add(1, Ordering::Relaxed) < self.most {
            let is_root = path.as_os_str().is_empty();
            let name = if is_root { "the directory itself".to_owned() } else { escaped_path(path) };
            self.told.line(line, Some(&format!("{name}: {}", escaped(text))));
        }
    }

    pub(super) fn write(&self, line: &impl Serialize) {
        let Some(report) = &self.report else { return };
        let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
        let written = serde_json::to_writer(&mut *report, line).map_err(std::io::Error::from);
        if let Err(error) = written.and_then(|()| report.write_all(b"\n")) {
            let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
            broken.get_or_insert_with(|| error.to_string());
        }
    }
}

impl Telling {
    /// Whether all is written down.
    pub(super) fn has_report(&self) -> bool {
        self.report.is_some()
    }
}

impl Watcher for Telling {
    fn wants_all(&self) -> bool {
        self.report.is_some() || self.dry
    }

    fn tell(&self, event: &Event) {
        let Event { path, kind, did, bytes, why } = event;
        let raw = path.as_os_str().as_bytes();
        let path_bytes = str::from_utf8(raw).is_err().then_some(raw);
        let line = Line {
            path: path.to_string_lossy(),
            path_bytes,
            kind: *kind,
            did: *did,
            bytes: *bytes,
            why: why.as_deref(),
        };
        self.write(&line);
        if self.dry
            && let Some(verb) = would(event)
        {
            self.told.say(path, verb);
        }
        if did.is_problem() || why.is_some() {
            self.problem(path, &line, &why.clone().unwrap_or_else(|| format!("{did:?}").to_lowercase()));
        }
    }
}

impl verify::Watcher for Telling {
    fn wants_all(&self) -> bool {
        self.report.is_some()
    }

    fn tell(&self, finding: &verify::Finding) {
        let verify::Finding { path, kind, found } = finding;
        let raw = path.as_os_str().as_bytes();
        let line = Compared {
            path: path.to_string_lossy(),
            path_bytes: str::from_utf8(raw).is_err().then_some(raw),
            kind: *kind,
            found: found.word(),
            differs: if let Found::Differs(differences) = found { differences } else { &[] },
            why: if let Found::Failed(why) = found { Some(why) } else { None },
        };
        self.write(&line);
        if found.is_problem() {
            self.problem(path, &line, &compared(found, *kind));
        }
    }
}

/// For people.
fn compared(found: &Found, kind: Kind) -> String {
    let below = if kind == Kind::Directory { ", with all below it" } else { "" };
    match found {
        Found::Differs(differences) => {
            let texts: Vec<String> = differences.iter().map(ToString::to_string).collect();
            texts.join("; ")
        }
        Found::Missing => format!("only in the first tree{below}"),
        Found::Extra => format!("only in the second tree{below}"),
        Found::Changed => "changed each time that it was compared".to_owned(),
        Found::Failed(why) => why.clone(),
        other => other.word().to_owned(),
    }
}

fn would(event: &Event) -> Option<&'static str> {
    use jobs::report::Did;
    match event.did {
        Did::Copied => Some("copy"),
        Did::Linked => Some("link"),
        Did::Updated => Some("update"),
        Did::Deleted => Some("delete"),
        _ => None,
    }
}
