//! Lustre, through its client library `liblustreapi`, which is loaded when it is there.
//!
//! What is here: the library ([`Library`]), the coordinator's side of HSM for an agent ([`Copytool`], [`CopyAction`]), the
//! users' side ([`state`], [`request`] and others), changelogs ([`Changelog`]), layouts and mirrors ([`Layout`], [`LayoutLease`],
//! [`MirrorFile`]) and OSTs ([`osts`]), each with what the library frees behind a value that does it when dropped.
//! Errors are [`io::Error`] with the error number that the library returned, because callers decide by it. What comes from the
//! kernel in messages is read by checked parsers, never believed.
//!
//! What is not here: policy, retries, journals, and what is done without the library (mounting, extended attributes).
//!
//! The library works with Lustre 2.12 to 2.17; the facts in the comments here are of those.

mod abi;
mod action_list;
mod changelog;
mod changelog_record;
mod copy_action;
mod copytool;
mod hsm;
mod layout;
mod layout_lease;
mod library;
mod mirror;
mod one_root;
mod targets;
mod wire;

pub use action_list::{Action, ActionList, Damage, Item, ItemError, READER_IS_BLOCKED};
pub use changelog::Changelog;
pub use changelog_record::{HsmEvent, Record, RecordDamage, RecordKind, RenamedFrom};
pub use copy_action::{Begin, CopyAction, ProgressFlags};
pub use copytool::{Copytool, Handle};
pub use hsm::{
    CurrentAction, Flush, Import, MAX_REQUEST_ITEMS, Request, RequestError, UserAction, UserState, current_action,
    data_version, fid2path, import, mdt_index_by_fid, path2fid, request, state, state_set,
};
pub use layout::{Component, Layout};
pub use layout_lease::{GroupLock, LayoutLease, LeaseMode, create_volatile_empty, flush};
pub use library::{Library, LoadError};
pub use mirror::{MirrorFile, StaleComponent, find_stale};
pub use targets::{Ost, ost, osts, pool_members};

use std::ffi::CString;
use std::io;
use std::os::raw::c_int;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The library's convention: negative error numbers, else a number that means something.
fn result(code: c_int) -> io::Result<c_int> {
    if code < 0 { Err(io::Error::from_raw_os_error(code.saturating_neg())) } else { Ok(code) }
}

fn check(code: c_int) -> io::Result<()> {
    result(code).map(|_| ())
}

/// `EINVAL` for a path with NUL in it.
fn path_argument(path: &Path) -> io::Result<CString> {
    argument(path.as_os_str().as_bytes())
}

fn argument(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}
