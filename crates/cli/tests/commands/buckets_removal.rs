//! `sifaka migrate --delete` out of buckets: what goes, and what never does.

use crate::migrate_buckets::{Bed, azurite, build, ended, fake_gcs, rgw};
use rustix::fs::{CWD, FileType, makedev, mknodat};
use serde_json::Value;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::fault_proxy::{Fault, FaultProxy, Reply, When};
use testkit::tree::{assert_same, snapshot};

/// The report's paths of what was, or would be, deleted.
fn deleted(report: &Path) -> Vec<String> {
    let lines = fs::read_to_string(report).unwrap();
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let paths = lines.filter(|line| line["did"] == "deleted").map(|line| line["path"].as_str().unwrap().to_owned());
    let mut paths: Vec<String> = paths.collect();
    paths.sort();
    paths
}

/// All kinds of things that the bucket does not have, among those that it has, and some that filters leave out.
fn surplus(back: &Path) {
    fs::create_dir_all(back.join("more/deep/er")).unwrap();
    fs::write(back.join("more/deep/er/file"), "x").unwrap();
    fs::write(back.join("more/deep/kept.log"), "x").unwrap();
    fs::create_dir(back.join("none")).unwrap();
    fs::write(back.join("none/x"), "x").unwrap();
    fs::write(back.join("d/e/other"), "x").unwrap();
    fs::write(back.join("d/e/kept.log"), "x").unwrap();
    fs::write(back.join(".sifaka-bucket-0123456789abcdef"), "of a run that was killed").unwrap();
    fs::write(back.join(std::ffi::OsStr::from_bytes(b"not utf-8 \xff")), "x").unwrap();
    symlink("d", back.join("way")).unwrap();
    mknodat(CWD, back.join("pipe"), FileType::Fifo, 0o600.into(), makedev(0, 0)).unwrap();
}

fn removal(bed: &Bed) {
    build(&bed.source());
    let (code, _, said) = bed.up(&[]);
    assert_eq!(code, Some(0), "{said}");
    let back = bed.scratch.join("back");
    let (code, _, said) = bed.down(&[]);
    assert_eq!(code, Some(0), "{said}");
    if !bed.slashes {
        // Nothing in the bucket stands for an empty directory there, so it did not come.
        fs::create_dir(back.join("empty")).unwrap();
    }
    surplus(&back);
    let before = snapshot(&back);
    let report = bed.scratch.join("report");
    let with = ["--delete", "--exclude", "*.log", "--report", report.to_str().unwrap()];
    let (code, totals, said) = bed.down(&[&with[..], &["--dry-run"]].concat());
    assert_eq!((code, totals["files"].as_u64()), (Some(0), Some(0)), "{said}");
    assert_same(&before, &snapshot(&back));
    let would = deleted(&report);
    let (code, totals, said) = bed.down(&with);
    assert_eq!((code, totals["files"].as_u64(), totals["failed"].as_u64()), (Some(0), Some(0), Some(0)), "{said}");
    let mut told = vec![".sifaka-bucket-0123456789abcdef", "d/e/other", "none", "pipe", "way"];
    if !bed.slashes {
        told.insert(2, "empty");
    }
    let others = |paths: &[String]| -> Vec<String> {
        paths.iter().filter(|path| !path.starts_with("more") && !path.starts_with("not utf-8")).cloned().collect()
    };
    assert_eq!(others(&deleted(&report)), told);
    assert_eq!(others(&would), told, "what is said before is what is done");
    assert!(back.join("more/deep/kept.log").exists() && back.join("d/e/kept.log").exists());
    assert!(!back.join("more/deep/er").exists());
    fs::remove_dir_all(back.join("more")).unwrap();
    fs::remove_file(back.join("d/e/kept.log")).unwrap();
    let (mut here, there) = (snapshot(&bed.source()), snapshot(&back));
    here.values_mut().for_each(|state| state.mode &= 0o777);
    assert_same(&here, &there);
}

#[test]
fn what_a_bucket_of_s3_does_not_have_is_removed_and_nothing_else() {
    let (_server, bed) = rgw();
    removal(&bed);
}

#[test]
fn what_a_container_of_azure_does_not_have_is_removed_and_nothing_else() {
    let (_server, bed) = azurite();
    removal(&bed);
}

#[test]
fn what_a_bucket_of_google_does_not_have_is_removed_and_nothing_else() {
    let (_server, bed) = fake_gcs();
    removal(&bed);
}

/// Undone at the end.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = sys::mounts::unmount(&self.0, true);
    }
}

#[test]
fn p3_what_is_mounted_below_the_destination_and_what_the_job_writes_itself_is_not_removed() {
    let (_server, bed) = rgw();
    build(&bed.source());
    let (code, _, said) = bed.up(&[]);
    assert_eq!(code, Some(0), "{said}");
    let (back, outside) = (bed.scratch.join("back"), bed.scratch.join("outside"));
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "kept").unwrap();
    let mounts = ["mount", "d/mount", "surplus/mount"].map(|name| {
        let at = back.join(name);
        fs::create_dir_all(&at).unwrap();
        let bound = Command::new("mount").arg("--bind").args([&outside, &at]).status().unwrap();
        assert!(bound.success());
        Mounted(at)
    });
    let (report, state) = (bed.scratch.join("report"), back.join("state"));
    fs::create_dir(back.join("jobs")).unwrap();
    fs::write(back.join("jobs/old"), "x").unwrap();
    fs::write(&state, "x").unwrap();
    let args = ["--delete", "--json", "--report", report.to_str().unwrap(), "--state", state.to_str().unwrap()];
    let mut command = crate::agent_double::sifaka("sifaka");
    command.arg("--config").arg(bed.scratch.join("agent")).arg("migrate").args(args).arg(&bed.url).arg(&back);
    let (code, totals, said) = ended(&command.output().unwrap());
    assert_eq!((code, totals["failed"].as_u64()), (Some(0), Some(0)), "{said}");
    assert!(totals["elsewhere"].as_u64() >= Some(3), "{said}");
    assert!(report.exists() && state.exists() && !back.join("jobs/old").exists(), "{said}");
    assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "kept");
    drop(mounts);
}

/// Whatever goes wrong with the listing, or with what is asked: nothing is removed.
#[test]
fn p3_nothing_is_removed_unless_the_bucket_says_of_each_thing_that_it_has_none() {
    let (server, bed) = rgw();
    let proxy = FaultProxy::start(&server.server().authority());
    for number in 0..5u8 {
        fs::write(bed.source().join(format!("{number}")), [number]).unwrap();
    }
    let (code, _, said) = bed.up(&[]);
    assert_eq!(code, Some(0), "{said}");
    let back = bed.scratch.join("back");
    fs::create_dir_all(back.join("more")).unwrap();
    fs::write(back.join("more/file"), "x").unwrap();
    fs::write(back.join("surplus"), "x").unwrap();
    let kept = || back.join("more/file").exists() && back.join("surplus").exists();
    let far = Bed { url: bed.url.clone(), ..Bed::of_s3(&proxy.url(), server.region()) };
    let run = || ended(&far.command(&["--delete", "--json", "--update"], &bed.url, &back).output().unwrap());
    // The listing as a whole.
    let listing = When::method("GET").parameter("list-type").skip(1);
    proxy.add(listing, Fault::Answer(Reply::status(403).body("<Error><Code>AccessDenied</Code></Error>")));
    let (code, _, said) = run();
    assert!(code != Some(0) && kept(), "{said}");
    proxy.heal();
    // It breaks off after what it says is its first page.
    let page = "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken>\
                <Contents><Key>a prefix/0</Key><Size>1</Size><ETag>\"x\"</ETag><LastModified>2020-01-02T03:04:05.000Z</LastModified></Contents></ListBucketResult>";
    proxy
        .add(When::method("GET").parameter("list-type").skip(1).times(1), Fault::Answer(Reply::status(200).body(page)));
    proxy.add(When::method("GET").parameter("continuation-token"), Fault::Answer(Reply::status(400)));
    let (code, _, said) = run();
    assert!(code != Some(0) && kept(), "{said}");
    proxy.heal();
    // What is asked of each.
    proxy.add(When::method("HEAD").path("surplus"), Fault::Answer(Reply::status(403)));
    proxy.add(
        When::method("GET").parameter("list-type").and(|request| request.query.contains("more")),
        Fault::Answer(Reply::status(403).body("<Error><Code>AccessDenied</Code></Error>")),
    );
    let (code, _, said) = run();
    assert!(code != Some(0) && kept(), "{said}");
    proxy.heal();
    // A name that is wrong.
    let (code, totals, said) =
        ended(&bed.command(&["--delete", "--json"], "s3://bucket/a prefic", &back).output().unwrap());
    assert!(code == Some(1) && totals["deleted"].as_u64() == Some(0) && kept(), "{said}");
    let (code, totals, said) = run();
    assert_eq!((code, totals["deleted"].as_u64()), (Some(0), Some(2)), "{said}");
    assert!(!kept());
}
