//! A place where an agent can run: configuration, state, sockets, archive, all of one test's own.
//!
//! Knows the programs only as an administrator does: by configuration files, command line and socket.

use std::fs::{self, DirBuilder, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::loopfs::LoopFs;
use crate::process::Daemon;
use crate::scratch::Scratch;

/// How long an agent may take until its admin socket answers, on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The `sifaka` program of this build: what cargo says (`CARGO_BIN_EXE_sifaka`, known in tests of the crate that has
/// the program), or else the one in the target directory that the running test is in.
///
/// # Panics
/// When it has not been built: tests of other crates need `cargo build -p sifaka-cli` before.
#[track_caller]
pub fn sifaka_binary() -> PathBuf {
    for variable in ["CARGO_BIN_EXE_sifaka", "NEXTEST_BIN_EXE_sifaka"] {
        if let Some(path) = std::env::var_os(variable) {
            return path.into();
        }
    }
    let test = std::env::current_exe().expect("the path of this program");
    // <target>/<profile>/deps/<test>
    let built = test.parent().and_then(Path::parent).expect("a test in a target directory").join("sifaka");
    assert!(built.exists(), "{} does not exist: cargo build -p sifaka-cli", built.display());
    built
}

/// Directories and configuration for one agent with a posix mover. Dropping it ends what still runs for it (see
/// [`Scratch`]), such as the guard of a failed test and the agents that this guard has started, unmounts and removes them.
///
/// Agents started on it should be dropped before it; they are values of their own, so that a test can kill and start
/// them as it likes.
#[derive(Debug)]
pub struct Site {
    scratch: Scratch,
    client: PathBuf,
    archives: Vec<Archive>,
    /// Besides posix: names, and their files.
    movers: Vec<(String, String)>,
    agent_text: String,
}

#[derive(Debug)]
struct Archive {
    name: String,
    id: u32,
    /// At least one.
    roots: Vec<PathBuf>,
    text: String,
}

impl Site {
    /// A site that serves `fs`, with archive 1 in a directory of the site.
    ///
    /// # Panics
    /// When it cannot be made.
    #[track_caller]
    pub fn local(fs: &LoopFs) -> Self {
        Self::at(&fs.path())
    }

    /// As [`Site::local`], for any path as `client_device`.
    ///
    /// # Panics
    /// When it cannot be made.
    #[track_caller]
    pub fn at(client: &Path) -> Self {
        let scratch = Scratch::new("site");
        for name in ["config", "state", "mounts", "plugins", "run", "archive"] {
            let path = scratch.join(name);
            DirBuilder::new().mode(0o700).create(&path).unwrap_or_else(|error| panic!("mkdir {path:?}: {error}"));
        }
        let mut site = Self {
            scratch,
            client: client.to_owned(),
            archives: Vec::new(),
            movers: Vec::new(),
            agent_text: String::new(),
        };
        site.add_archive("1", 1, &site.dir("archive"), "");
        site
    }

    /// The filesystem as its users see it.
    pub fn client(&self) -> &Path {
        &self.client
    }

    /// The agent's configuration file.
    pub fn agent_config(&self) -> PathBuf {
        self.dir("config").join("agent")
    }

    /// The posix mover's configuration file.
    pub fn posix_config(&self) -> PathBuf {
        self.dir("config").join("lhsm-plugin-posix")
    }

    /// `state_dir`.
    pub fn state_dir(&self) -> PathBuf {
        self.dir("state")
    }

    /// `mount_root`.
    pub fn mount_root(&self) -> PathBuf {
        self.dir("mounts")
    }

    /// `plugin_dir`: empty, for tests to put programs in.
    pub fn plugin_dir(&self) -> PathBuf {
        self.dir("plugins")
    }

    /// `transport.socket_dir`.
    pub fn socket_dir(&self) -> PathBuf {
        self.dir("run")
    }

    /// `admin.socket`.
    pub fn admin_socket(&self) -> PathBuf {
        self.socket_dir().join("admin.sock")
    }

    /// The root of the first archive, or the first of its roots.
    pub fn archive_root(&self) -> &Path {
        &self.archives[0].roots[0]
    }

    /// The files in the first archive's `objects`, in no order: what a test corrupts or counts. Without the manifests of objects that are there,
    /// and of what has no content.
    pub fn archive_files(&self) -> Vec<PathBuf> {
        Self::files_of_archive(self.archive_root())
    }

    /// As [`Site::archive_files`], of the archive at `root`.
    pub fn files_of_archive(root: &Path) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut dirs = vec![root.join("objects")];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if is_dir { dirs.push(entry.path()) } else { files.push(entry.path()) }
            }
        }
        let is_object = |file: &PathBuf| match file.extension() {
            Some(end) if end == "manifest" => {
                let object = file.with_extension("");
                !object.exists() && object.extension().is_none_or(|end| end != "rec")
            }
            _ => true,
        };
        files.retain(is_object);
        files
    }

    /// Moves the first archive to another directory, which should be on a filesystem that is not served. Nothing is copied.
    pub fn set_archive_root(&mut self, root: &Path) {
        self.set_archive_roots(&[root.to_owned()]);
    }

    /// As [`Site::set_archive_root`], with several.
    pub fn set_archive_roots(&mut self, roots: &[PathBuf]) {
        roots.clone_into(&mut self.archives[0].roots);
        self.write_configs();
    }

    /// Adds lines to the first archive's block, such as `format = "lemur"`.
    pub fn add_archive_setting(&mut self, text: &str) {
        push_line(&mut self.archives[0].text, text);
        self.write_configs();
    }

    /// Adds an archive.
    pub fn add_archive(&mut self, name: &str, id: u32, root: &Path, settings: &str) {
        let text = settings.to_owned();
        self.archives.push(Archive { name: name.to_owned(), id, roots: vec![root.to_owned()], text });
        self.write_configs();
    }

    /// Enables another mover, with this text as its file.
    pub fn add_mover(&mut self, name: &str, text: &str) {
        self.movers.push((name.to_owned(), text.to_owned()));
        self.write_configs();
    }

    /// Adds lines to the agent's configuration, such as `retry { max_delay_s = 1 }`.
    pub fn add_agent_setting(&mut self, text: &str) {
        push_line(&mut self.agent_text, text);
        self.write_configs();
    }

    /// Starts an agent, waits until its admin socket answers, and returns it.
    ///
    /// # Panics
    /// When it does not start, with its output.
    #[track_caller]
    pub fn start_agent(&self) -> Daemon {
        self.start_agent_as(self.agent_command())
    }

    /// What [`Site::start_agent`] starts, for tests that change its environment.
    pub fn agent_command(&self) -> Command {
        let mut command = Command::new(sifaka_binary());
        command.arg("agent").arg("--config").arg(self.agent_config());
        command
    }

    /// As [`Site::start_agent`], with a command of the test's own.
    ///
    /// # Panics
    /// When it does not start, with its output.
    #[track_caller]
    pub fn start_agent_as(&self, command: Command) -> Daemon {
        let agent = Daemon::spawn("agent", command);
        self.wait_ready(&agent);
        agent
    }

    /// Waits until the admin socket answers, which it does before movers have registered.
    ///
    /// # Panics
    /// When `agent` ends instead, or takes too long.
    #[track_caller]
    pub fn wait_ready(&self, agent: &Daemon) {
        let started = Instant::now();
        while !answers(&self.admin_socket()) {
            if let Some(status) = agent.status() {
                panic!("the agent ended ({status}) before its admin socket answered:\n{}", agent.log());
            }
            assert!(started.elapsed() < START_TIMEOUT, "no answer from the admin socket:\n{}", agent.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The command line client, talking to this site's agent; standard input is empty.
    pub fn command(&self) -> Command {
        let mut command = Command::new(sifaka_binary());
        command.env("SIFAKA_SOCKET", self.admin_socket()).stdin(Stdio::null());
        command
    }

    /// Runs the command line client and returns its output, whatever its exit status.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn sifaka(&self, args: &[&str]) -> Output {
        self.command().args(args).output().unwrap_or_else(|error| panic!("cannot start sifaka {args:?}: {error}"))
    }

    /// As [`Site::sifaka`], for what must succeed; returns its standard output.
    ///
    /// # Panics
    /// Also when its exit status is not 0.
    #[track_caller]
    pub fn sifaka_ok(&self, args: &[&str]) -> String {
        let output = self.sifaka(args);
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "sifaka {args:?}: {}\n{stdout}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        stdout
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    fn write_configs(&self) {
        let movers: Vec<_> = self.movers.iter().map(|(name, _)| format!(", \"{name}\"")).collect();
        let movers = movers.concat();
        let agent = format!(
            "client_device = {}\nmount_root = {}\nenabled_plugins = [\"posix\"{movers}]\nplugin_dir = {}\nstate_dir = {}\n\
             transport {{\n  socket_dir = {}\n}}\nadmin {{\n  socket = {}\n}}\n{}",
            quoted(&self.client),
            quoted(&self.mount_root()),
            quoted(&self.plugin_dir()),
            quoted(&self.state_dir()),
            quoted(&self.socket_dir()),
            quoted(&self.admin_socket()),
            self.agent_text,
        );
        write_private(&self.agent_config(), &agent);
        let archives = self.archives.iter().map(|archive| {
            let Archive { name, id, roots, text } = archive;
            let roots: Vec<_> = roots.iter().map(|root| quoted(root)).collect();
            let root = if let [root] = roots.as_slice() { root.clone() } else { format!("[{}]", roots.join(", ")) };
            format!("archive \"{name}\" {{\n  id = {id}\n  root = {root}\n{text}\n}}\n")
        });
        write_private(&self.posix_config(), &archives.collect::<String>());
        for (name, text) in &self.movers {
            write_private(&self.dir("config").join(format!("lhsm-plugin-{name}")), text);
        }
    }
}

fn push_line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// As a string of HCL.
fn quoted(path: &Path) -> String {
    let text = path.to_str().expect("a path of a test is text");
    assert!(!text.contains(['"', '\\', '$', '%', '\n']), "this path would need escapes: {text:?}");
    format!("\"{text}\"")
}

fn write_private(path: &Path, text: &str) {
    let mut file =
        File::options().write(true).create(true).truncate(true).mode(0o600).open(path).expect("write a configuration");
    file.write_all(text.as_bytes()).expect("write a configuration");
}

/// Whether something behind the socket answers HTTP, whatever it says: listening alone is not enough.
fn answers(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let mut answer = [0; 5];
    stream.set_read_timeout(Some(Duration::from_secs(5))).is_ok()
        && stream.write_all(b"GET / HTTP/1.1\r\nHost: sifaka\r\nConnection: close\r\n\r\n").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && &answer == b"HTTP/"
}
