//! What `release` did.

use super::units::bytes;
use agent::admin::api::Refused;
use serde::Serialize;

/// The totals of all calls of one command.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Totals {
    pub(crate) released: u64,
    /// Freed.
    pub(crate) bytes: u64,
    pub(crate) already: u64,
    /// Refused by the agent or before.
    pub(crate) refused_count: u64,
    /// The first of them.
    pub(crate) refused: Vec<Refused>,
}

/// A line for people.
pub(crate) fn human(totals: &Totals) -> String {
    let mut out = format!("{} files released, {} freed", totals.released, bytes(totals.bytes));
    if totals.already > 0 {
        out.push_str(&format!(", {} were released already", totals.already));
    }
    if totals.refused_count > 0 {
        out.push_str(&format!(", {} refused", totals.refused_count));
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_freed_is_told() {
        let totals = Totals { released: 3, bytes: 3 << 20, ..Totals::default() };
        assert_eq!(human(&totals), "3 files released, 3.0 MiB freed\n");
        let totals = Totals { already: 1, refused_count: 2, ..totals };
        assert_eq!(human(&totals), "3 files released, 3.0 MiB freed, 1 were released already, 2 refused\n");
    }
}
