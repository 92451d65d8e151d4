//! What differs between two configurations of an agent, key by key, and whether a running agent can take it over.
//!
//! Compares what is shown: a key that [`AgentConfig`] shows is compared, whatever it is.

use super::AgentConfig;
use std::collections::BTreeMap;

/// Keys that a running agent takes over. One that ends in a dot stands for its whole section.
const RELOADABLE: [&str; 9] = [
    "restore.",
    "retry.",
    "log.",
    "remove_grace_s",
    "keep_versions_s",
    "default_archive",
    "copies",
    "handler_count",
    "mover_hang_timeout_s",
];

/// A key whose value changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    /// As `key` or `section.key`.
    pub key: String,
    /// The value before, as in a file; empty when there was none.
    pub from: String,
    /// The value now.
    pub to: String,
}

impl KeyChange {
    /// Whether an agent that runs can take it over; the others need a restart.
    #[must_use]
    pub fn is_reloadable(&self) -> bool {
        RELOADABLE.iter().any(|known| self.key == *known || (known.ends_with('.') && self.key.starts_with(known)))
    }
}

impl AgentConfig {
    /// The keys in which `new` differs, by name. Secrets are named, and never shown.
    #[must_use]
    pub fn changes_to(&self, new: &Self) -> Vec<KeyChange> {
        let (old_values, mut new_values) = (self.values(), new.values());
        let mut changes = Vec::new();
        for (key, from) in old_values {
            let to = new_values.remove(&key).unwrap_or_default();
            if from != to {
                changes.push(KeyChange { key, from, to });
            }
        }
        changes.extend(new_values.into_iter().map(|(key, to)| KeyChange { key, from: String::new(), to }));
        if self.influxdb != new.influxdb && !changes.iter().any(|change| change.key.starts_with("influxdb.")) {
            let hidden = || "(not shown)".to_owned();
            changes.push(KeyChange { key: "influxdb.password".into(), from: hidden(), to: hidden() });
        }
        changes.sort_by(|a, b| a.key.cmp(&b.key));
        changes
    }

    /// Every value as a file would have it.
    fn values(&self) -> BTreeMap<String, String> {
        let mut values = BTreeMap::new();
        let mut sections: Vec<&str> = Vec::new();
        // Control characters are escaped in what is shown: a value is on one line.
        let shown = self.to_string();
        for line in shown.lines().map(str::trim) {
            if let Some((key, value)) = line.split_once(" = ") {
                let section: String = sections.iter().map(|section| format!("{section}.")).collect();
                values.insert(format!("{section}{key}"), value.to_owned());
            } else if let Some(name) = line.strip_suffix(" {") {
                sections.push(name);
            } else if line == "}" {
                sections.pop();
            }
        }
        if !self.given.contains("handler_count") {
            // The number of processors, and another rule for what may be in flight.
            values.insert("handler_count".into(), String::new());
        }
        values
    }
}
