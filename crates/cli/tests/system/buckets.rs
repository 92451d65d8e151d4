//! `sifaka import`, `fsck` and `scrub` of an archive in a bucket in which something went wrong. (`rebuild` has its own module.)

use crate::objects::{archive_in_bucket, s3, s3_at};
use crate::support::{Hsm, hsm_state, is_released, noise, uuid_of};
use model::HsmFlags;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use testkit::fault_proxy::{Fault, FaultProxy, When};
use testkit::services::Rgw;
use testkit::services::plain::Answer;
use testkit::tree::{TreeSpec, assert_same, snapshot};
use testkit::{FsKind, LoopFs};

const MIB: usize = 1 << 20;

fn start() -> (Rgw, Hsm) {
    let server = Rgw::start();
    server.create_bucket("archive");
    // Each file has an object of its own, to be found by its id.
    let archive = format!("{}\npack {{ threshold = 0 }}", s3(&server, "archive"));
    let hsm = Hsm::start_with(FsKind::Ext4, 300, |site| archive_in_bucket(site, &archive));
    (server, hsm)
}

fn run(hsm: &Hsm, words: &[&str], paths: &[&Path]) -> Output {
    hsm.site.command().arg("--config").arg(hsm.site.agent_config()).args(words).args(paths).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What a command found, and its totals.
#[track_caller]
fn told(hsm: &Hsm, words: &[&str], code: i32) -> (String, Value) {
    let out = run(hsm, &[words, &["--json"]].concat(), &[]);
    assert_eq!(out.status.code(), Some(code), "{words:?}: {}", said(&out));
    let text = String::from_utf8(out.stdout).unwrap();
    let totals = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    (text, totals)
}

#[track_caller]
fn fsck(hsm: &Hsm, words: &[&str], code: i32) -> Value {
    told(hsm, &[&["fsck", "--min-age", "0"], words].concat(), code).1
}

/// Where a file's object lies: a small one carries its manifest, and lies with others of its kind.
#[track_caller]
fn key_of(server: &Rgw, path: &Path) -> String {
    let (uuid, keys) = (uuid_of(path), server.keys("archive"));
    let key = keys.iter().find(|key| key.ends_with(&uuid) && !key.contains("/manifests/"));
    format!("/archive/{}", key.unwrap_or_else(|| panic!("{uuid} is not in {keys:?}")))
}

fn objects(server: &Rgw) -> usize {
    server.keys("archive").iter().filter(|key| !key.contains("/manifests/")).count()
}

/// Puts an object there with what it carried, and another body.
fn put_again(server: &Rgw, key: &str, was: &Answer, body: &[u8], change: impl Fn(&str, &str) -> String) {
    let carried = was.headers.iter().filter(|(name, _)| name.starts_with("x-amz-meta-"));
    let lines: Vec<String> = carried.map(|(name, value)| format!("{name}: {}", change(name, value))).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    server.request("PUT", key, Some(body), &lines).ok();
}

fn as_it_was(_: &str, value: &str) -> String {
    value.to_owned()
}

fn files(hsm: &Hsm) -> Vec<(PathBuf, Vec<u8>)> {
    let files = hsm.files(8);
    let paths: Vec<&Path> = files.iter().map(|(path, _)| path.as_path()).collect();
    hsm.archive(&paths);
    files
}

#[test]
fn fsck_finds_and_repairs_what_does_not_fit() {
    let (server, mut hsm) = start();
    let files = files(&hsm);
    let dir = hsm.path("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("in it"), "some content").unwrap();
    hsm.archive(&[&dir]);
    let [resident, released, deleted] = [0, 1, 2].map(|i: usize| files[i].0.as_path());
    hsm.release(&[released]);
    let report = fsck(&hsm, &["--repair"], 0);
    assert_eq!(
        (&report["objects"], &report["named"], &report["orphans"]),
        (&9.into(), &9.into(), &0.into()),
        "{report}"
    );
    assert!(report["manifests_alone"].as_u64() >= Some(2), "records of directories: {report}");

    // Somebody else's hands were in the bucket, and nobody saw a file go.
    hsm.stop_agent();
    fs::remove_file(deleted).unwrap();
    server.request("PUT", "/archive/hsm/objects/0e2f9a7c-5ad1-4f6e-8b1a-000000000001", Some(b"whose?"), &[]).ok();
    let place = key_of(&server, released);
    let lost = server.request("GET", &place, None, &[]).ok();
    for key in [key_of(&server, resident), place.clone()] {
        server.request("DELETE", &key, None, &[]).ok();
    }
    let before = server.keys("archive");
    let report = fsck(&hsm, &[], 6);
    assert_eq!(
        (&report["orphans"], &report["strange"], &report["missing"], &report["removed"]),
        (&1.into(), &1.into(), &2.into(), &0.into()),
        "{report}"
    );
    let (_, report) = told(&hsm, &["fsck", "--repair"], 0);
    assert_eq!((&report["young"], &report["removed"]), (&1.into(), &0.into()), "by the service's clock: {report}");
    assert_eq!(server.keys("archive"), before, "nothing was changed");
    assert!(hsm_state(resident).flags.contains(HsmFlags::DIRTY) && hsm_state(released).flags.contains(HsmFlags::LOST));

    let report = fsck(&hsm, &["--repair"], 6);
    assert_eq!((&report["removed"], &report["missing"]), (&1.into(), &1.into()), "lost is lost: {report}");
    assert_eq!(objects(&server), 7, "what nothing says to be ours stays");
    // It turns up again.
    put_again(&server, &place, &lost, &lost.body, as_it_was);
    let report = fsck(&hsm, &["--repair"], 0);
    assert_eq!((&report["found_again"], &report["repaired"]), (&1.into(), &1.into()), "{report}");

    hsm.agent = Some(hsm.site.start_agent());
    hsm.wait_for_movers();
    assert!(is_released(released) && fs::read(released).unwrap() == files[1].1);
    hsm.archive(&[resident]);
    let report = fsck(&hsm, &[], 0);
    assert_eq!((&report["objects"], &report["named"]), (&9.into(), &8.into()), "{report}");
}

#[test]
fn scrub_finds_what_is_not_what_was_archived() {
    let (server, hsm) = start();
    let files = files(&hsm);
    let large = hsm.file("large", &noise(9, 19 * MIB + 5));
    // Its manifest lies beside it: of a small object both are gone together, and only fsck can miss it.
    let gone = hsm.file("gone", &noise(10, 9 * MIB));
    hsm.archive(&[&large, &gone]);
    let (_, totals) = told(&hsm, &["scrub"], 0);
    assert_eq!((&totals["objects"], &totals["unverified"]), (&10.into(), &0.into()), "{totals}");

    let [small, cut, undescribed] = [3, 4, 6].map(|i: usize| files[i].0.as_path());
    let change = |path: &Path, change: &dyn Fn(&mut Vec<u8>)| {
        let key = key_of(&server, path);
        let was = server.request("GET", &key, None, &[]).ok();
        let mut body = was.body.clone();
        change(&mut body);
        put_again(&server, &key, &was, &body, as_it_was);
    };
    change(&large, &|body| body[17 * MIB + 7] ^= 1);
    change(small, &|body| body[100] ^= 1);
    change(cut, &|body| body.truncate(body.len() - 1));
    server.request("DELETE", &key_of(&server, &gone), None, &[]).ok();
    let key = key_of(&server, undescribed);
    let was = server.request("GET", &key, None, &[]).ok();
    put_again(&server, &key, &was, &was.body, |name, value| match name {
        // Three bytes of it are others.
        "x-amz-meta-manifest" => format!("{}////{}", &value[..16], &value[20..]),
        _ => value.to_owned(),
    });
    let (found, totals) = told(&hsm, &["scrub"], 6);
    assert_eq!(
        (&totals["damaged"], &totals["lost"], &totals["bad_manifests"]),
        (&3.into(), &1.into(), &1.into()),
        "{found}"
    );
    let of_large = found.lines().find(|line| line.contains("\"large\"")).unwrap_or_else(|| panic!("{found}"));
    let (from, to) = (17 * MIB, 18 * MIB);
    assert!(of_large.contains(&format!("from byte {from} to byte {to}")), "{of_large}");

    // The files have their content: all but the manifest is made anew from that.
    let (found, totals) = told(&hsm, &["scrub", "--repair"], 6);
    assert_eq!(totals["repair"]["repaired"], 4, "{found}");
    hsm.ok(&["archive", "--wait", "--force"], &[undescribed]);
    hsm.settle();
    let (found, totals) = told(&hsm, &["scrub"], 0);
    assert_eq!((&totals["objects"], &totals["unverified"]), (&10.into(), &0.into()), "{found}");
    let paths: Vec<&Path> = files.iter().map(|(path, _)| path.as_path()).chain([large.as_path()]).collect();
    hsm.release(&paths);
    for (path, content) in &files {
        assert!(fs::read(path).unwrap() == *content, "{}", path.display());
    }
    assert!(fs::read(&large).unwrap() == noise(9, 19 * MIB + 5));
}

/// Small files share packs: each is found, missed, removed and made anew alone.
#[test]
fn what_packs_in_a_bucket_hold_is_looked_after_one_by_one() {
    let server = Rgw::start();
    server.create_bucket("archive");
    let mut hsm = Hsm::start_with(FsKind::Ext4, 300, |site| archive_in_bucket(site, &s3(&server, "archive")));
    let files: Vec<(PathBuf, Vec<u8>)> = (0..60)
        .map(|n| (n, noise(n, 3000)))
        .map(|(n, content)| (hsm.file(&format!("f{n}"), &content), content))
        .collect();
    let paths: Vec<&Path> = files.iter().map(|(path, _)| path.as_path()).collect();
    hsm.archive(&paths);
    let packed: Vec<&(PathBuf, Vec<u8>)> = files.iter().filter(|(path, _)| uuid_of(path).contains(".pk")).collect();
    assert!(packed.len() > 40, "{} of them are packed", packed.len());
    let (_, totals) = told(&hsm, &["scrub"], 0);
    assert_eq!((&totals["objects"], &totals["unverified"]), (&60.into(), &0.into()), "{totals}");

    // One is damaged in its pack, the content of another goes unseen.
    let (damaged, content) = packed[3];
    let pack = uuid_of(damaged).split_once(".pk").unwrap().1.to_owned();
    let key = format!("/archive/hsm/packs/{pack}");
    let was = server.request("GET", &key, None, &[]).ok();
    let mut body = was.body.clone();
    let at = body.windows(32).position(|window| window == &content[1000..1032]).unwrap();
    body[at] ^= 1;
    put_again(&server, &key, &was, &body, as_it_was);
    let (found, totals) = told(&hsm, &["scrub"], 6);
    assert_eq!((&totals["damaged"], &totals["lost"]), (&1.into(), &0.into()), "{found}");
    assert!(found.contains("\"f3\"") || found.contains(damaged.file_name().unwrap().to_str().unwrap()), "{found}");
    let (found, totals) = told(&hsm, &["scrub", "--repair"], 6);
    assert_eq!(totals["repair"]["repaired"], 1, "{found}");
    hsm.settle();
    hsm.stop_agent();
    let (deleted, _) = packed[7];
    fs::remove_file(deleted).unwrap();
    let report = fsck(&hsm, &["--repair"], 0);
    assert_eq!(
        (&report["orphans"], &report["removed"], &report["missing"]),
        (&1.into(), &1.into(), &0.into()),
        "{report}"
    );
    let report = fsck(&hsm, &[], 0);
    assert_eq!((&report["objects"], &report["named"]), (&59.into(), &59.into()), "{report}");

    hsm.agent = Some(hsm.site.start_agent());
    hsm.wait_for_movers();
    let (_, totals) = told(&hsm, &["scrub"], 0);
    assert_eq!((&totals["objects"], &totals["damaged"]), (&59.into(), &0.into()), "{totals}");
    let left: Vec<&(PathBuf, Vec<u8>)> = files.iter().filter(|(path, _)| path != deleted).collect();
    let paths: Vec<&Path> = left.iter().map(|(path, _)| path.as_path()).collect();
    hsm.release(&paths);
    for (path, content) in left {
        assert!(fs::read(path).unwrap() == *content, "{}", path.display());
    }
}

#[test]
fn what_a_bucket_holds_is_imported() {
    let (_server, hsm) = start();
    let (tree, copy) = (hsm.path("tree"), hsm.path("copy"));
    fs::create_dir(&tree).unwrap();
    fs::create_dir(&copy).unwrap();
    TreeSpec::new(5, 20).build(&tree);
    hsm.archive(&[&tree]);
    let out = run(&hsm, &["import", "--quiet", "--tree", "tree"], &[&copy]);
    assert!(out.status.success() && out.stderr.is_empty(), "{}", said(&out));
    assert_same(&snapshot(&tree), &snapshot(&copy));

    let original = hsm.file("original", b"some content");
    hsm.archive(&[&original]);
    let imported = hsm.path("imported");
    let words = ["import", "--uuid", &uuid_of(&original), "--size", "12"];
    let out = run(&hsm, &words, &[&imported]);
    assert!(out.status.success() && is_released(&imported), "{}", said(&out));
    assert_eq!(fs::read(&imported).unwrap(), b"some content");
    let words = ["import", "--uuid", "0e2f9a7c-5ad1-4f6e-8b1a-000000000001", "--size", "12"];
    let out = run(&hsm, &words, &[&hsm.path("none")]);
    assert!(!out.status.success() && said(&out).contains("archive 2 has no object"), "{}", said(&out));
    let out = run(&hsm, &["scrub", "--id", "3"], &[]);
    assert!(out.status.code() == Some(4) && said(&out).contains("number 3"), "{}", said(&out));
}

/// Nobody may take for damaged or gone what only cannot be had now.
#[test]
fn p8_what_does_not_answer_is_not_lost() {
    let server = Rgw::start();
    server.create_bucket("archive");
    let proxy = FaultProxy::start(&server.server().authority());
    let place = s3_at(&proxy.url(), "archive") + "\nlimits { attempts = 2 }";
    let mut hsm = Hsm::start_with(FsKind::Ext4, 300, |site| archive_in_bucket(site, &place));
    let tree = hsm.path("tree");
    fs::create_dir(&tree).unwrap();
    TreeSpec::new(5, 150).build(&tree);
    // Large enough for a manifest of its own.
    let file = hsm.file("file", &noise(11, 9 * MIB));
    hsm.archive(&[&tree, &file]);
    hsm.stop_agent();
    let fresh = LoopFs::new(FsKind::Ext4, 300);
    let rebuild = |code: i32| {
        let out = run(&hsm, &["rebuild", "--json"], &[&fresh.path()]);
        assert_eq!(out.status.code(), Some(code), "{}", said(&out));
        said(&out)
    };

    // One manifest cannot be read: everything else can.
    let of_file = key_of(&server, &file).replace("objects", "manifests");
    let refused = proxy.add(When::method("GET").path(&of_file), Fault::status(500));
    let (found, totals) = told(&hsm, &["scrub"], 6);
    assert_eq!(
        (&totals["failed"], &totals["objects"], &totals["bad_manifests"]),
        (&1.into(), &150.into(), &0.into()),
        "{found}"
    );
    assert!(proxy.hits(refused) > 1, "it was asked for again");
    let report = fsck(&hsm, &["--repair"], 0);
    assert_eq!((&report["orphans"], &report["missing"]), (&0.into(), &0.into()), "{report}");
    let found = rebuild(6);
    assert!(found.contains("\"bad_manifests\":0") && found.contains("\"files\":150"), "{found}");
    assert!(!fresh.path().join("file").exists());

    // Everything ends in the middle.
    proxy.heal();
    for skip in [3, 100] {
        proxy.add(When::any().skip(skip), Fault::ResetBefore);
        let out = run(&hsm, &["scrub"], &[]);
        assert!(matches!(out.status.code(), Some(1 | 5)) && !said(&out).contains("damaged"), "{}", said(&out));
        proxy.heal();
    }
    assert!(hsm.site.state_dir().join("scrub-2.json").exists(), "it goes on there");
    let (found, totals) = told(&hsm, &["scrub"], 0);
    assert_eq!(totals["objects"], 151, "{found}");
    proxy.add(When::any().skip(60), Fault::ResetBefore);
    assert!(rebuild(1).contains("does not answer any more"));
    proxy.heal();
    rebuild(0);
    assert!(is_released(&fresh.path().join("file")));
}
