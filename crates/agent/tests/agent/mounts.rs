//! Private mounts of a filesystem on a loop device.

use crate::kit;
use config::ClientDevice;
use sifaka_agent::{cleanup_mounts, configure_mounts};
use std::time::{Duration, Instant};
use testkit::{FsKind, LoopFs};

#[test]
fn agent_and_movers_get_their_own_mounts_and_they_go_in_order() {
    let fs = LoopFs::new(FsKind::Ext4, 64);
    let dir = tempfile::tempdir().unwrap();
    let mut config = kit::config(&dir);
    config.client_device = ClientDevice::Local(fs.path());
    config.enabled_plugins = vec!["posix".into(), "/somewhere/else".into()];
    std::fs::write(fs.path().join("file"), "content").unwrap();
    let mounts = configure_mounts(&config).unwrap();
    assert_eq!((mounts.agent(), mounts.mover("else")), (&*dir.path().join("mnt/agent"), dir.path().join("mnt/else")));
    for name in ["agent", "posix", "else"] {
        let path = dir.path().join("mnt").join(name);
        assert!(sys::mounts::is_mount_point(&path).unwrap());
        assert_eq!(std::fs::read(path.join("file")).unwrap(), b"content");
    }
    // What an agent that was killed left (here: one whose value is forgotten) goes first.
    std::mem::forget(mounts);
    let busy = std::fs::File::open(dir.path().join("mnt/posix/file")).unwrap();
    let mounts = configure_mounts(&config).unwrap();
    assert_eq!(sys::mounts::mounts_under(dir.path().join("mnt")).unwrap().len(), 3);
    drop(busy);
    // A user that leaves after a while is waited for.
    let busy = std::fs::File::open(dir.path().join("mnt/agent/file")).unwrap();
    let start = Instant::now();
    let user = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1500));
        drop(busy);
    });
    cleanup_mounts(mounts);
    assert!(start.elapsed() >= Duration::from_millis(1500), "it did not wait: {:?}", start.elapsed());
    assert!(sys::mounts::mounts_under(dir.path().join("mnt")).unwrap().is_empty());
    user.join().unwrap();
    // Dropping unmounts too.
    drop(configure_mounts(&config).unwrap());
    assert!(sys::mounts::mounts_under(dir.path().join("mnt")).unwrap().is_empty());
}

#[test]
fn what_cannot_be_mounted_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = kit::config(&dir);
    config.enabled_plugins = vec!["posix".into()];
    config.client_device = "10.0.2.15@tcp:/lustre".parse().unwrap();
    let error = configure_mounts(&config).unwrap_err().to_string();
    assert!(error.contains("this kernel has no Lustre client") && error.contains("10.0.2.15@tcp:/lustre"), "{error}");
    config.client_device = ClientDevice::Local("/nonexistent/place".into());
    assert!(configure_mounts(&config).unwrap_err().to_string().contains("/nonexistent/place"));
    assert!(sys::mounts::mounts_under(dir.path()).unwrap().is_empty());
}
