//! Archives with `layout = "path"`: the whole cycle, and what people find in the bucket.

use crate::objects::{archive_in_bucket, s3};
use crate::support::{Hsm, LONG, is_released, noise, uuid_of};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use testkit::services::Rgw;
use testkit::{FsKind, wait_until};

const MIB: usize = 1 << 20;

#[test]
fn the_whole_cycle_in_a_bucket_that_people_read() {
    let server = Rgw::start();
    server.create_bucket("archive");
    let hsm = Hsm::start_with(FsKind::Ext4, 300, |site| {
        site.add_agent_setting("restore { mode = \"range\" threshold = \"4MiB\" readahead = 0 }");
        archive_in_bucket(site, &format!("layout = \"path\"\n{}", s3(&server, "archive")));
    });
    // What people see.
    let visible = || -> Vec<String> {
        let keys = server.keys("archive").into_iter().map(|key| key.strip_prefix("hsm/").unwrap().to_owned());
        keys.filter(|key| !key.starts_with(".sifaka/")).collect()
    };
    let content = |path: &str| {
        let answer = server.request("GET", &format!("/archive/hsm/{}", path.replace(' ', "%20")), None, &[]).ok();
        answer.body
    };
    fs::create_dir_all(hsm.path("home/some one")).unwrap();
    let names = ["hello", "home/some one/a file", "home/large"];
    let files: Vec<_> = names
        .into_iter()
        .zip([0, 5000, 17 * MIB + 3])
        .map(|(name, size)| {
            let content = noise(size as u64, size);
            (hsm.file(name, &content), content)
        })
        .collect();
    let paths: Vec<&Path> = files.iter().map(|(path, _)| path.as_path()).collect();
    hsm.archive(&paths);
    let mut expected = names.to_vec();
    expected.sort_unstable();
    assert_eq!(visible(), expected);
    for (name, (_, written)) in names.iter().zip(&files) {
        assert!(content(name) == *written, "{name}");
    }
    hsm.release(&paths);
    let mut part = vec![0; 5000];
    File::open(paths[2]).unwrap().read_exact_at(&mut part, 11 * MIB as u64 - 100).unwrap();
    assert!(part == files[2].1[11 * MIB - 100..][..5000] && is_released(paths[2]));
    for (path, written) in &files {
        assert!(fs::read(path).unwrap() == *written, "{}", path.display());
    }
    // Changed: the new version is at the path when the old one has gone.
    fs::write(paths[1], "changed").unwrap();
    hsm.archive(&[paths[1]]);
    wait_until(LONG, "the old version is gone", || visible() == expected);
    wait_until(LONG, "the new version is at the path", || content(names[1]) == b"changed");
    // Renamed: it stays where it is, and what comes to the path is beside it.
    let renamed = hsm.path("home/renamed");
    fs::rename(paths[1], &renamed).unwrap();
    fs::write(paths[1], "another one").unwrap();
    hsm.archive(&[paths[1]]);
    assert_eq!(visible().len(), 4);
    assert_eq!(content(names[1]), b"changed");
    hsm.release(&[paths[1], &renamed]);
    let read = [fs::read(paths[1]).unwrap(), fs::read(&renamed).unwrap()];
    assert_eq!(read, [b"another one".to_vec(), b"changed".to_vec()]);
    let sifaka = |words: &[&str]| {
        let out = hsm.site.command().arg("--config").arg(hsm.site.agent_config()).args(words).output().unwrap();
        assert!(out.status.success(), "{words:?}: {out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    let report: serde_json::Value = serde_json::from_str(sifaka(&["fsck", "--json"]).lines().last().unwrap()).unwrap();
    assert_eq!(
        (&report["objects"], &report["named"], &report["missing"]),
        (&4.into(), &4.into(), &0.into()),
        "{report}"
    );
    assert_eq!(report["strays"], 0, "{report}");
    let texts: Vec<String> = ["id", "sifaka"].map(|name| format!("x-amz-meta-{name}: {}", uuid_of(&renamed))).into();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    server.request("PUT", "/archive/hsm/copy", Some(b"a copy"), &texts).ok();
    let told = sifaka(&["fsck", "--json"]);
    let report: serde_json::Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    assert!(report["strays"] == 1 && told.contains("\"stray\"") && told.contains("hsm/copy"), "{told}");
    server.request("DELETE", "/archive/hsm/copy", None, &[]).ok();
    sifaka(&["scrub", "--json"]);
    hsm.ok(&["remove", "--wait"], &[&renamed]);
    wait_until(LONG, "the path is free, and taken", || content(names[1]) == b"another one");
    assert_eq!(visible(), expected);
    hsm.ok(&["remove", "--wait"], &paths);
    wait_until(LONG, "nobody sees anything", || visible().is_empty());
}
