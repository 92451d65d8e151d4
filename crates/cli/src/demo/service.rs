//! The demo's agent: configured, started and ended as an administrator would.

use super::pace::Stop;
use super::site::Site;
use super::{ask, cannot, cannot_at, processes, wrong};
use crate::exit::CliError;
use crate::output::complain;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Until the admin socket answers.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// Until the agent has ended: its movers end what they have begun.
const END_PATIENCE: Duration = Duration::from_secs(20);
/// There is no event for "the socket answers".
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Actions that the mover works on at the same time: most of them wait for the disk.
const MOVER_THREADS: u32 = 16;
/// A reader that waits longer than this gets an error, and the demo ends.
const RESTORE_TIMEOUT_S: u32 = 60;

impl Site {
    pub(super) fn admin_socket(&self) -> PathBuf {
        self.run_dir().join("admin.sock")
    }

    fn agent_config(&self) -> PathBuf {
        self.dir("config").join("agent")
    }

    /// Starts an agent and waits until it answers.
    pub(super) fn start_agent(&mut self, stop: &Stop) -> Result<(), CliError> {
        if !self.agent_config().exists() {
            self.write_configs()?;
        }
        let log = File::options().create(true).append(true).open(self.log()).map_err(cannot_at("make", &self.log()))?;
        let also = log.try_clone().map_err(cannot_at("use", &self.log()))?;
        let mut command = self.sifaka()?;
        command.arg("agent").stdout(also).stderr(log);
        self.agent = Some(command.spawn().map_err(cannot("start the agent"))?);
        let began = Instant::now();
        while !ask::answers(&self.admin_socket())? {
            stop.check()?;
            if let Some(status) = self.agent.as_mut().and_then(|agent| agent.try_wait().ok().flatten()) {
                return Err(wrong(format!("the agent ended before it answered ({status})")));
            }
            if began.elapsed() > START_PATIENCE {
                return Err(wrong("the agent does not answer"));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    /// Ends the agent and then its guard, politely. What does not end is left for [`processes::end_all`].
    pub(super) fn end_agent(&mut self) {
        let Some(mut agent) = self.agent.take() else { return };
        // An error says that it has ended.
        let _ = Pid::from_raw(agent.id().cast_signed()).map(|pid| kill_process(pid, Signal::TERM));
        if !ended(&mut agent) {
            complain("demo: the agent does not end when asked to, and is killed");
            processes::kill_descendants();
            let _ = agent.wait();
            return;
        }
        let stopped = self.sifaka().map(|mut command| command.args(["guard", "stop", "--force"]).output());
        match stopped {
            Ok(Ok(output)) if output.status.success() => {}
            Ok(Ok(output)) => {
                complain(&format!("demo: guard stop: {}", String::from_utf8_lossy(&output.stderr).trim()))
            }
            Ok(Err(error)) => complain(&format!("demo: cannot run guard stop: {error}")),
            Err(error) => error.report(),
        }
        if !processes::wait_for_end(END_PATIENCE) {
            complain("demo: processes of the agent are left, and are killed");
        }
    }

    /// `sifaka rebuild` of the filesystem that is mounted, from the archive.
    pub(super) fn rebuild(&self) -> Result<(), CliError> {
        let mut command = self.sifaka()?;
        command.args(["rebuild", "--quiet", "--id", "1", "--root"]).arg(self.archive()).arg(self.mount_point());
        let output = command.output().map_err(cannot("run sifaka rebuild"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(wrong(format!("sifaka rebuild: {}", String::from_utf8_lossy(&output.stderr).trim())))
    }

    /// This program, away from our terminal and signals.
    fn sifaka(&self) -> Result<Command, CliError> {
        let program = std::env::current_exe().map_err(cannot("find this program"))?;
        let mut command = Command::new(program);
        command.arg("--config").arg(self.agent_config()).stdin(Stdio::null()).process_group(0);
        sys::signals::unblock_in_child(&mut command);
        Ok(command)
    }

    /// In JSON, where every path can be written.
    fn write_configs(&self) -> Result<(), CliError> {
        let agent = json!({
            "client_device": self.mount_point(),
            "mount_root": self.dir("mounts"),
            "enabled_plugins": ["posix"],
            "plugin_dir": self.dir("plugins"),
            "state_dir": self.dir("state"),
            "transport": { "socket_dir": self.run_dir() },
            "admin": { "socket": self.admin_socket() },
            "restore": { "timeout_s": RESTORE_TIMEOUT_S },
            "retry": { "max_attempts": 3, "max_delay_s": 1 },
        });
        let posix = json!({
            "num_threads": MOVER_THREADS,
            "archive": { "demo": { "id": 1, "root": self.archive() } },
        });
        write_private(&self.agent_config(), &agent)?;
        write_private(&self.dir("config").join("lhsm-plugin-posix"), &posix)
    }
}

fn ended(agent: &mut Child) -> bool {
    let deadline = Instant::now() + END_PATIENCE;
    while Instant::now() < deadline {
        if !matches!(agent.try_wait(), Ok(None)) {
            return true;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    false
}

fn write_private(path: &Path, value: &serde_json::Value) -> Result<(), CliError> {
    let mut file =
        File::options().write(true).create_new(true).mode(0o600).open(path).map_err(cannot_at("make", path))?;
    writeln!(file, "{value:#}").map_err(cannot_at("write", path))
}
