//! Azure Blob: Azurite, its maker's own stand-in for the service.

use crate::scratch::Scratch;
use crate::services::plain::{self, Answer, encoded, texts_of};
use crate::services::port::Port;
use crate::services::server::{Recipe, Server};
use crate::services::{installed, pinned};

/// A server of Azure Blob with one account.
///
/// Its data lies in a directory of its own; that of the last seconds before it is killed is lost, since it writes its
/// index now and then and when it is asked to end ([`Server::stop`]).
#[derive(Debug)]
pub struct Azurite {
    server: Server,
    scratch: Scratch,
}

impl Azurite {
    /// The account.
    pub const ACCOUNT: &str = "devstoreaccount1";
    /// Its key: the one that all development accounts have.
    pub const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
    /// A signature that may do everything to blobs and containers until 2099, made with the key.
    pub const SAS: &str = "sp=rwdlacx&ss=b&srt=sco&se=2099-01-01T00%3A00%3A00Z&spr=https,http&sv=2020-10-02&sig=bZgwz4PowWdWfymY2TOhTM6uq2CIx%2Fh2VsJbb9gWGGA%3D";

    /// Starts one, with no containers.
    ///
    /// # Panics
    /// When it is not installed, or fails.
    #[track_caller]
    pub fn start() -> Self {
        let version = pinned(include_str!("../../services/azurite/package.json"), "\"azurite\": \"");
        let program = installed(&format!("azurite-{version}")).join("node_modules/azurite/dist/src/blob/main.js");
        let (scratch, port) = (Scratch::new("azurite"), Port::claim());
        let recipe = Recipe::new("node", scratch.path())
            .args([program.into_os_string(), "--location".into(), scratch.path().into()])
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port.number().to_string()])
            .args(["--skipApiVersionCheck", "--disableTelemetry"]);
        Self { server: Server::start("azurite", recipe, port), scratch }
    }

    /// The process.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Where the account is: `http://127.0.0.1:<port>/devstoreaccount1`.
    pub fn endpoint(&self) -> String {
        format!("{}/{}", self.server.url(), Self::ACCOUNT)
    }

    /// Makes a container.
    ///
    /// # Panics
    /// When it cannot be made.
    #[track_caller]
    pub fn create_container(&self, name: &str) {
        self.request("PUT", &format!("/{name}?restype=container"), None, &[]).ok();
    }

    /// A request with the account's rights: `path` begins with the container and is already percent-encoded
    /// ([`encoded`]). `headers` are lines, `Name: value`.
    ///
    /// # Panics
    /// When there is no answer.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, body: Option<&[u8]>, headers: &[&str]) -> Answer {
        let separator = if path.contains('?') { '&' } else { '?' };
        let url = format!("{}{path}{separator}{}", self.endpoint(), Self::SAS);
        let args: Vec<String> = headers.iter().flat_map(|line| ["-H".to_owned(), (*line).to_owned()]).collect();
        // A PUT of nothing has a length all the same.
        let body = body.or_else(|| (method == "PUT").then_some(&[]));
        plain::curl(self.scratch.path(), method, &url, body, &args)
    }

    /// The names of the blobs in a container, in order; with `uncommitted`, also of those of which only blocks are there.
    ///
    /// # Panics
    /// When they cannot be listed.
    #[track_caller]
    pub fn blobs(&self, container: &str, uncommitted: bool) -> Vec<String> {
        let include = if uncommitted { "&include=uncommittedblobs" } else { "" };
        let mut blobs = Vec::new();
        let mut marker = String::new();
        loop {
            let path = format!("/{container}?restype=container&comp=list{include}&marker={}", encoded(&marker));
            let answer = self.request("GET", &path, None, &[]).ok().text();
            blobs.extend(texts_of(&answer, "Name"));
            match texts_of(&answer, "NextMarker").into_iter().find(|marker| !marker.is_empty()) {
                Some(next) => marker = next,
                None => return blobs,
            }
        }
    }
}
