//! An authority that nobody knows, and a certificate by it for 127.0.0.1: for clients that are told whom to trust.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tool;

/// Files in the directory that was given; they go with it.
#[derive(Debug)]
pub(crate) struct Certificate {
    /// The authority's certificate.
    pub(crate) authority: PathBuf,
    /// The server's key and certificate.
    pub(crate) server: PathBuf,
}

impl Certificate {
    /// Makes both.
    ///
    /// # Panics
    /// When `openssl` is missing or fails.
    #[track_caller]
    pub(crate) fn make(dir: &Path) -> Self {
        let openssl = |line: &str| {
            tool::run("openssl", Command::new("openssl").args(line.split(' ')).current_dir(dir));
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -batch -days 30";
        openssl(&format!(
            "req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=sifaka-test-authority \
             -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign"
        ));
        openssl(&format!(
            "req -x509 {key} -keyout tls.key -out tls.crt -subj /CN=127.0.0.1 -CA ca.pem -CAkey ca.key \
             -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=IP:127.0.0.1,DNS:localhost"
        ));
        let read = |name: &str| fs::read(dir.join(name)).expect("read a file that openssl has made");
        let server = dir.join("tls.pem");
        fs::write(&server, [read("tls.key"), read("tls.crt")].concat()).expect("write a file");
        Self { authority: dir.join("ca.pem"), server }
    }
}
