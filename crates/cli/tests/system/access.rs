//! P5: every way of touching a released file gives its content, or an error, and never the holes.

use crate::support::{Hsm, LONG, StopWhenDropped, cat, hsm_state, is_released, kill, noise};
use model::HsmFlags;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use sys::caller::Caller;
use testkit::{FsKind, wait_until};

const SIZE: usize = 300_000;

fn python(script: &str, arguments: &[&Path]) -> Vec<u8> {
    let out = Command::new("python3").args(["-c", script]).args(arguments).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

#[test]
fn p5_every_kind_of_read_gets_the_data() {
    for kind in FsKind::ALL {
        let hsm = Hsm::start(kind);
        let content = noise(9, SIZE);
        let target = hsm.path("copy");
        let released = |name: &str| hsm.archived_and_released(name, &content);

        let path = released("pread");
        let mut middle = vec![0; 5000];
        File::open(&path).unwrap().read_exact_at(&mut middle, 123_456).unwrap();
        assert!(middle == content[123_456..128_456], "{kind:?} pread");

        let mmap = "import mmap,sys\nf=open(sys.argv[1],'rb')\nsys.stdout.buffer.write(mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ)[:])";
        assert!(python(mmap, &[&released("mmap")]) == content, "{kind:?} mmap");

        let sendfile = "import os,sys\na=os.open(sys.argv[1],os.O_RDONLY)\nb=os.open(sys.argv[2],os.O_WRONLY|os.O_CREAT|os.O_TRUNC)\nn=0\nwhile True:\n k=os.sendfile(b,a,n,1<<20)\n n+=k\n if not k: break";
        python(sendfile, &[&released("sendfile"), &target]);
        assert!(fs::read(&target).unwrap() == content, "{kind:?} sendfile");

        let range = "import os,sys\na=os.open(sys.argv[1],os.O_RDONLY)\nb=os.open(sys.argv[2],os.O_WRONLY|os.O_CREAT|os.O_TRUNC)\nwhile os.copy_file_range(a,b,1<<20): pass";
        python(range, &[&released("copy_file_range"), &target]);
        assert!(fs::read(&target).unwrap() == content, "{kind:?} copy_file_range");

        // cp asks for holes first, and copies none of what it takes for one.
        let path = released("cp");
        assert!(
            Command::new("cp")
                .args(["--sparse=auto", "--reflink=auto"])
                .arg(&path)
                .arg(&target)
                .status()
                .unwrap()
                .success()
        );
        assert!(fs::read(&target).unwrap() == content, "{kind:?} cp");
        let holes = "import os,sys\nf=os.open(sys.argv[1],os.O_RDONLY)\nprint(os.lseek(f,0,os.SEEK_DATA),os.lseek(f,0,os.SEEK_HOLE))";
        let seen = python(holes, &[&released("holes")]);
        assert_eq!(String::from_utf8(seen).unwrap().trim(), format!("0 {SIZE}"), "{kind:?} SEEK_DATA, SEEK_HOLE");

        if kind != FsKind::Ext4 {
            let path = released("reflink");
            fs::remove_file(&target).unwrap();
            assert!(Command::new("cp").arg("--reflink=always").arg(&path).arg(&target).status().unwrap().success());
            assert!(fs::read(&target).unwrap() == content, "{kind:?} reflink");
        }
        assert!(hsm.temporary_files() == 0);
    }
}

#[test]
fn p5_a_released_program_runs() {
    for kind in FsKind::ALL {
        let hsm = Hsm::start(kind);
        let path = hsm.file("true", &fs::read("/bin/true").unwrap());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        hsm.archive(&[&path]);
        hsm.release(&[&path]);
        assert!(Command::new(&path).status().unwrap().success(), "{kind:?}");
        assert!(!is_released(&path));
    }
}

/// What a truncating open throws away stays away, also when a read comes before the kernel has truncated; and no reader sees holes.
#[test]
fn p5_truncating_opens_and_reads_at_once() {
    const FILES: usize = 20;
    // A process of its own: of one that does several things at once nothing is said. It gets a processor only when nobody else
    // wants one, so that time passes between the answer to its open and the truncation.
    const TRUNCATE: &str = "import os, sys
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
for line in sys.stdin:
    with open(line[:-1], 'wb') as file: file.write(b'new')
    print('done', flush=True)";
    for kind in [FsKind::Ext4, FsKind::Xfs] {
        let hsm = Hsm::start(kind);
        let content = noise(15, 70_000);
        let paths: Vec<_> = (0..FILES).map(|i| hsm.file(&format!("f{i}"), &content)).collect();
        let all: Vec<&Path> = paths.iter().map(|p| p.as_path()).collect();
        hsm.archive(&all);
        hsm.release(&all);
        let mut truncater = Command::new("python3")
            .args(["-c", TRUNCATE])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 starts");
        let mut commands = truncater.stdin.take().unwrap();
        let mut answers = BufReader::new(truncater.stdout.take().unwrap());
        let pid = truncater.id().cast_signed();
        // Or until something hangs.
        let (over, until) = (AtomicBool::new(false), Instant::now() + LONG);
        std::thread::scope(|scope| {
            let processors = std::thread::available_parallelism().map_or(2, usize::from);
            let busy = || {
                while !over.load(Ordering::Relaxed) && Instant::now() < until {
                    std::hint::spin_loop();
                }
            };
            (0..processors).for_each(|_| drop(scope.spawn(busy)));
            let _over = StopWhenDropped(&over);
            for path in &paths {
                writeln!(commands, "{}", path.display()).unwrap();
                let opens = || Caller::new(pid).look(1).and_then(|calls| calls.open_flags).is_some();
                let released = || hsm_state(path).flags.contains(HsmFlags::RELEASED);
                // It waits for the answer; it has it.
                while !opens() && released() {}
                while opens() && released() {}
                let got = fs::read(path).unwrap();
                let right = got.is_empty() || got == b"new" || got == content;
                assert!(right, "{kind:?}, {}: {} bytes", path.display(), got.len());
                let mut answer = String::new();
                answers.read_line(&mut answer).unwrap();
                assert_eq!(answer, "done\n");
                assert!(fs::read(path).unwrap() == b"new", "{kind:?}, {}", path.display());
            }
        });
        drop(commands);
        assert!(truncater.wait().unwrap().success());
    }
}

#[test]
fn p5_writes_and_truncations_keep_what_they_do_not_touch() {
    for kind in FsKind::ALL {
        let hsm = Hsm::start(kind);
        let content = noise(10, SIZE);
        let released = |name: &str| hsm.archived_and_released(name, &content);

        let path = released("written");
        let mut file = OpenOptions::new().write(true).open(&path).unwrap();
        file.seek(SeekFrom::Start(1000)).unwrap();
        file.write_all(b"changed").unwrap();
        drop(file);
        let mut expected = content.clone();
        expected[1000..1007].copy_from_slice(b"changed");
        assert!(fs::read(&path).unwrap() == expected, "{kind:?} write");
        wait_until(LONG, "it is dirty", || hsm_state(&path).flags.contains(HsmFlags::DIRTY));

        let path = released("appended");
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more").unwrap();
        assert!(fs::read(&path).unwrap() == [&content[..], b"more"].concat(), "{kind:?} append");

        let path = released("truncated");
        python("import os,sys\nos.truncate(sys.argv[1],12345)", &[&path]);
        assert!(fs::read(&path).unwrap() == content[..12345], "{kind:?} truncate");

        let path = released("extended");
        OpenOptions::new().write(true).open(&path).unwrap().set_len(SIZE as u64 + 10).unwrap();
        assert!(fs::read(&path).unwrap() == [&content[..], &[0; 10]].concat(), "{kind:?} extend");

        let path = released("punched");
        assert!(
            Command::new("fallocate").args(["-p", "-o", "4096", "-l", "4096"]).arg(&path).status().unwrap().success()
        );
        let mut expected = content.clone();
        expected[4096..8192].fill(0);
        assert!(fs::read(&path).unwrap() == expected, "{kind:?} punch");

        let path = released("mapped");
        let script =
            "import mmap,sys\nf=open(sys.argv[1],'r+b')\nm=mmap.mmap(f.fileno(),0)\nm[5]=7\nm.flush()\nm.close()";
        python(script, &[&path]);
        let mut expected = content.clone();
        expected[5] = 7;
        assert!(fs::read(&path).unwrap() == expected, "{kind:?} mapped write");

        if kind != FsKind::Ext4 {
            let (path, source) = (released("cloned over"), hsm.file("source", &noise(11, 8192)));
            let script = "import fcntl,os,struct,sys\na=os.open(sys.argv[1],os.O_RDONLY)\nb=os.open(sys.argv[2],os.O_WRONLY)\nfcntl.ioctl(b,0x4020940d,struct.pack('qQQQ',a,0,4096,8192))";
            python(script, &[&source, &path]);
            let mut expected = content.clone();
            expected[8192..12288].copy_from_slice(&noise(11, 8192)[..4096]);
            assert!(fs::read(&path).unwrap() == expected, "{kind:?} clone range into it");
        }
    }
}

/// What is thrown away is not fetched.
#[test]
fn o_trunc_restores_nothing() {
    for kind in FsKind::ALL {
        let hsm = Hsm::start(kind);
        let path = hsm.archived_and_released("f", &noise(12, SIZE));
        let before = restores(&hsm);
        fs::write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(restores(&hsm), before, "{kind:?}: nothing was restored");
        assert!(!is_released(&path));
        assert!(hsm_state(&path).flags.contains(HsmFlags::DIRTY));
        hsm.archive(&[&path]);
        hsm.release(&[&path]);
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }
}

/// Restores and other works that movers did, by the agent's count.
fn restores(hsm: &Hsm) -> u64 {
    let status = hsm.status().unwrap();
    status["agent"]["archives"].as_array().unwrap().iter().filter_map(|a| a["started"].as_u64()).sum()
}

#[test]
fn p5_many_readers_of_one_file_share_one_restore() {
    let hsm = Hsm::start(FsKind::Xfs);
    let content = noise(13, 8 << 20);
    let path = hsm.archived_and_released("f", &content);
    let before = restores(&hsm);
    let readers: Vec<_> = (0..40).map(|_| cat(&path)).collect();
    for reader in readers {
        assert!(reader.wait_with_output().unwrap().stdout == content);
    }
    assert_eq!(restores(&hsm) - before, 1);
}

#[test]
fn p5_read_only_mounts_and_immutable_files() {
    let hsm = Hsm::start(FsKind::Ext4);
    let content = noise(14, SIZE);
    let path = hsm.archived_and_released("f", &content);
    let bind = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| assert!(Command::new("mount").args(args).arg(bind.path()).status().unwrap().success());
    run(&["--bind", hsm.fs.path().to_str().unwrap()]);
    run(&["-o", "remount,bind,ro"]);
    let got = fs::read(bind.path().join("f"));
    // The guard closes its descriptor after it has answered: on a busy machine that may be after the reader has gone on.
    wait_until(LONG, "unmounted", || sys::mounts::unmount(bind.path(), false).is_ok());
    assert!(got.unwrap() == content);
    // Making a file immutable opens it, and so restores it; and what is immutable is not released.
    hsm.release(&[&path]);
    let chattr = |flag: &str| assert!(Command::new("chattr").arg(flag).arg(&path).status().unwrap().success());
    chattr("+i");
    let got = fs::read(&path);
    let refused = hsm.run(&["release"], &[&path]);
    chattr("-i");
    assert!(got.unwrap() == content);
    assert_eq!(refused.status.code(), Some(1));
    assert!(!is_released(&path));
}

#[test]
fn p5_the_archive_s_damage_is_an_error_and_never_content() {
    for (kind, setting) in [
        (FsKind::Ext4, ""),
        (FsKind::Xfs, "compression = \"zstd\""),
        (FsKind::Btrfs, "format = \"lemur\"\ncompression = \"gzip\""),
    ] {
        let hsm = Hsm::start_with(kind, 400, |site| site.add_archive_setting(setting));
        let content: Vec<u8> = noise(15, 50_000).into_iter().map(|b| b & 0x3f).collect();
        let path = hsm.archived_and_released("f", &content);
        let object = hsm.site.archive_files().remove(0);
        let good = fs::read(&object).unwrap();
        for at in [0, good.len() / 3, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&object, &bad).unwrap();
            assert!(fs::read(&path).is_err(), "{kind:?} {setting} byte {at}");
            assert!(is_released(&path));
        }
        for length in [0, 1, good.len() / 2, good.len() - 1] {
            fs::write(&object, &good[..length]).unwrap();
            assert!(fs::read(&path).is_err(), "{kind:?} {setting} cut to {length}");
        }
        fs::remove_file(&object).unwrap();
        assert!(fs::read(&path).is_err(), "{kind:?} {setting} gone");
        fs::write(&object, &good).unwrap();
        assert!(fs::read(&path).unwrap() == content, "{kind:?} {setting} back again");
    }
}

/// A reader whose restore cannot be had waits, can be killed, and gets an error in the end.
#[test]
fn p5_a_reader_waits_for_an_archive_that_is_away() {
    const SHORT: &str = "restore { timeout_s = 1 }";
    const LENGTHY: &str = "restore { timeout_s = 1000 }";
    let hsm = Hsm::start_with(FsKind::Ext4, 128, |site| site.add_agent_setting(LENGTHY));
    let content = noise(16, SIZE);
    let paths: Vec<_> = (0..3).map(|i| hsm.archived_and_released(&format!("f{i}"), &content)).collect();
    let blocked = || hsm.status().unwrap()["source"]["blocked_readers"].as_u64().unwrap();
    let root = hsm.site.archive_root().join("objects");
    let away = root.with_extension("away");
    fs::rename(&root, &away).unwrap();
    let mut patient = cat(&paths[0]);
    let mut killed = cat(&paths[1]);
    let mut other = cat(&paths[1]);
    wait_until(LONG, "three wait", || blocked() == 3);
    kill(killed.id().cast_signed());
    assert!(!killed.wait().unwrap().success());
    // Whoever comes now has less time, and those who wait already keep theirs.
    hsm.reconfigure(LENGTHY, SHORT);
    for path in [&paths[0], &paths[2]] {
        let begun = Instant::now();
        let out = cat(path).wait_with_output().unwrap();
        assert!(!out.status.success() && out.stdout.is_empty());
        assert!(begun.elapsed() >= Duration::from_secs(1), "an error after {:?}", begun.elapsed());
    }
    assert!([&mut patient, &mut other].into_iter().all(|reader| reader.try_wait().unwrap().is_none()));
    hsm.reconfigure(SHORT, LENGTHY);
    // The one that was killed may be among them still.
    let before = blocked();
    let late = cat(&paths[2]);
    wait_until(LONG, "another waits", || blocked() > before);
    // The archive comes back: so does the content.
    fs::rename(&away, &root).unwrap();
    for reader in [patient, other, late] {
        let out = reader.wait_with_output().unwrap();
        assert!(out.stdout == content, "{}", String::from_utf8_lossy(&out.stderr));
    }
}

/// The archive's disk fails: readers wait and get an error in the end, archives are tried again, and nobody dies.
#[test]
fn p5_an_archive_that_gives_eio() {
    let archive = testkit::LoopFs::new(FsKind::Ext4, 64);
    let root = archive.path().join("root");
    fs::create_dir(&root).unwrap();
    let hsm = Hsm::start_with(FsKind::Xfs, 300, |site| {
        site.set_archive_root(&root);
        site.add_agent_setting("restore { timeout_s = 3 }");
    });
    let path = hsm.archived_and_released("f", &noise(17, SIZE));
    let other = hsm.file("other", b"not archived yet");
    let (agent, guard) = (hsm.agent_pid(), hsm.guard_pid());
    testkit::faults::shut_down(&archive);
    let out = cat(&path).wait_with_output().unwrap();
    assert!(!out.status.success() && out.stdout.is_empty());
    assert!(is_released(&path));
    hsm.ok(&["archive"], &[&other]);
    wait_until(LONG, "the failure shows in the queue", || {
        hsm.site.sifaka_ok(&["actions", "--json"]).contains("retrying")
    });
    assert_eq!((hsm.agent_pid(), hsm.guard_pid()), (agent, guard));
    hsm.ok(&["cancel"], &[&other]);
}

/// An agent that is asked to end leaves its readers to the next one.
#[test]
fn p5_readers_wait_through_a_restart_in_order() {
    for settings in ["", "restore { mode = \"range\" threshold = \"1MiB\" }"] {
        let mut hsm = Hsm::start_with(FsKind::Ext4, 512, |site| site.add_agent_setting(settings));
        let content = noise(14, 8 << 20);
        let path = hsm.archived_and_released("f", &content);
        // No mover comes back.
        let config = fs::read(hsm.site.posix_config()).unwrap();
        fs::write(hsm.site.posix_config(), "nonsense").unwrap();
        hsm.mover_pids().into_iter().for_each(kill);
        let mut reader = cat(&path);
        wait_until(LONG, "it waits", || {
            hsm.status().is_some_and(|s| s["source"]["blocked_readers"].as_u64() == Some(1))
        });
        hsm.stop_agent();
        assert!(reader.try_wait().unwrap().is_none(), "{settings}: it waits for the next agent");
        fs::write(hsm.site.posix_config(), config).unwrap();
        hsm.agent = Some(hsm.site.start_agent());
        let out = reader.wait_with_output().unwrap();
        assert!(out.status.success() && out.stdout == content, "{settings}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn readers_that_were_killed_are_forgotten_when_many_wait() {
    const MANY: usize = 1100;
    let hsm = Hsm::start_with(FsKind::Ext4, 128, |site| site.add_agent_setting("restore { timeout_s = 1000 }"));
    let path = hsm.archived_and_released("f", &noise(18, SIZE));
    let root = hsm.site.archive_root().join("objects");
    fs::rename(&root, root.with_extension("away")).unwrap();
    let blocked = || hsm.status().unwrap()["source"]["blocked_readers"].as_u64().unwrap();
    let script =
        "import os,sys\nfor n in range(int(sys.argv[2])):\n if os.fork()==0: open(sys.argv[1]);break\nos.wait()";
    let mut readers = Command::new("python3");
    readers.args(["-c", script]).arg(&path).arg(MANY.to_string()).process_group(0);
    let mut readers = readers.spawn().unwrap();
    let mut other = cat(&path);
    wait_until(LONG, "they wait", || blocked() > MANY as u64);
    let group = rustix::process::Pid::from_child(&readers);
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    readers.wait().unwrap();
    // Not all at once: some may not have been dead yet when that was looked at, and few do no harm.
    wait_until(LONG, "they are forgotten", || blocked() < 1024);
    assert!(other.try_wait().unwrap().is_none(), "the other waits on");
    other.kill().unwrap();
    other.wait().unwrap();
}
