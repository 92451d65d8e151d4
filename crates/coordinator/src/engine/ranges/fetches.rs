//! The fetches of a file that is restored in parts: planned, given to movers, and what becomes of those who wait when they end.

use super::super::brain::Brain;
use super::super::job::{Blocked, Job, Purpose};
use super::super::parts::{Fetch, Phase, forget_pages, settle_part};
use super::super::sources::{ENOTCONN, unserved};
use super::RECORD_AFTER;
use crate::engine::Msg;
use crate::ranges::{CHUNK, Flight, Limits, Run, plan};
use model::{Class, Command, ErrorKind, Extent, Failure, FileHandle, Outcome};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Runs of resident chunks that are remembered of one file.
const MAX_RUNS: usize = 4096;
/// Fetches of one file that somebody waits for.
const DEMANDED: usize = 64;
/// Fetches of one file beyond which nothing is fetched ahead.
const AHEAD: usize = 6;
/// Readers of one file that the next fetches are planned for; others have their turn when these are answered.
const PLANNED_READERS: usize = 128;
const EOPNOTSUPP: i32 = 95;

impl Brain {
    pub(super) fn fetch(&mut self, file: &FileHandle) {
        let limit = self.config.ranges.as_ref().map_or(0, |config| config.readahead / CHUNK);
        let Some(parts) = self.parts(file) else { return };
        let all_of_it = parts.wants_all();
        let demanded: Vec<Run> =
            parts.readers.iter().take(PLANNED_READERS).flat_map(|reader| reader.missing.iter()).collect();
        let ahead = if all_of_it { vec![parts.all()] } else { parts.ahead.clone() };
        let flight = Flight {
            resident: &parts.resident,
            in_flight: &parts.in_flight,
            fetches: parts.fetches.len(),
            suspect: &parts.suspect,
        };
        let piece = if all_of_it { 16 } else { (limit / 4).clamp(1, 16) };
        let limits = Limits { demanded: DEMANDED, ahead: AHEAD, piece };
        let mut fetches = plan(flight, &demanded, &ahead, all_of_it, limits);
        if parts.thawing {
            // One finds out as well as many whether it can be read by now.
            fetches.truncate(usize::from(parts.fetches.is_empty()));
        }
        // What was fetched ahead, or is not worth it any more, is not planned again.
        let all = parts.all();
        let (resident, in_flight) = (&parts.resident, &parts.in_flight);
        let planned = |run: &Run| fetches.iter().any(|(_, f)| f.start < run.end && run.start < f.end);
        parts.ahead.retain(|run| {
            run.start < all.end && resident.first_gap(run).is_some_and(|gap| !in_flight.contains(&gap) || planned(run))
        });
        let too_many = parts.ahead.len().saturating_sub(8);
        parts.ahead.drain(..too_many);
        if fetches.is_empty() {
            return;
        }
        let Some(copies) = parts.file.as_ref().map(|f| f.copies.clone()) else { return };
        let Some(from) = copies.iter().position(|copy| self.serves(copy.archive_id)) else {
            let archive_id = copies.first().map_or(0, |copy| copy.archive_id);
            return self.part_waits(file, &unserved(archive_id));
        };
        let whole_readers = self.parts(file).is_some_and(|parts| !parts.whole.is_empty());
        for (demanded, run) in fetches {
            self.start_fetch(file, run, demanded || whole_readers, from, None);
        }
    }

    /// Fetches chunks from one of the file's copies.
    fn start_fetch(&mut self, file: &FileHandle, run: Run, demanded: bool, from: usize, thaw: Option<Failure>) {
        let key = self.ephemeral_key();
        let now_ms = self.shared.now_ms();
        let Some(parts) = self.parts(file) else { return };
        let Some((opened, f)) = parts.opened(file).zip(parts.file.clone()) else { return };
        let class = if demanded { Class::Reader } else { Class::Restore };
        let (owner, path) = (parts.owner, parts.path.clone());
        let Some(model::Copy { archive_id, identity }) = f.copies.get(from).cloned() else { return };
        let action = Self::ephemeral_action(file, class, Command::Restore, archive_id, owner, path, now_ms);
        let offset = run.start * CHUNK;
        let end = run.end.saturating_mul(CHUNK).min(f.size);
        let extent = Extent { offset, length: end.saturating_sub(offset) };
        if parts.lossy {
            forget_pages(&f, extent);
        }
        parts.in_flight.insert(run.clone());
        parts.fetches.push(Fetch { key, run, demanded, from, thaw, doubted: false });
        let mut job = Job::new(Purpose::Part, action, 0);
        job.file = Some(opened);
        job.identity = identity;
        job.extent = extent;
        self.jobs.insert(key, job);
        self.dispatch(key);
    }

    /// A mover wrote chunks into the file, or could not.
    pub(in crate::engine) fn part_result(&mut self, key: u64, outcome: Outcome) {
        let failure = match outcome {
            Outcome::Restored(_) => None,
            Outcome::Failed(failure) => Some(failure),
            _ => Some(Failure::permanent(22, "the mover's answer does not fit the action")),
        };
        let Some(handle) = self.jobs.get(&key).and_then(|job| job.action.file.clone()) else { return };
        let Some(parts) = self.parts(&handle) else { return };
        let (Some(file), None) = (parts.file.clone(), &failure) else {
            return self.part_done(key, failure.map_or(Ok(()), Err));
        };
        let (mtime, messages) = (parts.mtime, self.messages.clone());
        self.parts_pool.run(move || {
            let settled = settle_part(&file, mtime);
            let _ = messages.send(Msg::PartDone(key, settled));
        });
    }

    /// Chunks are there, or did not come.
    pub(in crate::engine) fn part_done(&mut self, key: u64, result: Result<(), Failure>) {
        let Some(job) = self.take_job(key) else { return };
        let Some(file) = job.action.file else { return };
        let Some(parts) = self.parts(&file) else { return };
        let Some(at) = parts.fetches.iter().position(|fetch| fetch.key == key) else { return };
        let fetch = parts.fetches.swap_remove(at);
        let run = fetch.run.clone();
        parts.in_flight.remove(&run);
        match result {
            Ok(()) if parts.phase == Phase::Broken => {}
            Ok(()) if fetch.doubted => parts.ahead.push(run),
            Ok(()) => self.part_came(&file, run),
            Err(failure) => self.part_did_not_come(&file, fetch, &failure),
        }
        self.pump(&file);
    }

    fn part_did_not_come(&mut self, file: &FileHandle, mut fetch: Fetch, failure: &Failure) {
        if failure.thaw.is_some() {
            fetch.thaw.get_or_insert_with(|| failure.clone());
        }
        let (run, thaw) = (fetch.run.clone(), fetch.thaw.clone());
        if self.fetches_from_next(file, fetch, failure) {
            return;
        }
        match thaw {
            // It ends well, whatever became of the other copies.
            Some(thaw) => self.part_waits(file, &thaw),
            None if failure.kind == ErrorKind::Temporary => self.part_waits(file, failure),
            None => self.part_failed(file, run, failure),
        }
    }

    /// Whether chunks that one copy does not give are fetched from another.
    fn fetches_from_next(&mut self, file: &FileHandle, fetch: Fetch, failure: &Failure) -> bool {
        let served = self.served.clone();
        let Some(parts) = self.parts(file) else { return false };
        let hopeless = failure.kind == ErrorKind::Permanent || failure.errno == ENOTCONN || failure.thaw.is_some();
        let unfit = failure.errno == EOPNOTSUPP && parts.is_untouched();
        if !hopeless || unfit || parts.phase != Phase::Ready {
            return false;
        }
        let Some(f) = &parts.file else { return false };
        let mut others = f.copies.iter().enumerate().skip(fetch.from + 1);
        let Some((next, copy)) = others.find(|(_, copy)| served.contains(&copy.archive_id)) else { return false };
        let bad = f.copies.get(fetch.from).map_or(0, |copy| copy.archive_id);
        tracing::warn!(path = parts.path, archive_id = bad, offset = fetch.run.start * CHUNK, %failure, next = copy.archive_id, "a part of a file cannot be restored from one archive; the copy in another is tried");
        self.start_fetch(file, fetch.run, fetch.demanded, next, fetch.thaw);
        true
    }

    fn part_came(&mut self, file: &FileHandle, run: Run) {
        self.thaw_is_over(file);
        let Some(parts) = self.parts(file) else { return };
        // So ranges can be had after all; and what was handed out must not be written over.
        let was_unfit = parts.phase == Phase::Unfit;
        if was_unfit {
            parts.phase = Phase::Ready;
        }
        parts.suspect.remove(&run);
        parts.resident.insert_bounded(run.clone(), MAX_RUNS);
        parts.attempts = 0;
        parts.thawing = false;
        parts.came_at = Instant::now();
        if !std::mem::replace(&mut parts.unrecorded, true) {
            parts.recorded_at = parts.came_at;
        }
        let mut answered = Vec::new();
        let mut at = 0;
        while let Some(reader) = parts.readers.get_mut(at) {
            reader.missing.remove(&run);
            if reader.missing.is_empty() { answered.push(parts.readers.remove(at)) } else { at += 1 }
        }
        self.due(Instant::now() + RECORD_AFTER);
        self.count_blocked(-i64::try_from(answered.len()).unwrap_or(0));
        for reader in answered {
            self.let_through(reader.waiting.event, file, &reader.touched);
        }
        if was_unfit {
            self.reconsider_early(file);
        }
    }

    /// It may work later.
    pub(super) fn part_waits(&mut self, file: &FileHandle, failure: &Failure) {
        if let Some(thaw) = failure.thaw {
            return self.parts_wait_for_thaw(file, failure, thaw);
        }
        let backoff = model::Backoff { max_attempts: 0, ..self.config.backoff };
        let Some(parts) = self.parts(file) else { return };
        parts.thawing = false;
        if parts.retry_at.is_none() {
            parts.attempts = parts.attempts.saturating_add(1);
        }
        // What was only to be fetched ahead is not worth trying again.
        parts.ahead.clear();
        if parts.is_unwanted() {
            return;
        }
        let delay = Duration::from_millis(backoff.delay_ms(parts.attempts).unwrap_or(1000).min(10_000));
        tracing::warn!(path = parts.path, %failure, ?delay, "restoring a part of a file failed; trying again");
        let at = Instant::now() + delay;
        parts.retry_at = Some(at);
        self.due(at);
    }

    /// It will not work: who asked for just this chunk is told; of more than one, each is tried alone.
    fn part_failed(&mut self, file: &FileHandle, run: Run, failure: &Failure) {
        let Some(parts) = self.parts(file) else { return };
        parts.thawing = false;
        if parts.phase != Phase::Ready {
            return;
        }
        if failure.errno == EOPNOTSUPP {
            if parts.is_untouched() {
                tracing::info!(path = parts.path, %failure, "it cannot be restored in parts, and is restored whole");
                parts.phase = Phase::Unfit;
                return;
            }
            // To write over what may be in use, unverified, or to punch it out after a failure, is out of the question.
            tracing::error!(
                path = parts.path,
                "parts of it are there, and no more can be had: `sifaka release` it when nobody has it open, then it can be restored whole"
            );
        }
        let size_changed =
            parts.file.as_ref().is_some_and(|f| sys::file::stamp(&*f.fd).is_ok_and(|stamp| stamp.size != f.size));
        if size_changed {
            parts.phase = Phase::Broken;
            return;
        }
        parts.suspect.insert(run.clone());
        if run.end - run.start > 1 {
            tracing::warn!(path = parts.path, %failure, "restoring a part of a file failed; its chunks are tried one by one");
            return;
        }
        let copies = parts.file.as_ref().map(|f| f.copies.clone()).unwrap_or_default();
        if let Some(absent) = copies.iter().find(|copy| !self.serves(copy.archive_id)) {
            // Its mover may come back.
            return self.part_waits(file, &unserved(absent.archive_id));
        }
        let Some(parts) = self.parts(file) else { return };
        let (offset, archive_id) = (run.start * CHUNK, copies.first().map_or(0, |copy| copy.archive_id));
        tracing::error!(path = parts.path, archive_id, offset, length = CHUNK, %failure, "a part of a file cannot be restored: its readers get an error");
        let hit: Vec<usize> = (0..parts.readers.len())
            .filter(|i| parts.readers.get(*i).is_some_and(|r| r.missing.touches(&run)))
            .collect();
        let mut denied: Vec<Blocked> = hit.into_iter().rev().map(|i| parts.readers.remove(i).waiting).collect();
        denied.append(&mut parts.whole);
        let entries = std::mem::take(&mut parts.entries);
        self.shared.damaged_chunks.fetch_add(1, Ordering::Relaxed);
        self.count_blocked(-i64::try_from(denied.len()).unwrap_or(0));
        for waiting in denied {
            waiting.event.deny(failure.errno);
        }
        self.end_entries(entries, &Err(failure.clone()));
    }
}
