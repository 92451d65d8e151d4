//! `sifaka restripe`.

use super::clone::Total;
use crate::exit::{CliError, Exit, Outcome};
use crate::lustre::{self, Filesystem};
use ::lustre::{ALL_OSTS, Striping, Work};
use agent::admin::objects::Made;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(clap::Args, Debug)]
pub(crate) struct RestripeArgs {
    /// Files on Lustre, which are not released; also FIDs, as `[0x200000401:0x1:0x0]`
    #[arg(value_name = "FILE", required = true)]
    paths: Vec<PathBuf>,
    /// Over how many OSTs; -1 for all [default: as now]
    #[arg(long, alias = "stripe_count", value_name = "COUNT", allow_hyphen_values = true, value_parser = count)]
    stripe_count: Option<u32>,
    /// Bytes a stripe, a multiple of 65536 [default: as now]
    #[arg(long, alias = "stripe_size", value_name = "BYTES")]
    stripe_size: Option<u64>,
    /// The pool of OSTs [default: as now]
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    /// The Lustre filesystem that FIDs are of: a path on it
    #[arg(long, env = "SIFAKA_FS", value_name = "MOUNT")]
    fs: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print nothing on success
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
}

fn count(text: &str) -> Result<u32, String> {
    match text {
        "-1" => Ok(ALL_OSTS),
        number => number
            .parse()
            .ok()
            .filter(|count| (1..=MAX_STRIPES).contains(count))
            .ok_or_else(|| format!("expected from 1 to {MAX_STRIPES}, or -1 for all OSTs")),
    }
}

/// `LOV_MAX_STRIPE_COUNT`.
const MAX_STRIPES: u32 = 2000;

/// Tells the thread that copies when the command is interrupted.
struct StopWhenDropped(Arc<Work>);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.stop();
    }
}

pub(crate) async fn run(args: RestripeArgs) -> Outcome {
    let RestripeArgs { paths, stripe_count: count, stripe_size: size, pool, fs, json, quiet } = args;
    if count.is_none() && size.is_none() && pool.is_none() {
        let why = "nothing to change: give --stripe-count, --stripe-size or --pool";
        return Err(CliError::new(Exit::Usage, why));
    }
    if size.is_some_and(|size| size == 0 || !size.is_multiple_of(1 << 16)) {
        return Err(CliError::new(Exit::Usage, "--stripe-size has to be a multiple of 65536"));
    }
    let striping = Striping { count, size, pool };
    let mut total = Total::default();
    for path in paths {
        let path = match lustre::path_meant(path, fs.as_deref()) {
            Ok(path) => path,
            Err((path, why)) => {
                total.problem(&path, &why);
                continue;
            }
        };
        let filesystem = match Filesystem::of_parent(&path) {
            Ok(Some(filesystem)) => filesystem,
            Ok(None) => {
                total.problem(&path, &"is not on Lustre: there are no stripes elsewhere");
                continue;
            }
            Err(why) => {
                total.problem(&path, &why);
                continue;
            }
        };
        let work = Arc::new(Work::new(filesystem.library()).trying(1));
        let _stop = StopWhenDropped(Arc::clone(&work));
        let striping = striping.clone();
        let done = lustre::off_thread(move || lustre::restripe(&filesystem, &path, &striping, &work)).await?;
        total.add(match done {
            Ok(()) => Made { made: 1, refused: Vec::new() },
            Err(refused) => Made { made: 0, refused: vec![refused] },
        });
    }
    total.end("restriped", json, quiet)
}
