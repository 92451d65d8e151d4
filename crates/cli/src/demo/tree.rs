//! The files that the demo works on: regular files that are there, only read.

use super::pace::Stop;
use crate::exit::{CliError, Exit};
use rustix::fs::{Access, access};
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Of the machine's own files, at least as many…
const MIN_FILES: usize = 5_000;
/// … with at least so many bytes are taken, if there are,
const MIN_BYTES: u64 = 500_000_000;
/// and not many more.
const MAX_BYTES: u64 = 700_000_000;
/// So many are kept free for each file that is still wanted: large ones that come first must not take the place of all others.
const RESERVED_BYTES: u64 = 50_000;
const _: () = assert!(MIN_FILES as u64 * RESERVED_BYTES < MAX_BYTES);

/// A regular file, and where its copy goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// Its absolute path without the first slash.
    pub(super) relative: PathBuf,
    pub(super) bytes: u64,
}

/// The files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Tree {
    pub(super) roots: Vec<PathBuf>,
    pub(super) files: Vec<Source>,
    /// Something that is to be known about them.
    pub(super) note: Option<String>,
}

impl Tree {
    /// Enough of the machine's own files, or what it has.
    pub(super) fn of_machine(stop: &Stop) -> Result<Self, CliError> {
        let usual = Self::collect(&["/usr/share", "/usr/lib"], stop)?;
        if usual.is_enough() {
            return Ok(usual);
        }
        let mut all = Self::collect(&["/usr"], stop)?;
        if !all.is_enough() {
            all.note = Some(format!("/usr holds less than {MIN_FILES} files and {} MB", MIN_BYTES / 1_000_000));
        }
        all.if_any()
    }

    /// All files that are named, or are below directories that are named.
    pub(super) fn of(named: &[PathBuf], stop: &Stop) -> Result<Self, CliError> {
        let mut tree = Self { roots: Vec::new(), files: Vec::new(), note: None };
        let mut seen = HashSet::new();
        for path in named {
            let unusable = |why| CliError::new(Exit::Usage, format!("--source {}: {why}", path.display()));
            let root = fs::canonicalize(path).map_err(unusable)?;
            for source in Walk::new(&root) {
                stop.check()?;
                if seen.insert(source.path.clone()) {
                    tree.files.push(source);
                }
            }
            tree.roots.push(root);
        }
        tree.if_any()
    }

    pub(super) fn count(&self) -> u64 {
        self.files.len() as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|source| source.bytes).sum()
    }

    /// From each root in turn, until there is enough: one alone may hold only small files.
    fn collect(roots: &[&str], stop: &Stop) -> Result<Self, CliError> {
        let roots: Vec<PathBuf> = roots.iter().map(PathBuf::from).collect();
        let mut walks: Vec<Walk> = roots.iter().map(|root| Walk::new(root)).collect();
        let mut tree = Self { roots, files: Vec::new(), note: None };
        let mut bytes = 0;
        while !walks.is_empty() && (tree.files.len() < MIN_FILES || bytes < MIN_BYTES) {
            stop.check()?;
            walks.retain_mut(|walk| {
                let Some(source) = walk.next() else { return false };
                let wanted = MIN_FILES.saturating_sub(tree.files.len() + 1) as u64;
                if bytes + source.bytes + wanted * RESERVED_BYTES <= MAX_BYTES {
                    bytes += source.bytes;
                    tree.files.push(source);
                }
                true
            });
        }
        Ok(tree)
    }

    fn is_enough(&self) -> bool {
        self.files.len() >= MIN_FILES && self.bytes() >= MIN_BYTES
    }

    fn if_any(self) -> Result<Self, CliError> {
        if self.files.is_empty() {
            return Err(CliError::new(Exit::Usage, "the demo needs files: name some with --source"));
        }
        Ok(self)
    }
}

/// The readable regular files at and below a path, in the order of their names. Other filesystems are entered, symbolic links
/// are not followed; what cannot be looked at is passed over.
struct Walk {
    /// Those to be looked at, the next one last.
    open: Vec<PathBuf>,
}

impl Walk {
    fn new(root: &Path) -> Self {
        Self { open: vec![root.to_owned()] }
    }
}

impl Iterator for Walk {
    type Item = Source;

    fn next(&mut self) -> Option<Source> {
        while let Some(path) = self.open.pop() {
            let Ok(found) = fs::symlink_metadata(&path) else { continue };
            if found.is_dir() {
                let mut entries: Vec<_> =
                    fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
                entries.sort_unstable_by(|a, b| b.cmp(a));
                self.open.append(&mut entries);
            } else if found.is_file() && access(&path, Access::READ_OK).is_ok() {
                let relative = path.strip_prefix("/").unwrap_or(&path).to_owned();
                return Some(Source { path, relative, bytes: found.size() });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regular_files_are_found_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for name in ["b/2", "b/1", "a", "c/d/3"] {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        std::os::unix::fs::symlink("a", root.join("link")).unwrap();
        let found: Vec<_> = Walk::new(&root).collect();
        let names: Vec<_> = found.iter().map(|source| source.path.strip_prefix(&root).unwrap()).collect();
        assert_eq!(names, ["a", "b/1", "b/2", "c/d/3"].map(Path::new));
        assert!(found.iter().all(|source| source.relative.is_relative() && source.bytes > 0));
    }
}
