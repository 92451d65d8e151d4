//! Restores that go on with the next copy when one cannot be had.

use super::brain::Brain;
use super::job::Purpose;
use crate::release::punch_again;
use model::{Command, Copy, ErrorKind, Failure};
use std::collections::VecDeque;

/// No mover of the archive is there.
pub(super) const ENOTCONN: i32 = 107;

/// What is said when an archive has no mover.
pub(super) fn unserved(archive_id: u32) -> Failure {
    let why = format!("no mover serves archive {archive_id}: check enabled_plugins and the plugin's configuration");
    Failure::temporary(ENOTCONN, why)
}

/// The copies that one attempt to restore a file has not tried yet, and what became of the others.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    rest: VecDeque<Copy>,
    failed: Vec<(u32, Failure)>,
}

impl Sources {
    pub(crate) fn new(copies: Vec<Copy>) -> Self {
        Self { rest: copies.into(), failed: Vec::new() }
    }

    /// The next one whose archive has a mover.
    pub(super) fn next(&mut self, serves: impl Fn(u32) -> bool) -> Option<Copy> {
        while let Some(copy) = self.rest.pop_front() {
            if serves(copy.archive_id) {
                return Some(copy);
            }
            self.failed.push((copy.archive_id, unserved(copy.archive_id)));
        }
        None
    }

    /// Whether the copy in use is not the first.
    pub(super) fn went_on(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Whether the next copy is tried after this failure of one, or there is a verdict on all.
    fn go_on_after(&self, failure: &Failure) -> bool {
        // Another copy may be there at once, when this one takes hours. And what fails for now says nothing of one that is being thawed.
        let thaws = |failure: &Failure| failure.thaw.is_some();
        failure.kind == ErrorKind::Permanent
            || failure.errno == ENOTCONN
            || thaws(failure)
            || self.failed.iter().any(|(_, failure)| thaws(failure))
    }

    /// What became of the whole. It may work later when any copy may.
    pub(super) fn verdict(self) -> Failure {
        let mut failed = self.failed;
        // A thaw that is on its way ends well, and has its own time.
        let thaws = failed.iter().position(|(_, failure)| failure.thaw.is_some());
        let temporary = || failed.iter().position(|(_, failure)| failure.kind == ErrorKind::Temporary);
        let at = thaws.or_else(temporary).unwrap_or(0);
        if failed.is_empty() {
            return Failure::permanent(crate::prepare::EIO, "it names no copy");
        }
        let (_, mut said) = failed.swap_remove(at);
        failed.sort_by_key(|(archive_id, _)| *archive_id);
        for (archive_id, failure) in failed {
            said.message = format!("{}; the copy in archive {archive_id}: {}", said.message, failure.message);
        }
        said
    }
}

impl Brain {
    /// Starts a restore from its first copy that can be had, or the next one.
    pub(super) fn restore_from_next(&mut self, key: u64) {
        let served = self.served.clone();
        let Some(job) = self.jobs.get_mut(&key) else { return };
        match job.sources.next(|archive_id| served.contains(&archive_id)) {
            Some(Copy { archive_id, identity }) => {
                if let Some((failed, failure)) = job.sources.failed.last() {
                    tracing::warn!(path = job.action.path, archive_id = failed, %failure, next = archive_id, "a copy cannot be restored; the one in another archive is tried");
                }
                (job.archive_id, job.identity) = (archive_id, identity);
                self.dispatch(key);
            }
            None => {
                let failure = std::mem::take(&mut job.sources).verdict();
                self.ended(key, failure);
            }
        }
    }

    /// Whether a restore that failed goes on with another copy. A failure that is only for now is that copy's: it is tried again later.
    pub(super) fn tries_another_copy(&mut self, key: u64, failure: &Failure) -> bool {
        let Some(job) = self.jobs.get_mut(&key) else { return false };
        let wanted = job.action.command == Command::Restore
            && matches!(job.purpose, Purpose::Queued | Purpose::Reader)
            && !job.cancelled
            && !failure.is_cancelled();
        let begun = job.file.is_some() && (!job.sources.rest.is_empty() || job.sources.went_on());
        if !(wanted && begun && job.sources.go_on_after(failure)) {
            return false;
        }
        job.sources.failed.push((job.archive_id, failure.clone()));
        if let Some(file) = &job.file {
            // What came of the bad copy is not the content.
            punch_again(&file.fd, file.before.size, file.mtime);
        }
        self.shared.running.lock().remove(&key);
        self.restore_from_next(key);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Identity;

    fn sources(archives: &[u32]) -> Sources {
        let copy = |archive_id: &u32| Copy { archive_id: *archive_id, identity: Identity::default() };
        Sources::new(archives.iter().map(copy).collect())
    }

    #[test]
    fn archives_without_a_mover_are_passed_over() {
        let mut sources = sources(&[1, 2, 3]);
        assert_eq!(sources.next(|id| id != 1).map(|c| c.archive_id), Some(2));
        assert!(sources.went_on());
        assert_eq!(sources.next(|id| id == 1), None);
        assert_eq!((sources.verdict().kind, sources_verdict_errno(&[1])), (ErrorKind::Temporary, ENOTCONN));
    }

    fn sources_verdict_errno(archives: &[u32]) -> i32 {
        let mut sources = sources(archives);
        assert_eq!(sources.next(|_| false), None);
        sources.verdict().errno
    }

    #[test]
    fn it_is_hopeless_only_when_all_copies_are() {
        let mut sources = sources(&[1, 2]);
        let damaged = |archive_id| (archive_id, Failure::permanent(5, format!("object {archive_id} is damaged")));
        let _ = sources.next(|_| true);
        sources.failed.push(damaged(1));
        assert_eq!(sources.next(|_| false), None);
        let verdict = sources.verdict();
        assert_eq!((verdict.kind, verdict.errno), (ErrorKind::Temporary, ENOTCONN));
        assert!(verdict.message.contains("object 1 is damaged"), "{}", verdict.message);

        let thawing = (2, Failure::thawing("it is being thawed", 9));
        let verdict = Sources { rest: VecDeque::new(), failed: vec![(1, unserved(1)), thawing] }.verdict();
        assert_eq!(verdict.thaw.map(|thaw| thaw.again_s), Some(9), "{verdict}");

        let both = Sources { rest: VecDeque::new(), failed: vec![damaged(1), damaged(2)] }.verdict();
        assert_eq!((both.kind, both.errno), (ErrorKind::Permanent, 5));
        assert_eq!(both.message, "object 1 is damaged; the copy in archive 2: object 2 is damaged");
    }

    #[test]
    fn what_thaws_is_waited_for_when_the_other_copy_fails_for_now() {
        let mut found = sources(&[1, 2]);
        let busy = || Failure::temporary(5, "it is busy");
        assert!(!found.go_on_after(&busy()));
        let _ = found.next(|_| true);
        found.failed.push((1, Failure::thawing("it is being thawed", 9)));
        let _ = found.next(|_| true);
        assert!(found.go_on_after(&busy()));
        found.failed.push((2, busy()));
        assert_eq!(found.next(|_| true), None);
        assert_eq!(found.verdict().thaw.map(|thaw| thaw.again_s), Some(9));
    }
}
