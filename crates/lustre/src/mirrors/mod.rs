//! File-level replication: mirrors of one file on several OSTs.
//!
//! Each function works on one file, and gives how it came out. A file keeps its content, owner and times, whatever happens: what is
//! merged or removed is so only under a lease that was held all the time, and a mirror goes only while another one is in sync.
//! A process that is killed leaves the file as it was.

mod extend;
mod glance;
mod resync;
mod split;
mod verify;

pub use extend::{Target, extend};
pub use glance::may_be_stale;
pub use resync::resync;
pub use split::{Which, split};
pub use verify::verify;
