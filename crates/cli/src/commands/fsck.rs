//! `sifaka fsck`: filesystem, queue and archive compared.

use crate::archives::{self, ArchiveArgs};
use crate::client::Client;
use crate::exit::{CliError, Exit, Outcome};
use crate::render;
use crate::watch::Told;
use crate::wiring;
use agent::admin::api::{FileRef, FilesSet, SetRequest, fsid_text};
use config::ClientDevice;
use coordinator::Filesystem;
use maintenance::fsck::{Directly, Options, SetFlags, fsck};
use model::{FileHandle, HsmFlags};
use std::fs::File;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(clap::Args, Debug)]
pub(crate) struct FsckArgs {
    #[command(flatten)]
    archive: ArchiveArgs,
    /// Put right what can be: remove what nobody names, mark files whose object is gone. Without it, nothing is changed
    #[arg(long)]
    repair: bool,
    /// Tell only, which is what happens without --repair
    #[arg(short = 'n', long, conflicts_with = "repair")]
    dry_run: bool,
    /// Remove what nobody names also when not every file was seen, or when the archive seems to be another filesystem's
    #[arg(long, requires = "repair")]
    force: bool,
    /// Remove also what was archived from another filesystem (such as one that was rebuilt) and is named by no file of this one
    #[arg(long)]
    foreign: bool,
    /// What was stored since then is left alone
    #[arg(long, value_name = "SECONDS", default_value = "3600")]
    min_age: u64,
    /// Threads that walk the filesystem, and then ask the archive [default: 4, for a bucket 16]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Print JSON: an object a finding, one a line, and the totals last
    #[arg(long)]
    json: bool,
    /// Print only what is wrong
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
}

pub(crate) fn run(socket: &Path, config_file: &Path, args: &FsckArgs) -> Outcome {
    let config = archives::agent_config(config_file)?;
    let ClientDevice::Local(mount_point) = &config.client_device else {
        return Err(CliError::new(Exit::NotHere, format!("`sifaka fsck` is for local filesystems{ON_LUSTRE}")));
    };
    // Lustre's attributes do not mean what fsck takes them for: every object would seem to be nobody's.
    crate::lustre::refuse_saying("fsck", mount_point, ON_LUSTRE)?;
    let failed = |error: std::io::Error| {
        CliError::new(Exit::NotHere, format!("cannot look at {}: {error}", mount_point.display()))
    };
    let fs = Filesystem::at(mount_point).map_err(failed)?;
    let archive = archives::open(&args.archive, config_file)?;
    let options = Options {
        archive_id: archive.id,
        queue: config.state_dir.join("queue.db"),
        repair: args.repair,
        force: args.force,
        foreign: args.foreign,
        min_age: Duration::from_secs(args.min_age),
        threads: archive.threads(args.threads, (4, 16)),
    };
    // Held until the end: an agent that starts meanwhile would not know what is done to its files.
    let lock = if args.repair { wiring::lock_unless_running(&config.state_dir)? } else { None };
    let by_agent = ByAgent { socket, fsid: fs.fsid, mount_point };
    let directly = Directly(&fs);
    let flags: &dyn SetFlags = if lock.is_some() { &directly } else { &by_agent };
    let told = Told::new(args.json, args.quiet);
    let result = fsck(&fs, &*archive.holdings, flags, &options, &told);
    let _: Option<File> = lock;
    let report = result.map_err(|error| CliError::new(Exit::SomeFailed, error.to_string()))?;
    told.finish(&report, &render::checked::human(&report))?;
    Ok(if report.is_clean() { Exit::Ok } else { Exit::Problems })
}

/// What does a part of it there.
const ON_LUSTRE: &str = ": on Lustre, `sifaka scrub` reads the archive's objects, and `sifaka status --json PATH` tells which object each file names. \
                         Objects that no file names stay in the archive";

/// The agent holds the locks of its files.
struct ByAgent<'a> {
    socket: &'a Path,
    fsid: [u8; 8],
    mount_point: &'a PathBuf,
}

impl SetFlags for ByAgent<'_> {
    fn set(&self, file: &FileHandle, path: &[u8], set: HsmFlags, clear: HsmFlags) -> Result<(), String> {
        let names = |flags: HsmFlags| flags.names().map(str::to_owned).collect();
        let path = format!("{}/{}", self.mount_point.display(), String::from_utf8_lossy(path));
        let file = FileRef { handle: file.clone(), fsid: fsid_text(self.fsid), path };
        let request = SetRequest { set: names(set), clear: names(clear), archive_id: None, files: vec![file] };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let mut client = Client::new(self.socket);
        let done: FilesSet = runtime
            .block_on(client.post("/v1/files/set", &request))
            .map_err(|error| format!("the agent runs, and it has to do this: {}", error.message()))?;
        done.refused.into_iter().next().map_or(Ok(()), |refused| Err(refused.message))
    }
}
