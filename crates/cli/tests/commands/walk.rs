//! `sifaka walk` as a process.

use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use testkit::Scratch;

fn walk(args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sifaka"));
    let output = command.arg("walk").args(args).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn it_says_what_is_there_and_what_it_could_not_see() {
    let scratch = Scratch::new("walk-says");
    let root = scratch.join("root");
    fs::create_dir_all(root.join("d")).unwrap();
    for number in 0..20 {
        fs::write(root.join(format!("d/{number}")), vec![7; 5000]).unwrap();
    }
    let root = root.to_str().unwrap();
    let (code, stdout, stderr) = walk(&[root]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    for line in ["files        20     98 KiB", "4 KiB to 16 KiB  20", "root   22", "20 entries  ", "2 levels  "] {
        assert!(stdout.contains(line), "{line}: {stdout}");
    }
    let missing = format!("{root}/missing");
    let (code, stdout, stderr) = walk(&["--json", "--top", "3", "--exclude", "1*", root, &missing]);
    assert_eq!((code, stderr.as_str()), (Some(1), ""));
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [problem, counted] = lines.as_slice() else { panic!("{stdout}") };
    assert_eq!((&problem["path"], &problem["did"]), (&missing.as_str().into(), &"failed".into()));
    assert_eq!((&counted["kinds"]["files"]["count"], &counted["filtered"]), (&9.into(), &11.into()));
    assert_eq!(counted["kinds"]["files"]["size_bytes"], 45_000);
    assert_eq!(counted["largest_files"].as_array().unwrap().len(), 3);
    assert_eq!(counted["owners"][0]["name"], "root");
    assert_eq!((walk(&[]).0, walk(&["--min-size", "x", root]).0), (Some(2), Some(2)));
}

#[test]
fn a_directory_that_may_not_be_read_is_told_and_the_rest_is_counted() {
    let scratch = Scratch::new("walk-unreadable");
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let root = scratch.join("root");
    fs::create_dir_all(root.join("closed")).unwrap();
    fs::write(root.join("file"), "x").unwrap();
    fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    // A copy that this user may run.
    let program = scratch.join("sifaka");
    fs::copy(env!("CARGO_BIN_EXE_sifaka"), &program).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program).args(["walk", "--json"]).arg(&root);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stdout} {}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [problem, counted] = lines.as_slice() else { panic!("{stdout}") };
    assert!(problem["path"].as_str().unwrap().ends_with("/closed"), "{problem}");
    assert_eq!((&counted["failed"], &counted["kinds"]["files"]["count"]), (&1.into(), &1.into()));
}
