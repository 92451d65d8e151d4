//! Whether an error may pass by itself.

use serde::{Deserialize, Serialize};

/// What a retry reads: never the error's text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorKind {
    /// May succeed if tried again later: the action goes back to the queue with a delay.
    Temporary,
    /// Will not succeed by waiting: the action ends.
    Permanent,
}

// Linux errno values, the same on every architecture that Sifaka is built for.
const TEMPORARY: [i32; 19] = [
    4,   // EINTR
    5,   // EIO: disks and networks recover; an archive that lost a block keeps failing and is seen in the queue
    11,  // EAGAIN
    12,  // ENOMEM
    16,  // EBUSY
    23,  // ENFILE
    24,  // EMFILE
    26,  // ETXTBSY
    28,  // ENOSPC
    32,  // EPIPE
    62,  // ETIME
    103, // ECONNABORTED
    104, // ECONNRESET
    107, // ENOTCONN
    108, // ESHUTDOWN: a Lustre client that was evicted, until it is connected again
    110, // ETIMEDOUT
    111, // ECONNREFUSED
    113, // EHOSTUNREACH
    122, // EDQUOT
];

/// The kind of a Linux errno when its sender said nothing better (a Lemur plugin, a system call).
#[must_use]
pub fn errno_kind(errno: i32) -> ErrorKind {
    if TEMPORARY.contains(&errno) { ErrorKind::Temporary } else { ErrorKind::Permanent }
}
