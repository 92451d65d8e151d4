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
    for setting in without_effect(&config) {
        tracing::warn!("`{setting}` has no effect: not built yet");
    }
    wiring::run_agent(config, config_file)
}

/// What Lemur's files may ask for and this agent does not do: whoever asks for it should not wait for it.
fn without_effect(config: &AgentConfig) -> impl Iterator<Item = &'static str> {
    let asked = [("snapshots.enabled", config.snapshots.enabled), ("influxdb", config.influxdb.is_some())];
    asked.into_iter().filter_map(|(setting, asked)| asked.then_some(setting))
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
