//! Trees of directories, walked by several threads with bounded memory.
//!
//! For: all jobs. What is done with what is found is the [`Visitor`]'s. **Blocks**: threads, no async runtime.
//!
//! Every directory is opened by its name in its parent's descriptor, without following symbolic links: whoever moves things about in the
//! tree meanwhile leads nobody out of it, and paths may be longer than the kernel takes them. Other filesystems are not entered unless
//! asked for.
//!
//! A thread that lists a directory works on its entries itself; only when others have nothing to do are some given to them, so that usually
//! no two threads change one directory. Directories that wait are limited in number: who finds no room goes down by itself.

mod crew;
mod directory;
mod entry;

pub(crate) use crew::Part;
pub use crew::{Pace, Walker};
pub use directory::Directory;
pub use entry::{Entry, as_path};

pub(crate) use crew::mount_of;
pub(crate) use entry::{Buffer, kind_of};

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use sys::file::FileStamp;

/// What is done with what is found, by any of the threads.
pub trait Visitor: Sync + Sized {
    /// Kept with each directory until all in and below it is done.
    type Kept: Send + Sync;

    /// Whether a directory is entered, before it is opened. Not asked for the root.
    fn wants(&self, _parent: &Directory<Self::Kept>, _name: &[u8]) -> bool {
        true
    }

    /// A directory was opened. `None`: it is not entered.
    fn enter(&self, found: Found<'_, Self::Kept>) -> Option<Self::Kept>;

    /// Entries of a directory that are no directories.
    fn entries(&self, walk: &Walker<'_, Self>, directory: &Arc<Directory<Self::Kept>>, entries: &[Entry]);

    /// All in and below a directory is done. Whether it is [flawed](Directory::is_flawed) is certain now.
    fn leave(&self, directory: &Directory<Self::Kept>);

    /// Something in `directory` could not be looked at: the walk is not complete. An empty name is the directory itself.
    fn trouble(&self, directory: &Directory<Self::Kept>, name: &[u8], doing: &'static str, error: &io::Error);

    /// A directory on another filesystem is not entered.
    fn elsewhere(&self, _directory: &Directory<Self::Kept>, _name: &[u8]) {}
}

/// A directory that was just opened.
#[derive(Debug)]
pub struct Found<'a, K> {
    /// `None` for the root.
    pub parent: Option<&'a Arc<Directory<K>>>,
    /// In the parent; empty for the root.
    pub name: &'a [u8],
    /// Itself.
    pub fd: BorrowedFd<'a>,
    /// As it is now.
    pub stamp: &'a FileStamp,
}
