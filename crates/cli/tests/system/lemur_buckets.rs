//! Lemur's movers for buckets, replaced: its configuration as it is, its objects, its attributes.

use crate::support::{Hsm, LONG, hsm_state, is_released, noise, uuid_of};
use model::xattr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};
use testkit::services::{Azurite, Rgw};
use testkit::{FsKind, Site, wait_until};

const MIB: usize = 1 << 20;

fn url_of(path: &Path) -> String {
    let fd = rustix::fs::open(path, sys::OFlags::PATH, sys::Mode::empty()).unwrap();
    String::from_utf8(sys::xattr::get(&fd, xattr::URL).unwrap().unwrap_or_default()).unwrap()
}

/// Makes a file that Lemur released: its attributes name the object, and there is no hash.
fn imported(hsm: &Hsm, name: &str, uuid: &str, size: usize) -> std::path::PathBuf {
    let path = hsm.path(name);
    let size = size.to_string();
    let mut command = hsm.site.command();
    command.arg("--config").arg(hsm.site.agent_config());
    let out = command.args(["import", "-i", "2", "--uuid", uuid, "--size", &size]).arg(&path).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    path
}

#[test]
fn the_whole_cycle_in_lemur_s_layout_of_s3() {
    let server = Rgw::start();
    server.create_bucket("archive");
    let hsm = Hsm::start_with(FsKind::Ext4, 300, |site| {
        let text = format!(
            "num_threads = 4\nregion = \"{}\"\nendpoint = \"{}\"\naws_access_key_id = \"{}\"\naws_secret_access_key = \"{}\"\n\
             archive \"s3\" {{ id = 2\nbucket = \"archive\"\nprefix = \"site/hsm/\" }}\n",
            Rgw::REGION,
            server.endpoint(),
            Rgw::ACCESS_KEY,
            Rgw::SECRET_KEY
        );
        site.add_mover("s3", &text);
    });
    let files: Vec<_> = [0, 5000, 17 * MIB + 3]
        .into_iter()
        .map(|size| {
            let content = noise(size as u64, size);
            (hsm.file(&format!("f{size}"), &content), content)
        })
        .collect();
    let paths: Vec<&Path> = files.iter().map(|(path, _)| path.as_path()).collect();
    hsm.ok(&["archive", "--wait", "-i", "2"], &paths);
    let mut keys: Vec<String> = paths.iter().map(|path| format!("site/hsm/o/{}", uuid_of(path))).collect();
    keys.sort();
    assert_eq!(server.keys("archive"), keys, "no records, no manifests");
    for (path, content) in &files {
        assert_eq!(url_of(path), format!("s3://archive/site/hsm/o/{}", uuid_of(path)));
        let key = format!("/archive/site/hsm/o/{}", uuid_of(path));
        assert!(server.request("GET", &key, None, &[]).ok().body == *content);
    }
    hsm.release(&paths);
    for (path, content) in &files {
        assert!(fs::read(path).unwrap() == *content, "{}", path.display());
        assert!(!is_released(path));
    }
    // Changed: another object, and the old one goes.
    let (changed, _) = &files[1];
    let old = uuid_of(changed);
    fs::write(changed, "changed").unwrap();
    hsm.ok(&["archive", "--wait", "-i", "2"], &[changed]);
    assert_ne!(uuid_of(changed), old);
    wait_until(LONG, "the old object is gone", || !server.keys("archive").iter().any(|key| key.ends_with(&old)));
    hsm.ok(&["remove", "--wait"], &paths);
    wait_until(LONG, "the bucket is empty", || server.keys("archive").is_empty());

    // What Lemur left: the object has neither metadata nor a hash.
    let (uuid, content) = ("7d0c3ba4-9a1c-4f53-a3a7-0b0f4be1d6c1", noise(9, 70_000));
    server.request("PUT", &format!("/archive/site/hsm/o/{uuid}"), Some(&content), &[]).ok();
    let path = imported(&hsm, "from lemur", uuid, content.len());
    assert!(is_released(&path));
    assert!(fs::read(&path).unwrap() == content);
    assert_eq!((uuid_of(&path).as_str(), hsm_state(&path).archive_id), (uuid, 2));
    // Other files may name what was imported: only fsck can tell.
    assert!(!hsm.run(&["remove", "--wait"], &[&path]).status.success());
    let kept = hsm.file("kept", b"so that this is the right filesystem");
    hsm.ok(&["archive", "--wait", "-i", "2"], &[&kept]);
    assert_eq!(server.keys("archive").len(), 2);
    let mut fsck = hsm.site.command();
    fsck.arg("--config").arg(hsm.site.agent_config()).args(["fsck", "-i", "2", "--repair", "--min-age", "0"]);
    let out = fsck.output().unwrap();
    assert!(out.status.success(), "{out:?}");
    assert_eq!(server.keys("archive"), [format!("site/hsm/o/{}", uuid_of(&kept))], "{out:?}");
}

fn az() -> (Azurite, Hsm) {
    az_with(|_| {})
}

fn az_with(more: impl FnOnce(&mut Site)) -> (Azurite, Hsm) {
    let server = Azurite::start();
    server.create_container("archive");
    let hsm = Hsm::start_with(FsKind::Ext4, 300, |site| {
        let text = format!(
            "az_storage_account = \"{}\"\naz_storage_key = \"{}\"\nendpoint = \"{}\"\n\
             archive \"az\" {{ id = 2\ncontainer = \"archive\"\nprefix = \"lemur hsm\" }}\n",
            Azurite::ACCOUNT,
            Azurite::KEY,
            server.endpoint()
        );
        site.add_mover("az", &text);
        more(site);
    });
    (server, hsm)
}

/// What lies under a path, by somebody else's hands.
fn blob(server: &Azurite, path: &str) -> Vec<u8> {
    let path = path.replace(' ', "%20");
    server.request("GET", &format!("/archive/lemur%20hsm/{path}"), None, &[]).ok().body
}

#[test]
fn the_whole_cycle_in_lemur_s_layout_of_azure() {
    let (server, hsm) = az();
    fs::create_dir_all(hsm.path("dir/sub dir")).unwrap();
    let names = ["hello", "dir/sub dir/a file", "dir/large"];
    let files: Vec<_> = names
        .into_iter()
        .zip([0, 5000, 17 * MIB + 3])
        .map(|(name, size)| {
            let content = noise(size as u64, size);
            (hsm.file(name, &content), content)
        })
        .collect();
    let paths: Vec<&Path> = files.iter().map(|(path, _)| path.as_path()).collect();
    let times = fs::FileTimes::new().set_modified(UNIX_EPOCH + Duration::new(1_500_000_000, 42));
    fs::File::options().write(true).open(paths[1]).unwrap().set_times(times).unwrap();
    fs::set_permissions(paths[1], fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(paths[1], Some(1234), Some(567)).unwrap();
    hsm.ok(&["archive", "--wait", "-i", "2"], &paths);
    let mut keys: Vec<String> = names.iter().map(|name| format!("lemur hsm/{name}")).collect();
    keys.sort();
    assert_eq!(server.blobs("archive", false), keys, "no records, no manifests");
    for (name, (path, content)) in names.iter().zip(&files) {
        assert_eq!(uuid_of(path), *name, "the id is the path");
        let url = url_of(path);
        let (bare, mark) = url.split_once("#sifaka=").unwrap();
        assert_eq!(bare, format!("az://archive/lemur%20hsm/{}", name.replace(' ', "%20")));
        assert_eq!(mark.len(), 36, "{url}");
        assert!(blob(&server, name) == *content, "{name}");
    }
    let head = server.request("HEAD", "/archive/lemur%20hsm/dir/sub%20dir/a%20file", None, &[]).ok();
    let text = |name: &str| head.header(&format!("x-ms-meta-{name}"));
    assert_eq!((text("permissions"), text("modtime")), (Some("640"), Some("2017-07-14 02:40:00 +0000")));
    assert_eq!((text("owner"), text("group")), (Some("1234"), Some("567")));
    hsm.release(&paths);
    for (path, content) in &files {
        assert!(fs::read(path).unwrap() == *content && !is_released(path), "{}", path.display());
    }
    // Changed: written over, under the same name, and not taken away by the removal of the old version.
    fs::write(paths[1], "changed").unwrap();
    hsm.ok(&["archive", "--wait", "-i", "2"], &[paths[1]]);
    hsm.settle();
    assert_eq!(blob(&server, names[1]), b"changed");
    hsm.release(&[paths[1]]);
    assert_eq!(fs::read(paths[1]).unwrap(), b"changed");
    // Renamed, and another one in its place, which lies beside the first one's object: neither takes the other's content away.
    hsm.release(&[paths[1]]);
    let renamed = hsm.path("dir/renamed");
    fs::rename(paths[1], &renamed).unwrap();
    fs::write(paths[1], "another one").unwrap();
    hsm.ok(&["archive", "--wait", "-i", "2"], &[paths[1]]);
    assert!(uuid_of(paths[1]).starts_with(&format!("{}~", names[1])), "{}", uuid_of(paths[1]));
    hsm.release(&[paths[1]]);
    assert_eq!(fs::read(&renamed).unwrap(), b"changed");
    fs::write(&renamed, "changed again").unwrap();
    hsm.ok(&["archive", "--wait", "-i", "2"], &[&renamed]);
    assert_eq!(uuid_of(&renamed), "dir/renamed");
    wait_until(LONG, "the old name is free", || {
        !server.blobs("archive", false).contains(&format!("lemur hsm/{}", names[1]))
    });
    assert_eq!(fs::read(paths[1]).unwrap(), b"another one");
    // The next version takes the name that is free now.
    fs::write(paths[1], "another two").unwrap();
    hsm.ok(&["archive", "--wait", "-i", "2"], &[paths[1]]);
    assert_eq!(uuid_of(paths[1]), names[1]);
    hsm.settle();
    assert_eq!(
        (blob(&server, names[1]), blob(&server, "dir/renamed")),
        (b"another two".to_vec(), b"changed again".to_vec())
    );
    hsm.ok(&["remove", "--wait"], &[paths[0], paths[1], paths[2], &renamed]);
    wait_until(LONG, "the container is empty", || server.blobs("archive", false).is_empty());
}

#[test]
fn what_lemur_left_in_azure_is_restored_and_never_written_over() {
    let (server, hsm) = az();
    let content = noise(9, 70_000);
    let put = |name: &str| {
        let texts = ["x-ms-blob-type: BlockBlob", "x-ms-meta-Permissions: 644", "x-ms-meta-Owner: 0"];
        server.request("PUT", &format!("/archive/lemur%20hsm/dir/{name}"), Some(&content), &texts).ok();
    };
    put("old");
    fs::create_dir(hsm.path("dir")).unwrap();
    // Attributes as Lemur left them: an id, and no hash.
    let path = hsm.path("dir/old");
    let mut command = hsm.site.command();
    command.arg("--config").arg(hsm.site.agent_config());
    let words = ["import", "--no-check", "-i", "2", "--uuid", "dir/old", "--size", "70000"];
    let out = command.args(words).arg(&path).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    assert!(is_released(&path));
    assert!(fs::read(&path).unwrap() == content);
    // Edited, it is archived anew, beside: others may have been imported from the same object.
    fs::write(&path, "edited").unwrap();
    hsm.ok(&["archive", "--wait", "-i", "2"], &[&path]);
    assert!(uuid_of(&path).starts_with("dir/old~"), "{}", uuid_of(&path));
    hsm.release(&[&path]);
    assert_eq!(fs::read(&path).unwrap(), b"edited");
    // Nor does another file take a place that has one.
    put("whose");
    let path = hsm.file("dir/whose", b"mine");
    hsm.ok(&["archive", "--wait", "-i", "2"], &[&path]);
    hsm.ok(&["remove", "--wait"], &[&path]);
    hsm.settle();
    for name in ["dir/old", "dir/whose"] {
        assert!(blob(&server, name) == content, "{name}");
    }
}

/// Renamed away, archived, renamed back and archived: what was kept of the first version is due while its name is in use again.
#[test]
fn p1_the_removal_of_a_kept_version_takes_no_later_one_of_the_same_name() {
    let (server, hsm) = az_with(|site| site.add_agent_setting("keep_versions_s = 3"));
    let (a, b) = (hsm.file("a", b"first"), hsm.path("b"));
    let archive = |path: &Path| hsm.ok(&["archive", "--wait", "-i", "2"], &[path]);
    archive(&a);
    fs::rename(&a, &b).unwrap();
    fs::write(&b, "second").unwrap();
    archive(&b);
    fs::rename(&b, &a).unwrap();
    fs::write(&a, "third").unwrap();
    archive(&a);
    hsm.release(&[&a]);
    let left = format!("lemur hsm/{}", uuid_of(&a));
    wait_until(LONG, "older versions are gone", || server.blobs("archive", false) == [left.clone()]);
    assert_eq!(fs::read(&a).unwrap(), b"third");
    // And back at the name that is free again.
    fs::write(&a, "fourth").unwrap();
    archive(&a);
    assert_eq!(uuid_of(&a), "a");
    hsm.release(&[&a]);
    wait_until(LONG, "older versions are gone", || server.blobs("archive", false) == ["lemur hsm/a"]);
    assert_eq!(fs::read(&a).unwrap(), b"fourth");
}

/// As programs save files, and as logs are rotated: by names that begin with one another.
#[test]
fn p7_what_was_renamed_to_a_longer_name_leaves_nothing_at_its_old_one() {
    let (server, hsm) = az_with(|site| site.add_agent_setting("remove_grace_s = 0"));
    let (log, older) = (hsm.file("app.log", b"first"), hsm.path("app.log.1"));
    let archive = |path: &Path| hsm.ok(&["archive", "--wait", "-i", "2"], &[path]);
    archive(&log);
    fs::rename(&log, &older).unwrap();
    fs::write(&older, "first, and its last line").unwrap();
    archive(&older);
    wait_until(LONG, "the old name is free", || server.blobs("archive", false) == ["lemur hsm/app.log.1"]);
    fs::write(&log, "second").unwrap();
    archive(&log);
    assert_eq!(uuid_of(&log), "app.log");
    // Saved by a rename, which removes the last name of what it replaces.
    let draft = hsm.file("draft", b"third");
    fs::rename(&draft, &log).unwrap();
    archive(&log);
    hsm.release(&[&log, &older]);
    let left = || server.blobs("archive", false);
    let mut own = [format!("lemur hsm/{}", uuid_of(&log)), "lemur hsm/app.log.1".to_owned()];
    own.sort();
    wait_until(LONG, "the replaced one is gone", || left() == own);
    assert_eq!(
        (fs::read(&log).unwrap(), fs::read(&older).unwrap()),
        (b"third".to_vec(), b"first, and its last line".to_vec())
    );
}
