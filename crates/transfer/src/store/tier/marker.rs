//! What says of a directory that it is one of an archive's roots: the file `.sifaka-root` in it.
//!
//! ```text
//! sifaka archive root 1
//! archive 0a4d…                     the same in all its roots
//! this 5c11…                        this root's own
//! root 5c11… /tier/a                one line for each root that is known to belong to it, this one too, with its path as the configuration wrote it last
//! ```
//!
//! So an empty mount point is told from a new root: the other roots name the one, and not the other; and what was forgotten in the configuration is noticed. A root that is
//! lost for good is taken out by hand, by its line in the others. An archive that has had one root only has no such file.

use super::super::root::{Root, none_if_missing};
use crate::TransferError;
use rustix::fs::AtFlags;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use sys::{Mode, OFlags};
use uuid::Uuid;

/// The file's name.
pub(in crate::store) const MARKER: &str = ".sifaka-root";
const NEW: &str = ".sifaka-root.new";
const FIRST_LINE: &str = "sifaka archive root 1";
/// Of more roots than anybody has.
const MAX_BYTES: u64 = 1 << 20;

/// What is in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker {
    /// Which archive.
    pub(super) archive: Uuid,
    /// Which root of it.
    pub(super) this: Uuid,
    /// Its roots, with their paths as [`name_of`] writes them.
    pub(super) roots: BTreeMap<Uuid, String>,
}

/// A root's path as a marker has it.
pub(super) fn name_of(path: &Path) -> String {
    path.to_string_lossy().escape_debug().to_string()
}

impl Marker {
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next() != Some(FIRST_LINE) {
            return None;
        }
        let archive = Uuid::try_parse(lines.next()?.strip_prefix("archive ")?).ok()?;
        let this = Uuid::try_parse(lines.next()?.strip_prefix("this ")?).ok()?;
        let root = |line: &str| {
            let (id, path) = line.strip_prefix("root ")?.split_once(' ')?;
            Some((Uuid::try_parse(id).ok()?, path.to_owned()))
        };
        Some(Self { archive, this, roots: lines.map(root).collect::<Option<_>>()? })
    }

    fn text(&self) -> String {
        let mut text = format!("{FIRST_LINE}\narchive {}\nthis {}\n", self.archive, self.this);
        self.roots.iter().for_each(|(id, path)| text += &format!("root {id} {path}\n"));
        text
    }

    /// `None` where there is none.
    ///
    /// # Errors
    /// [`TransferError::Unavailable`] also when it is none of ours.
    pub(super) fn read(root: &Root) -> Result<Option<Self>, TransferError> {
        let failed = |e: io::Error| unusable(root, &e.to_string());
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let opened = sys::file::open_beneath(root.dir(), MARKER, flags, Mode::empty()).map(File::from);
        let Some(file) = none_if_missing(opened).map_err(failed)? else { return Ok(None) };
        let mut text = String::new();
        file.take(MAX_BYTES).read_to_string(&mut text).map_err(failed)?;
        Self::parse(&text).map(Some).ok_or_else(|| unusable(root, "it is not what Sifaka writes there"))
    }

    /// Durably; whoever reads it meanwhile finds the old one or this.
    pub(super) fn write(&self, root: &Root) -> Result<(), TransferError> {
        let write = || {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
            let mut file = File::from(sys::file::open_beneath(root.dir(), NEW, flags, Mode::RUSR | Mode::WUSR)?);
            file.write_all(self.text().as_bytes())?;
            sys::file::sync_all(&file)?;
            rustix::fs::renameat(root.dir(), NEW, root.dir(), MARKER)?;
            sys::file::sync_all(root.dir())
        };
        write().map_err(|e: io::Error| {
            let _ = rustix::fs::unlinkat(root.dir(), NEW, AtFlags::empty());
            TransferError::io("write", root.path().join(MARKER))(e)
        })
    }
}

fn unusable(root: &Root, why: &str) -> TransferError {
    TransferError::Unavailable { path: root.path().to_owned(), why: format!("its file {MARKER} cannot be used: {why}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_comes_back_and_garbage_is_none() {
        let roots = ["/a", "/b c", "/d\ne"].iter().map(|path| (Uuid::new_v4(), name_of(Path::new(path)))).collect();
        let marker = Marker { archive: Uuid::new_v4(), this: Uuid::new_v4(), roots };
        assert_eq!(Marker::parse(&marker.text()), Some(marker.clone()));
        let text = marker.text();
        for garbage in
            ["", "sifaka archive root 2\n", FIRST_LINE, &format!("{text}what\n"), &text.replace("archive ", "")]
        {
            assert_eq!(Marker::parse(garbage), None, "{garbage:?}");
        }
    }
}
