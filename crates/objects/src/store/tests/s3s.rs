//! The suite on S3 of another make: s3s-fs.

use super::rgw::{BUCKET, settings_in};
use crate::Settings;
use testkit::services::S3sFs;

fn start() -> (S3sFs, Settings) {
    let server = S3sFs::start();
    server.create_bucket(BUCKET);
    let settings = settings_in(server.region(), server.endpoint());
    (server, settings)
}

/// Also uploads that are not completed.
fn names(server: &S3sFs) -> Vec<String> {
    let uploads = server.unfinished().into_iter().map(|id| format!("site/a prefix/unfinished {id}"));
    server.keys(BUCKET).into_iter().chain(uploads).collect()
}

server_bed!(S3sFs, start, names);
