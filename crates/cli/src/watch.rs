//! How maintenance goes, told while it goes: a bar on a terminal, findings as they come.
//!
//! Findings are lines on standard error for people, and JSON objects on standard output, one a line, for programs.

use crate::exit::CliError;
use crate::output::{Output, escaped, escaped_path};
use indicatif::{ProgressBar, ProgressStyle};
use maintenance::report::{Finding, Watcher};
use serde::Serialize;
use std::ffi::OsStr;
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// See the module.
pub(crate) struct Told {
    bar: Option<ProgressBar>,
    output: Mutex<Output>,
    json: bool,
    quiet: bool,
    broken: Mutex<Option<CliError>>,
    /// How far it is, where lines are to tell that.
    lines: Option<Mutex<Lines>>,
}

struct Lines {
    what: &'static str,
    count: u64,
    told: Instant,
}

/// A finding for programs. A path that is not UTF-8 comes as lossy text and as bytes.
#[derive(Serialize)]
struct Line<'a> {
    problem: maintenance::report::Problem,
    path: Option<std::borrow::Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<&'a [u8]>,
    object: Option<&'a str>,
    what: &'a str,
}

const TICK: Duration = Duration::from_millis(200);
const BETWEEN_LINES: Duration = Duration::from_secs(10);

impl Told {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { bar, output: Mutex::new(Output::new()), json, quiet, broken: Mutex::new(None), lines: None }
    }

    /// Tells on standard error how far it is also where that is no terminal: a line now and then.
    pub(crate) fn with_lines(json: bool, quiet: bool) -> Self {
        let told = Self::new(json, quiet);
        let lines = told.bar.is_none().then(|| Mutex::new(Lines { what: "", count: 0, told: Instant::now() }));
        Self { lines, ..told }
    }

    fn output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, written: Result<(), CliError>) {
        if let Err(error) = written {
            self.broken.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }

    /// What became of one file: the JSON for programs; for people the message, if there is one.
    pub(crate) fn line(&self, json: &impl Serialize, message: Option<&str>) {
        if self.json {
            self.keep(self.output().json(json));
        }
        let Some(message) = message.filter(|_| !self.json) else { return };
        match &self.bar {
            Some(bar) => bar.suspend(|| crate::output::complain(message)),
            None => crate::output::complain(message),
        }
    }

    /// What was written so far is not kept until there is more of it.
    pub(crate) fn flush(&self) {
        let flushed = self.output().flush();
        self.keep(flushed);
    }

    /// How far it is, in words.
    pub(crate) fn at(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
        let Some(lines) = &self.lines else { return };
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.quiet && lines.told.elapsed() >= BETWEEN_LINES {
            lines.told = Instant::now();
            crate::output::complain(text);
        }
    }

    /// `would WHAT PATH` on standard output, for people.
    pub(crate) fn say(&self, path: &Path, what: &str) {
        if self.json || self.quiet {
            return;
        }
        let mut output = self.output();
        let line = [format!("would {what} ").as_bytes(), &output.name(path), b"\n"].concat();
        let say = || output.put(line);
        let written = match &self.bar {
            Some(bar) => bar.suspend(say),
            None => say(),
        };
        self.keep(written);
    }

    /// Ends the bar, and prints the result. An error that writing met on the way comes now.
    pub(crate) fn finish(self, result: &impl Serialize, human: &str) -> Result<(), CliError> {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if let Some(error) = self.broken.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let mut output = self.output.into_inner().unwrap_or_else(PoisonError::into_inner);
        if self.json {
            output.json(result)?;
        } else if !self.quiet {
            output.put(human)?;
        }
        output.flush()
    }
}

impl Watcher for Told {
    fn phase(&self, what: &'static str, total: Option<u64>) {
        if let Some(lines) = &self.lines {
            *lines.lock().unwrap_or_else(PoisonError::into_inner) = Lines { what, count: 0, told: Instant::now() };
        }
        let Some(bar) = &self.bar else { return };
        let template = match total {
            Some(_) => "[{elapsed}] {msg} {wide_bar} {pos}/{len}",
            None => "[{elapsed}] {spinner} {msg} {pos}",
        };
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_position(0);
        bar.set_length(total.unwrap_or(0));
        bar.set_message(what);
    }

    fn advanced(&self, count: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(count);
        }
        if let Some(lines) = &self.lines {
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.count += count;
            if lines.told.elapsed() >= BETWEEN_LINES {
                lines.told = Instant::now();
                crate::output::complain(&format!("{}: {}", lines.what, lines.count));
            }
        }
    }

    fn found(&self, finding: Finding) {
        let Finding { problem, path, object, what, .. } = &finding;
        if self.json {
            let text = path.as_deref().map(String::from_utf8_lossy);
            let path_bytes = path.as_deref().filter(|path| str::from_utf8(path).is_err());
            let line = Line { problem: *problem, path: text, path_bytes, object: object.as_deref(), what };
            self.keep(self.output().json(&line));
            return;
        }
        let path = path.as_deref().map(|path| escaped_path(Path::new(OsStr::from_bytes(path))));
        let object = object.as_deref().map(|object| format!("object {}", escaped(object)));
        let subject = match (path, object) {
            (Some(path), Some(object)) => format!("{path} ({object}): "),
            (Some(one), None) | (None, Some(one)) => format!("{one}: "),
            (None, None) => String::new(),
        };
        let tell = || crate::output::complain(&format!("{subject}{}", escaped(what)));
        match &self.bar {
            Some(bar) => bar.suspend(tell),
            None => tell(),
        }
    }
}
