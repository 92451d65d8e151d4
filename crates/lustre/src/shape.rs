//! A file's mirrors, from the components of its layout; OSTs of pools.

use std::io;
use std::path::Path;
use sys::lustre::{Component, Library, osts, pool_members};

/// One mirror: a file that never had two has one, with the id 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// By which it is named.
    pub id: u32,
    /// In the order of their ranges.
    pub components: Vec<Component>,
}

impl Mirror {
    /// Whether all of its content is up to date.
    #[must_use]
    pub fn in_sync(&self) -> bool {
        self.components.iter().all(|component| !component.stale)
    }

    /// Whether its content from `start` to `end` is.
    pub(crate) fn in_sync_within(&self, start: u64, end: u64) -> bool {
        let there = |component: &&Component| component.start < end && start < component.end;
        self.components.iter().filter(there).all(|component| !component.stale)
    }

    /// Whether all of it lies, or will lie, on these OSTs, or in this pool.
    pub(crate) fn is_on(&self, osts: &[u32], pool: Option<&str>) -> bool {
        let within = |component: &Component| match (component.initialised, component.osts.as_slice()) {
            // Its objects are made when it is first written.
            (false, _) | (_, []) => pool.is_some_and(|pool| component.pool == pool),
            (true, there) => there.iter().all(|ost| osts.contains(ost)),
        };
        self.components.iter().any(|component| !component.osts.is_empty()) && self.components.iter().all(within)
    }
}

/// Groups the components of a layout.
#[must_use]
pub fn mirrors_of(components: Vec<Component>) -> Vec<Mirror> {
    let mut mirrors: Vec<Mirror> = Vec::new();
    for component in components {
        match mirrors.iter_mut().find(|mirror| mirror.id == component.mirror) {
            Some(mirror) => mirror.components.push(component),
            None => mirrors.push(Mirror { id: component.mirror, components: vec![component] }),
        }
    }
    mirrors
}

/// Why the OSTs of a pool are not known.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// No OST answered, so the filesystem's name is not known either.
    #[error("no OST of the filesystem at {mount} answers", mount = mount.display())]
    NoOsts {
        /// Where it is.
        mount: std::path::PathBuf,
    },
    /// There is none of this name.
    #[error("filesystem {fsname} has no pool {pool}: `lctl pool_list {fsname}` names those it has")]
    Missing {
        /// The filesystem's name.
        fsname: String,
        /// The pool's.
        pool: String,
    },
    /// Something else.
    #[error("cannot find out about the OSTs: {0}")]
    Io(#[from] io::Error),
}

/// The OSTs of a pool, by their indexes. `mount` is any path on the filesystem.
pub fn pool_osts(library: &Library, mount: &Path, pool: &str) -> Result<Vec<u32>, PoolError> {
    let fsname = fsname(library, mount)?;
    let members = match pool_members(library, &fsname, pool) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(PoolError::Missing { fsname, pool: pool.to_owned() });
        }
        members => members?,
    };
    Ok(members.iter().filter_map(|name| index(name)).collect())
}

/// The filesystem's name, as its OSTs have it.
pub fn fsname(library: &Library, mount: &Path) -> Result<String, PoolError> {
    let osts = osts(library, mount)?;
    let named = osts.iter().find_map(|ost| Some(ost.uuid.rsplit_once("-OST")?.0.to_owned()));
    named.ok_or_else(|| PoolError::NoOsts { mount: mount.to_owned() })
}

/// Of `lustre-OST001f_UUID`.
fn index(name: &str) -> Option<u32> {
    let hexadecimal = name.rsplit_once("-OST")?.1;
    u32::from_str_radix(hexadecimal.strip_suffix("_UUID").unwrap_or(hexadecimal), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(mirror: u32, start: u64, end: u64, osts: &[u32]) -> Component {
        let (id, pool) = (mirror << 16 | 1, String::new());
        let initialised = !osts.is_empty();
        Component { id, mirror, stale: false, initialised, start, end, stripe_size: 1 << 20, pool, osts: osts.to_vec() }
    }

    #[test]
    fn names_of_osts_have_their_index() {
        assert_eq!(index("lustre-OST001f_UUID"), Some(31));
        assert_eq!(index("with-OST-OSTffff"), Some(0xffff));
        assert_eq!((index("lustre-MDT0000_UUID"), index("lustre-OSTxyz_UUID")), (None, None));
    }

    #[test]
    fn components_are_grouped_and_stale_ranges_found() {
        let stale = Component { stale: true, ..component(2, 10, 20, &[3]) };
        let mirrors = mirrors_of(vec![component(1, 0, u64::MAX, &[0]), component(2, 0, 10, &[3]), stale]);
        assert_eq!(
            mirrors.iter().map(|mirror| (mirror.id, mirror.in_sync())).collect::<Vec<_>>(),
            [(1, true), (2, false)]
        );
        assert!(mirrors[1].in_sync_within(0, 10) && !mirrors[1].in_sync_within(9, 11));
    }

    #[test]
    fn a_mirror_is_where_all_its_objects_are() {
        let part =
            |osts: &[u32]| Mirror { id: 1, components: vec![component(1, 0, 10, osts), component(1, 10, 20, &[])] };
        assert!(!part(&[1]).is_on(&[1, 2], None), "the second part will be anywhere");
        let whole = Mirror { id: 1, components: vec![component(1, 0, u64::MAX, &[1, 2])] };
        assert!(whole.is_on(&[2, 1], None) && !whole.is_on(&[1], None));
        let mut pooled = part(&[1]);
        pooled.components[1].pool = "fast".into();
        assert!(pooled.is_on(&[1], Some("fast")) && !pooled.is_on(&[1], Some("slow")));
        assert!(!part(&[]).is_on(&[1], None), "nothing of it is anywhere");
    }
}
