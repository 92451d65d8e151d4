//! `sifaka migrate` between directories and buckets of real servers.

use crate::agent_double::{sifaka, stderr};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use testkit::Scratch;
use testkit::services::plain::encoded;
use testkit::services::{Azurite, FakeGcs, Rgw, S3sFs};

/// A place for a source, a target, and a configuration that knows how to get into the bucket: by an archive beside what is migrated.
struct Bed {
    scratch: Scratch,
    url: String,
    /// The server has objects whose keys end in a slash. Those that keep objects as files in directories have not.
    slashes: bool,
}

impl Bed {
    fn new(url: &str, keys: &str) -> Self {
        let scratch = Scratch::new("migrate-buckets");
        let file = scratch.join("lhsm-plugin-object");
        fs::write(&file, format!("archive \"a\" {{ id = 1\nurl = \"{url}/archive\"\n{keys}\n}}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::create_dir(scratch.join("src")).unwrap();
        Self { scratch, url: format!("{url}/a prefix"), slashes: true }
    }

    fn of_s3(endpoint: &str, region: &str) -> Self {
        let keys = format!(
            "endpoint = \"{endpoint}\" region = \"{region}\"\ncredentials {{ access_key_id = \"{}\" secret_access_key = \"{}\" }}\nlimits {{ part_size = \"5MiB\" }}",
            Rgw::ACCESS_KEY,
            Rgw::SECRET_KEY
        );
        Self::new("s3://bucket", &keys)
    }

    fn source(&self) -> PathBuf {
        self.scratch.join("src")
    }

    fn command(&self, args: &[&str], source: impl AsRef<Path>, target: impl AsRef<Path>) -> Command {
        let mut command = sifaka("sifaka");
        command.arg("--config").arg(self.scratch.join("agent")).arg("migrate");
        command.arg("--state").arg(self.scratch.join("state")).args(args);
        command.arg(source.as_ref()).arg(target.as_ref()).stdin(Stdio::null());
        command
    }

    fn up(&self, args: &[&str]) -> (Option<i32>, Value, String) {
        ended(&self.command(&[args, &["--json"]].concat(), self.source(), &self.url).output().unwrap())
    }
}

/// The exit code, the totals, and what was complained about.
fn ended(output: &Output) -> (Option<i32>, Value, String) {
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let totals = lines.lines().last().map_or(Value::Null, |line| serde_json::from_str(line).unwrap());
    (output.status.code(), totals, format!("{lines}{}", stderr(output)))
}

/// Files of several kinds and sizes, one of which takes several parts.
fn build(source: &Path) {
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

fn rgw() -> (Rgw, Bed) {
    let server = Rgw::start();
    server.create_bucket("bucket");
    let bed = Bed::of_s3(&server.endpoint(), server.region());
    (server, bed)
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

#[test]
fn p1_a_tree_goes_into_a_bucket_of_another_make_of_s3() {
    let server = S3sFs::start();
    server.create_bucket("bucket");
    server.request("PUT", "/bucket/other/file", Some(b"not ours"), &[]).ok();
    let bed = Bed { slashes: false, ..Bed::of_s3(&server.endpoint(), server.region()) };
    passes(&bed, &|| server.keys("bucket"));
    assert_eq!(server.unfinished(), Vec::<String>::new());
}

#[test]
fn p1_a_tree_goes_into_a_container_of_azure() {
    let server = Azurite::start();
    server.create_container("bucket");
    let headers = ["x-ms-blob-type: BlockBlob"];
    server.request("PUT", "/bucket/other/file", Some(b"not ours"), &headers).ok();
    let keys = format!(
        "endpoint = \"{}\" account = \"{}\"\ncredentials {{ account_key = \"{}\" }}\nlimits {{ part_size = \"5MiB\" }}",
        server.endpoint(),
        Azurite::ACCOUNT,
        Azurite::KEY
    );
    passes(&Bed::new("az://bucket", &keys), &|| server.blobs("bucket", false));
}

#[test]
fn p1_a_tree_goes_into_a_bucket_of_google() {
    let server = FakeGcs::start();
    server.create_bucket("bucket");
    let path = "/upload/storage/v1/b/bucket/o?uploadType=media&name=other/file";
    server.request("POST", path, Some(b"not ours"), &[]).ok();
    let keys = format!(
        "endpoint = \"{}\"\ncredentials {{ anonymous = true }}\nlimits {{ part_size = \"5MiB\" }}",
        server.endpoint()
    );
    let bed = Bed { slashes: false, ..Bed::new("gs://bucket", &keys) };
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
    rustix::fs::mknodat(rustix::fs::CWD, bed.source().join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    fs::write(bed.source().join("fine"), "x").unwrap();
    let (code, totals, said) = bed.up(&[]);
    assert_eq!((code, totals["failed"].as_u64(), totals["files"].as_u64()), (Some(1), Some(4), Some(1)), "{said}");
    assert!(
        said.contains("UTF-8") && said.contains("control") && said.contains("blank") && said.contains("pipes"),
        "{said}"
    );
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
