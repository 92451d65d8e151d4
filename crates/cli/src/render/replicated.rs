//! How a replica goes.

use super::table::table;
use super::units::{bytes, span};
use crate::output::escaped;
use jobs::replicate::{Method, Mode, Point, PointsStatus, Replica, Status};
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
    if let Some(points) = &status.points {
        out += &points_kept(points, &ago);
    }
    if let Some(trouble) = &status.trouble {
        let _ = writeln!(out, "trouble: {}", escaped(trouble));
    }
    out
}

fn points_kept(points: &PointsStatus, ago: &dyn Fn(u64) -> String) -> String {
    let mut out = format!("{} points in time", points.count);
    if let (Some(oldest), Some(newest)) = (points.oldest, points.newest) {
        let _ = write!(out, " (of {} to {})", ago(oldest), ago(newest));
    }
    out += &points.method.map(|method| format!(", {}\n", how(method))).unwrap_or_else(|| "\n".to_owned());
    if let Some(trouble) = &points.trouble {
        let _ = writeln!(out, "the last point in time could not be taken: {}", escaped(trouble));
    }
    out
}

fn how(method: Method) -> &'static str {
    match method {
        Method::Snapshot => "by snapshots",
        Method::Reflinks => "by reflinks",
        Method::Links => "by hard links",
    }
}

/// Points in time, for people.
pub(crate) fn points(points: &[Point]) -> String {
    let row = |point: &Point| {
        let time = point.path.rsplit('/').next().unwrap_or_default().to_owned();
        let of = match point.until {
            Some(until) if !point.exact => {
                let within = until.saturating_sub(point.synced_to).saturating_mul(1000);
                format!("within {}", span(within))
            }
            Some(_) => "exact".to_owned(),
            None => "unknown".to_owned(),
        };
        [time, of, point.method.map_or("unknown", how).to_owned(), point.path.clone()]
    };
    table(["TIME", "OF", "MADE", "PATH"], &points.iter().map(row).collect::<Vec<_>>())
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
        let points = PointsStatus {
            method: Some(Method::Links),
            count: 2,
            oldest: Some(100),
            newest: Some(700),
            trouble: Some("no room".into()),
        };
        let pointed = Status { points: Some(points), ..Status::default() };
        insta::assert_snapshot!(human(&replica, &pointed, 1000), @r"
        a replica of /home
        not complete yet; no replicator runs
        0 copied (0 B) since its start
        2 points in time (of 15m00s ago to 5m00s ago), by hard links
        the last point in time could not be taken: no room
        ");
        let promoted = Replica { promoted: Some(940), ..replica };
        insta::assert_snapshot!(human(&promoted, &Status::default(), 1000), @r"
        a replica of /home
        promoted 1m00s ago: nothing is replicated into it any more
        0 copied (0 B) since its start
        ");
    }

    #[test]
    fn points_are_listed_with_what_they_stand_for() {
        let point = |time: &str, until, exact, method| Point {
            path: format!(".sifaka-replica/points/{time}"),
            synced_to: 1000,
            until,
            exact,
            method,
        };
        let listed = [
            point("20231114T221320Z", Some(1000), true, Some(Method::Snapshot)),
            point("20231114T231320Z", Some(1090), false, Some(Method::Links)),
            point("20231115T001320Z", None, false, None),
        ];
        insta::assert_snapshot!(points(&listed), @r"
        TIME              OF            MADE           PATH
        20231114T221320Z  exact         by snapshots   .sifaka-replica/points/20231114T221320Z
        20231114T231320Z  within 1m30s  by hard links  .sifaka-replica/points/20231114T231320Z
        20231115T001320Z  unknown       unknown        .sifaka-replica/points/20231115T001320Z
        ");
    }
}
