//! `sifaka verify --archive`: a tree compared with what an archive holds for it.

use super::verify::{Ignored, VerifyArgs};
use crate::archives;
use crate::bulk::{Interrupt, Telling};
use crate::exit::{CliError, Exit, Outcome};
use crate::output::escaped_path;
use crate::render::units::bytes;
use crate::render::verified_archive::human;
use config::ClientDevice;
use coordinator::Filesystem;
use jobs::filter::Filter;
use maintenance::verify::{Ignore, Options, Tally, Totals, Wanted, verify};
use serde::Serialize;
use std::path::{Path, PathBuf};
use sys::file::FileStamp;

/// The totals for programs.
#[derive(Serialize)]
struct Result {
    #[serde(flatten)]
    totals: Totals,
    interrupted: bool,
}

/// What the filters leave.
struct Filtered {
    filter: Filter,
    is_all: bool,
}

impl Wanted for Filtered {
    fn is_all(&self) -> bool {
        self.is_all
    }

    fn path(&self, path: &[u8]) -> bool {
        self.filter.wants_path(path, false)
    }

    fn file(&self, stamp: &FileStamp) -> bool {
        self.filter.wants_file(stamp)
    }
}

pub(super) fn run(config_file: &Path, args: &VerifyArgs) -> Outcome {
    let tree = args.a.as_path();
    crate::lustre::refuse_saying("verify --archive", tree, ": on Lustre, `sifaka scrub` reads the archive's objects")?;
    let (fs, queue) = filesystem(config_file, tree)?;
    let archive = archives::open(&args.archive, config_file)?;
    let ignore = Ignore {
        times: args.ignores(Ignored::Times),
        owner: args.ignores(Ignored::Owner),
        mode: args.ignores(Ignored::Mode),
        attributes: args.ignores(Ignored::Xattrs),
        path: args.ignores(Ignored::Path),
    };
    let options = Options {
        archive_id: archive.id,
        queue,
        content: args.content,
        ignore,
        limit: args.bandwidth_limit,
        threads: archive.threads(args.jobs, (4, 16)),
    };
    let wanted = Filtered { filter: args.filters.filter()?, is_all: args.filters.is_empty() };
    sys::process::raise_nofile_limit();
    let interrupt = Interrupt::on_signals()?;
    let (telling, tally) = (Telling::new(&args.telling, false)?, Tally::default());
    let far = || {
        let totals = tally.totals();
        let (seen, read) = (totals.seen(), totals.bytes);
        let rate = bytes(telling.per_second(read));
        format!("{seen} files ({}/s), {} read ({rate}/s)", telling.per_second(seen), bytes(read))
    };
    let job = || verify((&fs, tree), &*archive.holdings, &options, &wanted, (&tally, &telling), interrupt.flag());
    let complete = telling.saying(far, job).map_err(|error| CliError::new(Exit::SomeFailed, error.to_string()))?;
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

/// The filesystem that the tree is in, as the agent sees it if it is the one that it manages, and the agent's queue then. With `--root` there need be no
/// configuration.
fn filesystem(config_file: &Path, tree: &Path) -> std::result::Result<(Filesystem, Option<PathBuf>), CliError> {
    let failed =
        |error: std::io::Error| CliError::new(Exit::NotHere, format!("cannot look at {}: {error}", escaped_path(tree)));
    if !tree.is_dir() {
        let why = format!("{} is no directory; what is compared is what is in one", escaped_path(tree));
        return Err(CliError::new(Exit::Usage, why));
    }
    let own = sys::mounts::filesystem_of(tree).map_err(failed)?;
    if let Ok(config) = archives::agent_config(config_file)
        && let ClientDevice::Local(mount_point) = &config.client_device
        && sys::mounts::filesystem_of(mount_point).is_ok_and(|managed| managed.fsid == own.fsid)
    {
        // The same filesystem by another mount, perhaps: paths in the archive are below this one.
        return Ok((Filesystem::at(mount_point).map_err(failed)?, Some(config.state_dir.join("queue.db"))));
    }
    Ok((Filesystem::at(tree).map_err(failed)?, None))
}
