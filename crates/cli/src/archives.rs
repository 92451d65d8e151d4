//! Archives, opened by the command itself: for what is done to an archive as a whole, with or without an agent.

use crate::exit::{CliError, Exit};
use config::{AgentConfig, PosixConfig};
use std::path::Path;
use std::sync::Arc;
use transfer::{KernelDurability, PosixStore};

/// The mover's file, beside the agent's.
const POSIX_CONFIG: &str = "lhsm-plugin-posix";

/// The number of the archive that is meant: the one asked for, or the configuration's default.
pub(crate) fn number(asked: Option<u32>, config_file: &Path) -> Result<u32, CliError> {
    if let Some(number) = asked {
        return Ok(number);
    }
    let (config, _) = AgentConfig::load(config_file).map_err(|error| CliError::new(Exit::Config, error.to_string()))?;
    Ok(config.default_archive)
}

/// Opens a configured archive of the posix mover.
pub(crate) fn open(id: u32, config_file: &Path) -> Result<PosixStore, CliError> {
    let file = config_file.parent().unwrap_or(Path::new(".")).join(POSIX_CONFIG);
    let (config, _) = PosixConfig::load(&file).map_err(|error| CliError::new(Exit::Config, error.to_string()))?;
    let Some(archive) = config.archives.into_iter().find(|archive| archive.id == id) else {
        let why = format!("{} has no archive of number {id}", file.display());
        return Err(CliError::new(Exit::Config, why));
    };
    open_root(&archive.root)
}

/// Opens the archive in a directory.
pub(crate) fn open_root(root: &Path) -> Result<PosixStore, CliError> {
    PosixStore::open(root, Arc::new(KernelDurability)).map_err(|error| CliError::new(Exit::NotHere, error.to_string()))
}
