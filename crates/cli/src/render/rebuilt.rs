//! What `rebuild` made.

use super::units::bytes;
use maintenance::rebuild::Counts;
use std::fmt::Write as _;

/// The totals for people: what was made, then what is not right.
pub(crate) fn human(counts: &Counts, dry_run: bool) -> String {
    let made = if dry_run { "would make" } else { "made" };
    let mut out = format!(
        "{} manifests read; {made} {} released files ({}), {} directories, {} links and special files, {} further names",
        counts.manifests,
        counts.files,
        bytes(counts.bytes),
        counts.directories,
        counts.others,
        counts.links
    );
    if counts.orphans > 0 {
        let _ = write!(out, ", {} files without a path", counts.orphans);
    }
    if counts.already > 0 {
        let _ = write!(out, "; {} were there", counts.already);
    }
    out.push('\n');
    let told = [
        (counts.superseded, "manifests do not count, since there are newer ones"),
        (counts.conflicts, "places are taken by something else, which was left as it is"),
        (counts.lost, "files have lost their object: their content is gone"),
        (counts.bad_manifests, "manifests are damaged or unknown"),
        (counts.without_manifest, "objects have no usable manifest (--orphans gives them names)"),
        (counts.without_path, "manifests do not say where their file was (--orphans gives them names)"),
        (counts.without_inode, "further names are of files that are not there"),
        (counts.attributes, "attributes are not as they were"),
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
    fn what_is_not_right_is_told_line_by_line() {
        let counts = Counts { manifests: 12, files: 9, bytes: 3 << 20, directories: 2, ..Counts::default() };
        insta::assert_snapshot!(human(&counts, false), @"12 manifests read; made 9 released files (3.0 MiB), 2 directories, 0 links and special files, 0 further names");
        let counts = Counts { already: 3, orphans: 1, conflicts: 1, lost: 2, failed: 4, ..counts };
        insta::assert_snapshot!(human(&counts, true), @r"
        12 manifests read; would make 9 released files (3.0 MiB), 2 directories, 0 links and special files, 0 further names, 1 files without a path; 3 were there
        1 places are taken by something else, which was left as it is
        2 files have lost their object: their content is gone
        4 things could not be made
        ");
    }
}
