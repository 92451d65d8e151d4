//! Somebody else's bucket becomes a tree of released files.

use super::buckets;
use super::files::fill_tree;
use crate::finding::{Finding, Goal, Series};
use crate::options::Options;
use crate::peers;
use crate::process::wait_and_watch;
use crate::served::Served;
use crate::timing::{Cache, seconds};
use std::path::Path;
use std::process::Stdio;
use testkit::LoopFs;
use testkit::services::Rgw;

pub(crate) const ABOUT: &str = "`sifaka import s3://bucket/prefix DIR` of 10,000 and of 200,000 objects of 100 bytes, 1,000 in each directory, out of Ceph's RADOS \
gateway (in memory) on the same machine, to a new directory each time, on a filesystem that an agent serves. Memory is that of the command (VmHWM of /proc), \
looked at until it ends. The larger one ran once, after a smaller one that is not counted.";

const BUCKET: &str = "import";
const EACH: u64 = 1000;
const OBJECT_BYTES: usize = 100;

pub(crate) fn run(options: &Options) -> Vec<Finding> {
    let (few, many) = (options.size(10_000, 1000), options.size(200_000, 3000));
    let server = Rgw::with_capacity(8192);
    server.create_bucket(BUCKET);
    for count in [few, many] {
        // Not kept longer than needed: it has as many files as there are objects.
        let source = LoopFs::with_inodes(options.size(4096, 512), many + 10_000);
        let tree = source.path().join("tree");
        fill_tree(&tree, count / EACH, EACH, |_| OBJECT_BYTES);
        peers::fill(&server, &tree, BUCKET, &format!("of-{count}"));
    }
    let runs = options.long_runs as u64;
    let fs = LoopFs::with_inodes(options.size(4096, 512), (runs + 1) * few + many + 20_000);
    let archive = LoopFs::new(options.fs, 512);
    let place = buckets::archive_in(&server, BUCKET);
    let mut served = Served::new(&fs, &archive.path().join("objects")).in_bucket(&place);
    served.start();

    let import = |count: u64, run: u64| {
        let target = fs.path().join(format!("{count}-{run}"));
        std::fs::create_dir(&target).expect("make a directory");
        let (time, memory) = import(&served, &format!("s3://{BUCKET}/of-{count}"), &target);
        assert_eq!(files_in(&target), count, "every object must become a file");
        eprintln!("import of {count}: {time:.2} s, {memory:.1} MB");
        (count as f64 / time, memory)
    };
    import(few, 0);
    let (rates, memory): (Vec<_>, Vec<_>) = (1..=runs).map(|run| import(few, run)).unzip();
    let (rate, most) = import(many, 1);
    let finding = |what: String, unit, values| Finding::alone(what, unit, Goal::None, Series::of("sifaka", values));
    vec![
        finding(format!("objects imported, {few}"), "/s", rates),
        finding(format!("objects imported, {many}"), "/s", vec![rate]),
        finding(format!("memory at most, {few}"), "MB", memory),
        finding(format!("memory at most, {many}"), "MB", vec![most]),
    ]
}

/// Seconds, and megabytes of memory.
fn import(served: &Served, url: &str, target: &Path) -> (f64, f64) {
    Cache::Warm.settle();
    let mut command = served.site.command();
    command.arg("--config").arg(served.site.agent_config());
    command.args(["import", "--quiet", url]).arg(target).stdout(Stdio::null());
    let mut most = 0.0;
    let time = seconds(|| {
        let mut child = command.spawn().expect("start sifaka");
        let (status, memory) = wait_and_watch(&mut child);
        assert!(status.success(), "sifaka import: {status}");
        most = memory;
    });
    (time, most)
}

fn files_in(root: &Path) -> u64 {
    let entries = |path: &Path| std::fs::read_dir(path).expect("read a directory").flatten();
    entries(root).map(|directory| entries(&directory.path()).count() as u64).sum()
}
