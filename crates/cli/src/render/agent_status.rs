//! How the agent is, for people.

use super::table::table;
use super::units::{bytes, span};
use crate::output::escaped;
use agent::admin::api::{SourceStatus, StatusReport};
use serde::Deserialize;
use serde_json::Value;
use std::fmt::Write as _;

/// The whole report. `now_ms` is what the running time counts from.
pub(crate) fn human(report: &StatusReport, now_ms: u64) -> String {
    let up = span(now_ms.saturating_sub(report.started_ms));
    let mut out = format!("agent {} (pid {}), running for {up}\n", escaped(&report.version), report.pid);
    source(&mut out, &report.source);
    agent_part(&mut out, &report.agent);
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
    if source.damaged_chunks > 0 {
        let _ = writeln!(
            out,
            "DAMAGED: {} times a part of a file could not be restored; the log says which",
            source.damaged_chunks
        );
    }
    if !source.queue.is_empty() {
        let row = |entry: &agent::admin::api::QueueCount| {
            let class = format!("{:?}", entry.class).to_lowercase();
            [class, entry.command.to_string(), entry.archive_id.to_string(), entry.count.to_string()]
        };
        let rows: Vec<_> = source.queue.iter().map(row).collect();
        out.push_str(&indented(&table(["CLASS", "COMMAND", "ARCHIVE", "ACTIONS"], &rows), 1));
    }
}

/// The agent's own part, as far as people want it at a glance; `--json` has all of it.
#[derive(Deserialize, Default)]
#[serde(default)]
struct AgentPart {
    in_flight: u64,
    in_flight_limit: u64,
    plugins: Vec<Plugin>,
    movers: Vec<Mover>,
    archives: Vec<Archive>,
}

#[derive(Deserialize)]
struct Plugin {
    name: String,
    state: String,
    #[serde(default)]
    slow: bool,
    pid: Option<i32>,
    restarts: u64,
    #[serde(default)]
    last_exit: Option<String>,
}

#[derive(Deserialize)]
struct Mover {
    archive_id: u32,
    name: String,
    pid: Option<i32>,
    in_flight: u64,
    credits: u64,
}

#[derive(Deserialize)]
struct Archive {
    archive_id: u32,
    queue_length: u64,
    succeeded: u64,
    failed: u64,
    cancelled: u64,
    bytes: u64,
    latency: Latency,
    rates_per_s: Vec<f64>,
}

#[derive(Deserialize)]
struct Latency {
    p50_us: u64,
    p99_us: u64,
}

fn agent_part(out: &mut String, value: &Value) {
    let part = match AgentPart::deserialize(value) {
        Ok(part) => part,
        Err(why) => {
            let _ = writeln!(
                out,
                "the agent is of another version ({}); --json shows what it says",
                escaped(&why.to_string())
            );
            return;
        }
    };
    let _ = writeln!(out, "movers: {} of at most {} actions in flight", part.in_flight, part.in_flight_limit);
    let pid = |pid: Option<i32>| pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let plugin = |p: Plugin| {
        let state = if p.slow { format!("{} (slow)", p.state) } else { p.state };
        [p.name, state, pid(p.pid), p.restarts.to_string(), p.last_exit.unwrap_or_else(|| "-".to_owned())]
    };
    section(out, ["PLUGIN", "STATE", "PID", "RESTARTS", "LAST EXIT"], part.plugins.into_iter().map(plugin));
    let mover = |m: Mover| [m.name, m.archive_id.to_string(), pid(m.pid), format!("{}/{}", m.in_flight, m.credits)];
    section(out, ["MOVER", "ARCHIVE", "PID", "IN FLIGHT"], part.movers.into_iter().map(mover));
    let archive = |a: Archive| {
        let rates: Vec<_> = a.rates_per_s.iter().map(|rate| format!("{rate:.1}")).collect();
        [
            a.archive_id.to_string(),
            a.queue_length.to_string(),
            a.succeeded.to_string(),
            a.failed.to_string(),
            a.cancelled.to_string(),
            bytes(a.bytes),
            format!("{}/{}", span(a.latency.p50_us / 1000), span(a.latency.p99_us / 1000)),
            rates.join(" "),
        ]
    };
    let header = ["ARCHIVE", "QUEUED", "DONE", "FAILED", "CANCELLED", "BYTES", "P50/P99", "ACTIONS/S (1, 5, 15 MIN)"];
    section(out, header, part.archives.into_iter().map(archive));
}

fn section<const N: usize>(out: &mut String, header: [&str; N], rows: impl Iterator<Item = [String; N]>) {
    let rows: Vec<_> = rows.collect();
    if !rows.is_empty() {
        out.push_str(&indented(&table(header, &rows), 1));
    }
}

fn indented(text: &str, depth: usize) -> String {
    text.lines().map(|line| format!("{}{line}\n", "  ".repeat(depth))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent::admin::api::{GuardStatus, QueueCount};
    use agent::{AgentStatus, ArchiveStatus, EndpointStatus, PluginState, PluginStatus};
    use model::{Class, Command};

    /// The agent's types, so that a change of theirs is noticed here.
    fn agent_s_own() -> AgentStatus {
        let plugin = |name: &str, state, pid, restarts, last_exit: Option<&str>| PluginStatus {
            name: name.into(),
            state,
            pid: Some(pid),
            restarts,
            last_exit: last_exit.map(str::to_owned),
        };
        let mover = EndpointStatus {
            handle: 1,
            archive_id: 1,
            name: "sifaka posix 0.1.0".into(),
            pid: Some(43),
            in_flight: 20,
            credits: 1024,
            cancel: true,
            verify: true,
            reload: true,
        };
        let archive = ArchiveStatus {
            archive_id: 1,
            queue_length: 20,
            started: 120,
            succeeded: 99,
            failed: 1,
            cancelled: 0,
            bytes: 5 << 20,
            latency: agent::Latency { p50_us: 1500, p90_us: 3000, p99_us: 2_100_000, max_us: 2_200_000 },
            rates_per_s: [12.5, 3.0, 1.04],
        };
        AgentStatus {
            uptime_s: 3720,
            in_flight: 20,
            in_flight_limit: 40,
            plugins: vec![
                plugin("posix", PluginState::Running, 43, 0, None),
                plugin("tape", PluginState::Starting { slow: true }, 44, 2, Some("signal: 9 (SIGKILL)")),
            ],
            movers: vec![mover],
            archives: vec![archive],
        }
    }

    #[test]
    fn another_agent_s_status_is_no_failure() {
        let report = StatusReport {
            version: "9.0".into(),
            pid: 1,
            started_ms: 0,
            agent: serde_json::json!({ "movers": "many" }),
            source: SourceStatus::default(),
        };
        assert!(human(&report, 0).contains("the agent is of another version"));
    }

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
            damaged_chunks: 3,
        };
        let agent = serde_json::to_value(agent_s_own()).unwrap();
        let report = StatusReport { version: "0.1.0".into(), pid: 42, started_ms: 0, agent, source };
        insta::assert_snapshot!(human(&report, 3_720_000), @r"
        agent 0.1.0 (pid 42), running for 1h02m
        filesystem /data (xfs), mounts under /mnt/lhsmd
        guard pid 41: 5000 events, 2 waiting, 1 restarts; 2 blocked readers
        queue: 30002 wait or run; 99 succeeded, 1 failed so far
        DAMAGED: 3 times a part of a file could not be restored; the log says which
          CLASS    COMMAND  ARCHIVE  ACTIONS
          reader   restore  1        2
          archive  archive  12       30000
        movers: 20 of at most 40 actions in flight
          PLUGIN  STATE            PID  RESTARTS  LAST EXIT
          posix   running          43   0         -
          tape    starting (slow)  44   2         signal: 9 (SIGKILL)
          MOVER               ARCHIVE  PID  IN FLIGHT
          sifaka posix 0.1.0  1        43   20/1024
          ARCHIVE  QUEUED  DONE  FAILED  CANCELLED  BYTES    P50/P99  ACTIONS/S (1, 5, 15 MIN)
          1        20      99    1       0          5.0 MiB  1ms/2s   12.5 3.0 1.0
        ");
    }
}
