//! From what a service answered, or did not, to our errors.
//!
//! By the error's kind and state, never by its text; the text is shown to people, cut short and without control characters, because it comes
//! from outside.

use model::ErrorKind;
use opendal::ErrorKind as Told;
use std::path::PathBuf;
use transfer::TransferError;

/// No more of a service's words than this is shown.
const MAX_TEXT_CHARS: usize = 300;

const ENOENT: i32 = 2;
const EIO: i32 = 5;
const EACCES: i32 = 13;
const EEXIST: i32 = 17;
const EINVAL: i32 = 22;
const ESTALE: i32 = 116;
const EAGAIN: i32 = 11;

/// S3's and Azure's codes for content that cannot be read before it is thawed.
pub(crate) const CODES_OF_COLD: [&str; 3] = ["InvalidObjectState", "BlobArchived", "BlobBeingRehydrated"];

/// What stands for a code where a HEAD was answered by 400, with which no code comes.
pub(crate) const HEAD_REFUSED: &str = "400";

/// Why a request did not end well; can be told to several who wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) told: Told,
    temporary: bool,
    why: String,
    /// The service's code for it, where it was looked for; or empty.
    code: String,
}

/// The source of an error of OpenDAL's that is ours: the service's code.
#[derive(Debug, thiserror::Error)]
#[error("{code}")]
pub(crate) struct Said {
    pub(crate) code: String,
}

impl Fault {
    pub(crate) fn new(error: &opendal::Error) -> Self {
        let said = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Said>());
        let code = said.map(|said| said.code.clone()).unwrap_or_default();
        Self { told: error.kind(), temporary: error.is_temporary(), why: shown(error.message()), code }
    }

    /// The service did something that no service does.
    pub(crate) fn strange(why: impl Into<String>) -> Self {
        Self { told: Told::Unexpected, temporary: true, why: why.into(), code: String::new() }
    }

    /// There is no such object.
    pub(crate) fn missing() -> Self {
        Self { told: Told::NotFound, temporary: false, why: "there is no such object".to_owned(), code: String::new() }
    }

    /// That is not done here.
    pub(crate) fn unsupported(why: &str) -> Self {
        Self { told: Told::Unsupported, temporary: false, why: why.to_owned(), code: String::new() }
    }

    /// The place is taken.
    pub(crate) fn occupied(why: &str) -> Self {
        Self { told: Told::AlreadyExists, temporary: false, why: why.to_owned(), code: String::new() }
    }

    /// Two wanted the same place.
    pub(crate) fn contended(why: &str) -> Self {
        Self { told: Told::Conflict, temporary: true, why: why.to_owned(), code: String::new() }
    }

    /// Of a request that names no object: what is missing is the bucket.
    pub(crate) fn of_bucket(self) -> Self {
        if self.is_missing() { Self { told: Told::ConfigInvalid, ..self } } else { self }
    }

    /// An error for good of which nothing is known.
    pub(crate) fn is_unexplained(&self) -> bool {
        matches!(self.told, Told::Unexpected | Told::Unsupported) && !self.temporary
    }

    /// The answer was longer than any may be that is taken at once.
    pub(crate) fn is_too_long(&self) -> bool {
        self.told == Told::RangeNotSatisfied
    }

    /// The service is there, and does not do this: not now, and not when it is asked again.
    pub(crate) fn is_refused(&self) -> bool {
        !self.temporary && self.told != Told::ConfigInvalid
    }

    pub(crate) fn why(&self) -> &str {
        &self.why
    }

    /// Whether a read of a range may have failed because the object is shorter.
    pub(crate) fn may_be_past_the_end(&self) -> bool {
        self.told == Told::RangeNotSatisfied || (self.told == Told::Unexpected && !self.temporary)
    }

    pub(crate) fn is_missing(&self) -> bool {
        self.told == Told::NotFound
    }

    pub(crate) fn code(&self) -> &str {
        &self.code
    }

    /// Credentials do not go so far.
    pub(crate) fn is_forbidden(&self) -> bool {
        self.told == Told::PermissionDenied
    }

    /// The object is there, and its content has to be thawed first.
    pub(crate) fn is_cold(&self) -> bool {
        CODES_OF_COLD.contains(&self.code.as_str())
    }

    /// `doing` is read after "cannot", and `path` names the object.
    pub(crate) fn into_error(self, doing: &'static str, path: PathBuf) -> TransferError {
        if self.is_cold() {
            return TransferError::Cold { path, ask_again: None };
        }
        let Self { told, temporary, why, .. } = self;
        let (kind, errno) = match told {
            Told::NotFound => return TransferError::Missing { path },
            // No such bucket: like a filesystem that is not mounted, it may come back.
            Told::ConfigInvalid => return TransferError::Unavailable { path, why },
            // Keys are rotated, roles expire, clocks are set: what was refused now may be allowed later, and a queue full of files is not given up for it.
            Told::PermissionDenied => (ErrorKind::Temporary, EACCES),
            Told::ConditionNotMatch | Told::AlreadyExists => (ErrorKind::Permanent, EEXIST),
            Told::RateLimited | Told::Conflict => (ErrorKind::Temporary, EAGAIN),
            Told::Unsupported => (ErrorKind::Permanent, EINVAL),
            _ if temporary => (ErrorKind::Temporary, EIO),
            _ => (ErrorKind::Permanent, EIO),
        };
        debug_assert!(errno != ENOENT && errno != ESTALE, "those have errors of their own");
        TransferError::Service { doing, path, why, kind, errno }
    }
}

/// Words of a service, fit for a line of a log.
pub(crate) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_TEXT_CHARS).collect();
    if text.chars().nth(MAX_TEXT_CHARS).is_some() {
        shown.push('…');
    }
    if shown.trim().is_empty() { "the service gives no reason".to_owned() } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_service_says_is_cut_to_a_line() {
        assert_eq!(shown("a\nb\u{1b}[31m"), "a b [31m");
        assert_eq!(shown(""), "the service gives no reason");
        assert_eq!(shown(&"x".repeat(10_000)).chars().count(), MAX_TEXT_CHARS + 1);
    }

    #[test]
    fn the_kind_says_whether_to_try_again() {
        let kind = |told: Told, temporary: bool| {
            let error = opendal::Error::new(told, "words").with_temporary(temporary);
            Fault::new(&error).into_error("read", "s3://b/k".into()).kind()
        };
        assert_eq!(kind(Told::Unexpected, true), ErrorKind::Temporary);
        assert_eq!(kind(Told::Unexpected, false), ErrorKind::Permanent);
        assert_eq!(kind(Told::RateLimited, true), ErrorKind::Temporary);
        assert_eq!(kind(Told::PermissionDenied, false), ErrorKind::Temporary);
        assert_eq!(kind(Told::NotFound, false), ErrorKind::Permanent);
        assert_eq!(kind(Told::ConfigInvalid, false), ErrorKind::Temporary);
    }
}
