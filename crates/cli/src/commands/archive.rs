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
}

pub(crate) async fn run(socket: &Path, args: ArchiveArgs) -> Outcome {
    submit::run(socket, RequestCommand::Archive, args.force, args.submit).await
}
