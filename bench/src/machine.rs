//! What the numbers were measured on.

use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::fs;
use std::process::Command;

/// Facts for readers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    commit: String,
    date: String,
    kernel: String,
    cpu: String,
    cpus: usize,
    memory_mib: u64,
    /// Where temporary files, and so the images of the loop devices, lie.
    images: String,
}

impl Facts {
    pub(crate) fn same_machine(&self, other: &Self) -> bool {
        (&self.kernel, &self.cpu, self.cpus, self.memory_mib)
            == (&other.kernel, &other.cpu, other.cpus, other.memory_mib)
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = String::from("| | |\n|---|---|\n");
        let rows = [
            ("commit", self.commit.clone()),
            ("date", self.date.clone()),
            ("kernel", self.kernel.clone()),
            ("processors", format!("{} × {}", self.cpus, self.cpu)),
            ("memory", format!("{} MiB", self.memory_mib)),
            (
                "filesystems",
                format!(
                    "ext4 on loop devices (sparse images, through the page cache); the images are on {}",
                    self.images
                ),
            ),
        ];
        for (name, value) in rows {
            writeln!(text, "| {name} | {value} |").expect("a string grows");
        }
        text
    }
}

/// Of this machine, now.
pub(crate) fn facts() -> Facts {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<_> = cpuinfo.lines().filter_map(|line| line.strip_prefix("model name")?.split_once(": ")).collect();
    let temporary = std::env::temp_dir();
    Facts {
        commit: said(
            Command::new("git").args(["describe", "--always", "--dirty"]).current_dir(env!("CARGO_MANIFEST_DIR")),
        ),
        date: said(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"])),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        cpu: models.first().map(|(_, model)| (*model).to_owned()).unwrap_or_default(),
        cpus: models.len(),
        memory_mib: memory_mib(),
        images: said(Command::new("findmnt").args(["-n", "-o", "FSTYPE,SOURCE", "-T"]).arg(temporary)),
    }
}

fn memory_mib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// What a program says; nothing when it is not there.
fn said(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).split_whitespace().collect::<Vec<_>>().join(" ")
}
