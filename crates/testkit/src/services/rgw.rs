//! S3: a Ceph cluster of one monitor and one storage daemon, which keeps everything in memory, and the RADOS gateway.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::Daemon;
use crate::scratch::Scratch;
use crate::services::certificate::Certificate;
use crate::services::port::Port;
use crate::services::s3::S3Server;
use crate::services::server::{Recipe, Server};
use crate::tool;

/// How much data the store takes unless [`Rgw::with_capacity`] says so. Memory is used for what is stored.
const CAPACITY_MIB: u64 = 1024;
/// A key of the cluster's own protocol; nobody outside the test's machine reaches it.
const CLUSTER_KEY: &str = "AQBTaWZhAAAAABAAAQIDBAUGBwgJCgsMDQ4PEA==";

/// Not looked up by anybody.
const DNS_NAME: &str = "s3.sifaka.test";

const KMS_KEY: &str = "sifaka-test-key";

/// A server of S3 with one user. Dropping it ends all of it.
///
/// The gateway can be killed and started again alone ([`S3Server::server`]): the data is with the storage daemon, as it would be in a
/// cluster.
#[derive(Debug)]
pub struct Rgw {
    // In the order in which they have to end.
    gateway: S3Server,
    _storage: Daemon,
    _monitor: Daemon,
    conf: PathBuf,
    certificate: Certificate,
    tls: Port,
    _monitor_port: Port,
    _scratch: Scratch,
}

/// The third is for the cluster alone.
struct Ports {
    http: Port,
    tls: Port,
    monitor: Port,
}

impl Rgw {
    /// The user's access key.
    pub const ACCESS_KEY: &str = S3Server::ACCESS_KEY;
    /// The user's secret key.
    pub const SECRET_KEY: &str = S3Server::SECRET_KEY;
    /// What requests have to be signed for.
    pub const REGION: &str = "default";
    /// Below this name it has its buckets, besides having them in the path. It is in no name service: see [`crate::FaultProxy`].
    pub const DNS_NAME: &str = DNS_NAME;
    /// The name of the key that it has for encryption with `aws:kms`.
    pub const KMS_KEY: &str = KMS_KEY;

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
        let ports = Ports { http: Port::claim(), tls: Port::claim(), monitor: Port::claim() };
        let certificate = Certificate::make(scratch.path());
        let conf = scratch.join("ceph.conf");
        for name in ["mon", "osd", "run"] {
            fs::create_dir(scratch.join(name)).expect("make a directory");
        }
        fs::write(scratch.join("keyring"), keyring()).expect("write a file");
        fs::write(&conf, configuration(&scratch, &ports, &certificate, mib << 20)).expect("write a file");

        let command = |program: &str, args: &[&str]| {
            let mut command = Command::new(program);
            command.args(args).env("CEPH_CONF", &conf).current_dir(scratch.path());
            command
        };
        let address = format!("[v2:127.0.0.1:{}]", ports.monitor.number());
        tool::run("ceph-base", &mut command("monmaptool", &["--create", "--addv", "a", &address, "monmap"]));
        let make = ["--mkfs", "-i", "a", "--monmap", "monmap", "--keyring", "keyring"];
        tool::run("ceph-mon", &mut command("ceph-mon", &make));
        let monitor = Daemon::spawn("ceph-mon", command("ceph-mon", &["-f", "-i", "a"]));
        tool::run("ceph-common", &mut command("ceph", &["--connect-timeout", "60", "osd", "create"]));
        tool::run("ceph-osd", &mut command("ceph-osd", &["--mkfs", "-i", "0"]));
        let storage = Daemon::spawn("ceph-osd", command("ceph-osd", &["-f", "-i", "0"]));
        add_user(&mut command("radosgw-admin", &[]));

        let recipe = Recipe::new("radosgw", scratch.path()).args(["-f", "-n", "client.admin"]).env("CEPH_CONF", &conf);
        let gateway = Server::start("radosgw", recipe, ports.http);
        let gateway = S3Server::new(gateway, Self::REGION, scratch.path());
        Self {
            gateway,
            _storage: storage,
            _monitor: monitor,
            conf,
            certificate,
            tls: ports.tls,
            _monitor_port: ports.monitor,
            _scratch: scratch,
        }
    }

    /// Where the same is to be had by TLS, with a certificate by an authority that nobody knows: `https://127.0.0.1:<port>`.
    pub fn tls_endpoint(&self) -> String {
        format!("https://127.0.0.1:{}", self.tls.number())
    }

    /// The authority's certificate.
    pub fn authority_file(&self) -> &Path {
        &self.certificate.authority
    }

    /// Adds a storage class, in memory like the other, and starts the gateway again, which does not know of it before.
    ///
    /// # Panics
    /// When it cannot be added.
    #[track_caller]
    pub fn add_storage_class(&self, name: &str) {
        let class = format!("--storage-class={name}");
        let placement = ["placement", "add", "--placement-id=default-placement", &class];
        self.admin(&[&["zonegroup", "--rgw-zonegroup=default"], &placement[..]].concat());
        let pool = "--data-pool=default.rgw.other.data";
        self.admin(&[&["zone", "--rgw-zone=default", pool], &placement[..]].concat());
        self.server().restart();
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
}

impl Deref for Rgw {
    type Target = S3Server;

    fn deref(&self) -> &S3Server {
        &self.gateway
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
/// A gateway tells the others of new buckets, and waits for one that was killed until its watch ends: not for long.
fn configuration(scratch: &Scratch, ports: &Ports, certificate: &Certificate, bytes: u64) -> String {
    let (dir, certificate) = (scratch.path().display(), certificate.server.display());
    let [port, tls_port, monitor_port] = [&ports.http, &ports.tls, &ports.monitor].map(Port::number);
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
osd_client_watch_timeout = 2
mon_data_avail_crit = 0
mon_data_avail_warn = 0
paxos_propose_interval = 0.02
paxos_min_wait = 0.01
rgw_frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1 ssl_endpoint=127.0.0.1:{tls_port} ssl_certificate={certificate}
rgw_thread_pool_size = 64
rgw_crypt_require_ssl = false
rgw_dns_name = {DNS_NAME}
rgw_crypt_s3_kms_backend = testing
rgw_crypt_s3_kms_encryption_keys = {KMS_KEY}=c2lmYWthLXRlc3Qta2V5LW9mLTMyLWJ5dGVzLWxvbmc=
rgw_gc_obj_min_wait = 1
rgw_gc_processor_period = 2
[client]
log_to_stderr = true
"
    )
}
