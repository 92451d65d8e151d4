//! `sifaka doctor`.

use crate::doctor::{State, check};
use crate::exit::{Exit, Outcome};
use crate::output::Output;
use crate::render::checks;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub(crate) struct DoctorArgs {
    /// A directory of the filesystem to be served; a small file is made in it and removed
    #[arg(value_name = "PATH", default_value = ".")]
    path: PathBuf,
    /// Print JSON: an object a check, one a line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: DoctorArgs) -> Outcome {
    let found = check(&args.path);
    let mut output = Output::new();
    if args.json {
        found.iter().try_for_each(|check| output.json(check))?;
    } else {
        output.put(checks::human(&found))?;
    }
    output.flush()?;
    Ok(if found.iter().any(|check| check.state == State::Fail) { Exit::NotHere } else { Exit::Ok })
}
