//! `sifaka actions`: the queue, and what has left it.

use super::now_ms;
use crate::client::Client;
use crate::exit::{CliError, Exit, Outcome};
use crate::output::Output;
use crate::render::actions::{finished, live};
use agent::admin::api::{ActionView, FinishedView, MAX_LIMIT};
use model::Command;
use std::path::Path;
use std::time::Duration;

/// Between two looks of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

#[derive(clap::Args, Debug)]
pub(crate) struct ActionsArgs {
    /// Show actions that ended, newest first
    #[arg(long)]
    finished: bool,
    /// Show actions that failed, newest first
    #[arg(long)]
    failed: bool,
    /// Only archive, restore, remove or verify
    #[arg(long, value_name = "COMMAND", value_parser = command)]
    command: Option<Command>,
    /// Only of this archive
    #[arg(short = 'i', long = "id", value_name = "ID")]
    archive: Option<u32>,
    /// Only of this request
    #[arg(long, value_name = "ID")]
    request: Option<u64>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
    /// Show again every second until interrupted
    #[arg(short, long)]
    watch: bool,
    /// Print JSON: an object an action, one a line
    #[arg(long)]
    json: bool,
}

fn command(name: &str) -> Result<Command, String> {
    Command::from_name(name).ok_or_else(|| "expected archive, restore, remove or verify".to_owned())
}

pub(crate) async fn run(socket: &Path, args: ActionsArgs) -> Outcome {
    let mut client = Client::new(socket);
    let mut output = Output::new();
    loop {
        if args.watch && output.is_terminal() {
            // Home, and clear what is below.
            output.put("\x1b[H\x1b[J")?;
        }
        if args.finished || args.failed {
            show_finished(&mut client, &mut output, &args).await?;
        } else {
            show_live(&mut client, &mut output, &args).await?;
        }
        output.flush()?;
        if !args.watch {
            return Ok(Exit::Ok);
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

async fn show_live(client: &mut Client, output: &mut Output, args: &ActionsArgs) -> Result<(), CliError> {
    let mut after = None;
    let mut left = args.limit;
    loop {
        let limit = left.min(MAX_LIMIT);
        let query = [
            ("command", args.command.map(|c| c.to_string())),
            ("archive", args.archive.map(|id| id.to_string())),
            ("request", args.request.map(|id| id.to_string())),
            ("after", after),
            ("limit", Some(limit.max(1).to_string())),
        ];
        let page: Vec<ActionView> = client.get("/v1/actions", &query).await?;
        if args.json {
            page.iter().try_for_each(|action| output.json(action))?;
        } else if !page.is_empty() {
            output.put(live(&page, now_ms()))?;
        } else if left == args.limit {
            output.put("nothing is queued or running\n")?;
        }
        left -= page.len().min(left);
        after = page.last().map(|action| action.id.to_string());
        if left == 0 || page.len() < limit {
            return Ok(());
        }
    }
}

async fn show_finished(client: &mut Client, output: &mut Output, args: &ActionsArgs) -> Result<(), CliError> {
    // Of one request the agent keeps the failures apart; everything else is filtered here.
    let address = match args.request {
        Some(request) if args.failed => format!("/v1/requests/{request}/failures"),
        _ => "/v1/actions/finished".to_owned(),
    };
    let wanted = |action: &FinishedView| {
        (!args.failed || action.error.as_ref().is_some_and(|error| !error.is_cancelled()))
            && args.command.is_none_or(|command| action.command == command)
            && args.archive.is_none_or(|archive| action.archive_id == archive)
            && args.request.is_none_or(|request| action.request == request)
    };
    let mut before = None;
    let mut found: Vec<FinishedView> = Vec::new();
    loop {
        let query = [("before", before), ("limit", Some(MAX_LIMIT.to_string()))];
        let page: Vec<FinishedView> = client.get(&address, &query).await?;
        let last_page = page.len() < MAX_LIMIT;
        before = page.last().map(|action| action.id.to_string());
        found.extend(page.into_iter().filter(wanted).take(args.limit - found.len().min(args.limit)));
        if last_page || found.len() >= args.limit {
            break;
        }
    }
    if args.json {
        found.iter().try_for_each(|action| output.json(action))
    } else if found.is_empty() {
        output.put("none\n")
    } else {
        output.put(finished(&found, now_ms()))
    }
}
