//! An agent that is killed takes its movers with it.

use crate::kit::{LONG, config, noop_plugin, services};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

/// Not a test: an agent that runs until it is killed.
#[tokio::test]
#[ignore = "runs as a child process of another test"]
async fn agent_process() {
    std::env::var_os("SIFAKA_TEST_AGENT").expect("started by a test");
    let dir = tempfile::tempdir().unwrap();
    let (mut config, services) = (config(&dir), services(&dir));
    config.enabled_plugins = vec![noop_plugin(&dir, "noop", "hang = true")];
    let source = Arc::new(sifaka_agent::MemorySource::new());
    let mounts = sifaka_agent::ClientMounts::shared_directory(dir.path().into());
    let agent = sifaka_agent::HsmAgent::new(config, mounts, services, source.clone()).unwrap();
    agent.start().await.unwrap();
    agent.wait_started(LONG).await.unwrap();
    source.push(sifaka_agent::MemorySource::noop(1, 1));
    println!("mover {} in {}", agent.status().plugins[0].pid.unwrap(), dir.path().display());
    std::io::stdout().flush().unwrap();
    std::future::pending::<()>().await;
}

#[test]
fn sigkill_of_the_agent_kills_its_movers() {
    let mut agent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "lifecycle::agent_process", "--ignored", "--nocapture"])
        .env("SIFAKA_TEST_AGENT", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(agent.stdout.take().unwrap()).lines();
    let line = lines.map(Result::unwrap).find(|line| line.contains("mover ")).unwrap();
    let mut words = line.split("mover ").nth(1).unwrap().split(" in ");
    let (pid, dir) = (words.next().unwrap(), words.next().unwrap());
    let alive = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    };
    assert!(alive());
    agent.kill().unwrap();
    agent.wait().unwrap();
    let start = Instant::now();
    while alive() {
        assert!(start.elapsed() < LONG, "mover {pid} outlives its agent");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    std::fs::remove_dir_all(dir).unwrap();
}
