//! `sifaka scrub`: the archive read through.

use crate::archives::{self, ArchiveArgs};
use crate::exit::{CliError, Exit, Outcome};
use crate::render::scrubbed::human;
use crate::watch::Told;
use maintenance::scrub::{Options, scrub};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

#[derive(clap::Args, Debug)]
pub(crate) struct ScrubArgs {
    #[command(flatten)]
    archive: ArchiveArgs,
    /// Read so many bytes of content a second at most, such as 100MB/s
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<u64>,
    /// Begin anew, whatever an interrupted scrub has read already
    #[arg(long)]
    restart: bool,
    /// Where to keep how far it is [default: scrub-ID.json in the configuration's state_dir; with --root, nowhere]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Objects that are read at one time
    #[arg(long, value_name = "N", default_value = "2")]
    threads: NonZeroUsize,
    /// Print JSON: an object a finding, one a line, and the totals last
    #[arg(long)]
    json: bool,
    /// Print only what is wrong
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
}

fn rate(text: &str) -> Result<u64, String> {
    let rate = config::parse_rate(text).filter(|rate| *rate > 0);
    rate.ok_or_else(|| "expected bytes a second, such as 100MB/s".to_owned())
}

pub(crate) fn run(config_file: &Path, args: &ScrubArgs) -> Outcome {
    let (archive_id, store) = archives::open(&args.archive, config_file)?;
    let state = match (&args.state, &args.archive.root) {
        (Some(path), _) => Some(path.clone()),
        (None, Some(_)) => None,
        (None, None) => {
            let directory = archives::agent_config(config_file)?.state_dir;
            Some(directory.join(format!("scrub-{archive_id}.json")))
        }
    };
    let options =
        Options { archive_id, bytes_per_second: args.rate, state, restart: args.restart, threads: args.threads.get() };
    let told = Told::new(args.json, args.quiet);
    let counts = scrub(&store, &options, &told).map_err(|error| CliError::new(Exit::SomeFailed, error.to_string()))?;
    told.finish(&counts, &human(&counts))?;
    Ok(if counts.is_sound() { Exit::Ok } else { Exit::Problems })
}
