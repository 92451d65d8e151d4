//! The object stores that tests start: that they serve, keep out of one another's way, and leave nothing behind.

#![allow(clippy::unwrap_used, reason = "the lint does not see that functions beside tests belong to them")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use sifaka_testkit::services::plain::encoded;
use sifaka_testkit::services::{Azurite, FakeGcs, Port, Rgw, S3sFs, Server};
use sifaka_testkit::{Daemon, wait_until};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_port_is_nobody_elses_and_free() {
    let ports: Vec<Port> = (0..200).map(|_| Port::claim()).collect();
    let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
    for &number in &numbers {
        TcpListener::bind(("127.0.0.1", number)).unwrap();
    }
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), ports.len());
}

#[test]
fn rgw_serves_s3() {
    let (rgw, other) = (Rgw::start(), Rgw::start());
    rgw.create_bucket("bucket");
    let data: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let name = "a name/with %, + and ü";
    let path = format!("/bucket/{}", name.split('/').map(encoded).collect::<Vec<_>>().join("/"));
    let put = rgw.request("PUT", &path, Some(&data), &["x-amz-meta-mode: 644"]).ok();
    assert!(put.header("etag").is_some());
    let got = rgw.request("GET", &path, None, &[]).ok();
    assert!(got.body == data && got.header("x-amz-meta-mode") == Some("644"));
    let head = rgw.request("HEAD", &path, None, &[]).ok();
    assert_eq!((head.header("content-length"), head.header("etag")), (Some("4000000"), put.header("etag")));
    let part = rgw.request("GET", &path, None, &["Range: bytes=4-7"]);
    assert_eq!((part.status, part.body), (206, vec![1, 0, 0, 0]));
    assert_eq!(rgw.request("PUT", &path, Some(b"no"), &["If-None-Match: *"]).status, 412);

    assert_eq!(rgw.keys("bucket"), [name]);
    assert!(rgw.uploads("bucket").is_empty());
    rgw.request("POST", &format!("{path}?uploads="), Some(b""), &[]).ok();
    assert_eq!(rgw.uploads("bucket"), [name]);
    assert!(rgw.admin(&["bucket", "list"]).contains("\"bucket\""));

    // A server of another test knows nothing of it.
    assert_eq!(other.request("GET", &path, None, &[]).status, 404);
    other.create_bucket("bucket");
    assert!(other.keys("bucket").is_empty());

    // The gateway's death loses nothing that it had acknowledged.
    rgw.server().kill();
    rgw.server().restart();
    assert_eq!(rgw.request("GET", &path, None, &[]).ok().body, data);
    rgw.create_bucket("another");
    rgw.request("DELETE", &path, None, &[]).ok();
    assert!(rgw.keys("bucket").is_empty());
}

#[test]
fn rgw_has_tls_storage_classes_and_encryption() {
    let rgw = Rgw::start();
    let ask = |arguments: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-o", "/dev/null", "--max-time", "30"]).args(arguments).arg(rgw.tls_endpoint());
        curl.status().unwrap().code()
    };
    assert_eq!(ask(&[]), Some(60), "curl's code for a certificate by nobody known");
    assert_eq!(ask(&["--cacert", rgw.authority_file().to_str().unwrap()]), Some(0));

    rgw.add_storage_class("OTHER");
    rgw.create_bucket("bucket");
    let class = |name: &str| {
        let header = format!("x-amz-storage-class: {name}");
        let put = rgw.request("PUT", "/bucket/key", Some(b"data"), &[&header]);
        (put.status, rgw.request("HEAD", "/bucket/key", None, &[]).header("x-amz-storage-class").map(str::to_owned))
    };
    assert_eq!(class("OTHER"), (200, Some("OTHER".to_owned())));
    assert_eq!(class("STANDARD"), (200, Some("STANDARD".to_owned())));

    let mut put = Command::new("python3");
    put.arg("-c").arg(include_str!("signed.py")).arg(format!("{}/bucket/key", rgw.endpoint())).arg("secret");
    put.arg("x-amz-server-side-encryption:aws:kms");
    put.arg(format!("x-amz-server-side-encryption-aws-kms-key-id:{}", Rgw::KMS_KEY));
    assert!(put.envs(rgw.env()).status().unwrap().success());
    let got = rgw.request("GET", "/bucket/key", None, &[]).ok();
    assert_eq!((got.header("x-amz-server-side-encryption"), got.text()), (Some("aws:kms"), "secret".to_owned()));
}

#[test]
fn rgw_lists_more_than_a_page() {
    let rgw = Rgw::start();
    rgw.create_bucket("bucket");
    let names: Vec<String> = (0..203).map(|number| format!("{number:03}&<>")).collect();
    thread::scope(|scope| {
        for names in names.chunks(names.len() / 4 + 1) {
            let put = |name: &String| rgw.request("PUT", &format!("/bucket/{}", encoded(name)), Some(b"x"), &[]).ok();
            scope.spawn(move || names.iter().for_each(|name| drop(put(name))));
        }
    });
    assert!(rgw.keys("bucket") == names);
}

#[test]
fn s3s_fs_serves_s3() {
    let (s3, other) = (S3sFs::start(), S3sFs::start());
    s3.create_bucket("bucket");
    let data: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    s3.request("PUT", "/bucket/dir/key", Some(&data), &["x-amz-meta-mode: 644"]).ok();
    let got = s3.request("GET", "/bucket/dir/key", None, &[]).ok();
    assert!(got.body == data && got.header("x-amz-meta-mode") == Some("644"));
    assert_eq!(s3.request("PUT", "/bucket/dir/key", Some(b"no"), &["If-None-Match: *"]).status, 412);
    assert_eq!(s3.keys("bucket"), ["dir/key"]);
    assert!(s3.unfinished().is_empty());
    let upload = s3.request("POST", "/bucket/large?uploads=", Some(b""), &[]).ok().text();
    let unfinished = s3.unfinished();
    assert!(unfinished.len() == 1 && upload.contains(&unfinished[0]), "{unfinished:?}, {upload}");
    s3.request("DELETE", &format!("/bucket/large?uploadId={}", unfinished[0]), None, &[]).ok();
    assert!(s3.unfinished().is_empty());
    assert_eq!(other.request("GET", "/bucket/dir/key", None, &[]).status, 404);

    s3.server().kill();
    s3.server().restart();
    assert!(s3.request("GET", "/bucket/dir/key", None, &[]).ok().body == data);
    s3.request("DELETE", "/bucket/dir/key", None, &[]).ok();
    assert!(s3.keys("bucket").is_empty());
}

#[test]
fn azurite_serves_blobs() {
    let (azurite, other) = (Azurite::start(), Azurite::start());
    azurite.create_container("container");
    let data: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let kind = "x-ms-blob-type: BlockBlob";
    azurite.request("PUT", "/container/dir/blob", Some(&data), &[kind, "x-ms-meta-mode: 644"]).ok();
    let got = azurite.request("GET", "/container/dir/blob", None, &[]).ok();
    assert!(got.body == data && got.header("x-ms-meta-mode") == Some("644"));
    assert_eq!(azurite.request("PUT", "/container/dir/blob", Some(b"no"), &[kind, "If-None-Match: *"]).status, 409);
    azurite.request("PUT", "/container/staged?comp=block&blockid=MDAwMQ%3D%3D", Some(b"block"), &[]).ok();
    assert_eq!(azurite.blobs("container", false), ["dir/blob"]);
    assert_eq!(azurite.blobs("container", true), ["dir/blob", "staged"]);
    assert_eq!(other.request("GET", "/container/dir/blob", None, &[]).status, 404);

    azurite.server().stop();
    azurite.server().restart();
    assert!(azurite.request("GET", "/container/dir/blob", None, &[]).ok().body == data);
    azurite.request("DELETE", "/container/dir/blob", None, &[]).ok();
    assert!(azurite.blobs("container", false).is_empty());
}

#[test]
fn fake_gcs_serves_objects() {
    let (gcs, other) = (FakeGcs::start(), FakeGcs::start());
    gcs.create_bucket("bucket");
    let data: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let upload = "/upload/storage/v1/b/bucket/o?uploadType=media&name=dir%2Fobject";
    gcs.request("POST", upload, Some(&data), &[]).ok();
    assert_eq!(gcs.objects("bucket"), ["dir/object"]);
    let path = "/storage/v1/b/bucket/o/dir%2Fobject";
    assert!(gcs.request("GET", &format!("{path}?alt=media"), None, &[]).ok().body == data);
    assert_eq!(other.request("GET", path, None, &[]).status, 404);

    gcs.server().kill();
    gcs.server().restart();
    assert!(gcs.request("GET", &format!("{path}?alt=media"), None, &[]).ok().body == data);
    gcs.request("DELETE", path, None, &[]).ok();
    assert!(gcs.objects("bucket").is_empty());
}

#[test]
fn a_frozen_server_does_not_answer_and_a_thawed_one_does() {
    let gcs = FakeGcs::start();
    gcs.server().freeze();
    let ask = |seconds: &str| {
        let args = ["-s", "-o", "/dev/null", "--max-time", seconds];
        Command::new("curl").args(args).arg(gcs.endpoint()).status().unwrap().code()
    };
    assert_eq!(ask("1"), Some(28), "curl's code for no answer in time");
    gcs.server().thaw();
    assert_eq!(ask("30"), Some(0));
    gcs.server().kill();
    assert_eq!(ask("30"), Some(7), "curl's code for no connection");
}

/// The processes that name `dir` in their arguments or environment.
fn processes_of(dir: &str) -> Vec<PathBuf> {
    let found = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()).filter(|process| {
        ["cmdline", "environ"].iter().any(|file| {
            let words = fs::read(process.join(file)).unwrap_or_default();
            words.windows(dir.len()).any(|part| part == dir.as_bytes())
        })
    });
    found.collect()
}

#[test]
fn nothing_is_left_of_dropped_servers_nor_of_those_of_a_killed_test() {
    // This very test again, as a child that starts servers and then drops them or is killed.
    const ROLE: &str = "SIFAKA_TESTKIT_SERVERS";
    if let Some(parent) = std::env::var_os(ROLE) {
        let (rgw, s3s, azurite, gcs) = (Rgw::start(), S3sFs::start(), Azurite::start(), FakeGcs::start());
        let pids = [rgw.server(), s3s.server(), azurite.server(), gcs.server()].map(Server::pid);
        println!("\nservers {pids:?}");
        wait_until(SOON, "a word from the parent", || PathBuf::from(&parent).join("go on").exists());
        drop((rgw, s3s, azurite, gcs));
        println!("\ndropped");
        thread::sleep(Duration::from_secs(600));
    }
    for killed in [false, true] {
        let temp = tempfile::tempdir().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        let this = "nothing_is_left_of_dropped_servers_nor_of_those_of_a_killed_test";
        command.args(["--exact", this, "--nocapture"]).env(ROLE, temp.path()).env("TMPDIR", temp.path());
        let child = Daemon::spawn("child", command);
        child.wait_for_line("servers ", SOON);
        let scratch = |prefix: &str| {
            let entries = fs::read_dir(temp.path()).unwrap().flatten().map(|entry| entry.path());
            let ours = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(prefix);
            entries.filter(ours).map(|path| path.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let dirs = scratch("sifaka-test-");
        assert_eq!(dirs.len(), 4, "{dirs:?}");
        // The gateway, the storage daemon and the monitor.
        let rgw = &scratch("sifaka-test-rgw-")[0];
        assert_eq!(processes_of(rgw).len(), 3);
        if killed {
            child.signal(Signal::KILL);
            assert_eq!(child.wait(SOON).signal(), Some(9));
        } else {
            fs::write(temp.path().join("go on"), "").unwrap();
            child.wait_for_line("dropped", SOON);
            assert!(scratch("sifaka-test-").is_empty());
        }
        for dir in &dirs {
            wait_until(SOON, "the end of what was started", || processes_of(dir).is_empty());
        }
    }
}
