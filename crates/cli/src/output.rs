//! Standard output and standard error. Not for: what is written (that is `render`).
//!
//! Names of files go through [`Output::name`] or [`escaped`]: a name may hold anything, and a terminal obeys much of it.

use crate::exit::CliError;
use serde::Serialize;
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Standard output. A reader that has gone away ends the command quietly.
pub(crate) struct Output {
    to: BufWriter<Stdout>,
    terminal: bool,
}

impl Output {
    pub(crate) fn new() -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        Self { to: BufWriter::new(stdout), terminal }
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// A file's name as it may be written here: escaped on a terminal; its own bytes where a program reads.
    pub(crate) fn name<'a>(&self, path: &'a Path) -> Cow<'a, [u8]> {
        let bytes = path.as_os_str().as_bytes();
        if self.terminal { Cow::Owned(escaped_bytes(bytes).into_bytes()) } else { Cow::Borrowed(bytes) }
    }

    pub(crate) fn put(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), CliError> {
        self.to.write_all(bytes.as_ref()).map_err(broken)
    }

    /// One JSON document, on a line of its own.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        let written = serde_json::to_writer(&mut self.to, value).map_err(io::Error::from);
        written.and_then(|()| self.to.write_all(b"\n")).map_err(broken)
    }

    pub(crate) fn flush(&mut self) -> Result<(), CliError> {
        self.to.flush().map_err(broken)
    }
}

fn broken(error: io::Error) -> CliError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        CliError::reader_gone()
    } else {
        CliError::new(crate::exit::Exit::SomeFailed, format!("cannot write to standard output: {error}"))
    }
}

/// A line on standard error. When that is gone too, there is nobody to tell.
pub(crate) fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "sifaka: {message}");
}

/// Text without control characters, which are written as Rust writes them in a string (`\n`, `\u{1b}`).
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
        Cow::Owned(text.chars().map(escape).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// A path for people.
pub(crate) fn escaped_path(path: &Path) -> String {
    escaped_bytes(path.as_os_str().as_bytes())
}

/// As [`escaped`]; bytes that are not UTF-8 are written as `\xff`.
fn escaped_bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(&escaped(chunk.valid()));
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_command_a_terminal() {
        assert_eq!(escaped_bytes(b"plain \xc3\xa4 name"), "plain ä name");
        assert_eq!(escaped_bytes(b"a\x1b[2Jb\nc\xff\xc3"), "a\\u{1b}[2Jb\\nc\\xff\\xc3");
        assert_eq!(escaped_bytes("\u{9b}31m".as_bytes()), "\\u{9b}31m");
    }
}
