//! `sifaka guard`: runs the guard (agents do), or ends it (administrators do).

use crate::exit::{CliError, Exit, Outcome};
use coordinator::guard::GuardOptions;
use std::fs::File;
use std::path::{Path, PathBuf};
use sys::OFlags;

#[derive(clap::Args, Debug)]
pub(crate) struct GuardArgs {
    #[command(subcommand)]
    command: GuardCommand,
}

#[derive(clap::Subcommand, Debug)]
enum GuardCommand {
    /// Guard a filesystem (started by the agent)
    #[command(hide = true)]
    Run(RunArgs),
    /// End the guard of the configured filesystem, if no file on it is released
    Stop(StopArgs),
}

#[derive(clap::Args, Debug)]
struct RunArgs {
    /// A directory of the filesystem
    #[arg(long)]
    mount: PathBuf,
    /// Where the agent connects
    #[arg(long)]
    socket: PathBuf,
    /// Number of the descriptor of a group that is to be taken over
    #[arg(long, requires = "floor")]
    group_fd: Option<i32>,
    /// First number for descriptors of events
    #[arg(long, default_value_t = 0)]
    floor: u32,
}

#[derive(clap::Args, Debug)]
struct StopArgs {
    /// End it although files are released: whoever reads them then gets zeros
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(config_file: &Path, args: GuardArgs) -> Outcome {
    match args.command {
        GuardCommand::Run(args) => guard(args),
        GuardCommand::Stop(args) => stop(config_file, &args),
    }
}

fn guard(args: RunArgs) -> Outcome {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: std::io::Error| {
            CliError::new(Exit::NotHere, format!("{what}: {error}; `sifaka doctor` may know more"))
        }
    };
    let group = args.group_fd.map(sys::process::adopt_fd).transpose().map_err(failed("cannot take over the group"))?;
    let where_ = format!("cannot guard {}", args.mount.display());
    let options = GuardOptions { mount_point: args.mount, socket: args.socket, group, floor: args.floor };
    coordinator::guard::run(options).map_err(failed(&where_))?;
    Ok(Exit::Ok)
}

fn stop(config_file: &Path, args: &StopArgs) -> Outcome {
    let config = super::agent::load(config_file)?;
    let config::ClientDevice::Local(mount_point) = &config.client_device else {
        return Err(CliError::new(
            Exit::NotHere,
            "Lustre needs no guard: its servers keep readers of released files waiting",
        ));
    };
    crate::lustre::refuse("guard", mount_point)?;
    let failed = |error: std::io::Error| CliError::new(Exit::NotHere, format!("{}: {error}", mount_point.display()));
    let fs = sys::mounts::filesystem_of(mount_point).map_err(failed)?;
    if !args.force
        && let Some(path) = first_released(mount_point, fs.dev)?
    {
        return Err(CliError::new(
            Exit::SomeFailed,
            format!(
                "{} is released, and nothing but the guard keeps its readers from getting zeros: restore what is released \
                 first (`sifaka restore --wait {}`), or use --force",
                crate::output::escaped_path(&path),
                mount_point.display()
            ),
        ));
    }
    coordinator::guard::stop_guard(&config.transport.socket_dir, fs.kernel_fsid)
        .map_err(|error| CliError::new(Exit::Unreachable, error.to_string()))?;
    Ok(Exit::Ok)
}

/// A released file, if there is any. Walks the filesystem with memory for one path a level.
fn first_released(root: &Path, device: u64) -> Result<Option<PathBuf>, CliError> {
    let failed = |path: &Path, error: &std::io::Error| {
        CliError::new(Exit::SomeFailed, format!("cannot look at {}: {error}", path.display()))
    };
    let mut open = vec![std::fs::read_dir(root).map_err(|e| failed(root, &e))?];
    while let Some(directory) = open.last_mut() {
        let Some(entry) = directory.next() else {
            open.pop();
            continue;
        };
        let entry = entry.map_err(|e| failed(root, &e))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(|e| failed(&path, &e))?;
        if kind.is_dir() {
            let here = File::open(&path).and_then(|d| sys::file::stamp(&d)).map_err(|e| failed(&path, &e))?;
            if here.dev == device {
                open.push(std::fs::read_dir(&path).map_err(|e| failed(&path, &e))?);
            }
        } else if kind.is_file() {
            let fd = rustix::fs::open(&path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, sys::Mode::empty());
            let Ok(fd) = fd else { continue };
            let state = sys::xattr::get(&fd, model::xattr::HSM).map_err(|e| failed(&path, &e))?;
            if state.is_some_and(|bytes| model::HsmState::decode(&bytes).map_or(true, |s| s.is_released())) {
                return Ok(Some(path));
            }
        }
    }
    Ok(None)
}
