//! An agent in this process, with the noop mover as a process of its own behind the usual socket.

use agent::{ActionSource, ClientMounts, HsmAgent, Services};
use config::{AgentConfig, ClientDevice};
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::Duration;
use testkit::{Scratch, sifaka_binary};

const START_TIMEOUT: Duration = Duration::from_secs(30);
const MOVER: &str = "lhsm-plugin-noop";

/// The agent; stop it before it is dropped.
pub(crate) struct NoopAgent {
    agent: HsmAgent,
    /// Sockets, and the mover's name. Dropped last.
    _scratch: Scratch,
}

impl NoopAgent {
    /// Starts the agent and waits until its mover asks for actions.
    pub(crate) async fn start(source: Arc<dyn ActionSource>) -> Self {
        let scratch = Scratch::new("bench");
        let plugins = scratch.join("plugins");
        fs::create_dir(&plugins).expect("make a directory");
        // The builtin mover would be this program, which is none.
        symlink(sifaka_binary(), plugins.join(MOVER)).expect("make a link");
        let mut config = AgentConfig::for_device(ClientDevice::Local(scratch.path().to_owned()));
        config.transport.socket_dir = scratch.join("run");
        config.plugin_dir = plugins;
        config.enabled_plugins = vec![MOVER.to_owned()];
        let mounts = ClientMounts::shared_directory(scratch.path().to_owned());
        let services = Services::new(scratch.path().to_owned());
        let agent = HsmAgent::new(config, mounts, services, source).expect("make an agent");
        agent.start().await.expect("start an agent");
        agent.wait_started(START_TIMEOUT).await.expect("the noop mover registers");
        Self { agent, _scratch: scratch }
    }

    /// Ends the mover and the agent.
    pub(crate) async fn stop(self) {
        self.agent.stop().await;
    }
}
