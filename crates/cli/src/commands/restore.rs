//! `sifaka restore`.

use crate::exit::Outcome;
use crate::submit::{self, SubmitArgs};
use agent::admin::api::RequestCommand;
use std::path::Path;

#[derive(clap::Args, Debug)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    submit: SubmitArgs,
}

pub(crate) async fn run(socket: &Path, args: RestoreArgs) -> Outcome {
    submit::run(socket, RequestCommand::Restore, false, Vec::new(), args.submit).await
}
