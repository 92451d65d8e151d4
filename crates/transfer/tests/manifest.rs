//! Descriptions of real inodes, and the way back.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

extern crate sifaka_transfer as transfer;

use model::ObjectId;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use testkit::{FsKind, LoopFs, Scratch};
use transfer::manifest::{Kind, Manifest, apply, describe, describe_beneath};
use transfer::{OpenFile, TransferError};

fn run(program: &str, args: &[&str], path: &Path) {
    assert!(Command::new(program).args(args).arg(path).status().unwrap().success(), "{program} {args:?}");
}

fn id() -> ObjectId {
    ObjectId::parse("0e2f9a7c-5ad1-4b6e-9b7a-0a4dd0c8f0aa").unwrap()
}

/// Through bytes, as the archive would keep it.
fn kept(manifest: &Manifest) -> Manifest {
    let read = Manifest::decode(&manifest.encode().unwrap()).unwrap();
    assert_eq!(read, *manifest);
    read
}

fn look(path: &Path) -> (u32, u32, u32, (i64, i64), (i64, i64)) {
    let found = fs::symlink_metadata(path).unwrap();
    let (atime, mtime) = ((found.atime(), found.atime_nsec()), (found.mtime(), found.mtime_nsec()));
    (found.mode(), found.uid(), found.gid(), atime, mtime)
}

fn acl(path: &Path) -> String {
    let output = Command::new("getfacl").args(["-p", "-c", "-n"]).arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_file_s_metadata_comes_back_on_another_file() {
    for fs_kind in FsKind::ALL {
        let fs = LoopFs::new(fs_kind, 300);
        let (from, to) = (fs.path().join("from"), fs.path().join("to"));
        fs::write(&from, b"content").unwrap();
        fs::write(&to, b"content").unwrap();
        run("chown", &["1234:567"], &from);
        fs::set_permissions(&from, fs::Permissions::from_mode(0o4750)).unwrap();
        run("setfacl", &["-m", "u:99:r--"], &from);
        run("touch", &["-a", "-d", "2001-02-03 04:05:06.789"], &from);
        run("touch", &["-m", "-d", "1969-12-31 23:59:59.5"], &from);
        let file = File::open(&from).unwrap();
        for (name, value) in [
            ("user.note", b"\0\xff".as_slice()),
            ("trusted.other", b"kept"),
            (model::xattr::HSM, &[1; 24]),
            (model::xattr::UUID, b"left out"),
            (model::xattr::RECORD, b"left out"),
            ("trusted.sifaka_later", b"left out"),
        ] {
            sys::xattr::set(&file, name, value).unwrap();
        }

        let description = describe(&OpenFile::for_reading(&from).unwrap(), b"a/from", [7; 8]).unwrap();
        assert_eq!(description.size, 7);
        assert_eq!(description.inode.handle.as_ref().unwrap().kind, sys::handle::name_to_handle(&file).unwrap().kind);
        assert!(description.inode.btime.is_some(), "{fs_kind:?}");
        let names: Vec<&[u8]> = description.attributes.iter().map(|attribute| attribute.name.as_slice()).collect();
        for name in ["user.note", "trusted.other", "system.posix_acl_access"] {
            assert!(names.contains(&name.as_bytes()), "{fs_kind:?}: {name} is not in {names:?}");
        }
        assert!(!names.iter().any(|name| name.starts_with(b"trusted.lhsm") || name.starts_with(b"trusted.sifaka")));
        assert!(!names.contains(&model::xattr::HSM.as_bytes()));

        let manifest = kept(&description.with_kind(id(), Kind::Fifo));
        assert_eq!(manifest.path, b"a/from");
        for _ in 0..2 {
            assert!(apply(&manifest, File::open(&to).unwrap(), &to).unwrap().is_empty(), "{fs_kind:?}");
        }
        assert_eq!(look(&to), look(&from), "{fs_kind:?}");
        assert_eq!(acl(&to), acl(&from));
        let value = sys::xattr::get(File::open(&to).unwrap(), "user.note").unwrap();
        assert_eq!(value.as_deref(), Some(b"\0\xff".as_slice()));
    }
}

#[test]
fn what_has_no_content_is_described_without_being_opened() {
    let scratch = Scratch::new("manifest");
    let below = scratch.join("dir/sub");
    fs::create_dir_all(&below).unwrap();
    fs::write(below.join("file"), b"x").unwrap();
    symlink("../away", below.join("link")).unwrap();
    run("mkfifo", &[], &below.join("fifo"));
    for (name, kind) in [("char", "c"), ("block", "b")] {
        assert!(Command::new("mknod").arg(below.join(name)).args([kind, "7", "300"]).status().unwrap().success());
    }
    drop(std::os::unix::net::UnixListener::bind(below.join("socket")).unwrap());
    let root = File::open(scratch.path()).unwrap();
    for (name, expected) in [
        ("dir/sub", Kind::Directory),
        ("", Kind::Directory),
        ("dir/sub/file", Kind::HardLink),
        ("dir/sub/link", Kind::Symlink(b"../away".to_vec())),
        ("dir/sub/fifo", Kind::Fifo),
        ("dir/sub/socket", Kind::Socket),
        ("dir/sub/char", Kind::CharDevice(7, 300)),
        ("dir/sub/block", Kind::BlockDevice(7, 300)),
    ] {
        let (description, kind) = describe_beneath(&root, name.as_bytes(), [1; 8]).unwrap();
        assert_eq!(kind, expected, "{name}");
        let manifest = kept(&description.with_kind(id(), kind));
        assert_eq!(manifest.path, name.as_bytes());
        if let Some(last) = Path::new(name).file_name() {
            // And its owner and times go onto another of its kind.
            let path = scratch.join(name).with_file_name(last);
            let fd = rustix::fs::open(&path, sys::OFlags::PATH | sys::OFlags::NOFOLLOW, sys::Mode::empty()).unwrap();
            let mut manifest = manifest;
            (manifest.inode.uid, manifest.inode.mtime.seconds) = (4321, 86_400);
            apply(&manifest, fd, &path).unwrap();
            assert_eq!((look(&path).1, look(&path).4.0), (4321, 86_400), "{name}");
        }
    }
}

#[test]
fn a_path_that_leads_out_or_over_a_link_describes_nothing() {
    let scratch = Scratch::new("manifest");
    fs::create_dir(scratch.join("root")).unwrap();
    fs::write(scratch.join("secret"), b"").unwrap();
    symlink(scratch.path(), scratch.join("root/out")).unwrap();
    let root = File::open(scratch.join("root")).unwrap();
    for path in ["../secret", "/etc", "out/secret", "nothing"] {
        let error = describe_beneath(&root, path.as_bytes(), [0; 8]).unwrap_err();
        assert!(matches!(error, TransferError::Io { .. }), "{path}: {error}");
    }
}
