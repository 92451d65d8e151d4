//! What liblustreapi and the kernel agree on, byte by byte.
//!
//! The same in Lustre 2.12, 2.15 and 2.17; sizes and offsets are asserted at compile time. Nothing outside of
//! [`super`] sees these. Lists and records that come from the kernel are not read through structs but by the checked parsers.

use std::mem::{offset_of, size_of};
use std::os::raw::{c_char, c_int, c_longlong, c_uint, c_ulonglong, c_void};

use model::{Extent, Fid};

/// A copytool's handle in the library.
#[repr(C)]
pub(super) struct CopytoolPrivate {
    _opaque: [u8; 0],
}

/// An action's handle in the library.
#[repr(C)]
pub(super) struct CopyActionPrivate {
    _opaque: [u8; 0],
}

/// A layout in the library.
#[repr(C)]
pub(super) struct LayoutPrivate {
    _opaque: [u8; 0],
}

/// `struct lu_fid`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct LuFid {
    pub(super) seq: u64,
    pub(super) oid: u32,
    pub(super) ver: u32,
}

const _: () = assert!(size_of::<LuFid>() == 16);
const _: () = assert!(offset_of!(LuFid, oid) == 8 && offset_of!(LuFid, ver) == 12);

impl From<Fid> for LuFid {
    fn from(Fid { seq, oid, ver }: Fid) -> Self {
        Self { seq, oid, ver }
    }
}

impl From<LuFid> for Fid {
    fn from(LuFid { seq, oid, ver }: LuFid) -> Self {
        Self { seq, oid, ver }
    }
}

/// `struct hsm_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct HsmExtent {
    pub(super) offset: u64,
    pub(super) length: u64,
}

const _: () = assert!(size_of::<HsmExtent>() == 16 && offset_of!(HsmExtent, length) == 8);

impl From<Extent> for HsmExtent {
    fn from(Extent { offset, length }: Extent) -> Self {
        Self { offset, length }
    }
}

impl From<HsmExtent> for Extent {
    fn from(HsmExtent { offset, length }: HsmExtent) -> Self {
        Self { offset, length }
    }
}

/// The fixed part of `struct hsm_action_list`; the filesystem's name follows, then the items.
#[repr(C)]
pub(super) struct HsmActionList {
    pub(super) version: u32,
    pub(super) count: u32,
    pub(super) compound_id: u64,
    pub(super) flags: u64,
    pub(super) archive_id: u32,
    pub(super) padding: u32,
}

const _: () = assert!(size_of::<HsmActionList>() == 32);
const _: () = assert!(offset_of!(HsmActionList, version) == 0 && offset_of!(HsmActionList, count) == 4);
const _: () = assert!(offset_of!(HsmActionList, compound_id) == 8 && offset_of!(HsmActionList, flags) == 16);
const _: () = assert!(offset_of!(HsmActionList, archive_id) == 24);

/// The fixed part of `struct hsm_action_item`; its data follow.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct HsmActionItem {
    pub(super) len: u32,
    pub(super) action: u32,
    pub(super) fid: LuFid,
    pub(super) dfid: LuFid,
    pub(super) extent: HsmExtent,
    pub(super) cookie: u64,
    pub(super) gid: u64,
}

const _: () = assert!(size_of::<HsmActionItem>() == 72);
const _: () = assert!(offset_of!(HsmActionItem, len) == 0 && offset_of!(HsmActionItem, action) == 4);
const _: () = assert!(offset_of!(HsmActionItem, fid) == 8 && offset_of!(HsmActionItem, dfid) == 24);
const _: () = assert!(offset_of!(HsmActionItem, extent) == 40);
const _: () = assert!(offset_of!(HsmActionItem, cookie) == 56 && offset_of!(HsmActionItem, gid) == 64);

/// `struct hsm_user_state`. The `in_progress` part is never filled by the kernel.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct HsmUserState {
    pub(super) states: u32,
    pub(super) archive_id: u32,
    pub(super) in_progress_state: u32,
    pub(super) in_progress_action: u32,
    pub(super) in_progress_location: HsmExtent,
}

const _: () = assert!(size_of::<HsmUserState>() == 32);
const _: () =
    assert!(offset_of!(HsmUserState, archive_id) == 4 && offset_of!(HsmUserState, in_progress_location) == 16);

/// `struct hsm_current_action`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct HsmCurrentAction {
    pub(super) state: u32,
    pub(super) action: u32,
    pub(super) location: HsmExtent,
}

const _: () = assert!(size_of::<HsmCurrentAction>() == 24);
const _: () = assert!(offset_of!(HsmCurrentAction, action) == 4 && offset_of!(HsmCurrentAction, location) == 8);

/// The fixed part of `struct hsm_user_request`; its items follow, then its data.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct HsmUserRequest {
    pub(super) action: u32,
    pub(super) archive_id: u32,
    pub(super) flags: u64,
    pub(super) itemcount: u32,
    pub(super) data_len: u32,
}

const _: () = assert!(size_of::<HsmUserRequest>() == 24);
const _: () = assert!(offset_of!(HsmUserRequest, archive_id) == 4 && offset_of!(HsmUserRequest, flags) == 8);
const _: () = assert!(offset_of!(HsmUserRequest, itemcount) == 16 && offset_of!(HsmUserRequest, data_len) == 20);

/// `struct hsm_user_item`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct HsmUserItem {
    pub(super) fid: LuFid,
    pub(super) extent: HsmExtent,
}

const _: () = assert!(size_of::<HsmUserItem>() == 32 && offset_of!(HsmUserItem, extent) == 16);

/// The fixed part of `struct changelog_rec`; extensions follow as its flags say, then the names.
#[repr(C)]
pub(super) struct ChangelogRec {
    pub(super) namelen: u16,
    pub(super) flags: u16,
    pub(super) kind: u32,
    pub(super) index: u64,
    pub(super) prev: u64,
    pub(super) time: u64,
    pub(super) tfid: LuFid,
    pub(super) pfid: LuFid,
}

const _: () = assert!(size_of::<ChangelogRec>() == 64);
const _: () = assert!(offset_of!(ChangelogRec, namelen) == 0 && offset_of!(ChangelogRec, flags) == 2);
const _: () = assert!(offset_of!(ChangelogRec, kind) == 4 && offset_of!(ChangelogRec, index) == 8);
const _: () = assert!(offset_of!(ChangelogRec, prev) == 16 && offset_of!(ChangelogRec, time) == 24);
const _: () = assert!(offset_of!(ChangelogRec, tfid) == 32 && offset_of!(ChangelogRec, pfid) == 48);

/// The fixed part of `struct ll_ioc_lease`; its ids follow.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct LlIocLease {
    pub(super) mode: u32,
    pub(super) flags: u32,
    pub(super) count: u32,
}

const _: () = assert!(size_of::<LlIocLease>() == 12);
const _: () = assert!(offset_of!(LlIocLease, flags) == 4 && offset_of!(LlIocLease, count) == 8);

/// `struct llapi_resync_comp`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct ResyncComp {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) mirror_id: u32,
    pub(super) id: u32,
    /// C's `bool`, kept as a number: what the library leaves there need not be 0 or 1.
    pub(super) synced: u8,
}

const _: () = assert!(size_of::<ResyncComp>() == 32);
const _: () = assert!(offset_of!(ResyncComp, mirror_id) == 16 && offset_of!(ResyncComp, id) == 20);
const _: () = assert!(offset_of!(ResyncComp, synced) == 24);

/// `struct obd_statfs`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ObdStatfs {
    pub(super) kind: u64,
    pub(super) blocks: u64,
    pub(super) bfree: u64,
    pub(super) bavail: u64,
    pub(super) files: u64,
    pub(super) ffree: u64,
    pub(super) fsid: [u8; 40],
    pub(super) bsize: u32,
    pub(super) namelen: u32,
    pub(super) maxbytes: u64,
    pub(super) state: u32,
    pub(super) fprecreated: u32,
    pub(super) granted: u32,
    pub(super) spare: [u32; 7],
}

const _: () = assert!(size_of::<ObdStatfs>() == 144);
const _: () = assert!(offset_of!(ObdStatfs, bsize) == 88 && offset_of!(ObdStatfs, state) == 104);

/// `struct obd_uuid`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ObdUuid {
    pub(super) text: [u8; 40],
}

const _: () = assert!(size_of::<ObdUuid>() == 40);

// The parsers read the wire's little-endian numbers; the structs here are in the machine's order.
const _: () = assert!(cfg!(target_endian = "little"), "Lustre's structs are read as little-endian");

pub(super) type CopytoolRegister =
    unsafe extern "C" fn(*mut *mut CopytoolPrivate, *const c_char, c_int, *mut c_int, c_int) -> c_int;
pub(super) type CopytoolUnregister = unsafe extern "C" fn(*mut *mut CopytoolPrivate) -> c_int;
pub(super) type CopytoolGetFd = unsafe extern "C" fn(*mut CopytoolPrivate) -> c_int;
pub(super) type CopytoolRecv = unsafe extern "C" fn(*mut CopytoolPrivate, *mut *mut HsmActionList, *mut c_int) -> c_int;
pub(super) type ActionBegin = unsafe extern "C" fn(
    *mut *mut CopyActionPrivate,
    *const CopytoolPrivate,
    *const HsmActionItem,
    c_int,
    c_int,
    bool,
) -> c_int;
pub(super) type ActionGetDfid = unsafe extern "C" fn(*const CopyActionPrivate, *mut LuFid) -> c_int;
pub(super) type ActionGetFd = unsafe extern "C" fn(*const CopyActionPrivate) -> c_int;
pub(super) type ActionProgress = unsafe extern "C" fn(*mut CopyActionPrivate, *const HsmExtent, u64, c_int) -> c_int;
pub(super) type ActionEnd = unsafe extern "C" fn(*mut *mut CopyActionPrivate, *const HsmExtent, c_int, c_int) -> c_int;
pub(super) type StateGet = unsafe extern "C" fn(*const c_char, *mut HsmUserState) -> c_int;
pub(super) type StateSet = unsafe extern "C" fn(*const c_char, u64, u64, u32) -> c_int;
pub(super) type Import = unsafe extern "C" fn(
    *const c_char,
    c_int,
    *const libc::stat,
    c_ulonglong,
    c_int,
    c_int,
    c_int,
    *mut c_char,
    *mut LuFid,
) -> c_int;
pub(super) type Request = unsafe extern "C" fn(*const c_char, *const HsmUserRequest) -> c_int;
pub(super) type CurrentAction = unsafe extern "C" fn(*const c_char, *mut HsmCurrentAction) -> c_int;
pub(super) type Fid2Path =
    unsafe extern "C" fn(*const c_char, *const c_char, *mut c_char, c_int, *mut c_longlong, *mut c_int) -> c_int;
pub(super) type Path2Fid = unsafe extern "C" fn(*const c_char, *mut LuFid) -> c_int;
pub(super) type GetMdtIndexByFid = unsafe extern "C" fn(c_int, *const LuFid, *mut c_int) -> c_int;
pub(super) type GetDataVersion = unsafe extern "C" fn(c_int, *mut u64, u64) -> c_int;
pub(super) type MsgSetLevel = unsafe extern "C" fn(c_int);

pub(super) type ChangelogStart = unsafe extern "C" fn(*mut *mut c_void, c_uint, *const c_char, c_longlong) -> c_int;
pub(super) type ChangelogRecv = unsafe extern "C" fn(*mut c_void, *mut *mut ChangelogRec) -> c_int;
pub(super) type ChangelogFree = unsafe extern "C" fn(*mut *mut ChangelogRec) -> c_int;
pub(super) type ChangelogFini = unsafe extern "C" fn(*mut *mut c_void) -> c_int;
pub(super) type ChangelogOnHandle = unsafe extern "C" fn(*mut c_void) -> c_int;
pub(super) type ChangelogClear = unsafe extern "C" fn(*const c_char, *const c_char, c_longlong) -> c_int;
pub(super) type ChangelogSetXflags = unsafe extern "C" fn(*mut c_void, c_uint) -> c_int;

pub(super) type OnFd = unsafe extern "C" fn(c_int) -> c_int;
pub(super) type LeaseAcquire = unsafe extern "C" fn(c_int, c_uint) -> c_int;
pub(super) type LeaseSet = unsafe extern "C" fn(c_int, *const LlIocLease) -> c_int;
pub(super) type CreateVolatile = unsafe extern "C" fn(*const c_char, c_int, c_int) -> c_int;
pub(super) type SwapLayouts = unsafe extern "C" fn(c_int, c_int, u64, u64, u64) -> c_int;
pub(super) type SwapLayoutsGrouplock = unsafe extern "C" fn(c_int, c_int, u64, u64, c_int, u64) -> c_int;
pub(super) type GroupLock = unsafe extern "C" fn(c_int, c_int) -> c_int;

pub(super) type LayoutAlloc = unsafe extern "C" fn() -> *mut LayoutPrivate;
pub(super) type LayoutGetByFd = unsafe extern "C" fn(c_int, u32) -> *mut LayoutPrivate;
pub(super) type LayoutFree = unsafe extern "C" fn(*mut LayoutPrivate);
pub(super) type LayoutSet = unsafe extern "C" fn(*mut LayoutPrivate, u64) -> c_int;
pub(super) type LayoutPoolSet = unsafe extern "C" fn(*mut LayoutPrivate, *const c_char) -> c_int;
pub(super) type LayoutOstSet = unsafe extern "C" fn(*mut LayoutPrivate, c_int, u64) -> c_int;
pub(super) type LayoutFileOpen =
    unsafe extern "C" fn(*const c_char, c_int, libc::mode_t, *const LayoutPrivate) -> c_int;
pub(super) type LayoutGet64 = unsafe extern "C" fn(*const LayoutPrivate, *mut u64) -> c_int;
pub(super) type LayoutGet32 = unsafe extern "C" fn(*const LayoutPrivate, *mut u32) -> c_int;
pub(super) type LayoutSetExtent = unsafe extern "C" fn(*mut LayoutPrivate, u64, u64) -> c_int;
pub(super) type LayoutGetExtent = unsafe extern "C" fn(*const LayoutPrivate, *mut u64, *mut u64) -> c_int;
pub(super) type LayoutGetOst = unsafe extern "C" fn(*const LayoutPrivate, u64, *mut u64) -> c_int;
pub(super) type LayoutGetPool = unsafe extern "C" fn(*const LayoutPrivate, *mut c_char, usize) -> c_int;
pub(super) type LayoutUse = unsafe extern "C" fn(*mut LayoutPrivate, c_uint) -> c_int;

pub(super) type MirrorSet = unsafe extern "C" fn(c_int, c_uint) -> c_int;
pub(super) type MirrorRead = unsafe extern "C" fn(c_int, c_uint, *mut c_void, usize, libc::off_t) -> isize;
pub(super) type MirrorWrite = unsafe extern "C" fn(c_int, c_uint, *const c_void, usize, libc::off_t) -> isize;
pub(super) type MirrorDataSeek = unsafe extern "C" fn(c_int, c_uint, libc::off_t, *mut usize) -> libc::off_t;
pub(super) type MirrorFindStale =
    unsafe extern "C" fn(*mut LayoutPrivate, *mut ResyncComp, usize, *mut u16, c_int) -> c_int;

pub(super) type OstStatfs = unsafe extern "C" fn(*mut c_char, u32, u32, *mut ObdStatfs, *mut ObdUuid) -> c_int;
pub(super) type GetPoolMembers =
    unsafe extern "C" fn(*const c_char, *mut *mut c_char, c_int, *mut c_char, c_int) -> c_int;
