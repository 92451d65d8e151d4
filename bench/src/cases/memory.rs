//! The agent's memory with very many actions waiting.

use crate::finding::{Finding, Goal, Series};
use crate::options::Options;
use crate::process::resident_mb;
use crate::served::Served;
use crate::timing::seconds;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use testkit::LoopFs;

pub(crate) const ABOUT: &str = "`sifaka archive DIR` of 1,000,000 (empty) files, accepted by the agent while the only mover takes \
ten minutes for each action; then the agent process's memory, now and at most (VmRSS and VmHWM of /proc).";

const EACH: u64 = 1000;
/// Longer than it takes to submit.
const MOVER: &str = "delay_ms = 600000\n";

pub(crate) fn run(options: &Options) -> Vec<Finding> {
    let count = options.size(1_000_000, 20_000);
    // ext4 makes an inode for every 16 KiB.
    let fs = LoopFs::new(options.fs, (count * 20 / 1024).max(64));
    let archive = LoopFs::new(options.fs, 64);
    let tree = fs.path().join("tree");
    make_files(&tree, count / EACH);
    let mut served = Served::new(&fs, &archive.path().join("objects"));
    use_noop_mover(&served);
    served.start();
    let (before, _) = resident_mb(served.agent().pid());
    let submit_s = seconds(|| served.sifaka_on(&["archive"], &tree));
    let (now, most) = resident_mb(served.agent().pid());
    eprintln!("memory: {before:.1} MB before, {now:.1} MB now, {most:.1} MB at most; submitted in {submit_s:.1} s");
    let ours = |value| Series::of("sifaka", vec![value]);
    vec![
        Finding::alone(format!("agent's memory at most, {count} queued"), "MB", Goal::AtMost(200.0), ours(most)),
        Finding::alone("agent's memory after", "MB", Goal::None, ours(now)),
        Finding::alone("agent's memory before", "MB", Goal::None, ours(before)),
        Finding::alone("walked, accepted and durable", "/s", Goal::None, ours(count as f64 / submit_s)),
    ]
}

fn make_files(root: &Path, directories: u64) {
    for directory in 0..directories {
        let directory = root.join(format!("dir-{directory:04}"));
        fs::create_dir_all(&directory).expect("make a directory");
        for file in 0..EACH {
            File::create(directory.join(format!("file-{file:04}"))).expect("make a file");
        }
    }
}

/// In the place of the posix mover.
fn use_noop_mover(served: &Served) {
    let config = served.site.agent_config();
    let text = fs::read_to_string(&config).expect("read the configuration");
    fs::write(&config, text.replace("\"posix\"", "\"noop\"")).expect("write the configuration");
    let mover = config.with_file_name("lhsm-plugin-noop");
    fs::write(&mover, MOVER).expect("write the mover's configuration");
    fs::set_permissions(&mover, fs::Permissions::from_mode(0o600)).expect("make it private");
}
