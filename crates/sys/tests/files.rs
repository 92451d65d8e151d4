//! Files on real filesystems: handles, attributes, holes, times, leases, names.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed unwrap here is a failed test")]

mod loopfs;

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use loopfs::{LoopFs, on_every_filesystem};
use sifaka_sys::lease::{WriteLease, has_writers};
use sifaka_sys::{Mode, OFlags, file, handle, mounts, xattr};

on_every_filesystem!(
    a_handle_survives_a_rename_and_not_an_unlink,
    attributes_are_set_read_listed_and_removed,
    punching_frees_the_blocks_and_keeps_size_and_times,
    holes_and_data_are_found,
    a_lease_is_granted_only_to_the_sole_opener,
    an_open_breaks_the_lease_and_kills_nobody,
    writers_are_seen,
    paths_do_not_escape,
    names_are_not_overwritten,
    content_is_copied_inside_the_kernel,
);

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

fn read_write(path: impl AsRef<std::path::Path>) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

fn a_handle_survives_a_rename_and_not_an_unlink(fs: &LoopFs) {
    std::fs::write(fs.path("a"), "content").unwrap();
    let root = File::open(fs.root()).unwrap();
    let path_only = rustix::fs::open(fs.path("a"), OFlags::PATH, Mode::empty()).unwrap();
    let named = handle::name_to_handle(&path_only).unwrap();
    assert_eq!(named, handle::name_to_handle_at(&root, "a", false).unwrap());
    std::os::unix::fs::symlink("a", fs.path("link")).unwrap();
    assert_eq!(named, handle::name_to_handle_at(&root, "link", true).unwrap());
    assert_ne!(named, handle::name_to_handle_at(&root, "link", false).unwrap());
    drop(path_only);

    std::fs::rename(fs.path("a"), fs.path("b")).unwrap();
    let mut opened = File::from(handle::open_by_handle(&root, &named, OFlags::RDONLY).unwrap());
    let mut content = String::new();
    opened.read_to_string(&mut content).unwrap();
    assert_eq!(content, "content");
    drop(opened);

    std::fs::remove_file(fs.path("b")).unwrap();
    assert_eq!(errno(handle::open_by_handle(&root, &named, OFlags::RDONLY)), libc::ESTALE);
    let too_long = handle::RawHandle { kind: named.kind, bytes: vec![0; handle::MAX_HANDLE_BYTES + 1] };
    assert_eq!(errno(handle::open_by_handle(&root, &too_long, OFlags::RDONLY)), libc::EINVAL);
}

fn attributes_are_set_read_listed_and_removed(fs: &LoopFs) {
    std::fs::write(fs.path("file"), "").unwrap();
    let read_only = File::open(fs.path("file")).unwrap();
    let path_only = rustix::fs::open(fs.path("file"), OFlags::PATH, Mode::empty()).unwrap();
    let name = "trusted.sifaka.test";
    assert_eq!(xattr::get(&read_only, name).unwrap(), None);
    assert_eq!(xattr::get(&path_only, name).unwrap(), None);
    // 2000 bytes is more than the first buffer and less than the least any of the three can store.
    for value in [vec![], vec![7; 20], vec![9; 2000]] {
        xattr::set(&read_only, name, &value).unwrap();
        assert_eq!(xattr::get(&path_only, name).unwrap(), Some(value.clone()));
        assert_eq!(xattr::get(&read_only, name).unwrap(), Some(value));
    }
    assert!(xattr::list(&read_only).unwrap().iter().any(|found| found.to_bytes() == name.as_bytes()));
    // By its name in its directory: of the name itself, whatever a link leads to.
    std::os::unix::fs::symlink("file", fs.path("link")).unwrap();
    let directory = File::open(fs.path("")).unwrap();
    let list_at = |name: &str| xattr::list_at(&directory, std::path::Path::new(name));
    assert_eq!(list_at("file").unwrap(), xattr::list(&read_only).unwrap());
    assert!(list_at("link").unwrap().iter().all(|found| found.to_bytes() != name.as_bytes()));
    assert_eq!(errno(list_at("none")), libc::ENOENT);
    assert!(xattr::remove(&path_only, name).unwrap());
    assert!(!xattr::remove(&read_only, name).unwrap());
    assert!(xattr::list(&path_only).unwrap().iter().all(|found| found.to_bytes() != name.as_bytes()));
}

#[test]
fn the_largest_attribute_is_read_whole() {
    let fs = LoopFs::new("xfs");
    let file = read_write(fs.path("file"));
    let value = vec![5; 64 * 1024];
    xattr::set(&file, "user.large", &value).unwrap();
    assert_eq!(xattr::get(&file, "user.large").unwrap(), Some(value));
}

fn punching_frees_the_blocks_and_keeps_size_and_times(fs: &LoopFs) {
    let mut file = read_write(fs.path("file"));
    let size = (8 << 20) + 777;
    file.write_all(&vec![1; size]).unwrap();
    file::sync_all(&file).unwrap();
    let before = file::stamp(&file).unwrap();
    assert!(before.blocks * 512 >= size as u64, "{before:?}");
    assert!(before.is_regular);

    file::punch_all(&file, before.size).unwrap();
    file::set_times(&file, None, before.mtime).unwrap();
    file::sync_all(&file).unwrap();
    let after = file::stamp(&file).unwrap();
    assert_eq!((after.size, after.blocks), (before.size, 0));
    assert_eq!((after.mtime, after.atime, after.ino), (before.mtime, before.atime, before.ino));
    assert!(after.ctime > before.ctime);
    assert_eq!(file::next_data(&file, 0).unwrap(), None);

    file::set_times(&file, Some((-5, 999_999_999)), (1_234_567_890, 123_456_789)).unwrap();
    let path_only = rustix::fs::open(fs.path("file"), OFlags::PATH, Mode::empty()).unwrap();
    let set = file::stamp(&path_only).unwrap();
    assert_eq!((set.atime, set.mtime), ((-5, 999_999_999), (1_234_567_890, 123_456_789)));
    file::punch_all(&file, 0).unwrap();
}

#[test]
fn the_largest_file_there_can_be_is_punched() {
    let fs = LoopFs::new("ext4");
    let file = read_write(fs.path("file"));
    let size = (1 << 44) - 4096;
    file.set_len(size).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[1; 4096], size - 4096).unwrap();
    file::sync_all(&file).unwrap();
    assert_ne!(file::stamp(&file).unwrap().blocks, 0);
    file::punch_all(&file, size).unwrap();
    let after = file::stamp(&file).unwrap();
    assert_eq!((after.size, after.blocks), (size, 0));
}

fn holes_and_data_are_found(fs: &LoopFs) {
    let mut file = read_write(fs.path("file"));
    file.set_len(4 << 20).unwrap();
    file.seek(std::io::SeekFrom::Start(1 << 20)).unwrap();
    file.write_all(&vec![1; 1 << 20]).unwrap();
    file::sync_data(&file).unwrap();
    assert_eq!(file::next_data(&file, 0).unwrap(), Some(1 << 20));
    assert_eq!(file::next_hole(&file, 1 << 20).unwrap(), Some(2 << 20));
    assert_eq!(file::next_data(&file, 2 << 20).unwrap(), None);
    assert_eq!(file::next_hole(&file, 3 << 20).unwrap(), Some(3 << 20));
    assert_eq!(file::next_hole(&file, 4 << 20).unwrap(), None);
    file::allocate(&file, 4 << 20, 1 << 20).unwrap();
    assert_eq!(file::stamp(&file).unwrap().size, 5 << 20);
}

fn a_lease_is_granted_only_to_the_sole_opener(fs: &LoopFs) {
    std::fs::write(fs.path("file"), "content").unwrap();
    // Through a private mount, as the coordinator does.
    let private = mounts::clone_private(mounts::open_mount(fs.root()).unwrap()).unwrap();
    let open = || file::open_beneath(&private, "file", OFlags::RDWR, Mode::empty()).unwrap();

    let other = File::open(fs.path("file")).unwrap();
    assert!(WriteLease::take(open()).unwrap().is_none());
    drop(other);

    let fd = open();
    let lease = WriteLease::take(&fd).unwrap().expect("nobody else has it open");
    assert!(lease.still_held());
    drop(lease);
    // Released: another open does not wait, and then there is no sole opener.
    let other = File::open(fs.path("file")).unwrap();
    assert!(WriteLease::take(&fd).unwrap().is_none());
    drop(other);
    assert!(WriteLease::take(fd).unwrap().is_some());
}

fn an_open_breaks_the_lease_and_kills_nobody(fs: &LoopFs) {
    std::fs::write(fs.path("file"), "content").unwrap();
    let lease = WriteLease::take(read_write(fs.path("file"))).unwrap().unwrap();
    let reader = Command::new("cat").arg(fs.path("file")).stdout(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while lease.still_held() {
        assert!(Instant::now() < deadline, "the reader's open did not break the lease");
        std::thread::yield_now();
    }
    drop(lease);
    let output = reader.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"content");
}

fn writers_are_seen(fs: &LoopFs) {
    std::fs::write(fs.path("file"), "content").unwrap();
    let read_only = File::open(fs.path("file")).unwrap();
    assert!(!has_writers(&read_only).unwrap());
    let another_reader = File::open(fs.path("file")).unwrap();
    assert!(!has_writers(&read_only).unwrap());
    let writer = read_write(fs.path("file"));
    assert!(has_writers(&read_only).unwrap());
    drop((writer, another_reader));
    assert!(!has_writers(&read_only).unwrap());
}

fn paths_do_not_escape(fs: &LoopFs) {
    std::fs::create_dir_all(fs.path("inside/below")).unwrap();
    std::fs::write(fs.path("secret"), "").unwrap();
    std::fs::write(fs.path("inside/below/file"), "").unwrap();
    std::os::unix::fs::symlink("below", fs.path("inside/link")).unwrap();
    let inside = File::open(fs.path("inside")).unwrap();
    let open = |path: &str| file::open_beneath(&inside, path, OFlags::RDONLY, Mode::empty());
    open("below/file").unwrap();
    open("below/../below/file").unwrap();
    assert_eq!(errno(open("../secret")), libc::EXDEV);
    assert_eq!(errno(open("/etc/passwd")), libc::EXDEV);
    assert_eq!(errno(open("link/file")), libc::ELOOP);
    assert_eq!(errno(open("missing")), libc::ENOENT);
    let root = File::open("/").unwrap();
    let within = |path: &str| file::open_within(&root, path, OFlags::PATH, Mode::empty());
    assert_eq!([errno(within("proc")), errno(within("proc/stat"))], [libc::EXDEV; 2]);
    file::open_beneath(&root, "proc/stat", OFlags::PATH, Mode::empty()).unwrap();
    file::open_within(&inside, "below/file", OFlags::PATH, Mode::empty()).unwrap();
    let created = file::open_beneath(&inside, "new", OFlags::CREATE | OFlags::EXCL | OFlags::RDWR, Mode::RUSR).unwrap();
    assert_eq!(file::stamp(&created).unwrap().mode & 0o777, 0o400);
    assert_eq!(file::stamp_at(&inside, "new").unwrap(), file::stamp(&created).unwrap());
}

fn names_are_not_overwritten(fs: &LoopFs) {
    let root = File::open(fs.root()).unwrap();
    std::fs::write(fs.path("a"), "a").unwrap();
    std::fs::write(fs.path("b"), "b").unwrap();
    assert_eq!(errno(file::rename_noreplace(&root, "a", &root, "b")), libc::EEXIST);
    file::rename_noreplace(&root, "a", &root, "c").unwrap();
    assert_eq!(std::fs::read_to_string(fs.path("c")).unwrap(), "a");

    let unnamed = rustix::fs::open(fs.root(), OFlags::TMPFILE | OFlags::RDWR, Mode::RUSR | Mode::WUSR).unwrap();
    assert_eq!(errno(file::link_fd(&unnamed, &root, "b")), libc::EEXIST);
    file::link_fd(&unnamed, &root, "d").unwrap();
    assert_eq!(file::stamp_at(&root, "d").unwrap().ino, file::stamp(&unnamed).unwrap().ino);

    let first = File::open(fs.path("b")).unwrap();
    let second = File::open(fs.path("b")).unwrap();
    assert!(file::try_lock_exclusive(&first).unwrap());
    assert!(!file::try_lock_exclusive(&second).unwrap());
    drop(first);
    assert!(file::try_lock_exclusive(&second).unwrap());
}

fn content_is_copied_inside_the_kernel(fs: &LoopFs) {
    let content: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
    std::fs::write(fs.path("from"), &content).unwrap();
    let from = File::open(fs.path("from")).unwrap();
    file::advise_sequential(&from).unwrap();
    let to = read_write(fs.path("to"));
    let mut done = 0;
    loop {
        let copied = file::copy_range(&from, 100 + done, &to, done, 50_000).unwrap();
        if copied == 0 {
            break;
        }
        done += copied as u64;
    }
    assert_eq!(std::fs::read(fs.path("to")).unwrap(), content[100..]);
    file::sync_fs(&to).unwrap();
    file::advise_dontneed(&to, 0, 0).unwrap();

    let clone = read_write(fs.path("clone"));
    let cloned = file::reflink(&from, &clone);
    if fs.kind == "ext4" {
        assert_eq!(errno(cloned), libc::EOPNOTSUPP);
    } else {
        cloned.unwrap();
        assert_eq!(std::fs::read(fs.path("clone")).unwrap(), content);
    }
}
