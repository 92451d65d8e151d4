//! Archives, opened by the command itself: for what is done to an archive as a whole, with or without an agent.

use crate::exit::{CliError, Exit};
use config::{AgentConfig, PosixConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use transfer::{KernelDurability, PosixStore};

/// The mover's file, beside the agent's.
const POSIX_CONFIG: &str = "lhsm-plugin-posix";

/// Which archive a command is for.
#[derive(clap::Args, Debug)]
pub(crate) struct ArchiveArgs {
    /// Number of the archive [default: the configuration's default_archive]
    #[arg(short, long = "id", visible_alias = "archive", value_name = "ID", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) id: Option<u32>,
    /// The archive's root, where there is no configuration that names it
    #[arg(long, value_name = "DIR", requires = "id")]
    pub(crate) root: Option<PathBuf>,
}

/// The number of the archive that is meant: the one asked for, or the configuration's default.
pub(crate) fn number(archive: &ArchiveArgs, config_file: &Path) -> Result<u32, CliError> {
    match archive.id {
        Some(number) => Ok(number),
        None => Ok(agent_config(config_file)?.default_archive),
    }
}

/// The agent's configuration.
pub(crate) fn agent_config(config_file: &Path) -> Result<AgentConfig, CliError> {
    let (config, _) = AgentConfig::load(config_file).map_err(|error| CliError::new(Exit::Config, error.to_string()))?;
    Ok(config)
}

/// Opens an archive of the posix mover, and gives its number.
pub(crate) fn open(archive: &ArchiveArgs, config_file: &Path) -> Result<(u32, PosixStore), CliError> {
    let id = number(archive, config_file)?;
    let root = match &archive.root {
        Some(root) => root.clone(),
        None => configured_root(id, config_file)?,
    };
    let store = PosixStore::open(&root, Arc::new(KernelDurability));
    Ok((id, store.map_err(|error| CliError::new(Exit::NotHere, error.to_string()))?))
}

fn configured_root(id: u32, config_file: &Path) -> Result<PathBuf, CliError> {
    let file = config_file.parent().unwrap_or(Path::new(".")).join(POSIX_CONFIG);
    let (config, _) = PosixConfig::load(&file).map_err(|error| CliError::new(Exit::Config, error.to_string()))?;
    let found = config.archives.into_iter().find(|archive| archive.settings.id == id);
    let none = || {
        let why = format!("{} has no archive of number {id}; give its root with --root", file.display());
        CliError::new(Exit::Config, why)
    };
    Ok(found.ok_or_else(none)?.place.0)
}
