//! The program under Lemur's names, and commands that need no agent.

use crate::agent_double::{End, Served, sifaka, stderr, stdout};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;

#[test]
fn lhsm_is_quiet_and_takes_single_dashes() {
    let served = Served::start(End::Well);
    let directory = tempfile::tempdir().unwrap();
    File::create(directory.path().join("a")).unwrap();
    let lhsm = |args: &[&str]| {
        let mut command = sifaka("/usr/bin/lhsm");
        command.env("SIFAKA_SOCKET", &served.socket).args(args).arg(directory.path().join("a")).output().unwrap()
    };
    let output = lhsm(&["archive", "-id", "3"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), ""), "{}", stderr(&output));
    // The file, and the directories above it.
    let call = r#"(Archive, Some(3), false, "")"#;
    assert_eq!(*served.control.calls.lock().unwrap(), [call, call]);
    assert_eq!(stdout(&lhsm(&["status", "-hide-path"])), "1 archived -\n");
}

#[test]
fn a_mover_by_hand_says_who_starts_it() {
    for name in ["posix", "object", "s3", "az", "command", "noop"] {
        let output = sifaka(&format!("lhsm-plugin-{name}")).env_clear().output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(stderr(&output).contains("started by the agent"), "{name}: {}", stderr(&output));
    }
}

#[test]
fn a_dry_run_needs_no_agent() {
    let directory = tempfile::tempdir().unwrap();
    File::create(directory.path().join("a")).unwrap();
    for command in ["archive", "release", "restore", "remove", "cancel"] {
        let output = sifaka("sifaka").args([command, "--dry-run"]).arg(directory.path()).output().unwrap();
        let expected = format!("would {command} {}/a\n", directory.path().display());
        let printed = stdout(&output);
        assert_eq!(output.status.code(), Some(0));
        if command == "archive" {
            let record = format!("would record {}\n", directory.path().display());
            assert!(printed.contains(&expected) && printed.contains(&record), "{printed}");
        } else {
            assert_eq!(printed, expected);
        }
    }
}

#[test]
fn usage_errors_end_with_2() {
    for args in [
        &["archive"][..],
        &["archive", "-i", "0", "x"],
        &["set", "x"],
        &["set", "--flag", "released", "x"],
        &["nonsense"],
    ] {
        assert_eq!(sifaka("sifaka").args(args).output().unwrap().status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn a_configuration_is_checked_with_its_movers() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    };
    let agent = write("agent", "client_device = \"/data\"\nenabled_plugins = [\"lhsm-plugin-posix\"]\n");
    let posix = write("lhsm-plugin-posix", "archive \"one\" {\n  id = 1\n  root = \"/archive\"\n}\n");
    let check = |args: &[&str]| sifaka("sifaka").args(["config", "check"]).args(args).arg(&agent).output().unwrap();
    let output = check(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    write("lhsm-plugin-posix", "archive \"one\" {\n  id = 1\n  rooot = \"/archive\"\n}\n");
    let output = check(&[]);
    assert_eq!(output.status.code(), Some(4));
    assert!(stdout(&output).contains(&format!("error: {}:3:3: ", posix.display())), "{}", stdout(&output));
    let found: serde_json::Value = serde_json::from_str(stdout(&check(&["--json"])).lines().next().unwrap()).unwrap();
    assert_eq!(found["severity"], "error");
    fs::remove_file(&posix).unwrap();
    assert_eq!(check(&[]).status.code(), Some(4));
    let agent = sifaka("sifaka").args(["agent", "--config", "/nonexistent/agent"]).output().unwrap();
    assert_eq!(agent.status.code(), Some(4), "{}", stderr(&agent));
}

/// Else each of the two would be asked for objects that the other one has.
#[test]
fn two_movers_have_no_archive_of_one_number() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    };
    let agent = write("agent", "client_device = \"/data\"\nenabled_plugins = [\"posix\", \"lhsm-plugin-object\"]\n");
    let posix = write("lhsm-plugin-posix", "archive \"here\" { id = 7 root = \"/archive\" }\n");
    let object =
        |id: u32| write("lhsm-plugin-object", &format!("archive \"there\" {{ id = {id} url = \"s3://b\" }}\n"));
    let both = [&posix, &object(7)].map(|path| path.display().to_string());
    let run = |args: &[&str]| sifaka("sifaka").arg("--config").arg(&agent).args(args).output().unwrap();
    for (args, is_told) in
        [(&["config", "check"][..], stdout as fn(&_) -> _), (&["agent"], stderr), (&["scrub", "-i", "7"], stderr)]
    {
        let output = run(args);
        assert_eq!(output.status.code(), Some(4), "{args:?}: {}", stderr(&output));
        let text = is_told(&output);
        assert!(text.contains('7') && both.iter().all(|file| text.contains(file)), "{args:?}: {text}");
    }
    object(8);
    assert_eq!(run(&["config", "check"]).status.code(), Some(0));
}

#[test]
fn movers_on_other_hosts_cannot_serve_a_local_filesystem() {
    let directory = tempfile::tempdir().unwrap();
    let agent = directory.path().join("agent");
    let text = format!(
        "client_device = {path:?}\nenabled_plugins = [\"noop\"]\nstate_dir = {state:?}\n\
         transport {{\n  socket_dir = {state:?}\n  type = \"nats\"\n  servers = [\"localhost\"]\n  filesystem = \"f\"\n}}\n",
        path = directory.path(),
        state = directory.path().join("state"),
    );
    fs::write(&agent, text).unwrap();
    for args in [&["config", "check"][..], &["agent"]] {
        let output = sifaka("sifaka").arg("--config").arg(&agent).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
        let told = stdout(&output).to_owned() + &stderr(&output);
        assert!(told.contains("is a filesystem of this host alone"), "{told}");
    }
}

#[test]
fn pages_and_completions_are_made() {
    let directory = tempfile::tempdir().unwrap();
    assert!(sifaka("sifaka").arg("man").arg("--dir").arg(directory.path()).status().unwrap().success());
    let pages: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|page| page.unwrap().file_name()).collect();
    for page in ["sifaka.1", "sifaka-archive.1", "sifaka-config-check.1", "sifaka-doctor.1"] {
        assert!(pages.iter().any(|have| have == page), "{page} in {pages:?}");
    }
    assert!(stdout(&sifaka("sifaka").arg("man").output().unwrap()).contains("sifaka"));
    for shell in ["bash", "zsh", "fish"] {
        let output = sifaka("sifaka").args(["completions", shell]).output().unwrap();
        assert!(stdout(&output).contains("doctor"), "{shell}");
    }
}
