//! Which things a job is for.
//!
//! By name: what one of the `exclude` patterns matches is left out, unless one of `include` matches it, too; a directory that is left out is not
//! entered. A pattern with a slash is matched against the way from the root, one without against the name alone; one that ends in a slash is
//! for directories only. By size, time of change and owner: regular files only.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use sys::file::FileStamp;

use crate::walk::{Directory, as_path};

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    exclude: Patterns,
    include: Patterns,
    /// Bytes.
    pub min_size: Option<u64>,
    /// Bytes.
    pub max_size: Option<u64>,
    /// Changed within this time.
    pub newer_than: Option<Duration>,
    /// Not changed within this time.
    pub older_than: Option<Duration>,
    /// Owners; any if there is none.
    pub owners: Vec<u32>,
}

#[derive(Debug, Clone, Default)]
struct Patterns {
    texts: Vec<String>,
    names: GlobSet,
    paths: GlobSet,
    directory_names: GlobSet,
    directory_paths: GlobSet,
}

/// A pattern that is none.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadPattern(#[from] globset::Error);

impl Patterns {
    fn new(texts: &[String]) -> Result<Self, BadPattern> {
        let mut sets = [(); 4].map(|()| GlobSetBuilder::new());
        for text in texts {
            let body = text.strip_suffix('/').unwrap_or(text);
            let directories = usize::from(body.len() < text.len()) * 2;
            let paths = usize::from(body.contains('/'));
            let glob = GlobBuilder::new(body.trim_start_matches('/')).literal_separator(true).build()?;
            if let Some(set) = sets.get_mut(directories + paths) {
                set.add(glob);
            }
        }
        let [names, paths, directory_names, directory_paths] = sets;
        Ok(Self {
            texts: texts.to_vec(),
            names: names.build()?,
            paths: paths.build()?,
            directory_names: directory_names.build()?,
            directory_paths: directory_paths.build()?,
        })
    }

    fn is_empty(&self) -> bool {
        [&self.names, &self.paths, &self.directory_names, &self.directory_paths].iter().all(|set| set.is_empty())
    }

    /// `path` is the way from the root, where that is asked for.
    fn matches(&self, name: &[u8], is_directory: bool, path: impl FnOnce() -> Vec<u8>) -> bool {
        let by_name =
            self.names.is_match(as_path(name)) || is_directory && self.directory_names.is_match(as_path(name));
        if by_name || self.paths.is_empty() && (!is_directory || self.directory_paths.is_empty()) {
            return by_name;
        }
        let path = path();
        self.paths.is_match(as_path(&path)) || is_directory && self.directory_paths.is_match(as_path(&path))
    }
}

impl Filter {
    /// By names alone.
    ///
    /// # Errors
    /// A pattern cannot be understood.
    pub fn by_names(exclude: &[String], include: &[String]) -> Result<Self, BadPattern> {
        Ok(Self { exclude: Patterns::new(exclude)?, include: Patterns::new(include)?, ..Self::default() })
    }

    /// The same for filters that say the same.
    pub(crate) fn terms(&self) -> String {
        let Self { exclude, include, min_size, max_size, newer_than, older_than, owners } = self;
        format!(
            "{:?} {:?} {min_size:?} {max_size:?} {newer_than:?} {older_than:?} {owners:?}",
            exclude.texts, include.texts
        )
    }

    /// Whether the job is for it, by its name.
    pub fn wants_name<K>(&self, directory: &Directory<K>, name: &[u8], is_directory: bool) -> bool {
        let path = || directory.path_of(name);
        self.wants(name, is_directory, path)
    }

    /// As [`wants_name`](Self::wants_name), of a way from the root of which no part is known yet: what lies in a directory that is left out is left out, too.
    pub fn wants_path(&self, path: &[u8], is_directory: bool) -> bool {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| (at, true));
        ends.chain([(path.len(), is_directory)]).all(|(end, is_directory)| {
            let path = path.get(..end).unwrap_or_default();
            let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            self.wants(name, is_directory, || path.to_owned())
        })
    }

    /// As [`wants_name`](Self::wants_name), where only the way from the root is known.
    pub(crate) fn wants(&self, name: &[u8], is_directory: bool, path: impl Fn() -> Vec<u8>) -> bool {
        self.exclude.is_empty()
            || !self.exclude.matches(name, is_directory, &path)
            || self.include.matches(name, is_directory, &path)
    }

    /// Whether [`wants_file`](Self::wants_file) may leave anything out.
    pub(crate) fn asks_of_files(&self) -> bool {
        let Self { min_size, max_size, newer_than, older_than, owners, .. } = self;
        min_size.is_some() || max_size.is_some() || newer_than.is_some() || older_than.is_some() || !owners.is_empty()
    }

    /// Whether the job is for a regular file, by all but its name.
    pub fn wants_file(&self, stamp: &FileStamp) -> bool {
        let age = || {
            let Ok(seconds) = u64::try_from(stamp.mtime.0) else { return Duration::MAX };
            let changed = UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
            // Changed in the future: just now.
            changed.and_then(|changed| SystemTime::now().duration_since(changed).ok()).unwrap_or_default()
        };
        self.min_size.is_none_or(|least| stamp.size >= least)
            && self.max_size.is_none_or(|most| stamp.size <= most)
            && self.newer_than.is_none_or(|most| age() <= most)
            && self.older_than.is_none_or(|least| age() > least)
            && (self.owners.is_empty() || self.owners.contains(&stamp.uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_directory_that_is_left_out_is_left_out() {
        let of = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let filter = Filter::by_names(&of(&["*.tmp", "a/b/", "cache"]), &of(&["kept.tmp"])).unwrap();
        for (path, is_directory) in [("x/y.tmp", false), ("a/b", true), ("a/b/c/d", false), ("z/cache/f", false)] {
            assert!(!filter.wants_path(path.as_bytes(), is_directory), "{path}");
        }
        for (path, is_directory) in [("x/kept.tmp", false), ("a/b", false), ("a/c/d", false), ("x/a/b/c", false)] {
            assert!(filter.wants_path(path.as_bytes(), is_directory), "{path}");
        }
    }
}
