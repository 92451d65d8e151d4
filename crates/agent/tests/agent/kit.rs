//! An agent without mounts, movers that a test plays by hand, and movers that are processes.

use config::AgentConfig;
use model::{Failure, Outcome};
use proto::pdm::data_mover_client::DataMoverClient;
use proto::pdm::{ActionItem, ActionStatus, Endpoint, Handle};
use proto::{Capabilities, Instruction};
use sifaka_agent::{AgentStatus, ClientMounts, HsmAgent, MemorySource, Services};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Longer than anything takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) struct Fixture {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) source: Arc<MemorySource>,
    pub(crate) agent: Arc<HsmAgent>,
}

/// The configuration of an agent that lives in `dir`.
pub(crate) fn config(dir: &tempfile::TempDir) -> AgentConfig {
    let text = format!(
        r#"client_device = "{0}"
           mount_root = "{0}/mnt"
           handler_count = 2
           enabled_plugins = ["replaced"]
           transport {{ socket_dir = "{0}/run" }}"#,
        dir.path().display()
    );
    let (mut config, _) = AgentConfig::parse(&text, "test").unwrap();
    config.enabled_plugins.clear();
    config
}

pub(crate) fn services(dir: &tempfile::TempDir) -> Services {
    let mut services = Services::new(dir.path().into());
    services.drain = Duration::from_secs(5);
    services
}

impl Fixture {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_, _, _| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&tempfile::TempDir, &mut AgentConfig, &mut Services)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (mut config, mut services) = (config(&dir), services(&dir));
        change(&dir, &mut config, &mut services);
        let source = Arc::new(MemorySource::new());
        let mounts = ClientMounts::shared_directory(dir.path().into());
        let agent = Arc::new(HsmAgent::new(config, mounts, services, source.clone()).unwrap());
        agent.start().await.unwrap();
        Self { dir, source, agent }
    }

    /// The path of the agent's socket.
    pub(crate) fn path(&self) -> PathBuf {
        let entries = std::fs::read_dir(self.dir.path().join("run")).unwrap();
        let sockets: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        assert_eq!(sockets.len(), 1, "{sockets:?}");
        sockets[0].clone()
    }

    /// The name of its abstract socket, with `@`.
    pub(crate) fn address(&self) -> String {
        format!("@{}", self.path().file_name().unwrap().to_str().unwrap())
    }

    /// A mover of archive 1 that knows all extensions.
    pub(crate) async fn mover(&self, credits: u32) -> TestMover {
        let capabilities = Capabilities { cancel: true, verify: true, proposed_uuid: true, ..Capabilities::default() };
        TestMover::start(self, 1, capabilities.bits(), credits).await
    }

    pub(crate) fn push(&self, keys: std::ops::Range<u64>) {
        keys.for_each(|key| self.source.push(MemorySource::noop(key, 1)));
    }

    /// Waits until the agent's account of itself is as wanted.
    pub(crate) async fn wait_status(&self, what: &str, condition: impl Fn(&AgentStatus) -> bool) -> AgentStatus {
        let deadline = tokio::time::Instant::now() + LONG;
        loop {
            let status = self.agent.status();
            if condition(&status) {
                return status;
            }
            assert!(tokio::time::Instant::now() < deadline, "{what}: {status:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for `count` results in all, and that nothing is in flight after them.
    pub(crate) async fn results(&self, count: u64) -> Vec<(u64, Outcome)> {
        let results = tokio::time::timeout(LONG, self.source.wait_results(count)).await;
        let results = results.unwrap_or_else(|_| panic!("{} of {count} results", self.source.finished()));
        assert_eq!(self.source.finished(), count);
        results
    }

    /// Every slot came back.
    pub(crate) async fn wait_idle(&self) {
        self.wait_status("slots are taken", |status| status.in_flight == 0).await;
    }
}

pub(crate) fn failure(outcome: &Outcome) -> &Failure {
    match outcome {
        Outcome::Failed(failure) => failure,
        other => panic!("not a failure: {other:?}"),
    }
}

/// A connection to an agent.
pub(crate) async fn connect(path: PathBuf) -> DataMoverClient<Channel> {
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { Ok::<_, io::Error>(hyper_util::rt::TokioIo::new(tokio::net::UnixStream::connect(path).await?)) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://agent");
    DataMoverClient::new(endpoint.connect_with_connector(connector).await.unwrap())
}

/// A mover played by the test.
pub(crate) struct TestMover {
    pub(crate) handle: u64,
    pub(crate) client: DataMoverClient<Channel>,
    pub(crate) actions: Streaming<ActionItem>,
    pub(crate) reports: mpsc::UnboundedSender<ActionStatus>,
    pub(crate) reporting: JoinHandle<Result<(), Status>>,
}

impl TestMover {
    pub(crate) async fn start(fixture: &Fixture, archive: u32, capabilities: u32, credits: u32) -> Self {
        let mut client = connect(fixture.path()).await;
        let endpoint = Endpoint { archive, capabilities, credits, name: "test mover".into(), ..Endpoint::default() };
        let handle = client.register(endpoint).await.unwrap().into_inner().id;
        // Reports first: a stream of actions that is open tells the agent that it may send.
        let (reports, receiver) = mpsc::unbounded_channel();
        let mut reporter = client.clone();
        let reporting =
            tokio::spawn(
                async move { reporter.status_stream(UnboundedReceiverStream::new(receiver)).await.map(|_| ()) },
            );
        let actions = client.get_actions(Handle { id: handle }).await.unwrap().into_inner();
        Self { handle, client, actions, reports, reporting }
    }

    /// The next message; `None` when the agent ended the stream.
    pub(crate) async fn next(&mut self) -> Option<ActionItem> {
        let next = tokio::time::timeout(LONG, self.actions.message()).await.expect("no message came");
        next.unwrap_or_default()
    }

    pub(crate) async fn next_instruction(&mut self) -> Instruction {
        self.next().await.expect("the stream ended").try_into().unwrap()
    }

    /// The ids of the next actions.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<u64> {
        let mut ids = Vec::new();
        while ids.len() < count {
            ids.push(self.next().await.expect("the stream ended").id);
        }
        ids
    }

    /// Nothing comes, as far as one can tell by waiting.
    pub(crate) async fn assert_quiet(&mut self) {
        let next = tokio::time::timeout(Duration::from_millis(150), self.actions.message()).await;
        assert!(next.is_err(), "{next:?}");
    }

    pub(crate) fn done(&self, id: u64) {
        self.report(ActionStatus { id, completed: true, uuid: format!("object-{id}"), ..ActionStatus::default() });
    }

    pub(crate) fn report(&self, status: ActionStatus) {
        let handle = status.handle.or(Some(Handle { id: self.handle }));
        self.reports.send(ActionStatus { handle, ..status }).expect("the agent ended the reports");
    }
}

/// Connects to the abstract socket the plain way.
pub(crate) fn connect_abstract(address: &str) -> io::Result<std::os::unix::net::UnixStream> {
    let name = address.strip_prefix('@').unwrap();
    std::os::unix::net::UnixStream::connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name)?)
}

/// A program that is a plugin: this test binary, running [`crate::monitor::noop_process`] with this configuration.
pub(crate) fn noop_plugin(dir: &tempfile::TempDir, name: &str, noop_config: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let config = dir.path().join(name);
    std::fs::write(&config, noop_config).unwrap();
    std::fs::set_permissions(&config, PermissionsExt::from_mode(0o600)).unwrap();
    let exe = std::env::current_exe().unwrap();
    let arguments = "--exact monitor::noop_process --ignored --nocapture";
    script(dir, name, &format!("SIFAKA_TEST_NOOP={} exec {} {arguments}", config.display(), exe.display()))
}

/// A program that is a shell script. Gives its path.
pub(crate) fn script(dir: &tempfile::TempDir, name: &str, text: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let bin = dir.path().join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let path = bin.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}
