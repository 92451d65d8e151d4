//! The command mover as a process, over the protocol, with real programs: those of the system, and scripts that misbehave.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

extern crate sifaka_movers as movers;

use plugin::{AgentAddress, Environment};
use proto::pdm::{ActionItem, ActionStatus, Command as Op, ErrorKind};
use std::collections::HashMap;
use std::env;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use testkit::pdm_agent::PdmAgent;
use testkit::{Scratch, wait_until};

const BASE: &str = "SIFAKA_TEST_MOVER_BASE";
const ENOENT: i32 = 2;
const EIO: i32 = 5;
const EAGAIN: i32 = 11;
const EINVAL: i32 = 22;
const EOPNOTSUPP: i32 = 95;
const ETIMEDOUT: i32 = 110;
const ESTALE: i32 = 116;
const ECANCELED: i32 = 125;

/// Files that go through `cp` and the staging directory, and are looked at with `stat`.
const CP: &str = r#"archive = ["cp", "--", "{file}", "{root}/{id}"]
restore = ["cp", "--", "{root}/{id}", "{file}"]
remove = ["rm", "--", "{root}/{id}"]
stat = ["stat", "-c", "%s", "--", "{root}/{id}"]
failures { missing_text = ["No such file or directory"] }
"#;

/// Not a test by itself: the mover that the tests start.
#[test]
#[ignore = "run as a child process by the tests of this file"]
fn child_mover() {
    let base = PathBuf::from(env::var_os(BASE).unwrap());
    let environment = Environment {
        agent: AgentAddress::Path(base.join("agent.sock")),
        client_mountpoint: base.join("files"),
        config_dir: base.clone(),
    };
    movers::command::run(environment, &base.join("config")).unwrap();
}

/// An agent, a mover with one archive, and a directory of files.
struct Bench {
    agent: PdmAgent,
    mover: Child,
    handle: u64,
    capabilities: u32,
    next: u64,
    scratch: Scratch,
}

impl Bench {
    /// With `root` and `staging` set, and these settings besides. `SCRATCH` in them stands for the directory of all.
    fn start(settings: &str) -> Self {
        Self::start_with(settings, |_| {})
    }

    fn start_with(settings: &str, prepare: impl FnOnce(&Scratch)) -> Self {
        let scratch = Scratch::new("command-mover");
        for name in ["files", "root", "staging", "bin"] {
            fs::create_dir(scratch.join(name)).unwrap();
        }
        prepare(&scratch);
        let (root, staging) = (scratch.join("root"), scratch.join("staging"));
        let settings = settings.replace("SCRATCH", scratch.path().to_str().unwrap());
        let root = if settings.contains("root =") { String::new() } else { format!("root = {root:?}") };
        let config = format!("archive \"one\" {{\n id = 7\n {root}\n staging = {staging:?}\n{settings}\n}}\n");
        fs::write(scratch.join("config"), config).unwrap();
        fs::set_permissions(scratch.join("config"), fs::Permissions::from_mode(0o600)).unwrap();
        let mut agent = PdmAgent::start(scratch.join("agent.sock").to_str().unwrap());
        let mover = spawn(scratch.path());
        let (endpoint, handle) = agent.registration();
        assert_eq!(endpoint.archive, 7);
        Self { agent, mover, handle, capabilities: endpoint.capabilities, next: 0, scratch }
    }

    /// With a script for each action: `archive`, `restore`, `remove` in `bin`, given the id, and the file where it has one.
    fn scripts(scripts: &[(&str, &str)], settings: &str) -> Self {
        let text = r#"archive = ["SCRATCH/bin/archive", "{id}", "{file}"]
            restore = ["SCRATCH/bin/restore", "{id}", "{file}"]
            remove = ["SCRATCH/bin/remove", "{id}"]"#;
        let has = |key: &str| settings.contains(&format!("{key} = ["));
        let lines: Vec<_> = text.lines().filter(|line| !has(line.trim().split(' ').next().unwrap())).collect();
        Self::start_with(&format!("{}\n{settings}", lines.join("\n")), |scratch| {
            for name in ["archive", "restore", "remove"] {
                let body = scripts.iter().find(|(script, _)| *script == name).map_or("exit 1", |(_, body)| body);
                let body = body.replace("SCRATCH", scratch.path().to_str().unwrap());
                script(&scratch.join("bin").join(name), &body);
            }
        })
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.scratch.join("files").join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn send(&mut self, op: Op, item: ActionItem) -> u64 {
        self.next += 1;
        self.agent.send(self.handle, ActionItem { id: self.next, op: op.into(), length: -1, ..item });
        self.next
    }

    fn run(&mut self, op: Op, item: ActionItem) -> ActionStatus {
        let id = self.send(op, item);
        let status = self.end();
        assert_eq!(status.id, id);
        status
    }

    /// The next end of an action.
    fn end(&mut self) -> ActionStatus {
        loop {
            let status = self.agent.status();
            if status.completed {
                return status;
            }
        }
    }

    /// So many ends, by the action's number.
    fn ends(&mut self, count: usize) -> HashMap<u64, ActionStatus> {
        let ends: HashMap<_, _> = (0..count).map(|_| self.end()).map(|status| (status.id, status)).collect();
        assert_eq!(ends.len(), count, "one result for each");
        ends
    }

    fn cancel(&mut self, id: u64) {
        self.agent.send(self.handle, ActionItem { op: Op::Cancel.into(), cancel_target: id, ..ActionItem::default() });
    }

    /// Files below a directory of the scratch.
    fn found(&self, name: &str) -> Vec<PathBuf> {
        let (mut files, mut dirs) = (Vec::new(), vec![self.scratch.join(name)]);
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().unwrap().is_dir() { dirs.push(entry.path()) } else { files.push(entry.path()) }
            }
        }
        files.sort();
        files
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.scratch.join(name)).unwrap_or_default()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.mover.kill();
        let _ = self.mover.wait();
    }
}

fn spawn(base: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "child_mover"])
        .env(BASE, base)
        .env("SIFAKA_SECRET", "not for programs")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn script(path: &Path, body: &str) {
    fs::write(path, format!("#!/bin/bash\n{body}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn id(number: usize) -> String {
    format!("0e2f9a7c-5ad1-4b6e-9b7a-{number:012x}")
}

fn content(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    testkit::Random::new(size as u64).fill(&mut bytes);
    bytes
}

fn archive(path: &str, number: usize) -> ActionItem {
    ActionItem {
        primary_path: path.to_owned(),
        uuid: id(number),
        file_path: format!("/home/{path}"),
        ..ActionItem::default()
    }
}

/// The restore of what was archived, into a file of the bench.
fn restore(archived: &ActionStatus, size: usize, to: &str) -> ActionItem {
    ActionItem {
        write_path: to.to_owned(),
        uuid: archived.uuid.clone(),
        hash: archived.hash.clone(),
        expected_size: Some(size as u64),
        ..ActionItem::default()
    }
}

#[track_caller]
fn assert_done(status: &ActionStatus) {
    assert_eq!((status.error, status.error_text.as_str()), (0, ""));
}

#[track_caller]
fn assert_failed(status: &ActionStatus, errno: i32, kind: ErrorKind, text: &[&str]) {
    assert_eq!((status.error, status.error_kind), (errno, i32::from(kind)), "{status:?}");
    for part in text {
        assert!(status.error_text.contains(part), "{part:?} is not in {:?}", status.error_text);
    }
}

/// Archive, verify, restore, remove, each as it should be; with empty and large files.
fn whole_cycle(bench: &mut Bench) {
    for (number, size) in [0, 1, 70_000, 3_000_001].into_iter().enumerate() {
        let content = content(size);
        let file = bench.file("a", &content);
        // As the agent names it: the descriptor of another process.
        let open = fs::File::open(&file).unwrap();
        let lent = format!("/proc/{}/fd/{}", std::process::id(), open.as_raw_fd());
        let item = ActionItem { primary_path: lent, tree_path: b"dir/a".to_vec(), ..archive("a", number) };
        let archived = bench.run(Op::Archive, item.clone());
        assert_done(&archived);
        assert_eq!(archived.hash, blake3::hash(&content).as_bytes());
        let named = ActionItem { uuid: archived.uuid.clone(), hash: archived.hash.clone(), ..item };
        let verified = bench.run(Op::Verify, named.clone());
        assert_done(&verified);
        assert_eq!(verified.hash, archived.hash);

        let target = bench.file("b", &vec![0xee; size]);
        let restored = bench.run(Op::Restore, restore(&archived, size, "b"));
        assert_done(&restored);
        assert_eq!(restored.hash, archived.hash);
        assert!(fs::read(&target).unwrap() == content, "{size}");
        for _ in 0..2 {
            assert_done(&bench.run(Op::Remove, named.clone()));
        }
        assert_eq!(bench.found("root"), Vec::<PathBuf>::new());
        assert_eq!(bench.found("staging"), Vec::<PathBuf>::new());
        let status = bench.run(Op::Verify, named);
        assert_failed(&status, ENOENT, ErrorKind::Permanent, &["cannot verify /home/a (archive \"one\")"]);
        let status = bench.run(Op::Restore, restore(&archived, size, "b"));
        assert_failed(&status, ENOENT, ErrorKind::Permanent, &["(archive \"one\")"]);
    }
}

#[test]
fn files_go_and_come_back_through_cp() {
    let mut bench = Bench::start(CP);
    assert_eq!(bench.capabilities, 1 | 2 | 4, "cancel, verify, proposed uuid, and nothing else");
    whole_cycle(&mut bench);
}

#[test]
fn files_go_and_come_back_through_pipes() {
    let mut bench = Bench::start(
        r#"archive = ["dd", "of={root}/{id}", "status=none"]
        restore = ["cat", "--", "{root}/{id}"]
        remove = ["rm", "--", "{root}/{id}"]
        stat = ["stat", "-c", "%s", "--", "{root}/{id}"]
        check_stored = "content"
        failures { missing_text = ["No such file or directory"] }"#,
    );
    whole_cycle(&mut bench);
}

#[test]
fn files_go_and_come_back_through_rclone() {
    let rclone = Command::new("rclone").arg("version").output();
    assert!(rclone.is_ok_and(|out| out.status.success()), "install rclone, or run scripts/install-test-deps");
    let mut bench = Bench::start(
        "profile = \"rclone\"\nroot = \"tape:SCRATCH/root\"\nmax_commands = 2\n\
         environment {\n RCLONE_CONFIG = \"/dev/null\"\n RCLONE_CONFIG_TAPE_TYPE = \"local\"\n }",
    );
    whole_cycle(&mut bench);
    // Two at once.
    for number in 0..8 {
        bench.file(&format!("f{number}"), &content(100_000 + number));
        bench.send(Op::Archive, archive(&format!("f{number}"), number));
    }
    bench.ends(8).values().for_each(assert_done);
    assert_eq!(bench.found("root").len(), 8);
    assert!(bench.scratch.join(format!("root/0e2f/{}", id(3))).exists());
}

#[test]
fn many_files_go_to_a_mounted_tape_and_back_by_one_command() {
    let tape = testkit::LoopFs::new(testkit::FsKind::Ext4, 128);
    let root = tape.path().join("archive");
    fs::create_dir(&root).unwrap();
    let settings = format!(
        "profile = \"ltfs\"\nroot = {root:?}\nmount_point = {:?}\nbatch {{\n max_files = 20\n max_wait_s = 1\n }}",
        tape.path()
    );
    let mut bench = Bench::start(&settings);
    let contents: Vec<_> = (0..45).map(|number| content(number * 1000)).collect();
    let mut sent = HashMap::new();
    for (number, content) in contents.iter().enumerate() {
        bench.file(&format!("f{number}"), content);
        sent.insert(bench.send(Op::Archive, archive(&format!("f{number}"), number)), number);
    }
    let archived: HashMap<usize, ActionStatus> =
        bench.ends(45).into_iter().map(|(action, status)| (sent[&action], status)).collect();
    archived.values().for_each(assert_done);
    assert!((0..45).all(|number| fs::read(root.join(id(number))).unwrap() == contents[number]));

    // One of them is lost, and one damaged: the others come all the same.
    fs::remove_file(root.join(id(7))).unwrap();
    testkit::faults::corrupt(&root.join(id(9)));
    sent.clear();
    for (number, content) in contents.iter().enumerate() {
        bench.file(&format!("r{number}"), &vec![0xee; content.len()]);
        let item = restore(&archived[&number], content.len(), &format!("r{number}"));
        sent.insert(bench.send(Op::Restore, item), number);
    }
    for (action, status) in bench.ends(45) {
        let number = sent[&action];
        match number {
            7 => assert_failed(&status, ENOENT, ErrorKind::Permanent, &["No such file"]),
            9 => assert_failed(&status, EIO, ErrorKind::Permanent, &["hash"]),
            _ => {
                assert_done(&status);
                assert!(fs::read(bench.scratch.join(format!("files/r{number}"))).unwrap() == contents[number]);
            }
        }
    }
    wait_until(Duration::from_secs(20), "the staging directory is empty", || bench.found("staging").is_empty());
    let item = ActionItem { uuid: id(3), ..ActionItem::default() };
    assert_done(&bench.run(Op::Remove, item.clone()));
    assert!(!root.join(id(3)).exists());

    // Without the tape nothing is written beneath it, and nothing is said to be missing.
    drop(tape);
    fs::create_dir_all(&root).unwrap();
    assert_failed(&bench.run(Op::Remove, item), ESTALE, ErrorKind::Temporary, &["nothing is mounted at"]);
    let status = bench.run(Op::Archive, archive("f1", 1));
    assert_failed(&status, ESTALE, ErrorKind::Temporary, &["nothing is mounted at"]);
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    let _ = fs::remove_dir_all(root.parent().unwrap());
}

/// Checks each command line, and does with files what HPSS would.
const HSI: &str = r#"echo "hsi|$#|$1|$2" >>SCRATCH/lines
[ $# = 2 ] && [ "$1" = -q ] || exit 64
name='0e2f/0e2f9a7c-5ad1-4b6e-9b7a-[0-9a-f]{12}'
if [[ $2 =~ ^"mkdir -p /hpss/a/0e2f; put "(/proc/[0-9]+/fd/[0-9]+)" : /hpss/a/"($name)$ ]]; then
    mkdir -p SCRATCH/root/0e2f && cp "${BASH_REMATCH[1]}" "SCRATCH/root/${BASH_REMATCH[2]}" || exit 74
elif [[ $2 =~ ^"get "(SCRATCH/staging/[-./a-z0-9]+)" : /hpss/a/"($name)$ ]]; then
    [ -e "SCRATCH/root/${BASH_REMATCH[2]}" ] || { echo "*** hsi: HPSS_ENOENT" >&2; exit 64; }
    cp "SCRATCH/root/${BASH_REMATCH[2]}" "${BASH_REMATCH[1]}"
elif [[ $2 =~ ^(rm|ls)" /hpss/a/"($name)$ ]]; then
    [ -e "SCRATCH/root/${BASH_REMATCH[2]}" ] || { echo "*** hsi: HPSS_ENOENT" >&2; exit 64; }
    [ "${BASH_REMATCH[1]}" = ls ] || rm "SCRATCH/root/${BASH_REMATCH[2]}"
else
    echo "not a command: $2" >&2
    exit 77
fi"#;

#[test]
fn the_command_lines_of_the_hsi_profile_are_exact() {
    let settings = "profile = \"hsi\"\nroot = \"/hpss/a\"\nenvironment {\n PATH = \"SCRATCH/bin:/usr/bin:/bin\"\n }";
    let mut bench = Bench::start_with(settings, |scratch| {
        script(&scratch.join("bin/hsi"), &HSI.replace("SCRATCH", scratch.path().to_str().unwrap()));
    });
    whole_cycle(&mut bench);
    let lines = bench.text("lines");
    let name = format!("/hpss/a/0e2f/{}", id(0));
    for expected in [format!("hsi|2|-q|ls {name}"), format!("hsi|2|-q|rm {name}"), format!(" : {name}")] {
        assert!(lines.lines().any(|line| line.ends_with(&expected)), "{expected} in {lines}");
    }
}

#[test]
fn the_command_lines_of_the_htar_profile_are_exact() {
    let settings = "profile = \"htar\"\nroot = \"/hpss/a\"\nbatch { max_wait_s = 1 }\n\
                    environment {\n PATH = \"SCRATCH/bin:/usr/bin:/bin\"\n }";
    let htar = r#"echo "$*" >>SCRATCH/lines
tar=$(echo "$*" | sed -nE 's|.* -f /hpss/a/([0-9a-f]{4}/[-0-9a-f]{36}\.tar) .*|\1|p')
[ -n "$tar" ] || exit 64
case "$*" in
    "-c -P -h -f /hpss/a/$tar -L SCRATCH/staging/"*/list)
        mkdir -p SCRATCH/root/${tar%/*} && tar -chf "SCRATCH/root/$tar" -T "${!#}" ;;
    "-x -f /hpss/a/$tar "[-0-9a-f]*)
        [ -e "SCRATCH/root/$tar" ] || { echo HPSS_ENOENT >&2; exit 64; }
        tar -xf "SCRATCH/root/$tar" "$4" ;;
    *) exit 64 ;;
esac"#;
    let hsi = r#"[[ $2 =~ ^"ls /hpss/a/"([0-9a-f]{4}/[-0-9a-f]{36}.tar)$ ]] || exit 77
[ -e "SCRATCH/root/${BASH_REMATCH[1]}" ] || { echo HPSS_ENOENT >&2; exit 64; }"#;
    let mut bench = Bench::start_with(settings, |scratch| {
        for (name, body) in [("htar", htar), ("hsi", hsi)] {
            let body = body.replace("SCRATCH", scratch.path().to_str().unwrap());
            script(&scratch.join("bin").join(name), &body);
        }
    });
    let mut sent = HashMap::new();
    for number in 0..12 {
        bench.file(&format!("f{number}"), &content(number * 5000));
        sent.insert(bench.send(Op::Archive, archive(&format!("f{number}"), number)), number);
    }
    let archived = bench.ends(12);
    archived.values().for_each(assert_done);
    let tars = bench.found("root").len();
    assert!(tars < 12, "{tars} tar files for 12 files");
    for (action, status) in &archived {
        let number = sent[action];
        assert!(status.uuid.ends_with(&format!(".{}", id(number))), "{}", status.uuid);
        let target = bench.file("r", b"");
        assert_done(&bench.run(Op::Restore, restore(status, number * 5000, "r")));
        assert!(fs::read(target).unwrap() == content(number * 5000));
        let item = ActionItem { uuid: status.uuid.clone(), ..ActionItem::default() };
        assert_done(&bench.run(Op::Remove, item));
    }
    assert_eq!(bench.found("root").len(), tars, "members are not removed");
    let gone = &archived[&1];
    fs::remove_dir_all(bench.scratch.join("root")).unwrap();
    assert_failed(&bench.run(Op::Restore, restore(gone, 0, "r")), ENOENT, ErrorKind::Permanent, &["HPSS_ENOENT"]);
}

#[test]
fn exit_codes_and_texts_say_whether_to_try_again() {
    let archive_script = r#"case $(cat "$2") in
        busy) echo first >&2; echo "drive is busy" >&2; exit 1 ;;
        full) echo "no tape" >&2; exit 75 ;;
        denied) printf 'permission\tdenied\033[31m' >&2; exit 1 ;;
        other) exit 9 ;;
        signal) kill -9 $$ ;;
        esac"#;
    let settings = "failures {\n temporary = [75]\n permanent = [1]\n missing = [4]\n temporary_text = [\"busy\"]\n }";
    let scripts = [("archive", archive_script), ("restore", "exit 4"), ("remove", "exit 4")];
    let mut bench = Bench::scripts(&scripts, settings);
    for (text, kind, said) in [
        ("busy", ErrorKind::Temporary, "archive` ended with exit code 1: first / drive is busy"),
        ("full", ErrorKind::Temporary, "ended with exit code 75: no tape"),
        ("denied", ErrorKind::Permanent, "permission\\tdenied\\u{1b}[31m"),
        ("other", ErrorKind::Temporary, "ended with exit code 9"),
        ("signal", ErrorKind::Temporary, "was killed by signal 9"),
    ] {
        bench.file("a", text.as_bytes());
        let status = bench.run(Op::Archive, archive("a", 1));
        assert_failed(&status, EIO, kind, &["cannot archive /home/a (archive \"one\"): `", said]);
    }
    bench.file("a", b"fine");
    let archived = bench.run(Op::Archive, archive("a", 1));
    assert_done(&archived);
    bench.file("b", b"");
    assert_failed(&bench.run(Op::Restore, restore(&archived, 4, "b")), ENOENT, ErrorKind::Permanent, &["exit code 4"]);
    assert_done(&bench.run(Op::Remove, archive("a", 1)));
    assert_eq!(bench.run(Op::Archive, ActionItem { metadata_only: true, ..archive("a", 1) }).error, EOPNOTSUPP);
    assert_failed(&bench.run(Op::Archive, archive("none", 1)), ENOENT, ErrorKind::Permanent, &["files/none"]);
    for hostile in ["../../../etc/passwd", "a", "ab/../x", "-rf--", "ab\0cdef", "abcd.efgh"] {
        let item = ActionItem { uuid: hostile.to_owned(), ..archive("a", 1) };
        let status = bench.run(Op::Archive, item);
        assert_failed(&status, EINVAL, ErrorKind::Permanent, &[]);
    }
}

#[test]
fn what_was_restored_is_compared_before_it_counts() {
    let scripts = [
        ("archive", r#"cp "$2" SCRATCH/root/"$1""#),
        (
            "restore",
            r#"case $(cat SCRATCH/mode) in
            half) head -c 50000 SCRATCH/root/"$1" >"$2" ;;
            more) cat SCRATCH/root/"$1" - >"$2" <<<more ;;
            wrong) head -c 100000 /dev/zero >"$2" ;;
            nothing) ;;
            link) ln -s SCRATCH/root/"$1" "$2" ;;
            *) cp SCRATCH/root/"$1" "$2" ;;
            esac"#,
        ),
        ("remove", "exit 0"),
    ];
    let mut bench = Bench::scripts(&scripts, "");
    let content = content(100_000);
    bench.file("a", &content);
    let archived = bench.run(Op::Archive, archive("a", 1));
    assert_done(&archived);
    let target = bench.file("b", b"");
    for (mode, errno, kind, text) in [
        ("half", EIO, ErrorKind::Permanent, "50000 bytes came, 100000 were archived"),
        ("more", EIO, ErrorKind::Permanent, "100005 bytes came, 100000 were archived"),
        ("wrong", EIO, ErrorKind::Permanent, "hash"),
        ("nothing", EAGAIN, ErrorKind::Temporary, "did not write"),
        ("link", 40, ErrorKind::Permanent, "open"),
    ] {
        fs::write(bench.scratch.join("mode"), mode).unwrap();
        assert_failed(&bench.run(Op::Restore, restore(&archived, 100_000, "b")), errno, kind, &[text]);
    }
    fs::write(bench.scratch.join("mode"), "right").unwrap();
    assert_done(&bench.run(Op::Restore, restore(&archived, 100_000, "b")));
    assert!(fs::read(&target).unwrap() == content);
    assert_eq!(bench.found("staging"), Vec::<PathBuf>::new());
}

#[test]
fn a_program_that_does_not_read_all_or_stores_something_else_is_not_believed() {
    let scripts = [("archive", r#"head -c 1000 >SCRATCH/root/"$1""#), ("restore", r#"cat SCRATCH/root/"$1""#)];
    let settings = r#"archive = ["SCRATCH/bin/archive", "{id}"]
        restore = ["SCRATCH/bin/restore", "{id}"]
        keep_removed = true
        remove = ["true"]"#;
    let mut bench = Bench::scripts(&scripts, settings);
    // Less than a pipe holds, and more.
    for size in [1500, 5_000_000] {
        bench.file("a", &content(size));
        let status = bench.run(Op::Archive, archive("a", 1));
        assert_failed(&status, EAGAIN, ErrorKind::Temporary, &["bytes of the file not read"]);
    }
    bench.file("a", &content(1000));
    assert_done(&bench.run(Op::Archive, archive("a", 1)));
    assert_done(&bench.run(Op::Remove, archive("a", 1)));
    assert_eq!(bench.found("root").len(), 1, "keep_removed");

    // It reads all, and stores the half.
    let half = r#"head -c 1000 "$2" >SCRATCH/root/"$1""#;
    let whole = ("restore", r#"cp SCRATCH/root/"$1" "$2""#);
    for (check, text) in [
        (
            "check_stored = \"stat\"\nstat = [\"stat\", \"-c\", \"%s\", \"{root}/{id}\"]",
            "has 1000 bytes after it was stored",
        ),
        ("check_stored = \"content\"", "1000 bytes came, 5000 were archived"),
    ] {
        let mut bench = Bench::scripts(&[("archive", half), whole], check);
        bench.file("a", &content(5000));
        let status = bench.run(Op::Archive, archive("a", 1));
        assert_failed(&status, EIO, ErrorKind::Temporary, &[text]);
    }
    let nothing = "stat = [\"test\", \"-e\", \"{root}/{id}\"]\nfailures { missing = [1] }";
    let mut bench = Bench::scripts(&[("archive", "cat $2 >/dev/null")], nothing);
    bench.file("a", b"content");
    let status = bench.run(Op::Archive, archive("a", 1));
    assert_failed(&status, EIO, ErrorKind::Temporary, &["is not there after it was stored"]);
}

#[test]
fn a_file_that_changes_while_it_is_archived_is_not_archived() {
    let slow = r#"cp "$2" SCRATCH/root/"$1"; touch SCRATCH/copied; until [ -e SCRATCH/go ]; do sleep 0.02; done"#;
    let mut bench = Bench::scripts(&[("archive", slow)], "");
    let file = bench.file("a", b"one");
    bench.send(Op::Archive, archive("a", 1));
    wait_until(Duration::from_secs(20), "the copy", || bench.scratch.join("copied").exists());
    fs::write(&file, b"two").unwrap();
    fs::write(bench.scratch.join("go"), b"").unwrap();
    assert_failed(&bench.end(), EAGAIN, ErrorKind::Temporary, &["changed while it was read"]);
}

#[test]
fn p6_what_a_program_says_is_bounded() {
    let loud = r#"head -c 1073741824 /dev/zero >&2; echo >&2; echo "the last word" >&2; exit 3"#;
    let print = "head -c 300000000 /dev/zero";
    let settings = "restore = [\"SCRATCH/bin/restore\", \"{id}\"]";
    let mut bench = Bench::scripts(&[("archive", loud), ("restore", print)], settings);
    bench.file("a", b"x");
    let status = bench.run(Op::Archive, archive("a", 1));
    assert_failed(&status, EIO, ErrorKind::Temporary, &["the last word"]);
    assert!(status.error_text.len() < 4000, "{}", status.error_text.len());
    // More than the file had: it is stopped at once.
    bench.file("b", b"");
    let item = ActionItem { expected_size: Some(100), ..restore(&status, 0, "b") };
    let status = bench.run(Op::Restore, ActionItem { uuid: id(1), ..item });
    assert_failed(&status, EIO, ErrorKind::Permanent, &["more than the 100 bytes came"]);
    assert!(fs::metadata(bench.scratch.join("files/b")).unwrap().len() <= 100);
    let peak = fs::read_to_string(format!("/proc/{}/status", bench.mover.id())).unwrap();
    let peak = peak.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().to_owned();
    let kib: u64 = peak.trim().split(' ').next().unwrap().parse().unwrap();
    assert!(kib < 100 << 10, "{kib} KiB");
}

/// The processes that have the word on their command line.
fn running(word: &str) -> usize {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let lines = pids.filter_map(|pid| fs::read(format!("/proc/{pid}/cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).split('\0').any(|one| one == word)).count()
}

/// A script that hangs with a child that hangs, both deaf to SIGTERM; `sleep` has a number of this test's own.
fn hanging(number: u64) -> String {
    format!("trap '' TERM\ntouch SCRATCH/begun\n(trap '' TERM; sleep {number}) &\nsleep {number}; sleep {number}")
}

#[test]
fn p4_a_program_that_hangs_is_killed_with_its_children() {
    let number = 100_000 + u64::from(std::process::id());
    let hang = hanging(number);
    let mut bench = Bench::scripts(&[("archive", &hang), ("restore", &hang), ("remove", &hang)], "");
    bench.file("a", b"x");
    for op in [Op::Archive, Op::Restore, Op::Remove] {
        let begun = bench.scratch.join("begun");
        let action = bench.send(op, ActionItem { write_path: "a".to_owned(), ..archive("a", 1) });
        wait_until(Duration::from_secs(20), "the program", || begun.exists() && running(&number.to_string()) >= 2);
        let asked = Instant::now();
        bench.cancel(action);
        assert_failed(&bench.end(), ECANCELED, ErrorKind::Permanent, &[]);
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        assert_eq!(running(&number.to_string()), 0);
        fs::remove_file(begun).unwrap();
    }
    assert_eq!(bench.found("staging"), Vec::<PathBuf>::new());
}

#[test]
fn p4_programs_that_take_too_long_or_say_nothing_are_killed() {
    let number = 200_000 + u64::from(std::process::id());
    let talks = format!("while :; do echo still here >&2; sleep 0.1; done; sleep {number}");
    for (body, settings, text) in [
        (talks, "timeout_s = 2\noutput_timeout_s = 1", "(timeout_s): still here"),
        (hanging(number), "output_timeout_s = 1", "moved and said nothing for 1s"),
    ] {
        let mut bench = Bench::scripts(&[("archive", &body)], settings);
        bench.file("a", b"x");
        let status = bench.run(Op::Archive, archive("a", 1));
        assert_failed(&status, ETIMEDOUT, ErrorKind::Temporary, &["was killed", text]);
        assert_eq!(running(&number.to_string()), 0);
    }
}

#[test]
fn what_a_program_leaves_running_does_not_hold_up_its_result() {
    let number = 300_000 + u64::from(std::process::id());
    let body = format!(
        "cp $2 SCRATCH/root/$1\n(while :; do echo noise; done) &\nsleep {number} &\nsetsid sleep {number} & exit 0"
    );
    let mut bench = Bench::scripts(&[("archive", &body)], "");
    bench.file("a", b"x");
    assert_done(&bench.run(Op::Archive, archive("a", 1)));
    // The one that has left its group is beyond us, and holds nothing of ours open but its streams.
    wait_until(Duration::from_secs(10), "its end", || running(&number.to_string()) <= 1);
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(&number.to_string()) {
            let open = fs::read_dir(entry.path().join("fd")).unwrap().count();
            let pid: i32 = entry.file_name().to_str().unwrap().parse().unwrap();
            sys::process::PidFd::open(pid).unwrap().kill(9).unwrap();
            assert_eq!(open, 3);
        }
    }
}

#[test]
fn p7_a_killed_mover_takes_its_program_along_and_its_leavings_are_swept() {
    let number = 400_000 + u64::from(std::process::id());
    let body = format!("echo x >\"$2\"; touch SCRATCH/begun; exec sleep {number}");
    let mut bench = Bench::scripts(&[("restore", &body), ("archive", "exit 0")], "");
    bench.file("b", b"");
    let item = ActionItem { uuid: id(1), write_path: "b".to_owned(), ..ActionItem::default() };
    bench.send(Op::Restore, item);
    wait_until(Duration::from_secs(20), "the program", || running(&number.to_string()) == 1);
    assert_eq!(bench.found("staging").len(), 3, "the file and two lists");
    bench.mover.kill().unwrap();
    bench.mover.wait().unwrap();
    wait_until(Duration::from_secs(20), "its end", || running(&number.to_string()) == 0);
    bench.mover = spawn(bench.scratch.path());
    (_, bench.handle) = bench.agent.registration();
    assert_eq!(bench.found("staging"), Vec::<PathBuf>::new());
    bench.file("a", b"x");
    assert_done(&bench.run(Op::Archive, archive("a", 1)));
}

#[test]
fn programs_get_a_clean_environment_and_paths_as_they_are() {
    let settings = r#"archive = ["SCRATCH/bin/archive", "-o./{path}", "{archive}", "{size}", "{fan}", "{id}"]
        environment { SITE = "a b" }
        directory = "SCRATCH/files""#;
    let body = r#"cat >/dev/null; env >SCRATCH/env; pwd >SCRATCH/pwd; printf '%s|' "$@" >SCRATCH/words; ls /proc/self/fd | wc -l >SCRATCH/fds"#;
    let mut bench = Bench::scripts(&[("archive", body)], settings);
    bench.file("a", b"twelve bytes");
    let path = "$(touch x); `y`\n\"'\u{1b} ä*".as_bytes();
    let mut path = path.to_vec();
    path.push(0xff);
    assert_done(&bench.run(Op::Archive, ActionItem { tree_path: path.clone(), ..archive("a", 1) }));
    let words = fs::read(bench.scratch.join("words")).unwrap();
    let expected = [b"-o./".as_slice(), &path, b"|7|12|0e2f|", id(1).as_bytes(), b"|"].concat();
    assert_eq!(String::from_utf8_lossy(&words), String::from_utf8_lossy(&expected));
    let environment = bench.text("env");
    assert!(
        environment.contains("SITE=a b\n") && environment.contains("PATH=") && environment.contains("HOME=/root\n")
    );
    assert!(!environment.contains("SIFAKA_SECRET") && !environment.contains("LHSMD"), "{environment}");
    assert_eq!(bench.text("pwd").trim(), bench.scratch.join("files").to_str().unwrap());
    assert_eq!(bench.text("fds").trim(), "4", "three, and the directory that is listed");
    let status = bench.run(Op::Archive, archive("a", 1));
    assert_failed(&status, EINVAL, ErrorKind::Permanent, &["nothing for Path"]);
}

#[test]
fn a_program_may_name_its_objects() {
    let settings = r#"archive = ["SCRATCH/bin/archive", "{file}"]
        restore = ["cat", "{root}/{id}"]
        remove = ["rm", "{root}/{id}"]
        id_from = "stdout""#;
    let body = r#"cp "$1" SCRATCH/root/tape7.0042; cat SCRATCH/name"#;
    let mut bench = Bench::scripts(&[("archive", body)], settings);
    assert_eq!(bench.capabilities, 1, "cancel alone");
    bench.file("a", b"content");
    fs::write(bench.scratch.join("name"), "tape7.0042\n").unwrap();
    let archived = bench.run(Op::Archive, archive("a", 1));
    assert_done(&archived);
    assert_eq!(archived.uuid, "tape7.0042");
    let target = bench.file("b", b"");
    assert_done(&bench.run(Op::Restore, restore(&archived, 7, "b")));
    assert_eq!(fs::read(target).unwrap(), b"content");
    assert_done(&bench.run(Op::Remove, ActionItem { uuid: archived.uuid, ..ActionItem::default() }));
    assert_eq!(bench.found("root"), Vec::<PathBuf>::new());
    let long = "x".repeat(1 << 20);
    for printed in ["", "../../etc", "-rf--", "two\nlines", "a b c d", "id\0id", "\u{1b}[31mid", &long] {
        fs::write(bench.scratch.join("name"), printed).unwrap();
        let status = bench.run(Op::Archive, archive("a", 1));
        assert_failed(&status, EIO, ErrorKind::Permanent, &["for the object's id"]);
    }
    let status = bench.run(Op::Verify, archive("a", 1));
    assert_failed(&status, EOPNOTSUPP, ErrorKind::Permanent, &["no `stat`"]);
}

const LINES: &str = r#"archive = ["SCRATCH/bin/archive", "{list}", "{dir}", "{list_paths}"]
    restore = ["SCRATCH/bin/restore", "{list}", "{dir}"]
    remove = ["SCRATCH/bin/remove", "{list}"]
    batch {
      max_files = 4
      max_wait_s = 60
      results = "lines"
    }
    failures { permanent_text = ["denied"] missing_text = ["gone"] }"#;

#[test]
fn a_command_for_many_files_tells_of_each() {
    let archive_script = r#"echo $(wc -l <"$1") >>SCRATCH/batches
        diff <(sed "s|^|$2/|" "$1") "$3" || exit 1
        sort -c "$1" || exit 1
        while read -r name; do
            case $(cat "$2/$name") in
                denied) printf '%s\tpermission denied\n' "$name" ;;
                busy) printf '%s\tdrive busy\n' "$name" ;;
                silent) ;;
                *) cp "$2/$name" SCRATCH/root/ && printf '%s\tok\n' "$name" ;;
            esac
        done <"$1"; exit 1"#;
    let restore_script = r#"while read -r name; do
            cp "SCRATCH/root/$name" "$2/$name" && printf '%s\tok\n' "$name" || printf '%s\tgone\n' "$name"
        done <"$1""#;
    let scripts = [
        ("archive", archive_script),
        ("restore", restore_script),
        ("remove", "cat $1 >>SCRATCH/removed; sed 's/$/\tok/' $1"),
    ];
    let mut bench = Bench::scripts(&scripts, LINES);
    let texts = ["fine", "denied", "busy", "silent"];
    let mut sent = HashMap::new();
    // Sent in the wrong order.
    for number in [3, 1, 0, 2] {
        bench.file(texts[number], texts[number].as_bytes());
        sent.insert(bench.send(Op::Archive, archive(texts[number], number)), texts[number]);
    }
    for (action, status) in bench.ends(4) {
        match sent[&action] {
            "fine" => assert_done(&status),
            "denied" => assert_failed(&status, EIO, ErrorKind::Permanent, &["says: permission denied"]),
            "busy" => assert_failed(&status, EIO, ErrorKind::Temporary, &["says: drive busy"]),
            _ => assert_failed(&status, EIO, ErrorKind::Temporary, &["ended with exit code 1"]),
        }
    }
    assert_eq!(bench.text("batches").trim(), "4", "one command for four files");
    let fine = ActionStatus { uuid: id(0), hash: blake3::hash(b"fine").as_bytes().to_vec(), ..ActionStatus::default() };
    for (number, name) in ["r0", "r1", "r2", "r3"].into_iter().enumerate() {
        bench.file(name, b"");
        bench.send(Op::Restore, ActionItem { uuid: id(number), ..restore(&fine, 4, name) });
    }
    let ends = bench.ends(4);
    assert_eq!(ends.values().filter(|status| status.error == 0).count(), 1);
    assert_eq!(ends.values().filter(|status| status.error == ENOENT).count(), 3);
    assert_eq!(fs::read(bench.scratch.join("files/r0")).unwrap(), b"fine");
    for number in 0..4 {
        bench.send(Op::Remove, archive("fine", number));
    }
    bench.ends(4).values().for_each(assert_done);
    assert_eq!(bench.text("removed").lines().count(), 4);
}

#[test]
fn p3_p4_of_a_batch_one_is_cancelled_and_the_others_begin_anew() {
    let archive_script = r#"echo batch >>SCRATCH/batches
        until [ -e SCRATCH/go ]; do sleep 0.02; done
        while read -r name; do cp "$2/$name" SCRATCH/root/ && printf '%s\tok\n' "$name"; done <"$1""#;
    let mut bench = Bench::scripts(&[("archive", archive_script)], LINES);
    let sent: Vec<u64> = (0..4)
        .map(|number| {
            bench.file(&format!("f{number}"), b"content");
            bench.send(Op::Archive, archive(&format!("f{number}"), number))
        })
        .collect();
    wait_until(Duration::from_secs(20), "the command", || bench.text("batches").lines().count() == 1);
    bench.cancel(sent[1]);
    let status = bench.end();
    assert_eq!(status.id, sent[1]);
    assert_failed(&status, ECANCELED, ErrorKind::Permanent, &[]);
    fs::write(bench.scratch.join("go"), b"").unwrap();
    let ends = bench.ends(3);
    ends.values().for_each(assert_done);
    assert!(!ends.contains_key(&sent[1]));
    assert_eq!(bench.found("root").len(), 3);
    // Of one that is being gathered, nothing has begun.
    let waiting = bench.send(Op::Archive, archive("f0", 9));
    bench.cancel(waiting);
    assert_failed(&bench.end(), ECANCELED, ErrorKind::Permanent, &[]);
    assert_eq!(bench.text("batches").lines().count(), 2);
}

/// A reader does not wait until a batch is full.
#[test]
fn a_batch_is_begun_for_a_reader_at_once_and_for_others_after_a_while() {
    let restore_script = r#"while read -r name; do echo -n x >"$2/$name"; printf '%s\tok\n' "$name"; done <"$1""#;
    let mut bench = Bench::scripts(&[("restore", restore_script)], LINES);
    bench.file("b", b"");
    let item = ActionItem { uuid: id(1), write_path: "b".to_owned(), reader_waits: true, ..ActionItem::default() };
    let began = Instant::now();
    assert_done(&bench.run(Op::Restore, item.clone()));
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    let mut bench = Bench::scripts(&[("restore", restore_script)], &LINES.replace("max_wait_s = 60", "max_wait_s = 1"));
    bench.file("b", b"");
    let began = Instant::now();
    assert_done(&bench.run(Op::Restore, ActionItem { reader_waits: false, ..item }));
    assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
}

/// What is waiting in a batch is left to the agent; what runs ends.
#[test]
fn p3_a_mover_that_is_asked_to_end_leaves_what_it_did_not_begin() {
    let mut bench = Bench::scripts(&[("archive", "touch SCRATCH/begun")], LINES);
    bench.file("a", b"x");
    bench.send(Op::Archive, archive("a", 1));
    bench.agent.reports_opened();
    sys::process::PidFd::open(bench.mover.id().cast_signed()).unwrap().kill(15).unwrap();
    let (statuses, end) = bench.agent.last_statuses();
    assert!(end.is_ok() && statuses.iter().all(|status| !status.completed), "{statuses:?}");
    assert!(!bench.scratch.join("begun").exists());
    assert!(bench.mover.wait().unwrap().success());
    assert_eq!(fs::read_dir(bench.scratch.join("staging")).unwrap().count(), 0, "the session is gone");
}

#[test]
fn what_cannot_be_served_is_refused_at_the_start() {
    let scratch = Scratch::new("command-mover");
    fs::create_dir(scratch.join("staging")).unwrap();
    let config = scratch.join("config");
    let refused = |archive: &str| {
        fs::write(&config, format!("archive \"one\" {{ id = 7\n{archive} }}")).unwrap();
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
        let environment = Environment {
            agent: AgentAddress::Path(scratch.join("agent.sock")),
            client_mountpoint: scratch.path().to_owned(),
            config_dir: scratch.path().to_owned(),
        };
        movers::command::run(environment, &config).unwrap_err().to_string()
    };
    let programs = "archive = [\"no-such-program\"]\nrestore = [\"cat\", \"{id}\"]\nkeep_removed = true";
    let error = refused(programs);
    assert!(error.contains("archive \"one\"") && error.contains("no program `no-such-program`"), "{error}");
    let staging = "staging = \"/nonexistent\"\narchive = [\"cat\"]\nrestore = [\"cp\", \"{id}\", \"{file}\"]\nkeep_removed = true";
    let error = refused(staging);
    assert!(error.contains("archive \"one\"") && error.contains("/nonexistent"), "{error}");
    assert!(
        refused("archive = [\"cat\", \"{fiel}\"]").contains("config:2:19: `archive`: there is no placeholder {fiel}")
    );
}
