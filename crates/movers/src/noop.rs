//! A mover that moves nothing: for measuring the agent, and for tests that need a real process that is slow, fails or
//! hangs.
//!
//! Archive, restore and remove succeed at once, without looking at any file: **a restore by this mover writes nothing**.
//! Verify is refused, and not announced. Never serve an archive with it whose files matter.
//!
//! Its configuration, every part of which is optional, holds `archive "name" { id = N }` blocks (archive 1 is served when
//! there is none) and, for tests and benchmarks, `delay_ms` (each action takes so long), `fail_percent` (so many actions
//! fail as temporary, evenly spread) and `hang` (true: no action ever ends, cancelled or not).

use config::reader::{Reader, Section};
use config::{ConfigError, Problem, tree};
use model::limits::MAX_CREDITS;
use model::{ActionId, Command, Failure, Identity};
use plugin::{Archive, Capabilities, Environment, Handler, Plugin, PluginError, Reply, Task};
use std::collections::VecDeque;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io};
use uuid::Uuid;

const EIO: i32 = 5;
const EOPNOTSUPP: i32 = 95;
/// Deep enough that the pipe between agent and mover never runs dry.
const CREDITS: u32 = MAX_CREDITS / 8;
/// An hour is more than any test waits.
const DELAY_LIMIT_MS: u64 = 3_600_000;

/// Why the noop mover ended.
#[derive(Debug, thiserror::Error)]
pub enum NoopError {
    /// Its configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The service ended.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// The timer of `delay_ms` could not be started.
    #[error("cannot start the timer's thread: {0}")]
    Timer(io::Error),
}

/// What the configuration says.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Config {
    archives: Vec<u32>,
    delay: Duration,
    fail_percent: u64,
    hang: bool,
}

/// Serves until the process is asked to end (SIGTERM). A configuration file that does not exist counts as an empty
/// one.
///
/// # Errors
/// The configuration is wrong; the agent cannot be reached, refuses, or is gone (then end the process at once).
pub fn run(environment: Environment, config: &Path) -> Result<(), NoopError> {
    let config = Config::load(config)?;
    let handler = Noop::start(&config)?;
    let archive = |id: &u32| Archive {
        id: *id,
        capabilities: Capabilities { cancel: true, proposed_uuid: true, ..Capabilities::default() },
        credits: CREDITS,
        handler: handler.clone(),
    };
    let archives = config.archives.iter().map(archive).collect();
    let name = concat!("sifaka noop ", env!("CARGO_PKG_VERSION"));
    Ok(Plugin::new(environment, name).run(archives)?)
}

impl Config {
    fn load(path: &Path) -> Result<Self, ConfigError> {
        let name = path.to_string_lossy().into_owned();
        let unreadable = |source: io::Error| ConfigError {
            file: name.clone(),
            problems: vec![Problem::of_file(format!("cannot read the noop mover's configuration: {source}"))],
            source: Some(source),
        };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::parse("", &name),
            Err(error) => return Err(unreadable(error)),
        };
        let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            // Lemur's rule for every mover's file.
            let what = format!("must be private to its owner, and its mode is {mode:04o}");
            let problem = Problem::of_file(what).with_hint(format!("run: chmod 600 {name}"));
            return Err(ConfigError { file: name, problems: vec![problem], source: None });
        }
        Self::parse(&text, &name)
    }

    fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        let root = tree::parse(text).map_err(|problem| ConfigError {
            file: file.to_owned(),
            problems: vec![problem],
            source: None,
        })?;
        let reader = Reader::new(file);
        let config = Self::read(reader.root(&root));
        reader.finish()?;
        Ok(config)
    }

    fn read(mut root: Section<'_>) -> Self {
        let delay_ms = root.optional_u64("delay_ms", 0..=DELAY_LIMIT_MS).map_or(0, |at| at.value);
        let fail_percent = root.optional_u64("fail_percent", 0..=100).map_or(0, |at| at.value);
        let hang = root.optional_bool("hang").is_some_and(|at| at.value);
        let mut archives = Vec::new();
        for (name, mut archive) in root.labelled_sections("archive") {
            let id = archive.required_u64("id", 1..=u64::from(u32::MAX), "write id = 1");
            if let Some(id) = id.and_then(|at| u32::try_from(at.value).ok()) {
                if archives.contains(&id) {
                    archive.reader().problem(name.pos, format!("archive id {id} is given twice"), None);
                }
                archives.push(id);
            }
            archive.finish();
        }
        root.finish();
        if archives.is_empty() {
            archives.push(1);
        }
        Self { archives, delay: Duration::from_millis(delay_ms), fail_percent, hang }
    }
}

/// Answers in `accept`, unless told to be slow or to hang.
struct Noop {
    fail_percent: u64,
    accepted: AtomicU64,
    mode: Mode,
}

enum Mode {
    Prompt,
    Slow(Arc<Delay>),
    /// Keeps the replies, so that none of them reports its end.
    Hang(Mutex<Vec<Reply>>),
}

impl Noop {
    fn start(config: &Config) -> Result<Arc<Self>, NoopError> {
        let mode = match (config.hang, config.delay) {
            (true, _) => Mode::Hang(Mutex::default()),
            (false, Duration::ZERO) => Mode::Prompt,
            (false, delay) => Mode::Slow(Delay::start(delay).map_err(NoopError::Timer)?),
        };
        Ok(Arc::new(Self { fail_percent: config.fail_percent, accepted: AtomicU64::new(0), mode }))
    }

    /// Of every 100 actions in a row, `fail_percent` get true.
    fn fails_next(&self) -> bool {
        self.fail_percent != 0 && {
            let n = self.accepted.fetch_add(1, Ordering::Relaxed) % 100;
            (n + 1) * self.fail_percent / 100 > n * self.fail_percent / 100
        }
    }
}

impl Handler for Noop {
    fn accept(&self, task: Task, reply: Reply) {
        let answer = if self.fails_next() {
            Err(Failure::temporary(EIO, "the noop mover was configured to fail this action (fail_percent)"))
        } else {
            answer(task)
        };
        match &self.mode {
            Mode::Prompt => give(reply, answer),
            Mode::Slow(delay) => delay.push(reply, answer),
            Mode::Hang(kept) => kept.lock().unwrap_or_else(PoisonError::into_inner).push(reply),
        }
    }

    fn cancel(&self, _: ActionId) {
        if let Mode::Slow(delay) = &self.mode {
            delay.drop_cancelled();
        }
    }
}

type Answer = Result<Identity, Failure>;

fn answer(task: Task) -> Answer {
    match task.command {
        Command::Archive if task.identity.uuid.is_empty() => {
            Ok(Identity { uuid: Uuid::new_v4().to_string(), ..Identity::default() })
        }
        Command::Archive => Ok(Identity { uuid: task.identity.uuid, ..Identity::default() }),
        Command::Restore | Command::Remove => Ok(Identity::default()),
        Command::Verify => {
            Err(Failure::permanent(EOPNOTSUPP, "the noop mover reads no files, and so cannot verify one"))
        }
    }
}

fn give(reply: Reply, answer: Answer) {
    match answer {
        Ok(identity) => reply.done(identity),
        Err(failure) => reply.fail(failure),
    }
}

/// Answers that are given some time later, all after the same delay: first in, first out.
struct Delay {
    delay: Duration,
    waiting: Mutex<VecDeque<(Instant, Reply, Answer)>>,
    pushed: Condvar,
}

impl Delay {
    /// The thread lives as long as the process: it is the mover.
    fn start(delay: Duration) -> io::Result<Arc<Self>> {
        let this = Arc::new(Self { delay, waiting: Mutex::default(), pushed: Condvar::new() });
        let timer = this.clone();
        std::thread::Builder::new().name("noop-delay".to_owned()).spawn(move || timer.run())?;
        Ok(this)
    }

    fn push(&self, reply: Reply, answer: Answer) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push_back((Instant::now() + self.delay, reply, answer));
        self.pushed.notify_one();
    }

    fn drop_cancelled(&self) {
        let cancelled: Vec<_> = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let (cancelled, rest): (VecDeque<_>, VecDeque<_>) =
                waiting.drain(..).partition(|(_, reply, _)| reply.is_cancelled());
            *waiting = rest;
            cancelled.into()
        };
        cancelled.into_iter().for_each(|(_, reply, _)| reply.fail(Failure::cancelled()));
    }

    fn run(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            waiting = match waiting.front() {
                None => self.pushed.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                Some((due, ..)) if *due > now => {
                    let rest = *due - now;
                    self.pushed.wait_timeout(waiting, rest).unwrap_or_else(PoisonError::into_inner).0
                }
                Some(_) => {
                    let (_, reply, answer) = match waiting.pop_front() {
                        Some(entry) => entry,
                        None => continue,
                    };
                    give(reply, answer);
                    waiting
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_configuration_serves_archive_1() {
        let config = Config::parse("", "noop").unwrap();
        assert_eq!(config, Config { archives: vec![1], delay: Duration::ZERO, fail_percent: 0, hang: false });
    }

    #[test]
    fn a_configuration_is_read() {
        let text = "delay_ms = 20\nfail_percent = 5\nhang = true\narchive \"a\" { id = 2 }\narchive \"b\" { id = 7 }\n";
        let config = Config::parse(text, "noop").unwrap();
        let delay = Duration::from_millis(20);
        assert_eq!(config, Config { archives: vec![2, 7], delay, fail_percent: 5, hang: true });
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let wrong = |text: &str| Config::parse(text, "noop").unwrap_err().to_string();
        assert!(wrong("\ndelay = 1").starts_with("noop:2:"));
        assert!(wrong("archive \"a\" { }").contains("`id` is missing"));
        assert!(wrong("archive \"a\" { id = 1 }\narchive \"b\" { id = 1 }").contains("archive id 1 is given twice"));
        assert!(wrong("fail_percent = 101").contains("between 0 and 100"));
    }

    #[test]
    fn failures_are_spread_evenly() {
        for percent in [0, 1, 33, 50, 100] {
            let config = Config { archives: vec![1], delay: Duration::ZERO, fail_percent: percent, hang: false };
            let noop = Noop::start(&config).unwrap();
            let failed = (0..1000).filter(|_| noop.fails_next()).count();
            assert_eq!(failed as u64, percent * 10, "{percent} %");
        }
    }
}
