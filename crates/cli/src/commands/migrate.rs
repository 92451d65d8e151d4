//! `sifaka migrate`: a tree copied into another filesystem, or into or out of a bucket.

use crate::bulk::{BucketArgs, End as Place, FilterArgs, Interrupt, Telling, TellingArgs, ended, state_file};
use crate::exit::{CliError, Exit, Outcome};
use crate::render::migrated::human;
use jobs::buckets::{copy, download, upload};
use jobs::migrate::{Existing, Options, keep_clear, migrate};
use jobs::report::{Tally, Totals};
use serde::Serialize;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};

#[derive(clap::Args, Debug)]
#[command(
    after_help = "What is in the directory SRC comes into the directory DST, which is made if it is not there: SRC/a/b becomes DST/a/b. \
A slash at the end of either means nothing. Each may be a bucket: s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or \
gs://BUCKET/PREFIX; SRC/a/b becomes the object PREFIX/a/b, or the other way.\n\nWhat is at the destination already stays as it is, and is told if it differs, unless \
--update, --newer or --overwrite is given."
)]
pub(crate) struct MigrateArgs {
    /// The directory whose content is copied, or a bucket's URL
    src: PathBuf,
    /// The directory into which it comes, or a bucket's URL
    dst: PathBuf,
    /// Replace files that differ in size or time of change, and bring modes, owners and attributes in line
    #[arg(short, long, conflicts_with_all = ["newer", "overwrite"])]
    update: bool,
    /// As --update, but only files that were changed later at the source
    #[arg(long, conflicts_with = "overwrite")]
    newer: bool,
    /// Replace all files, also those that do not differ
    #[arg(long)]
    overwrite: bool,
    /// Remove from the destination what the source does not have
    #[arg(long)]
    delete: bool,
    /// Read everything that was copied again, on both sides and past the page cache, and compare
    #[arg(long)]
    verify: bool,
    /// Move so many bytes of content a second at most, such as 100MB/s
    #[arg(short, long, visible_alias = "bwlimit", value_name = "RATE", value_parser = crate::lustre::rate)]
    bandwidth_limit: Option<NonZeroU64>,
    /// Threads [default: adapted to what is fastest]
    #[arg(short, long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Enter other filesystems that are mounted below SRC
    #[arg(long)]
    cross_filesystems: bool,
    /// Where to keep how far it is [default: a file below /var/lib/sifaka/jobs, for root]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Begin anew, whatever an interrupted run has done already
    #[arg(long)]
    restart: bool,
    /// Say what would be done, and change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// From a bucket: give files to whom the objects say. Whoever may write to the bucket says then whose the files are
    #[arg(long)]
    owners: bool,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    buckets: BucketArgs,
    #[command(flatten)]
    telling: TellingArgs,
}

/// The totals for programs.
#[derive(Serialize)]
struct Result {
    #[serde(flatten)]
    totals: Totals,
    interrupted: bool,
    continued: bool,
}

pub(crate) fn run(config_file: &Path, args: &MigrateArgs) -> Outcome {
    // Before anything has threads.
    let interrupt = Interrupt::on_signals()?;
    let source = args.buckets.source(config_file, &args.src)?;
    let destination = args.buckets.destination(config_file, &args.dst)?;
    let existing = match (args.update, args.newer, args.overwrite) {
        (true, ..) => Existing::Update,
        (_, true, _) => Existing::Newer,
        (.., true) => Existing::Overwrite,
        _ => Existing::Keep,
    };
    let usual = || state_file("migrate", args.src.as_os_str(), args.dst.as_os_str());
    let options = Options {
        existing,
        delete: args.delete,
        verify: args.verify,
        dry_run: args.dry_run,
        cross: args.cross_filesystems,
        filter: args.filters.filter()?,
        limit: args.bandwidth_limit,
        threads: args.jobs.map(NonZeroUsize::get),
        state: Some(args.state.clone().unwrap_or_else(usual)),
        restart: args.restart,
        own: args.telling.report().map(Path::to_owned).into_iter().collect(),
        reserved: Some(jobs::replicate::NAME),
        names_outside: jobs::replicate::names_outside(&args.dst),
        ..Options::default()
    };
    // Each directory that is being worked on takes two descriptors.
    sys::process::raise_nofile_limit();
    if let (Some(report), true, Place::Directory) = (args.telling.report(), args.delete, &destination) {
        keep_clear(report, &args.dst).map_err(|error| ended(&error))?;
    }
    let (telling, tally) = (Telling::new(&args.telling, args.dry_run)?, Tally::default());
    let job = || match (&source, &destination) {
        (Place::Directory, Place::Directory) => {
            migrate(&args.src, &args.dst, &options, &tally, &telling, interrupt.flag())
        }
        (Place::Directory, Place::Bucket(bucket)) => {
            upload(&args.src, bucket, &options, &tally, &telling, interrupt.flag())
        }
        (Place::Bucket(bucket), Place::Directory) => {
            download(bucket, &args.dst, (&options, args.owners), &tally, &telling, interrupt.flag())
        }
        (Place::Bucket(from), Place::Bucket(to)) => copy(from, to, &options, &tally, &telling, interrupt.flag()),
    };
    let end = telling.during(&tally, job).map_err(|error| ended(&error))?;
    let totals = tally.totals();
    let text = human(&totals, args.dry_run);
    telling.finish(&Result { totals, interrupted: end.interrupted, continued: end.resumed }, &text)?;
    if end.interrupted {
        return Err(CliError::new(Exit::Interrupted, "interrupted; the same command goes on from here"));
    }
    Ok(if totals.is_complete() { Exit::Ok } else { Exit::SomeFailed })
}
