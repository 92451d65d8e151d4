//! The suite on Azure Blob: Microsoft's Azurite.

use crate::{Azure, AzureCredentials, Secret, Service, Settings};
use testkit::services::Azurite;

const CONTAINER: &str = "archive";

pub(super) fn start() -> (Azurite, Settings) {
    let server = Azurite::start();
    server.create_container(CONTAINER);
    let credentials = AzureCredentials::Key(Secret::new(Azurite::KEY));
    let service = Service::Azure(Azure { account: Azurite::ACCOUNT.to_owned(), credentials });
    let settings = Settings {
        service,
        bucket: CONTAINER.to_owned(),
        prefix: "site/a prefix".to_owned(),
        endpoint: Some(server.endpoint()),
        ..Settings::memory()
    };
    (server, settings)
}

/// Not the blocks of what was never completed: the service forgets them after a week, and nobody can before.
fn names(server: &Azurite) -> Vec<String> {
    server.blobs(CONTAINER, false)
}

server_bed!(Azurite, start, names);
