//! `sifaka verify` as a process.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use testkit::Scratch;

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn verify(args: &[&str], paths: [&Path; 2]) -> (Option<i32>, String, String) {
    run(Command::new(env!("CARGO_BIN_EXE_sifaka")).arg("verify").args(args).args(paths))
}

fn grow(root: &Path) {
    fs::create_dir_all(root.join("d")).unwrap();
    fs::write(root.join("d/one"), "one").unwrap();
    fs::write(root.join("two"), "two").unwrap();
}

#[test]
fn it_lists_what_differs_and_says_so_by_its_exit_code() {
    let scratch = Scratch::new("verify-lists");
    let (a, b) = (scratch.join("a"), scratch.join("b"));
    grow(&a);
    let (code, _, stderr) = run(Command::new("cp").arg("-a").args([&a, &b]));
    assert_eq!(code, Some(0), "{stderr}");
    let (code, stdout, stderr) = verify(&["--content"], [&a, &b]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(
        stdout.starts_with("4 are the same, 6 B read in each tree\nthe trees are the same; compared in "),
        "{stdout}"
    );

    fs::set_permissions(b.join("two"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(a.join("two"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::remove_dir_all(b.join("d")).unwrap();
    let (code, stdout, stderr) = verify(&["--ignore", "times"], [&a, &b]);
    assert_eq!(code, Some(6), "{stdout}{stderr}");
    assert!(stderr.contains("two: mode 644, and 600\n"), "{stderr}");
    assert!(stderr.contains("d: only in the first tree, with all below it\n"), "{stderr}");
    let report = scratch.join("report");
    let report_arg = format!("--report={}", report.display());
    let (code, stdout, _) = verify(&["--json", "--ignore", "times", &report_arg], [&a, &b]);
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((code, lines.len()), (Some(6), 3), "{stdout}");
    let two = lines.iter().find(|line| line["path"] == "two").unwrap();
    assert_eq!(two["differs"], serde_json::json!([{"what": "mode", "a": "644", "b": "600"}]));
    assert_eq!((&lines[2]["differs"], &lines[2]["missing"], &lines[2]["same"]), (&1.into(), &1.into(), &1.into()));
    let written = fs::read_to_string(&report).unwrap();
    let found: BTreeMap<String, String> = written
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| (line["path"].as_str().unwrap().to_owned(), line["found"].as_str().unwrap().to_owned()))
        .collect();
    let expected = [("", "same"), ("d", "missing"), ("two", "differs")];
    assert_eq!(found, expected.map(|(path, found)| (path.to_owned(), found.to_owned())).into());
    assert_eq!(verify(&["--ignore", "times,mode", "--exclude", "d/"], [&a, &b]).0, Some(0));
    assert_eq!(verify(&[], [&a.join("two"), &b]).0, Some(2));
    assert_eq!(verify(&[], [&a, &b.join("missing")]).0, Some(1));
}

#[test]
fn what_may_not_be_read_is_told_and_is_no_difference() {
    let scratch = Scratch::new("verify-unreadable");
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (a, b) = (scratch.join("a"), scratch.join("b"));
    grow(&a);
    fs::set_permissions(a.join("two"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(a.join("d"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(run(Command::new("cp").arg("-a").args([&a, &b])).0, Some(0));
    // A copy that this user may run.
    let program = scratch.join("sifaka");
    fs::copy(env!("CARGO_BIN_EXE_sifaka"), &program).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program).args([
        "verify",
        "--content",
        "--json",
    ]);
    let (code, stdout, stderr) = run(command.args([&a, &b]));
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    let failed: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (path, why) in [("d", "open the directory"), ("two", "open it in the first tree")] {
        let line = failed.iter().find(|line| line["path"] == path).unwrap();
        assert!(line["found"] == "failed" && line["why"].as_str().unwrap().contains(why), "{line}");
    }
    assert_eq!((&failed[2]["failed"], &failed[2]["same"]), (&2.into(), &1.into()), "{stdout}");
}
