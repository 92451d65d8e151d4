//! What `verify --archive` found.

use super::units::bytes;
use maintenance::verify::Totals;
use std::fmt::Write as _;

/// The totals for people.
pub(crate) fn human(totals: &Totals, content: bool) -> String {
    let mut out = format!("{} files are as the archive has them", totals.same);
    if content {
        let _ = write!(out, ", {} read", bytes(totals.bytes));
    }
    out.push('\n');
    let told = [
        (totals.released, "of what was compared are released"),
        (totals.shared, "of it name the object of another file: only content is compared"),
        (totals.undescribed, "of it have no manifest in the archive: only size and content are compared"),
        (totals.cold, "objects lie in a cold storage class and were not read"),
        (totals.filtered, "were left out by filters"),
        (totals.unarchived, "are not archived"),
        (totals.elsewhere, "are archived elsewhere"),
        (totals.imported, "name objects of others, which were imported: those were not looked at"),
        (totals.dirty, "were changed since they were archived, and are not compared"),
        (totals.vanished, "were removed meanwhile"),
        (totals.claimed, "objects that no file names are on their way: the agent sees to them"),
        (totals.young, "objects that no file names were stored meanwhile"),
        (totals.foreign, "objects were archived from another filesystem and are named by no file here"),
        (totals.strange, "lie among the archive's objects and are perhaps somebody else's"),
        (totals.changed, "changed each time that they were compared"),
        (totals.failed, "could not be compared"),
        (totals.extra, "objects are named by no file"),
        (totals.missing, "files have lost their object"),
        (totals.differs, "differ"),
    ];
    for (count, what) in told.into_iter().filter(|(count, _)| *count > 0) {
        let _ = writeln!(out, "{count} {what}");
    }
    let verdict = match (totals.differ(), totals.is_complete()) {
        (true, _) => "tree and archive differ; compared ",
        (false, true) => "the archive has what the tree says; compared ",
        (false, false) => "no difference was found in what could be compared ",
    };
    out + verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_comes_last() {
        let totals = Totals { same: 12, released: 3, dirty: 1, extra: 1, bytes: 5000, ..Totals::default() };
        insta::assert_snapshot!(human(&totals, true), @r"
        12 files are as the archive has them, 4.9 KiB read
        3 of what was compared are released
        1 were changed since they were archived, and are not compared
        1 objects are named by no file
        tree and archive differ; compared
        ");
        assert!(human(&Totals { dirty: 1, ..Totals::default() }, false).contains("the archive has what the tree says"));
        assert!(human(&Totals { failed: 1, ..Totals::default() }, false).contains("no difference was found in"));
    }
}
