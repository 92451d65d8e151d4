//! What `sifaka hosts` says.

use super::table::table;
use super::units::{bytes, span};
use crate::output::escaped;
use agent::admin::hosts::{HostState, HostsReport, Role};
use std::fmt::Write as _;

/// Who leads, who is waited for, and a line for each host.
pub(crate) fn hosts(report: &HostsReport) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = match (report.role, &report.leader) {
        (Role::Leading, _) => writeln!(text, "this agent leads (epoch {})", report.epoch),
        (Role::Standby, Some(host)) => writeln!(text, "standby: the agent on {} leads", escaped(host)),
        (Role::Standby, None) => writeln!(text, "standby: nobody leads at the moment"),
        (Role::Unreachable, _) => writeln!(text, "the NATS servers cannot be reached; the agent's log says why"),
    };
    if !report.waits_for.is_empty() {
        let names: Vec<_> = report.waits_for.iter().map(|name| escaped(name)).collect();
        let _ = writeln!(text, "waits until these have ended what an earlier agent wanted: {}", names.join(", "));
    }
    if report.role == Role::Leading {
        if report.hosts.is_empty() {
            text.push_str("no hosts\n");
        } else {
            let rows: Vec<_> = report.hosts.iter().map(row).collect();
            let header = ["HOST", "STATE", "ARCHIVES", "ACTIONS", "FINISHED", "MOVED", "HEARD", "GROUPS", "LABELS"];
            text.push_str(&table(header, &rows));
        }
    }
    text
}

fn row(host: &HostState) -> [String; 9] {
    let state = match host {
        HostState { draining: true, .. } => "draining",
        HostState { ending: 1.., .. } => "ending",
        _ => "serving",
    };
    let archives: Vec<_> = host.archives.iter().map(|(archive, _)| archive.to_string()).collect();
    [
        host.name.clone(),
        state.to_owned(),
        or_dash(archives.join(",")),
        host.actions.to_string(),
        host.finished.to_string(),
        bytes(host.moved_bytes),
        format!("{} ago", span(host.heard_ms)),
        or_dash(host.groups.join(",")),
        host.labels.join(" "),
    ]
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(role: Role) -> HostsReport {
        HostsReport { role, epoch: 7, leader: None, waits_for: Vec::new(), hosts: Vec::new() }
    }

    #[test]
    fn every_role_is_told() {
        assert_eq!(hosts(&report(Role::Leading)), "this agent leads (epoch 7)\nno hosts\n");
        assert_eq!(hosts(&report(Role::Standby)), "standby: nobody leads at the moment\n");
        let other = HostsReport { leader: Some("a\x1bb".into()), ..report(Role::Standby) };
        assert_eq!(hosts(&other), format!("standby: the agent on {} leads\n", escaped("a\x1bb")));
        assert!(hosts(&report(Role::Unreachable)).starts_with("the NATS servers cannot be reached"));
    }

    #[test]
    fn each_host_has_its_line() {
        let host = HostState {
            name: "far-1".into(),
            id: "0-0".into(),
            software: "sifaka 0.1.0".into(),
            groups: vec!["tape".into()],
            labels: vec!["rack=7".into()],
            archives: vec![(1, 8), (3, 8)],
            heard_ms: 2000,
            actions: 5,
            draining: false,
            ending: 0,
            finished: 12,
            moved_bytes: 1 << 20,
        };
        let draining =
            HostState { draining: true, archives: Vec::new(), groups: Vec::new(), labels: Vec::new(), ..host.clone() };
        let all = HostsReport { hosts: vec![host, draining], waits_for: vec!["old".into()], ..report(Role::Leading) };
        let text = hosts(&all);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "waits until these have ended what an earlier agent wanted: old");
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(lines[3])[..5], ["far-1", "serving", "1,3", "5", "12"]);
        assert!(lines[3].ends_with("tape    rack=7"), "{}", lines[3]);
        assert_eq!(words(lines[4])[..3], ["far-1", "draining", "-"]);
    }
}
