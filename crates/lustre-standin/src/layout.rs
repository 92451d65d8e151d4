//! Layouts: what a file's mirrors are, and on which OSTs.
//!
//! A layout is an attribute of the inode. The inode has the data of one mirror, the primary; those of the others are shadow
//! files. Writes go into the primary alone: when the file has changed since another mirror was in sync, that one is stale.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::abi::{Fid, state};
use crate::boundary::{Errno, Result};
use crate::file::{Hsm, attribute, fid_of, modification, set_attribute};
use crate::root::Root;
use crate::state::Session;

const LAYOUT: &str = "trusted.standin.layout";
const STRIPE_SIZE: u64 = 1 << 20;

/// One copy of a file's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mirror {
    /// 0 in a file that never had two.
    pub(crate) id: u16,
    pub(crate) stripe_size: u64,
    pub(crate) pool: String,
    pub(crate) osts: Vec<u32>,
    /// [`modification`] of the file when this was the same as the primary; not looked at in the primary.
    pub(crate) synced: u64,
    /// Never resynced unless it is named.
    #[serde(default)]
    pub(crate) nosync: bool,
}

impl Mirror {
    /// The id of its only component.
    pub(crate) fn component(&self) -> u32 {
        u32::from(self.id) << 16 | 1
    }
}

/// All copies of a file's data; the first is the primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout {
    pub(crate) mirrors: Vec<Mirror>,
    /// Between the beginning and the end of a resync.
    pub(crate) syncing: bool,
    /// Whether it is one of components: what is not can be no mirror.
    #[serde(default)]
    pub(crate) composite: bool,
}

/// What a user wants of a new layout; what is `None` is the filesystem's to choose.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wish {
    /// `usize::MAX` is as many as there are.
    pub(crate) stripe_count: Option<usize>,
    pub(crate) stripe_size: Option<u64>,
    /// Of components, and not plain.
    pub(crate) composite: bool,
    pub(crate) pool: String,
    pub(crate) first_ost: Option<u32>,
    /// The OSTs of the stripes behind the first, by their numbers.
    pub(crate) further_osts: BTreeMap<u64, u32>,
}

impl Layout {
    /// Of a file that has none yet: one is made up, as the filesystem does when a file is created.
    pub(crate) fn of(session: &mut Session, path: &Path) -> Result<Layout> {
        if let Some(layout) = Layout::known(path)? {
            return Ok(layout);
        }
        let fid = fid_of(session, path)?;
        let layout = Layout::make(&session.root, &Wish::default(), fid.oid)?;
        layout.write(path)?;
        Ok(layout)
    }

    pub(crate) fn known(path: &Path) -> Result<Option<Layout>> {
        let Some(text) = attribute(path, LAYOUT)? else { return Ok(None) };
        let layout: Layout = serde_json::from_str(&text)?;
        if layout.mirrors.is_empty() { Err(Errno(libc::EIO)) } else { Ok(Some(layout)) }
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        set_attribute(path, LAYOUT, &serde_json::to_string(self)?)
    }

    /// `seed` decides between OSTs that are equally good.
    pub(crate) fn make(root: &Root, wish: &Wish, seed: u32) -> Result<Layout> {
        let mut candidates: Vec<u32> = if wish.pool.is_empty() {
            osts(root)?.into_keys().collect()
        } else {
            pool(root, &wish.pool).map_err(|_| Errno(libc::EINVAL))?
        };
        let start = match wish.first_ost {
            Some(first) => candidates.iter().position(|ost| *ost == first).ok_or(Errno(libc::EINVAL))?,
            None => seed as usize % candidates.len().max(1),
        };
        candidates.rotate_left(start);
        candidates.truncate(wish.stripe_count.unwrap_or(1).max(1));
        if !wish.further_osts.is_empty() {
            candidates = Layout::named(wish, &osts(root)?)?;
        }
        let stripe_size = wish.stripe_size.unwrap_or(STRIPE_SIZE);
        let mirror = Mirror { id: 0, stripe_size, pool: wish.pool.clone(), osts: candidates, synced: 0, nosync: false };
        Ok(Layout { mirrors: vec![mirror], syncing: false, composite: wish.composite })
    }

    /// The OSTs of a wish that names each stripe's.
    fn named(wish: &Wish, there: &BTreeMap<u32, (u64, u64)>) -> Result<Vec<u32>> {
        let stripes = wish.further_osts.iter().map(|(stripe, ost)| (*stripe, *ost));
        let all: BTreeMap<u64, u32> = wish.first_ost.map(|ost| (0, ost)).into_iter().chain(stripes).collect();
        let whole = all.keys().copied().eq(0..all.len() as u64) && wish.stripe_count == Some(all.len());
        let known = all.values().all(|ost| there.contains_key(ost));
        if whole && known { Ok(all.into_values().collect()) } else { Err(Errno(libc::EINVAL)) }
    }

    pub(crate) fn is_mirrored(&self) -> bool {
        self.mirrors.iter().any(|mirror| mirror.id != 0)
    }

    /// Whether the mirror at `index` has older data than the file.
    pub(crate) fn is_stale(&self, index: usize, path: &Path) -> Result<bool> {
        let synced = self.mirrors.get(index).map(|mirror| mirror.synced);
        Ok(index > 0 && synced != Some(modification(&fs::metadata(path)?)))
    }

    pub(crate) fn position(&self, id: u16) -> Result<usize> {
        self.mirrors.iter().position(|mirror| mirror.id == id).ok_or(Errno(libc::EINVAL))
    }
}

/// Where the data of a mirror that is not the primary are.
pub(crate) fn shadow(root: &Root, fid: Fid, mirror: u16) -> PathBuf {
    root.inside("mirrors").join(format!("{fid}.{mirror}"))
}

/// The OSTs with their sizes in bytes, and how much of that something else than files takes.
pub(crate) fn osts(root: &Root) -> Result<BTreeMap<u32, (u64, u64)>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(root.inside("ost"))? {
        let entry = entry?;
        let index = entry.file_name().to_str().and_then(|name| name.parse().ok()).ok_or(Errno(libc::EIO))?;
        let text = fs::read_to_string(entry.path())?;
        let numbers: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let (&[size, other] | &[size, other, _]) = numbers.as_slice() else { return Err(Errno(libc::EIO)) };
        found.insert(index, (size, other));
    }
    Ok(found)
}

/// What the statfs of an OST says of its state; 0 is healthy.
pub(crate) fn ost_state(root: &Root, index: u32) -> Result<u32> {
    let text = fs::read_to_string(root.inside("ost").join(index.to_string()))?;
    text.split_whitespace().nth(2).map_or(Ok(0), |word| word.parse().map_err(|_| Errno(libc::EIO)))
}

/// The OSTs of a pool; `ENOENT` when there is none of that name.
pub(crate) fn pool(root: &Root, name: &str) -> Result<Vec<u32>> {
    if name.contains('/') || name.starts_with('.') {
        return Err(Errno(libc::EINVAL));
    }
    let text = fs::read_to_string(root.inside("pools").join(name))?;
    text.split_whitespace().map(|word| word.parse().map_err(|_| Errno(libc::EIO))).collect()
}

/// How many bytes of files each OST has: each mirror's, in equal parts.
pub(crate) fn usage(session: &mut Session) -> Result<BTreeMap<u32, u64>> {
    let mut used = BTreeMap::new();
    let mut directories = vec![session.root.top().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let metadata = fs::symlink_metadata(&path)?;
            if metadata.is_dir() && path != session.root.top().join(".lustre") {
                directories.push(path);
            } else if metadata.is_file() && !Hsm::read(&path)?.has(state::RELEASED) {
                for mirror in Layout::of(session, &path)?.mirrors {
                    for ost in &mirror.osts {
                        *used.entry(*ost).or_default() += metadata.len() / mirror.osts.len() as u64;
                    }
                }
            }
        }
    }
    Ok(used)
}
