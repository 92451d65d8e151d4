//! Where the agent's parts are put together.

use crate::exit::{CliError, Exit, Outcome};
use config::AgentConfig;
use std::path::Path;

/// Runs an agent until it is asked to end. `config_file` is where `config` came from: its directory holds the movers' files.
pub(crate) fn run_agent(_config: AgentConfig, _config_file: &Path) -> Outcome {
    Err(CliError::new(Exit::NotHere, "this build holds no agent yet"))
}
