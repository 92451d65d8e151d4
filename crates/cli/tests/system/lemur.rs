//! What was used with Lemur: its command names, and movers that know its protocol alone.

use crate::support::{Hsm, LONG, hsm_state, is_released, noise, uuid_of};
use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};
use testkit::lemur::{LemurCommand, LemurMover, LemurStatus};
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
    let imported = hsm.path("imported");
    let other = hsm.file("other", b"content");
    hsm.archive(&[&other]);
    let (uuid, config) = (uuid_of(&path), hsm.site.agent_config());
    let mut command = named(&scratch, "lhsm");
    command.args([
        "import",
        "-i",
        "1",
        "-uuid",
        &uuid_of(&other),
        "-size",
        "7",
        "-uid",
        "7",
        "-gid",
        "8",
        "-mode",
        "416",
    ]);
    let mtime = "2016-01-02 03:04:05.5 -0100";
    let out = command.args(["-mtime", mtime]).arg(&imported).env("SIFAKA_CONFIG", config).output().unwrap();
    assert!(out.status.success() && out.stdout.is_empty(), "{out:?}");
    let meta = fs::metadata(&imported).unwrap();
    let expected = (7, 8, 0o640, 1_451_707_445, 500_000_000);
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec()), expected);
    assert_eq!(fs::read(&imported).unwrap(), b"content");
    assert!(lhsm(&["remove"], &path).status.success());
    let is_there = || hsm.site.archive_files().iter().any(|file| file.ends_with(&uuid));
    testkit::wait_until(LONG, "its object is gone", || !is_there());
}

/// Set where this program is to be a mover: the file for its account.
const ACCOUNT: &str = "SIFAKA_TEST_LEMUR_ACCOUNT";

/// Not a test of its own: what the agent starts as a plugin in the test below, since only a plugin's accesses are let through.
#[test]
fn acts_as_a_mover_when_started_as_a_plugin() {
    if let Some(account) = std::env::var_os(ACCOUNT) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serve(Path::new(&account)));
    }
}

async fn serve(account: &Path) {
    let address = std::env::var("LHSMD_AGENT_CONNECTION").unwrap();
    let mount = std::path::PathBuf::from(std::env::var_os("LHSMD_CLIENT_MOUNTPOINT").unwrap());
    let mover = LemurMover::connect(&address, &address).await.unwrap();
    let handle = mover.register(2, "lemur").await.unwrap();
    let mut actions = mover.actions(handle).await.unwrap();
    let (statuses, _answer) = mover.statuses();
    let mut stored: HashMap<String, Vec<u8>> = HashMap::new();
    while let Ok(Some(item)) = actions.message().await {
        let mut log = fs::File::options().create(true).append(true).open(account).unwrap();
        writeln!(log, "{}", item.op).unwrap();
        let mut status = LemurStatus { id: item.id, completed: true, handle: Some(handle), ..LemurStatus::default() };
        if item.op == LemurCommand::Archive as i32 {
            let content = fs::read(mount.join(&item.primary_path)).unwrap();
            status.uuid = format!("lemur-{}", item.id);
            status.hash = vec![7; 20];
            status.length = i64::try_from(content.len()).unwrap();
            stored.insert(status.uuid.clone(), content);
        } else if item.op == LemurCommand::Restore as i32 {
            let content = &stored[&item.uuid];
            let file = fs::File::options().write(true).open(mount.join(&item.write_path)).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, content, 0).unwrap();
            status.length = i64::try_from(content.len()).unwrap();
        } else {
            status.error = -1;
        }
        statuses.send(status).await.unwrap();
    }
}

#[test]
fn a_mover_built_for_lemur_archives_and_restores() {
    let scratch = Scratch::new("lemur");
    let account = scratch.join("account");
    let hsm = Hsm::start_with(FsKind::Ext4, 128, |site| {
        let program = std::env::current_exe().unwrap();
        let test = "lemur::acts_as_a_mover_when_started_as_a_plugin";
        let text = format!(
            "#!/bin/sh\n{ACCOUNT}={} exec {} --exact {test} --nocapture\n",
            account.display(),
            program.display()
        );
        let plugin = site.plugin_dir().join("lemur");
        fs::write(&plugin, text).unwrap();
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
        let config = fs::read_to_string(site.agent_config()).unwrap();
        fs::write(site.agent_config(), config.replace("[\"posix\"]", "[\"posix\", \"lemur\"]")).unwrap();
    });
    let content = noise(1, 300_000);
    let path = hsm.file("f", &content);
    hsm.ok(&["archive", "--wait", "-i", "2"], &[&path]);
    assert!(uuid_of(&path).starts_with("lemur-"));
    assert_eq!(hsm_state(&path).archive_id, 2);
    hsm.release(&[&path]);
    assert!(fs::read(&path).unwrap() == content);
    assert!(!is_released(&path));
    // Only a hash could prove it now, and Lemur's movers make none.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let out = hsm.run(&["release"], &[&path]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(
        !out.status.success() && said.contains("no mover of archive 2 can verify") && !is_released(&path),
        "{said}"
    );
    assert_eq!(
        fs::read_to_string(&account).unwrap(),
        "1\n2\n",
        "one archive, one restore, and nothing it does not know"
    );
}
