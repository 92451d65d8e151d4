//! S3: a Ceph cluster of one monitor and one storage daemon, which keeps everything in memory, and the RADOS gateway.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::process::Daemon;
use crate::scratch::Scratch;
use crate::services::plain::{self, Answer, encoded, texts_of};
use crate::services::port::Port;
use crate::services::server::{Recipe, Server};
use crate::tool;

/// How much data the store takes unless [`Rgw::with_capacity`] says so. Memory is used for what is stored.
const CAPACITY_MIB: u64 = 1024;
/// A key of the cluster's own protocol; nobody outside the test's machine reaches it.
const CLUSTER_KEY: &str = "AQBTaWZhAAAAABAAAQIDBAUGBwgJCgsMDQ4PEA==";

/// A server of S3 with one user. Dropping it ends all of it.
///
/// The gateway can be killed and started again alone ([`Rgw::server`]): the data is with the storage daemon, as it would be in a
/// cluster.
#[derive(Debug)]
pub struct Rgw {
    // In the order in which they have to end.
    gateway: Server,
    _storage: Daemon,
    _monitor: Daemon,
    conf: PathBuf,
    scratch: Scratch,
}

impl Rgw {
    /// The user's access key.
    pub const ACCESS_KEY: &str = "SIFAKATESTACCESSKEY1";
    /// The user's secret key.
    pub const SECRET_KEY: &str = "sifaka-test-secret-key/of+the+user-1";
    /// What requests have to be signed for.
    pub const REGION: &str = "default";

    /// Starts one, with no buckets.
    ///
    /// # Panics
    /// When a program of it is missing or fails.
    #[track_caller]
    pub fn start() -> Self {
        Self::with_capacity(CAPACITY_MIB)
    }

    /// As [`Rgw::start`], for this much data.
    ///
    /// # Panics
    /// As there.
    #[track_caller]
    pub fn with_capacity(mib: u64) -> Self {
        let scratch = Scratch::new("rgw");
        let (port, monitor_port) = (Port::claim(), Port::claim());
        let conf = scratch.join("ceph.conf");
        for name in ["mon", "osd", "run"] {
            fs::create_dir(scratch.join(name)).expect("make a directory");
        }
        fs::write(scratch.join("keyring"), keyring()).expect("write a file");
        fs::write(&conf, configuration(&scratch, &port, &monitor_port, mib << 20)).expect("write a file");

        let command = |program: &str, args: &[&str]| {
            let mut command = Command::new(program);
            command.args(args).env("CEPH_CONF", &conf).current_dir(scratch.path());
            command
        };
        let address = format!("[v2:127.0.0.1:{}]", monitor_port.number());
        tool::run("ceph-base", &mut command("monmaptool", &["--create", "--addv", "a", &address, "monmap"]));
        let make = ["--mkfs", "-i", "a", "--monmap", "monmap", "--keyring", "keyring"];
        tool::run("ceph-mon", &mut command("ceph-mon", &make));
        let monitor = Daemon::spawn("ceph-mon", command("ceph-mon", &["-f", "-i", "a"]));
        tool::run("ceph-common", &mut command("ceph", &["--connect-timeout", "60", "osd", "create"]));
        tool::run("ceph-osd", &mut command("ceph-osd", &["--mkfs", "-i", "0"]));
        let storage = Daemon::spawn("ceph-osd", command("ceph-osd", &["-f", "-i", "0"]));
        add_user(&mut command("radosgw-admin", &[]));

        let recipe = Recipe::new("radosgw", scratch.path()).args(["-f", "-n", "client.admin"]).env("CEPH_CONF", &conf);
        let gateway = Server::start("radosgw", recipe, port);
        Self { gateway, _storage: storage, _monitor: monitor, conf, scratch }
    }

    /// The gateway.
    pub fn server(&self) -> &Server {
        &self.gateway
    }

    /// Where requests go: `http://127.0.0.1:<port>`. Buckets are the first part of the path.
    pub fn endpoint(&self) -> String {
        self.gateway.url()
    }

    /// The variables by which S3 clients commonly find a server and its keys.
    pub fn env(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ACCESS_KEY_ID", Self::ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", Self::SECRET_KEY.to_owned()),
            ("AWS_REGION", Self::REGION.to_owned()),
            ("AWS_ENDPOINT_URL", self.endpoint()),
        ]
    }

    /// Runs `radosgw-admin`, for users, quotas, storage classes; returns what it wrote.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn admin(&self, args: &[&str]) -> String {
        let mut command = Command::new("radosgw-admin");
        let output = tool::run("ceph-common", command.args(args).env("CEPH_CONF", &self.conf));
        String::from_utf8_lossy(&output).into_owned()
    }

    /// Makes a bucket.
    ///
    /// # Panics
    /// When it cannot be made.
    #[track_caller]
    pub fn create_bucket(&self, name: &str) {
        self.request("PUT", &format!("/{name}"), None, &[]).ok();
    }

    /// A request, signed as the user: `path` begins with the bucket and is already percent-encoded ([`encoded`]); the
    /// parameters of a query stand in the order of their names, each with a `=`. `headers` are lines, `Name: value`.
    ///
    /// # Panics
    /// When there is no answer.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, body: Option<&[u8]>, headers: &[&str]) -> Answer {
        let answer = self.request_at(&self.endpoint(), method, path, body, headers);
        answer.unwrap_or_else(|code| panic!("curl: exit code {code}: {method} {path}"))
    }

    /// As [`Rgw::request`], by way of a proxy at `endpoint`; when there is no complete answer, the error is curl's exit code.
    ///
    /// # Errors
    /// The exit code.
    pub fn request_at(
        &self,
        endpoint: &str,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
        headers: &[&str],
    ) -> Result<Answer, i32> {
        let mut args = vec![
            "--aws-sigv4".to_owned(),
            format!("aws:amz:{}:s3", Self::REGION),
            "--user".to_owned(),
            format!("{}:{}", Self::ACCESS_KEY, Self::SECRET_KEY),
            // Not every version of curl hashes what it sends as S3 wants it.
            "-H".to_owned(),
            "x-amz-content-sha256: UNSIGNED-PAYLOAD".to_owned(),
        ];
        args.extend(headers.iter().flat_map(|line| ["-H".to_owned(), (*line).to_owned()]));
        plain::try_curl(self.scratch.path(), method, &format!("{endpoint}{path}"), body, &args)
    }

    /// The keys in a bucket, in order.
    ///
    /// # Panics
    /// When they cannot be listed.
    #[track_caller]
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        let mut keys = Vec::new();
        let mut token = String::new();
        loop {
            let answer = self.request("GET", &format!("/{bucket}?{token}list-type=2"), None, &[]).ok().text();
            keys.extend(texts_of(&answer, "Key"));
            match texts_of(&answer, "NextContinuationToken").first() {
                Some(next) => token = format!("continuation-token={}&", encoded(next)),
                None => return keys,
            }
        }
    }

    /// The keys of the multipart uploads that are neither completed nor aborted, up to the first thousand.
    ///
    /// # Panics
    /// When they cannot be listed.
    #[track_caller]
    pub fn uploads(&self, bucket: &str) -> Vec<String> {
        texts_of(&self.request("GET", &format!("/{bucket}?uploads="), None, &[]).ok().text(), "Key")
    }
}

/// Also makes the pools and the zone, which the gateway would otherwise do.
#[track_caller]
fn add_user(command: &mut Command) {
    command.args(["user", "create", "--uid=test", "--display-name=test"]);
    command.arg(format!("--access-key={}", Rgw::ACCESS_KEY)).arg(format!("--secret-key={}", Rgw::SECRET_KEY));
    tool::run("radosgw", command);
}

fn keyring() -> String {
    let section = |name: &str, caps: &[(&str, &str)]| {
        let caps: String = caps.iter().map(|(of, what)| format!("\tcaps {of} = \"{what}\"\n")).collect();
        format!("[{name}]\n\tkey = {CLUSTER_KEY}\n{caps}")
    };
    section("mon.", &[("mon", "allow *")])
        + &section("client.admin", &[("mon", "allow *"), ("osd", "allow *")])
        + &section("osd.0", &[("mon", "allow profile osd"), ("osd", "allow *")])
}

/// One copy of everything, no manager daemon (nothing here needs one), no access to the machine's own configuration.
///
/// The monitor waits a second before each decision, and there are dozens before the gateway is ready: unless it is told
/// not to wait. It refuses to work on a disk that is nearly full: it is told that this does not matter.
fn configuration(scratch: &Scratch, port: &Port, monitor_port: &Port, bytes: u64) -> String {
    let dir = scratch.path().display();
    let (port, monitor_port) = (port.number(), monitor_port.number());
    format!(
        "[global]
mon_host = v2:127.0.0.1:{monitor_port}/0
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
run_dir = {dir}/run
admin_socket =
mon_data = {dir}/mon
osd_data = {dir}/osd
keyring = {dir}/keyring
log_file =
log_to_stderr = false
err_to_stderr = true
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
osd_pool_default_size = 1
osd_pool_default_min_size = 1
mon_allow_pool_size_one = true
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_crush_chooseleaf_type = 0
osd_objectstore = memstore
memstore_device_bytes = {bytes}
mon_data_avail_crit = 0
mon_data_avail_warn = 0
paxos_propose_interval = 0.02
paxos_min_wait = 0.01
rgw_frontends = beast endpoint=127.0.0.1:{port}
rgw_thread_pool_size = 64
rgw_crypt_require_ssl = false
rgw_gc_obj_min_wait = 1
rgw_gc_processor_period = 2
[client]
log_to_stderr = true
"
    )
}
