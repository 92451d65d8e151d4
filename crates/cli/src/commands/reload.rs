//! `sifaka reload`.

use crate::client::Client;
use crate::exit::{Exit, Outcome};
use crate::output::Output;
use agent::admin::api::Reloaded;
use std::path::Path;

#[derive(clap::Args, Debug)]
pub(crate) struct ReloadArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print nothing on success
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
}

pub(crate) async fn run(socket: &Path, args: ReloadArgs) -> Outcome {
    let reloaded: Reloaded = Client::new(socket).post("/v1/reload", &()).await?;
    let mut output = Output::new();
    if args.json {
        output.json(&reloaded)?;
    } else if !args.quiet {
        output.put(crate::render::reloaded::reloaded(&reloaded))?;
    }
    output.flush()?;
    Ok(Exit::Ok)
}
