//! `sifaka man`.

use crate::args::Cli;
use crate::exit::{CliError, Exit, Outcome};
use crate::output::Output;
use clap::CommandFactory;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub(crate) struct ManArgs {
    /// Write a page for every command into this directory, instead of printing the main one
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn run(args: ManArgs) -> Outcome {
    let failed =
        |what: String| move |why: std::io::Error| CliError::new(Exit::SomeFailed, format!("cannot {what}: {why}"));
    if let Some(dir) = args.dir {
        let shown = dir.display();
        std::fs::create_dir_all(&dir).map_err(failed(format!("make {shown}")))?;
        clap_mangen::generate_to(Cli::command(), &dir).map_err(failed(format!("write manual pages to {shown}")))?;
        return Ok(Exit::Ok);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(failed("make the manual page".to_owned()))?;
    let mut output = Output::new();
    output.put(page)?;
    output.flush()?;
    Ok(Exit::Ok)
}
