//! Programs that fail, hang, lie or talk too much, and what they get to see.

use super::*;

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
