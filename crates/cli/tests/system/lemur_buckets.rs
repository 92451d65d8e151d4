//! Lemur's movers for buckets, replaced: its configuration as it is, its objects, its attributes.

use crate::support::{Hsm, LONG, hsm_state, is_released, noise, uuid_of};
use model::xattr;
use std::fs;
use std::path::Path;
use testkit::services::Rgw;
use testkit::{FsKind, wait_until};

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
