//! Archive, verify, restore and remove with the programs of the system.

use super::*;

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
