//! `sifaka migrate` between directories and buckets of real servers.

use crate::agent_double::{sifaka, stderr};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use testkit::fault_proxy::{Fault, FaultProxy, Reply, When};
use testkit::services::plain::encoded;
use testkit::services::{Azurite, FakeGcs, Rgw, S3sFs};
use testkit::tree::{TreeSpec, assert_same, snapshot};
use testkit::{FsKind, LoopFs, Scratch, faults};

/// A place for a source, a target, and a configuration that knows how to get into the bucket: by an archive beside what is migrated.
pub(crate) struct Bed {
    pub(crate) scratch: Scratch,
    pub(crate) url: String,
    /// The server has objects whose keys end in a slash. Those that keep objects as files in directories have not.
    pub(crate) slashes: bool,
}

impl Bed {
    pub(crate) fn new(url: &str, keys: &str) -> Self {
        let scratch = Scratch::new("migrate-buckets");
        let file = scratch.join("lhsm-plugin-object");
        fs::write(&file, format!("archive \"a\" {{ id = 1\nurl = \"{url}/archive\"\n{keys}\n}}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::create_dir(scratch.join("src")).unwrap();
        Self { scratch, url: format!("{url}/a prefix"), slashes: true }
    }

    pub(crate) fn of_s3(endpoint: &str, region: &str) -> Self {
        let keys = format!(
            "endpoint = \"{endpoint}\" region = \"{region}\"\ncredentials {{ access_key_id = \"{}\" secret_access_key = \"{}\" }}\nlimits {{ part_size = \"5MiB\" }}",
            Rgw::ACCESS_KEY,
            Rgw::SECRET_KEY
        );
        Self::new("s3://bucket", &keys)
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.scratch.join("src")
    }

    pub(crate) fn command(&self, args: &[&str], source: impl AsRef<Path>, target: impl AsRef<Path>) -> Command {
        let mut command = sifaka("sifaka");
        command.arg("--config").arg(self.scratch.join("agent")).arg("migrate");
        command.arg("--state").arg(self.scratch.join("state")).args(args);
        command.arg(source.as_ref()).arg(target.as_ref()).stdin(Stdio::null());
        command
    }

    pub(crate) fn down(&self, args: &[&str]) -> (Option<i32>, Value, String) {
        ended(&self.command(&[args, &["--json"]].concat(), &self.url, self.scratch.join("back")).output().unwrap())
    }

    pub(crate) fn up(&self, args: &[&str]) -> (Option<i32>, Value, String) {
        ended(&self.command(&[args, &["--json"]].concat(), self.source(), &self.url).output().unwrap())
    }
}

/// The exit code, the totals, and what was complained about.
pub(crate) fn ended(output: &Output) -> (Option<i32>, Value, String) {
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let totals = lines.lines().last().map_or(Value::Null, |line| serde_json::from_str(line).unwrap());
    (output.status.code(), totals, format!("{lines}{}", stderr(output)))
}

/// Files of several kinds and sizes, one of which takes several parts.
pub(crate) fn build(source: &Path) {
    fs::create_dir_all(source.join("d/e")).unwrap();
    fs::create_dir(source.join("empty")).unwrap();
    fs::write(source.join("d/small"), "small").unwrap();
    fs::write(source.join("d/e/none"), "").unwrap();
    fs::write(source.join("naïve name ~+%&#?"), "odd").unwrap();
    let large: Vec<u8> = (0..12_000_000u32).map(|at| (at / 7) as u8).collect();
    fs::write(source.join("large"), large).unwrap();
    symlink("d/small", source.join("link")).unwrap();
    fs::set_permissions(source.join("d/small"), fs::Permissions::from_mode(0o4750)).unwrap();
    sys::xattr::set(fs::File::open(source.join("d/small")).unwrap(), "user.note", b"kept").unwrap();
    let moment = std::time::UNIX_EPOCH + Duration::new(1_600_000_000, 123_456_789);
    fs::File::options().write(true).open(source.join("d/small")).unwrap().set_modified(moment).unwrap();
}

const KEYS: [&str; 9] = [
    "a prefix/d/",
    "a prefix/d/e/",
    "a prefix/d/e/none",
    "a prefix/d/small",
    "a prefix/empty/",
    "a prefix/large",
    "a prefix/link",
    "a prefix/naïve name ~+%&#?",
    "other/file",
];

/// Up, again with nothing to do, with changes, and with removal. `keys` lists the bucket; one object lies outside of the prefix.
fn passes(bed: &Bed, keys: &dyn Fn() -> Vec<String>) {
    let source = bed.source();
    build(&source);
    let kept = |key: &str| bed.slashes || !key.ends_with('/');
    let sorted = || {
        let mut keys = keys();
        keys.retain(|key| kept(key));
        keys.sort();
        keys
    };
    let (code, totals, said) = bed.up(&["--dry-run"]);
    assert_eq!((code, totals["files"].as_u64()), (Some(0), Some(4)), "{said}");
    assert_eq!(sorted(), ["other/file"]);
    let (code, totals, said) = bed.up(&["--verify"]);
    assert_eq!((code, totals["files"].as_u64(), totals["verified"].as_u64()), (Some(0), Some(4), Some(4)), "{said}");
    assert_eq!((totals["directories"].as_u64(), totals["symlinks"].as_u64()), (Some(3), Some(1)), "{said}");
    let expected =
        |wanted: &dyn Fn(&str) -> bool| KEYS.into_iter().filter(|key| kept(key) && wanted(key)).collect::<Vec<_>>();
    assert_eq!(sorted(), expected(&|_| true));

    let (code, totals, said) = bed.up(&["--update"]);
    assert_eq!((code, totals["same"].as_u64(), totals["files"].as_u64()), (Some(0), Some(5), Some(0)), "{said}");
    assert!(!bed.slashes || totals["updated"].as_u64() == Some(0), "{said}");
    fs::write(source.join("d/small"), "changed").unwrap();
    let (code, totals, said) = bed.up(&[]);
    assert_eq!((code, totals["refused"].as_u64(), totals["files"].as_u64()), (Some(1), Some(1), Some(0)), "{said}");
    // Only its mode.
    fs::set_permissions(source.join("d/e/none"), fs::Permissions::from_mode(0o600)).unwrap();
    let (code, totals, said) = bed.up(&["--update"]);
    assert_eq!((code, totals["files"].as_u64(), totals["same"].as_u64()), (Some(0), Some(2), Some(3)), "{said}");

    fs::remove_dir_all(source.join("d/e")).unwrap();
    fs::remove_file(source.join("large")).unwrap();
    fs::remove_file(source.join("link")).unwrap();
    let (code, totals, said) = bed.up(&["--update", "--delete", "--exclude", "link"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(!bed.slashes || totals["deleted"].as_u64() == Some(3), "{said}");
    assert_eq!(sorted(), expected(&|key| !key.contains("/e/") && !key.contains("large")));
}

pub(crate) fn rgw() -> (Rgw, Bed) {
    let server = Rgw::start();
    server.create_bucket("bucket");
    let bed = Bed::of_s3(&server.endpoint(), server.region());
    (server, bed)
}

pub(crate) fn azurite() -> (Azurite, Bed) {
    let server = Azurite::start();
    server.create_container("bucket");
    let keys = format!(
        "endpoint = \"{}\" account = \"{}\"\ncredentials {{ account_key = \"{}\" }}\nlimits {{ part_size = \"5MiB\" }}",
        server.endpoint(),
        Azurite::ACCOUNT,
        Azurite::KEY
    );
    (server, Bed::new("az://bucket", &keys))
}

pub(crate) fn fake_gcs() -> (FakeGcs, Bed) {
    let server = FakeGcs::start();
    server.create_bucket("bucket");
    let keys = format!(
        "endpoint = \"{}\"\ncredentials {{ anonymous = true }}\nlimits {{ part_size = \"5MiB\" }}",
        server.endpoint()
    );
    (server, Bed { slashes: false, ..Bed::new("gs://bucket", &keys) })
}

/// What another program sees: the content, the time as rclone reads it, and no trace of what was under way.
#[test]
fn p1_a_tree_goes_into_a_bucket_of_s3_and_only_what_changed_goes_again() {
    let (server, bed) = rgw();
    server.request("PUT", "/bucket/other/file", Some(b"not ours"), &[]).ok();
    build(&bed.source());
    let (code, _, said) = bed.up(&[]);
    assert_eq!(code, Some(0), "{said}");
    let answer = server.request("GET", &format!("/bucket/{}", "a%20prefix/d/small"), None, &[]).ok();
    assert_eq!(answer.text(), "small");
    let texts = ["mtime", "mode", "uid", "gid", "xattrs"]
        .map(|name| answer.header(&format!("x-amz-meta-{name}")).unwrap_or_default().to_owned());
    assert_eq!(texts, ["1600000000.123456789", "104750", "0", "0", "user.note=a2VwdA=="]);
    let link = server.request("GET", "/bucket/a%20prefix/link", None, &[]).ok();
    assert_eq!((link.text().as_str(), link.header("x-amz-meta-mode")), ("d/small", Some("120777")));
    let odd = format!("/bucket/a%20prefix/{}", encoded("naïve name ~+%&#?"));
    assert_eq!(server.request("GET", &odd, None, &[]).ok().text(), "odd");
    for key in server.keys("bucket").iter().filter(|key| key.starts_with("a prefix/")) {
        let path = key.split('/').map(encoded).collect::<Vec<_>>().join("/");
        server.request("DELETE", &format!("/bucket/{path}"), None, &[]).ok();
    }
    fs::remove_dir_all(bed.source()).unwrap();
    passes(&bed, &|| server.keys("bucket"));
    assert_eq!(server.uploads("bucket"), Vec::<String>::new());
}

/// It fails when it is asked for a key that ends in a slash, so there is one pass only.
#[test]
fn p1_a_tree_goes_into_a_bucket_of_another_make_of_s3() {
    let server = S3sFs::start();
    server.create_bucket("bucket");
    let bed = Bed::of_s3(&server.endpoint(), server.region());
    build(&bed.source());
    let (code, totals, said) = bed.up(&["--verify"]);
    assert_eq!((code, totals["files"].as_u64(), totals["verified"].as_u64()), (Some(0), Some(4), Some(4)), "{said}");
    assert_eq!(server.unfinished(), Vec::<String>::new());
}

#[test]
fn p1_a_tree_goes_into_a_container_of_azure() {
    let (server, bed) = azurite();
    let headers = ["x-ms-blob-type: BlockBlob"];
    server.request("PUT", "/bucket/other/file", Some(b"not ours"), &headers).ok();
    passes(&bed, &|| server.blobs("bucket", false));
}

#[test]
fn p1_a_tree_goes_into_a_bucket_of_google() {
    let (server, bed) = fake_gcs();
    let path = "/upload/storage/v1/b/bucket/o?uploadType=media&name=other/file";
    server.request("POST", path, Some(b"not ours"), &[]).ok();
    passes(&bed, &|| server.objects("bucket"));
}

/// A file in parts, so slowly that its upload is surely under way; gives back the process.
fn slowly(bed: &Bed, server: &Rgw) -> std::process::Child {
    fs::write(bed.source().join("small"), "small").unwrap();
    fs::write(bed.source().join("large"), vec![7; 40 << 20]).unwrap();
    let mut child = bed.command(&["-q", "--bandwidth-limit", "6MiB/s"], bed.source(), &bed.url).spawn().unwrap();
    testkit::wait_until(Duration::from_secs(20), "an upload in parts is under way", || {
        assert!(child.try_wait().unwrap().is_none(), "it ended early");
        server.uploads("bucket") == ["a prefix/large"]
    });
    child
}

#[test]
fn p7_what_a_killed_run_had_begun_to_put_is_aborted_by_the_next_one() {
    let (server, bed) = rgw();
    let mut child = slowly(&bed, &server);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(server.uploads("bucket"), ["a prefix/large"]);
    let (code, totals, said) = bed.up(&["--verify"]);
    assert_eq!((code, totals["continued"].as_bool()), (Some(0), Some(true)), "{said}");
    assert_eq!(totals["files"].as_u64().unwrap() + totals["same"].as_u64().unwrap(), 2, "{said}");
    assert_eq!(server.uploads("bucket"), Vec::<String>::new());
    assert!(!bed.scratch.join("state").exists());
}

#[test]
fn p7_an_interrupted_run_leaves_no_upload_behind() {
    let (server, bed) = rgw();
    let mut child = slowly(&bed, &server);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(server.uploads("bucket"), Vec::<String>::new());
    assert!(!server.keys("bucket").contains(&"a prefix/large".to_owned()));
}

#[test]
fn what_has_no_key_is_told_and_an_archive_is_kept_clear_of() {
    let (server, bed) = rgw();
    let odd = std::os::unix::ffi::OsStrExt::from_bytes(b"not utf-8 \xff");
    for name in [odd, std::ffi::OsStr::new("a line\nmore"), std::ffi::OsStr::new("blank ")] {
        fs::write(bed.source().join(name), "x").unwrap();
    }
    fs::write(bed.source().join("fine"), "x").unwrap();
    let (code, totals, said) = bed.up(&[]);
    assert_eq!((code, totals["failed"].as_u64(), totals["files"].as_u64()), (Some(1), Some(3), Some(1)), "{said}");
    assert!(said.contains("UTF-8") && said.contains("control") && said.contains("blank"), "{said}");
    assert_eq!(server.keys("bucket"), ["a prefix/fine"]);
    for url in ["s3://bucket", "s3://bucket/archive", "s3://bucket/archive/x"] {
        let output = bed.command(&["--delete", "--update"], bed.source(), url).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{url}");
        assert!(stderr(&output).contains("archive 1 is there"), "{}", stderr(&output));
    }
    let output = bed
        .command(&[], bed.source(), "s3://no-such-bucket/x")
        .env("AWS_ENDPOINT_URL", server.endpoint())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
}

/// They are no failure, and nothing of them is in the bucket; whoever wants to know finds each in the report.
#[test]
fn pipes_sockets_and_devices_are_skipped_and_told() {
    use rustix::fs::{CWD, FileType, makedev, mknodat};
    let (server, bed) = rgw();
    let kinds = [("pipe", FileType::Fifo), ("socket", FileType::Socket), ("device", FileType::CharacterDevice)];
    for (name, kind) in kinds {
        mknodat(CWD, bed.source().join(name), kind, 0o600.into(), makedev(1, 3)).unwrap();
    }
    fs::write(bed.source().join("fine"), "x").unwrap();
    let report = bed.scratch.join("report");
    for args in [&["--dry-run"][..], &["--verify", "--delete", "--update"]] {
        let (code, totals, said) = bed.up(&[args, &["--report", report.to_str().unwrap()]].concat());
        assert_eq!(
            (code, totals["skipped"].as_u64(), totals["failed"].as_u64()),
            (Some(0), Some(3), Some(0)),
            "{said}"
        );
        let told: Vec<Value> = fs::read_to_string(&report)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .filter(|line: &Value| line["did"] == "skipped")
            .collect();
        assert_eq!(told.len(), 3);
        assert!(told.iter().all(|line| line["why"].as_str().unwrap().starts_with("skipped: special file")), "{told:?}");
    }
    assert_eq!(server.keys("bucket"), ["a prefix/fine"]);
}

/// Up and down again: the same files, links and directories, but for what a bucket may not say of files.
fn there_and_back(bed: &Bed) {
    let (source, back) = (bed.source(), bed.scratch.join("back"));
    build(&source);
    TreeSpec { max_file_bytes: 64 << 10, ..TreeSpec::new(7, 60) }.build(&source.join("d"));
    // Not those whose names no bucket keeps.
    let found = Command::new("find")
        .arg(&source)
        .args(["-depth", "-name", "*[[:cntrl:]]*", "-o", "-name", "* "])
        .output()
        .unwrap();
    for name in String::from_utf8_lossy(&found.stdout).lines() {
        let _ = fs::remove_file(name);
    }
    fs::set_permissions(source.join("empty"), fs::Permissions::from_mode(0o710)).unwrap();
    fs::write(source.join("sparse"), "").unwrap();
    fs::File::options().write(true).open(source.join("sparse")).unwrap().set_len(11 << 20).unwrap();
    rustix::fs::chown(source.join("d/e/none"), Some(rustix::fs::Uid::from_raw(4711)), None).unwrap();
    let moment = std::time::UNIX_EPOCH + Duration::new(1_500_000_000, 5);
    for directory in ["empty", "d/e"] {
        fs::File::open(source.join(directory)).unwrap().set_modified(moment).unwrap();
    }
    let (_, totals, said) = bed.up(&[]);
    assert_eq!(totals["changed"].as_u64(), Some(0), "{said}");
    let (code, totals, said) = bed.down(&["--owners", "--verify"]);
    assert_eq!(code, Some(0), "{said}");
    let files = totals["files"].as_u64().unwrap();
    assert!(files > 20 && totals["verified"].as_u64() == Some(files), "{said}");
    let (mut here, there) = (snapshot(&source), snapshot(&back));
    here.retain(|path, _| there.contains_key(path));
    assert_eq!(here.len(), there.len());
    assert_eq!(here.len() as u64, files);
    for state in here.values_mut() {
        state.mode &= 0o777;
    }
    assert_same(&here, &there);
    assert_eq!(fs::read_link(back.join("link")).unwrap(), Path::new("d/small"));
    assert!(fs::metadata(back.join("sparse")).unwrap().blocks() < 8, "zeros are holes");
    if bed.slashes {
        let of = |path: &str| fs::metadata(back.join(path)).unwrap();
        assert_eq!((of("empty").mode() & 0o7777, of("empty").modified().unwrap()), (0o710, moment));
        assert_eq!(of("d/e").modified().unwrap(), moment);
    }

    let (code, totals, said) = bed.down(&["--update", "--owners"]);
    assert_eq!((code, totals["files"].as_u64(), totals["updated"].as_u64()), (Some(0), Some(0), Some(0)), "{said}");
    assert_eq!(totals["same"].as_u64(), Some(files + 1), "{said}");
    fs::write(back.join("d/small"), "mine").unwrap();
    fs::remove_file(back.join("large")).unwrap();
    let (code, totals, said) = bed.down(&[]);
    assert_eq!((code, totals["refused"].as_u64(), totals["files"].as_u64()), (Some(1), Some(1), Some(1)), "{said}");
    assert_eq!(fs::read_to_string(back.join("d/small")).unwrap(), "mine");
    let (code, totals, said) = bed.down(&["--update", "--exclude", "d/e/"]);
    assert_eq!((code, totals["files"].as_u64()), (Some(0), Some(1)), "{said}");
    assert_eq!(fs::read_to_string(back.join("d/small")).unwrap(), "small");
    assert_eq!(fs::read(back.join("large")).unwrap(), fs::read(source.join("large")).unwrap());
}

#[test]
fn p1_a_tree_comes_back_from_a_bucket_of_s3() {
    let (_server, bed) = rgw();
    there_and_back(&bed);
}

#[test]
fn p1_a_tree_comes_back_from_a_container_of_azure() {
    let (_server, bed) = azurite();
    there_and_back(&bed);
}

#[test]
fn p1_a_tree_comes_back_from_a_bucket_of_google() {
    let (_server, bed) = fake_gcs();
    there_and_back(&bed);
}

/// Killed again and again while files come: what is there has its name only when it is whole, and nothing is left over at the end.
#[test]
fn p7_killed_on_the_way_down_it_goes_on_and_leaves_nothing_behind() {
    let (_server, bed) = rgw();
    for number in 0..12u8 {
        fs::write(bed.source().join(format!("{number}")), vec![number + 1; 3 << 20]).unwrap();
    }
    let (code, _, said) = bed.up(&[]);
    assert_eq!(code, Some(0), "{said}");
    let back = bed.scratch.join("back");
    for kill in 1..4 {
        let args = ["-q", "--jobs", "2", "--bandwidth-limit", "12MiB/s"];
        let mut child = bed.command(&args, &bed.url, &back).spawn().unwrap();
        let count = || {
            fs::read_dir(&back).map_or(0, |names| {
                names.flatten().filter(|name| !name.file_name().to_string_lossy().starts_with('.')).count()
            })
        };
        testkit::wait_until(Duration::from_secs(20), "another file is there", || count() >= kill * 2);
        child.kill().unwrap();
        child.wait().unwrap();
        for entry in
            fs::read_dir(&back).unwrap().flatten().filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
        {
            assert_eq!(entry.metadata().unwrap().len(), 3 << 20, "{entry:?} is not whole");
        }
    }
    let (code, totals, said) = bed.down(&[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(totals["same"].as_u64() >= Some(6), "{said}");
    assert_same(&snapshot(&bed.source()), &snapshot(&back));
}

fn shown(directory: &Path) -> Vec<fs::DirEntry> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')).collect()
}

/// Many wait for one sync: until then none of them has its name, and after that all of it is there.
#[test]
fn p7_killed_while_small_files_wait_for_their_names_it_leaves_none_that_is_not_whole() {
    let (_server, bed) = rgw();
    for number in 0..400u32 {
        fs::write(bed.source().join(format!("{number}")), number.to_le_bytes().repeat(5000)).unwrap();
    }
    let (code, _, said) = bed.up(&[]);
    assert_eq!(code, Some(0), "{said}");
    let back = bed.scratch.join("back");
    for _ in 0..3 {
        let before = shown(&back).len();
        let mut child = bed.command(&["-q", "--bandwidth-limit", "1MiB/s"], &bed.url, &back).spawn().unwrap();
        testkit::wait_until(Duration::from_secs(20), "more files are there", || shown(&back).len() > before);
        child.kill().unwrap();
        child.wait().unwrap();
        for entry in shown(&back) {
            let there = fs::read(entry.path()).unwrap();
            assert!(there == fs::read(bed.source().join(entry.file_name())).unwrap(), "{entry:?} is not whole");
        }
    }
    let (code, totals, said) = bed.down(&[]);
    assert_eq!((code, totals["files"].as_u64().unwrap() + totals["same"].as_u64().unwrap()), (Some(0), 400), "{said}");
    assert_same(&snapshot(&bed.source()), &snapshot(&back));
}

/// A device that takes what is written and loses it says so when it is asked to have it: nothing is called whole then.
#[test]
fn p7_what_is_lost_on_its_way_to_the_device_never_gets_its_name() {
    let (_server, bed) = rgw();
    for number in 0..20u8 {
        fs::write(bed.source().join(format!("{number}")), vec![number + 1; 100_000]).unwrap();
    }
    let (code, _, said) = bed.up(&[]);
    assert_eq!(code, Some(0), "{said}");
    let backing = LoopFs::new(FsKind::Ext4, 300);
    let disk = LoopFs::thin_on(&backing);
    let back = disk.path().join("back");
    // The directory has its place on the device: only contents are lost.
    fs::create_dir(&back).unwrap();
    disk.remount();
    let full = faults::fill(&backing, 0);
    let output = bed.command(&[], &bed.url, &back).output().unwrap();
    assert!(output.status.code() == Some(1) && stderr(&output).contains("make durable"), "{}", stderr(&output));
    assert_eq!(shown(&back).len(), 0);
    drop(full);
    disk.remount();
    let output = bed.command(&[], &bed.url, &back).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    disk.remount();
    assert_same(&snapshot(&bed.source()), &snapshot(&back));
}

/// Whoever may write to a bucket gets nothing written outside of the destination, and nobody rights.
#[test]
fn p3_what_stands_in_a_bucket_leads_nobody_out_of_the_destination() {
    let service = FaultProxy::start("127.0.0.1:1");
    // As long as a key may be, and with a part that is longer than a name may be.
    let long = format!("p/{}", ["n".repeat(254), "n".repeat(255), "n".repeat(255), "n".repeat(255)].join("/"));
    let too_long = format!("p/{}", "x".repeat(256));
    let keys = [
        "p/../up",
        "p//etc/x",
        "/p/abs",
        "p/a/./b",
        "p/a/../../b",
        "p/",
        "p/fine",
        "p/fine/below",
        "p/dir/",
        "p/dir",
        "p/link/in",
        "p/a\u{9}b",
        "p/.sifaka-bucket-0123456789abcdef",
        "q/other",
        "p/ends/..",
        "p/plain",
        "p/Case",
        "p/case",
        &long,
        &too_long,
    ];
    let content: String =
        keys.iter().map(|key| format!("<Contents><Key>{key}</Key><Size>4</Size><ETag>\"x\"</ETag><LastModified>2020-01-02T03:04:05.000Z</LastModified></Contents>")).collect();
    let listed = format!("<ListBucketResult><IsTruncated>false</IsTruncated>{content}</ListBucketResult>");
    service.add(When::method("GET").parameter("list-type"), Fault::Answer(Reply::status(200).body(listed)));
    let reply = || {
        Reply::status(200).header("etag", "\"x\"").header("x-amz-meta-mode", "106777").header("x-amz-meta-uid", "4711")
    };
    let reply = || reply().header("x-amz-meta-xattrs", "security.capability=AQAAAgAAAAAAAAAAAAAAAAAAAAA=,user.a=YQ==");
    let missing = service.add(When::method("HEAD").path("gone"), Fault::Answer(Reply::status(404)));
    service.add(When::method("HEAD"), Fault::Answer(reply().body("evil")));
    service.add(When::method("GET"), Fault::Answer(reply().body("evil")));
    let bed = Bed { url: "s3://bucket/p".to_owned(), ..Bed::of_s3(&service.url(), "default") };
    let (back, outside) = (bed.scratch.join("back"), bed.scratch.join("outside"));
    fs::create_dir(&back).unwrap();
    fs::create_dir(&outside).unwrap();
    symlink(&outside, back.join("link")).unwrap();
    let (code, totals, said) = bed.down(&["--jobs", "1", "--overwrite"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(totals["failed"].as_u64() == Some(11), "{said}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    let mut names: Vec<_> =
        fs::read_dir(&back).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["Case", "a\tb", "case", "dir", "fine", "link", &"n".repeat(254), "plain"], "{said}");
    assert_eq!((long.len(), fs::read_to_string(back.join(&long[2..])).unwrap().as_str()), (1024, "evil"));
    assert!(!bed.scratch.join("up").exists() && !bed.scratch.join("b").exists());
    let plain = fs::metadata(back.join("plain")).unwrap();
    let content = fs::read_to_string(back.join("plain")).unwrap();
    assert_eq!((plain.mode() & 0o7777, plain.uid(), content.as_str()), (0o777, 0, "evil"));
    let file = fs::File::open(back.join("plain")).unwrap();
    assert_eq!(sys::xattr::get(&file, "security.capability").unwrap(), None);
    assert_eq!(sys::xattr::get(&file, "user.a").unwrap().as_deref(), Some(&b"a"[..]));
    // What is removed is no way out either.
    fs::write(outside.join("kept"), "kept").unwrap();
    fs::create_dir(back.join("fine/more")).unwrap();
    symlink(&outside, back.join("fine/more/link")).unwrap();
    symlink(&outside, back.join("gone")).unwrap();
    let (code, totals, said) = bed.down(&["--delete"]);
    assert!(code == Some(1) && totals["deleted"].as_u64() == Some(1), "{said}");
    assert!(service.hits(missing) == 1 && !back.join("gone").is_symlink() && outside.join("kept").exists(), "{said}");
}

/// From one service into another, and within one bucket.
#[test]
fn p1_a_bucket_goes_into_another_one_with_all_that_belongs_to_its_objects() {
    let (server, bed) = rgw();
    let azure = Azurite::start();
    azure.create_container("bucket");
    let file = bed.scratch.join("lhsm-plugin-object");
    let more = format!(
        "archive \"b\" {{ id = 2 url = \"az://bucket/archive\" endpoint = \"{}\" account = \"{}\"\ncredentials {{ account_key = \"{}\" }} limits {{ part_size = \"5MiB\" }} }}\n",
        azure.endpoint(),
        Azurite::ACCOUNT,
        Azurite::KEY
    );
    fs::write(&file, fs::read_to_string(&file).unwrap() + &more).unwrap();
    build(&bed.source());
    let (code, _, said) = bed.up(&[]);
    assert_eq!(code, Some(0), "{said}");
    server.request("PUT", "/bucket/a%20prefix/foreign", Some(b"by another program"), &[]).ok();
    for target in ["s3://bucket/other", "az://bucket/far/away"] {
        let run =
            |args: &[&str]| ended(&bed.command(&[args, &["--json"]].concat(), &bed.url, target).output().unwrap());
        let (code, totals, said) = run(&["--verify"]);
        assert_eq!(
            (code, totals["files"].as_u64(), totals["directories"].as_u64()),
            (Some(0), Some(6), Some(3)),
            "{said}"
        );
        assert_eq!(totals["verified"].as_u64(), Some(9), "{said}");
        let (code, totals, said) = run(&[]);
        assert_eq!((code, totals["same"].as_u64()), (Some(0), Some(9)), "{said}");
        server.request("PUT", "/bucket/a%20prefix/foreign", Some(format!("now for {target}").as_bytes()), &[]).ok();
        let (code, totals, said) = run(&[]);
        assert_eq!((code, totals["refused"].as_u64()), (Some(1), Some(1)), "{said}");
        let (code, totals, said) = run(&["--update"]);
        assert_eq!((code, totals["files"].as_u64()), (Some(0), Some(1)), "{said}");
    }
    server.request("DELETE", "/bucket/a%20prefix/foreign", None, &[]).ok();
    let output = bed.command(&["--delete", "--json"], &bed.url, "s3://bucket/other").output().unwrap();
    let (code, totals, said) = ended(&output);
    assert_eq!((code, totals["deleted"].as_u64()), (Some(0), Some(1)), "{said}");
    let keys = server.keys("bucket");
    let below =
        |prefix: &str| keys.iter().filter_map(|key| key.strip_prefix(prefix).map(str::to_owned)).collect::<Vec<_>>();
    assert_eq!(below("a prefix/"), below("other/"));
    assert_eq!(server.uploads("bucket"), Vec::<String>::new());

    let back = bed.scratch.join("back");
    let output = bed.command(&["--owners", "--exclude", "foreign"], "az://bucket/far/away", &back).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let mut here = snapshot(&bed.source());
    here.values_mut().for_each(|state| state.mode &= 0o777);
    assert_same(&here, &snapshot(&back));
    let output = bed.command(&[], &bed.url, "s3://bucket/a prefix/below").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}
