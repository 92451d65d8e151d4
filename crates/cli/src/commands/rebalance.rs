//! `sifaka rebalance`: files moved until the OSTs of a pool, or of a filesystem, are equally full; or with `--archive`, objects until an archive's roots are.

use super::rebalance_archive;
use crate::exit::{CliError, Exit, Outcome};
use crate::lustre::{Crew, CrewArgs, Filesystem, LustreFile, Verb, archive_again};
use crate::names::FilesArgs;
use crate::output::complain;
use crate::render::crewed;
use ::lustre::rebalance::{Candidate, Level, Move, Plan, Survey, candidate, look_again, migrate, survey};
use ::lustre::{Outcome as Came, Trouble, Work, pool_osts};
use serde::Serialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(clap::Args, Debug)]
pub(crate) struct RebalanceArgs {
    #[command(flatten)]
    crew: CrewArgs,
    /// Move the objects of this archive between its roots, and no files on Lustre
    #[arg(long, visible_alias = "id", value_name = "ID", value_parser = clap::value_parser!(u32).range(1..), conflicts_with_all = ["pool", "archived", "paths", "null", "jobs", "tries"])]
    archive: Option<u32>,
    /// With --archive: empty this root, which takes nothing new from now on
    #[arg(long, value_name = "DIR", requires = "archive", conflicts_with = "within")]
    drain: Option<PathBuf>,
    /// Only the OSTs of this pool [default: all]
    #[arg(short, long, value_name = "NAME")]
    pool: Option<String>,
    /// How far from the mean of all an OST, or a root, may be in the end
    #[arg(short, long, value_name = "PERCENT", default_value = "5%", value_parser = percent)]
    within: f64,
    /// Move archived files too, and have them archived again: Lustre does not release them before
    #[arg(long)]
    archived: bool,
    /// With --fs and without paths: all files of the filesystem
    #[command(flatten)]
    files: FilesArgs,
}

/// So many OSTs are looked at for a file at most, one after the other found to be fuller than thought.
const LOOKS: usize = 16;

/// A part of 1.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches('%').trim_end().parse::<f64>().ok();
    let number = number.filter(|number| (0.1..=50.0).contains(number));
    number.map(|number| number / 100.0).ok_or_else(|| "expected from 0.1% to 50%".to_owned())
}

/// What is the same for all files.
struct Balance<'a> {
    filesystem: &'a Arc<Filesystem>,
    plan: Mutex<Plan>,
    /// The OSTs of pools that files were made in.
    pools: Mutex<HashMap<String, Arc<Vec<u32>>>>,
    archived: bool,
    is_dry: bool,
}

#[derive(Serialize)]
struct Report {
    balanced: bool,
    osts: Vec<OstReport>,
}

/// Levels in parts of 1.
#[derive(Serialize)]
struct OstReport {
    ost: u32,
    before: f64,
    after: f64,
}

pub(crate) fn run(config_file: &Path, args: RebalanceArgs) -> Outcome {
    let RebalanceArgs { crew, archive, drain, pool, within, archived, mut files } = args;
    if let Some(id) = archive {
        return rebalance_archive::run(config_file, id, drain.as_deref(), within, &crew);
    }
    let filesystem = filesystem(&files)?;
    if files.is_empty() {
        files.paths.push(filesystem.top().to_owned());
    }
    let not_here = |error: ::lustre::PoolError| CliError::new(Exit::NotHere, error.to_string());
    let Survey { levels, left_out } =
        survey(filesystem.library(), filesystem.top(), pool.as_deref()).map_err(not_here)?;
    for ost in left_out {
        complain(&format!("OST {ost} takes no new objects, and is left out"));
    }
    for ost in levels.iter().filter(|level| !level.is_open).map(|level| level.ost) {
        complain(&format!("OST {ost} takes no new objects: files are moved away from it, and none to it"));
    }
    if levels.len() < 2 {
        return Err(CliError::new(Exit::NotHere, "there are not two OSTs to move files between"));
    }
    let balance = Balance {
        filesystem: &filesystem,
        plan: Mutex::new(Plan::new(&levels, within)),
        pools: Mutex::default(),
        archived,
        is_dry: crew.dry_run,
    };
    let crew = Crew::new(&crew, Verb::Rebalance)?;
    let only_here = |found: &Filesystem| match found.top() == filesystem.top() {
        true => Ok(()),
        false => Err("is on another filesystem: rebalance that by itself".to_owned()),
    };
    crew.run_until(files, only_here, |work, file, ()| balance.file(work, file), || balance.plan().is_balanced())?;
    let plan = balance.plan.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (after, balanced) = (plan.levels(), plan.is_balanced());
    let text = crew.human() + &crewed::levels(&levels, &after) + crewed::verdict(balanced);
    let exit = crew.finish(Report { balanced, osts: reports(&levels, &after) }, &text)?;
    Ok(if exit == Exit::Ok && !balanced { Exit::SomeFailed } else { exit })
}

fn reports(before: &[Level], after: &[Level]) -> Vec<OstReport> {
    let pairs = before.iter().zip(after);
    pairs
        .map(|(before, after)| OstReport { ost: before.ost, before: before.fraction(), after: after.fraction() })
        .collect()
}

/// The one that is meant: that of `--fs`, else that of the first path.
fn filesystem(files: &FilesArgs) -> Result<Arc<Filesystem>, CliError> {
    let Some(path) = files.fs.as_ref().or(files.paths.first()) else {
        return Err(CliError::new(Exit::Usage, "say which filesystem is meant: --fs MOUNT, or paths on it"));
    };
    let directory: PathBuf = if path.is_dir() {
        path.clone()
    } else {
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
    };
    let shown = crate::output::escaped_path(path);
    match Filesystem::of(&directory) {
        Ok(Some(filesystem)) => Ok(filesystem),
        Ok(None) => Err(CliError::new(Exit::NotHere, format!("{shown} is not on Lustre"))),
        Err(why) => Err(CliError::new(Exit::NotHere, format!("{shown}: {why}"))),
    }
}

impl Balance<'_> {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, work: &Work, file: &LustreFile) -> Result<Came, Trouble> {
        let found = match candidate(work, &file.path)? {
            Ok(found) => found,
            Err(outcome) => return Ok(outcome),
        };
        let Some(planned) = self.planned(&found) else { return Ok(Came::Already("need not be moved")) };
        if found.is_archived && !self.archived {
            self.plan().undo(planned);
            return Ok(Came::Unsuited("is archived: it would have to be archived again (--archived)"));
        }
        let came = migrate(work, &file.path, &found, planned);
        if !matches!(came, Ok(Came::Done { .. } | Came::Would { .. })) {
            self.plan().undo(planned);
        } else if !self.is_dry
            && let Some(why) = archive_again(self.filesystem, file)
        {
            let source = std::io::Error::other(why);
            return Err(Trouble::Io { doing: "have archived again", path: file.shown.clone(), source });
        }
        came
    }

    /// Where the file's part goes has been looked at just now: other people write, too.
    fn planned(&self, found: &Candidate) -> Option<Move> {
        let stripes = found.stripes();
        let pool = self.osts_of(found.pool());
        let allowed = |ost| pool.as_ref().is_none_or(|osts| osts.contains(&ost));
        let mut planned = self.plan().offer(&stripes, allowed)?;
        for _ in 0..LOOKS {
            let now = look_again(self.filesystem.library(), self.filesystem.top(), planned.to);
            let mut plan = self.plan();
            plan.undo(planned);
            // What does not answer takes nothing.
            plan.heard(now.unwrap_or(Level { ost: planned.to, used: 0, capacity: 0, is_open: false }));
            let again = plan.offer(&stripes, allowed)?;
            if again == planned {
                return Some(planned);
            }
            planned = again;
        }
        self.plan().undo(planned);
        None
    }

    /// Those of a pool; `None` where there is none.
    fn osts_of(&self, pool: &str) -> Option<Arc<Vec<u32>>> {
        if pool.is_empty() {
            return None;
        }
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let found = pools.entry(pool.to_owned()).or_insert_with(|| {
            // A pool that is gone has no OSTs to move to.
            Arc::new(pool_osts(self.filesystem.library(), self.filesystem.top(), pool).unwrap_or_default())
        });
        Some(Arc::clone(found))
    }
}
