//! What was used with Lemur: its command names.

use crate::support::{Hsm, LONG, hsm_state, is_released};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use testkit::{FsKind, Scratch, sifaka_binary};

/// The program under another name.
fn named(scratch: &Scratch, name: &str) -> Command {
    let link = scratch.join(name);
    if !link.exists() {
        std::os::unix::fs::symlink(sifaka_binary(), &link).unwrap();
    }
    Command::new(link)
}

#[test]
fn lemur_s_command_names_work() {
    let scratch = Scratch::new("names");
    let mut hsm = Hsm::start_with(FsKind::Ext4, 128, |_| {});
    // The agent by its old name, on what the other one left.
    hsm.stop_agent();
    let mut command = named(&scratch, "lhsmd");
    command.arg("-config").arg(hsm.site.agent_config());
    hsm.agent = Some(hsm.site.start_agent_as(command));
    hsm.wait_for_movers();
    let lhsm = |words: &[&str], path: &Path| -> Output {
        let mut command = named(&scratch, "lhsm");
        command.env("SIFAKA_SOCKET", hsm.site.admin_socket()).args(words).arg(path).output().unwrap()
    };
    let path = hsm.file("f", b"content");
    let out = lhsm(&["archive", "-i", "1"], &path);
    assert!(out.status.success() && out.stdout.is_empty(), "{out:?}");
    hsm.settle();
    assert!(hsm_state(&path).is_clean_copy());
    let short = |state: &str| {
        let out = lhsm(&["status"], &path);
        let text = String::from_utf8(out.stdout).unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        assert!(out.status.success() && words.first() == path.to_str().as_ref(), "{text}");
        assert!(words.contains(&state) && words.contains(&"1"), "{state}: {text}");
    };
    short("archived");
    assert!(lhsm(&["release"], &path).status.success());
    assert!(is_released(&path));
    short("released");
    assert_eq!(fs::read(&path).unwrap(), b"content");
    assert!(lhsm(&["remove"], &path).status.success());
    testkit::wait_until(LONG, "its object is gone", || hsm.objects() == 0);
    let out = lhsm(&["import", "-i"], &path);
    assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("not built in yet"), "{out:?}");
}
