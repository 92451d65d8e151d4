//! `sifaka rebuild`: a lost filesystem's files, from the archive alone.

use crate::archives::{self, ArchiveArgs};
use crate::exit::{CliError, Exit, Outcome};
use crate::render;
use crate::watch::Told;
use maintenance::rebuild::{Options, rebuild};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What `rebuild` and `import --tree` have in common.
#[derive(clap::Args, Debug)]
pub(crate) struct TreeArgs {
    /// Give files whose path or manifest is lost a place in this directory, under the ids of their objects
    #[arg(long, value_name = "NAME")]
    orphans: Option<PathBuf>,
    /// Threads that read manifests and make files [default: 4, where each file is a request to a bucket 32]
    #[arg(long, value_name = "N")]
    pub(super) threads: Option<NonZeroUsize>,
}

#[derive(clap::Args, Debug)]
pub(crate) struct RebuildArgs {
    #[command(flatten)]
    archive: ArchiveArgs,
    #[command(flatten)]
    tree: TreeArgs,
    /// The root of the filesystem to be rebuilt
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Print what would be done, and do nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Print JSON: an object a finding, one a line, and the totals last
    #[arg(long)]
    json: bool,
    /// Print only what is wrong
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
}

pub(crate) fn run(config_file: &Path, args: &RebuildArgs) -> Outcome {
    crate::lustre::refuse("rebuild", &args.dir)?;
    let wanted = Wanted {
        prefix: Vec::new(),
        shared: false,
        into: &args.dir,
        dry_run: args.dry_run,
        json: args.json,
        quiet: args.quiet,
    };
    tree(config_file, &args.archive, &args.tree, &wanted)
}

/// A tree that is to be made.
pub(crate) struct Wanted<'a> {
    pub(crate) prefix: Vec<u8>,
    /// Beside a filesystem that is still there, perhaps.
    pub(crate) shared: bool,
    pub(crate) into: &'a Path,
    pub(crate) dry_run: bool,
    pub(crate) json: bool,
    pub(crate) quiet: bool,
}

/// Makes files of all manifests below a prefix.
pub(crate) fn tree(config_file: &Path, archive: &ArchiveArgs, args: &TreeArgs, wanted: &Wanted<'_>) -> Outcome {
    let archive = archives::open(archive, config_file)?;
    let options = Options {
        into: wanted.into.to_owned(),
        archive_id: archive.id,
        prefix: wanted.prefix.clone(),
        shared: wanted.shared,
        dry_run: wanted.dry_run,
        orphans: args.orphans.as_deref().map(relative).transpose()?,
        threads: archive.threads(args.threads, (4, 32)),
    };
    let told = Told::new(wanted.json, wanted.quiet);
    let counts = rebuild(&*archive.holdings, &options, &told)
        .map_err(|error| CliError::new(Exit::SomeFailed, error.to_string()))?;
    told.finish(&counts, &render::rebuilt::human(&counts, wanted.dry_run))?;
    if !wanted.dry_run && counts.files > 0 {
        super::warn_if_unguarded(wanted.into);
    }
    Ok(if counts.is_whole() { Exit::Ok } else { Exit::Problems })
}

/// A path below the directory that is rebuilt, without slashes at its ends.
pub(crate) fn relative(path: &Path) -> Result<Vec<u8>, CliError> {
    let mut out = Vec::new();
    for component in path.components() {
        match component {
            std::path::Component::Normal(name) => {
                if !out.is_empty() {
                    out.push(b'/');
                }
                out.extend(name.as_bytes());
            }
            std::path::Component::RootDir | std::path::Component::CurDir => {}
            std::path::Component::ParentDir | std::path::Component::Prefix(_) => {
                return Err(CliError::new(Exit::Usage, format!("{}: \"..\" has no meaning here", path.display())));
            }
        }
    }
    Ok(out)
}
