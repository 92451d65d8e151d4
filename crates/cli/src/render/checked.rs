//! What `fsck` found.

use maintenance::fsck::Report;
use std::fmt::Write as _;

/// The totals for people: what there is, what is wrong, what was done.
pub(crate) fn human(report: &Report) -> String {
    let mut out = format!(
        "{} objects, {} of them named by files; {} manifests alone; {} files with HSM state\n",
        report.objects, report.named, report.manifests_alone, report.files
    );
    let told = [
        (report.orphans, "are nobody's"),
        (report.removed, "of them were removed"),
        (report.missing, "files have lost their object"),
        (report.found_again, "files are marked lost although their object is there"),
        (report.wrong, "files have attributes that cannot be"),
        (report.repaired, "files were put right"),
        (report.failed, "things could not be looked at or put right"),
        (report.troubles, "files or directories could not be seen"),
        (report.unreadable, "have a manifest that cannot be read, and no file that names them"),
        (report.strange, "lie among the archive's objects and are perhaps somebody else's"),
        (report.strays, "copies of objects lie under keys that nothing leads to"),
        (report.foreign, "were archived from another filesystem and are named by no file here (see --foreign)"),
        (report.imported, "files name objects of others, which were imported: those were not looked at"),
        (report.claimed, "are on their way: the agent sees to them"),
        (report.young, "are too young to tell (see --min-age)"),
    ];
    for (count, what) in told.into_iter().filter(|(count, _)| *count > 0) {
        let _ = writeln!(out, "{count} {what}");
    }
    if let Some(why) = report.refused {
        let _ = writeln!(out, "nothing was removed: {why} (--force removes all the same)");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_comes_after_what_there_is() {
        let report = Report { objects: 7, named: 5, files: 6, ..Report::default() };
        insta::assert_snapshot!(human(&report), @"7 objects, 5 of them named by files; 0 manifests alone; 6 files with HSM state");
        let why = Some("not every file could be looked at");
        let report = Report { orphans: 2, troubles: 1, young: 3, refused: why, ..report };
        insta::assert_snapshot!(human(&report), @r"
        7 objects, 5 of them named by files; 0 manifests alone; 6 files with HSM state
        2 are nobody's
        1 files or directories could not be seen
        3 are too young to tell (see --min-age)
        nothing was removed: not every file could be looked at (--force removes all the same)
        ");
    }
}
