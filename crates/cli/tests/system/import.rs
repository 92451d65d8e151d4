//! `sifaka import` of one object, beside an agent and without one.

use crate::support::{Hsm, hsm_state, is_released, noise, uuid_of};
use model::HsmFlags;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use testkit::{FsKind, LoopFs};

fn import(hsm: &Hsm, words: &[&str], path: &Path) -> Output {
    let config = hsm.site.agent_config();
    hsm.site.command().arg("--config").arg(config).arg("import").args(words).arg(path).output().unwrap()
}

fn blake3_of(path: &Path) -> String {
    let fd = rustix::fs::open(path, sys::OFlags::PATH, sys::Mode::empty()).unwrap();
    String::from_utf8(sys::xattr::get(&fd, model::xattr::HASH).unwrap().unwrap()).unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A guard lets whoever makes a file through, and must not forget to watch it for that.
#[test]
fn p5_readers_of_an_imported_file_get_its_content_at_once() {
    for kind in FsKind::ALL {
        let hsm = Hsm::start(kind);
        let content = noise(1, 300_000);
        let original = hsm.file("original", &content);
        hsm.archive(&[&original]);
        let (uuid, size) = (uuid_of(&original), content.len().to_string());
        std::thread::scope(|scope| {
            for i in 0..8 {
                let (hsm, content, uuid, size) = (&hsm, &content, &uuid, &size);
                let path = hsm.path(&format!("imported{i}"));
                // Reads as soon as there is a name.
                let reader = scope.spawn({
                    let path = path.clone();
                    move || {
                        loop {
                            match fs::read(&path) {
                                Ok(read) => break assert!(read == *content, "{kind:?} {}", path.display()),
                                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}"),
                            }
                        }
                    }
                });
                let out = import(hsm, &["--uuid", uuid, "--size", size, "--uid", "7", "--mode", "4750"], &path);
                assert!(out.status.success(), "{}", said(&out));
                assert!(!said(&out).contains("no guard"), "{}", said(&out));
                reader.join().unwrap();
            }
        });
    }
}

#[test]
fn an_imported_file_is_what_was_asked_for() {
    let mut hsm = Hsm::start(FsKind::Xfs);
    let original = hsm.file("original", b"some content");
    hsm.archive(&[&original]);
    let (uuid, hash) = (uuid_of(&original), blake3_of(&original));
    hsm.stop_agent();
    let path = hsm.path("imported");
    let words = ["--uuid", &uuid, "--hash", &hash, "--size", "12", "--uid", "7", "--gid", "daemon", "--mode", "4750"];
    let times = ["--mtime", "2001-02-03T04:05:06.789Z", "--atime", "@5.5", "--json"];
    let out = import(&hsm, &[&words[..], &times[..]].concat(), &path);
    assert!(out.status.success(), "{}", said(&out));
    let told: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((told["uuid"].as_str(), told["size"].as_u64()), (Some(uuid.as_str()), Some(12)));
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.len(), meta.uid(), meta.mode() & 0o7777), (12, 7, 0o4750));
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (981_173_106, 789_000_000));
    assert_eq!((meta.atime(), meta.atime_nsec()), (5, 500_000_000));
    assert!(is_released(&path) && hsm_state(&path).flags.contains(HsmFlags::ARCHIVED));
    hsm.agent = Some(hsm.site.start_agent());
    hsm.wait_for_movers();
    assert_eq!(fs::read(&path).unwrap(), b"some content");
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (981_173_106, 789_000_000));
    // It is an archived file like others.
    hsm.release(&[&path]);
    assert_eq!(fs::read(&path).unwrap(), b"some content");
}

#[test]
fn what_cannot_be_imported_is_said_and_nothing_is_made() {
    let hsm = Hsm::start(FsKind::Ext4);
    let original = hsm.file("original", b"some content");
    hsm.archive(&[&original]);
    let uuid = uuid_of(&original);
    let taken = hsm.file("taken", b"do not touch");
    let refused = |words: &[&str], path: &PathBuf, part: &str| {
        let out = import(&hsm, words, path);
        assert!(!out.status.success() && said(&out).contains(part), "{words:?}: {}", said(&out));
    };
    let new = hsm.path("new");
    refused(&["--uuid", &uuid, "--size", "12"], &taken, "exists already");
    refused(&["--uuid", &uuid, "--size", "12", "--dry-run"], &taken, "exists already");
    refused(&["--uuid", "00000000-none", "--size", "12"], &new, "has no object 00000000-none");
    refused(&["--uuid", "../../../etc/passwd", "--size", "12"], &new, "object id");
    refused(&["--uuid", &uuid, "--size", "12", "-i", "9"], &new, "no archive of number 9");
    refused(&["--uuid", &uuid, "--size", "12", "--timefmt", "Jan 2"], &new, "is not understood");
    refused(&["--uuid", &uuid, "--size", "12"], &hsm.path("no/directory"), "cannot open the directory");
    refused(&["--uuid", &uuid, "--size", "18446744073709551615"], &new, "cannot set the size");
    assert_eq!(fs::read(&taken).unwrap(), b"do not touch");
    assert!(!new.exists());
    // A wrong hash or size: the file is made, and its readers get an error.
    let hash = "00".repeat(32);
    let wrong: [&[&str]; 2] = [&["--uuid", &uuid, "--size", "12", "--hash", &hash], &["--uuid", &uuid, "--size", "13"]];
    for (i, words) in wrong.into_iter().enumerate() {
        let path = hsm.path(&format!("wrong{i}"));
        assert!(import(&hsm, words, &path).status.success());
        assert_eq!(fs::read(&path).unwrap_err().raw_os_error(), Some(5));
    }
}

#[test]
fn who_imports_where_no_guard_is_gets_told() {
    let hsm = Hsm::start(FsKind::Ext4);
    let original = hsm.file("original", b"some content");
    hsm.archive(&[&original]);
    let other = LoopFs::new(FsKind::Ext4, 16);
    let path = other.path().join("f");
    let out = import(&hsm, &["--uuid", &uuid_of(&original), "--size", "12"], &path);
    assert!(out.status.success() && said(&out).contains("no guard watches"), "{}", said(&out));
    assert!(is_released(&path));
}
