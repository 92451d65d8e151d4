//! An agent in the test, with servers and hosts as processes.

use agent::admin::hosts::{HostControl, HostsReport, Role};
use agent::{ClientMounts, HsmAgent, MemorySource, Services, Work};
use cluster::nats::{Hosts, NatsTransport};
use config::AgentConfig;
use model::{Command, Outcome};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use testkit::services::NatsCluster;
use testkit::{Daemon, FsKind, LoopFs, Scratch, sifaka_binary};

/// Longer than anything takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// Of leases, in seconds: with several servers, longer than these may take to elect one.
fn lease_s(nats: &NatsCluster) -> u64 {
    if nats.servers().len() > 1 { 20 } else { 3 }
}

/// Which movers hosts have.
pub(crate) enum MoverFile {
    Noop { delay_ms: u64 },
    Posix,
}

pub(crate) struct Fixture {
    pub(crate) source: Arc<MemorySource>,
    pub(crate) agent: Arc<HsmAgent>,
    hosts: Hosts,
    mover: MoverFile,
    scratch: Scratch,
    /// What all hosts mount.
    fs: LoopFs,
    pub(crate) nats: NatsCluster,
}

impl Fixture {
    /// So many servers, and an agent that leads.
    pub(crate) async fn start(servers: usize, mover: MoverFile) -> Self {
        let nats = tokio::task::spawn_blocking(move || NatsCluster::start(servers)).await.unwrap();
        let scratch = Scratch::new("hosts");
        for name in ["archive", "agent"] {
            fs::create_dir(scratch.join(name)).unwrap();
        }
        let fs = LoopFs::new(FsKind::Ext4, 64);
        let (source, hosts, agent) = Self::new_agent(&scratch, &fs, &nats).await;
        let fixture = Self { source, agent, hosts, mover, scratch, fs, nats };
        fixture.wait_report("the agent leads", |report| report.role == Role::Leading).await;
        fixture
    }

    async fn new_agent(
        scratch: &Scratch,
        fs: &LoopFs,
        nats: &NatsCluster,
    ) -> (Arc<MemorySource>, Hosts, Arc<HsmAgent>) {
        let text = format!(
            "client_device = {shared:?}\nenabled_plugins = [\"replaced\"]\nmount_root = {dir:?}\n{transport}",
            shared = fs.path(),
            dir = scratch.join("agent"),
            transport = transport(nats, &format!("socket_dir = {:?}", scratch.join("agent"))),
        );
        let (mut config, _) = AgentConfig::parse(&text, "test").unwrap();
        config.enabled_plugins.clear();
        let mut services = Services::new(scratch.join("agent"));
        services.drain = Duration::ZERO;
        let (hosts, settings) = (Hosts::default(), config.nats().cloned().unwrap());
        let theirs = hosts.clone();
        services
            .transports
            .register("nats", move |_| Box::new(NatsTransport::new(settings.clone(), "test".into(), theirs.clone())));
        let source = Arc::new(MemorySource::new());
        let mounts = ClientMounts::shared_directory(fs.path());
        let agent = Arc::new(HsmAgent::new(config, mounts, services, source.clone()).unwrap());
        agent.start().await.unwrap();
        (source, hosts, agent)
    }

    /// Another agent in the place of this one, with a source of its own.
    pub(crate) async fn restart_agent(&mut self) {
        self.agent.stop().await;
        (self.source, self.hosts, self.agent) = Self::new_agent(&self.scratch, &self.fs, &self.nats).await;
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.scratch.path().to_owned()
    }

    /// The filesystem that all hosts share.
    pub(crate) fn shared(&self) -> PathBuf {
        self.fs.path()
    }

    pub(crate) fn stream(&self) -> String {
        "SIFAKA_test_WORK".into()
    }

    /// A block `transport { }` with more in it.
    pub(crate) fn transport(&self, more: &str) -> String {
        transport(&self.nats, more)
    }

    /// Starts a host of movers.
    pub(crate) fn host(&self, name: &str) -> Daemon {
        let run = self.scratch.join(format!("run-{name}"));
        self.host_with(name, &self.transport(&format!("socket_dir = {run:?}")))
    }

    /// As [`Fixture::host`], with another block for the transport.
    pub(crate) fn host_with(&self, name: &str, transport: &str) -> Daemon {
        let dir = self.scratch.join(name);
        fs::create_dir(&dir).unwrap();
        let (plugin, text) = match &self.mover {
            MoverFile::Noop { delay_ms } => ("noop", format!("delay_ms = {delay_ms}\n")),
            MoverFile::Posix => {
                ("posix", format!("archive \"a\" {{ id = 1 root = {:?} }}\n", self.scratch.join("archive")))
            }
        };
        let file = dir.join(format!("lhsm-plugin-{plugin}"));
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let text = format!(
            "client_device = {shared:?}\nenabled_plugins = [\"{plugin}\"]\nmount_root = {mnt:?}\nstate_dir = {state:?}\n\
             handler_count = 4\nlog {{ level = \"debug\" }}\n{transport}\nhost {{ name = \"{name}\" }}\n",
            shared = self.shared(),
            mnt = dir.join("mnt"),
            state = dir.join("state"),
        );
        fs::write(dir.join("agent"), text).unwrap();
        let mut command = std::process::Command::new(sifaka_binary());
        command.arg("--config").arg(dir.join("agent")).arg("mover-host");
        Daemon::spawn(&format!("mover-host {name}"), command)
    }

    pub(crate) fn work(&self, key: u64, command: Command) -> Work {
        Work { command, ..MemorySource::noop(key, 1) }
    }

    pub(crate) async fn report(&self) -> HostsReport {
        self.hosts.report().await
    }

    pub(crate) async fn drain(&self, name: &str) -> Option<usize> {
        self.hosts.drain(name.to_owned()).await
    }

    pub(crate) async fn wait_report(&self, what: &str, condition: impl Fn(&HostsReport) -> bool) {
        let deadline = tokio::time::Instant::now() + LONG;
        loop {
            let report = self.report().await;
            if condition(&report) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{what}: {report:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until so many hosts serve archive 1, and the agent's endpoints know.
    pub(crate) async fn wait_for_hosts(&self, count: usize) {
        let serving = |report: &HostsReport| report.hosts.iter().filter(|host| !host.archives.is_empty()).count();
        let what = format!("{count} hosts");
        self.wait_report(&what, |report| serving(report) == count && report.hosts.len() == count).await;
        let deadline = tokio::time::Instant::now() + LONG;
        while self.source.room(1).is_some() != (count > 0) {
            assert!(tokio::time::Instant::now() < deadline, "{:?}", self.source.served());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until so many actions have results.
    pub(crate) async fn wait_finished(&self, count: u64) {
        let deadline = tokio::time::Instant::now() + LONG;
        while self.source.finished() < count {
            assert!(tokio::time::Instant::now() < deadline, "{} of {count}", self.source.finished());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for `count` results in all; those not taken before.
    pub(crate) async fn results(&self, count: u64) -> Vec<(u64, Outcome)> {
        let results = tokio::time::timeout(LONG, self.source.wait_results(count)).await;
        let Ok(results) = results else {
            panic!("{} of {count} results; {:#?}", self.source.finished(), self.report().await)
        };
        assert_eq!(self.source.finished(), count);
        results
    }

    /// Waits until nothing is in the stream any more.
    pub(crate) async fn wait_empty(&self) {
        let deadline = tokio::time::Instant::now() + LONG;
        while self.nats.messages(&self.stream()) != Some(0) {
            assert!(tokio::time::Instant::now() < deadline, "{:?} messages", self.nats.messages(&self.stream()));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn transport(nats: &NatsCluster, more: &str) -> String {
    let replicas = nats.servers().len();
    format!(
        "transport {{\n  type = \"nats\"\n  servers = {:?}\n  filesystem = \"test\"\n  replicas = {replicas}\n  lease_s = {}\n  {more}\n}}\n",
        nats.urls(),
        lease_s(nats)
    )
}

/// The processes that a process has started, and whose command lines hold this.
pub(crate) fn children(pid: u32, text: &str) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let lists = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap());
    let pids: Vec<u32> =
        lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect();
    pids.into_iter().filter(|&pid| runs(pid, text)).collect()
}

/// Whether there is a process of this number with this in its command line.
pub(crate) fn runs(pid: u32, text: &str) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).contains(text)
}
