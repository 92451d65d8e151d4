//! The sifaka command: every program of Sifaka in one binary.
//!
//! Here: which program is meant (by subcommand, or by one of Lemur's names), and the exit code. Each command is a file in
//! [`commands`]; what it prints is made by pure functions in [`render`].

mod archives;
mod args;
mod bulk;
mod client;
mod commands;
mod demo;
mod doctor;
mod exit;
mod feed;
mod lemur;
mod lustre;
mod mend;
mod names;
mod output;
mod place;
mod reload;
mod render;
mod submit;
mod watch;
mod wiring;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let given = std::env::args_os().collect();
    let outcome = lemur::translate(given).and_then(|words| {
        // Prints help, the version or what is wrong, and ends with 0 or 2.
        let cli = args::Cli::try_parse_from(words).unwrap_or_else(|error| error.exit());
        commands::run(cli)
    });
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) => {
            error.report();
            error.exit.into()
        }
    }
}
