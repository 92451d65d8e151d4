//! `sifaka scrub`: the archive read through.

use crate::archives::{self, ArchiveArgs};
use crate::exit::{CliError, Exit, Outcome};
use crate::mend::{Mended, Noting, mend};
use crate::render::scrubbed::{human, mended};
use crate::watch::Told;
use config::ClientDevice;
use maintenance::scrub::{Counts, Options, scrub};
use model::FileHandle;
use serde::Serialize;
use std::collections::BTreeMap;
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
    /// Objects that are read at one time [default: 2, for a bucket 8]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Have the agent make what is damaged or gone anew: from the file, if it is resident, or from a copy in another archive
    #[arg(long, conflicts_with = "root")]
    repair: bool,
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

/// The totals, and what was repaired if that was asked for.
#[derive(Serialize)]
struct Totals {
    #[serde(flatten)]
    counts: Counts,
    #[serde(skip_serializing_if = "Option::is_none")]
    repair: Option<Mended>,
}

pub(crate) fn run(socket: &Path, config_file: &Path, args: &ScrubArgs) -> Outcome {
    let mount_point = args.repair.then(|| place_to_repair(config_file)).transpose()?;
    let archive = archives::open(&args.archive, config_file)?;
    let archive_id = archive.id;
    let state = match (&args.state, &args.archive.root) {
        (Some(path), _) => Some(path.clone()),
        (None, Some(_)) => None,
        (None, None) => {
            let directory = archives::agent_config(config_file)?.state_dir;
            Some(directory.join(format!("scrub-{archive_id}.json")))
        }
    };
    let options = Options {
        archive_id,
        bytes_per_second: args.rate,
        state,
        restart: args.restart,
        threads: archive.threads(args.threads, (2, 8)),
    };
    let told = Told::new(args.json, args.quiet);
    let noting = Noting::new(&told);
    let counts = scrub(&*archive.holdings, &options, &noting)
        .map_err(|error| CliError::new(Exit::SomeFailed, error.to_string()))?;
    let damaged = noting.into_damaged();
    let repair = mount_point.map(|mount_point| repair(socket, &mount_point, archive_id, damaged)).transpose()?;
    // What lies beside objects (packs' own structures, manifests) is mended by nobody.
    let bad = counts.damaged + counts.lost;
    let others = counts.damaged_packs + counts.bad_manifests + counts.failed;
    let is_mended = repair.is_some_and(|done| done.failed == 0 && others == 0 && done.repaired + done.unnamed >= bad);
    let text = human(&counts) + &repair.as_ref().map(mended).unwrap_or_default();
    told.finish(&Totals { counts, repair }, &text)?;
    Ok(if counts.is_sound() || is_mended { Exit::Ok } else { Exit::Problems })
}

/// Who mends there.
const ON_LUSTRE: &str = ": on Lustre, `sifaka scrub` without --repair names the damaged objects, `sifaka status --json PATH` tells which object a file \
                         names, and `sifaka archive --force` archives a file anew that is not released";

/// Where files are repaired: looked at before the archive is read, which takes hours.
fn place_to_repair(config_file: &Path) -> Result<PathBuf, CliError> {
    let ClientDevice::Local(mount_point) = archives::agent_config(config_file)?.client_device else {
        let why = format!("`sifaka scrub --repair` is for local filesystems{ON_LUSTRE}");
        return Err(CliError::new(Exit::NotHere, why));
    };
    crate::lustre::refuse_saying("scrub --repair", &mount_point, ON_LUSTRE)?;
    Ok(mount_point)
}

fn repair(
    socket: &Path,
    mount_point: &Path,
    archive_id: u32,
    damaged: BTreeMap<String, (FileHandle, Vec<u8>)>,
) -> Result<Mended, CliError> {
    let filesystem = sys::mounts::filesystem_of(mount_point)
        .map_err(|why| CliError::new(Exit::NotHere, format!("{}: {why}", mount_point.display())))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|why| CliError::new(Exit::SomeFailed, format!("cannot start: {why}")))?;
    runtime.block_on(mend(socket, mount_point, filesystem.fsid, archive_id, damaged))
}
