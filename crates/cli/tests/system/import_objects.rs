//! `sifaka import s3://…`: what others put into a bucket becomes released files, and stays where it is.

use crate::objects::{archive_in_bucket, s3};
use crate::support::{Hsm, LONG, hsm_state, is_released, noise, uuid_of};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use testkit::services::plain::encoded;
use testkit::services::{Azurite, FakeGcs, Rgw};
use testkit::{FsKind, wait_until};

const MIB: usize = 1 << 20;

pub(crate) enum Server {
    S3(Box<Rgw>),
    Azure(Azurite),
    Google(FakeGcs),
}

impl Server {
    pub(crate) fn s3() -> Self {
        let server = Rgw::start();
        server.create_bucket("archive");
        Self::S3(Box::new(server))
    }

    pub(crate) fn azure() -> Self {
        let server = Azurite::start();
        server.create_container("archive");
        Self::Azure(server)
    }

    fn google() -> Self {
        let server = FakeGcs::start();
        server.create_bucket("archive");
        Self::Google(server)
    }

    /// What it is called, and what an archive in it needs, below `hsm/`.
    fn archive(&self) -> (&'static str, String) {
        match self {
            Self::S3(server) => ("s3://archive", s3(server, "archive")),
            Self::Azure(server) => (
                "az://archive",
                format!(
                    "url = \"az://archive/hsm\" endpoint = \"{}\" account = \"{}\" credentials {{ account_key = \"{}\" }}",
                    server.endpoint(),
                    Azurite::ACCOUNT,
                    Azurite::KEY
                ),
            ),
            Self::Google(server) => (
                "gs://archive",
                format!(
                    "url = \"gs://archive/hsm\" endpoint = \"{}\" credentials {{ anonymous = true }}",
                    server.endpoint()
                ),
            ),
        }
    }

    pub(crate) fn hsm(&self) -> Hsm {
        hsm_with(&self.archive().1)
    }

    /// As another program would. The texts are those of S3.
    pub(crate) fn put(&self, key: &str, content: &[u8], texts: &[(&str, &str)]) {
        let key = self.encoded(key);
        match self {
            Self::S3(server) => {
                let lines: Vec<String> =
                    texts.iter().map(|(name, text)| format!("x-amz-meta-{name}: {text}")).collect();
                let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
                server.request("PUT", &format!("/archive/{key}"), Some(content), &lines).ok();
            }
            Self::Azure(server) => {
                let lines = texts.iter().map(|(name, text)| format!("x-ms-meta-{name}: {text}"));
                let lines: Vec<String> = lines.chain(["x-ms-blob-type: BlockBlob".to_owned()]).collect();
                let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
                server.request("PUT", &format!("/archive/{key}"), Some(content), &lines).ok();
            }
            Self::Google(server) => {
                let path = format!("/upload/storage/v1/b/archive/o?uploadType=media&name={key}");
                server.request("POST", &path, Some(content), &["Content-Type: text/plain"]).ok();
            }
        }
    }

    /// S3 signs slashes as they are; to Google it is one name.
    fn encoded(&self, key: &str) -> String {
        let key = encoded(key);
        if matches!(self, Self::Google(_)) { key } else { key.replace("%2F", "/") }
    }

    fn get(&self, key: &str) -> Vec<u8> {
        let key = self.encoded(key);
        let answer = match self {
            Self::S3(server) => server.request("GET", &format!("/archive/{key}"), None, &[]),
            Self::Azure(server) => server.request("GET", &format!("/archive/{key}"), None, &[]),
            Self::Google(server) => {
                server.request("GET", &format!("/storage/v1/b/archive/o/{key}?alt=media"), None, &[])
            }
        };
        answer.ok().body
    }
}

/// With this archive in a bucket.
pub(crate) fn hsm_with(archive: &str) -> Hsm {
    Hsm::start_with(FsKind::Ext4, 300, |site| {
        site.add_agent_setting("remove_grace_s = 0\nrestore { mode = \"range\" threshold = \"1MiB\" }");
        archive_in_bucket(site, archive);
    })
}

/// The totals, and what was told before.
#[track_caller]
pub(crate) fn import(hsm: &Hsm, words: &[&str], into: &Path, code: i32) -> (Value, String) {
    let mut command = hsm.site.command();
    command.arg("--config").arg(hsm.site.agent_config()).args(["import", "--json"]).args(words).arg(into);
    let out = command.stdin(Stdio::null()).output().unwrap();
    let (text, errors) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8_lossy(&out.stderr));
    assert_eq!(out.status.code(), Some(code), "{words:?}: {text}{errors}");
    let totals = text.lines().last().unwrap_or_else(|| panic!("{errors}"));
    (serde_json::from_str(totals).unwrap(), text.clone())
}

#[track_caller]
pub(crate) fn counted(totals: &Value, expected: &[(&str, u64)]) {
    for (name, number) in expected {
        assert_eq!(totals[name], *number, "{name} in {totals}");
    }
}

pub(crate) fn directory(hsm: &Hsm, name: &str) -> PathBuf {
    let path = hsm.path(name);
    fs::create_dir(&path).unwrap();
    path
}

/// Imported, read, released, read again, changed, archived again, removed: the originals stay.
fn cycle(server: &Server) {
    let hsm = server.hsm();
    let (url, _) = server.archive();
    let objects: BTreeMap<&str, Vec<u8>> = [
        ("data/empty", 0),
        ("data/small.txt", 100),
        ("data/sub/deep/large.bin", 20 * MIB + 7),
        ("data/ü ö#%41+&.txt", 5000),
        ("other/not wanted", 3),
    ]
    .into_iter()
    .zip(1..)
    .map(|((key, size), seed)| (key, noise(seed, size)))
    .collect();
    let texts = [("mode", "100600"), ("uid", "1234"), ("gid", "5678"), ("mtime", "1700000000.5")];
    objects.iter().for_each(|(key, content)| {
        server.put(key, content, if *key == "data/small.txt" { &texts } else { &[] });
    });
    let dir = directory(&hsm, "in");
    let data = format!("{url}/data");
    let words = ["--attributes", "--owners", "--uid", "77", "--gid", "78", "--mode", "640", data.as_str()];
    let dry = import(&hsm, &[&["--dry-run"], &words[..]].concat(), &dir, 0).0;
    counted(&dry, &[("objects", 4), ("files", 4)]);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    let (totals, _) = import(&hsm, &words, &dir, 0);
    counted(&totals, &[("objects", 4), ("files", 4), ("bytes", (20 * MIB + 7 + 5100) as u64)]);

    let wanted: Vec<(PathBuf, &str, &Vec<u8>)> = objects
        .iter()
        .filter_map(|(key, content)| Some((dir.join(key.strip_prefix("data/")?), *key, content)))
        .collect();
    for (path, key, content) in &wanted {
        let found = fs::symlink_metadata(path).unwrap();
        assert!(is_released(path) && found.len() == content.len() as u64, "{key}");
        assert!(uuid_of(path).starts_with(url), "{}", uuid_of(path));
        let known = *key == "data/small.txt" && !matches!(server, Server::Google(_));
        let owner = (found.uid(), found.gid(), found.permissions().mode() & 0o7777);
        assert_eq!(owner, if known { (1234, 5678, 0o600) } else { (77, 78, 0o640) }, "{key}");
        if known {
            assert_eq!((found.mtime(), found.mtime_nsec()), (1_700_000_000, 500_000_000));
        }
    }
    let sub = fs::metadata(dir.join("sub/deep")).unwrap();
    assert_eq!((sub.uid(), sub.gid(), sub.permissions().mode() & 0o7777), (77, 78, 0o755));

    let paths: Vec<&Path> = wanted.iter().map(|(path, ..)| path.as_path()).collect();
    for round in 0..2 {
        for (path, key, content) in &wanted {
            let before = fs::symlink_metadata(path).unwrap();
            assert!(fs::read(path).unwrap() == **content, "{key}, round {round}");
            assert_eq!(before.mtime(), fs::symlink_metadata(path).unwrap().mtime());
        }
        wait_until(LONG, "all are ordinary files", || paths.iter().all(|path| !is_released(path)));
        // Their hash is known by now, and their objects are looked for.
        hsm.release(&paths);
    }
    let config = hsm.site.agent_config();
    let fsck = hsm.ok(&["--config", config.to_str().unwrap(), "fsck", "--min-age", "0"], &[]);
    assert!(fsck.contains("4 files name objects of others"), "{fsck}");

    let (changed, key, content) = &wanted[1];
    fs::write(changed, "it is ours now").unwrap();
    hsm.ok(&["archive", "--wait"], &[changed.as_path()]);
    assert!(!uuid_of(changed).contains("://"), "{}", uuid_of(changed));
    hsm.release(&[changed]);
    assert_eq!(fs::read(changed).unwrap(), b"it is ours now");
    fs::remove_file(&wanted[0].0).unwrap();
    let detached = wanted[3].0.as_path();
    fs::read(detached).unwrap();
    wait_until(LONG, "it is an ordinary file", || !is_released(detached));
    hsm.ok(&["remove", "--wait"], &[detached]);
    hsm.settle();
    assert!(server.get(key) == **content);
    for (key, content) in &objects {
        assert!(server.get(key) == *content, "{key} is as it was");
    }
}

#[test]
fn p1_what_is_imported_from_s3_is_read_changed_and_left_in_the_bucket() {
    cycle(&Server::s3());
}

#[test]
fn p1_what_is_imported_from_azure_is_read_changed_and_left_in_the_bucket() {
    cycle(&Server::azure());
}

#[test]
fn p1_what_is_imported_from_google_is_read_changed_and_left_in_the_bucket() {
    cycle(&Server::google());
}

#[test]
fn p2_an_object_that_was_changed_is_an_error_until_it_is_imported_again() {
    let server = Server::s3();
    let hsm = server.hsm();
    for key in ["d/read", "d/touched", "d/here", "d/same", "d/gone"] {
        server.put(key, &noise(1, 2 * MIB), &[]);
    }
    let dir = directory(&hsm, "in");
    let again = || import(&hsm, &["s3://archive/d"], &dir, 0).0;
    counted(&again(), &[("files", 5), ("already", 0)]);
    counted(&again(), &[("files", 0), ("already", 5)]);
    let [read, touched, here, same, gone] = ["read", "touched", "here", "same", "gone"].map(|name| dir.join(name));
    fs::read(&here).unwrap();
    fs::read(&same).unwrap();
    wait_until(LONG, "two are here", || !is_released(&here) && !is_released(&same));
    let old = fs::metadata(&touched).unwrap();
    fs::File::options().write(true).open(&touched).and_then(|f| f.set_modified(std::time::UNIX_EPOCH)).unwrap();
    assert_ne!(old.mtime(), fs::metadata(&touched).unwrap().mtime());
    // Of the same size, so that nothing but the version tells.
    for key in ["d/read", "d/touched", "d/here"] {
        server.put(key, &noise(2, 2 * MIB), &[]);
    }
    let Server::S3(rgw) = &server else { unreachable!() };
    rgw.request("DELETE", "/archive/d/gone", None, &[]).ok();

    for path in [&read, &gone] {
        assert!(fs::read(path).is_err() && is_released(path), "{}: no other bytes", path.display());
    }
    let told = hsm.run(&["restore", "--wait"], &[&read]);
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("import it again"), "{told}");
    // What is only here now is not given away.
    let refused = hsm.run(&["release"], &[&here]);
    assert!(!refused.status.success() && !is_released(&here), "{refused:?}");
    assert!(fs::read(&here).unwrap() == noise(1, 2 * MIB));
    hsm.release(&[&same]);

    fs::set_permissions(&read, fs::Permissions::from_mode(0o600)).unwrap();
    let (totals, told) = import(&hsm, &["s3://archive/d"], &dir, 6);
    counted(&totals, &[("files", 0), ("already", 1), ("replaced", 1), ("changed", 2), ("failed", 0)]);
    assert!(told.contains("s3://archive/d/touched") && told.contains("s3://archive/d/here"), "{told}");
    assert!(fs::read(&read).unwrap() == noise(2, 2 * MIB));
    assert_eq!(fs::metadata(&read).unwrap().permissions().mode() & 0o7777, 0o600, "who set it meant it");
    assert!(is_released(&touched) && fs::read(&here).unwrap() == noise(1, 2 * MIB));
    let names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 5, "{names:?}");
    assert_eq!(hsm_state(&gone).archive_id, 2);
}

#[test]
fn names_that_are_no_paths_and_places_that_are_taken_are_told_and_nothing_leaves_the_directory() {
    let server = Server::s3();
    let hsm = server.hsm();
    let own = hsm.file("own", b"archived by us");
    hsm.ok(&["archive", "--wait"], &[&own]);
    let outside = directory(&hsm, "outside");
    let dir = directory(&hsm, "in");
    std::os::unix::fs::symlink(&outside, dir.join("link")).unwrap();
    fs::write(dir.join("mine"), "a user's").unwrap();
    let long = "x".repeat(256);
    let bad = ["/absolute", "a//b", "a/./b", "../up", "a/../../up", "blank ", &long, "dir with content/"];
    let good = ["fine", "a/b/c", "new\nline", "tab\there", "smörgås", "a\u{1}b"];
    let taken = ["mine", "link/evil"];
    // One of them can be made.
    let both = ["both", "both/below"];
    for key in bad.iter().chain(&good).chain(&taken).chain(&both) {
        server.put(key, b"content", &[]);
    }
    server.put("marker/", b"", &[]);
    let (totals, told) = import(&hsm, &["s3://archive"], &dir, 6);
    counted(
        &totals,
        &[
            ("files", good.len() as u64 + 1),
            ("bad_names", bad.len() as u64),
            ("conflicts", taken.len() as u64 + 1),
            ("markers", 1),
            ("failed", 0),
        ],
    );
    assert!(totals["ours"].as_u64() >= Some(1), "{totals}");
    assert_eq!(told.matches("\"bad-name\"").count(), bad.len(), "{told}");
    for name in good {
        assert!(fs::read(dir.join(name)).unwrap() == b"content", "{name:?}");
    }
    assert_eq!(fs::read(dir.join("mine")).unwrap(), b"a user's");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert!(!hsm.path("up").exists() && !Path::new("/absolute").exists());

    let empty = import_fails(&hsm, &["s3://archive/nowhere"], &dir);
    assert!(empty.contains("there is no object below"), "{empty}");
    let another = import_fails(&hsm, &["s3://another"], &dir);
    assert!(another.contains("no archive is in this bucket"), "{another}");
}

#[track_caller]
pub(crate) fn import_fails(hsm: &Hsm, words: &[&str], into: &Path) -> String {
    let mut command = hsm.site.command();
    let out =
        command.arg("--config").arg(hsm.site.agent_config()).arg("import").args(words).arg(into).output().unwrap();
    assert!(!out.status.success());
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn p1_an_import_that_is_killed_is_run_again_and_completes() {
    const OBJECTS: usize = 620;
    let server = Server::s3();
    let key = |n: usize| format!("d/{:02}/{n}", n % 7);
    std::thread::scope(|scope| {
        for part in 0..8 {
            let (server, key) = (&server, &key);
            scope.spawn(move || {
                (part..OBJECTS).step_by(8).for_each(|n| server.put(&key(n), n.to_string().as_bytes(), &[]))
            });
        }
    });
    let hsm = server.hsm();
    let dir = directory(&hsm, "in");
    let there = || (0..OBJECTS).filter(|n| fs::symlink_metadata(dir.join(&key(*n)[2..])).is_ok()).count();
    let mut kills = 0;
    for wait_for in [1, 200, 501] {
        let mut command = hsm.site.command();
        command.arg("--config").arg(hsm.site.agent_config()).args([
            "import",
            "--quiet",
            "--threads",
            "1",
            "s3://archive/d",
        ]);
        let mut child = command.arg(&dir).spawn().unwrap();
        wait_until(LONG, "some are there", || there() >= wait_for || child.try_wait().unwrap().is_some());
        kills += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        let made = (0..OBJECTS).map(|n| dir.join(&key(n)[2..])).filter(|path| fs::symlink_metadata(path).is_ok());
        for path in made {
            assert!(is_released(&path), "{} is released, or not there", path.display());
        }
    }
    assert!(kills > 0, "nothing was killed");
    let (totals, _) = import(&hsm, &["s3://archive/d"], &dir, 0);
    assert_eq!(totals["files"].as_u64().unwrap() + totals["already"].as_u64().unwrap(), OBJECTS as u64);
    for n in (0..OBJECTS).step_by(31) {
        assert_eq!(fs::read_to_string(dir.join(&key(n)[2..])).unwrap(), n.to_string());
    }
    assert_eq!(fs::metadata(dir.join("03")).unwrap().permissions().mode() & 0o7777, 0o755);
}

#[test]
fn p7_imported_files_are_cloned_copied_and_brought_back() {
    let server = Server::s3();
    let hsm = Hsm::start_with(FsKind::Xfs, 300, |site| {
        site.add_agent_setting("remove_grace_s = 1000");
        archive_in_bucket(site, &server.archive().1);
    });
    let content = noise(1, 300_000);
    ["d/cloned", "d/copied", "d/deleted"].iter().for_each(|key| server.put(key, &content, &[]));
    let dir = directory(&hsm, "in");
    counted(&import(&hsm, &["s3://archive/d"], &dir, 0).0, &[("files", 3)]);
    let [cloned, copied, deleted] = ["cloned", "copied", "deleted"].map(|name| dir.join(name));

    let clone = hsm.path("clone");
    hsm.ok(&["clone"], &[&cloned, &clone]);
    assert_eq!(uuid_of(&clone), uuid_of(&cloned));
    fs::remove_file(&cloned).unwrap();
    assert!(fs::read(&clone).unwrap() == content);

    assert!(fs::read(&copied).unwrap() == content && fs::read(&deleted).unwrap() == content);
    wait_until(LONG, "they are ordinary files", || !is_released(&copied) && !is_released(&deleted));
    hsm.ok(&["archive", "--wait", "--copies", "1,2"], &[&copied]);
    assert_eq!(hsm.objects(), 1, "a copy in the other archive");
    hsm.release(&[&copied]);
    let Server::S3(rgw) = &server else { unreachable!() };
    rgw.request("DELETE", "/archive/d/copied", None, &[]).ok();
    assert!(fs::read(&copied).unwrap() == content, "the other archive has it");

    fs::remove_file(&deleted).unwrap();
    // Its object is still there: that is what brings it back.
    counted(&import(&hsm, &["s3://archive/d"], &dir, 0).0, &[("files", 2), ("already", 0)]);
    assert!(is_released(&deleted) && uuid_of(&deleted) == "s3://archive/d/deleted");
    assert!(fs::read(&deleted).unwrap() == content);
    hsm.ok(&["versions"], &[&deleted]);
    let config = hsm.site.agent_config();
    for id in ["1", "2"] {
        let fsck = ["--config", config.to_str().unwrap(), "fsck", "--repair", "--min-age", "0", "--id", id];
        hsm.ok(&fsck, &[]);
        hsm.ok(&["--config", config.to_str().unwrap(), "scrub", "--id", id], &[]);
    }
    for key in ["d/cloned", "d/deleted"] {
        assert!(server.get(key) == content, "{key}");
    }
}

#[test]
fn p1_fsck_removes_nothing_of_others_from_the_archive_s_own_directories() {
    let server = Server::s3();
    let hsm = server.hsm();
    let own = hsm.file("own", b"archived by us");
    hsm.ok(&["archive", "--wait"], &[&own]);
    let others = ["hsm/objects/somebodys-data", "hsm/small/other.zst", "hsm/objects/x.gz"];
    others.iter().for_each(|key| server.put(key, b"content", &[]));
    let config = hsm.site.agent_config();
    let repair = ["--config", config.to_str().unwrap(), "fsck", "--repair", "--force", "--min-age", "0"];
    let out = hsm.run(&repair, &[]);
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    for key in others {
        assert!(server.get(key) == b"content", "{key}: {told}");
    }
    assert!(told.contains("somebodys-data") && told.contains("neither Sifaka's mark nor a manifest"), "{told}");
}
