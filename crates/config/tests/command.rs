//! The command mover's documentation says what its reader knows, and its example is valid.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use sifaka_config::CommandConfig;
use std::path::Path;

fn documentation(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name)).unwrap()
}

#[test]
fn documented_command_example_is_valid() {
    let (config, warnings) =
        CommandConfig::parse(&documentation("examples/lhsm-plugin-command.hcl"), "command.hcl").unwrap();
    assert_eq!((config.archives.len(), warnings.len()), (4, 0));
}

#[test]
fn every_key_of_the_command_mover_is_documented_and_known() {
    let text = documentation("command-mover.md");
    let keys = CommandConfig::known_keys();
    let rows: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("| `archive.")?.split('`').next()).collect();
    assert!(rows.len() > 25, "{rows:?}");
    for key in keys.iter().filter_map(|key| key.strip_prefix("archive.")) {
        let is_section = keys.iter().any(|other| other.starts_with(&format!("archive.{key}.")));
        assert!(rows.contains(&key) || is_section, "docs/command-mover.md has no row for `{key}`");
    }
    for row in rows {
        assert!(keys.contains(&format!("archive.{row}")), "docs/command-mover.md documents `{row}`, which is unknown");
    }
}
