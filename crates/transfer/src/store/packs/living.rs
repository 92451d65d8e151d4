//! How many members are left in the packs that are losing theirs.
//!
//! For: removing a pack with its last member, and not only when somebody looks through all packs; and for finding a tombstone to link
//! the next one to. Not for: deciding what may go. Only this process's removals are counted, and only of so many packs; before a pack goes its tombstones
//! are looked at, and one that was counted wrong waits for the next [`repack`](super::repack).

use crate::pack::{MemberId, MemberName, PackId};
use parking_lot::Mutex;
use std::collections::HashMap;

/// Packs counted at once, some 40 bytes each. Then they are counted anew, as after a restart.
const MAX_PACKS: usize = 1 << 16;

/// The counts.
#[derive(Default)]
pub(super) struct Living {
    packs: Mutex<HashMap<PackId, Count>>,
}

struct Count {
    left: usize,
    marked: Option<MemberName>,
}

impl Living {
    /// To be called before a member is marked as removed; a pack that is not known is counted by `count`. Gives the member that was
    /// marked last, if that is known.
    pub(super) fn before_mark(&self, pack: PackId, count: impl FnOnce() -> Option<usize>) -> Option<MemberName> {
        // Locked while it counts, once for each pack: so no other mark is counted by both.
        let mut packs = self.packs.lock();
        if let Some(count) = packs.get(&pack) {
            return count.marked;
        }
        if packs.len() >= MAX_PACKS {
            packs.clear();
        }
        if let Some(left) = count() {
            packs.insert(pack, Count { left, marked: None });
        }
        None
    }

    /// To be called after a member was marked that was not before. Says whether it was the last one of its pack.
    pub(super) fn after_mark(&self, id: &MemberId) -> bool {
        let mut packs = self.packs.lock();
        let Some(count) = packs.get_mut(&id.pack) else { return false };
        count.marked = Some(id.name);
        count.left = count.left.saturating_sub(1);
        let is_last = count.left == 0;
        if is_last {
            packs.remove(&id.pack);
        }
        is_last
    }
}
