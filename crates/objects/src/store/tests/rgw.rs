//! The suite on S3: Ceph's gateway.

use crate::{S3, S3Credentials, Secret, Service, Settings};
use testkit::services::Rgw;

pub(super) const BUCKET: &str = "archive";

/// As if it were the usual S3, but for where it is.
pub(super) fn settings(endpoint: String) -> Settings {
    settings_in(Rgw::REGION, endpoint)
}

pub(super) fn settings_in(region: &str, endpoint: String) -> Settings {
    let (id, secret) = (Rgw::ACCESS_KEY.to_owned(), Secret::new(Rgw::SECRET_KEY));
    let credentials = S3Credentials::Keys { id, secret, token: None };
    let service = Service::S3(S3 { region: Some(region.to_owned()), credentials, checksums: true, ..S3::default() });
    Settings {
        service,
        bucket: BUCKET.to_owned(),
        prefix: "site/a prefix".to_owned(),
        endpoint: Some(endpoint),
        ..Settings::memory()
    }
}

pub(super) fn start() -> (Rgw, Settings) {
    let server = Rgw::start();
    server.create_bucket(BUCKET);
    let settings = settings(server.endpoint());
    (server, settings)
}

/// Also uploads that are not completed.
fn names(server: &Rgw) -> Vec<String> {
    let uploads = server.uploads(BUCKET).into_iter().map(|key| format!("unfinished {key}"));
    server.keys(BUCKET).into_iter().chain(uploads).collect()
}

server_bed!(Rgw, start, names);
