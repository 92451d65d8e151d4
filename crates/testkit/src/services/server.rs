//! A server as a child process: started, ready, killed, started again on the same port.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::process::Daemon;
use crate::services::port::Port;

/// How long a server may take until it answers, on a busy machine.
const READY_TIMEOUT: Duration = Duration::from_secs(90);
/// How long one connection may take that asks whether it does.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may take to end when it was asked to.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// What is started.
#[derive(Debug)]
pub(crate) struct Recipe {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(&'static str, OsString)>,
    /// Its working directory, which also says whose it is when a test was killed.
    pub(crate) dir: PathBuf,
}

impl Recipe {
    pub(crate) fn new(program: impl Into<PathBuf>, dir: &Path) -> Self {
        Self { program: program.into(), args: Vec::new(), env: Vec::new(), dir: dir.to_owned() }
    }

    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value))).current_dir(&self.dir);
        command
    }
}

/// A server that speaks HTTP on a port of its own. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    name: &'static str,
    recipe: Recipe,
    port: Port,
    daemon: Mutex<Daemon>,
}

impl Server {
    /// Starts `recipe`, which is to listen on `port`, and waits until it answers.
    #[track_caller]
    pub(crate) fn start(name: &'static str, recipe: Recipe, port: Port) -> Self {
        let daemon = Mutex::new(Daemon::spawn(name, recipe.command()));
        let server = Self { name, recipe, port, daemon };
        server.wait_until_ready();
        server
    }

    /// Where it is: `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("http://{}", self.authority())
    }

    /// `127.0.0.1:<port>`.
    pub fn authority(&self) -> String {
        format!("{}:{}", Ipv4Addr::LOCALHOST, self.port.number())
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.daemon().pid()
    }

    /// What the process that runs now has written so far.
    pub fn log(&self) -> String {
        self.daemon().log()
    }

    /// Kills it (SIGKILL). Until [`Server::restart`], connections to it are refused.
    pub fn kill(&self) {
        self.daemon().kill_group();
    }

    /// Starts it again, on the same port and with the same data, and waits until it answers. What still runs is killed.
    ///
    /// # Panics
    /// When it does not answer.
    #[track_caller]
    pub fn restart(&self) {
        let mut daemon = self.daemon();
        daemon.kill_group();
        *daemon = Daemon::spawn(self.name, self.recipe.command());
        drop(daemon);
        self.wait_until_ready();
    }

    /// Asks it to end (SIGTERM), and waits until it has.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn stop(&self) {
        self.daemon().terminate(END_TIMEOUT);
    }

    /// From now on it hangs (SIGSTOP): the kernel still takes connections and some bytes for it, and nothing comes back.
    pub fn freeze(&self) {
        self.daemon().signal(Signal::STOP);
    }

    /// Ends [`Server::freeze`].
    pub fn thaw(&self) {
        self.daemon().signal(Signal::CONT);
    }

    fn daemon(&self) -> MutexGuard<'_, Daemon> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks until there is an answer, whatever it says: listening alone is not being ready.
    #[track_caller]
    fn wait_until_ready(&self) {
        let deadline = Instant::now() + READY_TIMEOUT;
        while !self.answers().unwrap_or(false) {
            let (status, name) = (self.daemon().status(), self.name);
            assert!(status.is_none(), "{name} ended before it was ready: {status:?}; output:\n{}", self.log());
            assert!(Instant::now() < deadline, "{name} is not ready after {READY_TIMEOUT:?}; output:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn answers(&self) -> io::Result<bool> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port.number()))?;
        stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
        write!(stream, "GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.authority())?;
        let mut start = [0; 7];
        stream.read_exact(&mut start)?;
        Ok(start == *b"HTTP/1.")
    }
}
