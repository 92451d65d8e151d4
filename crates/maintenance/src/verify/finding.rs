//! What is said of one file and what the archive holds for it, and how many of each there were.

use serde::Serialize;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// In what a file and its object differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Aspect {
    /// Bytes of content.
    Size,
    /// At the same size.
    Content,
    /// The object is not what its manifest says of it, or the file's hash not the manifest's: it cannot be restored as it is.
    Object,
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
    /// Where the file is.
    Path,
}

/// One difference.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Difference {
    /// See [`Aspect`].
    pub what: Aspect,
    /// The attribute, or what of the content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// Of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub a: Option<String>,
    /// In the archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b: Option<String>,
}

impl Difference {
    pub(super) fn new(what: Aspect, a: impl ToString, b: impl ToString) -> Self {
        Self { what, of: None, a: Some(a.to_string()), b: Some(b.to_string()) }
    }

    pub(super) fn said(what: Aspect, of: impl Into<String>) -> Self {
        Self { what, of: Some(of.into()), a: None, b: None }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.what {
            Aspect::Size => "size",
            Aspect::Content => "content",
            Aspect::Object => "object",
            Aspect::Mtime => "time of change",
            Aspect::Mode => "mode",
            Aspect::Owner => "owner",
            Aspect::Group => "group",
            Aspect::Attribute => "attribute",
            Aspect::Path => "path",
        })?;
        if let Some(of) = &self.of {
            write!(f, " {of}")?;
        }
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
        match (&self.a, &self.b) {
            (None, None) => Ok(()),
            (a, b) => write!(f, " {}, and {} in the archive", or_none(a), or_none(b)),
        }
    }
}

/// How a file, or an object, compares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// Equal in all that was asked for.
    Same,
    /// Not equal.
    Differs(Vec<Difference>),
    /// Its object is gone.
    Missing,
    /// An object, or a record of a directory or link, whose file is gone.
    Extra,
    /// It was changed since it was archived, and so is not compared.
    Dirty,
    /// It is not archived.
    Unarchived,
    /// It is archived, and not in this archive.
    Elsewhere,
    /// It names somebody else's object, which was imported.
    Imported,
    /// It changed each time that it was compared.
    Changed,
    /// It was removed before it was compared.
    Vanished,
    /// A filter leaves it out.
    Filtered,
    /// It could not be compared.
    Failed(String),
}

impl Found {
    /// For programs.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Differs(_) => "differs",
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Dirty => "dirty",
            Self::Unarchived => "unarchived",
            Self::Elsewhere => "elsewhere",
            Self::Imported => "imported",
            Self::Changed => "changed",
            Self::Vanished => "vanished",
            Self::Filtered => "filtered",
            Self::Failed(_) => "failed",
        }
    }

    /// Whether somebody has to look at it.
    #[must_use]
    pub fn is_problem(&self) -> bool {
        matches!(self, Self::Differs(_) | Self::Missing | Self::Extra | Self::Changed | Self::Failed(_))
    }
}

/// One file or object, and how it compares.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Relative to the tree; of what is gone, where it was. Empty when that is not known.
    pub path: Vec<u8>,
    /// What the file names.
    pub object: Option<String>,
    /// See [`Found`].
    pub found: Found,
}

/// Counts, kept while it is compared.
#[derive(Debug, Default)]
pub struct Tally {
    same: AtomicU64,
    differs: AtomicU64,
    missing: AtomicU64,
    extra: AtomicU64,
    dirty: AtomicU64,
    unarchived: AtomicU64,
    elsewhere: AtomicU64,
    imported: AtomicU64,
    changed: AtomicU64,
    vanished: AtomicU64,
    filtered: AtomicU64,
    failed: AtomicU64,
    pub(super) released: AtomicU64,
    pub(super) shared: AtomicU64,
    pub(super) undescribed: AtomicU64,
    pub(super) cold: AtomicU64,
    pub(super) claimed: AtomicU64,
    pub(super) young: AtomicU64,
    pub(super) foreign: AtomicU64,
    pub(super) strange: AtomicU64,
    pub(super) bytes: AtomicU64,
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
    /// See [`Found::Dirty`].
    pub dirty: u64,
    /// See [`Found::Unarchived`].
    pub unarchived: u64,
    /// See [`Found::Elsewhere`].
    pub elsewhere: u64,
    /// See [`Found::Imported`].
    pub imported: u64,
    /// See [`Found::Changed`].
    pub changed: u64,
    /// See [`Found::Vanished`].
    pub vanished: u64,
    /// See [`Found::Filtered`].
    pub filtered: u64,
    /// See [`Found::Failed`].
    pub failed: u64,
    /// Of what was compared, files that are released.
    pub released: u64,
    /// Of what was compared, files that name the object of another one (clones), of which only content is compared.
    pub shared: u64,
    /// Of what was compared, files whose object has no manifest: only size and content are compared.
    pub undescribed: u64,
    /// Objects in a cold storage class, which were not read.
    pub cold: u64,
    /// Objects that no file names and the agent's queue sees to: on their way in or out.
    pub claimed: u64,
    /// Objects that no file names, stored since the comparison began.
    pub young: u64,
    /// Objects that no file names, archived from another filesystem.
    pub foreign: u64,
    /// What lies among the archive's objects and is nobody's as far as can be seen.
    pub strange: u64,
    /// Content that was read, of files and objects.
    pub bytes: u64,
}

impl Totals {
    /// Whether files and archive were found to differ.
    #[must_use]
    pub fn differ(&self) -> bool {
        self.differs + self.missing + self.extra > 0
    }

    /// Whether all was compared.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.changed + self.failed == 0
    }

    /// Files that were looked at.
    #[must_use]
    pub fn seen(&self) -> u64 {
        let compared = self.same + self.differs + self.missing + self.changed + self.failed;
        compared + self.dirty + self.unarchived + self.elsewhere + self.imported
    }
}

impl Tally {
    pub(super) fn count(&self, found: &Found) {
        let which = match found {
            Found::Same => &self.same,
            Found::Differs(_) => &self.differs,
            Found::Missing => &self.missing,
            Found::Extra => &self.extra,
            Found::Dirty => &self.dirty,
            Found::Unarchived => &self.unarchived,
            Found::Elsewhere => &self.elsewhere,
            Found::Imported => &self.imported,
            Found::Changed => &self.changed,
            Found::Vanished => &self.vanished,
            Found::Filtered => &self.filtered,
            Found::Failed(_) => &self.failed,
        };
        add(which, 1);
    }

    /// As of now.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            same: of(&self.same),
            differs: of(&self.differs),
            missing: of(&self.missing),
            extra: of(&self.extra),
            dirty: of(&self.dirty),
            unarchived: of(&self.unarchived),
            elsewhere: of(&self.elsewhere),
            imported: of(&self.imported),
            changed: of(&self.changed),
            vanished: of(&self.vanished),
            filtered: of(&self.filtered),
            failed: of(&self.failed),
            released: of(&self.released),
            shared: of(&self.shared),
            undescribed: of(&self.undescribed),
            cold: of(&self.cold),
            claimed: of(&self.claimed),
            young: of(&self.young),
            foreign: of(&self.foreign),
            strange: of(&self.strange),
            bytes: of(&self.bytes),
        }
    }
}

pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
