//! What became of files on Lustre that were worked on.

use super::units::bytes;
use crate::lustre::{Totals, Verb};
use ::lustre::rebalance::Level;
use std::fmt::Write as _;

/// The totals for people.
pub(crate) fn human(verb: Verb, totals: &Totals) -> String {
    let mut out = match (verb, totals.would) {
        (Verb::Split, 0) => format!("{} files {}\n", totals.done, verb.done()),
        (Verb::Split, would) => format!("{would} files would be {}\n", verb.done()),
        (_, 0) => format!("{} files {} ({})\n", totals.done, verb.done(), bytes(totals.bytes)),
        (_, would) => format!("{would} files would be {} ({})\n", verb.done(), bytes(totals.bytes)),
    };
    let told = [
        (totals.already, "had nothing to be done"),
        (totals.unsuited, "cannot be worked on"),
        (totals.busy, "were in use, and are as they were"),
        (totals.differing, "have mirrors that differ"),
        (totals.failed, "failed"),
    ];
    for (count, what) in told.into_iter().filter(|(count, _)| *count > 0) {
        let _ = writeln!(out, "{count} {what}");
    }
    // Which ones was not told file by file.
    let reasons = totals.reasons.iter().filter(|_| verb == Verb::Rebalance);
    for (why, count) in reasons {
        let _ = writeln!(out, "  {count}: {why}");
    }
    out
}

/// Whether it was enough.
pub(crate) fn verdict(balanced: bool) -> &'static str {
    if balanced {
        "all are within the distance\n"
    } else {
        "not all are within the distance: what could be moved was\n"
    }
}

/// A table of OSTs before and after.
pub(crate) fn levels(before: &[Level], after: &[Level]) -> String {
    let mut out = String::new();
    for (before, after) in before.iter().zip(after) {
        let percent = |level: &Level| level.fraction() * 100.0;
        let _ = writeln!(out, "OST {:<5} {:>5.1} % -> {:>5.1} %", before.ost, percent(before), percent(after));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_done_comes_after_what_was() {
        let totals = Totals { done: 3, bytes: 5 << 20, already: 2, busy: 1, ..Totals::default() };
        insta::assert_snapshot!(human(Verb::Extend, &totals), @r"
        3 files extended (5.0 MiB)
        2 had nothing to be done
        1 were in use, and are as they were
        ");
        let mut left = Totals { unsuited: 2, ..Totals::default() };
        left.reasons.insert("has mirrors", 2);
        insta::assert_snapshot!(human(Verb::Rebalance, &left), @r"
        0 files moved (0 B)
        2 cannot be worked on
          2: has mirrors
        ");
        let dry = Totals { would: 7, bytes: 1 << 20, ..Totals::default() };
        insta::assert_snapshot!(human(Verb::Resync, &dry), @"7 files would be resynced (1.0 MiB)");
    }
}
