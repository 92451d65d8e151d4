//! What is wrong with a configuration file, said so that an administrator can mend it.
//!
//! Everything here is permanent: reading the same file again gives the same answer.

use crate::tree::Pos;
use std::{fmt, io};

/// One thing wrong in a file. Never holds the value of a key that may be secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands; `None` when it concerns the file as a whole.
    pub pos: Option<Pos>,
    /// What is wrong.
    pub what: String,
    /// What to do about it, where that is known.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem at a place in the file.
    pub fn at(pos: Pos, what: impl Into<String>) -> Self {
        Self { pos: Some(pos), what: what.into(), hint: None }
    }

    /// A problem of the whole file.
    pub fn of_file(what: impl Into<String>) -> Self {
        Self { pos: None, what: what.into(), hint: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn write(&self, file: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", file.escape_debug())?;
        if let Some(Pos { line, column }) = self.pos {
            write!(f, "{line}:{column}:")?;
        }
        write!(f, " {}", self.what)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// Why a file was refused: every problem found in it, in the order of the file.
///
/// Displays as one `FILE:LINE:COLUMN: what (hint)` line a problem, without a newline at the end.
#[derive(Debug, thiserror::Error)]
pub struct ConfigError {
    /// The file as the caller named it.
    pub file: String,
    /// At least one problem.
    pub problems: Vec<Problem>,
    /// The error of the system call, when the file could not be read.
    pub source: Option<io::Error>,
}

impl ConfigError {
    pub(crate) fn one(file: impl Into<String>, problem: Problem) -> Self {
        Self { file: file.into(), problems: vec![problem], source: None }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.write(&self.file, f)?;
        }
        Ok(())
    }
}

/// Something in a file that has no effect or not the expected one, and does not prevent its use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The file as the caller named it.
    pub file: String,
    /// What to say.
    pub problem: Problem,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.write(&self.file, f)
    }
}
