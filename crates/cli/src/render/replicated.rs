//! How a replica goes.

use super::units::{bytes, span};
use crate::output::escaped;
use jobs::replicate::{Mode, Replica, Status};
use std::fmt::Write as _;

/// For people. `now`: seconds since 1970.
pub(crate) fn human(replica: &Replica, status: &Status, now: u64) -> String {
    let ago = |at: u64| format!("{} ago", span(now.saturating_sub(at).saturating_mul(1000)));
    let mut out = format!("a replica of {}\n", escaped(&replica.source));
    if let Some(at) = replica.promoted {
        let _ = writeln!(out, "promoted {}: nothing is replicated into it any more", ago(at));
    } else {
        let lag = match status.lag(now) {
            Some(lag) => format!("{} behind", span(lag.saturating_mul(1000))),
            None => "not complete yet".to_owned(),
        };
        let runs = match status.pid {
            Some(pid) => format!("process {pid} on {} wrote this {}", escaped(&status.host), ago(status.written)),
            None => "no replicator runs".to_owned(),
        };
        let _ = writeln!(out, "{lag}; {runs}");
    }
    if let Some(pass) = status.last_pass {
        let took = span(pass.ended.saturating_sub(pass.began).saturating_mul(1000));
        let _ = write!(out, "the last pass ended {} and took {took}", ago(pass.ended));
        out += &if pass.failed > 0 { format!("; {} things failed\n", pass.failed) } else { "\n".to_owned() };
    }
    if status.in_pass {
        out += "a pass is under way\n";
    }
    if status.mode == Mode::Events {
        let _ = writeln!(
            out,
            "{} events since its start, {} renamed in one, {} directories pending",
            status.events, status.renamed, status.pending
        );
    }
    let _ = write!(out, "{} copied ({}) since its start", status.copied, bytes(status.bytes));
    out += &if status.failed > 0 { format!(", {} failed\n", status.failed) } else { "\n".to_owned() };
    if let Some(trouble) = &status.trouble {
        let _ = writeln!(out, "trouble: {}", escaped(trouble));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use jobs::replicate::Pass;

    #[test]
    fn who_looks_sees_the_lag_first() {
        let replica = Replica { format: 1, source: "/home".into(), source_id: String::new(), since: 5, promoted: None };
        let status = Status {
            written: 990,
            pid: Some(7),
            host: "dr".into(),
            synced_to: Some(400),
            last_pass: Some(Pass { began: 400, ended: 460, failed: 1 }),
            copied: 3,
            bytes: 5000,
            ..Status::default()
        };
        insta::assert_snapshot!(human(&replica, &status, 1000), @r"
        a replica of /home
        10m00s behind; process 7 on dr wrote this 10s ago
        the last pass ended 9m00s ago and took 1m00s; 1 things failed
        3 copied (4.9 KiB) since its start
        ");
        let promoted = Replica { promoted: Some(940), ..replica };
        insta::assert_snapshot!(human(&promoted, &Status::default(), 1000), @r"
        a replica of /home
        promoted 1m00s ago: nothing is replicated into it any more
        0 copied (0 B) since its start
        ");
    }
}
