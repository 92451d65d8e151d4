//! Archives in buckets: the whole cycle on each service, and what survives the death of mover and server.

use crate::support::{Hsm, LONG, is_released, kill, noise};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use testkit::services::{Azurite, FakeGcs, Rgw};
use testkit::{FsKind, Random, Site, wait_until};

const MIB: usize = 1 << 20;

/// A system with a posix archive, 1, and one in a bucket, 2.
fn start(archive: &str) -> Hsm {
    Hsm::start_with(FsKind::Ext4, 512, |site| {
        site.add_agent_setting("restore { mode = \"range\" threshold = \"4MiB\" readahead = 0 }");
        site.add_mover(
            "object",
            &format!("archive \"bucket\" {{ id = 2\n{archive}\nlimits {{ part_size = \"5MiB\" }} }}\n"),
        );
    })
}

/// Makes an archive in a bucket, 2, the default one of a site.
pub(crate) fn archive_in_bucket(site: &mut Site, archive: &str) {
    site.add_agent_setting("default_archive = 2");
    site.add_mover("object", &format!("archive \"bucket\" {{ id = 2\n{archive} }}\n"));
}

pub(crate) fn s3(server: &Rgw, bucket: &str) -> String {
    s3_at(&server.endpoint(), bucket)
}

/// As [`s3`], by way of something else that listens at `endpoint`.
pub(crate) fn s3_at(endpoint: &str, bucket: &str) -> String {
    format!(
        "url = \"s3://{bucket}/hsm\" endpoint = \"{endpoint}\" region = \"{}\"\n\
         credentials {{ access_key_id = \"{}\" secret_access_key = \"{}\" }}",
        Rgw::REGION,
        Rgw::ACCESS_KEY,
        Rgw::SECRET_KEY
    )
}

fn files(hsm: &Hsm) -> Vec<(PathBuf, Vec<u8>)> {
    let sizes = [0, 1, 70_000, MIB + 1, 17 * MIB + 3];
    let file = |(seed, size)| {
        let content = noise(seed, size);
        (hsm.file(&format!("f{size}"), &content), content)
    };
    (7..).zip(sizes).map(file).collect()
}

/// What is not the record of a directory, which stays with that, and not the mark of a packed file that was removed, which stays for an hour.
fn left(keys: &[String]) -> Vec<&String> {
    keys.iter().filter(|key| !key.ends_with(".rec") && !key.contains(".d/")).collect()
}

/// Each file has an object of its own, to be counted.
fn unpacked(archive: &str) -> String {
    format!("{archive}\npack {{ threshold = 0 }}")
}

/// Archived, released, read in part and whole, changed, archived anew, removed; `keys` lists the bucket.
fn cycle(hsm: &Hsm, keys: impl Fn() -> Vec<String>) {
    let files = files(hsm);
    let paths: Vec<&Path> = files.iter().map(|(path, _)| path.as_path()).collect();
    hsm.ok(&["archive", "--wait", "-i", "2"], &paths);
    let objects = || keys().iter().filter(|key| key.contains("/objects/") || key.contains("/small/")).count();
    assert_eq!(objects(), files.len(), "{:?}", keys());
    assert_eq!(hsm.objects(), 0, "nothing went to the other archive");
    hsm.release(&paths);

    let (large, content) = files.last().unwrap();
    let mut part = vec![0; 5000];
    File::open(large).unwrap().read_exact_at(&mut part, 11 * MIB as u64 - 100).unwrap();
    assert!(part == content[11 * MIB - 100..][..5000]);
    assert!(is_released(large), "a part is no whole");
    for (path, content) in &files {
        assert!(fs::read(path).unwrap() == *content, "{}", path.display());
    }
    wait_until(LONG, "all are ordinary files", || paths.iter().all(|path| !is_released(path)));

    let (changed, _) = &files[2];
    fs::write(changed, "other content").unwrap();
    hsm.ok(&["archive", "--wait", "-i", "2"], &[changed]);
    hsm.release(&[changed]);
    assert_eq!(fs::read(changed).unwrap(), b"other content");
    wait_until(LONG, "the object of the old content is gone", || objects() == files.len());

    hsm.ok(&["restore", "--wait"], &paths);
    hsm.ok(&["remove", "--wait"], &paths);
    wait_until(LONG, "nothing is left in the bucket", || left(&keys()).is_empty());
}

#[test]
fn the_whole_cycle_in_a_bucket_of_s3() {
    let server = Rgw::start();
    server.create_bucket("archive");
    let hsm = start(&unpacked(&s3(&server, "archive")));
    cycle(&hsm, || server.keys("archive"));
    assert_eq!(server.uploads("archive"), [""; 0]);
}

#[test]
fn the_whole_cycle_in_a_container_of_azure() {
    let server = Azurite::start();
    server.create_container("archive");
    let hsm = start(&unpacked(&format!(
        "url = \"az://archive/hsm\" endpoint = \"{}\" account = \"{}\" credentials {{ account_key = \"{}\" }}",
        server.endpoint(),
        Azurite::ACCOUNT,
        Azurite::KEY
    )));
    cycle(&hsm, || server.blobs("archive", false));
    assert_eq!(left(&server.blobs("archive", true)), [""; 0]);
}

#[test]
fn the_whole_cycle_in_a_bucket_of_google() {
    let server = FakeGcs::start();
    server.create_bucket("archive");
    let endpoint = server.endpoint();
    let place = format!("url = \"gs://archive/hsm\" endpoint = \"{endpoint}\" credentials {{ anonymous = true }}");
    let hsm = start(&unpacked(&place));
    cycle(&hsm, || server.objects("archive"));
}

#[test]
fn p1_p5_movers_and_servers_die_in_the_middle() {
    die_in_the_middle("");
}

/// What attempts left at the paths goes as well.
#[test]
fn p1_p5_p7_movers_and_servers_die_in_the_middle_of_a_readable_bucket() {
    die_in_the_middle("layout = \"path\"");
}

fn die_in_the_middle(layout: &str) {
    let server = Rgw::start();
    server.create_bucket("archive");
    let hsm = start(&format!("{layout}\n{}", s3(&server, "archive")));
    let mut random = Random::new(11);
    let files: Vec<_> = (0..40)
        .map(|seed| {
            let content = noise(seed, if seed % 8 == 0 { 12 * MIB } else { 50_000 });
            (hsm.file(&format!("file{seed}"), &content), content)
        })
        .collect();
    let paths: Vec<&Path> = files.iter().map(|(path, _)| path.as_path()).collect();
    let mut archiving = hsm.site.command();
    archiving.args(["archive", "--wait", "-i", "2"]).args(&paths).stdout(Stdio::null()).stderr(Stdio::null());
    let mut archiving = archiving.spawn().unwrap();
    disturb(&hsm, &server, &mut random);
    assert!(archiving.wait().unwrap().success(), "every archive ends well");
    hsm.release(&paths);
    std::thread::scope(|scope| {
        let read = |(path, content): &(PathBuf, Vec<u8>)| assert!(fs::read(path).unwrap() == *content, "{path:?}");
        let readers: Vec<_> = files.iter().map(|file| scope.spawn(move || read(file))).collect();
        disturb(&hsm, &server, &mut random);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    hsm.ok(&["restore", "--wait"], &paths);
    hsm.ok(&["remove", "--wait"], &paths);
    wait_until(LONG, "nothing is left in the bucket", || left(&server.keys("archive")).is_empty());
}

/// Kills movers once, and the server twice, at random moments. (A mover that died twice is not started again at once.)
fn disturb(hsm: &Hsm, server: &Rgw, random: &mut Random) {
    let mut pause = || std::thread::sleep(Duration::from_millis(random.within(0..150)));
    pause();
    server.server().kill();
    server.server().restart();
    pause();
    hsm.mover_pids().into_iter().for_each(kill);
    pause();
    server.server().kill();
    server.server().restart();
}
