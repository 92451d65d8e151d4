//! What the stand-in exports, and how its structs lie in memory, against a table of what Lustre's library has.

#![allow(clippy::unwrap_used, reason = "the lints do not see that functions beside tests belong to them")]

use std::collections::BTreeSet;
use std::mem::offset_of;
use std::process::Command;

use lustreapi_standin::abi::{
    self, ActionItem, ActionListHeader, ChangelogRecord, Copy, CurrentAction, Extent, Fid, LeaseRequest, Progress,
    ResyncComponent, StateSet, UserImport, UserItem, UserRequest, UserState,
};
use lustreapi_standin::ost::ObdStatfs;

/// Functions of liblustreapi 2.12 to 2.17 that Sifaka uses.
const FUNCTIONS: &[&str] = &[
    "llapi_changelog_clear",
    "llapi_changelog_fini",
    "llapi_changelog_free",
    "llapi_changelog_get_fd",
    "llapi_changelog_in_buf",
    "llapi_changelog_recv",
    "llapi_changelog_set_xflags",
    "llapi_changelog_start",
    "llapi_create_volatile_idx",
    "llapi_fd2fid",
    "llapi_fid2path",
    "llapi_file_flush",
    "llapi_fswap_layouts",
    "llapi_fswap_layouts_grouplock",
    "llapi_get_data_version",
    "llapi_get_mdt_index_by_fid",
    "llapi_get_poolmembers",
    "llapi_group_lock",
    "llapi_group_unlock",
    "llapi_hsm_action_begin",
    "llapi_hsm_action_end",
    "llapi_hsm_action_get_dfid",
    "llapi_hsm_action_get_fd",
    "llapi_hsm_action_progress",
    "llapi_hsm_copytool_get_fd",
    "llapi_hsm_copytool_recv",
    "llapi_hsm_copytool_register",
    "llapi_hsm_copytool_unregister",
    "llapi_hsm_current_action",
    "llapi_hsm_import",
    "llapi_hsm_request",
    "llapi_hsm_state_get",
    "llapi_hsm_state_get_fd",
    "llapi_hsm_state_set",
    "llapi_hsm_state_set_fd",
    "llapi_hsm_user_request_alloc",
    "llapi_layout_alloc",
    "llapi_layout_comp_extent_get",
    "llapi_layout_comp_extent_set",
    "llapi_layout_comp_flags_get",
    "llapi_layout_comp_id_get",
    "llapi_layout_comp_use",
    "llapi_layout_file_open",
    "llapi_layout_flags_get",
    "llapi_layout_free",
    "llapi_layout_get_by_fd",
    "llapi_layout_get_by_path",
    "llapi_layout_mirror_count_get",
    "llapi_layout_mirror_id_get",
    "llapi_layout_ost_index_get",
    "llapi_layout_ost_index_set",
    "llapi_layout_pool_name_get",
    "llapi_layout_pool_name_set",
    "llapi_layout_stripe_count_get",
    "llapi_layout_stripe_count_set",
    "llapi_layout_stripe_size_get",
    "llapi_layout_stripe_size_set",
    "llapi_lease_acquire",
    "llapi_lease_check",
    "llapi_lease_release",
    "llapi_lease_set",
    "llapi_mirror_clear",
    "llapi_mirror_data_seek",
    "llapi_mirror_find_stale",
    "llapi_mirror_read",
    "llapi_mirror_set",
    "llapi_mirror_truncate",
    "llapi_mirror_write",
    "llapi_msg_set_level",
    "llapi_obd_statfs",
    "llapi_path2fid",
];

#[test]
fn it_exports_what_the_library_does_and_nothing_that_only_looks_like_it() {
    let object = lustreapi_standin::shared_object();
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(&object).output().unwrap();
    assert!(output.status.success(), "nm (package binutils) could not read {}", object.display());
    let text = String::from_utf8(output.stdout).unwrap();
    let names: BTreeSet<&str> = text.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    let (ours, others): (BTreeSet<_>, BTreeSet<_>) = names.iter().partition(|name| name.starts_with("llapi_"));
    assert_eq!(ours, FUNCTIONS.iter().copied().collect::<BTreeSet<&str>>());
    let strange: Vec<_> = others.iter().filter(|name| !name.starts_with("standin_")).collect();
    assert!(strange.is_empty(), "exports what is neither Lustre's nor its own: {strange:?}");
}

macro_rules! layout {
    ($struct:ty, $size:expr, $($field:ident @ $offset:expr),+ $(,)?) => {
        assert_eq!(size_of::<$struct>(), $size, "size of {}", stringify!($struct));
        $(assert_eq!(
            offset_of!($struct, $field), $offset, "{}.{}", stringify!($struct), stringify!($field)
        );)+
    };
}

#[test]
fn structs_are_as_long_as_lustres_and_have_their_fields_where_it_has_them() {
    layout!(Fid, 16, seq @ 0, oid @ 8, ver @ 12);
    layout!(Extent, 16, offset @ 0, length @ 8);
    layout!(ActionListHeader, 32, version @ 0, count @ 4, compound_id @ 8, flags @ 16, archive_id @ 24);
    layout!(ActionItem, 72, len @ 0, action @ 4, fid @ 8, dfid @ 24, extent @ 40, cookie @ 56, gid @ 64);
    layout!(Copy, 88, data_version @ 0, flags @ 8, errval @ 10, item @ 16);
    layout!(Progress, 48, fid @ 0, cookie @ 16, extent @ 24, flags @ 40, errval @ 42);
    layout!(
        UserState, 32, states @ 0, archive_id @ 4, in_progress_state @ 8, in_progress_action @ 12,
        in_progress_location @ 16
    );
    layout!(StateSet, 24, valid @ 0, archive_id @ 4, setmask @ 8, clearmask @ 16);
    layout!(CurrentAction, 24, state @ 0, action @ 4, location @ 8);
    layout!(UserRequest, 24, action @ 0, archive_id @ 4, flags @ 8, itemcount @ 16, data_len @ 20);
    layout!(UserItem, 32, fid @ 0, extent @ 16);
    layout!(
        UserImport, 48, size @ 0, atime @ 8, mtime @ 16, atime_ns @ 24, mtime_ns @ 28, uid @ 32, gid @ 36, mode @ 40,
        archive_id @ 44
    );
    layout!(
        ChangelogRecord, 64, namelen @ 0, flags @ 2, kind @ 4, index @ 8, prev @ 16, time @ 24, tfid @ 32, pfid @ 48
    );
    layout!(LeaseRequest, 12, mode @ 0, flags @ 4, count @ 8);
    layout!(ObdStatfs, 144, kind @ 0, blocks @ 8, bfree @ 16, bavail @ 24, fsid @ 48, bsize @ 88, maxbytes @ 96, state @ 104);
    layout!(ResyncComponent, 32, start @ 0, end @ 8, mirror_id @ 16, id @ 20, synced @ 24);
}

#[test]
fn numbers_are_lustres() {
    use abi::{action, state, user_action};
    assert_eq!([action::ARCHIVE, action::RESTORE, action::REMOVE, action::CANCEL], [20, 21, 22, 23]);
    let asked = [user_action::NONE, user_action::ARCHIVE, user_action::RESTORE];
    assert_eq!(asked, [1, 10, 11]);
    assert_eq!([user_action::RELEASE, user_action::REMOVE, user_action::CANCEL], [12, 13, 14]);
    let states = [state::EXISTS, state::DIRTY, state::RELEASED, state::ARCHIVED];
    assert_eq!(states, [0x1, 0x2, 0x4, 0x8]);
    assert_eq!([state::NORELEASE, state::NOARCHIVE, state::LOST], [0x10, 0x20, 0x40]);
    assert_eq!((abi::HP_FLAG_COMPLETED, abi::HP_FLAG_RETRY), (1, 2));
    assert_eq!(abi::HAL_FLAG_BLOCKED, 4);
    assert_eq!(abi::O_LOV_DELAY_CREATE, 0o20400);
    assert_eq!((abi::LIST_MAX, abi::REQUEST_ITEMS_MAX), (5120, 52));
}
