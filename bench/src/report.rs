//! RESULTS.md and results.json. Cases that did not run this time keep what was found before.

use crate::cases;
use crate::finding::{Finding, table};
use crate::machine::Facts;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// All that is known, by case.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    facts: Facts,
    cases: BTreeMap<String, Vec<Finding>>,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

impl Results {
    /// What was found before on this very machine; nothing when it was another one.
    pub(crate) fn load(facts: &Facts) -> Self {
        let before = fs::read(directory().join("results.json")).ok();
        let before = before.and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        let before = before.filter(|results| results.facts.same_machine(facts));
        Self { facts: facts.clone(), cases: before.unwrap_or_default().cases }
    }

    pub(crate) fn set(&mut self, case: &str, findings: Vec<Finding>) {
        self.cases.insert(case.to_owned(), findings);
    }

    /// Writes both files.
    pub(crate) fn write(&self) {
        let json = serde_json::to_string_pretty(self).expect("plain values");
        fs::write(directory().join("results.json"), json + "\n").expect("write results.json");
        fs::write(directory().join("RESULTS.md"), self.markdown()).expect("write RESULTS.md");
    }

    fn markdown(&self) -> String {
        let mut text = format!(
            "# Benchmark results\n\nWritten by `make bench`; the remarks come from `bench/notes/`. Both sides ran on this \
             machine in turns (A B A B …) after a run that is not counted. A speed above 1 means that Sifaka is faster. Commit and \
             date are those of the last run; cases that it left out are older.\n\n{}",
            self.facts.markdown()
        );
        for case in cases::ALL {
            if let Some(findings) = self.cases.get(case.name) {
                write!(text, "\n{}", section(case.name, findings)).expect("a string grows");
            }
        }
        text
    }
}

/// A case's part of RESULTS.md.
pub(crate) fn section(name: &str, findings: &[Finding]) -> String {
    let about = cases::ALL.iter().find(|case| case.name == name).map_or("", |case| case.about);
    let mut text = format!("## {name}\n\n{about}\n\n{}", table(findings));
    if let Ok(notes) = fs::read_to_string(directory().join("notes").join(format!("{name}.md"))) {
        write!(text, "\n{}\n", notes.trim()).expect("a string grows");
    }
    text
}
