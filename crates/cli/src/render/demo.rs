//! What `sifaka demo` showed.

use super::table::table;
use super::units::bytes;
use crate::demo::report::{Df, Mode, Report, Step};
use std::fmt::Write as _;

/// Title, steps, df around the release, and what it comes to; errors are told elsewhere.
pub(crate) fn human(report: &Report) -> String {
    let mut out = String::new();
    let what = match report.mode {
        Mode::Full => format!("Archive, release, restore and rebuild on {}", report.filesystem),
        Mode::WithoutRelease => "Archive, verify and restore, without release".to_owned(),
        Mode::Undecided => return out,
    };
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "{what}: {} files, {} MB, of {}",
        report.files,
        megabytes(report.bytes),
        report.sources.join(", ")
    );
    let missing = report.missing.iter().map(|line| format!("missing for release: {line}"));
    for line in report.note.clone().into_iter().chain(missing) {
        let _ = writeln!(out, "  {}", crate::output::escaped(&line));
    }
    if !report.steps.is_empty() {
        let rows: Vec<_> = report.steps.iter().map(row).collect();
        let header = ["step", "   files", "    MB", "seconds", " files/s", "   MB/s"];
        let _ = write!(out, "\n{}", table(header, &rows));
    }
    if let (Some(before), Some(after)) = (report.df_before, report.df_after) {
        let rows = [df("before release", before), df("after release", after)];
        let _ = write!(out, "\n{}", table(["df", "size", "used", "available"], &rows));
    }
    if report.error.is_none() && report.objects_left == Some(0) {
        out.push_str(match report.mode {
            Mode::Full => {
                "\nEvery file read back is the original, byte for byte; so it is after the filesystem was destroyed, and rebuilt \
                 from nothing but the archive. The archive is empty again.\n"
            }
            _ => "\nEvery file read back is the original, byte for byte. The archive is empty again.\n",
        });
    }
    out
}

fn row(Step { step, files, bytes, seconds }: &Step) -> [String; 6] {
    // A step that takes no time has no rate.
    let rate = |count: f64| if *seconds > 0.0 { format!("{:.0}", count / seconds) } else { "-".to_owned() };
    [
        (*step).to_owned(),
        format!("{files:>8}"),
        format!("{:>6}", megabytes(*bytes)),
        format!("{seconds:>7.2}"),
        format!("{:>8}", rate(*files as f64)),
        format!("{:>7}", rate(*bytes as f64 / 1e6)),
    ]
}

fn df(name: &str, df: Df) -> [String; 4] {
    [name.to_owned(), bytes(df.size_bytes), bytes(df.used_bytes), bytes(df.available_bytes)]
}

/// Millions, rounded.
fn megabytes(bytes: u64) -> u64 {
    bytes.saturating_add(500_000) / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let step = |step, seconds| Step { step, files: 5000, bytes: 500_000_000, seconds };
        let df = |used_bytes| Df { size_bytes: 2 << 30, used_bytes, available_bytes: (2 << 30) - used_bytes };
        Report {
            mode: Mode::Full,
            filesystem: "ext4",
            missing: Vec::new(),
            sources: vec!["/usr/share".to_owned(), "/usr/lib".to_owned()],
            note: None,
            files: 5000,
            bytes: 500_000_000,
            steps: vec![step("archive", 2.5), step("release", 0.0)],
            df_before: Some(df(600 << 20)),
            df_after: Some(df(50 << 20)),
            objects_left: Some(0),
            error: None,
        }
    }

    #[test]
    fn steps_stand_in_columns() {
        insta::assert_snapshot!(human(&report()), @r"
        Archive, release, restore and rebuild on ext4: 5000 files, 500 MB, of /usr/share, /usr/lib

        step        files      MB  seconds   files/s     MB/s
        archive      5000     500     2.50      2000      200
        release      5000     500     0.00         -        -

        df              size     used     available
        before release  2.0 GiB  600 MiB  1.4 GiB
        after release   2.0 GiB  50 MiB   2.0 GiB

        Every file read back is the original, byte for byte; so it is after the filesystem was destroyed, and rebuilt from nothing but the archive. The archive is empty again.
        ");
    }

    #[test]
    fn what_is_missing_is_named() {
        let report = Report {
            mode: Mode::WithoutRelease,
            missing: vec!["privileges: missing: CAP_SYS_ADMIN (run as root)".to_owned()],
            df_before: None,
            error: Some("demo: a fault".to_owned()),
            ..report()
        };
        insta::assert_snapshot!(human(&report), @r"
        Archive, verify and restore, without release: 5000 files, 500 MB, of /usr/share, /usr/lib
          missing for release: privileges: missing: CAP_SYS_ADMIN (run as root)

        step        files      MB  seconds   files/s     MB/s
        archive      5000     500     2.50      2000      200
        release      5000     500     0.00         -        -
        ");
        insta::assert_json_snapshot!(Report { steps: vec![report.steps[0].clone()], ..report }, @r#"
        {
          "mode": "without_release",
          "filesystem": "ext4",
          "missing": [
            "privileges: missing: CAP_SYS_ADMIN (run as root)"
          ],
          "sources": [
            "/usr/share",
            "/usr/lib"
          ],
          "note": null,
          "files": 5000,
          "bytes": 500000000,
          "steps": [
            {
              "step": "archive",
              "files": 5000,
              "bytes": 500000000,
              "seconds": 2.5
            }
          ],
          "df_before": null,
          "df_after": {
            "size_bytes": 2147483648,
            "used_bytes": 52428800,
            "available_bytes": 2095054848
          },
          "objects_left": 0,
          "error": "demo: a fault"
        }
        "#);
    }
}
