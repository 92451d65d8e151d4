//! The crate's I/O: reading one configuration file, with what its mode says about who else can.

use crate::error::{ConfigError, Problem};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A configuration larger than this is something else (a log, a device) named by mistake.
const SIZE_LIMIT_BYTES: u64 = 1 << 20;

/// Permission bits that let group or others at the file.
const SHARED_BITS: u32 = 0o077;

/// A file's text and permission bits, both of the same open file.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) name: String,
    pub(crate) text: String,
    mode: u32,
}

impl Loaded {
    /// The refusal of a file that only its owner should be able to read, if others can; `why` says what is in it.
    pub(crate) fn refuse_if_shared(&self, why: &str) -> Result<(), ConfigError> {
        if self.mode & SHARED_BITS == 0 {
            return Ok(());
        }
        let what = format!("{why}, and its mode {:04o} lets group or others at it", self.mode);
        let problem = Problem::of_file(what).with_hint(format!("run: chmod 600 {}", shell_word(&self.name)));
        Err(ConfigError::one(&self.name, problem))
    }
}

/// Reads the file at `path`. `kind` names it in messages ("agent configuration"); `if_absent` says what to do when
/// there is none.
///
/// # Errors
/// The file is absent, cannot be read, is larger than 1 MiB, or is not UTF-8.
pub(crate) fn load(path: &Path, kind: &str, if_absent: &str) -> Result<Loaded, ConfigError> {
    let name = path.to_string_lossy().into_owned();
    let failed = |doing: &str, source: io::Error| {
        let problem = match source.kind() {
            io::ErrorKind::NotFound => Problem::of_file(format!("there is no such {kind} file")).with_hint(if_absent),
            io::ErrorKind::PermissionDenied => {
                Problem::of_file(format!("cannot {doing} the {kind}: permission denied")).with_hint("run as root")
            }
            _ => Problem::of_file(format!("cannot {doing} the {kind}: {source}")),
        };
        ConfigError { file: name.clone(), problems: vec![problem], source: Some(source) }
    };
    let refused = |what: String| Err(ConfigError::one(&name, Problem::of_file(what)));

    let file = File::open(path).map_err(|source| failed("open", source))?;
    let metadata = file.metadata().map_err(|source| failed("examine", source))?;
    if metadata.is_dir() {
        return refused(format!("is a directory, not the {kind}"));
    }
    let mut bytes = Vec::new();
    file.take(SIZE_LIMIT_BYTES + 1).read_to_end(&mut bytes).map_err(|source| failed("read", source))?;
    if bytes.len() as u64 > SIZE_LIMIT_BYTES {
        return refused(format!("is larger than {SIZE_LIMIT_BYTES} bytes, which no {kind} is"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Loaded { name, text, mode: metadata.permissions().mode() & 0o7777 }),
        Err(error) => refused(format!("is not text: byte {} is not UTF-8", error.utf8_error().valid_up_to())),
    }
}

/// `text` as one word of a shell command.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | '@' | ':');
    if !text.is_empty() && text.chars().all(plain) { text.into() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
