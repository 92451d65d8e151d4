//! What liblustreapi and the kernel agree on, byte by byte.
//!
//! The same in Lustre 2.12, 2.15 and 2.17; sizes and offsets are asserted at compile time. Nothing outside of
//! [`super`] sees these. Lists and records that come from the kernel are not read through structs but by the checked parsers.

use std::mem::{offset_of, size_of};
use std::os::raw::{c_char, c_int, c_longlong, c_ulonglong};

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
