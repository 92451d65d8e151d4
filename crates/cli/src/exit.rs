//! How the command ends: the exit codes that are promised, and errors that end it.

use std::process::ExitCode;

/// The exit codes. They are part of the interface: see [`HELP`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// All was done.
    Ok = 0,
    /// The command worked, some files or actions failed.
    SomeFailed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// There is no agent to talk to.
    Unreachable = 3,
    /// A configuration file is wrong.
    Config = 4,
    /// Not permitted, or not possible on this system.
    NotHere = 5,
    /// Something is wrong with the archive or the filesystem, and still is.
    Problems = 6,
    /// Ended by the user.
    Interrupted = 130,
}

/// The table for `--help`; `docs/cli.md` holds the same.
pub(crate) const HELP: &str = "\
Exit codes:
  0    all was done
  1    some files or actions failed
  2    the command line makes no sense
  3    the agent cannot be reached
  4    a configuration file is wrong
  5    not permitted, or not possible on this system
  6    problems were found that are not put right (rebuild, import --tree, import of a bucket, fsck, scrub, mirror verify), or trees differ (verify)
  130  interrupted";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What ends the command, told on standard error as `sifaka: MESSAGE`.
#[derive(Debug)]
pub(crate) struct CliError {
    pub(crate) exit: Exit,
    /// What, where, why, what to do. Empty: there is nothing to say.
    message: String,
}

/// What a command gives.
pub(crate) type Outcome = Result<Exit, CliError>;

impl CliError {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// Nobody reads our output any more (`sifaka status … | head`): no failure, and nothing to say.
    pub(crate) fn reader_gone() -> Self {
        Self::new(Exit::Ok, "")
    }

    /// What [`Self::report`] tells.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn report(&self) {
        if !self.message.is_empty() {
            crate::output::complain(&self.message);
        }
    }
}
