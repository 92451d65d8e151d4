//! NATS with JetStream: one server, or a cluster of several.

mod access;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::scratch::Scratch;
use crate::services::plain;
use crate::services::port::Port;
use crate::services::server::{Recipe, Server};
use crate::wait_until;

pub use access::NatsAccess;

/// How long a cluster may take until it has elected whom it needs, on a busy machine.
const ELECTED: Duration = Duration::from_secs(60);

/// Servers of NATS that keep streams together. Dropping it kills them and removes what they kept.
#[derive(Debug)]
pub struct NatsCluster {
    servers: Vec<NatsServer>,
    access: NatsAccess,
    scratch: Scratch,
}

/// One server of a [`NatsCluster`].
#[derive(Debug)]
pub struct NatsServer {
    name: String,
    /// Its monitoring port speaks HTTP: that is what tells whether it runs.
    server: Server,
    client: Port,
    _route: Port,
}

/// What a stream is, as the servers tell.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stream {
    leader: Option<String>,
    messages: u64,
}

impl NatsCluster {
    /// The user of [`NatsAccess::password`].
    pub const USER: &str = "sifaka";
    /// That user's password.
    pub const PASSWORD: &str = "a-password-of-tests";

    /// Starts one server, or three and so on, that anybody may use, with no streams.
    ///
    /// # Panics
    /// When `nats-server` is not installed, or fails.
    #[track_caller]
    pub fn start(servers: usize) -> Self {
        Self::start_for(servers, |_| NatsAccess::open())
    }

    /// As [`NatsCluster::start`], for whom `access` lets in; its files are made in the directory that it is given.
    ///
    /// # Panics
    /// As there.
    #[track_caller]
    pub fn start_for(servers: usize, access: impl FnOnce(&Path) -> NatsAccess) -> Self {
        let scratch = Scratch::new("nats");
        let access = access(scratch.path());
        let ports: Vec<[Port; 3]> = (0..servers).map(|_| std::array::from_fn(|_| Port::claim())).collect();
        let routes: Vec<String> =
            ports.iter().map(|[_, _, route]| format!("\"nats://127.0.0.1:{}\"", route.number())).collect();
        let recipes = ports.iter().enumerate().map(|(index, ports)| {
            let (name, dir) = (format!("n{index}"), scratch.join(format!("n{index}")));
            fs::create_dir(&dir).expect("make a directory");
            let conf = dir.join("nats.conf");
            fs::write(&conf, configuration(&name, &dir, ports, &routes, &access)).expect("write a file");
            Recipe::new("nats-server", &dir).args(["-c".into(), conf.into_os_string()])
        });
        let recipes: Vec<Recipe> = recipes.collect();
        let start = |(index, ([client, monitor, route], recipe)): (usize, ([Port; 3], Recipe))| NatsServer {
            name: format!("n{index}"),
            server: Server::start("nats-server", recipe, monitor),
            client,
            _route: route,
        };
        let servers = ports.into_iter().zip(recipes).enumerate().map(start).collect();
        let cluster = Self { servers, access, scratch };
        cluster.wait_until_ready();
        cluster
    }

    /// Its servers, in the order of their numbers.
    pub fn servers(&self) -> &[NatsServer] {
        &self.servers
    }

    /// The addresses of all of them: `nats://127.0.0.1:<port>`, or `tls://…`.
    pub fn urls(&self) -> Vec<String> {
        let scheme = self.access.scheme();
        self.servers.iter().map(|server| format!("{scheme}://127.0.0.1:{}", server.client.number())).collect()
    }

    /// What a client needs to be let in.
    pub fn access(&self) -> &NatsAccess {
        &self.access
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// Waits until every server that runs has all that it needs, and they have elected the one that places streams. Frozen ones
    /// are asked, too.
    ///
    /// # Panics
    /// When that takes a minute.
    #[track_caller]
    pub fn wait_until_ready(&self) {
        for server in &self.servers {
            let ready = || server.ask("/healthz").is_some_and(|health| health["status"] == "ok");
            wait_until(ELECTED, "a NATS server that is ready", ready);
        }
        let elected = || {
            self.ask("/jsz")
                .is_some_and(|state| state["meta_cluster"]["leader"].as_str().is_some_and(|l| !l.is_empty()))
        };
        if self.servers.len() > 1 {
            wait_until(ELECTED, "NATS servers that have elected one", elected);
        }
    }

    /// The number of the server that leads a stream. Nothing while there is no such stream, or nobody leads it.
    pub fn leader(&self, stream: &str) -> Option<usize> {
        let leader = self.stream(stream)?.leader?;
        self.servers.iter().position(|server| server.name == leader)
    }

    /// How many messages a stream holds, as the one who leads it tells; nothing while nobody does.
    pub fn messages(&self, stream: &str) -> Option<u64> {
        if self.servers.len() == 1 {
            return self.stream(stream).map(|stream| stream.messages);
        }
        let leader = self.leader(stream)?;
        self.servers[leader].stream(stream).map(|stream| stream.messages)
    }

    fn stream(&self, name: &str) -> Option<Stream> {
        let mut told: Vec<Stream> = self.servers.iter().filter_map(|server| server.stream(name)).collect();
        // One that was left behind may tell of another leader, or of none.
        let agreed = |stream: &Stream| told.iter().filter(|other| other.leader == stream.leader).count();
        let best = (0..told.len()).max_by_key(|&index| (told[index].leader.is_some(), agreed(&told[index])))?;
        Some(told.swap_remove(best))
    }

    fn ask(&self, path: &str) -> Option<Value> {
        self.servers.iter().find_map(|server| server.ask(path))
    }
}

impl NatsServer {
    /// The process: killed, frozen and started again there.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Its clients' port.
    pub fn port(&self) -> u16 {
        self.client.number()
    }

    fn stream(&self, name: &str) -> Option<Stream> {
        let state = self.ask("/jsz?accounts=true&streams=true")?;
        let accounts = state["account_details"].as_array()?;
        let mut streams = accounts.iter().filter_map(|account| account["stream_detail"].as_array()).flatten();
        let stream = streams.find(|stream| stream["name"] == name)?;
        Some(Stream {
            leader: stream["cluster"]["leader"].as_str().filter(|name| !name.is_empty()).map(str::to_owned),
            messages: stream["state"]["messages"].as_u64()?,
        })
    }

    /// Nothing when it does not answer within two seconds.
    fn ask(&self, path: &str) -> Option<Value> {
        let url = format!("{}{path}", self.server.url());
        let args = ["--max-time", "2"].map(str::to_owned);
        let answer = plain::try_curl(&std::env::temp_dir(), "GET", &url, None, &args).ok()?;
        serde_json::from_slice(&answer.body).ok()
    }
}

fn configuration(name: &str, dir: &Path, ports: &[Port; 3], routes: &[String], access: &NatsAccess) -> String {
    let [client, monitor, route] = ports.each_ref().map(Port::number);
    let mut text = format!(
        "server_name: {name}\nlisten: \"127.0.0.1:{client}\"\nhttp: \"127.0.0.1:{monitor}\"\n\
         jetstream {{\n  store_dir: {dir:?}\n  max_mem: 64M\n  max_file: 4G\n}}\n",
        dir = dir.join("data"),
    );
    text += access.configuration();
    if routes.len() > 1 {
        let others: Vec<&str> =
            routes.iter().map(String::as_str).filter(|url| !url.contains(&format!(":{route}\""))).collect();
        let _ = write!(
            text,
            "cluster {{\n  name: sifaka\n  listen: \"127.0.0.1:{route}\"\n  routes: [{}]\n}}\n",
            others.join(", ")
        );
    }
    text
}
