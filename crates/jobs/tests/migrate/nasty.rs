//! A tree of everything that may be found in the trees of users.

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use sys::xattr;

/// Entries of one large directory, and levels of a deep one.
pub(crate) struct Size {
    pub(crate) wide: u32,
    pub(crate) deep: u32,
}

/// Makes it in `root`, which is there.
pub(crate) fn grow(root: &Path, size: &Size) {
    names(&root.join("names"));
    contents(&root.join("contents"));
    attributes(&root.join("attributes"));
    links(root);
    nodes(&root.join("nodes"));
    let wide = root.join("wide");
    fs::create_dir(&wide).unwrap();
    for number in 0..size.wide {
        fs::write(wide.join(format!("{number}")), number.to_le_bytes()).unwrap();
    }
    deep(root, size.deep);
}

/// Every byte that a name may hold, and a name as long as names get.
fn names(directory: &Path) {
    fs::create_dir(directory).unwrap();
    for byte in (1..=255u8).filter(|byte| *byte != b'/') {
        let name = [b'n', byte];
        fs::write(directory.join(OsStr::from_bytes(&name)), [byte]).unwrap();
    }
    fs::write(directory.join("x".repeat(255)), "long").unwrap();
    for name in ["-rf", "--delete", " ", "..x", ".hidden", "a\nb"] {
        fs::write(directory.join(name), name).unwrap();
    }
}

fn contents(directory: &Path) {
    fs::create_dir(directory).unwrap();
    for size in [0, 1, 4095, 4096, 4097, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, 1 << 20, (1 << 20) + 1, 9 << 20] {
        let content: Vec<u8> = (0..size).map(|at: u32| (at / 251 + at) as u8).collect();
        fs::write(directory.join(format!("{size}")), content).unwrap();
    }
    // A hole, data in it, and a hole at the end; 1 TiB of nothing; small and with a hole.
    let holes = File::create(directory.join("holes")).unwrap();
    holes.write_all_at(b"in the middle", 40 << 20).unwrap();
    holes.set_len(90 << 20).unwrap();
    File::create(directory.join("terabyte")).unwrap().set_len(1 << 40).unwrap();
    let small = File::create(directory.join("small-hole")).unwrap();
    small.write_all_at(b"end", 100_000).unwrap();
}

fn attributes(directory: &Path) {
    fs::create_dir(directory).unwrap();
    for (number, mode) in [0o000, 0o444, 0o4755, 0o2755, 0o1777, 0o6711, 0o600].into_iter().enumerate() {
        let path = directory.join(format!("mode-{mode:o}"));
        fs::write(&path, "mode").unwrap();
        chown(&path, Some(1000 + u32::try_from(number).unwrap()), Some(2000)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }
    let path = directory.join("attributes");
    let file = File::create(&path).unwrap();
    xattr::set(&file, "user.empty", b"").unwrap();
    xattr::set(&file, "user.large", &[7; 700]).unwrap();
    xattr::set(&file, "trusted.of-root", b"x\0y").unwrap();
    // cap_net_bind_service, which a change of owner would clear.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    xattr::set(&file, "security.capability", &capability).unwrap();
    chown(&path, Some(3000), Some(3000)).unwrap();
    xattr::set(&file, "security.capability", &capability).unwrap();
    let acl = directory.join("acl");
    fs::create_dir(&acl).unwrap();
    fs::write(acl.join("before"), "no default yet").unwrap();
    set_acl(&["-m", "u:1234:rw,g:77:r,d:u:1234:rwx,d:o::-"], &acl);
    fs::write(acl.join("inherits"), "the default").unwrap();
    fs::create_dir(acl.join("below")).unwrap();
    let sticky = directory.join("setgid");
    fs::create_dir(&sticky).unwrap();
    chown(&sticky, Some(5), Some(4242)).unwrap();
    fs::set_permissions(&sticky, Permissions::from_mode(0o2775)).unwrap();
    fs::write(sticky.join("of-the-group"), "").unwrap();
    for (name, seconds, nanos) in [("early", -5_000_000, 7), ("late", 4_000_000_000, 999_999_999)] {
        let file = File::create(directory.join(name)).unwrap();
        let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
        rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time }).unwrap();
    }
    let unreadable = directory.join("closed");
    fs::create_dir(&unreadable).unwrap();
    fs::write(unreadable.join("in it"), "x").unwrap();
    fs::set_permissions(&unreadable, Permissions::from_mode(0o000)).unwrap();
}

pub(crate) fn set_acl(args: &[&str], path: &Path) {
    let set = Command::new("setfacl").args(args).arg(path).output().unwrap();
    assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
}

/// Names of one file in several directories; links of all kinds.
fn links(root: &Path) {
    for directory in ["links", "links/a", "links/b", "links/b/c"] {
        fs::create_dir(root.join(directory)).unwrap();
    }
    for group in 0..20 {
        let first = root.join(format!("links/a/file-{group}"));
        fs::write(&first, format!("group {group}")).unwrap();
        for directory in ["links", "links/b", "links/b/c", "links/a"] {
            fs::hard_link(&first, root.join(directory).join(format!("again-{group}"))).unwrap();
        }
    }
    let links = root.join("links");
    symlink("a/file-1", links.join("relative")).unwrap();
    symlink("/nowhere/at/all", links.join("dangling")).unwrap();
    symlink(OsStr::from_bytes(&[b'x'; 900]), links.join("long")).unwrap();
    symlink("..", links.join("up")).unwrap();
    rustix::fs::chownat(
        rustix::fs::CWD,
        links.join("up"),
        Some(rustix::fs::Uid::from_raw(9)),
        None,
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .unwrap();
    fs::hard_link(links.join("dangling"), links.join("b/dangling-again")).unwrap();
}

fn nodes(directory: &Path) {
    fs::create_dir(directory).unwrap();
    let make = |name: &str, kind, device| {
        let path = directory.join(name);
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, Mode::from_raw_mode(0o640), device).unwrap();
        chown(&path, Some(11), Some(12)).unwrap();
    };
    make("pipe", FileType::Fifo, 0);
    make("socket", FileType::Socket, 0);
    make("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    make("block", FileType::BlockDevice, rustix::fs::makedev(7, 200));
}

/// Deeper than one path can name.
fn deep(root: &Path, levels: u32) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at: OwnedFd = rustix::fs::open(root, flags, Mode::empty()).unwrap();
    for level in 0..levels {
        let name = format!("d{level}");
        rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, &name, flags, Mode::empty()).unwrap();
        if level % 100 == 0 {
            let file = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&at, "file", file, Mode::RUSR).unwrap();
            rustix::io::write(file, b"deep").unwrap();
        }
    }
}
