//! `sifaka agent`.

use crate::commands::config_check;
use crate::exit::{CliError, Exit, Outcome};
use crate::reload::SetLogLevel;
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
    let (config, set_level) = load_and_log(config_file, args.debug)?;
    if let Some(wrong) = config_check::archives_of_one_number(config_file, &config).first() {
        return Err(CliError::new(Exit::Config, wrong.text.clone()));
    }
    let debug = args.debug;
    let set_level = Box::new(move |level| set_level(effective(level, debug)));
    wiring::run_agent(config, config_file, set_level)
}

fn effective(level: LogLevel, debug: bool) -> LogLevel {
    if debug { level.max(LogLevel::Debug) } else { level }
}

/// The configuration, with logging set up as it says. Warnings are logged.
pub(super) fn load(config_file: &Path) -> Result<AgentConfig, CliError> {
    Ok(load_and_log(config_file, false)?.0)
}

pub(super) fn load_and_log(config_file: &Path, debug: bool) -> Result<(AgentConfig, SetLogLevel), CliError> {
    let (config, warnings) =
        AgentConfig::load(config_file).map_err(|why| CliError::new(Exit::Config, why.to_string()))?;
    let set_level = log_to_standard_error(effective(config.log.level, debug));
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok((config, set_level))
}

/// Logs from this level on, until another is set; the environment's `RUST_LOG` wins, then and later.
pub(super) fn log_to_standard_error(level: LogLevel) -> SetLogLevel {
    use tracing_subscriber::EnvFilter;
    let asked = EnvFilter::try_from_default_env();
    let wins = asked.is_ok();
    let filter = asked.unwrap_or_else(|_| EnvFilter::new(level.as_str()));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    let log = log.with_filter_reloading();
    let handle = log.reload_handle();
    // An error says that there is a logger already.
    let _ = log.try_init();
    Box::new(move |level: LogLevel| {
        // Fails only when the logger is gone.
        let _ = if wins { Ok(()) } else { handle.reload(EnvFilter::new(level.as_str())) };
    })
}
