//! `sifaka import s3://…` where something is in the way: changed files, what a crash left, mounts, full disks, and what services tell and do not tell.

use crate::import_objects::{Server, counted, directory, hsm_with, import, import_fails};
use crate::objects::s3_at;
use crate::support::{LONG, is_released, noise, uuid_of};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use testkit::fault_proxy::{Fault, FaultProxy, Reply, When};
use testkit::wait_until;

/// An open would restore it.
fn by_name(path: &Path) -> OwnedFd {
    rustix::fs::open(path, sys::OFlags::PATH, sys::Mode::empty()).unwrap()
}

/// What an import calls a file until it has its name.
fn aside(name: &str) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    format!(".sifaka-import-{:016x}", hasher.finish())
}

#[test]
fn p1_a_file_is_made_anew_only_if_nothing_of_it_is_lost() {
    let server = Server::s3();
    let hsm = server.hsm();
    let names = ["plain", "linked", "copied", "taken"];
    let all = |seed| names.iter().for_each(|name| server.put(&format!("d/{name}"), &noise(seed, 5000), &[]));
    all(1);
    let dir = directory(&hsm, "in");
    counted(&import(&hsm, &["s3://archive/d"], &dir, 0).0, &[("files", 4)]);
    let [plain, linked, copied, taken] = names.map(|name| dir.join(name));
    sys::xattr::set(by_name(&plain), "user.note", b"a user's").unwrap();
    fs::hard_link(&linked, hsm.path("further")).unwrap();
    fs::read(&copied).unwrap();
    wait_until(LONG, "it is an ordinary file", || !is_released(&copied));
    hsm.ok(&["archive", "--wait", "--copies", "1,2"], &[&copied]);
    hsm.release(&[&copied]);
    fs::write(dir.join(aside("taken")), "a user's").unwrap();

    all(2);
    let (totals, told) = import(&hsm, &["s3://archive/d"], &dir, 6);
    counted(&totals, &[("replaced", 1), ("changed", 2), ("conflicts", 1), ("failed", 0)]);
    for said in ["further names", "other archives have copies", &aside("taken")] {
        assert!(told.contains(said), "{said}: {told}");
    }
    assert!(fs::read(&plain).unwrap() == noise(2, 5000));
    let note = sys::xattr::get(by_name(&plain), "user.note").unwrap();
    assert_eq!(note.as_deref(), Some(&b"a user's"[..]));
    assert!(fs::read(&copied).unwrap() == noise(1, 5000), "from the other archive");
    assert!(is_released(&linked) && is_released(&taken));
    assert_eq!(fs::read(dir.join(aside("taken"))).unwrap(), b"a user's");

    fs::remove_file(dir.join(aside("taken"))).unwrap();
    counted(&import(&hsm, &["s3://archive/d"], &dir, 6).0, &[("replaced", 1), ("changed", 2), ("conflicts", 0)]);
    assert!(fs::read(&taken).unwrap() == noise(2, 5000));
    let there: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(there.len(), names.len(), "{there:?}");
}

/// Gone with the test.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(std::process::Command::new("umount").arg(&self.0).status());
    }
}

#[test]
fn what_a_crash_left_is_cleared_away_and_mounts_are_not_entered() {
    let server = Server::s3();
    let hsm = server.hsm();
    ["d/left", "d/sub/below"].iter().for_each(|key| server.put(key, b"content", &[]));
    let dir = directory(&hsm, "in");
    fs::create_dir(dir.join("sub")).unwrap();
    let status = std::process::Command::new("mount").args(["-t", "tmpfs", "none"]).arg(dir.join("sub")).status();
    assert!(status.unwrap().success());
    let mounted = Mounted(dir.join("sub"));
    let (totals, told) = import(&hsm, &["s3://archive/d"], &dir, 6);
    counted(&totals, &[("files", 1), ("conflicts", 1), ("failed", 0)]);
    assert!(told.contains("mounted"), "{told}");
    assert_eq!(fs::read_dir(dir.join("sub")).unwrap().count(), 0);
    drop(mounted);

    // As if it had been killed between the exchange of the names and the end of the old file.
    fs::rename(dir.join("left"), dir.join(aside("left"))).unwrap();
    counted(&import(&hsm, &["s3://archive/d"], &dir, 0).0, &[("files", 2)]);
    assert!(fs::symlink_metadata(dir.join(aside("left"))).is_ok(), "it was not looked for yet");
    counted(&import(&hsm, &["s3://archive/d"], &dir, 0).0, &[("already", 2)]);
    assert!(fs::symlink_metadata(dir.join(aside("left"))).is_err());
    // One that an import was making.
    let begun = dir.join(format!("{}.d", aside("new")));
    fs::create_dir(&begun).unwrap();
    server.put("d/new/x", b"content", &[]);
    counted(&import(&hsm, &["--dir-mode", "1700", "s3://archive/d"], &dir, 0).0, &[("files", 1)]);
    assert_eq!(fs::metadata(dir.join("new")).unwrap().permissions().mode() & 0o7777, 0o1700);
    assert!(!begun.exists());
}

#[test]
fn a_full_disk_ends_an_import_and_a_key_that_is_too_long_for_attributes_does_not() {
    let server = Server::s3();
    let hsm = server.hsm();
    // Each of them is three in a URL.
    let long = format!("d/{}", ["%".repeat(240), "%".repeat(240), "%".repeat(240)].join("/"));
    ["d/a", &long, "d/z"].iter().for_each(|key| server.put(key, b"content", &[]));
    let dir = directory(&hsm, "in");
    let filler = hsm.path("filler");
    let mut file = File::create(&filler).unwrap();
    let (mib, byte) = (vec![1; 1 << 20], [1; 512]);
    while file.write_all(&mib).is_ok() {}
    // What was delayed has its place now.
    file.sync_all().unwrap();
    while file.write_all(&byte).and_then(|()| file.sync_all()).is_ok() {}
    drop(file);
    let told = import_fails(&hsm, &["--threads", "1", "s3://archive/d"], &dir);
    assert!(told.contains("No space left on device"), "{told}");
    assert!(!told.contains("d/z"), "it went on: {told}");

    fs::remove_file(&filler).unwrap();
    let (totals, told) = import(&hsm, &["s3://archive/d"], &dir, 6);
    counted(&totals, &[("files", 2), ("failed", 1)]);
    assert!(told.contains("s3://archive/d/%%%") && told.contains("too long for this filesystem"), "{told}");
    assert!(fs::read(dir.join("z")).unwrap() == b"content");
}

#[test]
fn what_azure_has_for_directories_is_no_empty_file() {
    let server = Server::azure();
    let hsm = server.hsm();
    server.put("d/sub", b"", &[("hdi_isfolder", "true")]);
    server.put("d/empty", b"", &[]);
    server.put("d/sub/file", b"content", &[]);
    let dir = directory(&hsm, "in");
    for (files, already) in [(2, 0), (0, 2)] {
        let (totals, _) = import(&hsm, &["az://archive/d"], &dir, 0);
        counted(&totals, &[("markers", 1), ("files", files), ("already", already)]);
    }
    assert!(fs::read(dir.join("sub/file")).unwrap() == b"content" && fs::read(dir.join("empty")).unwrap().is_empty());
}

#[test]
fn p2_a_version_that_a_listing_does_not_tell_is_asked_for() {
    let server = Server::s3();
    let Server::S3(rgw) = &server else { unreachable!() };
    let proxy = FaultProxy::start(&rgw.server().authority());
    let hsm = hsm_with(&s3_at(&proxy.url(), "archive"));
    server.put("d/there", b"content", &[]);
    let entries = ["there", "gone"].map(|name| {
        let modified = "<LastModified>2026-01-01T00:00:00.000Z</LastModified>";
        format!("<Contents><Key>d/{name}</Key>{modified}<Size>9</Size></Contents>")
    });
    let list = format!("<ListBucketResult><IsTruncated>false</IsTruncated>{}</ListBucketResult>", entries.concat());
    let of_all = When::method("GET").parameter("list-type").and(|request| request.query.contains("prefix=d"));
    proxy.add(of_all, Fault::Answer(Reply::status(200).header("content-type", "application/xml").body(list)));
    let dir = directory(&hsm, "in");
    let (totals, told) = import(&hsm, &["s3://archive/d"], &dir, 6);
    counted(&totals, &[("objects", 2), ("files", 1), ("bytes", 7), ("failed", 1)]);
    assert!(told.contains("s3://archive/d/gone") && told.contains("which version"), "{told}");
    let there = dir.join("there");
    let version = sys::xattr::get(by_name(&there), model::xattr::URL).unwrap().unwrap();
    assert!(version.starts_with(format!("{}#etag=", uuid_of(&there)).as_bytes()), "{version:?}");
    assert!(fs::read(&there).unwrap() == b"content");
}
