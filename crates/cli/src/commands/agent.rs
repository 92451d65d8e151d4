//! `sifaka agent`.

use crate::exit::{CliError, Exit, Outcome};
use crate::wiring;
use config::AgentConfig;
use config::agent::LogLevel;
use std::path::Path;

#[derive(clap::Args, Debug)]
pub(crate) struct AgentArgs {
    /// Log everything that is done, whatever the configuration says
    #[arg(long)]
    debug: bool,
}

pub(crate) fn run(config_file: &Path, args: &AgentArgs) -> Outcome {
    let config = load(config_file, args.debug)?;
    wiring::run_agent(config, config_file)
}

/// The configuration, with logging set up as it says. Warnings are logged.
pub(super) fn load(config_file: &Path, debug: bool) -> Result<AgentConfig, CliError> {
    let (mut config, warnings) =
        AgentConfig::load(config_file).map_err(|why| CliError::new(Exit::Config, why.to_string()))?;
    if debug {
        config.log.level = config.log.level.max(LogLevel::Debug);
    }
    log_to_standard_error(config.log.level.as_str());
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(config)
}

/// `default` is a level; the environment's `RUST_LOG` wins.
pub(super) fn log_to_standard_error(default: &str) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    // An error says that there is a logger already.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).try_init();
}
