//! A filesystem that an agent serves, while it does.

use std::fs;
use std::path::Path;
use std::time::Duration;
use testkit::{Daemon, LoopFs, Site, wait_until};

const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// An agent's place, with the agent when it runs.
pub(crate) struct Served {
    /// Before the site: it is dropped first.
    agent: Option<Daemon>,
    movers: usize,
    pub(crate) site: Site,
}

impl Served {
    /// Not started yet.
    pub(crate) fn new(fs: &LoopFs, archive_root: &Path) -> Self {
        fs::create_dir_all(archive_root).expect("make the archive's directory");
        let mut site = Site::local(fs);
        site.set_archive_root(archive_root);
        Self { agent: None, movers: 1, site }
    }

    /// Before it is started: what the configuration files say beside the usual.
    pub(crate) fn configure(mut self, settings: impl FnOnce(&mut Site)) -> Self {
        settings(&mut self.site);
        self
    }

    /// Before it is started: an archive in a bucket, which is the one that everything goes to. `text` says where it is, and what else there is to say.
    pub(crate) fn in_bucket(mut self, text: &str) -> Self {
        self.site.add_agent_setting("default_archive = 2");
        self.site.add_mover("object", &format!("archive \"bucket\" {{ id = 2\n{text} }}\n"));
        self.movers = 2;
        self
    }

    /// Starts the agent, and so guard and mover.
    pub(crate) fn start(&mut self) {
        self.agent = Some(self.site.start_agent());
        wait_until(START_TIMEOUT, "movers that ask for actions", || {
            let status: serde_json::Value =
                serde_json::from_str(&self.site.sifaka_ok(&["status", "--json"])).expect("JSON of the agent");
            status["agent"]["movers"].as_array().is_some_and(|movers| movers.len() == self.movers)
        });
    }

    /// Ends agent and guard: the filesystem is as any other then.
    pub(crate) fn stop(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.terminate(STOP_TIMEOUT);
            let config = self.site.agent_config();
            self.sifaka(&["--config", config.to_str().expect("a path of ours"), "guard", "stop", "--force"]);
        }
    }

    pub(crate) fn agent(&self) -> &Daemon {
        self.agent.as_ref().expect("the agent was started")
    }

    /// Runs the command line client; what it is asked must succeed.
    pub(crate) fn sifaka(&self, args: &[&str]) {
        self.site.sifaka_ok(args);
    }

    /// `sifaka COMMAND PATH`, quiet, waiting for the end where it can.
    pub(crate) fn sifaka_on(&self, command: &[&str], path: &Path) {
        let path = path.to_str().expect("a path of ours");
        self.sifaka(&[command, &["--quiet", path]].concat());
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return self.stop();
        }
        // The guard is no child of ours, and would start agents again and again.
        if let Some(agent) = &self.agent {
            agent.signal(rustix::process::Signal::TERM);
            let config = self.site.agent_config();
            let _ = self.site.command().arg("--config").arg(config).args(["guard", "stop", "--force"]).output();
        }
    }
}
