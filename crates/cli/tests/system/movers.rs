//! Movers that end, hang, or never say a word: what the status tells of them, and that their work is not lost.

use crate::support::{Hsm, LONG, noise};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use testkit::{FsKind, Site, wait_until};

/// Enables a plugin besides posix. To be called after all other settings, which write the file anew.
fn enable(site: &Site, name: &str) {
    let path = site.agent_config();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(path, text.replace("[\"posix\"]", &format!("[\"posix\", \"{name}\"]"))).unwrap();
}

fn script(site: &Site, name: &str, text: &str) {
    let path = site.plugin_dir().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    enable(site, name);
}

fn plugin(hsm: &Hsm, name: &str) -> Value {
    let status = hsm.status().unwrap();
    let plugins = status["agent"]["plugins"].as_array().unwrap();
    plugins.iter().find(|p| p["name"].as_str().is_some_and(|n| n.ends_with(name))).cloned().unwrap_or_default()
}

#[test]
fn a_mover_that_ends_at_once_is_started_again_with_pauses() {
    let hsm = Hsm::start_with(FsKind::Ext4, 128, |site| script(site, "broken", "#!/bin/sh\nexit 3\n"));
    wait_until(LONG, "it was started again", || plugin(&hsm, "broken")["restarts"].as_u64() >= Some(1));
    wait_until(LONG, "it waits to be started", || plugin(&hsm, "broken")["state"] == "backoff");
    let last = plugin(&hsm, "broken")["last_exit"].clone();
    assert!(last.as_str().is_some_and(|text| text.contains('3')), "{last}");
    // The other one is not disturbed.
    let path = hsm.archived_and_released("f", b"content");
    assert_eq!(fs::read(path).unwrap(), b"content");
}

#[test]
fn a_mover_that_does_not_register_is_starting() {
    let hsm = Hsm::start_with(FsKind::Ext4, 128, |site| script(site, "slow", "#!/bin/sh\nexec sleep 1000\n"));
    wait_until(LONG, "it was started", || plugin(&hsm, "slow")["pid"].is_number());
    assert_eq!(plugin(&hsm, "slow")["state"], "starting");
    let path = hsm.archived_and_released("f", b"content");
    assert_eq!(fs::read(path).unwrap(), b"content");
    assert_eq!(plugin(&hsm, "slow")["state"], "starting");
}

#[test]
fn a_hung_mover_is_killed_and_its_actions_are_tried_again() {
    let hsm = Hsm::start_with(FsKind::Ext4, 128, |site| {
        site.add_agent_setting("mover_hang_timeout_s = 1");
        let config = site.posix_config().with_file_name("lhsm-plugin-noop");
        fs::write(&config, "hang = true\narchive \"2\" {\n  id = 2\n}\n").unwrap();
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
        enable(site, "noop");
    });
    wait_until(LONG, "it is registered", || plugin(&hsm, "noop")["state"] == "running");
    let first = plugin(&hsm, "noop")["pid"].clone();
    let path = hsm.file("f", &noise(1, 5000));
    hsm.ok(&["archive", "-i", "2"], &[&path]);
    wait_until(LONG, "it was killed and started again", || {
        let plugin = plugin(&hsm, "noop");
        plugin["restarts"].as_u64() >= Some(1) && plugin["pid"].is_number() && plugin["pid"] != first
    });
    assert!(plugin(&hsm, "noop")["last_exit"].as_str().is_some_and(|text| !text.is_empty()));
    wait_until(LONG, "its action was given out again", || plugin(&hsm, "noop")["restarts"].as_u64() >= Some(2));
    hsm.ok(&["cancel"], &[&path]);
    wait_until(LONG, "every slot came back", || {
        hsm.ok(&["cancel", "--all"], &[]);
        hsm.status().unwrap()["agent"]["in_flight"] == 0
    });
    let path = hsm.archived_and_released("g", b"content");
    assert_eq!(fs::read(path).unwrap(), b"content");
}
