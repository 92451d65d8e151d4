//! What `scrub` read and found.

use super::units::bytes;
use crate::mend::Mended;
use maintenance::scrub::Counts;
use std::fmt::Write as _;

/// The totals for people.
pub(crate) fn human(counts: &Counts) -> String {
    let mut out = format!("{} objects ({}) and {} records read\n", counts.objects, bytes(counts.bytes), counts.records);
    let told = [
        (counts.damaged, "objects are damaged"),
        (counts.damaged_packs, "damages of packs, those of their members among them"),
        (counts.bad_manifests, "manifests are damaged"),
        (counts.lost, "manifests have lost their object"),
        (counts.failed, "could not be read"),
        (counts.unverified, "objects have no manifest to compare them with"),
        (counts.cold, "objects lie in a cold storage class and were passed over"),
    ];
    for (count, what) in told.into_iter().filter(|(count, _)| *count > 0) {
        let _ = writeln!(out, "{count} {what}");
    }
    out
}

/// What was repaired, for people.
pub(crate) fn mended(mended: &Mended) -> String {
    let Mended { repaired, unnamed, failed } = mended;
    format!("repaired: {repaired} objects made anew, {unnamed} that no file names any more, {failed} not repaired\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_comes_after_what_was_read() {
        let counts = Counts { objects: 12, bytes: 3 << 20, records: 4, damaged: 1, unverified: 2, ..Counts::default() };
        insta::assert_snapshot!(human(&counts), @r"
        12 objects (3.0 MiB) and 4 records read
        1 objects are damaged
        2 objects have no manifest to compare them with
        ");
    }
}
