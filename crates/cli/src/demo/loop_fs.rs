//! A filesystem of the demo's own, in a sparse file on a loop device; or what is missing for one that files can be released on.

use super::cannot_at;
use super::site::Site;
use super::tree::Tree;
use crate::doctor::{self, Check, State};
use crate::exit::CliError;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Room for the filesystem's own structures; the image is sparse, so that too much costs nothing.
const SPARE_BYTES: u64 = 1 << 30;
/// ext4 makes an inode for so many bytes, btrfs and XFS take less: room for trees of many small files.
const BYTES_PER_FILE: u64 = 32 << 10;
/// `mount -o loop` picks a free device and then takes it; somebody else may have been faster.
const MOUNT_ATTEMPTS: u32 = 20;

/// The filesystems that files can be released on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum FsKind {
    Ext4,
    Xfs,
    Btrfs,
}

impl FsKind {
    /// The kernel's name for it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// The program that makes it, the package that has the program, and its options.
    fn maker(self) -> (&'static str, &'static str, &'static [&'static str]) {
        match self {
            // Without a kernel thread that goes on writing inode tables while times are taken.
            Self::Ext4 => ("mkfs.ext4", "e2fsprogs", &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]),
            Self::Xfs => ("mkfs.xfs", "xfsprogs", &["-q", "-f"]),
            Self::Btrfs => ("mkfs.btrfs", "btrfs-progs", &["-q", "-f"]),
        }
    }
}

/// Makes and mounts it. Gives what is missing on this system, each with what follows; then nothing stays mounted.
pub(super) fn make(site: &Site, kind: FsKind, tree: &Tree) -> Result<Vec<String>, CliError> {
    let mut missing = failures(&doctor::check_system());
    if let Err(why) = File::options().read(true).write(true).open("/dev/loop-control") {
        missing.push(format!("loop devices: /dev/loop-control: {why} (no filesystem can be made for the demo)"));
    }
    let (program, package, options) = kind.maker();
    if let Err(why) = program_in_path(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status() {
        missing.push(format!("{program}: {why} (install the package {package})"));
    }
    if !missing.is_empty() {
        return Ok(missing);
    }
    let image = site.image();
    let file = File::create_new(&image).map_err(cannot_at("make", &image))?;
    let size = tree.bytes() * 2 + tree.count() * BYTES_PER_FILE + SPARE_BYTES;
    file.set_len(size).map_err(cannot_at("size", &image))?;
    drop(file);
    run(program_in_path(program).args(options).arg(&image)).map_err(|why| super::wrong(format!("{program}: {why}")))?;
    if let Err(why) = mount(kind, &image, &site.mount_point()) {
        return Ok(vec![format!("mounting {} on a loop device: {why}", kind.name())]);
    }
    let missing = failures(&doctor::check(&site.mount_point()));
    if !missing.is_empty() {
        site.unmount().map_err(super::wrong)?;
    }
    Ok(missing)
}

fn failures(checks: &[Check]) -> Vec<String> {
    let failed = checks.iter().filter(|check| check.state == State::Fail);
    failed.map(|Check { name, detail, consequence, .. }| format!("{name}: {detail} ({consequence})")).collect()
}

fn mount(kind: FsKind, image: &Path, target: &Path) -> Result<(), String> {
    let mut attempt = 1;
    loop {
        let done = run(program_in_path("mount").args(["-t", kind.name(), "-o", "loop"]).arg(image).arg(target));
        let lost_race = done.as_ref().is_err_and(|why| why.contains("loop device") || why.contains("busy"));
        if !lost_race || attempt == MOUNT_ATTEMPTS {
            return done;
        }
        // There is no event for "a loop device became free".
        std::thread::sleep(Duration::from_millis(20 * u64::from(attempt)));
        attempt += 1;
    }
}

/// A program of the system administrator's, which the user's PATH may lack. Ctrl-C is not for it: what it began it ends.
fn program_in_path(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(name);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).env("LC_ALL", "C").stdin(Stdio::null()).process_group(0);
    command
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|why: io::Error| why.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} ({})", said.trim(), output.status))
}
