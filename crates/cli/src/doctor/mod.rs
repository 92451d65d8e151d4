//! What this system can do for the filesystem of a given directory, found out by doing it, and what follows from it.
//!
//! Everything is tried on a small file made in that directory and removed afterwards. While the fanotify probe runs (some
//! milliseconds) accesses to that filesystem wait for this process, which allows them all.

mod fanotify;
mod file;
mod lustre;
mod system;

use serde::Serialize;
use std::io;
use std::path::Path;

/// How a check went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// As it should be.
    Ok,
    /// Something is missing that can be done without.
    Warn,
    /// Something cannot be done here.
    Fail,
}

/// One finding.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) state: State,
    /// What was found.
    pub(crate) detail: String,
    /// What follows from it; empty when all is well.
    pub(crate) consequence: String,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, state: State::Ok, detail: detail.into(), consequence: String::new() }
    }

    fn warn(name: &'static str, detail: impl Into<String>, consequence: impl Into<String>) -> Self {
        Self { name, state: State::Warn, detail: detail.into(), consequence: consequence.into() }
    }

    fn fail(name: &'static str, detail: impl Into<String>, consequence: impl Into<String>) -> Self {
        Self { name, state: State::Fail, detail: detail.into(), consequence: consequence.into() }
    }

    /// What the system refused. That we may not says nothing about the system.
    fn error(name: &'static str, error: &io::Error, consequence: &str) -> Self {
        let may_not = error.kind() == io::ErrorKind::PermissionDenied;
        Self::fail(name, error.to_string(), if may_not { "nothing is known: run this as root" } else { consequence })
    }
}

/// The checks that need no directory.
pub(crate) fn check_system() -> Vec<Check> {
    vec![system::kernel(), system::privileges(), system::open_files()]
}

/// Every check, in an order in which the earlier explain the later.
pub(crate) fn check(path: &Path) -> Vec<Check> {
    if let Some(checks) = lustre::checks(path) {
        return checks;
    }
    let mut checks = check_system();
    checks.push(system::filesystem(path));
    match file::ProbeFile::create(path) {
        Ok(mut probe) => {
            checks.extend(file::checks(&mut probe));
            checks.push(system::private_mount(path));
            checks.extend(fanotify::checks(&probe));
        }
        Err(error) => {
            let detail = format!("cannot make a file in {}: {error}", path.display());
            let consequence = "nothing else could be tried: name a directory of the filesystem that can be written to";
            checks.push(Check::fail("probe file", detail, consequence));
        }
    }
    checks
}

#[cfg(test)]
mod tests;
