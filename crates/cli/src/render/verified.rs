//! What `verify` found.

use super::units::bytes;
use jobs::verify::Totals;
use std::fmt::Write as _;

/// The totals for people.
pub(crate) fn human(totals: &Totals, content: bool) -> String {
    let mut out = format!("{} are the same", totals.same);
    if content {
        let _ = write!(out, ", {} read in each tree", bytes(totals.bytes));
    }
    out.push('\n');
    let told = [
        (totals.filtered, "were left out by filters"),
        (totals.elsewhere, "directories of other filesystems were not entered"),
        (totals.skipped, "pipes, sockets and devices were skipped: a bucket has none"),
        (totals.vanished, "were removed from the first tree meanwhile"),
        (
            totals.unclear_links,
            "are names of files with several, of which there are too many to compare how they are linked",
        ),
        (totals.changed, "changed each time that they were compared"),
        (totals.failed, "could not be compared"),
        (totals.extra, "are only in the second tree"),
        (totals.missing, "are only in the first tree"),
        (totals.differs, "differ"),
    ];
    for (count, what) in told.into_iter().filter(|(count, _)| *count > 0) {
        let _ = writeln!(out, "{count} {what}");
    }
    let verdict = match (totals.differ(), totals.is_complete()) {
        (true, _) => "the trees differ; compared ",
        (false, true) => "the trees are the same; compared ",
        (false, false) => "no difference was found in what could be compared ",
    };
    out + verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_comes_last() {
        let totals = Totals { same: 12, differs: 2, extra: 1, bytes: 5000, ..Totals::default() };
        insta::assert_snapshot!(human(&totals, true), @r"
        12 are the same, 4.9 KiB read in each tree
        1 are only in the second tree
        2 differ
        the trees differ; compared
        ");
        assert!(human(&Totals::default(), false).ends_with("\nthe trees are the same; compared "));
        assert!(human(&Totals { failed: 1, ..Totals::default() }, false).contains("no difference was found in"));
    }
}
