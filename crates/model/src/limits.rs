//! Limits and defaults that more than one crate has to agree on; their relations are asserted at compile time.

/// One step of copying, hashing and cancelling, in bytes (P4: a running action ends within one of these).
pub const CHUNK_SIZE_BYTES: usize = 1 << 20;
/// Actions a mover may hold when it announced no number of its own.
pub const DEFAULT_CREDITS: u32 = 1024;
/// The most a mover may announce.
pub const MAX_CREDITS: u32 = 65_536;
/// The most data a request may carry to a mover, in bytes.
pub const MAX_ACTION_DATA_BYTES: usize = 64 << 10;
/// The longest text (path, uuid, url, error message) taken from the wire, in bytes.
pub const MAX_WIRE_TEXT_BYTES: usize = 16 << 10;
/// Seconds between two progress reports of one action.
pub const PROGRESS_INTERVAL_S: u64 = 2;
/// Seconds between two audit lines of the agent, when something changed.
pub const AUDIT_INTERVAL_S: u64 = 10;
/// First delay of a retry in milliseconds; it doubles from there.
pub const RETRY_FIRST_DELAY_MS: u64 = 500;

const _: () = assert!(DEFAULT_CREDITS <= MAX_CREDITS);
const _: () =
    assert!(CHUNK_SIZE_BYTES.is_power_of_two() && CHUNK_SIZE_BYTES >= 1024, "BLAKE3 subtrees need a power of two");
