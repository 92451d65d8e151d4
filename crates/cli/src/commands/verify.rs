//! `sifaka verify`: two trees compared, each of which may be in a bucket, or a tree with what an archive holds for it (`verify_archive`).

use super::verify_archive;
use crate::archives::ArchiveArgs;
use crate::bulk::{End, FilterArgs, Interrupt, ReachArgs, Telling, TellingArgs, ended};
use crate::exit::{CliError, Exit, Outcome};
use crate::render::units::bytes;
use crate::render::verified::human;
use jobs::buckets::{verify_buckets, verify_tree};
use jobs::verify::{Ignore, Options, Tally, Totals, verify};
use serde::Serialize;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};

#[derive(clap::Args, Debug)]
#[command(
    after_help = "Exit code 6: the trees differ; 1: no difference was found, but something could not be read, or changed \
each time that it was compared.\n\nWithout --content no file is opened, and none is restored. With --archive, released files are not opened with --content, either: their objects \
are read."
)]
pub(crate) struct VerifyArgs {
    /// The first directory, or a bucket's URL
    pub(super) a: PathBuf,
    /// The directory that is compared with it, or a bucket's URL
    #[arg(required_unless_present = "id", conflicts_with = "id")]
    b: Option<PathBuf>,
    #[command(flatten)]
    pub(super) archive: ArchiveArgs,
    /// Read what both have, past the page cache, and compare it
    #[arg(long)]
    pub(super) content: bool,
    /// Do not compare these
    #[arg(long, value_name = "WHAT,…", value_delimiter = ',')]
    pub(super) ignore: Vec<Ignored>,
    /// Read so many bytes of content a second at most in each tree, such as 100MB/s
    #[arg(short, long, visible_alias = "bwlimit", value_name = "RATE", value_parser = crate::lustre::rate, requires = "content")]
    pub(super) bandwidth_limit: Option<NonZeroU64>,
    /// Threads [default: adapted to what is fastest]
    #[arg(short, long, value_name = "N")]
    pub(super) jobs: Option<NonZeroUsize>,
    /// Enter other filesystems that are mounted below A and B
    #[arg(long, conflicts_with = "id")]
    cross_filesystems: bool,
    #[command(flatten)]
    pub(super) filters: FilterArgs,
    #[command(flatten)]
    reach: ReachArgs,
    #[command(flatten)]
    pub(super) telling: TellingArgs,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ignored {
    /// Times of change
    Times,
    /// Users and groups
    Owner,
    /// Permissions
    Mode,
    /// Extended attributes, ACLs among them
    Xattrs,
    /// Where files were when they were archived (with --archive)
    Path,
}

/// The totals for programs.
#[derive(Serialize)]
struct Result {
    #[serde(flatten)]
    totals: Totals,
    interrupted: bool,
}

impl VerifyArgs {
    pub(super) fn ignores(&self, what: Ignored) -> bool {
        self.ignore.contains(&what)
    }
}

pub(crate) fn run(config_file: &Path, args: &VerifyArgs) -> Outcome {
    let Some(b) = &args.b else {
        if args.reach.is_given() {
            let why = "with --archive, the configuration says where the archive is: no --endpoint, --region, --profile and --account";
            return Err(CliError::new(Exit::Usage, why));
        }
        return verify_archive::run(config_file, args);
    };
    // Before anything has threads.
    let interrupt = Interrupt::on_signals()?;
    let ends = (args.reach.source(config_file, &args.a)?, args.reach.source(config_file, b)?);
    let ignores = |what| args.ignores(what);
    let options = Options {
        content: args.content,
        ignore: Ignore {
            times: ignores(Ignored::Times),
            owner: ignores(Ignored::Owner),
            mode: ignores(Ignored::Mode),
            attributes: ignores(Ignored::Xattrs),
        },
        cross: args.cross_filesystems,
        filter: args.filters.filter()?,
        limit: args.bandwidth_limit,
        threads: args.jobs.map(NonZeroUsize::get),
    };
    // Each directory that is being worked on takes two descriptors.
    sys::process::raise_nofile_limit();
    let (telling, tally) = (Telling::new(&args.telling, false)?, Tally::default());
    let far = || {
        let totals = tally.totals();
        let (seen, read) = (totals.seen(), totals.bytes);
        let rate = bytes(telling.per_second(read));
        format!("{seen} entries ({}/s), {} read ({rate}/s)", telling.per_second(seen), bytes(read))
    };
    let job = || match &ends {
        (End::Directory, End::Directory) => verify(&args.a, b, &options, &tally, &telling, interrupt.flag()),
        (End::Directory, End::Bucket(bucket)) => {
            verify_tree((&args.a, bucket, true), &options, &tally, &telling, interrupt.flag())
        }
        (End::Bucket(bucket), End::Directory) => {
            verify_tree((b, bucket, false), &options, &tally, &telling, interrupt.flag())
        }
        (End::Bucket(one), End::Bucket(other)) => {
            verify_buckets((one, other), &options, &tally, &telling, interrupt.flag())
        }
    };
    let complete = telling.saying(far, job).map_err(|error| ended(&error))?;
    let totals = tally.totals();
    let text = human(&totals, args.content);
    telling.finish(&Result { totals, interrupted: !complete }, &text)?;
    if !complete {
        return Err(CliError::new(Exit::Interrupted, "interrupted: not all was compared"));
    }
    Ok(match (totals.differ(), totals.is_complete()) {
        (true, _) => Exit::Problems,
        (false, true) => Exit::Ok,
        (false, false) => Exit::SomeFailed,
    })
}
