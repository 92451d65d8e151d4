//! What somebody put into the archive, or took away, leads nowhere.

use crate::harness::{Archive, BLAKE3, id};
use model::ErrorKind;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use testkit::{FsKind, LoopFs};
use transfer::{Expected, KernelDurability, OpenFile, PosixStore, Store, TransferError, Unwatched};

#[test]
fn links_in_the_archive_are_not_followed() {
    let archive = Archive::new();
    let outside = archive.base.join("outside");
    fs::create_dir_all(outside.join("cd")).unwrap();
    fs::write(outside.join("cd/abcdef"), b"secret").unwrap();
    let objects = archive.store.root().join("objects");
    let source = archive.file("source", b"content");

    let plant: [(&str, &dyn Fn()); 3] = [
        ("first directory", &|| symlink(&outside, objects.join("ab")).unwrap()),
        ("second directory", &|| {
            fs::create_dir(objects.join("ab")).unwrap();
            symlink(outside.join("cd"), objects.join("ab/cd")).unwrap();
        }),
        ("object", &|| {
            fs::create_dir_all(objects.join("ab/cd")).unwrap();
            symlink(outside.join("cd/abcdef"), objects.join("ab/cd/abcdef")).unwrap();
        }),
    ];
    for (what, plant) in plant {
        fs::create_dir_all(&objects).unwrap();
        plant();
        assert!(archive.store.verify(&id("abcdef"), Expected::default(), &Unwatched).is_err(), "{what}");
        assert!(archive.get_over(&id("abcdef"), b"", Expected::default()).is_err(), "{what}");
        let put = archive.put(&id("abcdef"), &source, BLAKE3);
        // A link in the object's own place is replaced by the object; one on the way to it is an error.
        assert_eq!(put.is_ok(), what == "object", "{what}: {put:?}");
        let _ = archive.remove(&id("abcdef"));
        assert_eq!(fs::read(outside.join("cd/abcdef")).unwrap(), b"secret", "{what}");
        assert_eq!(fs::read_dir(outside.join("cd")).unwrap().count(), 1, "{what}");
        fs::remove_dir_all(&objects).unwrap();
    }
}

#[test]
fn a_fifo_or_a_directory_is_no_object() {
    let archive = Archive::new();
    let directory = archive.store.root().join("objects/ab/cd");
    fs::create_dir_all(&directory).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(directory.join("abcdef")).status().unwrap().success());
    fs::create_dir(directory.join("abcd-directory")).unwrap();
    for name in ["abcdef", "abcd-directory"] {
        let error = archive.store.verify(&id(name), Expected::default(), &Unwatched).unwrap_err();
        assert!(matches!(error, TransferError::NotRegular { .. }), "{error}");
    }
    let fifo = directory.join("abcdef");
    assert!(matches!(OpenFile::for_reading(&fifo), Err(TransferError::NotRegular { .. })));
    assert!(matches!(OpenFile::for_writing(&fifo), Err(TransferError::NotRegular { .. })));
}

#[test]
fn a_missing_object_is_permanent_and_says_where_it_should_be() {
    let archive = Archive::new();
    archive.put(&id("abcdef"), &archive.file("source", b"x"), BLAKE3).unwrap();
    let error = archive.get_over(&id("abcdeg"), b"", Expected::default()).unwrap_err();
    assert_eq!((error.kind(), error.errno()), (ErrorKind::Permanent, 2));
    assert!(error.to_string().contains("archive/objects/ab/cd/abcdeg"), "{error}");
    archive.remove(&id("abcdeg")).unwrap();
}

/// An archive that is not there must not look like one whose objects are gone: nothing may be given up for that.
#[test]
fn an_unmounted_archive_is_a_temporary_error() {
    let fs = LoopFs::new(FsKind::Ext4, 64);
    let archive = Archive::at(&fs.path(), Arc::new(KernelDurability));
    let source = archive.file("source", b"x");
    let name = id("abcdef");
    // Never used: as an empty mount point looks.
    let errors = [archive.get_over(&name, b"", Expected::default()).unwrap_err(), archive.remove(&name).unwrap_err()];
    for error in errors {
        assert!(matches!(error, TransferError::Unavailable { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Temporary);
    }
    archive.put(&name, &source, BLAKE3).unwrap();
    // Another directory in the root's place: something was mounted over it, or unmounted from under it.
    let root = archive.store.root().to_owned();
    fs::rename(&root, root.with_extension("away")).unwrap();
    for present in [false, true] {
        if present {
            fs::create_dir(&root).unwrap();
        }
        let errors = [archive.put(&name, &source, BLAKE3).unwrap_err(), archive.remove(&id("abcdeg")).unwrap_err()];
        for error in errors {
            assert!(matches!(error, TransferError::Unavailable { .. }), "{error}");
        }
        assert!(archive.store.list(&mut |_| std::ops::ControlFlow::Continue(())).is_err());
    }
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    drop(archive);
}

#[test]
fn a_root_that_is_no_directory_is_refused() {
    let archive = Archive::new();
    archive.file("plain", b"");
    for path in ["plain", "nothing"] {
        let opened = PosixStore::open(&archive.base.join(path), Arc::new(KernelDurability));
        let error = opened.err().unwrap().to_string();
        assert!(error.contains(path) && error.contains("is its filesystem mounted?"), "{error}");
    }
}
