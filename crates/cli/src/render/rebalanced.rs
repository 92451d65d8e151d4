//! What became of an archive whose objects were moved between its roots.

use super::units::bytes;
use crate::output::escaped_path;
use std::fmt::Write as _;
use transfer::Rebalanced;

/// The result for people.
pub(crate) fn human(done: &Rebalanced, is_drain: bool, dry_run: bool) -> String {
    let verb = if dry_run { "would be moved" } else { "moved" };
    let mut out = format!("{} objects and packs {verb} ({})\n", done.moved, bytes(done.moved_bytes));
    if done.twins > 0 {
        let _ = writeln!(out, "{} second copies removed", done.twins);
    }
    if done.failed > 0 {
        let _ = writeln!(out, "{} cannot be moved", done.failed);
    }
    for root in &done.roots {
        let (before, after) = (root.before * 100.0, root.after * 100.0);
        let note = if root.drained { "  (takes nothing new)" } else { "" };
        let _ = writeln!(out, "{:>5.1} % -> {:>5.1} %  {}{note}", before, after, escaped_path(&root.path));
    }
    out += match (is_drain, done.done) {
        (true, true) if dry_run => "all of it can be moved\n",
        (true, true) => "the root is empty: take it out of the configuration, and start the mover anew\n",
        (true, false) => "the root is not empty: what could be moved was\n",
        (false, true) => "all are within the distance\n",
        (false, false) => "not all are within the distance: what could be moved was\n",
    };
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use transfer::RootFill;

    #[test]
    fn roots_are_told_before_and_after() {
        let root = |path: &str, before, after, drained| RootFill { path: path.into(), before, after, drained };
        let done = Rebalanced {
            roots: vec![root("/a", 0.5, 0.0, true), root("/b\n", 0.101, 0.7, false)],
            moved: 3,
            moved_bytes: 5 << 20,
            twins: 1,
            done: true,
            ..Rebalanced::default()
        };
        insta::assert_snapshot!(human(&done, true, false), @r"
        3 objects and packs moved (5.0 MiB)
        1 second copies removed
         50.0 % ->   0.0 %  /a  (takes nothing new)
         10.1 % ->  70.0 %  /b\n
        the root is empty: take it out of the configuration, and start the mover anew
        ");
    }
}
