//! The programs that people copy with: to buckets and back, and between filesystems. `scripts/install-bench-peers` and `scripts/install-test-deps` install them.

use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::services::Rgw;
use testkit::tool;

/// As many as the object mover moves at once. s5cmd has 256 workers by itself.
const AT_ONCE: &str = "32";

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    S5cmd,
    Rclone,
    Juicefs,
}

impl Peer {
    pub(crate) const ALL: [Self; 3] = [Self::S5cmd, Self::Rclone, Self::Juicefs];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::S5cmd => "s5cmd",
            Self::Rclone => "rclone",
            Self::Juicefs => "juicefs sync",
        }
    }

    /// Copies what is in the directory `from` into a bucket.
    pub(crate) fn up(self, server: &Rgw, from: &Path, bucket: &str) {
        let from = directory(from);
        match self {
            Self::S5cmd => s5cmd(server, &["cp", &from, &format!("s3://{bucket}/")]),
            Self::Rclone => rclone(server, &["copy", &from, &format!("peer:{bucket}")]),
            Self::Juicefs => juicefs(server, &from, &at(server, bucket)),
        }
    }

    /// Copies what is in a bucket into the directory `to`.
    pub(crate) fn down(self, server: &Rgw, bucket: &str, to: &Path) {
        let to = directory(to);
        match self {
            Self::S5cmd => s5cmd(server, &["cp", &format!("s3://{bucket}/*"), &to]),
            Self::Rclone => rclone(server, &["copy", &format!("peer:{bucket}"), &to]),
            Self::Juicefs => juicefs(server, &at(server, bucket), &to),
        }
    }
}

/// What copies trees between mounted filesystems, with modes, owners and times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copier {
    Cp,
    Rsync,
    Rcp,
    Xcp,
    Fpsync,
    Rclone,
}

impl Copier {
    pub(crate) const ALL: [Self; 6] = [Self::Cp, Self::Rsync, Self::Rcp, Self::Xcp, Self::Fpsync, Self::Rclone];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cp => "cp -a",
            Self::Rsync => "rsync -aHAX",
            Self::Rcp => "rcp --preserve",
            Self::Xcp => "xcp -r",
            Self::Fpsync => "fpsync",
            Self::Rclone => "rclone copy --metadata",
        }
    }

    /// Copies what is in the directory `from` into `to`, which is not there.
    pub(crate) fn copy(self, from: &Path, to: &Path) {
        match self {
            Self::Cp => {
                tool::run("coreutils", Command::new("cp").arg("-a").arg(from).arg(to));
            }
            Self::Rsync => {
                tool::run("rsync", Command::new("rsync").arg("-aHAX").arg(directory(from)).arg(to));
            }
            Self::Rcp => {
                tool::run(
                    "rcp",
                    Command::new(installed("cargo/bin/rcp")).args(["--preserve", "--quiet"]).arg(from).arg(to),
                );
            }
            Self::Xcp => {
                let mut xcp = Command::new(installed("cargo/bin/xcp"));
                tool::run(
                    "xcp",
                    xcp.args(["-r", "--no-progress", "--no-target-directory", "--ownership"]).arg(from).arg(to),
                );
            }
            Self::Fpsync => {
                std::fs::create_dir(to).expect("make a directory");
                fpsync(from, to);
            }
            Self::Rclone => rclone_tree(from, to),
        }
    }
}

/// What brings a copy of a tree up to date, by sizes and times. Not xcp: it copies all again, or looks at names alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Updater {
    Cp,
    Rsync,
    Rcp,
    Fpsync,
    Rclone,
}

impl Updater {
    pub(crate) const ALL: [Self; 5] = [Self::Cp, Self::Rsync, Self::Rcp, Self::Fpsync, Self::Rclone];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cp => "cp -au",
            Self::Rsync => Copier::Rsync.name(),
            Self::Rcp => "rcp --preserve --overwrite",
            Self::Fpsync => Copier::Fpsync.name(),
            Self::Rclone => Copier::Rclone.name(),
        }
    }

    /// Brings `to`, an earlier copy of the directory `from`, up to date.
    pub(crate) fn update(self, from: &Path, to: &Path) {
        match self {
            Self::Cp => {
                tool::run("coreutils", Command::new("cp").args(["-a", "-u", "-T"]).arg(from).arg(to));
            }
            Self::Rcp => {
                let mut rcp = Command::new(installed("cargo/bin/rcp"));
                tool::run("rcp", rcp.args(["--preserve", "--overwrite", "--quiet"]).arg(from).arg(to));
            }
            Self::Rsync => {
                let mut rsync = Command::new("rsync");
                tool::run("rsync", rsync.arg("-aHAX").arg(directory(from)).arg(directory(to)));
            }
            Self::Fpsync => fpsync(from, to),
            Self::Rclone => rclone_tree(from, to),
        }
    }
}

fn fpsync(from: &Path, to: &Path) {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).to_string();
    tool::run("fpsync", Command::new("fpsync").args(["-n", &cores]).arg(directory(from)).arg(directory(to)));
}

fn rclone_tree(from: &Path, to: &Path) {
    let mut rclone = Command::new("rclone");
    rclone.args(["--config", "", "copy", "--metadata", "--links", "--transfers", AT_ONCE, "--checkers", AT_ONCE]);
    tool::run("rclone", rclone.arg(from).arg(to));
}

/// Copies what is in the directory `from` below a prefix of a bucket; not measured.
pub(crate) fn fill(server: &Rgw, from: &Path, bucket: &str, prefix: &str) {
    s5cmd(server, &["cp", &directory(from), &format!("s3://{bucket}/{prefix}/")]);
}

/// Removes what is in a bucket; not measured.
pub(crate) fn empty(server: &Rgw, bucket: &str) {
    s5cmd(server, &["rm", &format!("s3://{bucket}/*")]);
}

fn directory(path: &Path) -> String {
    format!("{}/", path.to_str().expect("a path of ours"))
}

fn installed(name: &str) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let path = cache.expect("HOME is not set").join("sifaka-bench-peers/current").join(name);
    assert!(path.is_file(), "{} does not exist: run scripts/install-bench-peers", path.display());
    path
}

fn s5cmd(server: &Rgw, args: &[&str]) {
    let mut command = Command::new(installed("s5cmd/bin/s5cmd"));
    tool::run(
        "s5cmd",
        command.envs(server.env()).args(["--log", "error", "--endpoint-url", &server.endpoint()]).args(args),
    );
}

/// Without asking for the bucket first, which it would make.
fn rclone(server: &Rgw, args: &[&str]) {
    let mut command = Command::new("rclone");
    let settings = ["--config", "", "--s3-no-check-bucket", "--transfers", AT_ONCE, "--checkers", AT_ONCE];
    // rclone cannot do with what some machines have in their environment.
    command.args(settings).args(args).envs(server.env()).env_remove("AWS_CA_BUNDLE");
    for (name, value) in [("TYPE", "s3"), ("PROVIDER", "Ceph"), ("ENV_AUTH", "true"), ("ENDPOINT", &server.endpoint())]
    {
        command.env(format!("RCLONE_CONFIG_PEER_{name}"), value);
    }
    tool::run("rclone", &mut command);
}

fn juicefs(server: &Rgw, from: &str, to: &str) {
    let mut command = Command::new(installed("bin/juicefs"));
    command.args(["sync", "--quiet", "--threads", AT_ONCE, from, to]);
    command.env("MINIO_ACCESS_KEY", Rgw::ACCESS_KEY).env("MINIO_SECRET_KEY", Rgw::SECRET_KEY);
    tool::run("juicefs", command.env("MINIO_REGION", server.region()));
}

/// As juicefs names any server of S3 that has buckets in its paths.
fn at(server: &Rgw, bucket: &str) -> String {
    format!("minio://{}/{bucket}/", server.server().authority())
}
