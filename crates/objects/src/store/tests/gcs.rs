//! The suite on Google Cloud Storage: fake-gcs-server.

use crate::{Gcs, GcsCredentials, Service, Settings};
use testkit::services::FakeGcs;

const BUCKET: &str = "archive";

pub(super) fn start() -> (FakeGcs, Settings) {
    let server = FakeGcs::start();
    server.create_bucket(BUCKET);
    let settings = Settings {
        service: Service::Gcs(Gcs { credentials: GcsCredentials::Anonymous }),
        bucket: BUCKET.to_owned(),
        prefix: "site/a prefix".to_owned(),
        endpoint: Some(server.endpoint()),
        ..Settings::memory()
    };
    (server, settings)
}

fn names(server: &FakeGcs) -> Vec<String> {
    server.objects(BUCKET)
}

server_bed!(FakeGcs, start, names);
