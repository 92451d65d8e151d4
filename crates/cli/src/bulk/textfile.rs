//! How a replica goes, in Prometheus' text format, in a file: for node_exporter's textfile collector, since a replicator serves nothing.

use jobs::replicate::Status;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// A file that is replaced as a whole each time, as its readers expect.
pub(crate) struct TextFile {
    path: PathBuf,
    unfinished: PathBuf,
    replica: String,
}

impl TextFile {
    /// About this replica.
    ///
    /// # Errors
    /// The path names no file.
    pub(crate) fn new(path: &Path, replica: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::IsADirectory))?;
        let mut unfinished = std::ffi::OsString::from(".");
        unfinished.push(name);
        // The collector reads what ends in ".prom".
        unfinished.push(".new");
        let replica = std::path::absolute(replica).unwrap_or_else(|_| replica.to_owned());
        Ok(Self {
            path: path.to_owned(),
            unfinished: path.with_file_name(unfinished),
            replica: label(&replica.to_string_lossy()),
        })
    }

    /// Not synced: after a crash of the machine it is written anew.
    pub(crate) fn write(&self, status: &Status) -> io::Result<()> {
        // A link that somebody put there, where others may write, is not followed.
        match std::fs::remove_file(&self.unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::create_new(&self.unfinished)?;
        file.write_all(self.text(status).as_bytes())?;
        std::fs::rename(&self.unfinished, &self.path)
    }

    fn text(&self, status: &Status) -> String {
        let points = status.points.as_ref();
        let metrics: [(&str, &str, &str, Option<u64>); 12] = [
            ("written_timestamp_seconds", "gauge", "When this was written.", Some(status.written)),
            (
                "up",
                "gauge",
                "Whether a replicator writes this; 0 when it ended in order.",
                Some(status.pid.is_some().into()),
            ),
            (
                "synced_to_timestamp_seconds",
                "gauge",
                "All that was changed at the source before this time is in the replica.",
                status.synced_to,
            ),
            ("lag_seconds", "gauge", "How far the replica was behind when this was written.", status.lag_seconds),
            (
                "pending_directories",
                "gauge",
                "Directories that are known to have changed, and are not in the replica yet.",
                Some(status.pending),
            ),
            ("events_total", "counter", "Events that were worked on.", Some(status.events)),
            (
                "copied_total",
                "counter",
                "Files, directories and others copied or brought in line.",
                Some(status.copied),
            ),
            ("copied_bytes_total", "counter", "Bytes of content copied.", Some(status.bytes)),
            ("renamed_total", "counter", "What was renamed in the replica as at the source.", Some(status.renamed)),
            ("failed_total", "counter", "What could not be done, and is tried again.", Some(status.failed)),
            ("points", "gauge", "Points in time that are kept.", points.map(|points| points.count)),
            (
                "newest_point_timestamp_seconds",
                "gauge",
                "The moment that the newest point in time stands for.",
                points.and_then(|points| points.newest),
            ),
        ];
        let mut text = String::new();
        for (name, kind, help, value) in metrics {
            let Some(value) = value else { continue };
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "# HELP sifaka_replica_{name} {help}\n# TYPE sifaka_replica_{name} {kind}\nsifaka_replica_{name}{{replica=\"{}\"}} {value}",
                self.replica
            );
        }
        text
    }
}

/// As the format wants a label's value.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_link_leads_to_is_not_written() {
        let scratch = testkit::Scratch::new("textfile");
        let other = scratch.join("other");
        std::fs::write(&other, "mine").unwrap();
        std::os::unix::fs::symlink(&other, scratch.join(".r.prom.new")).unwrap();
        let file = TextFile::new(&scratch.join("r.prom"), Path::new("/r")).unwrap();
        for _ in 0..2 {
            file.write(&Status::default()).unwrap();
        }
        assert_eq!(std::fs::read(&other).unwrap(), b"mine");
        assert!(std::fs::read_to_string(scratch.join("r.prom")).unwrap().contains("sifaka_replica_up"));
    }

    #[test]
    fn a_replica_is_told_whatever_it_is_called_and_what_is_not_known_is_left_out() {
        let file = TextFile::new(Path::new("/m/r.prom"), Path::new("/a\"b\\c\nd")).unwrap();
        assert_eq!(file.unfinished, Path::new("/m/.r.prom.new"));
        let status =
            Status { written: 50, pid: Some(1), synced_to: Some(40), lag_seconds: Some(10), ..Status::default() };
        let text = file.text(&status);
        assert!(text.contains("\nsifaka_replica_lag_seconds{replica=\"/a\\\"b\\\\c\\nd\"} 10\n"), "{text}");
        assert!(text.ends_with("} 0\n") && !text.contains("sifaka_replica_points"), "{text}");
        assert!(!file.text(&Status::default()).contains("lag_seconds{"));
        assert!(TextFile::new(Path::new("/"), Path::new("/r")).is_err());
    }
}
