//! What `migrate` did.

use super::units::bytes;
use jobs::report::Totals;
use std::fmt::Write as _;

/// The totals for people.
pub(crate) fn human(totals: &Totals, dry: bool) -> String {
    let verb = if dry { "would be copied" } else { "copied" };
    let mut out = format!("{} files ({}) {verb}", totals.files, bytes(totals.bytes));
    let others = [
        (totals.directories, "directories"),
        (totals.symlinks, "symbolic links"),
        (totals.specials, "pipes, sockets and devices"),
    ];
    for (count, what) in others.into_iter().filter(|(count, _)| *count > 0) {
        let _ = write!(out, ", {count} {what}");
    }
    out.push('\n');
    let told = [
        (
            totals.resumed,
            "directories were finished before the interruption: what changed in them since is for the next pass",
        ),
        (totals.linked, "are further names of files"),
        (totals.same, "are there already"),
        (totals.updated, "were brought in line in owner, mode or attributes"),
        (
            totals.deleted,
            if dry { "would be removed from the destination" } else { "were removed from the destination" },
        ),
        (totals.verified, "files were read again on both sides and are equal"),
        (totals.filtered, "were left out by filters"),
        (totals.elsewhere, "directories of other filesystems were not entered"),
        (totals.skipped, "pipes, sockets and devices were skipped: a bucket has none"),
        (totals.vanished, "were removed from the source meanwhile"),
        (totals.incomplete, "lack an attribute"),
        (totals.changed, "changed while they were copied: run it again"),
        (totals.refused, "are something else at the destination, and were left"),
        (totals.failed, "failed"),
    ];
    for (count, what) in told.into_iter().filter(|(count, _)| *count > 0) {
        let _ = writeln!(out, "{count} {what}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_comes_last() {
        let totals =
            Totals { files: 3, bytes: 5000, directories: 2, same: 7, refused: 1, failed: 2, ..Totals::default() };
        insta::assert_snapshot!(human(&totals, false), @r"
        3 files (4.9 KiB) copied, 2 directories
        7 are there already
        1 are something else at the destination, and were left
        2 failed
        ");
    }
}
