//! `sifaka mirror resync --follow`: what becomes stale is brought up to date, as the changelog of an MDT tells.
//!
//! A record is committed when every file of it and of those before is in sync, has no mirrors or is gone. Files that are in use or fail are tried again
//! for a while; what is not known after a crash is in the changelog still. The log is read and committed beside the work on files: one that
//! takes long holds up no other.

use crate::commands::mirror_waiting::{Tried, Waiting};
use crate::exit::{CliError, Exit};
use crate::lustre::{Crew, Filesystem};
use crate::output::{complain, escaped};
use ::lustre::changelog::{Event, Feed, FeedError, written};
use ::lustre::mirrors::{may_be_stale, resync};
use ::lustre::{Outcome as Came, Trouble, fsname};
use model::Fid;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Files that wait for being tried: while there are more, no records are read.
const MAX_WAITING: usize = 1 << 16;
/// How often the log is looked at.
const PERIOD: Duration = Duration::from_secs(1);

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

/// What the threads share.
struct Follower<'a> {
    crew: &'a Crew,
    filesystem: &'a Filesystem,
    /// The kernel's number of the filesystem.
    device: u64,
    waiting: Waiting,
    /// What fails is not tried again.
    once: bool,
    /// The filesystem was not there when it was looked at last.
    is_away: AtomicBool,
}

pub(crate) fn run(args: &FollowArgs, fs: Option<&Path>, jobs: usize, crew: Crew) -> Result<Exit, CliError> {
    let (Some(mdt), Some(user), Some(fs)) = (&args.follow, &args.user, fs) else {
        return Err(CliError::new(Exit::Usage, "--follow needs --user and --fs"));
    };
    let not_here = |why: String| CliError::new(Exit::NotHere, format!("{}: {why}", fs.display()));
    let filesystem = Filesystem::of(fs).map_err(not_here)?.ok_or_else(|| not_here("it is not on Lustre".to_owned()))?;
    let device = check(&filesystem, mdt).map_err(not_here)?;
    let default = || Path::new("/var/lib/sifaka").join(format!("changelog-{}-{}", plain(mdt), plain(user)));
    let position = args.position.clone().unwrap_or_else(default);
    let mut feed = Feed::open(filesystem.library(), mdt, user, &position, PERIOD).map_err(failed)?;
    let waiting = Waiting::new(MAX_WAITING);
    let follower = Follower {
        crew: &crew,
        filesystem: &filesystem,
        device,
        waiting,
        once: args.once,
        is_away: AtomicBool::new(false),
    };
    let followed = std::thread::scope(|scope| {
        let start = || std::thread::Builder::new().spawn_scoped(scope, || follower.work());
        let followed = match start() {
            Ok(_) => {
                // With fewer threads it takes longer.
                let _ = (1..jobs).try_for_each(|_| start().map(drop));
                follower.follow(&mut feed)
            }
            Err(why) => Err(CliError::new(Exit::SomeFailed, format!("cannot start a thread: {why}"))),
        };
        // Files that are being worked on stay as they were.
        crew.work().stop();
        follower.waiting.end();
        followed
    });
    followed?;
    crew.finish_plainly()
}

fn failed(error: FeedError) -> CliError {
    CliError::new(Exit::NotHere, error.to_string())
}

/// Where files cannot be opened by the FIDs of this log, all of them would seem to be gone, and their records done.
fn check(filesystem: &Filesystem, mdt: &str) -> Result<u64, String> {
    let name = fsname(filesystem.library(), filesystem.top());
    if let Ok(name) = name
        && mdt.rsplit_once("-MDT").is_none_or(|(of, _)| of != name)
    {
        return Err(format!("it is the filesystem {name}, of which {} is no MDT", escaped(mdt)));
    }
    filesystem.device_of_fids().map_err(|error| {
        format!("files cannot be opened by their FIDs (it wants root, and a mount of the whole filesystem): {error}")
    })
}

/// For a file's name.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

impl Follower<'_> {
    /// Reads and commits, until there is nothing more to do, if that is wanted.
    fn follow(&self, feed: &mut Feed) -> Result<(), CliError> {
        let mut seen = feed.committed();
        loop {
            let at_end = self.read(feed, &mut seen)?;
            let first = self.waiting.first();
            let done = first.map_or(seen, |index| index.saturating_sub(1));
            match feed.commit(done) {
                // Cleared with the next commit.
                Err(error @ FeedError::Clear { .. }) if !self.once => complain(&error.to_string()),
                other => other.map_err(failed)?,
            }
            if self.once && self.is_away.load(Ordering::Relaxed) {
                return Err(CliError::new(Exit::NotHere, "the filesystem is not there any more"));
            }
            if self.once && at_end && first.is_none() {
                return Ok(());
            }
        }
    }

    /// Takes in one event. Whether there is nothing more in the log.
    fn read(&self, feed: &mut Feed, seen: &mut u64) -> Result<bool, CliError> {
        if !self.waiting.has_room(PERIOD) {
            return Ok(false);
        }
        match feed.next(PERIOD) {
            Some(Event::Records(records)) => {
                for record in &records {
                    *seen = record.index.max(*seen);
                    if let Some(fid) = written(record) {
                        self.waiting.add(fid, record.index);
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
            Some(Event::Trouble(error)) if self.once => {
                Err(CliError::new(Exit::NotHere, format!("the changelog cannot be read: {error}")))
            }
            Some(Event::Trouble(error)) => {
                complain(&format!("the changelog cannot be read, and is tried again: {error}"));
                Ok(false)
            }
            None => Ok(false),
        }
    }

    /// Tries one file after the other as they become due.
    fn work(&self) {
        while let Some(fid) = self.waiting.take() {
            let tried = self.attempt(fid);
            if let Some(given_up) = self.waiting.put_back(fid, tried) {
                self.tell(fid, given_up);
            }
        }
    }

    fn attempt(&self, fid: Fid) -> Tried {
        let path = self.filesystem.path_by_fid(fid);
        // Most records are of files without mirrors.
        match may_be_stale(&path) {
            Ok(false) => return Tried::Done,
            Err(error) if error.kind() == ErrorKind::NotFound => return self.not_found(&error),
            // Who opens it finds out.
            Ok(true) | Err(_) => {}
        }
        match resync(self.crew.work(), &path) {
            Ok(Came::Busy { tries }) => Tried::Busy(Came::Busy { tries }),
            Ok(Came::Already(_) | Came::Unsuited(_)) => Tried::Done,
            Ok(outcome) => {
                self.tell(fid, Ok(outcome));
                Tried::Copied
            }
            Err(Trouble::Io { source, .. }) if source.kind() == ErrorKind::NotFound => self.not_found(&source),
            Err(Trouble::Stopped { .. }) => Tried::Busy(Came::Busy { tries: 1 }),
            Err(trouble) => self.failed(fid, trouble.to_string()),
        }
    }

    /// It is gone, unless everything is: then nothing is known of it.
    fn not_found(&self, error: &io::Error) -> Tried {
        let is_there = self.filesystem.device_of_fids().is_ok_and(|device| device == self.device);
        if !self.is_away.swap(!is_there, Ordering::Relaxed) && !is_there {
            let top = self.filesystem.top().display();
            complain(&format!("{top} is not there any more, and files wait until it is: {error}"));
        }
        if is_there { Tried::Done } else { Tried::Away }
    }

    fn failed(&self, fid: Fid, why: String) -> Tried {
        // People know the file by its name.
        let by_fid = self.filesystem.path_by_fid(fid);
        let why = why.replace(&*by_fid.to_string_lossy(), &self.shown(fid).to_string_lossy());
        if self.once {
            self.tell(fid, Err(why));
            return Tried::Done;
        }
        Tried::Failed(why)
    }

    fn tell(&self, fid: Fid, outcome: Result<Came, String>) {
        self.crew.tell(&self.shown(fid), outcome);
        self.crew.flush();
    }

    /// A path of the file, if it has one.
    fn shown(&self, fid: Fid) -> PathBuf {
        let path = self.filesystem.path_of(fid).ok().flatten();
        path.unwrap_or_else(|| self.filesystem.path_by_fid(fid))
    }
}
