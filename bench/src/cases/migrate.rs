//! Whole trees copied between two filesystems, beside the programs that people do that with.

use super::files::{fill_file, fill_tree};
use crate::finding::{Finding, Goal, Series};
use crate::options::Options;
use crate::peers::{Copier, Updater};
use crate::process::wait_and_watch;
use crate::timing::{Cache, seconds, sync};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use testkit::{FsKind, LoopFs, tool};

pub(crate) const ABOUT_SMALL: &str = "100,000 files of 4 KiB in 1,000 directories, copied from one filesystem into another one, made anew for each run, by \
`sifaka migrate` (durable when it ends), and by each peer with its options for keeping modes, owners and times, then `sync -f`; in turns. Warm: the source was read right before; cold: nothing is in the \
page cache.";

pub(crate) const ABOUT_LARGE: &str = "20 files of 512 MiB that cannot be compressed; otherwise as with small files.";

pub(crate) const ABOUT_MIXED: &str = "A copy of this machine's /usr/share and /usr/lib: files of all sizes, symbolic links, hard links; otherwise as with small files.";

pub(crate) const ABOUT_AGAIN: &str = "1,000,000 files of 64 bytes in 1,000 directories and a whole copy of them: `sifaka migrate --update` and each peer that compares sizes and times look for what changed, \
which is nothing; in turns. Ours keeps no state from earlier runs. Memory: the most that the process of each run had (VmHWM).";

const MIB: u64 = 1 << 20;

/// What is copied.
struct Load {
    name: &'static str,
    /// How fast Sifaka is to be beside each peer.
    speed: f64,
    size_mib: u64,
    make: fn(&Options, &Path),
    runs: usize,
}

pub(crate) fn small(options: &Options) -> Vec<Finding> {
    compare(
        options,
        &Load { name: "small files", speed: 1.5, size_mib: 2048, make: make_small, runs: options.long_runs },
    )
}

pub(crate) fn large(options: &Options) -> Vec<Finding> {
    let size_mib = options.size(11 << 10, 2 << 10);
    compare(options, &Load { name: "large files", speed: 1.0, size_mib, make: make_large, runs: options.long_runs })
}

pub(crate) fn mixed(options: &Options) -> Vec<Finding> {
    let load = Load { name: "mixed files", speed: 1.0, size_mib: 12 << 10, make: make_mixed, runs: options.long_runs };
    compare(options, &load)
}

/// A second pass with nothing to do.
pub(crate) fn again(options: &Options) -> Vec<Finding> {
    let (directories, each) = (options.size(1000, 20), 1000);
    // A block and an inode each; ext4 makes an inode for every 16 KiB.
    let bed = Bed::new(options, (directories * each * 20 / 1024).max(64));
    fill_tree(&bed.data(), directories, each, |_| 64);
    let target = bed.target();
    let copy = target.path().join("copy");
    bed.ours(&bed.data(), &copy);
    let caches: &[Cache] = if options.quick { &[Cache::Warm] } else { &[Cache::Warm, Cache::Cold] };
    let mut findings = Vec::new();
    let mut most_mb = Vec::new();
    for &cache in caches {
        let (mut ours, mut peers) = (Vec::new(), vec![Vec::new(); Updater::ALL.len()]);
        for number in 0..=options.long_runs {
            let (time, mb) = bed.ours_again(&copy, cache);
            eprintln!("second pass, {}: sifaka {time:.2} s, {mb:.0} MB", cache.name());
            most_mb.push(mb);
            if number > 0 {
                ours.push(time);
            }
            for (peer, times) in Updater::ALL.into_iter().zip(&mut peers) {
                cache.settle();
                let time = seconds(|| peer.update(&bed.data(), &copy));
                eprintln!("second pass, {}: {} {time:.2} s", cache.name(), peer.name());
                if number > 0 {
                    times.push(time);
                }
            }
        }
        for (peer, times) in Updater::ALL.into_iter().zip(peers) {
            let name = format!("second pass, nothing changed, {}", cache.name());
            let ours = Series::of("sifaka migrate --update", ours.clone());
            findings.push(Finding::beside(name, 1.5, ours, Series::of(peer.name(), times)));
        }
    }
    let memory = Series::of("sifaka migrate --update", most_mb);
    findings.push(Finding::alone("memory at most", "MB", Goal::AtMost(200.0), memory));
    findings
}

/// A tree, and room for what jobs note.
struct Bed {
    fs: FsKind,
    size_mib: u64,
    source: LoopFs,
    state: LoopFs,
}

impl Bed {
    fn new(options: &Options, size_mib: u64) -> Self {
        let new = |mib| LoopFs::new(options.fs, mib);
        Self { fs: options.fs, size_mib, source: new(size_mib), state: new(64) }
    }

    fn data(&self) -> PathBuf {
        self.source.path().join("data")
    }

    /// Nothing is on it: where the one before had its inodes and blocks makes one faster and another slower.
    fn target(&self) -> LoopFs {
        LoopFs::new(self.fs, self.size_mib)
    }

    /// rclone leaves nothing of what it has read in the page cache.
    fn warm(&self, cache: Cache) {
        cache.settle();
        if cache == Cache::Warm {
            let mut read = Command::new("find");
            read.arg(self.data()).args(["-type", "f", "-exec", "cat", "{}", "+"]).stdout(Stdio::null());
            tool::run("findutils", &mut read);
        }
    }

    /// Seconds of one copy.
    fn run(&self, cache: Cache, copy: impl Fn(&Path, &Path), check: bool) -> f64 {
        let fs = self.target();
        let target = fs.path().join("copy");
        self.warm(cache);
        let time = seconds(|| {
            copy(&self.data(), &target);
            sync(&target, true);
        });
        if check {
            tool::run(
                "diffutils",
                Command::new("diff").args(["-r", "-q", "--no-dereference"]).arg(self.data()).arg(target),
            );
        }
        time
    }

    /// Seconds and megabytes of a second pass.
    fn ours_again(&self, copy: &Path, cache: Cache) -> (f64, f64) {
        cache.settle();
        let mut sifaka = Command::new(testkit::sifaka_binary());
        sifaka.args(["migrate", "--update", "--quiet", "--state"]).arg(self.state.path().join("again.db"));
        sifaka.arg(self.data()).arg(copy);
        let mut most_mb = 0.0;
        let time = seconds(|| {
            let mut child = sifaka.spawn().expect("start sifaka");
            let (status, mb) = wait_and_watch(&mut child);
            assert!(status.success(), "sifaka migrate --update: {status}");
            most_mb = mb;
        });
        (time, most_mb)
    }

    fn ours(&self, from: &Path, to: &Path) {
        let mut sifaka = Command::new(testkit::sifaka_binary());
        sifaka.args(["migrate", "--quiet", "--state"]).arg(self.state.path().join("state.db")).arg(from).arg(to);
        tool::run("sifaka", &mut sifaka);
    }
}

fn compare(options: &Options, load: &Load) -> Vec<Finding> {
    let bed = Bed::new(options, load.size_mib);
    (load.make)(options, &bed.data());
    let caches: &[Cache] = if options.quick { &[Cache::Warm] } else { &[Cache::Warm, Cache::Cold] };
    let mut findings = Vec::new();
    for &cache in caches {
        let (mut ours, mut peers) = (Vec::new(), vec![Vec::new(); Copier::ALL.len()]);
        for number in 0..=load.runs {
            let check = number == 0 && cache == Cache::Warm;
            let time = bed.run(cache, |from, to| bed.ours(from, to), check);
            eprintln!("{}, {}: sifaka {time:.2} s", load.name, cache.name());
            if number > 0 {
                ours.push(time);
            }
            for (peer, times) in Copier::ALL.into_iter().zip(&mut peers) {
                let time = bed.run(cache, |from, to| peer.copy(from, to), false);
                eprintln!("{}, {}: {} {time:.2} s", load.name, cache.name(), peer.name());
                if number > 0 {
                    times.push(time);
                }
            }
        }
        for (peer, times) in Copier::ALL.into_iter().zip(peers) {
            let name = format!("{}, {}", load.name, cache.name());
            let ours = Series::of("sifaka migrate", ours.clone());
            findings.push(Finding::beside(name, load.speed, ours, Series::of(peer.name(), times)));
        }
    }
    findings
}

fn make_small(options: &Options, root: &Path) {
    fill_tree(root, options.size(1000, 50), 100, |_| 4096);
}

fn make_large(options: &Options, root: &Path) {
    std::fs::create_dir(root).expect("make a directory");
    for number in 0..options.size(20, 3) {
        fill_file(&root.join(format!("file-{number:02}")), options.size(512, 128) * MIB);
    }
}

fn make_mixed(options: &Options, root: &Path) {
    std::fs::create_dir(root).expect("make a directory");
    let parts: &[&str] = if options.quick { &["/usr/share/doc"] } else { &["/usr/share", "/usr/lib"] };
    tool::run("coreutils", Command::new("cp").args(["-a", "--one-file-system"]).args(parts).arg(root));
}
