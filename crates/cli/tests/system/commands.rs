//! Archives behind programs: the whole cycle with rclone, as an administrator would set it up.

use crate::support::{Hsm, LONG, blocks, hsm_state, is_released, noise, uuid_of};
use model::HsmFlags;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use testkit::{FsKind, Scratch, Site, wait_until};

/// Has archive 2 served by the command mover, with this block. After all other settings, which write the agent's file anew.
fn configure(site: &Site, block: &str) {
    let config = site.posix_config().with_file_name("lhsm-plugin-command");
    fs::write(&config, format!("archive \"cold\" {{\n  id = 2\n{block}\n}}\n")).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let agent = site.agent_config();
    let text = fs::read_to_string(&agent).unwrap();
    fs::write(&agent, text.replace("[\"posix\"]", "[\"posix\", \"command\"]")).unwrap();
}

fn rclone(remote: &Path) -> String {
    format!(
        "profile = \"rclone\"\nroot = \"cold:{}\"\nmax_commands = 2\n\
         environment {{\n RCLONE_CONFIG = \"/dev/null\"\n RCLONE_CONFIG_COLD_TYPE = \"local\"\n }}",
        remote.display()
    )
}

fn objects(remote: &Path) -> Vec<PathBuf> {
    let dirs = fs::read_dir(remote).into_iter().flatten().flatten();
    dirs.flat_map(|dir| fs::read_dir(dir.path()).into_iter().flatten().flatten()).map(|entry| entry.path()).collect()
}

#[test]
fn p1_p2_p5_files_go_to_a_remote_of_rclone_and_come_back_when_they_are_read() {
    let remote = Scratch::new("remote");
    let hsm = Hsm::start_with(FsKind::Xfs, 300, |site| {
        site.add_agent_setting("default_archive = 2\nremove_grace_s = 0");
        configure(site, &rclone(remote.path()));
    });
    let files = hsm.files(8);
    let paths: Vec<&Path> = files.iter().map(|(path, _)| path.as_path()).collect();
    hsm.archive(&paths);
    assert_eq!(objects(remote.path()).len(), files.len());
    hsm.release(&paths);
    assert!(paths.iter().all(|path| blocks(path) == 0));
    for (path, content) in &files {
        assert!(fs::read(path).unwrap() == *content, "{}", path.display());
        assert!(!is_released(path));
    }
    // Touched, and so looked at once more: by hash, and by asking for the object.
    fs::File::open(&files[1].0).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    hsm.release(&paths);

    // One object is damaged: no wrong byte is served, and it is tried no more.
    let object = remote.join(format!("{}/{}", &uuid_of(paths[0])[..4], uuid_of(paths[0])));
    testkit::faults::corrupt(&object);
    assert!(fs::read(paths[0]).is_err());
    assert!(is_released(paths[0]));
    fs::write(&object, &files[0].1).unwrap();
    assert!(fs::read(paths[0]).unwrap() == files[0].1);

    // Written anew: one object again, of the new content.
    fs::write(paths[2], b"new").unwrap();
    wait_until(LONG, "a changed file is dirty", || hsm_state(paths[2]).flags.contains(HsmFlags::DIRTY));
    hsm.archive(&[paths[2]]);
    hsm.settle();
    assert_eq!(objects(remote.path()).len(), files.len());
    hsm.release(&[paths[2]]);
    assert_eq!(fs::read(paths[2]).unwrap(), b"new");

    hsm.ok(&["restore", "--wait"], &paths);
    hsm.ok(&["remove", "--wait"], &paths[1..]);
    fs::remove_file(paths[0]).unwrap();
    wait_until(LONG, "the last object is gone", || objects(remote.path()).is_empty());
    assert_eq!(hsm.objects(), 0, "the other archive got none");
}

#[test]
fn p5_a_reader_waits_while_a_program_fails_and_programs_open_no_released_file() {
    let remote = Scratch::new("remote");
    // It would wait for itself if the path that it writes were the file.
    let script = remote.join("get");
    fs::write(&script, "#!/bin/sh\n[ -e \"$3\" ] || { : >\"$3.tried\"; exit 75; }\ncp \"$1\" \"$2\"\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(remote.join("staging")).unwrap();
    let ready = remote.join("ready");
    let block = format!(
        "root = {:?}\nstaging = {:?}\narchive = [\"cp\", \"--\", \"{{file}}\", \"{{root}}/{{id}}\"]\n\
         restore = [{script:?}, \"{{root}}/{{id}}\", \"{{file}}\", {ready:?}]\nremove = [\"rm\", \"{{root}}/{{id}}\"]",
        remote.path(),
        remote.join("staging")
    );
    let hsm = Hsm::start_with(FsKind::Ext4, 128, |site| {
        site.add_agent_setting("default_archive = 2");
        configure(site, &block);
    });
    let content = noise(5, 2 << 20);
    let path = hsm.archived_and_released("f", &content);
    let reader = crate::support::cat(&path);
    wait_until(LONG, "a failure", || remote.join("ready.tried").exists());
    fs::write(&ready, b"").unwrap();
    let output = reader.wait_with_output().unwrap();
    assert!(output.status.success() && output.stdout == content);
}

#[test]
fn the_command_mover_s_configuration_is_checked() {
    let hsm = Hsm::start(FsKind::Ext4);
    configure(&hsm.site, "profile = \"rclone\"\nroot = \"r:\"\nmax_comands = 2");
    let out = hsm.run(&["--config", hsm.site.agent_config().to_str().unwrap(), "config", "check"], &[]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(out.status.code(), Some(4), "{said}");
    let expected =
        "lhsm-plugin-command:5:1: unknown key `max_comands` in `archive \"cold\"` (did you mean `max_commands`?)";
    assert!(said.contains(expected), "{said}");
}
