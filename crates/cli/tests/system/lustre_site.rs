//! A filesystem that plays Lustre, with an agent that the test plays: the kernel's side of what the command line talks to.

use crate::support::LONG;
use lustre_standin::{Request, Root, control, library_dir, shared_object};
use model::{Extent, Fid, xattr};
use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use sys::lustre::{Action, Begin, CopyAction, Copytool, Handle, Item, Library, ProgressFlags, path2fid};
use testkit::{FsKind, LoopFs, Scratch, sifaka_binary};

pub(crate) struct Lustre {
    pub(crate) root: Root,
    pub(crate) library: Library,
    pub(crate) fs: LoopFs,
    pub(crate) scratch: Scratch,
}

impl Lustre {
    pub(crate) fn new() -> Self {
        let fs = LoopFs::new(FsKind::Ext4, 64);
        let root = Root::make_unique(&fs.path()).unwrap();
        control::set(&root, "max_requests", "64").unwrap();
        let scratch = Scratch::new("lustre");
        library_dir(&scratch.join("lib")).unwrap();
        let library = Library::load_from(&shared_object()).unwrap();
        Self { root, library, fs, scratch }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.fs.path().join(name)
    }

    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn fid(&self, path: &Path) -> Fid {
        path2fid(&self.library, path).unwrap()
    }

    /// The program with the stand-in as its library, and no agent of ours.
    pub(crate) fn command(&self) -> Command {
        self.command_of(&sifaka_binary())
    }

    pub(crate) fn command_of(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("LD_LIBRARY_PATH", self.scratch.join("lib")).stdin(Stdio::null());
        command.env("SIFAKA_SOCKET", self.scratch.join("no.sock")).env("SIFAKA_CONFIG", self.scratch.join("no.config"));
        command
    }

    pub(crate) fn run(&self, args: &[&str], paths: &[&Path]) -> Said {
        Said::of(self.command().args(args).args(paths).output().unwrap())
    }

    /// What it prints; it has to succeed.
    pub(crate) fn ok(&self, args: &[&str], paths: &[&Path]) -> String {
        let said = self.run(args, paths);
        assert_eq!(said.code, 0, "sifaka {args:?} {paths:?}: {said:?}");
        said.out
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        control::requests(&self.root).unwrap()
    }

    /// The lines of `status`, without the paths.
    pub(crate) fn status(&self, paths: &[&Path]) -> Vec<String> {
        self.ok(&["status", "-H", "-a"], paths).lines().map(str::to_owned).collect()
    }

    pub(crate) fn agent(&self) -> Agent {
        self.agent_that(|_| 0)
    }

    /// An agent that ends each action with the number that `decide` gives.
    pub(crate) fn agent_that(&self, decide: impl FnMut(&Item) -> i32 + Send + 'static) -> Agent {
        let copytool = Copytool::register(&self.library, &self.fs.path(), &[]).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let served = Arc::new(Mutex::new(Vec::new()));
        let work = Work { top: self.fs.path(), served: Arc::clone(&served), objects: HashMap::new() };
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || work.serve(copytool, decide, &stop)
        });
        Agent { stop, served, thread: Some(thread) }
    }
}

impl Drop for Lustre {
    fn drop(&mut self) {
        let _ = self.root.unlink_name();
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Of this code, with all of these words on standard error.
    #[track_caller]
    pub(crate) fn refused(self, code: i32, words: &[&str]) -> Self {
        let told = words.iter().all(|word| self.err.contains(word));
        assert!(self.code == code && told, "expected {code} and {words:?}: {self:?}");
        self
    }
}

/// Carries out what it is given, until it is dropped.
pub(crate) struct Agent {
    stop: Arc<AtomicBool>,
    served: Arc<Mutex<Vec<Item>>>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    /// What it was given so far.
    pub(crate) fn served(&self) -> Vec<Item> {
        self.served.lock().unwrap().clone()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking(), "the agent has failed");
    }
}

struct Work {
    top: PathBuf,
    served: Arc<Mutex<Vec<Item>>>,
    /// What the archive holds, by id.
    objects: HashMap<String, Vec<u8>>,
}

impl Work {
    fn serve(mut self, mut copytool: Copytool, mut decide: impl FnMut(&Item) -> i32, stop: &AtomicBool) {
        let handle = copytool.handle();
        while !stop.load(Ordering::SeqCst) {
            let Some(list) = copytool.recv().unwrap() else {
                wait_readable(&copytool);
                continue;
            };
            for item in list.items {
                self.served.lock().unwrap().push(item.clone());
                let errno = decide(&item);
                self.one(&handle, &item, errno);
            }
        }
    }

    fn one(&mut self, handle: &Handle, item: &Item, errno: i32) {
        if item.action() == Action::Cancel {
            return;
        }
        let path = self.top.join(".lustre/fid").join(item.fid().to_string());
        let action = match CopyAction::begin(handle, item, Begin::default()) {
            Ok(action) => action,
            Err(why) => {
                return CopyAction::fail(handle, item, why.raw_os_error().unwrap(), ProgressFlags::default()).unwrap();
            }
        };
        match item.action() {
            Action::Archive if errno == 0 => {
                let id = format!("object-{}", item.cookie());
                self.objects.insert(id.clone(), fs::read(&path).unwrap());
                let file = File::open(&path).unwrap();
                sys::xattr::set(&file, xattr::UUID, id.as_bytes()).unwrap();
            }
            Action::Restore if errno == 0 => {
                let file = File::open(&path).unwrap();
                let id = sys::xattr::get(&file, xattr::UUID).unwrap().unwrap();
                let content = &self.objects[str::from_utf8(&id).unwrap()];
                File::from(action.fd().unwrap()).write_all_at(content, 0).unwrap();
            }
            _ => {}
        }
        action.end(Extent::WHOLE, ProgressFlags::default(), errno).unwrap();
    }
}

/// For a moment: whoever waits looks whether it is to stop.
fn wait_readable(copytool: &Copytool) {
    let moment = rustix::event::Timespec::try_from(Duration::from_millis(50)).unwrap();
    let mut wanted = [rustix::event::PollFd::new(copytool, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut wanted, Some(&moment)).unwrap();
}

/// Waits until the coordinator's requests are as `done` says.
pub(crate) fn wait_for(lustre: &Lustre, done: impl FnMut(&[Request]) -> bool) {
    control::wait_for(&lustre.root, LONG, done).unwrap();
}
