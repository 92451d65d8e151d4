//! What a benchmark found, and whether it is what was aimed at.

use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// What is aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    /// The median of ours is at least this.
    AtLeast(f64),
    /// The median of ours is at most this.
    AtMost(f64),
    /// Times: the median of the peer, divided by that of ours, is at least this.
    Speed(f64),
    /// Only told.
    None,
}

/// The values of one side, in the order in which they were measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) values: Vec<f64>,
}

impl Series {
    pub(crate) fn of(name: &str, values: Vec<f64>) -> Self {
        Self { name: name.to_owned(), values }
    }
}

/// One line of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Finding {
    pub(crate) what: String,
    /// Of the values: `s`, `/s`, `ms`, `MiB`.
    pub(crate) unit: String,
    pub(crate) goal: Goal,
    pub(crate) ours: Series,
    pub(crate) peer: Option<Series>,
}

/// Smallest, median and largest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of at least one value.
    pub(crate) fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len().is_multiple_of(2) { (sorted[middle - 1] + sorted[middle]) / 2.0 } else { sorted[middle] };
        Self { min: sorted[0], median, max: sorted[sorted.len() - 1] }
    }

    fn text(self, unit: &str) -> String {
        let Self { min, median, max } = self;
        format!("{} / **{}** / {} {unit}", number(min), number(median), number(max))
    }
}

impl Finding {
    /// Without anybody to compare with.
    pub(crate) fn alone(what: impl Into<String>, unit: &str, goal: Goal, ours: Series) -> Self {
        Self { what: what.into(), unit: unit.to_owned(), goal, ours, peer: None }
    }

    /// Seconds beside seconds.
    pub(crate) fn beside(what: impl Into<String>, speed: f64, ours: Series, peer: Series) -> Self {
        Self { what: what.into(), unit: "s".to_owned(), goal: Goal::Speed(speed), ours, peer: Some(peer) }
    }

    /// How much faster ours is: of the medians, and of the pairs that ran one after the other.
    pub(crate) fn speed(&self) -> Option<(f64, Spread)> {
        let peer = self.peer.as_ref()?;
        let pairs: Vec<f64> = peer.values.iter().zip(&self.ours.values).map(|(peer, ours)| peer / ours).collect();
        let of_medians = Spread::of(&peer.values).median / Spread::of(&self.ours.values).median;
        Some((of_medians, Spread::of(&pairs)))
    }

    fn verdict(&self) -> String {
        let median = Spread::of(&self.ours.values).median;
        let (reached, met) = match self.goal {
            Goal::AtLeast(goal) => (median / goal, median >= goal),
            Goal::AtMost(goal) => (median / goal, median <= goal),
            Goal::Speed(goal) => self.speed().map_or((0.0, false), |(speed, _)| (speed / goal, speed >= goal)),
            Goal::None => return String::from("–"),
        };
        let percent = (reached - 1.0) * 100.0;
        let word = if met { "met" } else { "**missed**" };
        format!("{word} ({percent:+.0} %)")
    }

    fn target(&self) -> String {
        match self.goal {
            Goal::AtLeast(goal) => format!("≥ {} {}", number(goal), self.unit),
            Goal::AtMost(goal) => format!("≤ {} {}", number(goal), self.unit),
            Goal::Speed(goal) => format!("≥ {goal:.2} × as fast"),
            Goal::None => String::from("–"),
        }
    }
}

/// The findings of one benchmark as a Markdown table.
pub(crate) fn table(findings: &[Finding]) -> String {
    let mut text = String::from(
        "| measurement | target | Sifaka: min / median / max | peer: min / median / max | speed: medians (pairs) | verdict |\n\
         |---|---|---|---|---|---|\n",
    );
    for finding in findings {
        let ours = Spread::of(&finding.ours.values).text(&finding.unit);
        let peer = finding.peer.as_ref().map_or_else(
            || String::from("–"),
            |peer| format!("{}: {}", peer.name, Spread::of(&peer.values).text(&finding.unit)),
        );
        let speed = finding.speed().map_or_else(
            || String::from("–"),
            |(medians, pairs)| format!("**{medians:.2}** ({:.2} to {:.2})", pairs.min, pairs.max),
        );
        let (what, target, verdict) = (&finding.what, finding.target(), finding.verdict());
        writeln!(text, "| {what} | {target} | {ours} | {peer} | {speed} | {verdict} |").expect("a string grows");
    }
    text
}

/// With about three digits, and thousands set apart.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => {
            let digits = format!("{value:.0}");
            let mut text = String::new();
            for (index, digit) in digits.chars().enumerate() {
                if index > 0 && (digits.len() - index).is_multiple_of(3) {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
