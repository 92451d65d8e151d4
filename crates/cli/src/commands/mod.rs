//! The commands, one file each: options, what is asked of the agent, what is printed.

pub(crate) mod actions;
pub(crate) mod agent;
pub(crate) mod archive;
pub(crate) mod cancel;
pub(crate) mod clone;
pub(crate) mod completions;
pub(crate) mod config_check;
pub(crate) mod doctor;
pub(crate) mod fsck;
pub(crate) mod guard;
pub(crate) mod hosts;
pub(crate) mod import;
pub(crate) mod import_objects;
pub(crate) mod man;
pub(crate) mod migrate;
pub(crate) mod mirror;
mod mirror_follow;
mod mirror_waiting;
pub(crate) mod mover;
pub(crate) mod mover_host;
pub(crate) mod rebalance;
mod rebalance_archive;
pub(crate) mod rebuild;
pub(crate) mod release;
pub(crate) mod reload;
pub(crate) mod remove;
pub(crate) mod replicate;
pub(crate) mod restore;
pub(crate) mod restripe;
pub(crate) mod scrub;
pub(crate) mod set;
pub(crate) mod status;
pub(crate) mod undelete;
pub(crate) mod verify;
mod verify_archive;
pub(crate) mod versions;
pub(crate) mod walk;

use crate::args::{Cli, Command, ConfigCommand};
use crate::exit::{CliError, Exit, Outcome};
use std::time::{SystemTime, UNIX_EPOCH};

/// Runs the command.
pub(crate) fn run(Cli { global, command }: Cli) -> Outcome {
    let socket = global.socket.as_path();
    match command {
        Command::Archive(args) => block_on(archive::run(socket, args)),
        Command::Release(args) => block_on(release::run(socket, args)),
        Command::Restore(args) => block_on(restore::run(socket, args)),
        Command::Remove(args) => block_on(remove::run(socket, args)),
        Command::Cancel(args) => block_on(cancel::run(socket, args)),
        Command::Status(args) => block_on(status::run(socket, args)),
        Command::Set(args) => block_on(set::run(socket, args)),
        Command::Clone(args) => block_on(clone::run(socket, args)),
        Command::Restripe(args) => block_on(restripe::run(args)),
        Command::Versions(args) => block_on(versions::run(socket, args)),
        Command::Undelete(args) => block_on(undelete::run(socket, args)),
        Command::Actions(args) => block_on(actions::run(socket, args)),
        Command::Import(args) => import::run(&global.config_file(), &args),
        Command::Reload(args) => block_on(reload::run(socket, args)),
        Command::Fsck(args) => fsck::run(socket, &global.config_file(), &args),
        Command::Scrub(args) => scrub::run(socket, &global.config_file(), &args),
        Command::Rebuild(args) => rebuild::run(&global.config_file(), &args),
        Command::Walk(args) => walk::run(&args),
        Command::Migrate(args) => migrate::run(&global.config_file(), &args),
        Command::Replicate(args) => replicate::run(&args),
        Command::Verify(args) => verify::run(&global.config_file(), &args),
        Command::Mirror(command) => mirror::run(command),
        Command::Rebalance(args) => rebalance::run(&global.config_file(), args),
        Command::Agent(args) => agent::run(&global.config_file(), &args),
        Command::MoverHost(args) => mover_host::run(&global.config_file(), &args),
        Command::MoverHostWatchdog { parent } => mover_host::watchdog(parent),
        Command::Hosts(args) => block_on(hosts::run(socket, args)),
        Command::Guard(args) => guard::run(&global.config_file(), args),
        Command::Mover(args) => mover::run(&args),
        Command::Config(ConfigCommand::Check(args)) => config_check::run(&global.config_file(), args),
        Command::Doctor(args) => doctor::run(args),
        Command::Demo(args) => crate::demo::run(args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(args),
    }
}

/// Runs a command that talks to the agent, on this thread, until it ends or the user interrupts it.
fn block_on(work: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|why| CliError::new(Exit::SomeFailed, format!("cannot start: {why}")))?;
    runtime.block_on(async {
        tokio::select! {
            outcome = work => outcome,
            Ok(()) = tokio::signal::ctrl_c() => Err(CliError::new(
                Exit::Interrupted,
                "interrupted; what the agent has accepted goes on: see `sifaka actions`, end it with `sifaka cancel`",
            )),
        }
    })
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Tells when nobody stands between readers and the released files that were just made in a directory.
pub(crate) fn warn_if_unguarded(dir: &std::path::Path) {
    if let Ok(filesystem) = sys::mounts::filesystem_of(dir)
        && !maintenance::is_guarded(&filesystem)
    {
        let mount = crate::output::escaped_path(&filesystem.mount_point);
        crate::output::complain(&format!(
            "no guard watches {mount}: until an agent runs there, who reads released files gets zeros instead of their content"
        ));
    }
}

/// The error of a command that needs files and was given none.
pub(crate) fn no_files() -> CliError {
    CliError::new(Exit::Usage, "no files are named: give paths, or -0 to read them from standard input")
}
