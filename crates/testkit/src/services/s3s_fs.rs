//! S3 of another make: `s3s-fs`, which is small and strict, and lacks what Ceph's gateway has (listing of uploads, tags in
//! listings, storage classes).

use std::fs;
use std::ops::Deref;

use crate::scratch::Scratch;
use crate::services::port::Port;
use crate::services::s3::S3Server;
use crate::services::server::{Recipe, Server};
use crate::services::{installed, pinned};

/// A server of S3 that keeps objects as files in a directory of its own.
#[derive(Debug)]
pub struct S3sFs {
    s3: S3Server,
    scratch: Scratch,
}

impl S3sFs {
    /// Starts one, with no buckets.
    ///
    /// # Panics
    /// When it is not installed, or fails.
    #[track_caller]
    pub fn start() -> Self {
        let version = pinned(include_str!("../../services/s3s-fs.txt"), "s3s-fs ");
        let program = installed(&format!("s3s-fs-{version}")).join("bin/s3s-fs");
        let (scratch, port) = (Scratch::new("s3s-fs"), Port::claim());
        let data = scratch.join("data");
        fs::create_dir(&data).expect("make a directory");
        let recipe = Recipe::new(program, scratch.path())
            .args(["--host", "127.0.0.1", "--port", &port.number().to_string()])
            .args(["--access-key", S3Server::ACCESS_KEY, "--secret-key", S3Server::SECRET_KEY])
            .args([data])
            .env("NO_COLOR", "1")
            .env("RUST_LOG", "warn");
        let s3 = S3Server::new(Server::start("s3s-fs", recipe, port), "us-east-1", scratch.path());
        Self { s3, scratch }
    }

    /// The identifiers of the multipart uploads that are neither completed nor aborted, as the files tell that it keeps
    /// for them: it does not list them ([`S3Server::uploads`] fails).
    ///
    /// # Panics
    /// When its directory cannot be read.
    #[track_caller]
    pub fn unfinished(&self) -> Vec<String> {
        let entries = fs::read_dir(self.scratch.join("data")).expect("list a directory").flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let id = |name: String| Some(name.strip_prefix(".upload-")?.strip_suffix(".json")?.to_owned());
        names.filter_map(id).collect()
    }
}

impl Deref for S3sFs {
    type Target = S3Server;

    fn deref(&self) -> &S3Server {
        &self.s3
    }
}
