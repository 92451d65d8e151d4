//! `sifaka archive`.

use crate::exit::Outcome;
use crate::submit::{self, SubmitArgs};
use agent::admin::api::RequestCommand;
use std::path::Path;

#[derive(clap::Args, Debug)]
pub(crate) struct ArchiveArgs {
    #[command(flatten)]
    submit: SubmitArgs,
    /// Archive also what did not change since it was archived
    #[arg(long)]
    force: bool,
    /// Numbers of the archives in which each file is to have a copy (default: the configuration's copies)
    #[arg(long, value_name = "ID,…", value_delimiter = ',', conflicts_with = "id",
        value_parser = clap::value_parser!(u32).range(1..))]
    copies: Vec<u32>,
}

pub(crate) async fn run(socket: &Path, args: ArchiveArgs) -> Outcome {
    submit::run(socket, RequestCommand::Archive, args.force, args.copies, args.submit).await
}
