//! What a migration is to do.

use super::attic::Attic;
use crate::filter::Filter;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;

/// What may be done to files that are at the destination and differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Existing {
    /// Nothing: they are told.
    #[default]
    Keep,
    /// They are replaced where size or time of change differ.
    Update,
    /// They are replaced where the source was changed later.
    Newer,
    /// They are replaced whether or not they differ.
    Overwrite,
}

/// How a regular file that the destination does not have comes there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Leaf {
    /// Its content is copied, or its blocks are shared where that costs less.
    #[default]
    Copy,
    /// Its blocks are shared. It is copied only where a single file cannot have them so.
    Reflink,
    /// It becomes another name of the source's file. It is copied only where that can have no more of them.
    Link,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// See [`Existing`].
    pub existing: Existing,
    /// What the source does not have is removed from the destination.
    pub delete: bool,
    /// What was copied is read again on both sides, past the page cache, and compared.
    pub verify: bool,
    /// Nothing is changed; what would be is told.
    pub dry_run: bool,
    /// Other filesystems below the source are entered.
    pub cross: bool,
    /// What the job is for.
    pub filter: Filter,
    /// Bytes of content a second, all threads together.
    pub limit: Option<NonZeroU64>,
    /// So many threads; without a number they are adapted to what is fastest.
    pub threads: Option<usize>,
    /// Where the job keeps what an interrupted run has done. `None`: nowhere.
    pub state: Option<PathBuf>,
    /// What an interrupted run has done is forgotten.
    pub restart: bool,
    /// Files of the job's own besides, such as its report: never removed, wherever they are.
    pub own: Vec<PathBuf>,
    /// What is removed or replaced at the destination is kept here for a while.
    pub attic: Option<Arc<Attic>>,
    /// What has this name in either root is none of the job's.
    pub reserved: Option<&'static str>,
    /// Nothing is changed in place at the destination, where each file may have so many names outside of the tree: what is to be changed is replaced.
    pub names_outside: Option<u64>,
    /// See [`Leaf`].
    pub leaf: Leaf,
}

impl Options {
    /// All on which it depends what is done in a directory.
    pub(crate) fn terms(&self) -> String {
        let Self { existing, delete, verify, cross, filter, .. } = self;
        format!("{existing:?} {delete} {verify} {cross} {}", filter.terms())
    }
}
