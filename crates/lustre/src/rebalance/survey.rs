//! How full OSTs are now.

use super::plan::Level;
use crate::shape::{PoolError, pool_osts};
use std::path::Path;
use sys::lustre::{Library, Ost, osts};

/// Read-only, no new objects, full, or without inodes (`OS_STATFS_*`): nothing can be moved there.
const CLOSED: u32 = 0x2 | 0x4 | 0x20 | 0x40;

/// The levels of the OSTs of a pool, or of all, and those that are left out because they take no new objects.
pub fn survey(library: &Library, mount: &Path, pool: Option<&str>) -> Result<(Vec<Level>, Vec<u32>), PoolError> {
    let members = pool.map(|pool| pool_osts(library, mount, pool)).transpose()?;
    let all = osts(library, mount)?;
    let meant = |ost: &&Ost| members.as_ref().is_none_or(|members| members.contains(&ost.index));
    let (closed, open): (Vec<&Ost>, Vec<&Ost>) = all.iter().filter(meant).partition(|ost| ost.state & CLOSED != 0);
    Ok((open.into_iter().map(level).collect(), closed.into_iter().map(|ost| ost.index).collect()))
}

/// What is reserved counts neither as used nor as room.
fn level(ost: &Ost) -> Level {
    let used = ost.total.saturating_sub(ost.free);
    Level { ost: ost.index, used, capacity: used.saturating_add(ost.available) }
}
