//! `sifaka mirror`: file-level replication on Lustre.

use super::mirror_follow::{self, FollowArgs};
use crate::exit::{CliError, Exit, Outcome};
use crate::lustre::{Crew, CrewArgs, Filesystem, Verb};
use crate::names::FilesArgs;
use ::lustre::mirrors::{Target, Which, extend, resync, split, verify};
use ::lustre::pool_osts;

/// `sifaka mirror …`.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum MirrorCommand {
    /// See to it that files have a mirror in a pool, or on certain OSTs
    Extend(ExtendArgs),
    /// Copy what files have now to those of their mirrors that are out of date
    Resync(ResyncArgs),
    /// Compare the mirrors of files that count as being in sync
    Verify(VerifyArgs),
    /// Remove one mirror of files, if another one has all their content
    Split(SplitArgs),
}

#[derive(clap::Args, Debug)]
pub(crate) struct ExtendArgs {
    #[command(flatten)]
    crew: CrewArgs,
    /// The pool the new mirror is to be in
    #[arg(short, long, value_name = "NAME", required_unless_present = "osts")]
    pool: Option<String>,
    /// The OSTs of the new mirror, by their indexes: a stripe on each
    #[arg(short, long, value_name = "INDEX,…", value_delimiter = ',', conflicts_with_all = ["pool", "stripe_count"])]
    osts: Vec<u32>,
    /// Over how many OSTs of the pool [default: the filesystem's]
    #[arg(short = 'c', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=2000))]
    stripe_count: Option<u32>,
    /// Bytes a stripe, a multiple of 64 KiB [default: the filesystem's]
    #[arg(short = 'S', long, value_name = "SIZE", value_parser = stripe_size)]
    stripe_size: Option<u64>,
    /// Make a mirror also of files that have one there
    #[arg(long)]
    another: bool,
    #[command(flatten)]
    files: FilesArgs,
}

#[derive(clap::Args, Debug)]
pub(crate) struct ResyncArgs {
    #[command(flatten)]
    crew: CrewArgs,
    #[command(flatten)]
    follow: FollowArgs,
    #[command(flatten)]
    files: FilesArgs,
}

#[derive(clap::Args, Debug)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    crew: CrewArgs,
    #[command(flatten)]
    files: FilesArgs,
}

#[derive(clap::Args, Debug)]
pub(crate) struct SplitArgs {
    #[command(flatten)]
    crew: CrewArgs,
    /// The id of the mirror that goes, as `lfs getstripe` shows it
    #[arg(short, long, value_name = "ID", required_unless_present = "pool", value_parser = clap::value_parser!(u32).range(1..))]
    mirror: Option<u32>,
    /// The pool in which the mirror that goes lies
    #[arg(short, long, value_name = "NAME", conflicts_with = "mirror")]
    pool: Option<String>,
    #[command(flatten)]
    files: FilesArgs,
}

fn stripe_size(text: &str) -> Result<u64, String> {
    let size = config::parse_size(text).filter(|size| *size > 0 && size.is_multiple_of(64 << 10) && *size < 4 << 30);
    size.ok_or_else(|| "expected a multiple of 64KiB, below 4GiB, such as 4MiB".to_owned())
}

pub(crate) fn run(command: MirrorCommand) -> Outcome {
    match command {
        MirrorCommand::Extend(args) => run_extend(args),
        MirrorCommand::Resync(ResyncArgs { crew, follow, files }) if follow.is_wanted() => {
            let jobs = crew.jobs.get();
            // Files in use are tried again in later rounds.
            let crew = Crew::new(&CrewArgs { tries: 1, ..crew }, Verb::Resync)?;
            mirror_follow::run(&follow, files.fs.as_deref(), jobs, crew)
        }
        MirrorCommand::Resync(ResyncArgs { crew, files, .. }) => {
            Crew::new(&crew, Verb::Resync)?.run(files, |_| Ok(()), |work, path, ()| resync(work, path))
        }
        MirrorCommand::Verify(VerifyArgs { crew, files }) => {
            Crew::new(&crew, Verb::Verify)?.run(files, |_| Ok(()), |work, path, ()| verify(work, path))
        }
        MirrorCommand::Split(args) => run_split(args),
    }
}

fn run_extend(args: ExtendArgs) -> Outcome {
    let ExtendArgs { crew, pool, osts, stripe_count, stripe_size, another, files } = args;
    if let Some((at, twice)) = osts.iter().enumerate().find(|(at, ost)| osts.iter().skip(at + 1).any(|o| o == *ost)) {
        return Err(CliError::new(Exit::Usage, format!("--osts names OST {twice} twice (first in place {})", at + 1)));
    }
    let target = |filesystem: &Filesystem| {
        let osts = match &pool {
            Some(pool) => members(filesystem, pool)?,
            None => osts.clone(),
        };
        Ok(Target { pool: pool.clone(), osts, stripe_count, stripe_size, another })
    };
    Crew::new(&crew, Verb::Extend)?.run(files, target, extend)
}

fn run_split(args: SplitArgs) -> Outcome {
    let SplitArgs { crew, mirror, pool, files } = args;
    let which = |filesystem: &Filesystem| match (mirror, &pool) {
        (Some(id), _) => Ok(Which::Id(id)),
        (None, Some(pool)) => Ok(Which::Pool { name: pool.clone(), osts: members(filesystem, pool)? }),
        (None, None) => Err("neither --mirror nor --pool is given".to_owned()),
    };
    Crew::new(&crew, Verb::Split)?.run(files, which, split)
}

fn members(filesystem: &Filesystem, pool: &str) -> Result<Vec<u32>, String> {
    pool_osts(filesystem.library(), filesystem.top(), pool).map_err(|error| error.to_string())
}
