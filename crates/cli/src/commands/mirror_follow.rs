//! `sifaka mirror resync --follow`: what becomes stale is brought up to date, as the changelog of an MDT tells.
//!
//! A record is committed when every file of it and of those before is in sync, has no mirrors or is gone. Files that are in use are tried again
//! for a while; what is not known after a crash is in the changelog still.

use crate::exit::{CliError, Exit, Outcome};
use crate::lustre::{Crew, Filesystem};
use crate::output::complain;
use ::lustre::changelog::{Event, Feed, FeedError, written};
use ::lustre::mirrors::resync;
use ::lustre::{Outcome as Came, Trouble};
use model::Fid;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Files that wait for being tried: while there are more, no records are read.
const MAX_WAITING: usize = 1 << 16;
/// How often the log is looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// Between tries of a file that is in use: at first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A file that is in use for longer does not hold up the changelog any more. One that is written to is told of once more when it is closed.
const GIVE_UP: Duration = Duration::from_secs(3600);

#[derive(clap::Args, Debug, Clone)]
pub(crate) struct FollowArgs {
    /// Go on resyncing what becomes stale, as the changelog of this MDT tells, such as lustre-MDT0000; needs --user and --fs
    #[arg(long, value_name = "MDT", requires_all = ["user", "fs"], conflicts_with_all = ["paths", "null", "dry_run"])]
    follow: Option<String>,
    /// The changelog's reader, as `lctl changelog_register` has named it
    #[arg(long, value_name = "ID", requires = "follow")]
    user: Option<String>,
    /// Where to keep how far the changelog is read [default: changelog-MDT-USER in /var/lib/sifaka]
    #[arg(long, value_name = "FILE", requires = "follow")]
    position: Option<PathBuf>,
    /// End when everything in the changelog is done
    #[arg(long, requires = "follow")]
    once: bool,
}

impl FollowArgs {
    pub(crate) fn is_wanted(&self) -> bool {
        self.follow.is_some()
    }
}

/// A file that is to be looked at.
struct Waiting {
    /// The first record that is not done because of it.
    index: u64,
    since: Instant,
    next_try: Instant,
    pause: Duration,
}

/// How a try came out.
enum Tried {
    Done,
    Busy,
}

struct Follower<'a> {
    crew: &'a Crew,
    filesystem: &'a Filesystem,
    waiting: HashMap<Fid, Waiting>,
    /// The last record that was read.
    seen: u64,
}

pub(crate) fn run(args: &FollowArgs, fs: Option<&Path>, jobs: usize, crew: Crew) -> Outcome {
    let (Some(mdt), Some(user), Some(fs)) = (&args.follow, &args.user, fs) else {
        return Err(CliError::new(Exit::Usage, "--follow needs --user and --fs"));
    };
    let filesystem = match Filesystem::of(fs) {
        Ok(Some(filesystem)) => filesystem,
        Ok(None) => return Err(CliError::new(Exit::NotHere, format!("{} is not on Lustre", fs.display()))),
        Err(why) => return Err(CliError::new(Exit::NotHere, format!("{}: {why}", fs.display()))),
    };
    let default = || Path::new("/var/lib/sifaka").join(format!("changelog-{}-{}", plain(mdt), plain(user)));
    let position = args.position.clone().unwrap_or_else(default);
    let failed = |error: FeedError| CliError::new(Exit::NotHere, error.to_string());
    let mut feed = Feed::open(filesystem.library(), mdt, user, &position, PERIOD).map_err(failed)?;
    let mut follower =
        Follower { crew: &crew, filesystem: &filesystem, waiting: HashMap::new(), seen: feed.committed() };
    loop {
        let at_end = follower.read(&mut feed, args.once)?;
        follower.round(jobs);
        match feed.commit(follower.done()) {
            // Cleared with the next commit.
            Err(error @ FeedError::Clear { .. }) if !args.once => complain(&error.to_string()),
            other => other.map_err(failed)?,
        }
        if args.once && at_end && follower.waiting.is_empty() {
            break;
        }
    }
    crew.finish_plainly()
}

/// For a file's name.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

impl Follower<'_> {
    /// Takes in one event. Whether there is nothing more in the log.
    fn read(&mut self, feed: &mut Feed, once: bool) -> Result<bool, CliError> {
        let now = Instant::now();
        let next_try = self.waiting.values().map(|waiting| waiting.next_try).min();
        let patience = next_try.map_or(PERIOD, |at| at.saturating_duration_since(now).min(PERIOD));
        if self.waiting.len() >= MAX_WAITING {
            std::thread::sleep(patience);
            return Ok(false);
        }
        match feed.next(patience) {
            Some(Event::Records(records)) => {
                for record in &records {
                    self.seen = self.seen.max(record.index);
                    if let Some(fid) = written(record) {
                        self.wait_for(fid, record.index);
                    }
                }
                Ok(false)
            }
            Some(Event::End) => Ok(true),
            Some(Event::Gap { after, next }) => {
                complain(&format!(
                    "the changelog has nothing between records {after} and {next}: `sifaka mirror resync` of the \
                     whole filesystem finds what became stale meanwhile"
                ));
                Ok(false)
            }
            Some(Event::Garbage(why)) => {
                complain(&format!("a changelog record is passed by: {why}"));
                Ok(false)
            }
            Some(Event::Trouble(error)) if once => {
                Err(CliError::new(Exit::NotHere, format!("the changelog cannot be read: {error}")))
            }
            Some(Event::Trouble(error)) => {
                complain(&format!("the changelog cannot be read, and is tried again: {error}"));
                Ok(false)
            }
            None => Ok(false),
        }
    }

    fn wait_for(&mut self, fid: Fid, index: u64) {
        let now = Instant::now();
        let new = || Waiting { index, since: now, next_try: now, pause: FIRST_PAUSE };
        self.waiting.entry(fid).or_insert_with(new);
    }

    /// Tries what is due, several files at a time.
    fn round(&mut self, jobs: usize) {
        let now = Instant::now();
        let due = self.waiting.iter().filter(|(_, waiting)| waiting.next_try <= now);
        let due: Vec<Fid> = due.map(|(fid, _)| *fid).collect();
        let (queue, results) = (Mutex::new(due.into_iter()), Mutex::new(Vec::new()));
        let (crew, filesystem) = (self.crew, self.filesystem);
        let worker = || {
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(fid) = next else { return };
                let tried = attempt(crew, filesystem, fid);
                results.lock().unwrap_or_else(PoisonError::into_inner).push((fid, tried));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..jobs {
                // Without more threads it takes longer.
                if std::thread::Builder::new().spawn_scoped(scope, worker).is_err() {
                    break;
                }
            }
            worker();
        });
        for (fid, tried) in results.into_inner().unwrap_or_else(PoisonError::into_inner) {
            self.note(fid, &tried);
        }
    }

    fn note(&mut self, fid: Fid, tried: &Tried) {
        let Some(waiting) = self.waiting.get_mut(&fid) else { return };
        if matches!(tried, Tried::Done) {
            self.waiting.remove(&fid);
        } else if waiting.since.elapsed() > GIVE_UP {
            self.waiting.remove(&fid);
            self.crew.tell(&shown(self.filesystem, fid), Ok(Came::Busy { tries: 1 }));
        } else {
            waiting.next_try = Instant::now() + waiting.pause;
            waiting.pause = waiting.pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    /// The record up to which everything is done.
    fn done(&self) -> u64 {
        self.waiting.values().map(|waiting| waiting.index.saturating_sub(1)).min().unwrap_or(self.seen)
    }
}

fn attempt(crew: &Crew, filesystem: &Filesystem, fid: Fid) -> Tried {
    match resync(crew.work(), &filesystem.path_by_fid(fid)) {
        Ok(Came::Busy { .. }) => Tried::Busy,
        // Most records are of files without mirrors.
        Ok(Came::Already(_) | Came::Unsuited(_)) => Tried::Done,
        Err(Trouble::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Tried::Done,
        Err(trouble) => {
            // Told, and left to a resync of the file: the changelog is not held up by what fails.
            crew.tell(&shown(filesystem, fid), Err(trouble.to_string()));
            Tried::Done
        }
        Ok(outcome) => {
            crew.tell(&shown(filesystem, fid), Ok(outcome));
            Tried::Done
        }
    }
}

/// A path of the file, if it has one.
fn shown(filesystem: &Filesystem, fid: Fid) -> PathBuf {
    filesystem.path_of(fid).ok().flatten().unwrap_or_else(|| filesystem.path_by_fid(fid))
}
