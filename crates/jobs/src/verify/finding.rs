//! What is said of one name in two trees, and how many of each there were.

use crate::report::Kind;
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// In what two things differ.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Aspect {
    /// One is a file, say, and the other a directory. Nothing else is compared then.
    Kind,
    /// Of a regular file.
    Size,
    /// Of a regular file, at the same size.
    Content,
    /// Time of change.
    Mtime,
    /// Permissions, with set-uid, set-gid and sticky.
    Mode,
    /// User id.
    Owner,
    /// Group id.
    Group,
    /// An extended attribute; ACLs and capabilities are such.
    Attribute,
    /// Where a symbolic link leads.
    Target,
    /// Number of a device.
    Device,
    /// Which names are those of one file.
    Links,
}

/// One difference.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Difference {
    /// See [`Aspect`].
    pub what: Aspect,
    /// The attribute, or where content begins to differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// In the first tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub a: Option<String>,
    /// In the second tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b: Option<String>,
}

impl Difference {
    pub(crate) fn new(what: Aspect, a: impl ToString, b: impl ToString) -> Self {
        Self { what, of: None, a: Some(a.to_string()), b: Some(b.to_string()) }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.what {
            Aspect::Kind => "kind",
            Aspect::Size => "size",
            Aspect::Content => "content",
            Aspect::Mtime => "time of change",
            Aspect::Mode => "mode",
            Aspect::Owner => "owner",
            Aspect::Group => "group",
            Aspect::Attribute => "attribute",
            Aspect::Target => "target",
            Aspect::Device => "device",
            Aspect::Links => "hard links:",
        };
        f.write_str(word)?;
        if let Some(of) = &self.of {
            write!(f, " {of}")?;
        }
        let none = || "none".to_owned();
        match (&self.a, &self.b) {
            (None, None) => Ok(()),
            (a, b) => write!(f, " {}, and {}", a.clone().unwrap_or_else(none), b.clone().unwrap_or_else(none)),
        }
    }
}

/// How something compares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// Equal in all that was asked for.
    Same,
    /// Not equal.
    Differs(Vec<Difference>),
    /// Not in the second tree. Of a directory, nothing below it is told.
    Missing,
    /// Not in the first tree. Of a directory, nothing below it is told.
    Extra,
    /// It changed each time that it was compared.
    Changed,
    /// It was removed from the first tree before it was compared.
    Vanished,
    /// A filter leaves it out.
    Filtered,
    /// It lies on another filesystem, which is not entered.
    Elsewhere,
    /// The other side is a bucket, which has nothing of its kind: no pipes, sockets and devices.
    Skipped,
    /// It could not be compared.
    Failed(String),
}

impl Found {
    /// For programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Differs(_) => "differs",
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Changed => "changed",
            Self::Vanished => "vanished",
            Self::Filtered => "filtered",
            Self::Elsewhere => "elsewhere",
            Self::Skipped => "skipped",
            Self::Failed(_) => "failed",
        }
    }

    /// Whether somebody has to look at it.
    pub fn is_problem(&self) -> bool {
        matches!(self, Self::Differs(_) | Self::Missing | Self::Extra | Self::Changed | Self::Failed(_))
    }
}

/// One name, and how it compares.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Relative to the roots.
    pub path: PathBuf,
    /// In the first tree; of what only the second has, there.
    pub kind: Kind,
    /// See [`Found`].
    pub found: Found,
}

/// Counts, kept while the trees are compared.
#[derive(Debug, Default)]
pub struct Tally {
    same: AtomicU64,
    differs: AtomicU64,
    missing: AtomicU64,
    extra: AtomicU64,
    changed: AtomicU64,
    vanished: AtomicU64,
    filtered: AtomicU64,
    elsewhere: AtomicU64,
    skipped: AtomicU64,
    failed: AtomicU64,
    pub(super) unclear_links: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// What a [`Tally`] says at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// See [`Found::Same`].
    pub same: u64,
    /// See [`Found::Differs`].
    pub differs: u64,
    /// See [`Found::Missing`].
    pub missing: u64,
    /// See [`Found::Extra`].
    pub extra: u64,
    /// See [`Found::Changed`].
    pub changed: u64,
    /// See [`Found::Vanished`].
    pub vanished: u64,
    /// See [`Found::Filtered`].
    pub filtered: u64,
    /// See [`Found::Elsewhere`].
    pub elsewhere: u64,
    /// See [`Found::Skipped`].
    pub skipped: u64,
    /// See [`Found::Failed`].
    pub failed: u64,
    /// Names of files with several, of which there were too many to know whether they are names of the same files in both trees.
    pub unclear_links: u64,
    /// Content that was read in each tree.
    pub bytes: u64,
}

impl Totals {
    /// Whether the trees were found to differ.
    pub fn differ(&self) -> bool {
        self.differs + self.missing + self.extra > 0
    }

    /// Whether all was compared.
    pub fn is_complete(&self) -> bool {
        self.changed + self.failed == 0
    }

    /// Everything that was looked at.
    pub fn seen(&self) -> u64 {
        self.same + self.differs + self.missing + self.extra + self.changed + self.failed
    }
}

impl Tally {
    pub(crate) fn count(&self, found: &Found) {
        let which = match found {
            Found::Same => &self.same,
            Found::Differs(_) => &self.differs,
            Found::Missing => &self.missing,
            Found::Extra => &self.extra,
            Found::Changed => &self.changed,
            Found::Vanished => &self.vanished,
            Found::Filtered => &self.filtered,
            Found::Elsewhere => &self.elsewhere,
            Found::Skipped => &self.skipped,
            Found::Failed(_) => &self.failed,
        };
        which.fetch_add(1, Ordering::Relaxed);
    }

    /// As of now.
    pub fn totals(&self) -> Totals {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            same: of(&self.same),
            differs: of(&self.differs),
            missing: of(&self.missing),
            extra: of(&self.extra),
            changed: of(&self.changed),
            vanished: of(&self.vanished),
            filtered: of(&self.filtered),
            elsewhere: of(&self.elsewhere),
            skipped: of(&self.skipped),
            failed: of(&self.failed),
            unclear_links: of(&self.unclear_links),
            bytes: of(&self.bytes),
        }
    }
}
