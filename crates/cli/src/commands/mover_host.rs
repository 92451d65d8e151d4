//! `sifaka mover-host`.

use super::agent::load_and_log;
use super::config_check;
use crate::exit::{CliError, Exit, Outcome};
use crate::wiring;
use std::path::Path;

#[derive(clap::Args, Debug)]
pub(crate) struct MoverHostArgs {
    /// Log everything that is done, whatever the configuration says
    #[arg(long)]
    debug: bool,
}

pub(crate) fn run(config_file: &Path, args: &MoverHostArgs) -> Outcome {
    let (config, set_level) = load_and_log(config_file, args.debug)?;
    if let Some(wrong) = config_check::archives_of_one_number(config_file, &config).first() {
        return Err(CliError::new(Exit::Config, wrong.text.clone()));
    }
    wiring::run_mover_host(config, config_file, set_level)
}

/// The process that kills a host which hangs: started by the host itself.
pub(crate) fn watchdog(parent: i32) -> Outcome {
    cluster::nats::run_watchdog(parent).map_err(|error| CliError::new(Exit::NotHere, error.to_string()))?;
    Ok(Exit::Ok)
}
