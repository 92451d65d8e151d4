//! `sifaka completions`.

use crate::args::Cli;
use crate::exit::{Exit, Outcome};
use crate::output::Output;
use clap::CommandFactory;
use clap_complete::Shell;

#[derive(clap::Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// For which shell
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs) -> Outcome {
    // Into memory first: the generator panics when it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "sifaka", &mut script);
    let mut output = Output::new();
    output.put(script)?;
    output.flush()?;
    Ok(Exit::Ok)
}
