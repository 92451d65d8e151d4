//! Arbitrary text: an answer or an error with a place in the text, never a panic.

use proptest::prelude::*;
use sifaka_config::{AgentConfig, AzConfig, ConfigError, ObjectConfig, PosixConfig, S3Config, tree};

const FILES: [&str; 4] = [
    include_str!("fixtures/lemur-agent.hcl"),
    include_str!("fixtures/lemur-agent.json"),
    include_str!("fixtures/lemur-posix.hcl"),
    include_str!("fixtures/lemur-posix.json"),
];

/// Fragments that make deep progress in either grammar likelier than plain random text does.
fn fragment() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        "\"",
        "=",
        ":",
        ",",
        "\n",
        " ",
        "\\",
        "${",
        "/*",
        "*/",
        "//",
        "#",
        "<<",
        "-",
        "0x",
        "1e9",
        "archive",
        "\"archive\"",
        "\"a\"",
        "id",
        "root",
        "\"/x\"",
        "1",
        "true",
        "null",
        "transport",
        "\u{feff}",
        "é",
        "\0",
        "client_device",
        "url",
        "\"s3://b\"",
        "credentials",
        "enabled_plugins",
        "influxdb",
        "checksums",
        "\\u",
        "d800",
        "99999999999999999999",
    ])
}

fn fragments() -> impl Strategy<Value = String> {
    prop::collection::vec(fragment(), 0..60).prop_map(|parts| parts.concat())
}

fn every_problem_has_a_place_inside(text: &str, result: Result<(), ConfigError>) -> Result<(), TestCaseError> {
    let Err(error) = result else { return Ok(()) };
    prop_assert!(!error.problems.is_empty());
    // A position may be one past the last character of the last line.
    let lines = text.split('\n').count();
    for problem in &error.problems {
        let Some(pos) = problem.pos else { return Err(TestCaseError::fail(format!("no place: {error}"))) };
        prop_assert!(pos.line >= 1 && pos.line <= lines, "{} in {:?}", error, text);
        let width = text.split('\n').nth(pos.line - 1).map_or(0, |line| line.chars().count());
        prop_assert!(pos.column >= 1 && pos.column <= width + 1, "{} in {:?}", error, text);
    }
    Ok(())
}

fn check(text: &str) -> Result<(), TestCaseError> {
    let _ = tree::parse(text);
    let _ = sifaka_config::hcl::parse_hcl(text);
    let _ = sifaka_config::json::parse_json(text);
    every_problem_has_a_place_inside(text, AgentConfig::parse(text, "f").map(|_| ()))?;
    every_problem_has_a_place_inside(text, PosixConfig::parse(text, "f").map(|_| ()))?;
    every_problem_has_a_place_inside(text, ObjectConfig::parse(text, "f").map(|_| ()))?;
    every_problem_has_a_place_inside(text, S3Config::parse(text, "f").map(|_| ()))?;
    every_problem_has_a_place_inside(text, AzConfig::parse(text, "f").map(|_| ()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        check(&text)?;
    }

    #[test]
    fn any_sequence_of_fragments_is_answered(text in fragments()) {
        check(&text)?;
    }

    #[test]
    fn any_damage_to_a_valid_file_is_answered(
        file in prop::sample::select(FILES.to_vec()),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..4_usize, fragment()), 1..6),
    ) {
        let mut text: Vec<char> = file.chars().collect();
        for (place, removed, inserted) in edits {
            let start = place.index(text.len() + 1);
            let end = (start + removed).min(text.len());
            text.splice(start..end, inserted.chars());
        }
        check(&text.into_iter().collect::<String>())?;
    }
}
