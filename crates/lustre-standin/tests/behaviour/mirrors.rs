//! Layouts, leases, mirrors, swaps and OSTs.

use std::ffi::{CString, c_char};
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::ptr;

use lustreapi_standin::abi::{LeaseRequest, ResyncComponent};
use lustreapi_standin::control;
use lustreapi_standin::group::{llapi_group_lock, llapi_group_unlock};
use lustreapi_standin::layout_api::{
    llapi_layout_alloc, llapi_layout_comp_extent_set, llapi_layout_comp_flags_get, llapi_layout_comp_use,
    llapi_layout_file_open, llapi_layout_flags_get, llapi_layout_free, llapi_layout_get_by_fd,
    llapi_layout_mirror_count_get, llapi_layout_ost_index_get, llapi_layout_ost_index_set, llapi_layout_pool_name_set,
    llapi_layout_stripe_count_get, llapi_layout_stripe_count_set,
};
use lustreapi_standin::lease::{llapi_lease_acquire, llapi_lease_check, llapi_lease_release, llapi_lease_set};
use lustreapi_standin::mirror_api::{
    llapi_create_volatile_idx, llapi_fswap_layouts, llapi_mirror_find_stale, llapi_mirror_read, llapi_mirror_truncate,
    llapi_mirror_write,
};
use lustreapi_standin::ost::{ObdStatfs, llapi_get_poolmembers, llapi_obd_statfs};
use lustreapi_standin::user::llapi_get_data_version;

use crate::kit::{Site, c};

const MIB: u64 = 1 << 20;

fn site_with_osts() -> Site {
    let site = Site::new();
    for index in 0..3 {
        control::set_ost(&site.root, index, 100 * MIB, 10 * MIB).unwrap();
    }
    control::set_pool(&site.root, "fast", &[1, 2]).unwrap();
    site
}

fn create(site: &Site, name: &str, pool: &str, ost: Option<u64>, count: u64) -> Result<File, i32> {
    make(site, name, (pool, ost, count), false)
}

/// A file that can become a mirror of another one.
fn create_composite(site: &Site, name: &str, ost: u64) -> File {
    make(site, name, ("", Some(ost), 1), true).unwrap()
}

fn make(site: &Site, name: &str, (pool, ost, count): (&str, Option<u64>, u64), composite: bool) -> Result<File, i32> {
    let path = c(site.root.top().join(name));
    let pool = CString::new(pool).unwrap();
    // SAFETY: a layout that is freed once, and strings.
    unsafe {
        let layout = llapi_layout_alloc();
        assert_eq!(llapi_layout_pool_name_set(layout, pool.as_ptr()), 0);
        assert_eq!(llapi_layout_stripe_count_set(layout, count), 0);
        if let Some(ost) = ost {
            assert_eq!(llapi_layout_ost_index_set(layout, 0, ost), 0);
        }
        if composite {
            assert_eq!(llapi_layout_comp_extent_set(layout, 0, u64::MAX), 0);
        }
        let fd = llapi_layout_file_open(path.as_ptr(), libc::O_RDWR | libc::O_CREAT | libc::O_EXCL, 0o644, layout);
        let error = std::io::Error::last_os_error().raw_os_error().unwrap();
        llapi_layout_free(layout);
        if fd < 0 { Err(error) } else { Ok(File::from_raw_fd(fd)) }
    }
}

/// The OSTs of each mirror with whether it is stale, and the state of mirroring.
fn layout(file: &File) -> (Vec<(Vec<u64>, bool)>, u32) {
    let (mut mirrors, mut state, mut count) = (Vec::new(), 0, 0);
    let layout = llapi_layout_get_by_fd(file.as_raw_fd(), 0);
    assert!(!layout.is_null());
    // SAFETY: a layout that is freed once, and places for numbers.
    unsafe {
        assert_eq!(llapi_layout_flags_get(layout, &raw mut state), 0);
        assert_eq!(llapi_layout_mirror_count_get(layout, &raw mut count), 0);
        let mut more = llapi_layout_comp_use(layout, 1);
        while more == 0 {
            let (mut flags, mut stripes) = (0, 0);
            assert_eq!(llapi_layout_comp_flags_get(layout, &raw mut flags), 0);
            assert_eq!(llapi_layout_stripe_count_get(layout, &raw mut stripes), 0);
            let ost = |stripe| {
                let mut ost = 0;
                assert_eq!(llapi_layout_ost_index_get(layout, stripe, &raw mut ost), 0);
                ost
            };
            mirrors.push(((0..stripes).map(ost).collect(), flags & 1 != 0));
            more = llapi_layout_comp_use(layout, 3);
        }
        llapi_layout_free(layout);
    }
    assert_eq!(mirrors.len(), usize::from(count));
    (mirrors, state)
}

fn lease(file: &File, mode: u32, flags: u32, ids: &[i32]) -> i32 {
    let mut bytes: Vec<u32> = vec![mode, flags, u32::try_from(ids.len()).unwrap()];
    bytes.extend(ids.iter().map(|id| id.cast_unsigned()));
    // SAFETY: a request with as many ids as it says.
    unsafe { llapi_lease_set(file.as_raw_fd(), bytes.as_ptr().cast::<LeaseRequest>()) }
}

/// A file with a second mirror on OST 2.
fn mirrored(site: &Site) -> File {
    let file = create(site, "f", "", Some(0), 1).unwrap();
    file.write_all_at(b"content", 0).unwrap();
    let copy = create_composite(site, ".copy", 2);
    copy.write_all_at(b"content", 0).unwrap();
    let plain = create(site, ".plain", "", Some(2), 1).unwrap();
    assert_eq!(llapi_lease_acquire(file.as_raw_fd(), 1), 0);
    assert_eq!(lease(&file, 4, 4, &[plain.as_raw_fd()]), -libc::EINVAL, "it is not of components");
    fs::remove_file(site.root.top().join(".plain")).unwrap();
    assert_eq!(llapi_lease_acquire(file.as_raw_fd(), 1), 0);
    assert_eq!(lease(&file, 4, 4, &[copy.as_raw_fd()]), 1);
    fs::remove_file(site.root.top().join(".copy")).unwrap();
    file
}

/// Memory that direct access can go to.
#[repr(align(4096))]
struct Block([u8; 4096]);

impl Block {
    fn of(bytes: &[u8]) -> Self {
        let mut block = [0; 4096];
        block[..bytes.len()].copy_from_slice(bytes);
        Self(block)
    }
}

fn direct(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path).unwrap()
}

fn read_mirror(path: &Path, id: u32) -> Result<Vec<u8>, isize> {
    #[repr(align(4096))]
    struct Aligned([u8; 4096]);
    let (file, mut buffer) = (direct(path), Aligned([0; 4096]));
    // SAFETY: room for as many bytes.
    match unsafe { llapi_mirror_read(file.as_raw_fd(), id, buffer.0.as_mut_ptr().cast(), 4096, 0) } {
        len @ 0.. => Ok(buffer.0[..usize::try_from(len).unwrap()].to_vec()),
        error => Err(error),
    }
}

#[test]
fn files_get_the_osts_they_are_made_for() {
    let site = site_with_osts();
    assert_eq!(layout(&create(&site, "a", "fast", None, 2).unwrap()).0[0].0.len(), 2);
    assert_eq!(layout(&create(&site, "b", "", Some(2), 1).unwrap()), (vec![(vec![2], false)], 0));
    assert_eq!(create(&site, "c", "nowhere", None, 1).err(), Some(libc::EINVAL));
    assert_eq!(create(&site, "d", "fast", Some(0), 1).err(), Some(libc::EINVAL));
    assert!(!site.root.top().join("d").exists());
}

#[test]
fn osts_are_as_full_as_their_files_are_large() {
    let site = site_with_osts();
    let statfs = |index| {
        // SAFETY: all zeros is a valid statfs.
        let (mut statfs, mut uuid): (ObdStatfs, _) = (unsafe { std::mem::zeroed() }, [0; 40]);
        // SAFETY: a string, and places for the results.
        let result =
            unsafe { llapi_obd_statfs(c(site.root.top()).into_raw(), 2, index, &raw mut statfs, &raw mut uuid) };
        (result, statfs.bavail * u64::from(statfs.bsize) / MIB)
    };
    create(&site, "a", "", Some(0), 2).unwrap().set_len(20 * MIB).unwrap();
    assert_eq!([0, 1, 2].map(statfs), [(0, 80), (0, 80), (0, 90)]);
    assert_eq!(statfs(3).0, -libc::ENODEV);
    let (mut members, mut buffer) = ([ptr::null_mut::<c_char>(); 2], [0 as c_char; 128]);
    let name = CString::new(format!("{}.fast", site.root.fsname().unwrap())).unwrap();
    let mut members_of = |slots| {
        // SAFETY: a string, and places as many as said.
        unsafe { llapi_get_poolmembers(name.as_ptr(), members.as_mut_ptr(), slots, buffer.as_mut_ptr(), 128) }
    };
    assert_eq!((members_of(2), members_of(1)), (2, -libc::EOVERFLOW));
    // SAFETY: the call has put a string there.
    let first = unsafe { std::ffi::CStr::from_ptr(members[0]) }.to_str().unwrap().to_owned();
    assert_eq!(first, format!("{}-OST0001_UUID", site.root.fsname().unwrap()));
}

#[test]
fn a_mirror_is_added_under_a_lease_and_not_when_that_is_lost() {
    let site = site_with_osts();
    let file = mirrored(&site);
    assert_eq!(layout(&file), (vec![(vec![0], false), (vec![2], false)], 1));
    assert_eq!(read_mirror(&site.root.top().join("f"), 2).unwrap(), b"content");
    let copy = create_composite(&site, ".copy", 1);
    assert_eq!(llapi_lease_acquire(file.as_raw_fd(), 1), 0);
    file.write_all_at(b"changed", 0).unwrap();
    assert_eq!(llapi_lease_check(file.as_raw_fd()), 0);
    assert_eq!(lease(&file, 4, 4, &[copy.as_raw_fd()]), 0, "nothing is done");
    assert_eq!(layout(&file).0.len(), 2);
}

#[test]
fn what_is_written_makes_the_others_stale_until_a_resync() {
    let site = site_with_osts();
    let path = site.root.top().join("f");
    drop(mirrored(&site));
    fs::write(&path, b"changed").unwrap();
    let file = direct(&path);
    assert_eq!(layout(&file), (vec![(vec![0], false), (vec![2], true)], 2));
    assert_eq!(lease(&file, 2, 1, &[]), 0);
    assert_eq!(layout(&file).1, 3);
    let mut components = [ResyncComponent::default(); 4];
    let handle = llapi_layout_get_by_fd(file.as_raw_fd(), 0);
    // SAFETY: a layout that is freed once, and room for four.
    unsafe {
        assert_eq!(llapi_mirror_find_stale(handle, components.as_mut_ptr(), 4, ptr::null(), 0), 1);
        llapi_layout_free(handle);
    }
    assert_eq!(components[0].mirror_id, 2);
    let changed = Block::of(b"changed");
    // SAFETY: as many bytes as said, at a place for direct access.
    let written = unsafe { llapi_mirror_write(file.as_raw_fd(), 2, changed.0.as_ptr().cast(), 4096, 0) };
    assert_eq!((written, llapi_mirror_truncate(file.as_raw_fd(), 2, 7)), (4096, 0));
    assert_eq!(llapi_lease_check(file.as_raw_fd()), 2);
    assert_eq!(lease(&file, 4, 2, &[components[0].id.cast_signed()]), 2);
    assert_eq!(layout(&file), (vec![(vec![0], false), (vec![2], false)], 1));
    drop(file);
    assert_eq!(read_mirror(&path, 2).unwrap(), b"changed");
}

#[test]
fn a_write_lease_is_lost_when_anybody_opens_the_file() {
    let site = site_with_osts();
    let path = site.root.top().join("f");
    let file = mirrored(&site);
    let other = File::open(&path).unwrap();
    assert_eq!(llapi_lease_acquire(file.as_raw_fd(), 2), -libc::EBUSY);
    drop(other);
    assert_eq!(llapi_lease_acquire(file.as_raw_fd(), 2), 0);
    assert_eq!(llapi_lease_check(file.as_raw_fd()), 2);
    File::open(&path).unwrap();
    assert_eq!(llapi_lease_release(file.as_raw_fd()), 0);
}

#[test]
fn a_mirror_is_split_off_but_not_the_last_that_has_the_data() {
    let site = site_with_osts();
    let path = site.root.top().join("f");
    let file = mirrored(&site);
    file.write_all_at(b"changed", 0).unwrap();
    // SAFETY: a string.
    let volatile = |flags| {
        // SAFETY: a string.
        let fd = unsafe { llapi_create_volatile_idx(c(site.root.top()).as_ptr(), -1, flags) };
        // SAFETY: made for us.
        unsafe { File::from_raw_fd(fd) }
    };
    assert_eq!(llapi_lease_acquire(file.as_raw_fd(), 2), 0);
    let full = volatile(0);
    assert_eq!(lease(&file, 4, 8, &[full.as_raw_fd(), 2]), -libc::EEXIST, "it has a layout");
    let rest = volatile(lustreapi_standin::abi::O_LOV_DELAY_CREATE);
    assert_eq!(llapi_lease_acquire(file.as_raw_fd(), 2), 0);
    assert_eq!(lease(&file, 4, 8, &[rest.as_raw_fd(), 1]), -libc::EUCLEAN);
    assert_eq!(lease(&file, 4, 8, &[rest.as_raw_fd(), 2]), -libc::ENOLCK, "what fails costs the lease");
    assert_eq!(llapi_lease_acquire(file.as_raw_fd(), 2), 0);
    assert_eq!(llapi_lease_acquire(file.as_raw_fd(), 2), -libc::EBUSY, "one a descriptor");
    assert_eq!(lease(&file, 4, 8, &[rest.as_raw_fd(), 2]), 2);
    assert_eq!(layout(&file).0, [(vec![0], false)]);
    let mut content = [0; 7];
    rest.read_exact_at(&mut content, 0).unwrap();
    assert_eq!((&content, fs::read(&path).unwrap().as_slice()), (b"content", b"changed".as_slice()));
}

#[test]
fn the_primary_can_be_split_off_when_another_is_in_sync() {
    let site = site_with_osts();
    let file = mirrored(&site);
    assert_eq!(llapi_lease_acquire(file.as_raw_fd(), 2), 0);
    assert_eq!(lease(&file, 4, 8, &[file.as_raw_fd(), 1]), 2);
    assert_eq!(layout(&file).0, [(vec![2], false)]);
    assert_eq!(fs::read(site.root.top().join("f")).unwrap(), b"content");
}

#[test]
fn a_swap_moves_data_to_other_osts_unless_the_file_was_written() {
    let site = site_with_osts();
    let file = create(&site, "f", "", Some(0), 1).unwrap();
    let copy = create(&site, ".copy", "", Some(2), 1).unwrap();
    for file in [&file, &copy] {
        file.write_all_at(b"content", 0).unwrap();
    }
    let version = |file: &File| {
        let mut version = 0;
        // SAFETY: an open file, and a place for the number.
        assert_eq!(unsafe { llapi_get_data_version(file.as_raw_fd(), &raw mut version, 2) }, 0);
        version
    };
    let versions = (version(&file), version(&copy));
    let swap = |first, second| llapi_fswap_layouts(file.as_raw_fd(), copy.as_raw_fd(), first, second, 7);
    file.write_all_at(b"changed", 0).unwrap();
    assert_eq!(swap(versions.0, versions.1), -libc::EAGAIN);
    copy.write_all_at(b"changed", 0).unwrap();
    assert_eq!(swap(version(&file), version(&copy)), 0);
    assert_eq!((layout(&file).0, layout(&copy).0), (vec![(vec![2], false)], vec![(vec![0], false)]));
    assert_eq!(fs::read(site.root.top().join("f")).unwrap(), b"changed");
}

#[test]
fn one_mirror_is_read_by_direct_access_alone() {
    let site = site_with_osts();
    let file = mirrored(&site);
    let mut buffer = [0_u8; 16];
    // SAFETY: room for as many bytes.
    let result = unsafe { llapi_mirror_read(file.as_raw_fd(), 2, buffer.as_mut_ptr().cast(), 16, 0) };
    assert_eq!(result, -isize::try_from(libc::EINVAL).unwrap());
    assert_eq!(read_mirror(&site.root.top().join("f"), 9), Err(-isize::try_from(libc::EINVAL).unwrap()));
}

#[test]
fn a_group_lock_is_shared_by_the_group_alone() {
    let site = Site::new();
    let path = site.file("f", b"content");
    let open = || OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
    let (first, second, third) = (open(), open(), open());
    assert_eq!(llapi_group_lock(first.as_raw_fd(), 7), 0);
    assert_eq!(llapi_group_lock(second.as_raw_fd(), 7), 0);
    assert_eq!(llapi_group_lock(second.as_raw_fd(), 7), -libc::EINVAL, "held already");
    assert_eq!(llapi_group_lock(third.as_raw_fd(), 8), -libc::EAGAIN);
    assert_eq!(llapi_group_unlock(first.as_raw_fd(), 7), 0);
    assert_eq!(llapi_group_lock(third.as_raw_fd(), 8), -libc::EAGAIN);
    assert_eq!(llapi_group_unlock(second.as_raw_fd(), 7), 0);
    assert_eq!(llapi_group_lock(third.as_raw_fd(), 8), 0);
    assert_eq!(llapi_group_unlock(third.as_raw_fd(), 9), -libc::EINVAL);
}
