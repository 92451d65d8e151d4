//! Real servers as child processes of a test: object stores ([`Rgw`] and [`S3sFs`] for S3, [`Azurite`] for Azure Blob,
//! [`FakeGcs`] for Google Cloud Storage), and messaging ([`NatsCluster`]).
//!
//! Each value is a server of the test's own, on ports of 127.0.0.1 that no other test has, with its data in a directory
//! of the test's. All start in a few seconds at most (RGW in about one), so that no server is shared between tests, and
//! nothing has to be started before them. They end with the value, and with the test: also when the test is killed.
//!
//! Every server can be killed and started again on the same port, can be stopped and continued (SIGSTOP: a server that
//! hangs), and answers plain requests ([`plain::Answer`]) made with `curl`, which has no code in common with what is tested.
//! What is installed, and how: `scripts/install-test-deps`, `scripts/install-test-servers`.

mod azurite;
mod certificate;
mod fake_gcs;
mod nats;
pub mod plain;
mod port;
mod rgw;
mod s3;
mod s3s_fs;
mod server;

use std::path::PathBuf;

pub use azurite::Azurite;
pub use fake_gcs::FakeGcs;
pub use nats::{NatsAccess, NatsCluster, NatsServer};
pub use port::Port;
pub use rgw::Rgw;
pub use s3::S3Server;
pub use s3s_fs::S3sFs;
pub use server::Server;

/// Where `scripts/install-test-servers` puts what no distribution packages.
///
/// # Panics
/// When `name` is not there.
#[track_caller]
fn installed(name: &str) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let path = cache.expect("HOME is not set").join("sifaka-test-servers").join(name);
    assert!(path.is_dir(), "{} does not exist: run scripts/install-test-servers", path.display());
    path
}

/// What follows `name` in a file of pinned versions, up to the next quote or space.
fn pinned<'a>(pins: &'a str, name: &str) -> &'a str {
    let rest = pins.split_once(name).expect("a pinned version").1;
    rest.split(['"', ' ', '\n']).next().unwrap_or(rest)
}
