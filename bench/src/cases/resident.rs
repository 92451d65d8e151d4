//! What watching costs those whose files are resident.

use super::files::{fill_file, fill_tree};
use crate::finding::{Finding, Series};
use crate::options::Options;
use crate::served::Served;
use crate::timing::{Cache, seconds};
use std::fs::{self, File};
use std::hint::black_box;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use testkit::{LoopFs, Random, tool};

pub(crate) const ABOUT: &str = "The same work on the same filesystem, watched (agent and guard run) and not watched (both ended), in \
turns. 4 KiB reads at random places of a cached file of 256 MiB; a cold file of 1 GiB from beginning to end; `cp -r` of 4,000 cached \
files of up to 64 KiB within the filesystem, the first time after watching began (every file raises its first event) and a second \
time. Within 5 % is a speed of at least 0.952.";

const MIB: u64 = 1 << 20;
const BLOCK_BYTES: usize = 4096;
const WITHIN_5_PERCENT: f64 = 1.0 / 1.05;

/// Seconds of one run, in the order of [`WHAT`].
type Times = [f64; 4];
const WHAT: [&str; 4] =
    ["cp -r, first time", "cp -r, second time", "4 KiB random reads, cached", "sequential read, cold"];

pub(crate) fn run(options: &Options) -> Vec<Finding> {
    let fs = LoopFs::new(options.fs, options.size(4096, 1024));
    let archive = LoopFs::new(options.fs, 64);
    fill_file(&fs.path().join("cached"), options.size(256, 32) * MIB);
    fill_file(&fs.path().join("long"), options.size(1024, 128) * MIB);
    fill_tree(&fs.path().join("tree"), options.size(40, 5), 100, |random| {
        usize::try_from(random.within(1..65_536)).expect("a small number")
    });
    let mut served = Served::new(&fs, &archive.path().join("objects"));
    let (mut watched, mut unwatched) = (Vec::new(), Vec::new());
    for number in 0..=options.runs {
        // Before anybody watches: reading raises a file's first event.
        read_tree(&fs.path().join("tree"));
        served.start();
        let with = measure(options, &fs.path());
        served.stop();
        read_tree(&fs.path().join("tree"));
        let without = measure(options, &fs.path());
        eprintln!("resident: watched {with:.3?}, unwatched {without:.3?}");
        if number > 0 {
            watched.push(with);
            unwatched.push(without);
        }
    }
    let finding = |index: usize| {
        let series = |name: &str, runs: &[Times]| Series::of(name, runs.iter().map(|run| run[index]).collect());
        let (ours, peer) = (series("watched", &watched), series("unwatched", &unwatched));
        Finding::beside(WHAT[index], WITHIN_5_PERCENT, ours, peer)
    };
    (0..WHAT.len()).map(finding).collect()
}

fn measure(options: &Options, root: &Path) -> Times {
    let (first, second) = (copy(root), copy(root));
    let random = random_reads(&root.join("cached"), options.size(2_000_000, 200_000));
    Cache::Cold.settle();
    let sequential = seconds(|| read_all(&root.join("long")));
    [first, second, random, sequential]
}

fn random_reads(path: &Path, count: u64) -> f64 {
    read_all(path);
    let file = File::open(path).expect("open a file");
    let blocks = file.metadata().expect("look at a file").len() / BLOCK_BYTES as u64;
    let mut random = Random::new(3);
    let mut buffer = [0; BLOCK_BYTES];
    seconds(|| {
        for _ in 0..count {
            let at = random.within(0..blocks) * BLOCK_BYTES as u64;
            file.read_exact_at(&mut buffer, at).expect("read a file");
            black_box(&buffer);
        }
    })
}

fn read_all(path: &Path) {
    let mut file = File::open(path).expect("open a file");
    let mut buffer = vec![0; 1 << 20];
    while file.read(&mut buffer).expect("read a file") > 0 {}
}

/// So that both copies find the files in the page cache.
fn read_tree(directory: &Path) {
    for entry in fs::read_dir(directory).expect("list a directory") {
        let path = entry.expect("list a directory").path();
        if path.is_dir() { read_tree(&path) } else { read_all(&path) }
    }
}

fn copy(root: &Path) -> f64 {
    let (tree, target) = (root.join("tree"), root.join("copy"));
    Cache::Warm.settle();
    let time = seconds(|| drop(tool::run("coreutils", Command::new("cp").arg("-r").arg(&tree).arg(&target))));
    tool::run("coreutils", Command::new("rm").arg("-rf").arg(&target));
    time
}
