//! An MDT's changelog as a feed of events: what happened since somebody last said that everything up to there is done.
//!
//! A thread reads ahead, a few batches at most. Records go from the MDT only when the consumer has committed them, that is, when what
//! follows from them is durable: after a crash they come again, so the consumer must not mind to see one twice. How far it is stands
//! in a file too, because the MDT keeps records that another reader has not cleared.
//!
//! Records come in the order of the log, which is nearly that of their numbers. Where a number is missing, what is behind it is handed over, but not committed before
//! the missing one has come, or has not for so long that it is a gap.

use crate::delivered::Delivered;
use model::Fid;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use sys::children::{Wanted, wait_ready};
use sys::lustre::{Changelog, Library, Record};

/// Records in a batch, at most.
const BATCH: usize = 512;
/// Batches that are read before the consumer asks for them.
const AHEAD: usize = 2;
/// A log is followed for so many periods before it is opened anew, which finds whatever following has missed.
const PERIODS_FOLLOWED: u32 = 60;
/// The longest pause after errors.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A record that is missing after so many looks is lost.
const LOOKS_FOR_MISSING: u32 = 10;
/// `EINVAL`: what is to be cleared is not in the log.
const NOT_IN_LOG: i32 = 22;

/// Why a feed cannot be opened, or a commit made. What was not committed comes again.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The position cannot be read or kept.
    #[error("cannot {doing} the position {path}: {source}", path = path.display())]
    Position {
        /// What was being done, to be read after "cannot".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file holds something else, or the position in another log.
    #[error("{path} is no position in the changelog of {mdt} for {user}: remove it to begin with the oldest record", path = path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// The log.
        mdt: String,
        /// Its reader.
        user: String,
    },
    /// The MDT does not know the reader.
    #[error("{mdt} has no changelog reader {user}: `lctl --device {mdt} changelog_register` on its server makes one")]
    NoUser {
        /// The log.
        mdt: String,
        /// Who is not registered.
        user: String,
    },
    /// The MDT refuses, or cannot be asked.
    #[error("cannot clear the changelog of {mdt} up to record {index}: {source}")]
    Clear {
        /// The log.
        mdt: String,
        /// Up to where.
        index: u64,
        /// What the library said.
        source: io::Error,
    },
    /// No thread can be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

impl FeedError {
    /// Whether what was to be cleared is not what the log has for the reader.
    fn is_elsewhere(&self) -> bool {
        match self {
            Self::Clear { source, .. } => source.raw_os_error() == Some(NOT_IN_LOG),
            Self::NoUser { .. } => true,
            _ => false,
        }
    }
}

/// What the feed has to tell.
#[derive(Debug)]
pub enum Event {
    /// Records in the order of the log, at least one. A smaller number can come after a larger one; none comes twice. Damaged ones are among them.
    Records(Vec<Record>),
    /// There is nothing more for now, and nothing is missing.
    End,
    /// Records between these two are not there and will not come: nobody knows what happened then.
    Gap {
        /// The last before them.
        after: u64,
        /// The first behind them, which was handed over before.
        next: u64,
    },
    /// A record that is not even a record was passed by.
    Garbage(String),
    /// The log cannot be read at present; it is tried again.
    Trouble(io::Error),
}

/// See the module. Ends its thread when dropped.
#[derive(Debug)]
pub struct Feed {
    library: Library,
    mdt: String,
    user: String,
    position: PathBuf,
    committed: u64,
    /// All records up to this one were given out, or are known to be lost.
    whole: u64,
    events: Option<Receiver<(Event, u64)>>,
    /// Dropped, it ends the thread's pauses.
    going: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Feed {
    /// Opens the log of `mdt` (as `lustre-MDT0000`) for the registered reader `user` (as `cl1`), after what was committed according to the file `position`, which need
    /// not exist. The log is looked at every `period`.
    pub fn open(
        library: &Library,
        mdt: &str,
        user: &str,
        position: &Path,
        period: Duration,
    ) -> Result<Self, FeedError> {
        let mut feed = Self {
            library: library.clone(),
            mdt: mdt.to_owned(),
            user: user.to_owned(),
            position: position.to_owned(),
            committed: 0,
            whole: 0,
            events: None,
            going: None,
            thread: None,
        };
        feed.committed = feed.read_position()?;
        if feed.committed > 0 {
            match feed.clear(feed.committed) {
                // Cleared by somebody else in this reader's name (since 2.16 that looks as if there was no such reader, which the first commit tells if it is so),
                // or the log was begun anew: from the oldest, to miss nothing.
                Err(error) if error.is_elsewhere() => {
                    tracing::warn!(
                        mdt,
                        user,
                        position = feed.committed,
                        "the changelog is not at this position: it is read from its oldest record"
                    );
                    feed.committed = 0;
                }
                other => other?,
            }
        }
        let (events, receiver) = sync_channel(AHEAD);
        let (going, stop) = sync_channel(0);
        let delivered = Delivered::up_to(feed.committed);
        feed.whole = feed.committed;
        let (library, mdt) = (library.clone(), mdt.to_owned());
        let reader = Reader { library, mdt, delivered, missing: None, follows: true, events, stop, period };
        let thread = std::thread::Builder::new().name("changelog".to_owned()).spawn(move || reader.run());
        feed.thread = Some(thread.map_err(FeedError::Thread)?);
        (feed.events, feed.going) = (Some(receiver), Some(going));
        Ok(feed)
    }

    /// What comes next; `None` when nothing has within `patience`.
    pub fn next(&mut self, patience: Duration) -> Option<Event> {
        let (event, whole) = self.events.as_ref().and_then(|events| events.recv_timeout(patience).ok())?;
        self.whole = whole;
        Some(event)
    }

    /// The record up to which everything is committed.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// Everything up to record `index` is done, and what follows from it durable: it does not come again, and the MDT may forget it. Numbers that were committed
    /// before are fine; of those behind a record that is missing yet, what is before it is committed.
    pub fn commit(&mut self, index: u64) -> Result<(), FeedError> {
        let index = index.min(self.whole);
        if index <= self.committed {
            return Ok(());
        }
        // The position first: a record that is cleared and not in the file would look like a gap.
        self.write_position(index).map_err(|source| self.position_error("write", source))?;
        self.committed = index;
        self.clear(index)
    }

    fn clear(&self, index: u64) -> Result<(), FeedError> {
        let (mdt, user) = (self.mdt.clone(), self.user.clone());
        match Changelog::clear(&self.library, &mdt, &user, index) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(FeedError::NoUser { mdt, user }),
            Err(source) => Err(FeedError::Clear { mdt, index, source }),
        }
    }

    fn read_position(&self) -> Result<u64, FeedError> {
        // A position is short; what is longer is something else.
        let mut text = String::new();
        let read = File::open(&self.position)
            .and_then(|file| io::Read::read_to_string(&mut io::Read::take(file, 1024), &mut text));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(source) => return Err(self.position_error("read", source)),
        }
        let not_ours =
            || FeedError::NotOurs { path: self.position.clone(), mdt: self.mdt.clone(), user: self.user.clone() };
        let index = text.strip_prefix(&self.heading()).and_then(|rest| rest.strip_suffix('\n'));
        index.and_then(|index| index.parse().ok()).ok_or_else(not_ours)
    }

    fn heading(&self) -> String {
        format!("changelog {} {} ", self.mdt, self.user)
    }

    fn write_position(&self, index: u64) -> io::Result<()> {
        let next = self.position.with_extension("next");
        let mut file = File::create(&next)?;
        file.write_all(format!("{}{index}\n", self.heading()).as_bytes())?;
        file.sync_all()?;
        fs::rename(&next, &self.position)?;
        let parent = self.position.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    }

    fn position_error(&self, doing: &'static str, source: io::Error) -> FeedError {
        FeedError::Position { doing, path: self.position.clone(), source }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        // Each of the two ends a wait of the thread's.
        (self.events, self.going) = (None, None);
        if let Some(thread) = self.thread.take() {
            // It has nothing to give, and a panic of it was told by itself.
            let _ = thread.join();
        }
    }
}

/// Whether there is a record, or an end or an error that is to be read.
fn is_ready(log: &mut Changelog, patience: Duration) -> io::Result<bool> {
    Ok(log.buffered()? || wait_ready(&[(log.as_fd(), Wanted::Read)], patience)?.contains(&true))
}

/// The feed is gone.
struct Unwanted;

/// What one look into the log has given.
enum Read {
    More,
    End,
    Failed(io::Error),
}

struct Reader {
    library: Library,
    mdt: String,
    delivered: Delivered,
    /// Behind which record something is missing, and since when.
    missing: Option<(u64, Instant)>,
    /// Whether the client can follow a log.
    follows: bool,
    events: SyncSender<(Event, u64)>,
    stop: Receiver<()>,
    period: Duration,
}

impl Reader {
    fn run(mut self) {
        let mut pause = self.period;
        loop {
            let read = match self.read_all() {
                Ok(Ok(())) if self.follows && self.delivered.hole().is_none() => self.follow(),
                read => read,
            };
            match read {
                Ok(Ok(())) => pause = self.period,
                Ok(Err(error)) => {
                    if self.send(Event::Trouble(error)).is_err() {
                        return;
                    }
                    pause = pause.saturating_mul(2).clamp(self.period, LONGEST_PAUSE.max(self.period));
                }
                Err(Unwanted) => return,
            }
            if !matches!(self.stop.recv_timeout(pause), Err(RecvTimeoutError::Timeout)) {
                return;
            }
        }
    }

    fn open(&self, follow: bool) -> io::Result<Changelog> {
        Changelog::start(&self.library, &self.mdt, self.delivered.whole().saturating_add(1), follow)
    }

    /// Reads the log to its end. It is opened anew for that: so a restart of the MDT, or another one in its place, is nothing special.
    fn read_all(&mut self) -> Result<io::Result<()>, Unwanted> {
        let mut log = match self.open(false) {
            Ok(log) => log,
            Err(error) => return Ok(Err(error)),
        };
        let mut batch = Vec::new();
        loop {
            match self.read(&mut log, &mut batch)? {
                Read::More => {}
                Read::End => {
                    self.delivered.end_is_met();
                    self.flush(&mut batch)?;
                    self.end()?;
                    return Ok(Ok(()));
                }
                Read::Failed(error) => {
                    self.flush(&mut batch)?;
                    return Ok(Err(error));
                }
            }
        }
    }

    /// At the end of the log: what comes is read as it comes, until something is wrong or missing. To open the log anew each time would have the MDT go through all
    /// that other readers have not cleared.
    fn follow(&mut self) -> Result<io::Result<()>, Unwanted> {
        let mut log = match self.open(true) {
            Ok(log) => log,
            Err(error) => return Ok(Err(error)),
        };
        let (mut batch, mut hole_since) = (Vec::new(), None);
        let until = Instant::now() + self.period * PERIODS_FOLLOWED;
        loop {
            // What comes late is behind where the kernel is: it is found only by opening the log anew.
            let hole = self.delivered.hole().map(|hole| hole.after);
            let since = match hole_since {
                Some((after, since)) if hole == Some(after) => since,
                _ => Instant::now(),
            };
            hole_since = hole.map(|after| (after, since));
            if hole.is_some() && since.elapsed() >= self.period || Instant::now() >= until {
                return self.flush(&mut batch).map(Ok);
            }
            // Nothing is asked for that is not there: that would wait in the kernel.
            let patience = if batch.is_empty() { self.period } else { Duration::ZERO };
            match is_ready(&mut log, patience) {
                Ok(true) => match self.read(&mut log, &mut batch)? {
                    Read::More => {}
                    Read::End => {
                        // A client of 2.12.0 knows no following.
                        self.follows = false;
                        return self.flush(&mut batch).map(Ok);
                    }
                    Read::Failed(error) => {
                        self.flush(&mut batch)?;
                        return Ok(Err(error));
                    }
                },
                Ok(false) if batch.is_empty() => {
                    self.end()?;
                    if self.stop.try_recv() == Err(TryRecvError::Disconnected) {
                        return Err(Unwanted);
                    }
                }
                Ok(false) => self.flush(&mut batch)?,
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// Takes in one record.
    fn read(&mut self, log: &mut Changelog, batch: &mut Vec<Record>) -> Result<Read, Unwanted> {
        match log.recv() {
            Ok(Some(record)) => self.take(record, batch)?,
            Ok(None) => return Ok(Read::End),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Without an error number it is what was read that is wrong, and the next record may be read.
            Err(error) if error.raw_os_error().is_none() => self.send(Event::Garbage(error.to_string()))?,
            Err(error) => return Ok(Read::Failed(error)),
        }
        Ok(Read::More)
    }

    fn take(&mut self, record: Record, batch: &mut Vec<Record>) -> Result<(), Unwanted> {
        if !self.delivered.add(record.index) {
            return Ok(());
        }
        if let Some(damage) = &record.damage {
            tracing::warn!(mdt = self.mdt, index = record.index, %damage, "a damaged changelog record");
        }
        batch.push(record);
        if self.delivered.is_full() {
            self.delivered.end_is_met();
            self.flush(batch)?;
            return self.give_up();
        }
        if batch.len() < BATCH { Ok(()) } else { self.flush(batch) }
    }

    /// There is nothing more. What is missing in between may come, for a while.
    fn end(&mut self) -> Result<(), Unwanted> {
        let Some(hole) = self.delivered.hole() else {
            self.missing = None;
            return self.send(Event::End);
        };
        match self.missing {
            Some((after, since)) if after == hole.after => {
                if since.elapsed() < self.period * LOOKS_FOR_MISSING {
                    Ok(())
                } else {
                    self.give_up()
                }
            }
            _ => {
                self.missing = Some((hole.after, Instant::now()));
                Ok(())
            }
        }
    }

    fn give_up(&mut self) -> Result<(), Unwanted> {
        let Some(hole) = self.delivered.hole() else { return Ok(()) };
        self.delivered.give_up();
        self.send(Event::Gap { after: hole.after, next: hole.next })
    }

    fn flush(&self, batch: &mut Vec<Record>) -> Result<(), Unwanted> {
        let records = std::mem::take(batch);
        if records.is_empty() { Ok(()) } else { self.send(Event::Records(records)) }
    }

    fn send(&self, event: Event) -> Result<(), Unwanted> {
        self.events.send((event, self.delivered.whole())).map_err(|_| Unwanted)
    }
}

/// The files whose content may have changed according to a record: what makes mirrors stale.
#[must_use]
pub fn written(record: &Record) -> Option<Fid> {
    use sys::lustre::RecordKind::{Close, Layout, Migrate, MirrorWrite, Mtime, Truncate};
    // On another MDT a file has another FID, and what was told of the old one leads nowhere.
    let is_write = matches!(record.kind, Close | Layout | Migrate | MirrorWrite | Mtime | Truncate);
    (is_write && record.target != Fid { seq: 0, oid: 0, ver: 0 }).then_some(record.target)
}
