//! To a bucket and back, beside the programs that people copy to buckets with; all with the same server.

use super::files::{fill_file, fill_tree};
use crate::finding::{Finding, Goal, Series};
use crate::options::Options;
use crate::peers::{self, Peer};
use crate::process::cpu_seconds;
use crate::served::Served;
use crate::timing::{Cache, seconds, sync};
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::services::Rgw;
use testkit::{LoopFs, sifaka_binary, tool};

pub(crate) const ABOUT_SMALL: &str = "2,000 files of 4 KiB in 20 directories, to a bucket and back, the server (Ceph's RADOS gateway, in memory) on the \
same machine. `sifaka archive --wait DIR` and, released, `sifaka restore --wait DIR`, without packs and in packs, beside what copies the same \
tree from a filesystem that no agent watches, and back into an empty directory with `sync -f`: `s5cmd cp`, `rclone copy` (32 transfers) and \
`juicefs sync` (32 threads). In turns; what was written is removed after each. Warm page cache.";

pub(crate) const ABOUT_LARGE: &str = "One file of 4 GiB that cannot be compressed; otherwise as with small files. Processor time is that of all programs of \
the side, and not of the server.";

const MIB: u64 = 1 << 20;
/// Of the peers; each of ours has its own.
const BUCKET: &str = "peers";

/// What is copied.
struct Load {
    name: &'static str,
    make: fn(&Options, &Path),
    /// Of a filesystem that holds it twice.
    size_mib: u64,
    /// How fast each of ours is to be beside each peer: what it is called, and what its configuration says besides.
    ours: &'static [(&'static str, &'static str, f64)],
    /// For processor time.
    gib: Option<f64>,
}

pub(crate) fn small(options: &Options) -> Vec<Finding> {
    let load = Load {
        name: "small files",
        make: |options, root| fill_tree(root, options.size(20, 2), 100, |_| 4096),
        size_mib: 512,
        ours: &[("without packs", "pack { threshold = 0 }", 1.0), ("in packs", "", 5.0)],
        gib: None,
    };
    compare(options, options.runs, &load)
}

pub(crate) fn large(options: &Options) -> Vec<Finding> {
    let size_mib = options.size(4096, 64);
    let load = Load {
        name: "large file",
        make: |options, root| {
            std::fs::create_dir(root).expect("make a directory");
            fill_file(&root.join("large"), options.size(4096, 64) * MIB);
        },
        size_mib: 2 * size_mib + size_mib / 4 + 256,
        ours: &[("sifaka", "", 1.0)],
        gib: Some(size_mib as f64 / 1024.0),
    };
    compare(options, options.long_runs, &load)
}

/// What one side took, up and down.
#[derive(Debug, Clone, Copy, Default)]
struct Took {
    seconds: [f64; 2],
    cpu: [f64; 2],
}

fn compare(options: &Options, runs: usize, load: &Load) -> Vec<Finding> {
    // What was removed goes a little later than the request for it ends.
    let server = Rgw::with_capacity(8 * load.size_mib);
    server.create_bucket(BUCKET);
    let filesystem = || {
        let fs = LoopFs::new(options.fs, load.size_mib);
        (load.make)(options, &fs.path().join("data"));
        fs
    };
    let ours: Vec<_> =
        (1..).zip(load.ours).map(|(number, (_, text, _))| Ours::start(filesystem(), &server, number, text)).collect();
    let plain = filesystem();
    let (mut us, mut them) = (vec![Vec::new(); ours.len()], vec![Vec::new(); Peer::ALL.len()]);
    for number in 0..=runs {
        for (side, took) in ours.iter().zip(&mut us) {
            took.push(side.round(&server));
        }
        for (peer, took) in Peer::ALL.into_iter().zip(&mut them) {
            took.push(peers_round(peer, &server, &plain.path(), number == 0));
        }
        let last = |sides: &[Vec<Took>]| -> Vec<[f64; 2]> {
            sides.iter().filter_map(|took| Some(took.last()?.seconds)).collect()
        };
        eprintln!("{}: sifaka {:.2?} s, {:?}: {:.2?} s", load.name, last(&us), Peer::ALL, last(&them));
    }
    findings(load, &us, &them)
}

fn findings(load: &Load, us: &[Vec<Took>], them: &[Vec<Took>]) -> Vec<Finding> {
    // The first round is not counted.
    let series = |name: &str, took: &[Took], value: &dyn Fn(&Took) -> f64| {
        Series::of(name, took.iter().skip(1).map(value).collect())
    };
    let mut findings = Vec::new();
    for (direction, way) in ["up", "down"].into_iter().enumerate() {
        for ((name, _, goal), took) in load.ours.iter().zip(us) {
            for (peer, theirs) in Peer::ALL.into_iter().zip(them) {
                let time = |took: &Took| took.seconds[direction];
                let what = format!("{} {way}, {name}", load.name);
                let (ours, theirs) = (series(name, took, &time), series(peer.name(), theirs, &time));
                findings.push(Finding::beside(what, *goal, ours, theirs));
            }
        }
        let Some(gib) = load.gib else { continue };
        let cpu = |took: &Took| took.cpu[direction] / gib;
        let names = load.ours.iter().map(|(name, ..)| *name).chain(Peer::ALL.map(Peer::name));
        for (name, took) in names.zip(us.iter().chain(them)) {
            let what = format!("processor time for a GiB {way}, {name}");
            findings.push(Finding::alone(what, "s", Goal::None, series(name, took, &cpu)));
        }
    }
    findings
}

/// Seconds, of the clock and of processors.
fn measured(work: impl FnOnce()) -> (f64, f64) {
    Cache::Warm.settle();
    let program = sifaka_binary();
    let before = cpu_seconds(&program);
    let seconds = seconds(work);
    (seconds, cpu_seconds(&program) - before)
}

fn took(up: (f64, f64), down: (f64, f64)) -> Took {
    Took { seconds: [up.0, down.0], cpu: [up.1, down.1] }
}

/// What was removed is in the server's memory until it is collected, and collecting takes its time.
fn collect_garbage(server: &Rgw) {
    server.admin(&["gc", "process", "--include-all"]);
}

/// What a configuration says of an archive in a bucket.
pub(super) fn archive_in(server: &Rgw, bucket: &str) -> String {
    format!(
        "url = \"s3://{bucket}/hsm\" endpoint = \"{}\" region = \"{}\"\n\
         credentials {{ access_key_id = \"{}\" secret_access_key = \"{}\" }}",
        server.endpoint(),
        server.region(),
        Rgw::ACCESS_KEY,
        Rgw::SECRET_KEY
    )
}

/// Files with their agent.
struct Ours {
    served: Served,
    fs: LoopFs,
    _archive: LoopFs,
}

impl Ours {
    fn start(fs: LoopFs, server: &Rgw, number: usize, text: &str) -> Self {
        let bucket = format!("ours-{number}");
        server.create_bucket(&bucket);
        let archive = LoopFs::new(fs.kind(), 512);
        let place = format!("{}\n{text}", archive_in(server, &bucket));
        let mut served = Served::new(&fs, &archive.path().join("objects")).in_bucket(&place);
        served.start();
        Self { served, fs, _archive: archive }
    }

    fn round(&self, server: &Rgw) -> Took {
        let data = self.fs.path().join("data");
        let sifaka = |command: &[&str]| self.served.sifaka_on(command, &data);
        let up = measured(|| sifaka(&["archive", "--wait"]));
        sifaka(&["release"]);
        let down = measured(|| sifaka(&["restore", "--wait"]));
        sifaka(&["remove", "--wait"]);
        collect_garbage(server);
        took(up, down)
    }
}

fn peers_round(peer: Peer, server: &Rgw, fs: &Path, check: bool) -> Took {
    let (data, back): (PathBuf, PathBuf) = (fs.join("data"), fs.join("back"));
    std::fs::create_dir(&back).expect("make a directory");
    let up = measured(|| peer.up(server, &data, BUCKET));
    let down = measured(|| {
        peer.down(server, BUCKET, &back);
        sync(&back, true);
    });
    if check {
        // What was measured did move the bytes.
        tool::run("diffutils", Command::new("diff").args(["-r", "-q"]).arg(&data).arg(&back));
    }
    tool::run("coreutils", Command::new("rm").arg("-rf").arg(&back));
    peers::empty(server, BUCKET);
    collect_garbage(server);
    took(up, down)
}
