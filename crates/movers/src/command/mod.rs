//! A mover whose archives are programs: HPSS, tape libraries, rclone, a site's own script. No shell takes part.
//!
//! This module starts it. `queue` decides what runs when and together, `mover` and `batch` do the actions, `program` runs one command,
//! `line` makes its words, `staging` is where programs write.

mod answer;
mod batch;
mod complaints;
mod content;
mod error;
mod line;
mod mover;
mod program;
mod queue;
mod staging;

use config::command::{CommandArchive, CommandConfig, Template};
use config::{ConfigError, Warning};
use model::limits::{DEFAULT_CREDITS, MAX_CREDITS};
use mover::CommandMover;
use plugin::{Archive, Capabilities, Environment, Plugin, PluginError};
use queue::{Commands, Gathering};
use staging::Staging;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use transfer::TransferError;

/// Why the command mover ended.
#[derive(Debug, thiserror::Error)]
pub enum CommandMoverError {
    /// Its configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An archive's staging directory cannot be used. None is served then: an archive that silently is not there is worse.
    #[error("archive \"{name}\" cannot be served: {source}")]
    Staging {
        /// As in the configuration.
        name: String,
        /// What is wrong with it.
        source: TransferError,
    },
    /// A command's program is not there.
    #[error(
        "archive \"{name}\" cannot be served: there is no program `{program}`; install it, name it by its whole path, or \
         set PATH in the archive's environment"
    )]
    NoProgram {
        /// As in the configuration.
        name: String,
        /// As in the configuration.
        program: String,
    },
    /// The service ended.
    #[error(transparent)]
    Plugin(#[from] PluginError),
}

/// Serves until the process is asked to end (SIGTERM).
///
/// # Errors
/// The configuration is wrong; a program or a staging directory is not there; the agent cannot be reached, refuses, or is gone (then end the
/// process at once).
pub fn run(environment: Environment, file: &Path) -> Result<(), CommandMoverError> {
    let (config, warnings) = CommandConfig::load(file)?;
    warnings.iter().for_each(|warning: &Warning| tracing::warn!("{warning}"));
    sys::process::raise_nofile_limit();
    let mut archives = Vec::with_capacity(config.archives.len());
    let mut sessions = Vec::with_capacity(config.archives.len());
    for archive in config.archives {
        find_programs(&archive)?;
        let staging = archive.staging.as_deref().map(Staging::open).transpose();
        let staging = staging.map_err(|source| CommandMoverError::Staging { name: archive.name.clone(), source })?;
        let staging = staging.map(Arc::new);
        sessions.extend(staging.clone());
        archives.push(serve(archive, staging, &environment)?);
    }
    let name = concat!("sifaka command ", env!("CARGO_PKG_VERSION"));
    let ended = Plugin::new(environment, name).run(archives);
    // The threads of the workers have them, too, and end with the process.
    sessions.iter().for_each(|session| session.remove());
    Ok(ended?)
}

fn serve(
    archive: CommandArchive,
    staging: Option<Arc<Staging>>,
    environment: &Environment,
) -> Result<Archive, CommandMoverError> {
    let archive = Arc::new(archive);
    let capabilities = Capabilities {
        cancel: true,
        verify: archive.stat.is_some(),
        proposed_uuid: archive.id_from == config::command::IdFrom::Uuid,
        ..Capabilities::default()
    };
    let (id, credits) = (archive.id, credits(&archive));
    let gathering = Gathering::new(Arc::clone(&archive), environment.client_mountpoint.clone());
    let mover = CommandMover { archive, staging, environment: environment.clone() };
    let commands = Commands::start(gathering, Arc::new(move |jobs| mover.run(jobs)))?;
    Ok(Archive { id, capabilities, credits, handler: Arc::new(commands) })
}

/// How many actions the agent is asked to give at once: as many as two batches for each command, so that the next one is there in time.
fn credits(archive: &CommandArchive) -> u32 {
    let batches = u32::try_from(archive.batch.max_files).unwrap_or(MAX_CREDITS);
    let wanted = batches.saturating_mul(archive.max_commands.get()).saturating_mul(2);
    archive.max_in_flight.map_or(wanted.clamp(DEFAULT_CREDITS, MAX_CREDITS), u32::from)
}

/// Looked for now, and not only when a reader waits.
fn find_programs(archive: &CommandArchive) -> Result<(), CommandMoverError> {
    let path = archive.environment.get("PATH").map_or(program::PATH, String::as_str);
    let templates = [Some(&archive.archive), Some(&archive.restore), archive.remove.as_ref(), archive.stat.as_ref()];
    for program in templates.into_iter().flatten().map(Template::program) {
        let runs =
            |path: &Path| path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
        let is_there = if program.contains('/') {
            runs(Path::new(program))
        } else {
            path.split(':').any(|directory| runs(&Path::new(directory).join(program)))
        };
        if !is_there {
            return Err(CommandMoverError::NoProgram { name: archive.name.clone(), program: program.to_owned() });
        }
    }
    Ok(())
}
