//! One command for many files.

use super::*;

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

/// Where the agent cannot see to that, no restore succeeds whose content did not reach the device: by one command, or by one for many.
#[test]
fn p1_restores_are_synced_for_an_agent_that_asks_for_it() {
    let restore_many = r#"while read -r name; do head -c 100000 </dev/zero | tr '\0' x >"$2/$name"; printf '%s\tok\n' "$name"; done <"$1""#;
    let many = LINES.replace("max_wait_s = 60", "max_wait_s = 0");
    let restore_one = r#"head -c 100000 </dev/zero | tr '\0' x >"$2""#;
    for (script, settings) in [(restore_many, many.as_str()), (restore_one, "")] {
        let mut bench = Bench::scripts(&[("restore", script)], settings);
        let backing = LoopFs::new(FsKind::Ext4, 64);
        let thin = LoopFs::thin_on(&backing);
        let target = thin.path().join("b");
        fs::write(&target, b"").unwrap();
        let item = |sync_target| {
            let write_path = target.to_str().unwrap().to_owned();
            ActionItem { uuid: id(1), write_path, reader_waits: true, sync_target, ..ActionItem::default() }
        };
        let ballast = faults::fill(&backing, 0);
        assert_done(&bench.run(Op::Restore, item(false)));
        assert_failed(&bench.run(Op::Restore, item(true)), ENOSPC, ErrorKind::Temporary, &["cannot sync"]);
        drop(ballast);
        assert_done(&bench.run(Op::Restore, item(true)));
    }
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
