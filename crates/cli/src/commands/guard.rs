//! `sifaka guard`: started by the agent, not by people.

use crate::exit::Outcome;
use crate::wiring;
use std::path::Path;

#[derive(clap::Args, Debug)]
pub(crate) struct GuardArgs {
    /// Log everything that is done
    #[arg(long)]
    debug: bool,
}

pub(crate) fn run(config_file: &Path, args: &GuardArgs) -> Outcome {
    let config = super::agent::load(config_file, args.debug)?;
    wiring::run_guard(config, config_file)
}
