//! What `sifaka doctor` found.

use crate::doctor::{Check, State};
use crate::output::escaped;
use std::fmt::Write as _;

/// A line a check, with what follows from it below when it is not well.
pub(crate) fn human(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for Check { name, state, detail, consequence } in checks {
        let mark = match state {
            State::Ok => "ok  ",
            State::Warn => "warn",
            State::Fail => "FAIL",
        };
        // Writing to a string does not fail.
        let _ = writeln!(out, "{mark}  {name:width$}  {}", escaped(detail));
        if !consequence.is_empty() {
            let _ = writeln!(out, "      {:width$}  -> {}", "", escaped(consequence));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_stands_below() {
        let checks = [
            Check { name: "kernel", state: State::Ok, detail: "6.18.0".into(), consequence: String::new() },
            Check {
                name: "filesystem",
                state: State::Fail,
                detail: "tmpfs".into(),
                consequence: "no release here".into(),
            },
        ];
        insta::assert_snapshot!(human(&checks), @r"
        ok    kernel      6.18.0
        FAIL  filesystem  tmpfs
                          -> no release here
        ");
        insta::assert_json_snapshot!(checks, @r#"
        [
          {
            "name": "kernel",
            "state": "ok",
            "detail": "6.18.0",
            "consequence": ""
          },
          {
            "name": "filesystem",
            "state": "fail",
            "detail": "tmpfs",
            "consequence": "no release here"
          }
        ]
        "#);
    }
}
