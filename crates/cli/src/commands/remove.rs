//! `sifaka remove`.

use crate::exit::Outcome;
use crate::submit::{self, SubmitArgs};
use agent::admin::api::RequestCommand;
use std::path::Path;

#[derive(clap::Args, Debug)]
pub(crate) struct RemoveArgs {
    #[command(flatten)]
    submit: SubmitArgs,
}

pub(crate) async fn run(socket: &Path, args: RemoveArgs) -> Outcome {
    submit::run(socket, RequestCommand::Remove, false, Vec::new(), args.submit).await
}
