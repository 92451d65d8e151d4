//! `sifaka walk`: what is in trees.

use crate::bulk::{FilterArgs, Interrupt, Telling, TellingArgs, ended};
use crate::exit::{CliError, Exit, Outcome};
use crate::render::census::{Counted, human};
use jobs::census::{Options, census};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// Each that is listed is a path, or nearly, to be kept.
const MAX_TOP: u16 = 1000;

#[derive(clap::Args, Debug)]
#[command(
    after_help = "Directories are read and files looked at; no file is opened, none is restored, nothing is changed.\n\n\
A file with several names counts once. Symbolic links are counted, and not followed."
)]
pub(crate) struct WalkArgs {
    /// What is counted: directories with all below them, or files
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// List so many owners, files and directories
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(..=i64::from(MAX_TOP)))]
    top: u16,
    /// Threads [default: adapted to what is fastest]
    #[arg(short, long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Enter other filesystems that are mounted below the paths
    #[arg(long)]
    cross_filesystems: bool,
    #[command(flatten)]
    filters: FilterArgs,
    /// Print JSON: an object for each thing that could not be looked at, and what was counted last
    #[arg(long)]
    json: bool,
    /// Print only what is wrong
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
}

pub(crate) fn run(args: &WalkArgs) -> Outcome {
    let options = Options {
        cross: args.cross_filesystems,
        filter: args.filters.filter()?,
        threads: args.jobs.map(NonZeroUsize::get),
        top: args.top.into(),
    };
    // Each directory that is being worked on takes a descriptor.
    sys::process::raise_nofile_limit();
    let interrupt = Interrupt::on_signals()?;
    let telling = Telling::new(&TellingArgs::plain(args.json, args.quiet), false)?;
    let seen = AtomicU64::new(0);
    let far = || {
        let seen = seen.load(Ordering::Relaxed);
        format!("{seen} entries ({}/s)", telling.per_second(seen))
    };
    let job = || census(&args.paths, &options, &seen, &telling, interrupt.flag());
    let found = telling.saying(far, job).map_err(|error| ended(&error))?;
    let users = found.owners.iter().filter_map(|(uid, _)| {
        // A user without a name, or a name service that does not answer: the number says it, too.
        let user = nix::unistd::User::from_uid((*uid).into()).ok().flatten()?;
        Some((*uid, user.name))
    });
    let users: BTreeMap<u32, String> = users.collect();
    telling.finish(&Counted::new(&found, &users), &human(&found, &users))?;
    if found.interrupted {
        return Err(CliError::new(Exit::Interrupted, "interrupted: not all was counted"));
    }
    Ok(if found.left_out.failed == 0 { Exit::Ok } else { Exit::SomeFailed })
}
