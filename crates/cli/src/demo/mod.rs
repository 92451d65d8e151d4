//! `sifaka demo`.

use crate::exit::{CliError, Exit, Outcome};

/// What the demo is told.
#[derive(clap::Args, Debug)]
pub(crate) struct DemoArgs {}

/// Runs the demo.
pub(crate) fn run(_args: DemoArgs) -> Outcome {
    Err(CliError::new(Exit::NotHere, "this build holds no demo yet"))
}
