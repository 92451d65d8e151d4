//! `sifaka rebalance --archive` as a process: what it says, what is left when it is killed, and roots that are full.

use serde_json::Value;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;
use testkit::{FsKind, LoopFs, Random, Scratch};
use transfer::{
    Compression, DigestKind, Durability, Expected, KernelDurability, OpenFile, Origin, PutOptions, Store as _, Stored,
    TierStore, TransferError, Unwatched,
};

/// An archive in two filesystems, and the mover's file that names them.
struct Tier {
    scratch: Scratch,
    filesystems: [LoopFs; 2],
    store: TierStore,
}

impl Tier {
    fn new(kinds: [FsKind; 2], mib: u64) -> Self {
        let filesystems = kinds.map(|kind| LoopFs::new(kind, mib.max(kind.min_size_mib())));
        let roots: Vec<PathBuf> = filesystems.iter().map(|fs| fs.path().join("root")).collect();
        roots.iter().for_each(|root| fs::create_dir(root).unwrap());
        let durability: Arc<dyn Durability> = Arc::new(KernelDurability);
        let store = TierStore::open(&roots, &durability).unwrap();
        store.enrol().unwrap();
        let scratch = Scratch::new("tier-command");
        let text = format!("archive \"tier\" {{ id = 7 root = [{:?}, {:?}] }}\n", roots[0], roots[1]);
        let file = scratch.join("lhsm-plugin-posix");
        let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(file).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Self { scratch, filesystems, store }
    }

    fn root(&self, n: usize) -> PathBuf {
        self.filesystems[n].path().join("root")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sifaka"));
        command.arg("--config").arg(self.scratch.join("agent")).args(["rebalance", "--archive", "7"]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn put(&self, name: &str, content: &[u8], pack: u64) -> Result<Stored, TransferError> {
        let path = self.scratch.join("source");
        fs::write(&path, content).unwrap();
        let options = PutOptions {
            digest: Some(DigestKind::Blake3),
            compression: Compression::Off,
            origin: Some(Origin { path: b"file", fsid: [1; 8] }),
            pack_up_to_bytes: pack,
            repeated: false,
        };
        let id = model::ObjectId::parse(name).unwrap();
        let staged = self.store.stage(&id, &OpenFile::for_reading(&path)?, options, &Unwatched)?;
        let (tell, told) = channel();
        self.store.commit(staged, Box::new(move |result| tell.send(result).unwrap()));
        told.recv().unwrap()
    }

    fn read(&self, stored: &Stored) -> Vec<u8> {
        let path = self.scratch.join("target");
        fs::write(&path, b"").unwrap();
        let expected = Expected { size: Some(stored.bytes), digest: stored.digest };
        let got = self.store.get(&stored.id, &OpenFile::for_writing(&path).unwrap(), expected, &Unwatched);
        assert!(got.is_ok(), "{}: {:?}", stored.id, got.err());
        fs::read(path).unwrap()
    }
}

fn run(command: &mut Command) -> (Option<i32>, Value, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = String::from_utf8(stdout).unwrap();
    let last = text.lines().last().map_or(Value::Null, |line| serde_json::from_str(line).unwrap_or(Value::Null));
    (status.code(), last, String::from_utf8(stderr).unwrap())
}

fn objects_in(root: &Path) -> usize {
    let out = Command::new("find").arg(root).args(["-path", "*/objects/*", "-type", "f"]).output().unwrap();
    String::from_utf8(out.stdout).unwrap().lines().count()
}

#[test]
fn killed_at_any_moment_each_object_is_there_and_the_next_run_goes_on() {
    let tier = Tier::new([FsKind::Ext4, FsKind::Xfs], 64);
    let mut random = Random::new(6);
    let stored: Vec<(Stored, Vec<u8>)> = (0..60u8)
        .map(|n| {
            let content = vec![n; 5000 * (1 + usize::from(n % 7))];
            (tier.put(&format!("{n:02x}{n:02x}-object"), &content, 0).unwrap(), content)
        })
        .collect();
    for round in 0..2 {
        let root = tier.root(round);
        let drain = root.to_str().unwrap();
        for _ in 0..8 {
            let mut child = tier.command(&["--json", "--drain", drain, "--bandwidth-limit", "3MB/s"]).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(random.within(1..150)));
            child.kill().unwrap();
            child.wait().unwrap();
            for (stored, content) in &stored {
                assert_eq!(tier.read(stored), *content);
            }
        }
        let (code, result, stderr) = run(&mut tier.command(&["--json", "--drain", drain]));
        assert_eq!((code, result["done"].as_bool()), (Some(0), Some(true)), "{result} {stderr}");
        assert_eq!((objects_in(&root), objects_in(&tier.root(1 - round))), (0, 120));
        for (stored, content) in &stored {
            assert_eq!(tier.read(stored), *content);
        }
        // And back.
        fs::remove_file(root.join(".sifaka-drained")).unwrap();
        tier.store.enrol().unwrap();
    }
}

#[test]
fn a_full_root_is_passed_over_and_roots_are_made_equally_full() {
    let tier = Tier::new([FsKind::Ext4, FsKind::Ext4], 32);
    // Before there are objects in it.
    let filler = tier.filesystems[0].path().join("filler");
    let free = tier.filesystems[0].free_bytes();
    fs::write(&filler, vec![1; usize::try_from(free - (300 << 10)).unwrap()]).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    let stored: Vec<_> =
        (0..20u8).map(|n| tier.put(&format!("{n:02x}{n:02x}-object"), &vec![n; 400_000], 0).unwrap()).collect();
    assert_eq!((objects_in(&tier.root(0)), objects_in(&tier.root(1))), (0, 40));
    fs::remove_file(filler).unwrap();
    let (code, result, stderr) = run(&mut tier.command(&["--json", "--within", "4%"]));
    assert_eq!((code, result["done"].as_bool()), (Some(0), Some(true)), "{result} {stderr}");
    assert!((10..30).contains(&objects_in(&tier.root(0))), "{result}");
    stored.iter().for_each(|stored| drop(tier.read(stored)));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let tier = Tier::new([FsKind::Ext4, FsKind::Ext4], 32);
    let code = |args: &[&str]| run(&mut tier.command(args)).0;
    assert_eq!(code(&["--pool", "flash"]), Some(2));
    assert_eq!(code(&["/some/path"]), Some(2));
    assert_eq!(code(&["--drain", "/"]), Some(5));
    fs::remove_file(tier.root(1).join(".sifaka-root")).unwrap();
    let (code, _, stderr) = run(&mut tier.command(&[]));
    assert_eq!(code, Some(5), "{stderr}");
    assert!(stderr.contains("is its filesystem mounted?"), "{stderr}");
}
