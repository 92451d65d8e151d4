//! Every chunk of every object read and compared with its manifest, at a limited rate.
//!
//! Objects are taken in the order of their ids, by several threads, a turn at a time; after a turn the `state` is written, so that
//! an interrupted scrub goes on where it was. What is stored meanwhile comes the next time. Nothing is changed, and nothing of
//! the filesystem is looked at: what a damaged object means for whom, its manifest's path says.

mod rate;
mod state;

use crate::report::{Finding, Problem, Watcher};
use crate::{Damage, Holdings, MaintenanceError, scratch};
use model::{Extent, ObjectId};
use rate::Rate;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use state::State;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use transfer::manifest::Manifest;
use transfer::{Encoding, Expected, Monitor, TransferError};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Number of the archive, for the state.
    pub archive_id: u32,
    /// Bytes of content a second, at most; `None` for no limit.
    pub bytes_per_second: Option<u64>,
    /// Where the state is kept; `None` keeps none.
    pub state: Option<PathBuf>,
    /// Begin at the beginning, whatever the state says.
    pub restart: bool,
    /// Objects that are read at one time; at least 1.
    pub threads: usize,
}

/// What was read, and what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Objects read.
    pub objects: u64,
    /// Of their content.
    pub bytes: u64,
    /// Manifests of directories, links and names.
    pub records: u64,
    /// Objects without a manifest: only that they can be read and decoded is known.
    pub unverified: u64,
    /// Objects that are damaged.
    pub damaged: u64,
    /// Damages of packs, those of members among them.
    #[serde(default)]
    pub damaged_packs: u64,
    /// Manifests that are damaged.
    pub bad_manifests: u64,
    /// Manifests of files whose object is gone.
    pub lost: u64,
    /// Objects in a cold storage class: nothing of their content was read, since nobody wants all of them thawed for it.
    #[serde(default)]
    pub cold: u64,
    /// What could not be read for other reasons.
    pub failed: u64,
}

impl Counts {
    /// Whether everything is as it was archived.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damaged + self.damaged_packs + self.bad_manifests + self.lost + self.failed == 0
    }

    fn add(&mut self, other: &Self) {
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.records += other.records;
        self.unverified += other.unverified;
        self.damaged += other.damaged;
        self.damaged_packs += other.damaged_packs;
        self.bad_manifests += other.bad_manifests;
        self.lost += other.lost;
        self.cold += other.cold;
        self.failed += other.failed;
    }
}

const TABLES: &str = "CREATE TABLE item (id TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;";
/// Items between two looks at whether the state is to be written.
const TURN: usize = 64;
/// How often the state is written.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);

/// Reads the archive through, from where the last scrub was interrupted. Gives the counts of all runs since the beginning.
///
/// # Errors
/// The archive cannot be listed or ceases to answer, or the state or the temporary database fail.
pub fn scrub(holdings: &dyn Holdings, options: &Options, watcher: &dyn Watcher) -> Result<Counts, MaintenanceError> {
    let saved = match &options.state {
        Some(path) if !options.restart => State::load(path, options.archive_id)?,
        _ => None,
    };
    let mut state = saved.unwrap_or_else(|| State::new(options.archive_id));
    watcher.phase("listing the archive", None);
    let items = list(holdings, watcher, &mut state.counts)?;
    let total =
        items.query_row("SELECT count(*) FROM item WHERE id > ?1", [&state.after], |row| row.get::<_, i64>(0))?;
    watcher.phase("reading the archive", Some(total.cast_unsigned()));
    let rate = Rate::new(options.bytes_per_second);
    let mut written = Instant::now();
    loop {
        let turn = next(&items, &state.after)?;
        let Some(last) = turn.last().cloned() else { break };
        let found = match check_all(holdings, turn, &rate, options.threads, watcher) {
            Ok(found) => found,
            Err(error) => {
                // This turn is read again.
                options.state.as_ref().map_or(Ok(()), |path| state.save(path))?;
                return Err(error);
            }
        };
        state.counts.add(&found);
        state.after = last;
        if let Some(path) = options.state.as_ref().filter(|_| written.elapsed() >= SAVE_INTERVAL) {
            state.save(path)?;
            written = Instant::now();
        }
    }
    // Members were read above; here it is about what holds them together.
    watcher.phase("reading packs", None);
    holdings.check_packs(&mut |path, why| {
        state.counts.damaged_packs += 1;
        watcher.found(Finding::new(Problem::Damage, format!("pack {}: {why}", path.display())));
    })?;
    if let Some(path) = &options.state {
        State::remove(path)?;
    }
    Ok(state.counts)
}

fn list(holdings: &dyn Holdings, watcher: &dyn Watcher, counts: &mut Counts) -> Result<Connection, MaintenanceError> {
    let items = scratch::open(TABLES)?;
    items.execute_batch("BEGIN")?;
    let mut added = Ok(());
    let mut add = |id: ObjectId| {
        let insert = items.prepare_cached("INSERT OR IGNORE INTO item VALUES (?1)");
        match insert.and_then(|mut insert| insert.execute([id.as_str()])) {
            Ok(_) => ControlFlow::Continue(()),
            Err(error) => {
                added = Err(error);
                ControlFlow::Break(())
            }
        }
    };
    let listed = holdings.objects(&mut add).and(holdings.manifests(&mut add));
    added?;
    items.execute_batch("COMMIT")?;
    match listed {
        // Everything else was listed.
        Err(MaintenanceError::Archive(error @ TransferError::Damaged { .. })) => {
            counts.damaged += 1;
            watcher.found(Finding::new(Problem::Damage, error.to_string()));
        }
        other => other?,
    }
    Ok(items)
}

fn next(items: &Connection, after: &str) -> Result<Vec<String>, rusqlite::Error> {
    let sql = format!("SELECT id FROM item WHERE id > ?1 ORDER BY id LIMIT {TURN}");
    items.prepare_cached(&sql)?.query_map([after], |row| row.get(0))?.collect()
}

/// One turn, by several threads.
fn check_all(
    holdings: &dyn Holdings,
    turn: Vec<String>,
    rate: &Rate,
    threads: usize,
    watcher: &dyn Watcher,
) -> Result<Counts, MaintenanceError> {
    let left = Mutex::new(turn);
    let total = Mutex::new(Ok(Counts::default()));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let mut check = Check { holdings, rate, watcher, counts: Counts::default(), ended: None };
                loop {
                    let next = left.lock().unwrap_or_else(PoisonError::into_inner).pop();
                    let Some(id) = next.filter(|_| check.ended.is_none()) else { break };
                    check.item(&id);
                    watcher.advanced(1);
                }
                let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                match (check.ended, &mut *total) {
                    (Some(error), _) => *total = Err(error),
                    (None, Ok(total)) => total.add(&check.counts),
                    (None, Err(_)) => {}
                }
            });
        }
    });
    total.into_inner().unwrap_or_else(PoisonError::into_inner)
}

struct Check<'a> {
    holdings: &'a dyn Holdings,
    rate: &'a Rate,
    watcher: &'a dyn Watcher,
    counts: Counts,
    /// The archive ceased to answer.
    ended: Option<MaintenanceError>,
}

/// Slows the reading down.
struct Slowed<'a>(&'a Rate);

impl Monitor for Slowed<'_> {
    fn cancelled(&self) -> bool {
        false
    }

    fn advanced(&self, extent: Extent) {
        self.0.spend(extent.length);
    }
}

impl Check<'_> {
    fn found(&self, problem: Problem, id: &str, manifest: Option<&Manifest>, what: String) {
        let finding = Finding::new(problem, what).of(id);
        self.watcher.found(match manifest {
            Some(manifest) => finding.at(&manifest.path).content_of(manifest.inode.handle.as_ref()),
            None => finding,
        });
    }

    fn item(&mut self, text: &str) {
        let Ok(id) = ObjectId::parse(text) else { return };
        match self.holdings.manifest(&id) {
            Ok(Some(manifest)) => self.described(&id, &manifest),
            Ok(None) => self.undescribed(&id),
            Err(
                error @ MaintenanceError::Archive(TransferError::NoManifest { .. } | TransferError::Damaged { .. }),
            ) => {
                self.counts.bad_manifests += 1;
                self.found(Problem::DamagedManifest, text, None, error.to_string());
                self.undescribed(&id);
            }
            Err(error) => self.failed(&id, None, error),
        }
    }

    fn described(&mut self, id: &ObjectId, manifest: &Manifest) {
        if !id.as_str().starts_with(Encoding::split(manifest.object.as_str()).0) {
            self.counts.bad_manifests += 1;
            let what = format!("its manifest is that of {}", manifest.object);
            self.found(Problem::DamagedManifest, id.as_str(), Some(manifest), what);
            return;
        }
        let Some(content) = manifest.content() else {
            self.counts.records += 1;
            return;
        };
        let head = match self.holdings.head(id) {
            Ok(Some(head)) => head,
            Ok(None) => {
                // Removed meanwhile, with its manifest?
                if matches!(self.holdings.manifest(id), Ok(Some(_))) {
                    self.counts.lost += 1;
                    self.found(Problem::NoObject, id.as_str(), Some(manifest), "its object is gone".to_owned());
                }
                return;
            }
            Err(error) => return self.failed(id, Some(manifest), error),
        };
        let mut damages: Vec<Damage> = Vec::new();
        if head.stored_bytes != content.stored_bytes {
            let (found, stored) = (head.stored_bytes, content.stored_bytes);
            let why = format!("the object has {found} bytes, and had {stored} when it was stored");
            damages.push(Damage { offset: 0, length: 0, why });
        }
        let mut more = 0u64;
        let checked = self.holdings.check(id, manifest, &Slowed(self.rate), &mut |damage| {
            // An object of petabytes may have a million bad chunks.
            if damages.len() < MAX_TOLD { damages.push(damage) } else { more += 1 }
        });
        let is_read = !checked.as_ref().is_err_and(is_cold);
        self.counts.objects += u64::from(is_read);
        self.counts.bytes += if is_read { content.size } else { 0 };
        self.counts.damaged += u64::from(!damages.is_empty());
        for Damage { offset, length, why } in damages {
            let what = match length {
                0 => why,
                _ => format!("damaged from byte {offset} to byte {}: {why}", offset.saturating_add(length)),
            };
            self.found(Problem::Damage, id.as_str(), Some(manifest), what);
        }
        if more > 0 {
            self.found(Problem::Damage, id.as_str(), Some(manifest), format!("{more} more of its chunks are damaged"));
        }
        if let Err(error) = checked {
            self.failed(id, Some(manifest), error);
        }
    }

    fn undescribed(&mut self, id: &ObjectId) {
        match self.holdings.head(id) {
            Ok(Some(_)) => {}
            Ok(None) => return,
            Err(error) => return self.failed(id, None, error),
        }
        match self.holdings.check_content(id, Expected::default(), &Slowed(self.rate)) {
            Ok(bytes) => {
                self.counts.objects += 1;
                self.counts.bytes += bytes;
                self.counts.unverified += 1;
            }
            Err(MaintenanceError::Archive(
                error @ (TransferError::Damaged { .. } | TransferError::DamagedChunk { .. }),
            )) => {
                self.counts.objects += 1;
                self.counts.damaged += 1;
                self.found(Problem::Damage, id.as_str(), None, error.to_string());
            }
            Err(error) => self.failed(id, None, error),
        }
    }

    fn failed(&mut self, id: &ObjectId, manifest: Option<&Manifest>, error: MaintenanceError) {
        if matches!(error, MaintenanceError::Unreachable(_)) {
            self.ended = Some(error);
            return;
        }
        // Removed meanwhile.
        if matches!(error, MaintenanceError::Archive(TransferError::Missing { .. })) {
            return;
        }
        if is_cold(&error) {
            self.counts.cold += 1;
            return;
        }
        self.counts.failed += 1;
        self.found(Problem::Failed, id.as_str(), manifest, error.to_string());
    }
}

fn is_cold(error: &MaintenanceError) -> bool {
    matches!(error, MaintenanceError::Archive(TransferError::Cold { .. }))
}

/// Chunks of one object that are told one by one.
const MAX_TOLD: usize = 1000;
