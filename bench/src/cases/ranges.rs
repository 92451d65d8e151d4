//! How soon the first byte of a released file is there, and how fast it is read from beginning to end.

use super::files::fill_file;
use crate::finding::{Finding, Goal, Series, Spread};
use crate::options::Options;
use crate::served::Served;
use crate::timing::{Cache, seconds};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use testkit::{LoopFs, Random, wait_until};

pub(crate) const ABOUT: &str = "Released files in an archive on a filesystem of the same disk, `restore { mode = \"range\" }`, nothing \
in the page cache. First byte: the median of 100 `pread` calls of 4 KiB in a run, each in a part of the file that nobody read before; a file \
of 8 GiB, and one of 80 GiB that has data in every 80th MiB only. Beside it the first `pread` of the 8 GiB with `mode = \"whole\"`. \
Sequential: `cat` of a released file of 4 GiB beside `cat` of its object in the archive.";

const MIB: u64 = 1 << 20;
const READ_BYTES: usize = 4096;
/// In the sparse file.
const DATA_EVERY: u64 = 80 * MIB;
const READS: u64 = 100;
const FIRST_BYTE_MS: f64 = 10.0;
const OF_THE_ARCHIVE: f64 = 0.7;

pub(crate) fn run(options: &Options) -> Vec<Finding> {
    let runs = options.long_runs;
    let mut findings = Vec::new();
    {
        let bed = Bed::new(options, "range");
        let size = options.size(8192, 512) * MIB;
        let dense = bed.released("dense", |path| fill_file(path, size));
        let times = (0..runs as u64).map(|run| bed.first_bytes(&dense, size, MIB, run, runs as u64)).collect();
        findings.push(Finding::alone(
            "first byte, 8 GiB",
            "ms",
            Goal::AtMost(FIRST_BYTE_MS),
            Series::of("ranges", times),
        ));
        bed.remove(&dense);
        let size = options.size(80 << 10, 4 << 10) * MIB;
        let sparse = bed.released("sparse", |path| fill_sparse(path, size));
        let times = (0..runs as u64).map(|run| bed.first_bytes(&sparse, size, DATA_EVERY, run, runs as u64)).collect();
        let what = "first byte, 80 GiB of sparse size";
        findings.push(Finding::alone(what, "ms", Goal::AtMost(FIRST_BYTE_MS), Series::of("ranges", times)));
        bed.remove(&sparse);
        findings.push(sequential(&bed, options));
    }
    let bed = Bed::new(options, "whole");
    let size = options.size(8192, 512) * MIB;
    let dense = bed.released("dense", |path| fill_file(path, size));
    Cache::Cold.settle();
    let time = seconds(|| drop(read_at(&File::open(&dense).expect("open a file"), size / 2)));
    let whole = Series::of("whole", vec![time * 1000.0]);
    findings.push(Finding::alone("first byte, 8 GiB, mode \"whole\"", "ms", Goal::None, whole));
    findings
}

/// A served filesystem, and one for its archive.
struct Bed {
    served: Served,
    fs: LoopFs,
    archive: LoopFs,
}

impl Bed {
    fn new(options: &Options, mode: &str) -> Self {
        let new = || LoopFs::new(options.fs, options.size(16 << 10, 1 << 10));
        let (fs, archive) = (new(), new());
        let mut served = Served::new(&fs, &archive.path().join("objects")).configure(|site| {
            site.add_agent_setting(&format!("restore {{ mode = \"{mode}\" }}"));
            // Objects of removed files make room for the next.
            site.add_agent_setting("remove_grace_s = 0");
        });
        served.start();
        Self { served, fs, archive }
    }

    fn released(&self, name: &str, make: impl FnOnce(&Path)) -> PathBuf {
        let path = self.fs.path().join(name);
        make(&path);
        self.served.sifaka_on(&["archive", "--wait"], &path);
        self.served.sifaka_on(&["release"], &path);
        path
    }

    /// Its object goes too: it would take the room of the next one.
    fn remove(&self, path: &Path) {
        fs::remove_file(path).expect("remove a file");
        wait_until(Duration::from_secs(120), "its object is gone", || self.largest_object().is_none());
    }

    fn largest_object(&self) -> Option<PathBuf> {
        largest(&self.archive.path().join("objects"))
    }

    /// Milliseconds: the median of one run, of reads at multiples of `step`. Runs share the file without reading the same part of it.
    fn first_bytes(&self, path: &Path, size: u64, step: u64, run: u64, runs: u64) -> f64 {
        Cache::Cold.settle();
        let file = File::open(path).expect("open a file");
        let part = size / (READS * runs);
        let mut random = Random::new(run);
        let mut places: Vec<u64> = (0..READS).map(|n| (n * runs + run) * part).collect();
        for at in (1..places.len()).rev() {
            places.swap(at, usize::try_from(random.within(0..at as u64 + 1)).expect("a small number"));
        }
        // Where there is data.
        let place = |place: &u64| (place + part / 2) / step * step;
        let times: Vec<f64> =
            places.iter().map(place).map(|at| seconds(|| drop(read_at(&file, at))) * 1000.0).collect();
        let spread = Spread::of(&times);
        eprintln!("first byte of {}: {spread:.2?} ms", path.display());
        spread.median
    }
}

fn read_at(file: &File, at: u64) -> Vec<u8> {
    let mut buffer = vec![0; READ_BYTES];
    file.read_exact_at(&mut buffer, at).expect("read a released file");
    buffer
}

/// Data in every 80th MiB.
fn fill_sparse(path: &Path, size: u64) {
    let file = File::create(path).expect("make a file");
    let mut random = Random::new(4);
    let mut chunk = vec![0; usize::try_from(MIB).expect("a small number")];
    for at in (0..size).step_by(usize::try_from(DATA_EVERY).expect("a small number")) {
        random.fill(&mut chunk);
        file.write_all_at(&chunk, at).expect("write a file");
    }
    file.set_len(size).expect("set a file's size");
    file.sync_all().expect("sync a file");
}

fn sequential(bed: &Bed, options: &Options) -> Finding {
    let size = options.size(4096, 256) * MIB;
    let path = bed.released("sequential", |path| fill_file(path, size));
    let object = bed.largest_object().expect("an object in the archive");
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    for number in 0..=options.long_runs {
        let cat = |path: &Path| {
            Cache::Cold.settle();
            seconds(|| {
                let done = Command::new("cat").arg(path).stdout(Stdio::null()).status().expect("run cat");
                assert!(done.success(), "cat of {} failed", path.display());
            })
        };
        let times = (cat(&path), cat(&object));
        eprintln!("sequential: released, archive {times:.2?} s");
        bed.served.sifaka_on(&["release"], &path);
        if number > 0 {
            ours.push(times.0);
            peers.push(times.1);
        }
    }
    let (ours, peers) = (Series::of("released file", ours), Series::of("object in the archive", peers));
    Finding::beside("sequential read, 4 GiB", OF_THE_ARCHIVE, ours, peers)
}

/// The largest file below a directory: the object. `None`: there are no larger ones than those of the mover's own.
fn largest(root: &Path) -> Option<PathBuf> {
    let mut found: Option<(u64, PathBuf)> = None;
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        // What is gone since it was listed is nothing.
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                directories.push(entry.path());
            } else if found.as_ref().is_none_or(|(size, _)| *size < metadata.size()) {
                found = Some((metadata.size(), entry.path()));
            }
        }
    }
    found.filter(|(size, _)| *size > MIB).map(|(_, path)| path)
}
