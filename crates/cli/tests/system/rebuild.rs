//! `sifaka rebuild`: a filesystem and everything the agent knew are gone, and come back from the archive.

use crate::objects::{archive_in_bucket, s3};
use crate::support::{Hsm, is_released};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use testkit::services::Rgw;
use testkit::tree::{Snapshot, TreeSpec, assert_same, snapshot};
use testkit::{FsKind, LoopFs, Random, Scratch, Site};

/// Owner, mode, times, target, device, attributes, and the first path of the same inode.
type Facts = BTreeMap<PathBuf, String>;

fn facts(root: &Path) -> Facts {
    let mut paths = vec![PathBuf::new()];
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(root.join(&dir)).unwrap() {
            let entry = entry.unwrap();
            let path = dir.join(entry.file_name());
            if path == Path::new("lost+found") {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                dirs.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths.sort();
    let mut inodes = BTreeMap::new();
    let mut found = Facts::new();
    for path in paths {
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full).unwrap();
        let kind = meta.file_type();
        let first = inodes.entry((meta.dev(), meta.ino())).or_insert_with(|| path.clone()).clone();
        let fd = rustix::fs::open(&full, sys::OFlags::PATH | sys::OFlags::NOFOLLOW, sys::Mode::empty()).unwrap();
        let names = if kind.is_symlink() { Vec::new() } else { sys::xattr::list(&fd).unwrap() };
        let mut attributes: Vec<_> = names
            .iter()
            .filter_map(|name| name.to_str().ok().filter(|name| !name.starts_with("trusted.")))
            .map(|name| (name.to_owned(), sys::xattr::get(&fd, name).unwrap()))
            .collect();
        attributes.sort();
        let device = if kind.is_block_device() || kind.is_char_device() { meta.rdev() } else { 0 };
        let links = if kind.is_dir() { 0 } else { meta.nlink() };
        let target = fs::read_link(&full).ok();
        let text = format!(
            "{:o} {}:{} {}.{} links {links} device {device} target {target:?} first {first:?} attributes {attributes:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec()
        );
        found.insert(path, text);
    }
    found
}

#[track_caller]
fn assert_facts(expected: &Facts, actual: &Facts) {
    for (path, expected) in expected {
        assert_eq!(Some(expected), actual.get(path), "{path:?}");
    }
    let more: Vec<_> = actual.keys().filter(|path| !expected.contains_key(*path)).collect();
    assert!(more.is_empty(), "{more:?}");
}

/// Files of many sizes and names, and everything else that a filesystem can have.
fn build(root: &Path, files: usize) {
    TreeSpec::new(17, files).build(root);
    let at = |name: &str| root.join(name);
    fs::create_dir_all(at("dirs/empty")).unwrap();
    fs::create_dir(at("dirs/odd")).unwrap();
    fs::write(at("dirs/one"), "several names").unwrap();
    fs::hard_link(at("dirs/one"), at("dirs/odd/two")).unwrap();
    symlink("/no/such/target", at("dirs/dangling")).unwrap();
    symlink(std::ffi::OsStr::from_bytes(b"bytes\xff\n"), at("dirs/odd/bytes")).unwrap();
    std::os::unix::fs::lchown(at("dirs/dangling"), Some(5), Some(6)).unwrap();
    let mode = sys::Mode::from_raw_mode(0o640);
    for (name, kind) in [("fifo", rustix::fs::FileType::Fifo), ("socket", rustix::fs::FileType::Socket)] {
        rustix::fs::mknodat(rustix::fs::CWD, at("dirs").join(name), kind, mode, 0).unwrap();
    }
    let null = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(rustix::fs::CWD, at("dirs/null"), rustix::fs::FileType::CharacterDevice, mode, null).unwrap();
    let acl = [&2u32.to_le_bytes()[..], &entry(1, 7, u32::MAX), &entry(2, 5, 9), &entry(4, 5, u32::MAX)].concat();
    let acl = [&acl[..], &entry(0x10, 7, u32::MAX), &entry(0x20, 0, u32::MAX)].concat();
    for (path, name) in [("dirs/one", "system.posix_acl_access"), ("dirs/odd", "system.posix_acl_default")] {
        sys::xattr::set(fs::File::open(at(path)).unwrap(), name, &acl).unwrap();
    }
    fs::set_permissions(at("dirs/odd"), fs::Permissions::from_mode(0o2731)).unwrap();
    std::os::unix::fs::chown(at("dirs/odd"), Some(12), Some(13)).unwrap();
    fs::set_permissions(at("dirs/empty"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::set_permissions(root, fs::Permissions::from_mode(0o751)).unwrap();
    for (seconds, path) in [(1_000, "dirs/odd"), (2_000, "dirs/empty"), (3_000, "dirs"), (4_000, "")] {
        let time = std::time::UNIX_EPOCH + Duration::new(seconds, 123_456_789);
        fs::File::open(at(path)).unwrap().set_times(fs::FileTimes::new().set_modified(time)).unwrap();
    }
}

fn entry(tag: u16, permissions: u16, id: u32) -> Vec<u8> {
    [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
}

/// Archives a tree and destroys its filesystem, its agent and all state. What is left is the archive that `configure` named.
fn lose(kind: FsKind, files: usize, configure: impl FnOnce(&mut Site)) -> (Facts, Snapshot) {
    let mut hsm = Hsm::start_with(kind, 512, configure);
    build(&hsm.fs.path(), files);
    let before = (facts(&hsm.fs.path()), snapshot(&hsm.fs.path()));
    let root = hsm.fs.path();
    hsm.archive(&[&root]);
    hsm.stop_agent();
    before
}

fn rebuild(site: &Site, dir: &Path) -> std::process::Command {
    let mut command = site.command();
    command.arg("--config").arg(site.agent_config()).args(["rebuild", "--quiet"]).arg(dir);
    command
}

#[track_caller]
fn assert_rebuilt(site: &Site, dir: &Path) {
    let out = rebuild(site, dir).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    // That is right: no agent runs there yet.
    let wrong: Vec<&str> = said.lines().filter(|line| !line.contains("no guard watches")).collect();
    assert!(out.status.success() && wrong.is_empty(), "{}: {said}", out.status);
}

#[test]
fn p8_a_lost_filesystem_comes_back_from_the_archive_alone() {
    for (from, to, setting) in [
        (FsKind::Ext4, FsKind::Xfs, ""),
        (FsKind::Xfs, FsKind::Btrfs, "compression = \"auto\""),
        (FsKind::Btrfs, FsKind::Ext4, ""),
    ] {
        let archive = Scratch::new("archive");
        come_back(from, to, |site| {
            site.set_archive_root(archive.path());
            site.add_archive_setting(setting);
        });
    }
}

#[test]
fn p8_a_lost_filesystem_comes_back_from_a_bucket_alone() {
    let server = Rgw::start();
    server.create_bucket("archive");
    come_back(FsKind::Ext4, FsKind::Xfs, |site| archive_in_bucket(site, &s3(&server, "archive")));
}

fn come_back(from: FsKind, to: FsKind, configure: impl Fn(&mut Site)) {
    let (facts_before, content_before) = lose(from, 60, &configure);
    let fresh = LoopFs::new(to, 512);
    let mut site = Site::local(&fresh);
    configure(&mut site);
    assert_rebuilt(&site, &fresh.path());
    assert_facts(&facts_before, &facts(&fresh.path()));
    let agent = Some(site.start_agent());
    let hsm = Hsm { agent, site, fs: fresh };
    hsm.wait_for_movers();
    let released = content_before.keys().filter(|path| is_released(&hsm.fs.path().join(path))).count();
    assert_eq!(released, content_before.len(), "nothing was read yet");
    assert_same(&content_before, &snapshot(&hsm.fs.path()));
    assert_facts(&facts_before, &facts(&hsm.fs.path()));
    // It is a filesystem like others: what is released again comes back again.
    hsm.release(&[&hsm.fs.path()]);
    assert_same(&content_before, &snapshot(&hsm.fs.path()));
}

/// Beside a guard, and killed again and again.
#[test]
fn p8_a_killed_rebuild_is_repeated_and_no_reader_gets_zeros_meanwhile() {
    let archive = Scratch::new("archive");
    let (facts_before, content_before) = lose(FsKind::Ext4, 300, |site| site.set_archive_root(archive.path()));
    let hsm = Hsm::start_with(FsKind::Xfs, 512, |site| site.set_archive_root(archive.path()));
    let root = hsm.fs.path();
    let mut random = Random::new(3);
    let mut killed = 0;
    for _ in 0..12 {
        let mut command = rebuild(&hsm.site, &root);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(random.within(5..120)));
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            killed += 1;
        }
        child.wait().unwrap();
        // Whatever is there by now is whole.
        for (path, state) in snapshot(&root) {
            assert_eq!(state.digest, content_before[&path].digest, "{path:?}");
        }
    }
    assert!(killed > 0, "none of them was killed");
    assert_rebuilt(&hsm.site, &root);
    assert_facts(&facts_before, &facts(&root));
    assert_same(&content_before, &snapshot(&root));
}

#[test]
fn a_ruined_pack_costs_its_own_files_only() {
    let hsm = Hsm::start(FsKind::Ext4);
    for batch in ["first", "second"] {
        let files: Vec<PathBuf> = (0..20).map(|i| hsm.file(&format!("{batch}{i}"), batch.as_bytes())).collect();
        hsm.archive(&files.iter().map(PathBuf::as_path).collect::<Vec<_>>());
    }
    let mut packs = Vec::new();
    for dir in fs::read_dir(hsm.site.archive_root().join("packs")).unwrap().flatten() {
        packs.extend(
            fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.is_file()),
        );
    }
    packs.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    assert!(packs.len() >= 2, "{packs:?}");
    fs::write(&packs[0], vec![0; usize::try_from(fs::metadata(&packs[0]).unwrap().len()).unwrap()]).unwrap();
    let fresh = LoopFs::new(FsKind::Ext4, 64);
    let out = rebuild(&hsm.site, &fresh.path()).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(6), "{said}");
    assert!(said.contains("pack"), "{said}");
    let back = fs::read_dir(fresh.path()).unwrap().count();
    assert!((2..41).contains(&back), "{back} came back: {said}");
}
