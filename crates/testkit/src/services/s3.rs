//! What servers of S3 have in common: a user, and plain requests that are signed as the user.

use std::path::{Path, PathBuf};

use crate::services::plain::{self, Answer, encoded, texts_of};
use crate::services::server::Server;

/// How many keys are asked for at once: few, so that a test need not make many to see more than one page.
const PAGE: usize = 100;

/// A server of S3 with one user. Buckets are the first part of the path.
#[derive(Debug)]
pub struct S3Server {
    server: Server,
    region: &'static str,
    /// For what is sent.
    dir: PathBuf,
}

impl S3Server {
    /// The user's access key.
    pub const ACCESS_KEY: &str = "SIFAKATESTACCESSKEY1";
    /// The user's secret key.
    pub const SECRET_KEY: &str = "sifaka-test-secret-key/of+the+user-1";

    pub(crate) fn new(server: Server, region: &'static str, dir: &Path) -> Self {
        Self { server, region, dir: dir.to_owned() }
    }

    /// The process that answers.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// What requests have to be signed for.
    pub fn region(&self) -> &'static str {
        self.region
    }

    /// Where requests go: `http://127.0.0.1:<port>`.
    pub fn endpoint(&self) -> String {
        self.server.url()
    }

    /// The variables by which S3 clients commonly find a server and its keys.
    pub fn env(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ACCESS_KEY_ID", Self::ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", Self::SECRET_KEY.to_owned()),
            ("AWS_REGION", self.region.to_owned()),
            ("AWS_ENDPOINT_URL", self.endpoint()),
        ]
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
    /// parameters of a query stand in the order of their names, each with a `=`. `headers` are lines, `Name: value`;
    /// not two of which the name of one begins with that of the other, which some versions of curl sign in the wrong order.
    ///
    /// # Panics
    /// When there is no answer.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, body: Option<&[u8]>, headers: &[&str]) -> Answer {
        let answer = self.request_at(&self.endpoint(), method, path, body, headers);
        answer.unwrap_or_else(|code| panic!("curl: exit code {code}: {method} {path}"))
    }

    /// As [`S3Server::request`], by way of a proxy at `endpoint`; when there is no complete answer, the error is curl's exit code.
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
            format!("aws:amz:{}:s3", self.region),
            "--user".to_owned(),
            format!("{}:{}", Self::ACCESS_KEY, Self::SECRET_KEY),
            // Not every version of curl hashes what it sends as S3 wants it.
            "-H".to_owned(),
            "x-amz-content-sha256: UNSIGNED-PAYLOAD".to_owned(),
        ];
        args.extend(headers.iter().flat_map(|line| ["-H".to_owned(), (*line).to_owned()]));
        plain::try_curl(&self.dir, method, &format!("{endpoint}{path}"), body, &args)
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
            let path = format!("/{bucket}?{token}list-type=2&max-keys={PAGE}");
            let answer = self.request("GET", &path, None, &[]).ok().text();
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
