//! What `import` made of a bucket.

use super::units::bytes;
use maintenance::foreign::Counts;
use std::fmt::Write as _;

/// The totals for people: what was made, then what is not.
pub(crate) fn human(counts: &Counts, dry_run: bool) -> String {
    let made = if dry_run { "would make" } else { "made" };
    let mut out =
        format!("{} objects listed; {made} {} released files ({})", counts.objects, counts.files, bytes(counts.bytes));
    if counts.already > 0 {
        let _ = write!(out, "; {} were there", counts.already);
    }
    out.push('\n');
    let told = [
        (counts.replaced, "files were made anew, since their objects are other versions now"),
        (counts.ours, "objects belong to archives of Sifaka's: they were passed over"),
        (counts.markers, "empty objects stand for directories: nothing was made of them"),
        (counts.bad_names, "objects have names that no file can have"),
        (counts.conflicts, "places are taken by something else, which was left as it is"),
        (counts.changed, "objects are other versions now, and their files were left as they are"),
        (counts.failed, "things could not be made"),
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
    fn what_was_not_made_is_told_line_by_line() {
        let counts =
            Counts { objects: 12, files: 9, bytes: 3 << 20, already: 1, ours: 1, bad_names: 1, ..Counts::default() };
        insta::assert_snapshot!(human(&counts, false), @r"
        12 objects listed; made 9 released files (3.0 MiB); 1 were there
        1 objects belong to archives of Sifaka's: they were passed over
        1 objects have names that no file can have
        ");
    }
}
