//! Files whose objects lie in a cold storage class: who waits for a thaw, and who does not.

use crate::objects::{archive_in_bucket, s3_at};
use crate::support::{Hsm, LONG, cat, is_released, kill, noise, uuid_of};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use testkit::fault_proxy::{Fault, FaultProxy, Freezer, Reply, When};
use testkit::services::Rgw;
use testkit::{FsKind, wait_until};

const MIB: usize = 1 << 20;

struct Cold {
    hsm: Hsm,
    proxy: FaultProxy,
    _server: Rgw,
}

impl Cold {
    fn start(agent: &str) -> Self {
        Self::with_looks_every(1, agent)
    }

    fn with_looks_every(seconds: u32, agent: &str) -> Self {
        let server = Rgw::start();
        server.create_bucket("archive");
        let proxy = FaultProxy::start(&server.server().authority());
        let hsm = Hsm::start_with(FsKind::Ext4, 300, |site| {
            site.add_agent_setting(agent);
            let archive = s3_at(&proxy.url(), "archive");
            archive_in_bucket(site, &format!("{archive}\nmax_in_flight = 1\nthaw {{ check_interval_s = {seconds} }}"));
        });
        Self { hsm, proxy, _server: server }
    }

    /// An archived and released file, whose object is cold then.
    fn file(&self, name: &str, content: &[u8]) -> (PathBuf, Freezer) {
        let path = self.hsm.archived_and_released(name, content);
        let uuid = uuid_of(&path);
        (path, Freezer::put(&self.proxy, &uuid))
    }

    /// The actions of a file that wait for a thaw, as `sifaka actions --json` shows them.
    fn thawing(&self, path: &Path) -> Vec<Value> {
        // The agent may be dying.
        let out = self.hsm.run(&["actions", "--json"], &[]);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let name = path.file_name().unwrap().to_str().unwrap();
        let actions = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let is_it = |action: &Value| {
            action["state"] == "thawing" && action["path"].as_str().is_some_and(|path| path.ends_with(name))
        };
        actions.filter(is_it).collect()
    }

    #[track_caller]
    fn wait_for_thaw(&self, path: &Path) -> Value {
        wait_until(LONG, "it says that it is thawing", || !self.thawing(path).is_empty());
        // It may be asked about at this moment.
        let mut found = Value::Null;
        wait_until(LONG, "it says since when", || {
            found = self.thawing(path).pop().unwrap_or_default();
            found["thawing_since_ms"].as_u64() > Some(0)
        });
        assert_eq!(found["attempts"], 0, "{found}");
        found
    }

    /// What `GET /v1/actions/<id>` says of an action.
    fn action(&self, id: &Value) -> String {
        let mut stream = UnixStream::connect(self.hsm.site.admin_socket()).unwrap();
        write!(stream, "GET /v1/actions/{id} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// How often its object was asked about since the beginning.
    fn looks(&self, path: &Path) -> usize {
        let uuid = uuid_of(path);
        self.proxy.count(|request| request.method == "HEAD" && request.path.contains(&uuid))
    }

    #[track_caller]
    fn wait_for_looks(&self, path: &Path, more: usize) {
        let before = self.looks(path);
        wait_until(LONG, "it is asked about again", || self.looks(path) >= before + more);
    }
}

#[test]
fn p5_a_reader_waits_for_the_thaw_through_deaths_and_holds_nobody_up() {
    let cold = Cold::start("");
    let content = noise(1, 3 * MIB + 5);
    let (path, freezer) = cold.file("cold", &content);
    let warm = cold.hsm.archived_and_released("warm", &noise(2, 2 * MIB));
    let (queued, of_queued) = cold.file("queued", &noise(3, 1000));

    let reader = cat(&path);
    let first = cold.wait_for_thaw(&path);
    assert_eq!((&first["class"], &first["archive_id"]), (&"reader".into(), &2.into()), "{first}");
    let alone = cold.action(&first["id"]);
    assert!(alone.starts_with("HTTP/1.1 200") && alone.contains("\"thawing\""), "{alone}");
    let text = cold.hsm.ok(&["actions"], &[]);
    assert!(text.contains("thawing for"), "{text}");
    cold.hsm.ok(&["restore"], &[&queued]);
    let since = cold.wait_for_thaw(&queued)["thawing_since_ms"].clone();
    // The archive takes one action at a time, and none is there.
    assert!(fs::read(&warm).unwrap() == noise(2, 2 * MIB));

    let (agent, movers) = (cold.hsm.agent_pid(), cold.hsm.mover_pids());
    kill(agent);
    movers.into_iter().for_each(kill);
    wait_until(LONG, "the next agent answers", || cold.hsm.status().is_some_and(|status| status["pid"] != agent));
    cold.hsm.wait_for_movers();
    cold.wait_for_thaw(&path);
    assert_eq!(cold.wait_for_thaw(&queued)["thawing_since_ms"], since);
    cold.wait_for_looks(&path, 2);
    assert!(is_released(&path));

    freezer.thaw();
    of_queued.thaw();
    let read = reader.wait_with_output().unwrap();
    assert!(read.status.success() && read.stdout == content, "{}", String::from_utf8_lossy(&read.stderr));
    wait_until(LONG, "nobody waits for a thaw", || {
        cold.hsm.settle();
        !is_released(&path) && !is_released(&queued) && cold.thawing(&path).is_empty()
    });
    assert!(fs::read(&queued).unwrap() == noise(3, 1000));
    assert_eq!((freezer.thaws(&cold.proxy), of_queued.thaws(&cold.proxy)), (1, 1));
    let asked = cold.proxy.count(|request| request.method == "POST" && request.parameter("restore").is_some());
    assert_eq!(asked, 2, "once for each");
}

#[test]
fn p4_who_waits_for_a_thaw_is_cancelled_at_once() {
    let cold = Cold::start("");
    let (path, freezer) = cold.file("cold", &noise(1, 5000));
    cold.hsm.ok(&["restore"], &[&path]);
    let action = cold.wait_for_thaw(&path);
    wait_until(LONG, "its status says so", || cold.hsm.ok(&["status", "-a"], &[&path]).contains("[restore:thawing]"));
    cold.wait_for_looks(&path, 2);
    cold.hsm.ok(&["cancel", "--action", &action["id"].to_string()], &[]);
    cold.hsm.settle();
    assert!(cold.thawing(&path).is_empty() && is_released(&path));

    // A reader who is killed does not wait any more; the next one does.
    let mut reader = cat(&path);
    cold.wait_for_thaw(&path);
    reader.kill().unwrap();
    reader.wait().unwrap();
    let reader = cat(&path);
    cold.wait_for_looks(&path, 2);
    // Both of a queued restore and of readers: whoever is first answers all.
    cold.hsm.ok(&["restore"], &[&path]);
    freezer.thaw();
    assert_eq!(reader.wait_with_output().unwrap().stdout, noise(1, 5000));
    cold.hsm.settle();
    assert_eq!(freezer.thaws(&cold.proxy), 1);
}

#[test]
fn p5_parts_of_a_file_wait_for_the_thaw_too() {
    let cold = Cold::start("restore { mode = \"range\" threshold = \"4MiB\" readahead = \"8MiB\" }");
    let content = noise(1, 19 * MIB + 5);
    let (path, freezer) = cold.file("cold", &content);
    let file = File::open(&path).unwrap();
    std::thread::scope(|scope| {
        let read = |offset: usize| {
            let mut part = vec![0; 5000];
            file.read_exact_at(&mut part, offset as u64).unwrap();
            assert!(part == content[offset..][..5000], "at {offset}");
        };
        scope.spawn(move || read(11 * MIB - 100));
        scope.spawn(move || read(3 * MIB));
        cold.wait_for_thaw(&path);
        cold.hsm.ok(&["restore"], &[&path]);
        wait_until(LONG, "the restore waits beside the readers", || cold.thawing(&path).len() == 2);
        cold.wait_for_looks(&path, 2);
        let all = cold.thawing(&path);
        let queued = all.iter().find(|action| action["class"] == "restore");
        if let Some(queued) = queued {
            cold.hsm.ok(&["cancel", "--action", &queued["id"].to_string()], &[]);
        }
        assert_eq!(freezer.thaws(&cold.proxy), 1);
        freezer.thaw();
    });
    assert!(cold.thawing(&path).is_empty());
    assert!(fs::read(&path).unwrap() == content);
    assert_eq!(freezer.thaws(&cold.proxy), 1);
}

/// `restore.timeout_s` is over before anybody looks again.
#[test]
fn p5_readers_who_come_between_two_looks_wait_as_well() {
    let cold = Cold::with_looks_every(9, "restore { timeout_s = 4 mode = \"range\" threshold = \"4MiB\" }");
    let files = [("whole", 5000), ("parts", 5 * MIB)].map(|(name, size)| {
        let content = noise(size as u64, size);
        let (path, freezer) = cold.file(name, &content);
        (path, freezer, content)
    });
    let first = files.each_ref().map(|(path, ..)| cat(path));
    for (path, ..) in &files {
        cold.wait_for_thaw(path);
    }
    let second = files.each_ref().map(|(path, ..)| cat(path));
    for ((path, freezer, content), readers) in files.iter().zip(first.into_iter().zip(second)) {
        freezer.thaw();
        for reader in [readers.0, readers.1] {
            let read = reader.wait_with_output().unwrap();
            let why = String::from_utf8_lossy(&read.stderr);
            assert!(read.status.success() && read.stdout == *content, "{}: {why}", path.display());
        }
    }
}

#[test]
fn a_thaw_that_is_refused_is_told_and_scrub_passes_cold_objects_over() {
    let cold = Cold::start("");
    cold.proxy.add(
        When::method("POST").parameter("restore"),
        Fault::Answer(Reply::status(403).body("<Error><Code>AccessDenied</Code></Error>")),
    );
    let (path, freezer) = cold.file("cold", &noise(1, 5000));
    let error = fs::read(&path).unwrap_err();
    // The kernel passes on few errors as they are.
    assert_eq!(error.raw_os_error(), Some(5), "{error}");
    let out = cold.hsm.run(&["restore", "--wait"], &[&path]);
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(!out.status.success() && text.contains("s3:RestoreObject"), "{text}");

    cold.hsm.archived_and_released("warm", &noise(2, 5000));
    let mut scrub = cold.hsm.site.command();
    let scrub = scrub.arg("--config").arg(cold.hsm.site.agent_config()).args(["scrub", "--json"]).output().unwrap();
    let text = String::from_utf8(scrub.stdout).unwrap();
    let totals: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(scrub.status.success(), "{text}");
    assert_eq!((&totals["objects"], &totals["cold"], &totals["failed"]), (&1.into(), &1.into(), &0.into()), "{text}");
    assert_eq!(freezer.thaws(&cold.proxy), 0);
}
