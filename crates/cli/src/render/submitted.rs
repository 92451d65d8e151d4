//! What became of `archive`, `restore` and `remove`.

use super::units::bytes;
use agent::admin::api::{FinishedView, Refused, RequestStatus};
use serde::Serialize;
use std::fmt::Write as _;

/// The totals of all calls of one command.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Totals {
    /// `None`: no file was sent to an agent.
    pub(crate) request: Option<u64>,
    pub(crate) accepted: u64,
    /// Accepted by Lustre, which numbers no requests; counted in `accepted`.
    pub(crate) on_lustre: u64,
    /// Directories, links and special files that are recorded beside the files.
    pub(crate) records: u64,
    pub(crate) already: u64,
    /// Refused by the agent or before.
    pub(crate) refused_count: u64,
    /// The first of them.
    pub(crate) refused: Vec<Refused>,
    /// How it ended, when it was waited for.
    pub(crate) status: Option<RequestStatus>,
    /// Why actions failed, when it was waited for; a bounded number of them.
    pub(crate) failures: Vec<FinishedView>,
}

impl Totals {
    pub(crate) fn all_well(&self) -> bool {
        let ended_well = self.status.is_none_or(|status| status.failed == 0 && status.cancelled == 0);
        self.refused_count == 0 && self.failures.is_empty() && ended_well
    }

    /// Adds how actions on Lustre ended to what is known of those of an agent.
    pub(crate) fn add(&mut self, other: RequestStatus, failures: Vec<FinishedView>) {
        let status = self.status.get_or_insert_default();
        status.total += other.total;
        status.succeeded += other.succeeded;
        status.failed += other.failed;
        status.cancelled += other.cancelled;
        status.bytes += other.bytes;
        self.failures.extend(failures);
    }
}

/// Lines for people.
pub(crate) fn human(command: &str, totals: &Totals) -> String {
    let request = match totals.request {
        Some(request) => format!("request {request}: "),
        None if totals.on_lustre + totals.already + totals.refused_count > 0 => String::new(),
        None => return format!("no files to {command}\n"),
    };
    let mut out = format!("{request}{command} of {} files accepted", totals.accepted);
    let mut count = |n: u64, what: &str| {
        if n > 0 {
            // Writing to a string does not fail.
            let _ = write!(out, ", {n} {what}");
        }
    };
    count(totals.records, "directories, links and other names to record");
    count(totals.already, "had nothing to do");
    count(totals.refused_count, "refused");
    out.push('\n');
    if let Some(status) = totals.status {
        let _ = write!(out, "done: {} succeeded, {} failed", status.succeeded, status.failed);
        if status.cancelled > 0 {
            let _ = write!(out, ", {} cancelled", status.cancelled);
        }
        let _ = writeln!(out, ", {} moved", bytes(status.bytes));
    }
    out
}

/// What goes with a progress bar.
pub(crate) fn progress(status: &RequestStatus) -> String {
    let moved = bytes(status.bytes.saturating_add(status.in_flight_bytes));
    if status.failed > 0 { format!("{moved} moved, {} failed", status.failed) } else { format!("{moved} moved") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals() -> Totals {
        let refused = Refused { path: "/fs/a\nb".into(), errno: 18, message: "another filesystem".into() };
        Totals {
            request: Some(12),
            accepted: 340,
            already: 12,
            refused_count: 1,
            refused: vec![refused],
            ..Totals::default()
        }
    }

    #[test]
    fn accepted() {
        insta::assert_snapshot!(human("archive", &totals()), @"request 12: archive of 340 files accepted, 12 had nothing to do, 1 refused");
        insta::assert_json_snapshot!(totals(), @r#"
        {
          "request": 12,
          "accepted": 340,
          "on_lustre": 0,
          "records": 0,
          "already": 12,
          "refused_count": 1,
          "refused": [
            {
              "path": "/fs/a\nb",
              "errno": 18,
              "message": "another filesystem"
            }
          ],
          "status": null,
          "failures": []
        }
        "#);
    }

    #[test]
    fn waited_for() {
        let status =
            RequestStatus { total: 340, succeeded: 338, failed: 1, cancelled: 1, bytes: 5 << 30, in_flight_bytes: 0 };
        let totals = Totals { request: Some(12), accepted: 340, status: Some(status), ..Totals::default() };
        insta::assert_snapshot!(human("restore", &totals), @r"
        request 12: restore of 340 files accepted
        done: 338 succeeded, 1 failed, 1 cancelled, 5.0 GiB moved
        ");
        assert_eq!(progress(&status), "5.0 GiB moved, 1 failed");
        assert!(!totals.all_well());
    }

    #[test]
    fn lustre_numbers_no_requests() {
        let mut totals = Totals { accepted: 3, on_lustre: 2, already: 1, ..Totals::default() };
        assert_eq!(human("archive", &totals), "archive of 3 files accepted, 1 had nothing to do\n");
        totals.add(RequestStatus { total: 2, succeeded: 1, failed: 1, ..RequestStatus::default() }, Vec::new());
        assert!(!totals.all_well());
        totals.request = Some(4);
        let text = human("archive", &totals);
        assert!(text.starts_with("request 4: archive of 3 files accepted") && text.contains("1 failed"), "{text}");
    }

    #[test]
    fn nothing_to_do() {
        assert_eq!(human("remove", &Totals::default()), "no files to remove\n");
        assert!(Totals::default().all_well());
    }
}
