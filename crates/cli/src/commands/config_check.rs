//! `sifaka config check`: the agent's configuration, and those of its movers beside it.

use crate::exit::{Exit, Outcome};
use crate::output::Output;
use config::tree::Pos;
use config::{AgentConfig, CommandConfig, ConfigError, ObjectConfig, PosixConfig, Problem, S3Config, Warning};
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(clap::Args, Debug)]
pub(crate) struct CheckArgs {
    /// The agent's configuration (default: as --config)
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print JSON: an object a finding, one a line
    #[arg(long)]
    json: bool,
}

/// Something to tell, in a form for programs.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    severity: &'static str,
    file: String,
    line: Option<usize>,
    column: Option<usize>,
    what: String,
    hint: Option<String>,
    /// `FILE:LINE:COLUMN: what (hint)`.
    #[serde(skip)]
    pub(crate) text: String,
}

impl Finding {
    /// Whether nothing can run with it.
    pub(crate) fn is_error(&self) -> bool {
        self.severity == "error"
    }
}

pub(crate) fn run(default: &Path, args: CheckArgs) -> Outcome {
    let file = args.file.unwrap_or_else(|| default.to_owned());
    let findings = check(&file);
    let mut output = Output::new();
    for finding in &findings {
        if args.json {
            output.json(finding)?;
        } else {
            output.put(format!("{}: {}\n", finding.severity, finding.text))?;
        }
    }
    let wrong = findings.iter().any(Finding::is_error);
    if !args.json && !wrong {
        output.put(format!("{}: no errors\n", crate::output::escaped_path(&file)))?;
    }
    output.flush()?;
    Ok(if wrong { Exit::Config } else { Exit::Ok })
}

/// Everything there is to say about an agent's file and those of its movers.
pub(crate) fn check(file: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(config) = keep(AgentConfig::load(file), &mut findings) else { return findings };
    let directory = file.parent().unwrap_or(Path::new("."));
    for plugin in &config.enabled_plugins {
        let name = plugin.rsplit('/').next().unwrap_or(plugin);
        // A builtin, by its short name or by Lemur's.
        let builtin = name.strip_prefix("lhsm-plugin-").unwrap_or(name);
        let is_builtin = !plugin.contains('/') && matches!(builtin, "posix" | "object" | "s3" | "command" | "noop");
        let program = config.plugin_path(plugin);
        if !is_builtin && !program.exists() {
            let what = format!("enabled_plugins: there is no program {}", program.display());
            findings.push(finding("error", &file.to_string_lossy(), Problem::of_file(what)));
        }
        if builtin == "posix" {
            // What the mover reads, under whichever name it is enabled.
            let file = directory.join("lhsm-plugin-posix");
            keep(PosixConfig::load(&file), &mut findings);
        }
        if builtin == "object" {
            keep(ObjectConfig::load(&directory.join("lhsm-plugin-object")), &mut findings);
        }
        if builtin == "s3" {
            keep(S3Config::load(&directory.join("lhsm-plugin-s3")), &mut findings);
        }
        if builtin == "command" {
            keep(CommandConfig::load(&directory.join("lhsm-plugin-command")), &mut findings);
        }
    }
    findings
}

fn keep<T>(loaded: Result<(T, Vec<Warning>), ConfigError>, findings: &mut Vec<Finding>) -> Option<T> {
    match loaded {
        Ok((value, warnings)) => {
            findings.extend(warnings.into_iter().map(|warning| finding("warning", &warning.file, warning.problem)));
            Some(value)
        }
        Err(error) => {
            findings.extend(error.problems.into_iter().map(|problem| finding("error", &error.file, problem)));
            None
        }
    }
}

fn finding(severity: &'static str, file: &str, problem: Problem) -> Finding {
    let Problem { pos, what, hint } = problem.clone();
    let text = Warning { file: file.to_owned(), problem }.to_string();
    let (line, column) = match pos {
        Some(Pos { line, column }) => (Some(line), Some(column)),
        None => (None, None),
    };
    Finding { severity, file: file.to_owned(), line, column, what, hint, text }
}
