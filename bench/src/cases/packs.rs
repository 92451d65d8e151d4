//! What packs save: many small files in one object.

use super::files::{fill_tree, rsync_and_sync};
use crate::finding::{Finding, Series};
use crate::options::Options;
use crate::served::Served;
use crate::timing::{Cache, seconds};
use std::process::Command;
use testkit::{LoopFs, tool};

pub(crate) const ABOUT: &str = "100,000 files of 4 KiB in 1,000 directories, archived durable (`sifaka archive --wait DIR`) in packs, \
without packs (`pack { threshold = 0 }`), and copied by `rsync -a` with `sync -f`, in turns, each to a filesystem of its own; what \
was written is removed after each. Warm page cache. The peer's source is a filesystem of its own that no agent watches.";

const FASTER_THAN_WITHOUT: f64 = 5.0;
const FASTER_THAN_RSYNC: f64 = 3.0;

/// A source with its agent, and a filesystem for the archive.
struct Side {
    served: Served,
    source: LoopFs,
    /// Held mounted.
    _archive: LoopFs,
}

impl Side {
    fn new(options: &Options, pack: &str) -> Self {
        let (source, archive) = (source(options), LoopFs::new(options.fs, options.size(4096, 512)));
        let mut served =
            Served::new(&source, &archive.path().join("objects")).configure(|site| site.add_archive_setting(pack));
        served.start();
        Self { served, source, _archive: archive }
    }

    /// Seconds of an archive; then everything is as before.
    fn archive(&self) -> f64 {
        let data = self.source.path().join("data");
        Cache::Warm.settle();
        let time = seconds(|| self.served.sifaka_on(&["archive", "--wait"], &data));
        self.served.sifaka_on(&["remove", "--wait"], &data);
        time
    }
}

pub(crate) fn run(options: &Options) -> Vec<Finding> {
    let packed = Side::new(options, "");
    let single = Side::new(options, "pack { threshold = 0 }");
    let (plain, target) = (source(options), LoopFs::new(options.fs, options.size(4096, 512)));
    let (mut ours, mut without, mut peers) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..=options.long_runs {
        let times = (packed.archive(), single.archive(), rsync(&plain, &target));
        eprintln!("packs, without, rsync: {times:.2?} s");
        if number > 0 {
            ours.push(times.0);
            without.push(times.1);
            peers.push(times.2);
        }
    }
    let ours = || Series::of("in packs", ours.clone());
    vec![
        Finding::beside("archive of small files", FASTER_THAN_WITHOUT, ours(), Series::of("without packs", without)),
        Finding::beside("archive of small files", FASTER_THAN_RSYNC, ours(), Series::of("rsync -a, sync -f", peers)),
    ]
}

fn source(options: &Options) -> LoopFs {
    let fs = LoopFs::new(options.fs, options.size(4096, 512));
    fill_tree(&fs.path().join("data"), options.size(1000, 50), 100, |_| 4096);
    fs
}

fn rsync(from: &LoopFs, to: &LoopFs) -> f64 {
    Cache::Warm.settle();
    let copy = to.path().join("copy");
    let time = seconds(|| rsync_and_sync(&from.path().join("data"), &copy));
    tool::run("coreutils", Command::new("rm").arg("-rf").arg(&copy));
    time
}
