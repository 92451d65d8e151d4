//! Archive and restore beside the programs that people copy with.

use crate::finding::{Finding, Series};
use crate::options::Options;
use crate::served::Served;
use crate::timing::{Cache, seconds, sync};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::{LoopFs, Random, tool};

pub(crate) const ABOUT_SMALL: &str = "20,000 files of 4 KiB in 200 directories. `sifaka archive --wait DIR` (every result durable) \
beside `rsync -a` of the same tree to the same archive filesystem and `sync -f` of that; `sifaka restore --wait DIR` with all \
released beside `rsync -a` back into an empty directory and `sync -f`. The peer's source is a filesystem of its own with the same \
content, which no agent watches. Warm: what earlier runs left in the page cache; cold: nothing.";

pub(crate) const ABOUT_LARGE: &str = "One file of 8 GiB that cannot be compressed. `sifaka archive --wait FILE` and `sifaka restore \
--wait FILE` (checksum computed and compared) beside `cp` and `sync FILE`; otherwise as with small files.";

const MIB: u64 = 1 << 20;
const CHUNK_BYTES: usize = 1 << 20;

/// What is copied, and by what it is copied otherwise.
struct Load {
    name: &'static str,
    /// How fast Sifaka is to be beside the peer, archiving and restoring.
    speed: [f64; 2],
    size_mib: u64,
    make: fn(&Options, &Path),
    copy: fn(&Path, &Path),
    peer: &'static str,
}

pub(crate) fn small(options: &Options) -> Vec<Finding> {
    let load = Load {
        name: "small files",
        speed: [1.0, 1.0],
        size_mib: options.size(4096, 512),
        make: make_tree,
        copy: rsync_and_sync,
        peer: "rsync -a, sync -f",
    };
    compare(options, options.runs, &load)
}

pub(crate) fn large(options: &Options) -> Vec<Finding> {
    let load = Load {
        name: "large file",
        speed: [0.95, 0.8],
        size_mib: options.size(18 << 10, 2 << 10),
        make: make_large,
        copy: cp_and_sync,
        peer: "cp, sync",
    };
    compare(options, options.long_runs, &load)
}

/// Two sources with the same content, one of them served, and a filesystem for the archive.
struct Bed {
    served: Served,
    archive: LoopFs,
    ours: LoopFs,
    peers: LoopFs,
}

impl Bed {
    fn new(options: &Options, load: &Load) -> Self {
        let new = || LoopFs::new(options.fs, load.size_mib);
        let (ours, peers, archive) = (new(), new(), new());
        for fs in [&ours, &peers] {
            (load.make)(options, &fs.path().join("data"));
        }
        let mut served = Served::new(&ours, &archive.path().join("objects"));
        served.start();
        Self { served, archive, ours, peers }
    }

    fn ours(&self) -> PathBuf {
        self.ours.path().join("data")
    }

    fn peers(&self) -> PathBuf {
        self.peers.path().join("data")
    }

    fn back(&self) -> PathBuf {
        self.peers.path().join("back")
    }

    fn copy(&self) -> PathBuf {
        self.archive.path().join("copy")
    }
}

/// Seconds of one round.
struct Round {
    archive: (f64, f64),
    restore: (f64, f64),
}

fn compare(options: &Options, runs: usize, load: &Load) -> Vec<Finding> {
    let bed = Bed::new(options, load);
    let caches: &[Cache] = if options.quick { &[Cache::Warm] } else { &[Cache::Warm, Cache::Cold] };
    let mut findings = Vec::new();
    for &cache in caches {
        round(&bed, load, cache, true);
        let rounds: Vec<_> = (0..runs).map(|_| round(&bed, load, cache, false)).collect();
        let pairs = [("archive", (|r| r.archive) as fn(&Round) -> (f64, f64)), ("restore", |r| r.restore)];
        for ((what, pair), speed) in pairs.into_iter().zip(load.speed) {
            let (ours, peers) = rounds.iter().map(pair).unzip();
            let name = format!("{what} of {}, {}", load.name, cache.name());
            findings.push(Finding::beside(name, speed, Series::of("sifaka", ours), Series::of(load.peer, peers)));
        }
    }
    findings
}

/// Archive, release and restore, each beside the peer; then everything is as before.
fn round(bed: &Bed, load: &Load, cache: Cache, check: bool) -> Round {
    let settled = |work: &dyn Fn()| {
        cache.settle();
        seconds(work)
    };
    let sifaka = |command: &[&str]| bed.served.sifaka_on(command, &bed.ours());
    let archive = (settled(&|| sifaka(&["archive", "--wait"])), settled(&|| (load.copy)(&bed.peers(), &bed.copy())));
    sifaka(&["release"]);
    let restore = (settled(&|| sifaka(&["restore", "--wait"])), settled(&|| (load.copy)(&bed.copy(), &bed.back())));
    eprintln!("{}, {}: archive {archive:.2?} s, restore {restore:.2?} s", load.name, cache.name());
    if check {
        // What was measured did move the bytes.
        for path in [bed.peers(), bed.back()] {
            tool::run("diffutils", Command::new("diff").args(["-r", "-q"]).arg(bed.ours()).arg(path));
        }
    }
    sifaka(&["remove", "--wait"]);
    tool::run("coreutils", Command::new("rm").arg("-rf").arg(bed.copy()).arg(bed.back()));
    Round { archive, restore }
}

pub(crate) fn rsync_and_sync(from: &Path, to: &Path) {
    let mut from = from.as_os_str().to_owned();
    from.push("/");
    tool::run("rsync", Command::new("rsync").arg("-a").arg(from).arg(to));
    sync(to, true);
}

fn cp_and_sync(from: &Path, to: &Path) {
    tool::run("coreutils", Command::new("cp").arg(from).arg(to));
    sync(to, false);
}

fn make_tree(options: &Options, root: &Path) {
    let (directories, each) = (options.size(200, 50), 100);
    fill_tree(root, directories, each, |_| 4096);
}

/// `directories` of `each` files below `root`, of random content; `size` gives a file's bytes.
pub(crate) fn fill_tree(root: &Path, directories: u64, each: u64, mut size: impl FnMut(&mut Random) -> usize) {
    let mut random = Random::new(1);
    let mut content = Vec::new();
    for directory in 0..directories {
        let directory = root.join(format!("dir-{directory:04}"));
        fs::create_dir_all(&directory).expect("make a directory");
        for file in 0..each {
            content.resize(size(&mut random), 0);
            random.fill(&mut content);
            fs::write(directory.join(format!("file-{file:04}")), &content).expect("write a file");
        }
    }
}

fn make_large(options: &Options, path: &Path) {
    fill_file(path, options.size(8192, 512) * MIB);
}

/// A file of random content.
pub(crate) fn fill_file(path: &Path, bytes: u64) {
    let mut file = File::create(path).expect("make a file");
    let mut random = Random::new(2);
    let mut chunk = vec![0; CHUNK_BYTES];
    for _ in 0..bytes / CHUNK_BYTES as u64 {
        random.fill(&mut chunk);
        file.write_all(&chunk).expect("write a file");
    }
    file.sync_all().expect("sync a file");
}
