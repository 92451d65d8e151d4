//! What is told while the work goes on.

use model::FileHandle;
use serde::Serialize;
use std::borrow::Cow;

/// What somebody should look at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Problem {
    /// A manifest that cannot be read, or is not what it should be.
    DamagedManifest,
    /// A manifest or pack that a newer program wrote, or something that is none of ours.
    UnknownManifest,
    /// An object without a usable manifest: nobody knows whose content it is.
    NoManifest,
    /// A manifest without its object: the content is lost.
    NoObject,
    /// A manifest that does not say where its file was.
    NoPath,
    /// Two manifests are for one path, or for one file; the newer one counts.
    Superseded,
    /// Something else is there already.
    Conflict,
    /// A further name of a file that is not in the archive.
    NoInode,
    /// An attribute that this filesystem does not take.
    Attribute,
    /// Part of an object that is not what was archived.
    Damage,
    /// Something in the archive that nobody names.
    Orphan,
    /// A copy of an object under a key that nothing leads to.
    Stray,
    /// An object whose name cannot be that of a file.
    BadName,
    /// An object that is another version than the one that its file names, and the file cannot be made anew.
    Changed,
    /// Something could not be done.
    Failed,
}

/// One of them, with where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What kind.
    pub problem: Problem,
    /// The path in the filesystem, relative to its root, if it is known.
    pub path: Option<Vec<u8>>,
    /// The object, if one is concerned.
    pub object: Option<String>,
    /// Whose content the object is, as its manifest says.
    pub inode: Option<FileHandle>,
    /// What, for people.
    pub what: Cow<'static, str>,
}

impl Finding {
    pub(crate) fn new(problem: Problem, what: impl Into<Cow<'static, str>>) -> Self {
        Self { problem, path: None, object: None, inode: None, what: what.into() }
    }

    pub(crate) fn at(mut self, path: &[u8]) -> Self {
        self.path = Some(path.to_vec());
        self
    }

    pub(crate) fn content_of(mut self, inode: Option<&FileHandle>) -> Self {
        self.inode = inode.cloned();
        self
    }

    pub(crate) fn of(mut self, object: impl Into<String>) -> Self {
        self.object = Some(object.into());
        self
    }
}

/// Is told how the work goes, from any thread. All has to be quick.
pub trait Watcher: Sync {
    /// Something else begins; `total` is how much of it there is, when that is known.
    fn phase(&self, what: &'static str, total: Option<u64>);
    /// So much more of it is done.
    fn advanced(&self, count: u64);
    /// Something was found.
    fn found(&self, finding: Finding);
}
