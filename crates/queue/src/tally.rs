//! Sums over one transaction: what changes in the counters by class, command and archive, by request, and over all.
//!
//! A batch of thousands of actions usually belongs to a few requests, so counters are written once a transaction and
//! not once an action. Both implementations use this, and so count and forget by the same rules.

use crate::{RequestId, RequestStatus};
use model::{Class, Command, Failure};
use std::collections::BTreeMap;

/// How much of what is finished an implementation keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    /// Newest results (in the order of finishing) that were successes.
    pub successes: u64,
    /// Newest results that were failures, cancelled ones among them.
    pub failures: u64,
    /// Newest requests all of whose actions have finished.
    pub requests: u64,
    /// How long such a request is kept after its last action, in milliseconds.
    pub request_ms: u64,
}

impl Retention {
    /// 10,000 successes, 100,000 failures, 100,000 finished requests for 7 days.
    pub const DEFAULT: Self =
        Self { successes: 10_000, failures: 100_000, requests: 100_000, request_ms: 7 * 24 * 3600 * 1000 };
}

impl Default for Retention {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The largest time, id or number of bytes that is kept: what a signed 64-bit column holds.
pub(crate) fn clamp(n: u64) -> u64 {
    n.min(i64::MAX as u64)
}

/// A request's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestCounts {
    pub(crate) status: RequestStatus,
    /// When the last of its actions finished.
    pub(crate) last_ms: u64,
}

impl RequestCounts {
    pub(crate) fn is_done(&self) -> bool {
        let s = &self.status;
        s.total > 0 && s.succeeded.saturating_add(s.failed).saturating_add(s.cancelled) >= s.total
    }

    pub(crate) fn add(&mut self, more: &Self) {
        let (s, m) = (&mut self.status, &more.status);
        for (n, by) in [
            (&mut s.total, m.total),
            (&mut s.succeeded, m.succeeded),
            (&mut s.failed, m.failed),
            (&mut s.cancelled, m.cancelled),
            (&mut s.bytes, m.bytes),
        ] {
            *n = clamp(n.saturating_add(by));
        }
        self.last_ms = self.last_ms.max(more.last_ms);
    }
}

/// What one transaction changes in the counters.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) live: BTreeMap<(Class, Command, u32), i64>,
    pub(crate) requests: BTreeMap<RequestId, RequestCounts>,
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    /// The latest time at which something finished; `None` when nothing did.
    pub(crate) finished_ms: Option<u64>,
}

impl Tally {
    pub(crate) fn submitted(&mut self, request: RequestId, class: Class, command: Command, archive_id: u32) {
        self.count_live(class, command, archive_id, 1);
        self.count_request(request, RequestStatus { total: 1, ..RequestStatus::default() }, 0);
    }

    pub(crate) fn moved(&mut self, from: Class, to: Class, command: Command, archive_id: u32) {
        self.count_live(from, command, archive_id, -1);
        self.count_live(to, command, archive_id, 1);
    }

    pub(crate) fn finished(
        &mut self,
        (request, class, command, archive_id): (RequestId, Class, Command, u32),
        result: &Result<(), Failure>,
        bytes: u64,
        finished_ms: u64,
    ) {
        self.count_live(class, command, archive_id, -1);
        let mut status = RequestStatus::default();
        match result {
            Ok(()) => {
                self.succeeded += 1;
                (status.succeeded, status.bytes) = (1, bytes);
            }
            Err(failure) => {
                self.failed += 1;
                *(if failure.is_cancelled() { &mut status.cancelled } else { &mut status.failed }) = 1;
            }
        }
        self.count_request(request, status, finished_ms);
        self.finished_ms = self.finished_ms.max(Some(finished_ms));
    }

    fn count_live(&mut self, class: Class, command: Command, archive_id: u32, by: i64) {
        *self.live.entry((class, command, archive_id)).or_default() += by;
    }

    fn count_request(&mut self, request: RequestId, status: RequestStatus, last_ms: u64) {
        if request != RequestId(0) {
            self.requests.entry(request).or_default().add(&RequestCounts { status, last_ms });
        }
    }
}
