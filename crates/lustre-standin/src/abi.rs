//! The structs and numbers of liblustreapi's C interface, as this library sees them.
//!
//! Written down a second time on purpose: the program has its own in `sys`, and two that were shared could not
//! contradict each other. `tests/honest.rs` holds both against the published sizes.

use serde::{Deserialize, Serialize};

/// `struct lu_fid`: what names a file for its whole life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[repr(C)]
pub struct Fid {
    /// Sequence.
    pub seq: u64,
    /// Object in the sequence.
    pub oid: u32,
    /// Version; 0.
    pub ver: u32,
}

/// `struct hsm_extent`: a range of bytes; a length of all ones is "to the end".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[repr(C)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

impl Extent {
    /// The whole file.
    pub const ALL: Extent = Extent { offset: 0, length: u64::MAX };
}

/// `struct hsm_action_list` without the filesystem's name and the items, which follow it.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct ActionListHeader {
    /// Of the format: 1.
    pub version: u32,
    /// How many items.
    pub count: u32,
    /// Of the request they came with.
    pub compound_id: u64,
    /// See [`HAL_FLAG_BLOCKED`].
    pub flags: u64,
    /// The archive all of them are for.
    pub archive_id: u32,
    /// Unused.
    pub padding: u32,
}

/// `struct hsm_action_item` without its data, which follows it.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct ActionItem {
    /// With the data.
    pub len: u32,
    /// One of [`action`].
    pub action: u32,
    /// The file.
    pub fid: Fid,
    /// Where the data go to or come from.
    pub dfid: Fid,
    /// What part of it.
    pub extent: Extent,
    /// Names the action.
    pub cookie: u64,
    /// Group lock.
    pub gid: u64,
}

/// `struct hsm_copy`: what an action's handle sends to the kernel.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Copy {
    /// The file's at the beginning.
    pub data_version: u64,
    /// Progress flags.
    pub flags: u16,
    /// Positive errno.
    pub errval: u16,
    /// Padding.
    pub padding: u32,
    /// The action.
    pub item: ActionItem,
}

/// `struct hsm_progress`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Progress {
    /// The file the data go into.
    pub fid: Fid,
    /// Names the action.
    pub cookie: u64,
    /// What is done.
    pub extent: Extent,
    /// Progress flags.
    pub flags: u16,
    /// Positive errno.
    pub errval: u16,
    /// Padding.
    pub padding: u32,
}

/// `struct hsm_user_state`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct UserState {
    /// Bits of [`state`].
    pub states: u32,
    /// 0 for none.
    pub archive_id: u32,
    /// Never filled.
    pub in_progress_state: u32,
    /// Never filled.
    pub in_progress_action: u32,
    /// Never filled.
    pub in_progress_location: Extent,
}

/// `struct hsm_state_set`, which `llapi_hsm_state_set` fills for the kernel.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct StateSet {
    /// Which of the fields count.
    pub valid: u32,
    /// The archive.
    pub archive_id: u32,
    /// Bits to set.
    pub setmask: u64,
    /// Bits to clear.
    pub clearmask: u64,
}

/// `struct hsm_current_action`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CurrentAction {
    /// 0 none, 1 waiting, 2 running, 3 done.
    pub state: u32,
    /// One of [`user_action`].
    pub action: u32,
    /// How far it is.
    pub location: Extent,
}

/// `struct hsm_user_request` without its items and data, which follow it.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct UserRequest {
    /// One of [`user_action`].
    pub action: u32,
    /// 0 for the default.
    pub archive_id: u32,
    /// Given on to the agent.
    pub flags: u64,
    /// How many items follow.
    pub itemcount: u32,
    /// How many bytes of data follow those.
    pub data_len: u32,
}

/// `struct hsm_user_item`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct UserItem {
    /// The file.
    pub fid: Fid,
    /// What part of it.
    pub extent: Extent,
}

/// `struct hsm_user_import`, which `llapi_hsm_import` fills for the kernel.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct UserImport {
    /// Bytes.
    pub size: u64,
    /// Seconds.
    pub atime: u64,
    /// Seconds.
    pub mtime: u64,
    /// Nanoseconds.
    pub atime_ns: u32,
    /// Nanoseconds.
    pub mtime_ns: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Type and permissions.
    pub mode: u32,
    /// The archive.
    pub archive_id: u32,
}

/// `struct changelog_rec` without the extensions and the name, which follow it.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct ChangelogRecord {
    /// Bytes of the name.
    pub namelen: u16,
    /// The upper four bits say what extensions follow; the lower twelve belong to the type.
    pub flags: u16,
    /// What happened.
    pub kind: u32,
    /// Number of the record.
    pub index: u64,
    /// The file's previous record.
    pub prev: u64,
    /// Seconds in the upper 34 bits, nanoseconds in the lower 30.
    pub time: u64,
    /// The file.
    pub tfid: Fid,
    /// Its directory.
    pub pfid: Fid,
}

/// `struct ll_ioc_lease` without the ids, which follow it.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct LeaseRequest {
    /// One of `LL_LEASE_…`.
    pub mode: u32,
    /// What to do with it.
    pub flags: u32,
    /// How many ids follow.
    pub count: u32,
}

/// `struct llapi_resync_comp`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct ResyncComponent {
    /// First byte.
    pub start: u64,
    /// Behind the last.
    pub end: u64,
    /// The mirror it belongs to.
    pub mirror_id: u32,
    /// Its own id.
    pub id: u32,
    /// Whether it is up to date now.
    pub synced: bool,
}

/// Actions as agents get them (`HSMA_…`).
pub mod action {
    /// Copy into the archive.
    pub const ARCHIVE: u32 = 20;
    /// Copy back.
    pub const RESTORE: u32 = 21;
    /// Remove from the archive.
    pub const REMOVE: u32 = 22;
    /// Give up the action that has the same cookie.
    pub const CANCEL: u32 = 23;
}

/// Actions as users ask for them (`HUA_…`).
pub mod user_action {
    /// Nothing.
    pub const NONE: u32 = 1;
    /// Copy into the archive.
    pub const ARCHIVE: u32 = 10;
    /// Copy back.
    pub const RESTORE: u32 = 11;
    /// Free the space.
    pub const RELEASE: u32 = 12;
    /// Remove from the archive.
    pub const REMOVE: u32 = 13;
    /// Give up what is under way.
    pub const CANCEL: u32 = 14;
}

/// What a file is to HSM (`HS_…`).
pub mod state {
    /// Something of it is, or was, in an archive.
    pub const EXISTS: u32 = 0x1;
    /// Changed since it was archived.
    pub const DIRTY: u32 = 0x2;
    /// Its data are in the archive alone.
    pub const RELEASED: u32 = 0x4;
    /// All of it is in the archive.
    pub const ARCHIVED: u32 = 0x8;
    /// Must not be released.
    pub const NORELEASE: u32 = 0x10;
    /// Must not be archived.
    pub const NOARCHIVE: u32 = 0x20;
    /// The archive has lost it.
    pub const LOST: u32 = 0x40;
    /// All there are.
    pub const ALL: u32 = 0x7f;
}

/// Progress: the action is over.
pub const HP_FLAG_COMPLETED: u16 = 1;
/// Progress: try it again.
pub const HP_FLAG_RETRY: u16 = 2;
/// Of an action list: a reader is blocked until this restore is done.
pub const HAL_FLAG_BLOCKED: u64 = 4;
/// Do not make objects yet: the layout is set afterwards.
pub const O_LOV_DELAY_CREATE: i32 = 0x2100;

/// An action list is at most this long, in bytes.
pub const LIST_MAX: usize = 5 * 1024;
/// A user's request has at most this many items.
pub const REQUEST_ITEMS_MAX: u32 = 52;

/// Up to the next multiple of eight.
pub const fn align8(len: usize) -> usize {
    (len + 7) & !7
}
