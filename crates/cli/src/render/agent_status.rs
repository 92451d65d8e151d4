//! How the agent is, for people.

use super::table::table;
use super::units::span;
use crate::output::escaped;
use agent::admin::api::{SourceStatus, StatusReport};
use serde_json::Value;
use std::fmt::Write as _;

/// The whole report. `now_ms` is what the running time counts from.
pub(crate) fn human(report: &StatusReport, now_ms: u64) -> String {
    let up = span(now_ms.saturating_sub(report.started_ms));
    let mut out = format!("agent {} (pid {}), running for {up}\n", escaped(&report.version), report.pid);
    source(&mut out, &report.source);
    out.push('\n');
    outline(&mut out, &report.agent, 0);
    out
}

// Writing to a string does not fail, in all of this file.
fn source(out: &mut String, source: &SourceStatus) {
    let _ = writeln!(
        out,
        "filesystem {} ({}), mounts under {}",
        escaped(&source.filesystem),
        escaped(&source.kind),
        escaped(&source.mount_root)
    );
    match source.guard {
        Some(guard) => {
            let _ = writeln!(
                out,
                "guard pid {}: {} events, {} waiting, {} restarts; {} blocked readers",
                guard.pid, guard.events, guard.waiting_readers, guard.restarts, source.blocked_readers
            );
        }
        None => out.push_str("guard: none (released files are not restored on access)\n"),
    }
    let waiting: u64 = source.queue.iter().map(|entry| entry.count).sum();
    let _ =
        writeln!(out, "queue: {waiting} wait or run; {} succeeded, {} failed so far", source.succeeded, source.failed);
    if !source.queue.is_empty() {
        let row = |entry: &agent::admin::api::QueueCount| {
            let class = format!("{:?}", entry.class).to_lowercase();
            [class, entry.command.to_string(), entry.archive_id.to_string(), entry.count.to_string()]
        };
        let rows: Vec<_> = source.queue.iter().map(row).collect();
        out.push_str(&indented(&table(["CLASS", "COMMAND", "ARCHIVE", "ACTIONS"], &rows), 1));
    }
}

/// The agent's own part is shown as it comes: names and values, indented, so that nothing it learns to tell is left out.
fn outline(out: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match plain(field) {
                    Some(text) => {
                        let _ = writeln!(out, "{indent}{}: {text}", escaped(name));
                    }
                    None => {
                        let _ = writeln!(out, "{indent}{}:", escaped(name));
                        outline(out, field, depth + 1);
                    }
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut text = String::new();
                outline(&mut text, item, depth + 1);
                // The first line of an item takes a dash in place of its indentation.
                let _ = writeln!(out, "{indent}- {}", text.trim());
            }
        }
        other => {
            let _ = writeln!(out, "{indent}{}", plain(other).unwrap_or_default());
        }
    }
}

/// A value that fits behind its name.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some("-".to_owned()),
        Value::Bool(yes) => Some(if *yes { "yes" } else { "no" }.to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(escaped(text).into_owned()),
        Value::Array(items) if items.is_empty() => Some("none".to_owned()),
        Value::Array(items) if items.iter().all(|item| !item.is_array() && !item.is_object()) => {
            Some(items.iter().filter_map(plain).collect::<Vec<_>>().join(", "))
        }
        Value::Object(fields) if fields.is_empty() => Some("none".to_owned()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

fn indented(text: &str, depth: usize) -> String {
    text.lines().map(|line| format!("{}{line}\n", "  ".repeat(depth))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent::admin::api::{GuardStatus, QueueCount};
    use model::{Class, Command};

    #[test]
    fn everything_is_told() {
        let source = SourceStatus {
            filesystem: "/data".into(),
            kind: "xfs".into(),
            mount_root: "/mnt/lhsmd".into(),
            guard: Some(GuardStatus { pid: 41, restarts: 1, events: 5000, waiting_readers: 2 }),
            queue: vec![
                QueueCount { class: Class::Reader, command: Command::Restore, archive_id: 1, count: 2 },
                QueueCount { class: Class::Archive, command: Command::Archive, archive_id: 12, count: 30_000 },
            ],
            succeeded: 99,
            failed: 1,
            blocked_readers: 2,
        };
        let agent = serde_json::json!({
            "movers": [{ "name": "posix", "state": "running", "archives": [1, 12] }, { "name": "tape", "state": "hangs", "archives": [] }],
            "in_flight": 20,
        });
        let report = StatusReport { version: "0.1.0".into(), pid: 42, started_ms: 0, agent, source };
        insta::assert_snapshot!(human(&report, 3_720_000), @r"
        agent 0.1.0 (pid 42), running for 1h02m
        filesystem /data (xfs), mounts under /mnt/lhsmd
        guard pid 41: 5000 events, 2 waiting, 1 restarts; 2 blocked readers
        queue: 30002 wait or run; 99 succeeded, 1 failed so far
          CLASS    COMMAND  ARCHIVE  ACTIONS
          reader   restore  1        2
          archive  archive  12       30000

        in_flight: 20
        movers:
          - archives: 1, 12
            name: posix
            state: running
          - archives: none
            name: tape
            state: hangs
        ");
    }
}
