//! A Lustre filesystem that is played by a stand-in for liblustreapi, with its agent and a posix mover as real processes.

use crate::support::{self, LONG};
use lustre_standin::{Request as Recorded, Root, Status, control};
use model::{Extent, Fid, xattr};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use sys::lustre::{Library, Request, UserAction, path2fid, request, state};
use testkit::{Daemon, FsKind, LoopFs, Site, wait_until};

/// State flags as Lustre has them.
pub(crate) const EXISTS: u32 = 0x1;
pub(crate) const RELEASED: u32 = 0x4;
pub(crate) const ARCHIVED: u32 = 0x8;

pub(crate) struct Lustre {
    pub(crate) agent: Option<Daemon>,
    pub(crate) site: Site,
    pub(crate) root: Root,
    pub(crate) library: Library,
    libraries: tempfile::TempDir,
    pub(crate) fs: LoopFs,
}

impl Lustre {
    /// The filesystem and what an agent needs, before one is started.
    pub(crate) fn prepare(configure: impl FnOnce(&mut Site)) -> Self {
        let fs = LoopFs::new(FsKind::Ext4, 256);
        let root = Root::make_unique(&fs.path()).unwrap();
        let libraries = tempfile::tempdir().unwrap();
        lustre_standin::library_dir(libraries.path()).unwrap();
        let library = Library::load_from(&lustre_standin::shared_object()).unwrap();
        let mut site = Site::local(&fs);
        site.add_agent_setting("retry { max_delay_s = 1 }");
        configure(&mut site);
        Self { agent: None, site, root, library, libraries, fs }
    }

    pub(crate) fn start() -> Self {
        Self::start_with(|_| {})
    }

    pub(crate) fn start_with(configure: impl FnOnce(&mut Site)) -> Self {
        let mut lustre = Self::prepare(configure);
        lustre.start_agent();
        lustre
    }

    /// Starts an agent, and waits until the coordinator has it.
    pub(crate) fn start_agent(&mut self) {
        let before = self.pipes();
        self.agent = Some(self.site.start_agent_as(self.with_library(self.site.agent_command())));
        wait_until(LONG, "the agent is registered", || self.pipes().iter().any(|pipe| !before.contains(pipe)));
    }

    pub(crate) fn with_library(&self, mut command: Command) -> Command {
        command.env("LD_LIBRARY_PATH", self.libraries.path());
        command
    }

    fn pipes(&self) -> Vec<u64> {
        control::clients(&self.root).unwrap().into_iter().flat_map(|client| client.pipes).collect()
    }

    /// The agent dies at once, and its movers with it.
    pub(crate) fn kill_agent(&mut self) {
        let agent = self.agent.take().unwrap();
        let movers = self.mover_pids();
        support::kill(agent.pid().try_into().unwrap());
        wait_until(LONG, "the agent is dead", || agent.status().is_some());
        movers.into_iter().for_each(support::kill);
    }

    pub(crate) fn stop_agent(&mut self) {
        self.agent.take().unwrap().terminate(LONG);
    }

    pub(crate) fn log(&self) -> String {
        self.agent.as_ref().map(|agent| agent.log()).unwrap_or_default()
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.site.sifaka_ok(&["status", "--json"])).unwrap()
    }

    pub(crate) fn mover_pids(&self) -> Vec<i32> {
        let status = self.status();
        let plugins = status["agent"]["plugins"].as_array().unwrap();
        plugins.iter().filter(|p| p["pid"].is_number()).map(|p| support::number(&p["pid"])).collect()
    }

    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.fs.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn fid(&self, path: &Path) -> Fid {
        path2fid(&self.library, path).unwrap()
    }

    pub(crate) fn ask(&self, action: UserAction, paths: &[&Path]) {
        self.ask_with(action, paths, 0, b"").unwrap();
    }

    pub(crate) fn ask_with(
        &self,
        action: UserAction,
        paths: &[&Path],
        archive_id: u32,
        data: &[u8],
    ) -> std::io::Result<()> {
        let items: Vec<_> = paths.iter().map(|path| (self.fid(path), Extent::WHOLE)).collect();
        let asked = Request { action, archive_id, flags: 0, items: &items, data };
        request(&self.library, &self.fs.path(), &asked).map_err(|error| error.source)
    }

    pub(crate) fn flags(&self, path: &Path) -> u32 {
        state(&self.library, path).unwrap().flags.bits()
    }

    pub(crate) fn requests(&self) -> Vec<Recorded> {
        control::requests(&self.root).unwrap()
    }

    pub(crate) fn statuses(&self) -> Vec<Status> {
        self.requests().iter().map(|request| request.status).collect()
    }

    #[track_caller]
    pub(crate) fn wait(&self, what: &str, done: impl FnMut(&[Recorded]) -> bool) {
        if control::wait_for(&self.root, LONG, done).is_err() {
            panic!("{what}: {:#?}\n{}", self.requests(), self.log());
        }
    }

    /// Until nothing is open at the coordinator any more.
    #[track_caller]
    pub(crate) fn settle(&self) {
        self.wait("all requests end", |requests| requests.iter().all(|request| !request.is_open()));
    }

    /// No slot of the coordinator's is held, and the agent has nothing.
    #[track_caller]
    pub(crate) fn nothing_is_left(&self) {
        self.settle();
        wait_until(LONG, "the agent has nothing any more", || self.actions().is_empty());
    }

    pub(crate) fn actions(&self) -> Vec<Value> {
        let text = self.site.sifaka_ok(&["actions", "--json"]);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) fn archive(&self, path: &Path) {
        self.ask(UserAction::Archive, &[path]);
        self.settle();
        assert_eq!(self.flags(path) & (EXISTS | ARCHIVED), EXISTS | ARCHIVED, "{}", self.log());
    }

    pub(crate) fn released(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.file(name, content);
        self.archive(&path);
        self.ask(UserAction::Release, &[&path]);
        assert_eq!(self.flags(&path) & RELEASED, RELEASED);
        path
    }

    /// As a process that reads.
    pub(crate) fn read(&self, path: &Path) -> Result<Vec<u8>, i32> {
        control::read(path, Duration::from_secs(60)).map_err(|errno| errno.0)
    }

    pub(crate) fn attribute(&self, path: &Path, name: &str) -> String {
        let fd = rustix::fs::open(path, sys::OFlags::PATH, sys::Mode::empty()).unwrap();
        String::from_utf8(sys::xattr::get(&fd, name).unwrap().unwrap_or_default()).unwrap()
    }

    pub(crate) fn uuid(&self, path: &Path) -> String {
        self.attribute(path, xattr::UUID)
    }

    /// Makes a function of the library fail.
    pub(crate) fn fail(&self, function: &str, errno: i32, count: u32) {
        control::fail(&self.root, function, errno, Some(count)).unwrap();
    }
}

impl Drop for Lustre {
    fn drop(&mut self) {
        if let Some(agent) = self.agent.take() {
            let _ = agent.terminate(LONG);
        }
        let _ = self.root.unlink_name();
    }
}
