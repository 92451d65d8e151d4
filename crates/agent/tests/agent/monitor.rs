//! Plugins as processes.

use crate::kit::{Fixture, LONG, noop_plugin, script};
use model::Outcome;
use sifaka_agent::{PluginState, RestartDelays, SpawnHooks};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use sys::process::PidFd;

/// Not a test: a noop mover, started by an agent that a test started.
#[test]
#[ignore = "runs as a child process of another test"]
fn noop_process() {
    let config = std::env::var_os("SIFAKA_TEST_NOOP").expect("started by a test");
    // The agent is killed in some tests; how this one ends is then of no interest.
    let _ = movers::noop::run(plugin::Environment::from_env().unwrap(), Path::new(&config));
}

/// An agent with noop movers that have these configurations.
async fn start(plugins: &[(&str, &str)], hang_timeout: Duration) -> Fixture {
    let fixture = Fixture::start_with(|dir, config, services| {
        config.enabled_plugins = plugins.iter().map(|(name, text)| noop_plugin(dir, name, text)).collect();
        config.mover_hang_timeout = hang_timeout;
        services.drain = Duration::from_millis(200);
    })
    .await;
    fixture.agent.wait_started(LONG).await.unwrap();
    fixture
}

fn kill(pid: i32) {
    PidFd::open(pid).unwrap().kill(9).unwrap();
}

#[tokio::test]
async fn a_plugin_works_and_ends_with_the_agent() {
    let fixture = start(&[("noop", "")], LONG).await;
    let status = fixture.agent.status();
    assert_eq!((status.plugins[0].state.clone(), status.plugins[0].pid), (PluginState::Running, status.movers[0].pid));
    fixture.source.generate(1, 1000);
    assert!(fixture.results(1000).await.iter().all(|(_, outcome)| matches!(outcome, Outcome::Archived(_))));
    let pid = status.plugins[0].pid.unwrap();
    fixture.agent.stop().await;
    let status = fixture.agent.status();
    assert_eq!(
        (status.plugins[0].state.clone(), status.plugins[0].pid, status.plugins[0].restarts),
        (PluginState::Stopped, None, 0)
    );
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    fixture.agent.stop().await;
}

#[tokio::test]
async fn a_killed_mover_s_actions_are_taken_over_and_it_comes_back() {
    let fixture = start(&[("one", "hang = true"), ("two", "hang = true")], LONG).await;
    fixture.push(0..20);
    let held = |status: &sifaka_agent::AgentStatus| status.movers.iter().all(|mover| mover.in_flight == 10);
    let status = fixture.wait_status("not shared", held).await;
    let victim = status.plugins[0].pid.unwrap();
    kill(victim);
    let both = |status: &sifaka_agent::AgentStatus| status.movers.iter().any(|mover| mover.in_flight == 20);
    fixture.wait_status("not taken over", both).await;
    let back = |status: &sifaka_agent::AgentStatus| {
        status.plugins.iter().all(|p| p.state == PluginState::Running && p.pid != Some(victim))
    };
    let status = fixture.wait_status("not started again", back).await;
    assert_eq!(status.plugins[0].restarts, 1);
    assert!(status.plugins[0].last_exit.as_ref().unwrap().contains("signal: 9"), "{:?}", status.plugins[0]);
    assert_eq!(fixture.source.finished(), 0);
    // Both at once: nobody is left.
    status.plugins.iter().for_each(|plugin| kill(plugin.pid.unwrap()));
    let results = fixture.results(20).await;
    assert_eq!(results.iter().map(|(key, _)| *key).collect::<BTreeSet<_>>(), (0..20).collect());
    assert!(results.iter().all(|(_, outcome)| crate::kit::failure(outcome).errno == 107));
    fixture.wait_idle().await;
    fixture.agent.stop().await;
}

#[tokio::test]
async fn a_mover_that_does_nothing_is_killed_and_started_again() {
    let fixture = start(&[("noop", "hang = true")], Duration::from_millis(300)).await;
    let first = fixture.agent.status().plugins[0].pid;
    // Without actions it may be quiet for as long as it likes.
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(fixture.agent.status().plugins[0].pid, first);
    fixture.push(0..3);
    let results = fixture.results(3).await;
    assert!(results.iter().all(|(_, outcome)| crate::kit::failure(outcome).message.contains("noop")));
    let again = |status: &sifaka_agent::AgentStatus| {
        status.plugins[0].state == PluginState::Running && status.plugins[0].pid != first
    };
    let status = fixture.wait_status("not started again", again).await;
    assert!(status.plugins[0].last_exit.as_ref().unwrap().contains("signal: 9"));
    fixture.wait_idle().await;
    fixture.agent.stop().await;
}

#[tokio::test]
async fn back_off_slow_start_and_programs_that_are_not_there_show() {
    let fixture = Fixture::start_with(|dir, config, services| {
        let ends = script(dir, "ends", &format!("echo x >> {}; exit 3", dir.path().join("starts").display()));
        let silent = script(dir, "silent", "exec sleep 1000");
        config.enabled_plugins = vec![ends, silent, "missing".into()];
        config.plugin_dir = dir.path().into();
        services.patience.slow_start = Duration::from_millis(100);
        let delays = [0, 10, 60_000].map(Duration::from_millis).to_vec();
        services.patience.restart = RestartDelays { delays, reset_after: Duration::from_secs(120) };
    })
    .await;
    let settled = |status: &sifaka_agent::AgentStatus| {
        let [ends, missing, silent] = &status.plugins[..] else { return false };
        ends.restarts == 2
            && matches!(ends.state, PluginState::Backoff { .. })
            && missing.restarts == 2
            && matches!(missing.state, PluginState::Backoff { .. })
            && silent.state == PluginState::Starting { slow: true }
    };
    let status = fixture.wait_status("back-off", settled).await;
    assert_eq!(std::fs::read_to_string(fixture.dir.path().join("starts")).unwrap(), "x\n".repeat(3));
    assert!(status.plugins[0].last_exit.as_ref().unwrap().contains("exit status: 3"));
    let missing = status.plugins[1].last_exit.as_ref().unwrap();
    assert!(missing.contains("cannot be started") && missing.contains("/missing"), "{missing}");
    let error = fixture.agent.wait_started(Duration::from_millis(10)).await.unwrap_err().to_string();
    assert!(error.contains("ends") && error.contains("silent") && error.contains("missing"), "{error}");
    fixture.agent.stop().await;
}

#[tokio::test]
async fn a_plugin_that_does_not_end_when_asked_is_killed() {
    let fixture = Fixture::start_with(|dir, config, services| {
        let file = dir.path().join("ready");
        config.enabled_plugins =
            vec![script(dir, "deaf", &format!("trap '' TERM; touch {}; while :; do sleep 1; done", file.display()))];
        services.patience.terminate = Duration::from_millis(100);
    })
    .await;
    while !fixture.dir.path().join("ready").exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fixture.agent.stop().await;
    let plugin = &fixture.agent.status().plugins[0];
    assert_eq!((plugin.state.clone(), plugin.pid), (PluginState::Stopped, None));
    assert!(plugin.last_exit.as_ref().unwrap().contains("signal: 9"), "{plugin:?}");
}

/// Writes down what it is told, and what was true then.
#[derive(Default)]
struct Witness {
    marker: std::path::PathBuf,
    seen: Mutex<Vec<(&'static str, i32, bool)>>,
}

impl SpawnHooks for Witness {
    fn on_spawn(&self, pid: i32) -> io::Result<()> {
        // Long enough for a program that was not held to have made the file.
        std::thread::sleep(Duration::from_millis(50));
        self.seen.lock().unwrap().push(("spawn", pid, self.marker.exists()));
        Ok(())
    }

    fn before_reap(&self, pid: i32) {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        self.seen.lock().unwrap().push(("reap", pid, state.contains(") Z ")));
    }
}

#[tokio::test]
async fn pids_are_known_before_the_program_runs_and_until_it_is_reaped() {
    let mut witness = None;
    let fixture = Fixture::start_with(|dir, config, services| {
        let marker = dir.path().join("ran");
        config.enabled_plugins = vec![script(dir, "brief", &format!("touch {}; exit 0", marker.display()))];
        let hooks = Arc::new(Witness { marker, seen: Mutex::default() });
        witness = Some(hooks.clone());
        services.hooks = hooks;
        services.patience.restart.delays = vec![Duration::from_secs(600)];
    })
    .await;
    fixture.wait_status("not reaped", |status| status.plugins[0].last_exit.is_some()).await;
    let seen = std::mem::take(&mut *witness.unwrap().seen.lock().unwrap());
    let pid = seen[0].1;
    assert_eq!(seen, [("spawn", pid, false), ("reap", pid, true)]);
    assert!(fixture.dir.path().join("ran").exists());
    fixture.agent.stop().await;
}

#[tokio::test]
async fn a_plugin_gets_its_environment_and_what_it_prints_is_logged_under_its_name() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(log.clone()).finish();
    // One process a test: nobody else sets one.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let fixture = Fixture::start_with(|dir, config, services| {
        let text = r#"echo "at $(pwd) $LHSMD_AGENT_CONNECTION $LHSMD_CLIENT_MOUNTPOINT $LHSMD_CONFIG_DIR"; printf 'bad \033[1m \377 end' >&2"#;
        config.enabled_plugins = vec![script(dir, "talker", text)];
        services.patience.restart.delays = vec![Duration::from_secs(600)];
    })
    .await;
    fixture.wait_status("not ended", |status| matches!(status.plugins[0].state, PluginState::Backoff { .. })).await;
    let (directory, address) = (fixture.dir.path().display(), fixture.address());
    let text = log.text();
    let line = text.lines().find(|line| line.contains(&format!("at {directory} {address} {directory} {directory}")));
    assert!(
        line.is_some_and(|line| line.contains("plugin") && line.contains("talker") && line.contains("stdout")),
        "{text}"
    );
    assert!(text.contains("bad \\u{1b}[1m \u{fffd} end") && text.contains("stderr"), "{text}");
    fixture.agent.stop().await;
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl tracing_subscriber::fmt::MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
