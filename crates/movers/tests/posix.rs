//! The posix mover as a process, over the protocol, with a scripted agent at the other end.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

extern crate sifaka_movers as movers;

use plugin::{AgentAddress, Environment};
use proto::pdm::{ActionItem, ActionStatus, Command as Op, ErrorKind};
use std::collections::HashMap;
use std::env;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use testkit::pdm_agent::PdmAgent;
use testkit::{FsKind, LoopFs, Random, Scratch, faults, wait_until};

const BASE: &str = "SIFAKA_TEST_MOVER_BASE";
const ID: &str = "0e2f9a7c-5ad1-4b6e-9b7a-0a4dd0c8f0aa";
const ENOENT: i32 = 2;
const EIO: i32 = 5;
const EXDEV: i32 = 18;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;
const ELOOP: i32 = 40;
const EOPNOTSUPP: i32 = 95;
const ECANCELED: i32 = 125;

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
    movers::posix::run(environment, &base.join("config")).unwrap();
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
    fn start(settings: &str) -> Self {
        let scratch = Scratch::new("posix-mover");
        let root = scratch.join("root");
        Self::start_at(scratch, &root, settings)
    }

    fn start_at(scratch: Scratch, root: &Path, settings: &str) -> Self {
        fs::create_dir(scratch.join("files")).unwrap();
        fs::create_dir(root).unwrap();
        configure(&scratch, root, settings);
        let mut agent = PdmAgent::start(scratch.join("agent.sock").to_str().unwrap());
        let mover = spawn(scratch.path());
        let (endpoint, handle) = agent.registration();
        assert_eq!(endpoint.archive, 7);
        assert_eq!(endpoint.capabilities & 39, 39, "cancel, verify, proposed uuid, reload");
        Self { agent, mover, handle, capabilities: endpoint.capabilities, next: 0, scratch }
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.scratch.join("files").join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn send(&mut self, op: Op, item: ActionItem) -> u64 {
        self.next += 1;
        self.agent.send(
            self.handle,
            ActionItem {
                id: self.next,
                op: op.into(),
                length: if item.length == 0 { -1 } else { item.length },
                ..item
            },
        );
        self.next
    }

    fn run(&mut self, op: Op, item: ActionItem) -> ActionStatus {
        let id = self.send(op, item);
        let status = self.end();
        assert_eq!(status.id, id);
        status
    }

    /// The next end of an action: neither progress, nor that a configuration was read again.
    fn end(&mut self) -> ActionStatus {
        loop {
            let status = self.agent.status();
            if status.completed {
                return status;
            }
        }
    }

    /// Other settings for the archive, and the signal to read them.
    fn reload(&self, settings: &str) {
        configure(&self.scratch, &self.scratch.join("root"), settings);
        sys::process::PidFd::open(self.mover.id().cast_signed()).unwrap().kill(1).unwrap();
    }

    fn archive_files(&self) -> Vec<PathBuf> {
        files_below(&self.scratch.join("root"))
    }

    fn restart(&mut self) {
        self.mover.kill().unwrap();
        self.mover.wait().unwrap();
        self.mover = spawn(self.scratch.path());
        (_, self.handle) = self.agent.registration();
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.mover.kill();
        let _ = self.mover.wait();
    }
}

fn configure(base: &Scratch, root: &Path, settings: &str) {
    let config = format!("num_threads = 3\narchive \"one\" {{\n id = 7\n root = {root:?}\n {settings}\n}}\n");
    fs::write(base.join("config"), config).unwrap();
    fs::set_permissions(base.join("config"), fs::Permissions::from_mode(0o600)).unwrap();
}

fn spawn(base: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "child_mover", "--ignored", "--nocapture"])
        .env(BASE, base)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn files_below(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_below(&entry.path()));
        } else if entry.file_name() != "lock" {
            // That one is a session's.
            found.push(entry.path());
        }
    }
    found
}

fn primary(path: &str) -> ActionItem {
    ActionItem { primary_path: path.to_owned(), uuid: ID.to_owned(), ..ActionItem::default() }
}

fn content(length: usize) -> Vec<u8> {
    let mut content = vec![0; length];
    Random::new(9).fill(&mut content[..length / 2]);
    content
}

#[track_caller]
fn assert_failed(status: &ActionStatus, errno: i32, kind: ErrorKind, text: &[&str]) {
    assert_eq!((status.error, status.error_kind), (errno, i32::from(kind)), "{status:?}");
    for part in text {
        assert!(status.error_text.contains(part), "{part:?} is not in {:?}", status.error_text);
    }
}

#[test]
fn files_are_archived_verified_restored_and_removed_in_every_format() {
    for (settings, suffix, hash_bytes) in [
        ("", "", 32),
        ("compression = \"on\"", ".zst", 32),
        ("compression = \"auto\"", ".zst", 32),
        ("compression = \"gzip\"", ".gz", 32),
        ("format = \"lemur\"\n compression = \"on\"", ".gz", 20),
        ("checksums {\n disabled = true\n }", "", 0),
    ] {
        let mut bench = Bench::start(settings);
        let content = content(3_000_001);
        bench.file("a", &content);
        let archived = bench.run(Op::Archive, primary("a"));
        assert_eq!((archived.error, archived.error_text.as_str()), (0, ""), "{settings}");
        assert_eq!(archived.uuid, format!("{ID}{suffix}"), "{settings}");
        assert_eq!((archived.hash.len(), archived.url.as_str()), (hash_bytes, ""), "{settings}");
        let object = bench.scratch.join(format!("root/objects/0e/2f/{ID}{suffix}"));
        let manifest = PathBuf::from(format!("{}.manifest", object.display()));
        let mut files = bench.archive_files();
        files.sort();
        let described = hash_bytes == 32;
        assert_eq!(files, if described { vec![object, manifest] } else { vec![object] }, "{settings}");
        assert_eq!(bench.capabilities & 24, if described { 24 } else { 0 }, "range and namespace: {settings}");

        let named = ActionItem { hash: archived.hash.clone(), uuid: archived.uuid.clone(), ..primary("a") };
        let again = bench.run(Op::Verify, named);
        if hash_bytes > 0 {
            assert_eq!(again.hash, archived.hash, "{settings}");
        }
        // As the agent names it: the descriptor of another process.
        let target = bench.file("b", &vec![0xee; content.len()]);
        let open = fs::OpenOptions::new().write(true).open(&target).unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&open));
        let item = ActionItem {
            write_path: path,
            uuid: archived.uuid.clone(),
            hash: archived.hash.clone(),
            expected_size: Some(content.len() as u64),
            ..ActionItem::default()
        };
        let restored = bench.run(Op::Restore, item.clone());
        assert_eq!((restored.error, restored.error_text.as_str()), (0, ""), "{settings}");
        assert_eq!(restored.hash, archived.hash);
        assert!(fs::read(&target).unwrap() == content, "{settings}");
        for _ in 0..2 {
            assert_eq!(bench.run(Op::Remove, item.clone()).error, 0, "removing is idempotent");
            assert!(bench.archive_files().is_empty());
        }
    }
}

/// Where the agent cannot see to that, no restore succeeds whose content did not reach the device, however small it is.
#[test]
fn p1_a_restore_is_synced_for_an_agent_that_asks_for_it() {
    let mut bench = Bench::start("");
    bench.file("a", &content(300_000));
    let archived = bench.run(Op::Archive, primary("a"));
    let backing = LoopFs::new(FsKind::Ext4, 64);
    let thin = LoopFs::thin_on(&backing);
    let target = thin.path().join("b");
    fs::write(&target, b"").unwrap();
    let item = |sync_target| ActionItem {
        write_path: target.to_str().unwrap().to_owned(),
        uuid: archived.uuid.clone(),
        hash: archived.hash.clone(),
        expected_size: Some(300_000),
        sync_target,
        ..ActionItem::default()
    };
    let ballast = faults::fill(&backing, 0);
    assert_eq!(bench.run(Op::Restore, item(false)).error, 0, "the kernel has it");
    let failed = bench.run(Op::Restore, item(true));
    assert_failed(&failed, ENOSPC, ErrorKind::Temporary, &["cannot sync", target.to_str().unwrap()]);
    drop(ballast);
    // As the agent does between two attempts: what ext4 could not write back once stays unwritten, whatever is written there later.
    fs::File::create(&target).unwrap();
    assert_eq!(bench.run(Op::Restore, item(true)).error, 0);
    thin.remount();
    assert!(fs::read(&target).unwrap() == content(300_000));
}

#[test]
fn failures_say_what_where_why_and_whether_to_try_again() {
    let mut bench = Bench::start("");
    let target = bench.file("b", b"");
    let restore = ActionItem { write_path: "b".to_owned(), file_path: "/home/x/b".to_owned(), ..primary("") };

    let status = bench.run(Op::Restore, restore.clone());
    assert_failed(&status, 116, ErrorKind::Temporary, &["cannot restore /home/x/b", "\"one\"", "mounted?"]);
    bench.file("a", &content(100_000));
    let archived = bench.run(Op::Archive, primary("a"));
    let missing = ActionItem { uuid: ID.replace("0e2f", "0e2e"), ..restore.clone() };
    let status = bench.run(Op::Restore, missing);
    assert_failed(&status, ENOENT, ErrorKind::Permanent, &["/home/x/b", "\"one\"", "root/objects/0e/2e/0e2e9a7c"]);

    testkit::faults::corrupt(&bench.scratch.join(format!("root/objects/0e/2f/{ID}")));
    let damaged = ActionItem { hash: archived.hash, expected_size: Some(100_000), ..restore.clone() };
    let status = bench.run(Op::Restore, damaged.clone());
    assert_failed(&status, EIO, ErrorKind::Permanent, &["/home/x/b", "damaged from byte 0 to byte 100000", "hash"]);
    let status = bench.run(Op::Restore, ActionItem { expected_size: Some(5), ..damaged.clone() });
    assert_failed(&status, EIO, ErrorKind::Permanent, &["holds 100000 bytes, 5 were archived"]);
    let status = bench.run(Op::Restore, ActionItem { write_path: "nothing".to_owned(), ..damaged });
    assert_failed(&status, ENOENT, ErrorKind::Permanent, &["files/nothing"]);
    assert!(!target.with_file_name("nothing").exists());

    for hostile in ["../../../etc/passwd", "..", "a", "ab/../x", "/etc/passwd", "ab\u{0}cdef"] {
        for op in [Op::Archive, Op::Restore, Op::Remove] {
            let item = ActionItem { uuid: hostile.to_owned(), primary_path: "a".to_owned(), ..restore.clone() };
            assert_failed(&bench.run(op, item), EINVAL, ErrorKind::Permanent, &["object id"]);
        }
    }
    let status = bench.run(Op::Archive, primary("no such file"));
    assert_failed(&status, ENOENT, ErrorKind::Permanent, &["cannot archive no such file", "files/no such file"]);
    assert_eq!(bench.archive_files().len(), 2, "the object and its manifest");
}

#[test]
fn comparing_can_be_turned_off() {
    let mut bench = Bench::start("checksums {\n disable_compare_on_restore = true\n }");
    bench.file("a", &content(10_000));
    let archived = bench.run(Op::Archive, primary("a"));
    assert_eq!(archived.hash.len(), 32);
    testkit::faults::corrupt(&bench.scratch.join(format!("root/objects/0e/2f/{ID}")));
    bench.file("b", b"");
    let item = ActionItem { write_path: "b".to_owned(), hash: archived.hash, ..primary("") };
    assert_eq!(bench.run(Op::Restore, item).error, 0);
}

#[test]
fn a_part_is_restored_alone_and_only_for_an_agent_that_means_it() {
    let mut bench = Bench::start("compression = \"on\"");
    let content = content(3 << 20);
    bench.file("a", &content);
    let archived = bench.run(Op::Archive, ActionItem { tree_path: b"dir/a".to_vec(), ..primary("a") });
    let target = bench.file("b", &vec![0xee; content.len()]);
    let part = ActionItem {
        write_path: "b".to_owned(),
        uuid: archived.uuid.clone(),
        hash: archived.hash.clone(),
        expected_size: Some(content.len() as u64),
        offset: (1 << 20) + 7,
        length: 10,
        ..ActionItem::default()
    };
    let restored = bench.run(Op::Restore, part.clone());
    assert_eq!((restored.error, &restored.hash), (0, &archived.hash), "{restored:?}");
    let found = fs::read(&target).unwrap();
    assert!(found[1 << 20..2 << 20] == content[1 << 20..2 << 20]);
    assert!(found[..1 << 20].iter().chain(&found[2 << 20..]).all(|byte| *byte == 0xee), "more than was asked for");

    // Lemur's agent says no size, and gets the whole.
    let hint = ActionItem { expected_size: None, ..part.clone() };
    assert_eq!(bench.run(Op::Restore, hint).error, 0);
    assert!(fs::read(&target).unwrap() == content);

    fs::remove_file(bench.scratch.join(format!("root/objects/0e/2f/{}.manifest", archived.uuid))).unwrap();
    let status = bench.run(Op::Restore, part.clone());
    assert_failed(&status, EOPNOTSUPP, ErrorKind::Permanent, &["manifest", "as a whole"]);
    fs::write(&target, b"").unwrap();
    assert_eq!(bench.run(Op::Restore, ActionItem { offset: 0, length: -1, ..part }).error, 0);
    assert!(fs::read(&target).unwrap() == content);
}

#[test]
fn what_has_no_content_is_recorded_and_removed() {
    let mut bench = Bench::start("");
    let dir = bench.scratch.join("files/dir");
    fs::create_dir(&dir).unwrap();
    std::os::unix::fs::symlink("/etc", dir.join("link")).unwrap();
    let record = |path: &str| ActionItem {
        tree_path: path.as_bytes().to_vec(),
        metadata_only: true,
        uuid: ID.to_owned(),
        ..ActionItem::default()
    };
    let kept = bench.scratch.join(format!("root/objects/0e/2f/{ID}.manifest"));
    for path in ["dir", "dir/link"] {
        let status = bench.run(Op::Archive, record(path));
        assert_eq!((status.error, status.uuid.as_str(), status.hash.len()), (0, ID, 0), "{status:?}");
        assert_eq!(bench.archive_files(), std::slice::from_ref(&kept));
        let read = transfer::manifest::Manifest::decode(&fs::read(&kept).unwrap()).unwrap();
        assert_eq!(read.path, path.as_bytes());
        assert_ne!(read.inode.fsid, [0; 8]);
    }
    for (path, errno) in [("dir/link/passwd", ELOOP), ("../root", EXDEV), ("nothing", ENOENT)] {
        assert_eq!(bench.run(Op::Archive, record(path)).error, errno, "{path}");
    }
    assert_eq!(bench.run(Op::Remove, record("dir")).error, 0);
    assert!(bench.archive_files().is_empty());

    let mut bench = Bench::start("format = \"lemur\"");
    let status = bench.run(Op::Archive, record(""));
    assert_failed(&status, EOPNOTSUPP, ErrorKind::Permanent, &["no manifests"]);
    assert!(bench.archive_files().is_empty());
}

#[test]
fn p4_a_running_archive_is_cancelled_and_leaves_nothing() {
    let mut bench = Bench::start("compression = \"gzip\"");
    let big = bench.file("big", b"");
    fs::OpenOptions::new().write(true).open(big).unwrap().set_len(1 << 40).unwrap();
    let id = bench.send(Op::Archive, primary("big"));
    wait_until(Duration::from_secs(60), "the temporary files", || bench.archive_files().len() == 2);
    bench.agent.send(bench.handle, ActionItem { op: Op::Cancel.into(), cancel_target: id, ..ActionItem::default() });
    assert_failed(&bench.end(), ECANCELED, ErrorKind::Permanent, &[]);
    assert!(bench.archive_files().is_empty(), "{:?}", bench.archive_files());
}

#[test]
fn p7_a_killed_mover_s_leavings_are_swept_by_the_next() {
    let mut bench = Bench::start("");
    let big = bench.file("big", b"");
    fs::OpenOptions::new().write(true).open(big).unwrap().set_len(1 << 42).unwrap();
    bench.send(Op::Archive, primary("big"));
    wait_until(Duration::from_secs(60), "the temporary files", || bench.archive_files().len() == 2);
    bench.restart();
    assert!(bench.archive_files().is_empty(), "{:?}", bench.archive_files());
    bench.file("small", b"x");
    let archived = bench.run(Op::Archive, primary("small"));
    assert_eq!(archived.uuid, ID);
}

/// Many at once: grouped, each answered once, each there.
#[test]
fn p1_p3_many_small_files_are_each_answered_once_and_there() {
    const FILES: usize = 3000;
    // A filesystem of its own: a group's sync also writes what everybody else on it has dirty.
    let fs = LoopFs::new(FsKind::Ext4, 512);
    let root = fs.path().join("root");
    let mut bench = Bench::start_at(Scratch::new("posix-mover"), &root, "");
    let mut sent = HashMap::new();
    for n in 0..FILES {
        let name = format!("f{n}");
        bench.file(&name, name.as_bytes());
        let uuid = format!("{:04x}-object-{n}", n * 7 % 65536);
        let id = bench.send(Op::Archive, ActionItem { uuid: uuid.clone(), ..primary(&name) });
        sent.insert(id, (uuid, name));
    }
    for _ in 0..FILES {
        let status = bench.end();
        assert_eq!(status.error, 0, "{status:?}");
        let (uuid, name) = sent.remove(&status.id).unwrap();
        assert_eq!(status.uuid, uuid);
        let object = root.join(format!("objects/{}/{}/{uuid}", &uuid[0..2], &uuid[2..4]));
        assert_eq!(fs::read(object).unwrap(), name.as_bytes());
    }
}

#[test]
fn a_root_that_is_not_there_is_refused_at_the_start() {
    let scratch = Scratch::new("posix-mover");
    let config = scratch.join("config");
    fs::write(&config, format!("archive \"one\" {{\n id = 7\n root = {:?}\n}}\n", scratch.join("nothing"))).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let environment = Environment {
        agent: AgentAddress::Path(scratch.join("agent.sock")),
        client_mountpoint: scratch.path().to_owned(),
        config_dir: scratch.path().to_owned(),
    };
    let error = movers::posix::run(environment, &config).unwrap_err().to_string();
    assert!(error.contains("archive \"one\"") && error.contains("nothing"), "{error}");
}

#[test]
fn p4_an_archive_that_waits_for_its_share_of_the_bandwidth_is_cancelled_at_once() {
    let mut bench = Bench::start("bandwidth_limit = \"64KiB/s\"");
    // Two minutes' worth.
    bench.file("big", &content(8 << 20));
    let id = bench.send(Op::Archive, primary("big"));
    // It says that it lives while it waits.
    assert_eq!((bench.agent.status().id, bench.archive_files().len()), (id, 2));
    bench.agent.send(bench.handle, ActionItem { op: Op::Cancel.into(), cancel_target: id, ..ActionItem::default() });
    assert_failed(&bench.end(), ECANCELED, ErrorKind::Permanent, &[]);
    assert!(bench.archive_files().is_empty());
}

/// Only too fast is an error: a busy machine may be as slow as it likes.
#[test]
fn the_bandwidth_of_an_archive_is_limited_until_the_limit_is_taken_away() {
    let mut bench = Bench::start("bandwidth_limit = \"2MiB/s\"");
    let bytes = content(6 << 20);
    let path = bench.file("f", &bytes);
    let archived = {
        let began = Instant::now();
        let archived = bench.run(Op::Archive, primary("f"));
        // But for the first tenth of a second's, and for the last chunk.
        assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
        archived
    };
    let began = Instant::now();
    let restore = ActionItem {
        write_path: path.to_str().unwrap().to_owned(),
        uuid: archived.uuid,
        hash: archived.hash,
        expected_size: Some(bytes.len() as u64),
        ..ActionItem::default()
    };
    fs::write(&path, b"").unwrap();
    let restored = bench.run(Op::Restore, restore);
    assert_eq!(restored.error, 0, "{}", restored.error_text);
    assert!(began.elapsed() > Duration::from_secs(2), "restores are limited too: {:?}", began.elapsed());
    assert!(fs::read(&path).unwrap() == bytes);

    // A quarter of an hour's worth, until the limit goes: then a moment's.
    bench.reload("bandwidth_limit = \"64KiB/s\" max_in_flight = 5");
    let told = bench.agent.status();
    assert_eq!((told.id, told.credits, told.handle.map(|handle| handle.id)), (0, 5, Some(bench.handle)));
    let big = bench.file("big", b"");
    let big = fs::OpenOptions::new().write(true).open(big).unwrap();
    std::io::copy(&mut std::io::repeat(7).take(64 << 20), &mut &big).unwrap();
    let id = bench.send(Op::Archive, primary("big"));
    assert_eq!(bench.agent.status().id, id);
    bench.reload("compression = \"zstd\"");
    let done = bench.end();
    assert_eq!((done.id, done.error), (id, 0));
    bench.file("g", &bytes);
    let compressed = bench.run(Op::Archive, primary("g"));
    assert!(compressed.uuid.ends_with(".zst"), "{}: compressed from now on", compressed.uuid);

    // A file that is wrong changes nothing, and the mover goes on.
    bench.reload("compression = \"none\"");
    bench.file("h", &bytes);
    let still = bench.run(Op::Archive, primary("h"));
    assert!(still.uuid.ends_with(".zst"), "{}", still.uuid);
}
