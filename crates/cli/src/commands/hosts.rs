//! `sifaka hosts`.

use crate::client::Client;
use crate::exit::{Exit, Outcome};
use crate::output::Output;
use agent::admin::hosts::{DrainRequest, Draining, HostsReport};
use std::path::Path;

#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct HostsArgs {
    #[command(subcommand)]
    command: Option<HostsCommand>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Subcommand, Debug)]
enum HostsCommand {
    /// Have a host take nothing more, and end when it has finished what it has
    Drain {
        /// The host's name, as `sifaka hosts` shows it
        name: String,
    },
}

pub(crate) async fn run(socket: &Path, args: HostsArgs) -> Outcome {
    let mut client = Client::new(socket);
    let mut output = Output::new();
    match args.command {
        Some(HostsCommand::Drain { name }) => {
            let Draining { hosts } = client.post("/v1/hosts/drain", &DrainRequest { name: name.clone() }).await?;
            let name = crate::output::escaped(&name).into_owned();
            output.put(match hosts {
                1 => format!("{name} takes nothing more, and ends when it has finished what it has\n"),
                hosts => format!(
                    "{hosts} hosts called {name} take nothing more, and end when they have finished what they have\n"
                ),
            })?;
        }
        None => {
            let report: HostsReport = client.get("/v1/hosts", &[]).await?;
            if args.json {
                output.json(&report)?;
            } else {
                output.put(crate::render::hosts::hosts(&report))?;
            }
        }
    }
    output.flush()?;
    Ok(Exit::Ok)
}
