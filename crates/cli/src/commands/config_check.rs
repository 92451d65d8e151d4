//! `sifaka config check`: the agent's configuration, and those of its movers beside it.

use crate::exit::{Exit, Outcome};
use crate::output::Output;
use config::archive::MoverConfig;
use config::tree::Pos;
use config::{
    AgentConfig, AzConfig, ClientDevice, CommandConfig, ConfigError, ObjectConfig, PosixConfig, Problem, RestoreMode,
    S3Config, Warning,
};
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
    for plugin in &config.enabled_plugins {
        let program = config.plugin_path(plugin);
        if builtin(plugin).is_none() && !program.exists() {
            let what = format!("enabled_plugins: there is no program {}", program.display());
            findings.push(finding("error", &file.to_string_lossy(), Problem::of_file(what)));
        }
    }
    if matches!(config.client_device, ClientDevice::Lustre { .. }) {
        for what in without_effect_on_lustre(&config) {
            findings.push(finding("warning", &file.to_string_lossy(), Problem::of_file(what)));
        }
    }
    if let (Some(_), ClientDevice::Local(path)) = (config.nats(), &config.client_device)
        && crate::wiring::is_local(&config.client_device)
    {
        let problem = Problem::of_file(crate::wiring::on_one_host_alone(path));
        findings.push(finding("error", &file.to_string_lossy(), problem));
    }
    let served = served(file, &config, &mut findings);
    findings.extend(same_numbers(&served));
    findings
}

/// What is set and means nothing where Lustre has the files.
pub(crate) fn without_effect_on_lustre(config: &AgentConfig) -> Vec<String> {
    let set = [
        ("copies", !config.copies.is_empty()),
        ("restore { mode }", config.restore.mode != RestoreMode::Whole),
        ("keep_versions_s", !config.keep_versions.is_zero()),
    ];
    let named = set.into_iter().filter(|(_, set)| *set);
    named.map(|(key, _)| format!("{key} has no effect on Lustre")).collect()
}

/// What no agent may start with: two movers of different kinds that serve archives of one number would share what is asked of it.
pub(crate) fn archives_of_one_number(file: &Path, config: &AgentConfig) -> Vec<Finding> {
    same_numbers(&served(file, config, &mut Vec::new()))
}

/// A mover that is built in, by its short name, if that is what is enabled.
fn builtin(plugin: &str) -> Option<&'static str> {
    ["posix", "object", "s3", "az", "command", "noop"]
        .into_iter()
        .find(|name| !plugin.contains('/') && short(plugin) == *name)
}

/// A name without directories, and without what Lemur has before its names.
fn short(plugin: &str) -> &str {
    let name = plugin.rsplit('/').next().unwrap_or(plugin);
    name.strip_prefix("lhsm-plugin-").unwrap_or(name)
}

/// An archive that a mover serves.
struct Served {
    id: u32,
    name: String,
    file: PathBuf,
}

/// The archives of the enabled movers, as far as their files can be read.
fn served(agent_file: &Path, config: &AgentConfig, findings: &mut Vec<Finding>) -> Vec<Served> {
    let directory = agent_file.parent().unwrap_or(Path::new("."));
    let mut served = Vec::new();
    let mut kinds: Vec<&str> = config.enabled_plugins.iter().map(|plugin| short(plugin)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for kind in kinds {
        // What the mover reads, under whichever name it is enabled.
        let file = directory.join(format!("lhsm-plugin-{kind}"));
        let archives: Vec<(u32, String)> = match kind {
            "posix" => of_mover(keep(PosixConfig::load(&file), findings)),
            "object" => of_mover(keep(ObjectConfig::load(&file), findings)),
            "s3" => of_mover(keep(S3Config::load(&file), findings)),
            "az" => of_mover(keep(AzConfig::load(&file), findings)),
            "command" => {
                let config = keep(CommandConfig::load(&file), findings);
                config.into_iter().flat_map(|config| config.archives).map(|of| (of.id, of.name)).collect()
            }
            _ => continue,
        };
        served.extend(archives.into_iter().map(|(id, name)| Served { id, name, file: file.clone() }));
    }
    served
}

fn of_mover<P>(config: Option<MoverConfig<P>>) -> Vec<(u32, String)> {
    let archives = config.into_iter().flat_map(|config| config.archives);
    archives.map(|archive| (archive.settings.id, archive.settings.name)).collect()
}

/// Each file by itself has no two: its reader sees to that.
fn same_numbers(served: &[Served]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, later) in served.iter().enumerate() {
        if let Some(first) = served.iter().take(index).find(|first| first.id == later.id) {
            let what = format!(
                "archive \"{}\" has number {}, as has archive \"{}\" of {}: a file's object would be in either",
                later.name,
                later.id,
                first.name,
                first.file.display()
            );
            findings.push(finding("error", &later.file.to_string_lossy(), Problem::of_file(what)));
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
