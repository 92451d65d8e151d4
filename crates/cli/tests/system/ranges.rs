//! P5 where files are restored in parts: what is read is the content, or an error, never a hole; and only what is read is fetched.

use crate::support::{Hsm, LONG, blocks, hsm_state, is_released, kill, noise, number};
use model::HsmFlags;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use testkit::{FsKind, LoopFs, Site, faults, wait_until};

pub(crate) const MIB: usize = 1 << 20;
const RESIDENT: &str = "trusted.sifaka_resident";
/// Bytes of that attribute before its bits.
const HEADER: usize = 32;

fn start(kind: FsKind) -> Hsm {
    start_with(kind, "readahead = \"4MiB\"")
}

pub(crate) fn start_with(kind: FsKind, more: &str) -> Hsm {
    Hsm::start_with(kind, 700, |site| {
        site.add_agent_setting(&format!("restore {{ mode = \"range\" threshold = \"1MiB\" {more} }}"));
        site.add_archive_setting("compression = \"off\"");
    })
}

/// Works that movers did, by the agent's count.
fn fetches(hsm: &Hsm) -> u64 {
    let status = hsm.status().unwrap();
    status["agent"]["archives"].as_array().unwrap().iter().filter_map(|a| a["started"].as_u64()).sum()
}

fn python(script: &str, arguments: &[&Path]) -> Vec<u8> {
    let out = Command::new("python3").args(["-c", script]).args(arguments).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

fn read_at(path: &Path, offset: usize, length: usize) -> std::io::Result<Vec<u8>> {
    let mut buffer = vec![0; length];
    File::open(path)?.read_exact_at(&mut buffer, offset as u64)?;
    Ok(buffer)
}

/// What the file's attribute claims is there: `None` without the attribute, else the chunks.
fn claimed(path: &Path) -> Option<Vec<usize>> {
    let fd = rustix::fs::open(path, sys::OFlags::PATH, sys::Mode::empty()).unwrap();
    let value = sys::xattr::get(&fd, RESIDENT).unwrap()?;
    let bit = |at: usize| value.get(HEADER + at / 8).is_some_and(|byte| byte & (1 << (at % 8)) != 0);
    Some((0..value.len().saturating_sub(HEADER) * 8).filter(|at| bit(*at)).collect())
}

fn wait_until_claimed(path: &Path, chunks: &[usize]) {
    wait_until(LONG, "what is there is written down", || {
        claimed(path).is_some_and(|claimed| chunks.iter().all(|c| claimed.contains(c)))
    });
}

#[test]
fn p5_every_kind_of_read_fetches_what_it_reads() {
    for kind in FsKind::ALL {
        let hsm = start(kind);
        let content = noise(21, 12 * MIB + 5);
        let path = hsm.archived_and_released("f", &content);
        let mtime = fs::metadata(&path).unwrap().modified().unwrap();
        let copy = hsm.path("copy");

        assert!(read_at(&path, 5 * MIB + 17, 3000).unwrap() == content[5 * MIB + 17..][..3000], "{kind:?} pread");
        assert!(is_released(&path), "{kind:?}: a part is no whole");
        let there = blocks(&path) * 512;
        assert!((1..6 * MIB as u64).contains(&there), "{kind:?}: {there} bytes came for 3000");
        assert!(read_at(&path, 12 * MIB, 5).unwrap() == content[12 * MIB..], "{kind:?} the end");
        assert_eq!(
            File::open(&path).unwrap().read_at(&mut [0; 10], 12 * MIB as u64 + 5).unwrap(),
            0,
            "{kind:?} past the end"
        );
        assert_eq!(
            File::open(&path).unwrap().read_at(&mut [0; 10], 99 * MIB as u64).unwrap(),
            0,
            "{kind:?} far past the end"
        );

        let sendfile = "import os,sys\na=os.open(sys.argv[1],os.O_RDONLY)\nb=os.open(sys.argv[2],os.O_WRONLY|os.O_CREAT|os.O_TRUNC)\nn=7000000\nwhile n<7100000:\n n+=os.sendfile(b,a,n,7100000-n)";
        python(sendfile, &[&path, &copy]);
        assert!(fs::read(&copy).unwrap() == content[7_000_000..7_100_000], "{kind:?} sendfile");
        let range = "import os,sys\na=os.open(sys.argv[1],os.O_RDONLY)\nb=os.open(sys.argv[2],os.O_WRONLY|os.O_CREAT|os.O_TRUNC)\nn=os.copy_file_range(a,b,200000,offset_src=9000000)\nassert n==200000,n";
        python(range, &[&path, &copy]);
        assert!(fs::read(&copy).unwrap() == content[9_000_000..9_200_000], "{kind:?} copy_file_range");
        if kind != FsKind::Ext4 {
            let clone = "import fcntl,os,struct,sys\na=os.open(sys.argv[1],os.O_RDONLY)\nb=os.open(sys.argv[2],os.O_WRONLY|os.O_CREAT|os.O_TRUNC)\nfcntl.ioctl(b,0x4020940d,struct.pack('qQQQ',a,10<<20,1<<20,0))";
            python(clone, &[&path, &copy]);
            assert!(fs::read(&copy).unwrap() == content[10 * MIB..11 * MIB], "{kind:?} clone of a range");
        }
        assert!(is_released(&path), "{kind:?}: chunks 2 and 11 were not asked for");
        // It moves while something is fetched ahead.
        wait_until(LONG, "mtime is as before", || fs::metadata(&path).unwrap().modified().unwrap() == mtime);

        if kind != FsKind::Ext4 {
            let clone = "import fcntl,os,sys\na=os.open(sys.argv[1],os.O_RDONLY)\nb=os.open(sys.argv[2],os.O_WRONLY|os.O_CREAT|os.O_TRUNC)\nfcntl.ioctl(b,0x40049409,a)";
            python(clone, &[&path, &copy]);
            assert!(fs::read(&copy).unwrap() == content, "{kind:?} clone of all of it");
            assert!(!is_released(&path), "{kind:?}: all of it was asked for");
        }
        assert!(fs::read(&path).unwrap() == content, "{kind:?}");
    }
}

#[test]
fn p5_the_last_part_makes_an_ordinary_file_and_it_can_go_again() {
    for kind in FsKind::ALL {
        let hsm = start_with(kind, "readahead = 0");
        let content = noise(22, 5 * MIB + 1);
        let path = hsm.archived_and_released("f", &content);
        let mtime = fs::metadata(&path).unwrap().modified().unwrap();
        for _ in 0..3 {
            for chunk in [3, 0, 5, 2, 4] {
                assert!(read_at(&path, chunk * MIB, 1).unwrap() == content[chunk * MIB..][..1], "{kind:?}");
                assert!(is_released(&path), "{kind:?}: one is missing");
            }
            assert!(read_at(&path, MIB, MIB).unwrap() == content[MIB..2 * MIB], "{kind:?}");
            wait_until(LONG, "it is an ordinary file", || !is_released(&path) && claimed(&path).is_none());
            assert!(fs::read(&path).unwrap() == content, "{kind:?}");
            assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), mtime, "{kind:?}");
            hsm.release(&[&path]);
            assert!(blocks(&path) < 64, "{kind:?}: {} blocks", blocks(&path));
        }
    }
}

#[test]
fn readers_do_not_wait_until_what_they_read_is_durable() {
    let backing = LoopFs::new(FsKind::Ext4, 200);
    let fs = LoopFs::thin_on(&backing);
    let mut site = Site::local(&fs);
    site.add_agent_setting("restore { mode = \"range\" threshold = \"1MiB\" readahead = \"16MiB\" }");
    let agent = Some(site.start_agent());
    let hsm = Hsm { agent, site, fs };
    hsm.wait_for_movers();
    let content = noise(31, 12 * MIB);
    // Where the machine stood still for seconds, the sync began before all was there, and what was missing waits for the disk.
    let met = (0..5).any(|round| {
        let path = hsm.archived_and_released(&format!("f{round}"), &content);
        let frozen = faults::freeze(&backing);
        let (done, read) = std::sync::mpsc::channel();
        let reader = std::thread::spawn({
            let path = path.clone();
            move || (0..6).try_for_each(|chunk| done.send(read_at(&path, chunk * MIB, MIB).unwrap()))
        });
        let first: Vec<_> = (0..6).map_while(|_| read.recv_timeout(LONG / 6).ok()).collect();
        let agent = hsm.agent_pid();
        wait_until(LONG, "a thread of the agent syncs", || {
            let tasks = fs::read_dir(format!("/proc/{agent}/task")).unwrap().flatten();
            tasks.map(|task| fs::read_to_string(task.path().join("stat")).unwrap_or_default()).any(|stat| {
                stat.contains(") D") && (stat.contains("(commit-restore") || stat.contains("(parts-record"))
            })
        });
        let all_is_there = first.len() == 6 && path.metadata().unwrap().blocks() * 512 >= content.len() as u64;
        if all_is_there {
            assert!(first.concat() == content[..6 * MIB]);
            let (done, read) = std::sync::mpsc::channel();
            let reader = std::thread::spawn({
                let path = path.clone();
                move || done.send(read_at(&path, 6 * MIB, 6 * MIB))
            });
            let rest = read.recv_timeout(LONG);
            assert!(is_released(&path), "it is not durable yet");
            drop(frozen);
            assert!(rest.expect("a reader waits for the sync").unwrap() == content[6 * MIB..]);
            reader.join().unwrap().unwrap();
            wait_until(LONG, "it is an ordinary file", || !is_released(&path));
        } else {
            drop(frozen);
        }
        reader.join().unwrap().unwrap();
        all_is_there
    });
    assert!(met, "nothing was ever fetched ahead before it was synced");
}

/// The kernel tells once that it could not write something, keeps it in memory for as long as it likes, and reads a hole after that.
#[test]
fn p5_what_a_failed_sync_may_have_lost_is_fetched_again() {
    let backing = LoopFs::new(FsKind::Ext4, 200);
    let fs = LoopFs::thin_on(&backing);
    let mut site = Site::local(&fs);
    site.add_agent_setting("restore { mode = \"range\" threshold = \"1MiB\" readahead = 0 }");
    let agent = Some(site.start_agent());
    let hsm = Hsm { agent, site, fs };
    hsm.wait_for_movers();
    let content = noise(37, 6 * MIB);
    let path = hsm.archived_and_released("f", &content);
    let drop_pages = || sys::file::advise_dontneed(File::open(&path).unwrap(), 0, 0).unwrap();
    // Where the content was, there is nothing again behind the filesystem.
    assert!(Command::new("fstrim").arg(hsm.fs.path()).status().unwrap().success());
    let failures = |what: &str| hsm.agent.as_ref().unwrap().log().matches(what).count();

    // A part, which is written down after a while.
    let full = faults::fill(&backing, 0);
    assert!(read_at(&path, 2 * MIB, MIB).unwrap() == content[2 * MIB..3 * MIB]);
    wait_until(LONG, "the sync failed", || failures("may not have reached its disk") == 1);
    drop(full);
    assert!(read_at(&path, 2 * MIB, MIB).unwrap() == content[2 * MIB..3 * MIB], "it was lost, and is here again");
    wait_until_claimed(&path, &[2]);
    // ext4 loses what is written over pages whose writing failed, and says nothing.
    drop_pages();
    assert!(read_at(&path, 2 * MIB, MIB).unwrap() == content[2 * MIB..3 * MIB], "it is on the disk");

    // All of it, which is to become an ordinary file.
    let full = faults::fill(&backing, 0);
    for chunk in [0, 1, 3, 4, 5] {
        assert!(read_at(&path, chunk * MIB, MIB).unwrap() == content[chunk * MIB..][..MIB]);
    }
    wait_until(LONG, "the commit failed", || failures("cannot be made an ordinary file yet") > 0);
    drop(full);
    assert!(is_released(&path));
    assert!(fs::read(&path).unwrap() == content);
    // It is not tried again at once; an action asks for it.
    hsm.ok(&["restore", "--wait"], &[&path]);
    assert!(!is_released(&path));
    drop_pages();
    assert!(fs::read(&path).unwrap() == content);
}

#[test]
fn p5_a_file_in_parts_can_be_released_when_nobody_has_it_open() {
    for kind in FsKind::ALL {
        let hsm = start(kind);
        let content = noise(23, 8 * MIB);
        let path = hsm.archived_and_released("f", &content);
        let reader = File::open(&path).unwrap();
        let mut byte = [0];
        reader.read_exact_at(&mut byte, 0).unwrap();
        assert!(!hsm.run(&["release"], &[&path]).status.success(), "{kind:?}: somebody has it open");
        assert!(read_at(&path, 0, 4096).unwrap() == content[..4096], "{kind:?}");
        drop(reader);
        hsm.release(&[&path]);
        assert!(claimed(&path).is_none() && blocks(&path) < 64, "{kind:?}: nothing of it is there");
        assert!(read_at(&path, 100, 4096).unwrap() == content[100..4196], "{kind:?}");
        assert!(fs::read(&path).unwrap() == content, "{kind:?}");
    }
}

/// Bytes of a file of which chunks 0, 2 and 6 are there.
const SIZE: usize = 6 * MIB + 700;

fn in_parts(hsm: &Hsm, name: &str, content: &[u8]) -> PathBuf {
    let path = hsm.archived_and_released(name, content);
    for offset in [0, 2 * MIB, 6 * MIB] {
        assert!(read_at(&path, offset, 600).unwrap() == content[offset..][..600], "{name}");
    }
    assert!(is_released(&path), "{name}");
    path
}

#[test]
fn p5_truncations_of_a_file_in_parts_keep_what_they_do_not_touch() {
    for kind in FsKind::ALL {
        let hsm = start_with(kind, "readahead = 0");
        let content = noise(24, SIZE);
        let in_parts = |name: &str| in_parts(&hsm, name, &content);
        // By path: the file is never open. The place is in a chunk that is there, or not; on the edge of a page, or not.
        for (name, length) in [
            ("there", 2 * MIB + 4096),
            ("there, odd", 2 * MIB + 5001),
            ("away", 4 * MIB),
            ("away, odd", 4 * MIB + 77),
            ("longer", SIZE + 10),
            ("empty", 0),
        ] {
            let path = in_parts(name);
            python(
                "import os,sys\nos.truncate(sys.argv[1],int(os.path.basename(sys.argv[2])))",
                &[&path, Path::new(&length.to_string())],
            );
            let mut expected = content.clone();
            expected.resize(length, 0);
            assert!(fs::read(&path).unwrap() == expected, "{kind:?} truncate {name}");
            assert!(!is_released(&path), "{kind:?} truncate {name}");
        }

        let path = in_parts("shorter and longer");
        python("import os,sys\nos.truncate(sys.argv[1],2100001)\nos.truncate(sys.argv[1],6292156)", &[&path]);
        let mut expected = content[..2_100_001].to_vec();
        expected.resize(SIZE, 0);
        assert!(fs::read(&path).unwrap() == expected, "{kind:?} shorter and as long as before");
    }
}

#[test]
fn p5_writes_to_a_file_in_parts_keep_what_they_do_not_touch() {
    for kind in FsKind::ALL {
        let hsm = start_with(kind, "readahead = 0");
        let content = noise(24, SIZE);
        let in_parts = |name: &str| in_parts(&hsm, name, &content);

        let path = in_parts("written");
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"changed", 2 * MIB as u64 + 9).unwrap();
        let mut expected = content.clone();
        expected[2 * MIB + 9..][..7].copy_from_slice(b"changed");
        assert!(fs::read(&path).unwrap() == expected && !is_released(&path), "{kind:?} write");
        wait_until(LONG, "it is dirty", || hsm_state(&path).flags.contains(HsmFlags::DIRTY));

        let path = in_parts("appended");
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more").unwrap();
        assert!(fs::read(&path).unwrap() == [&content[..], b"more"].concat(), "{kind:?} append");

        let path = in_parts("thrown away");
        fs::write(&path, b"new").unwrap();
        assert!(fs::read(&path).unwrap() == b"new" && !is_released(&path), "{kind:?} O_TRUNC");

        // Open for writing before anything came: no access can be told from a write, so all comes.
        let path = hsm.archived_and_released("open for writing", &content);
        let writer = OpenOptions::new().write(true).open(&path).unwrap();
        assert!(read_at(&path, MIB, 10).unwrap() == content[MIB..][..10], "{kind:?}");
        assert!(!is_released(&path), "{kind:?}: it is whole");
        writer.write_all_at(b"x", 5).unwrap();
        let mut expected = content.clone();
        expected[5] = b'x';
        assert!(fs::read(&path).unwrap() == expected, "{kind:?}");
    }
}

#[test]
fn p5_programs_that_look_for_holes_get_the_whole_file() {
    for kind in FsKind::ALL {
        let hsm = start(kind);
        let content = noise(25, 9 * MIB);
        let (path, copy) = (hsm.archived_and_released("f", &content), hsm.path("copy"));
        assert!(read_at(&path, 4 * MIB, 10).unwrap() == content[4 * MIB..][..10]);
        assert!(is_released(&path));
        let cp = |args: &[&str]| Command::new("cp").args(args).arg(&path).arg(&copy).status().unwrap().success();
        assert!(cp(&["--sparse=auto", "--reflink=never"]), "{kind:?}");
        assert!(fs::read(&copy).unwrap() == content, "{kind:?} cp");
        hsm.release(&[&path]);
        assert!(cp(&["--sparse=auto", "--reflink=auto"]), "{kind:?}");
        assert!(fs::read(&copy).unwrap() == content, "{kind:?} cp of a file of which nothing is there");
    }
}

#[test]
fn an_explicit_restore_fetches_what_is_missing() {
    let hsm = start_with(FsKind::Xfs, "readahead = 0");
    let content = noise(26, 40 * MIB);
    let path = hsm.archived_and_released("f", &content);
    for chunk in [1, 7, 30] {
        read_at(&path, chunk * MIB, 1).unwrap();
    }
    hsm.ok(&["restore", "--wait"], &[&path]);
    assert!(!is_released(&path) && claimed(&path).is_none());
    assert!(fs::read(&path).unwrap() == content);
    hsm.settle();
}

#[test]
fn many_readers_of_one_part_share_one_fetch() {
    let hsm = start(FsKind::Xfs);
    let content = noise(27, 16 * MIB);
    let path = hsm.archived_and_released("f", &content);
    let before = fetches(&hsm);
    let script = "import os,sys\nf=os.open(sys.argv[1],os.O_RDONLY)\nsys.stdout.buffer.write(os.pread(f,100,5<<20))";
    let reader = || Command::new("python3").args(["-c", script]).arg(&path).stdout(Stdio::piped()).spawn().unwrap();
    let readers: Vec<Child> = (0..30).map(|_| reader()).collect();
    for reader in readers {
        assert!(reader.wait_with_output().unwrap().stdout == content[5 * MIB..][..100]);
    }
    assert_eq!(fetches(&hsm) - before, 1);
    assert!(is_released(&path));
}

#[test]
fn reading_in_order_fetches_ahead_and_everything_once() {
    let hsm = start_with(FsKind::Ext4, "readahead = \"16MiB\"");
    let content = noise(28, 60 * MIB + 3);
    let path = hsm.archived_and_released("f", &content);
    let bytes = || hsm.status().unwrap()["agent"]["archives"][0]["bytes"].as_u64().unwrap();
    let before = (fetches(&hsm), bytes());
    // Little by little: one large read would ask for all of it.
    let mut file = File::open(&path).unwrap();
    for (n, expected) in content.chunks(256 << 10).enumerate() {
        let mut got = vec![0; expected.len()];
        file.read_exact(&mut got).unwrap();
        assert!(got == expected, "piece {n}");
    }
    wait_until(LONG, "it is whole", || !is_released(&path));
    wait_until(LONG, "everything came once", || bytes() - before.1 == content.len() as u64);
    let fetches = fetches(&hsm) - before.0;
    assert!((5..40).contains(&fetches), "{fetches} fetches for 61 chunks");
}

#[test]
fn p5_a_damaged_part_gives_an_error_to_its_readers_alone() {
    for kind in FsKind::ALL {
        let hsm = start(kind);
        let content = noise(29, 24 * MIB);
        let path = hsm.archived_and_released("f", &content);
        let object =
            hsm.site.archive_files().into_iter().find(|f| fs::metadata(f).unwrap().len() == content.len() as u64);
        let object = OpenOptions::new().write(true).open(object.expect("the object")).unwrap();
        object.write_all_at(b"damage", 10 * MIB as u64 + 1234).unwrap();

        // In order, so that the damaged one is fetched ahead with others.
        for chunk in (0..24).filter(|chunk| *chunk != 10) {
            assert!(
                read_at(&path, chunk * MIB, MIB).unwrap() == content[chunk * MIB..][..MIB],
                "{kind:?} chunk {chunk}"
            );
        }
        for _ in 0..2 {
            let error = read_at(&path, 10 * MIB, 5).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(5), "{kind:?}: nothing of the chunk is served");
        }
        assert!(read_at(&path, 9 * MIB + 5, 1000).unwrap() == content[9 * MIB + 5..][..1000], "{kind:?}");
        assert!(is_released(&path), "{kind:?}");
        // Whoever needs all of it gets the error as well, and changes nothing.
        assert!(OpenOptions::new().read(true).write(true).open(&path).is_err(), "{kind:?}");
        assert!(!hsm.run(&["restore", "--wait"], &[&path]).status.success(), "{kind:?}");
        assert!(hsm.agent.as_ref().unwrap().log().contains("10485760"), "{kind:?}: the report says where");
        assert!(hsm.status().unwrap()["source"]["damaged_chunks"].as_u64() >= Some(2), "{kind:?}");

        object.write_all_at(&content[10 * MIB + 1234..][..6], 10 * MIB as u64 + 1234).unwrap();
        assert!(fs::read(&path).unwrap() == content, "{kind:?}: it is looked for again");
    }
}

#[test]
fn what_is_there_is_known_to_the_next_agent() {
    for kind in FsKind::ALL {
        let hsm = start_with(kind, "readahead = 0");
        let content = noise(30, 20 * MIB);
        let path = hsm.archived_and_released("f", &content);
        for chunk in [2, 3, 11, 19] {
            read_at(&path, chunk * MIB + 5, 100).unwrap();
        }
        assert_eq!(claimed(&path).map(|c| c.len() < 4), Some(true), "{kind:?}: a claim needs a sync before");
        wait_until_claimed(&path, &[2, 3, 11, 19]);
        assert_eq!(claimed(&path).unwrap().len(), 4, "{kind:?}");
        let old = hsm.agent_pid();
        kill(old);
        wait_until(LONG, "another agent", || hsm.status().is_some_and(|s| s["pid"].as_i64() != Some(old.into())));
        hsm.wait_for_movers();
        let before = fetches(&hsm);
        for chunk in [2, 3, 11, 19] {
            assert!(read_at(&path, chunk * MIB, MIB).unwrap() == content[chunk * MIB..][..MIB], "{kind:?}");
        }
        assert_eq!(fetches(&hsm), before, "{kind:?}: nothing is fetched a second time");
        assert!(fs::read(&path).unwrap() == content, "{kind:?}");
    }
}

/// A power failure leaves no claim without its data.
#[test]
fn p5_what_is_claimed_to_be_there_survives_a_power_failure() {
    for kind in [FsKind::Ext4, FsKind::Xfs] {
        let archive = LoopFs::new(kind, 400);
        let root = archive.path().join("root");
        fs::create_dir(&root).unwrap();
        let mut hsm = Hsm::start_with(kind, 400, |site| {
            site.set_archive_root(&root);
            site.add_agent_setting("restore { mode = \"range\" threshold = \"1MiB\" readahead = 0 }");
        });
        let content = noise(31, 60 * MIB);
        let path = hsm.archived_and_released("f", &content);
        // Until a claim appears; what came after it is in memory alone.
        let begun = Instant::now();
        let mut chunks = (0..59).cycle();
        while claimed(&path).is_none_or(|c| c.is_empty()) {
            assert!(begun.elapsed() < LONG, "never claimed");
            let chunk = chunks.next().unwrap();
            read_at(&path, chunk * MIB, 9).unwrap();
        }
        for chunk in chunks.take(9) {
            read_at(&path, chunk * MIB, 9).unwrap();
        }
        // What is claimed gets to the disk with somebody else's sync; of what is not claimed nothing was asked to.
        let other = File::create(hsm.path("other")).unwrap();
        (&other).write_all(b"x").unwrap();
        other.sync_all().unwrap();
        drop(other);
        faults::shut_down(&hsm.fs);
        let pids = [hsm.agent_pid(), hsm.guard_pid()];
        pids.into_iter().for_each(kill);
        hsm.agent = None;
        for left in sys::mounts::mounts_under(hsm.site.mount_root()).unwrap() {
            wait_until(LONG, "unmounted", || sys::mounts::unmount(&left, false).is_ok());
        }
        hsm.fs.remount();
        // Nobody guards it now: what is read is what is on the disk.
        let claimed = claimed(&path).expect("the mark is there");
        assert!(!claimed.is_empty(), "{kind:?}");
        let on_disk = fs::read(&path).unwrap();
        for chunk in claimed {
            assert!(on_disk[chunk * MIB..][..MIB] == content[chunk * MIB..][..MIB], "{kind:?} chunk {chunk}");
        }
    }
}

/// Where nothing can be had in parts, everything comes whole.
#[test]
fn p5_objects_without_manifests_are_restored_whole() {
    let hsm = start(FsKind::Ext4);
    let content = noise(50, 5 * MIB);
    let path = hsm.archived_and_released("f", &content);
    for object in hsm.site.archive_files() {
        fs::remove_file(format!("{}.manifest", object.display())).unwrap();
    }
    assert!(read_at(&path, 3 * MIB, 50).unwrap() == content[3 * MIB..][..50]);
    assert!(!is_released(&path) && claimed(&path).is_none());
    assert!(fs::read(&path).unwrap() == content);
    let mode = fs::metadata(&path).unwrap().mode();
    assert_eq!(mode & 0o777, 0o644);
}

/// A killed agent's mark may claim less than it let readers have.
#[test]
fn p5_what_was_handed_out_stays_when_nothing_more_can_be_had() {
    let hsm = start_with(FsKind::Ext4, "readahead = 0");
    let content = noise(51, 5 * MIB);
    let path = hsm.archived_and_released("f", &content);
    let reader = File::open(&path).unwrap();
    reader.read_exact_at(&mut [0; 50], 2 * MIB as u64).unwrap();
    let before = hsm.agent_pid();
    kill(before);
    wait_until(LONG, "another agent", || hsm.status().is_some_and(|s| number(&s["pid"]) != before));
    hsm.wait_for_movers();
    assert_eq!(claimed(&path), Some(Vec::new()), "it was killed before it wrote down what was there");

    for object in hsm.site.archive_files() {
        fs::remove_file(format!("{}.manifest", object.display())).unwrap();
        let mut damaged = fs::read(&object).unwrap();
        damaged[4 * MIB] ^= 1;
        fs::write(&object, damaged).unwrap();
    }
    assert!(read_at(&path, MIB, 50).is_err());
    assert!(is_released(&path) && claimed(&path).is_some());
    assert!(blocks(&path) * 512 >= MIB as u64, "it was not punched out");
}

#[test]
fn p5_a_mapping_that_is_made_to_reach_further_shows_no_holes() {
    const SCRIPT: &str = r"
import ctypes,sys
from ctypes import c_int,c_long,c_size_t,c_void_p
libc=ctypes.CDLL(None)
libc.mmap.restype=libc.mremap.restype=c_void_p
libc.mmap.argtypes=[c_void_p,c_size_t,c_int,c_int,c_int,c_long]
libc.mremap.argtypes=[c_void_p,c_size_t,c_size_t,c_int]
f=open(sys.argv[1],'rb',buffering=0)
length=int(sys.argv[2])
for _ in range(3):
    f.seek(2<<20)
    f.read(1<<20)
small=libc.mmap(None,length,1,1,f.fileno(),2<<20)
large=libc.mremap(small,length,3<<20,1)
sys.stdout.buffer.write(ctypes.string_at(large,3<<20))
";
    for kind in FsKind::ALL {
        let hsm = start_with(kind, "readahead = 0");
        let content = noise(52, 8 * MIB);
        let path = hsm.archived_and_released("f", &content);
        // The reads before show that the guard knows what is there; so it could let the mapping of that through by itself.
        for length in ["4096", "65536"] {
            assert!(read_at(&path, 2 * MIB, MIB).unwrap() == content[2 * MIB..3 * MIB]);
            assert!(is_released(&path), "{kind:?}");
            let seen = python(SCRIPT, &[&path, Path::new(length)]);
            assert!(seen == content[2 * MIB..5 * MIB], "{kind:?} {length}");
            hsm.release(&[&path]);
        }
    }
}
