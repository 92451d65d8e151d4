//! How full OSTs are now.

use super::plan::Level;
use crate::shape::{PoolError, pool_osts};
use std::io;
use std::path::Path;
use sys::lustre::{Library, Ost, ost, osts};

/// Degraded, no new objects, full, or without inodes (`OS_STATFS_*`): nothing is moved there. What is there can go elsewhere.
const CLOSED: u32 = 0x1 | 0x4 | 0x20 | 0x40;
/// Nothing on it can be freed either.
const READ_ONLY: u32 = 0x2;

/// What there is to know of the OSTs of a pool, or of all.
#[derive(Debug, Clone)]
pub struct Survey {
    /// Those that files are moved between. One that takes no new objects is among them if it is fuller than the others together.
    pub levels: Vec<Level>,
    /// The others.
    pub left_out: Vec<u32>,
}

/// Looks at the OSTs of a pool, or at all.
pub fn survey(library: &Library, mount: &Path, pool: Option<&str>) -> Result<Survey, PoolError> {
    let members = pool.map(|pool| pool_osts(library, mount, pool)).transpose()?;
    let all = osts(library, mount)?;
    let meant = all.iter().filter(|ost| members.as_ref().is_none_or(|members| members.contains(&ost.index)));
    let (fixed, free): (Vec<&Ost>, Vec<&Ost>) = meant.partition(|ost| ost.state & READ_ONLY != 0);
    let (open, closed): (Vec<_>, Vec<_>) = free.into_iter().map(level).partition(|level| level.is_open);
    let sum = |of: fn(&Level) -> u64| open.iter().map(of).fold(0, u64::saturating_add);
    let together =
        Level { ost: 0, used: sum(|level| level.used), capacity: sum(|level| level.capacity), is_open: true };
    let (drained, left_out): (Vec<_>, Vec<_>) =
        closed.into_iter().partition(|level| !open.is_empty() && level.fraction() > together.fraction());
    let mut levels = [open, drained].concat();
    levels.sort_by_key(|level| level.ost);
    let left_out = left_out.iter().map(|level| level.ost).chain(fixed.iter().map(|ost| ost.index));
    Ok(Survey { levels, left_out: left_out.collect() })
}

/// One OST, now.
pub fn look_again(library: &Library, mount: &Path, index: u32) -> io::Result<Level> {
    ost(library, mount, index).map(|ost| level(&ost))
}

/// What is reserved counts neither as used nor as room.
fn level(ost: &Ost) -> Level {
    let used = ost.total.saturating_sub(ost.free);
    let is_open = ost.state & (CLOSED | READ_ONLY) == 0;
    Level { ost: ost.index, used, capacity: used.saturating_add(ost.available), is_open }
}
