//! Reading the agent's configuration again: all of it is checked first, and then what can change does.

use crate::commands::config_check;
use agent::HsmAgent;
use agent::admin::api::{Reloaded, Setting};
use agent::admin::{ControlError, ErrorCode};
use config::AgentConfig;
use config::agent::{KeyChange, LogLevel};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Changes what the agent logs.
pub(crate) type SetLogLevel = Box<dyn Fn(LogLevel) + Send + Sync>;

/// Everything that takes over a changed configuration.
pub(crate) struct Reloader {
    pub(crate) file: PathBuf,
    /// As the agent was started: what can change by a restart only is still so.
    pub(crate) started: AgentConfig,
    /// As it was read the last time.
    pub(crate) latest: Mutex<AgentConfig>,
    /// Has whoever gives the actions take it over.
    pub(crate) apply: Box<dyn Fn(&AgentConfig) + Send + Sync>,
    pub(crate) agent: Arc<HsmAgent>,
    pub(crate) set_log_level: SetLogLevel,
}

impl Reloader {
    /// Reads the files, checks them, and takes over what can change. One at a time.
    ///
    /// # Errors
    /// Something is wrong in the agent's file or in one of its movers'. Then nothing has changed.
    pub(crate) fn run(&self) -> Result<Reloaded, ControlError> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let findings = config_check::check(&self.file);
        let (errors, warnings): (Vec<_>, Vec<_>) = findings.into_iter().partition(config_check::Finding::is_error);
        if !errors.is_empty() {
            let lines: Vec<_> = errors.into_iter().map(|error| error.text).collect();
            return Err(wrong(lines.join("\n")));
        }
        let (new, _) = AgentConfig::load(&self.file).map_err(|error| wrong(error.to_string()))?;
        let settings = |changes: Vec<KeyChange>, reloadable: bool| {
            let chosen = changes.into_iter().filter(|change| change.is_reloadable() == reloadable);
            chosen.map(|KeyChange { key, from, to }| Setting { key, from, to }).collect::<Vec<_>>()
        };
        let applied = settings(latest.changes_to(&new), true);
        let needs_restart = settings(self.started.changes_to(&new), false);
        (self.apply)(&new);
        (self.set_log_level)(new.log.level);
        let movers = self.agent.reload(&new);
        for Setting { key, from, to } in &applied {
            tracing::info!(key, from, to, "a setting changed");
        }
        for Setting { key, from, to } in &needs_restart {
            tracing::warn!(key, from, to, "a setting changed that needs a restart of the agent");
        }
        *latest = new;
        Ok(Reloaded { applied, needs_restart, movers, warnings: warnings.into_iter().map(|w| w.text).collect() })
    }
}

fn wrong(what: String) -> ControlError {
    ControlError::new(ErrorCode::Configuration, what)
}
