//! Whom a server lets in, and what its clients need for that.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use super::NatsCluster;
use crate::services::certificate::Certificate;

/// A part of a server's configuration, and files for its clients.
#[derive(Debug, Clone, Default)]
pub struct NatsAccess {
    configuration: String,
    tls: bool,
    /// The authority's certificate, when the servers speak TLS.
    pub ca: Option<PathBuf>,
    /// A certificate that clients have to show, and its key.
    pub cert: Option<(PathBuf, PathBuf)>,
    /// A file with the user's password.
    pub password_file: Option<PathBuf>,
    /// A file of credentials: a user's token and key.
    pub credentials: Option<PathBuf>,
}

impl NatsAccess {
    /// Anybody.
    pub fn open() -> Self {
        Self::default()
    }

    /// Whoever knows [`NatsCluster::PASSWORD`].
    ///
    /// # Panics
    /// When a file cannot be written.
    #[track_caller]
    pub fn password(dir: &Path) -> Self {
        let (user, password) = (NatsCluster::USER, NatsCluster::PASSWORD);
        Self {
            configuration: format!("authorization {{ user: {user:?}, password: {password:?} }}\n"),
            password_file: Some(secret(dir.join("password"), &format!("{password}\n"))),
            ..Self::default()
        }
    }

    /// Whoever shows a certificate of the test's own authority, by TLS.
    ///
    /// # Panics
    /// When `openssl` is missing or fails.
    #[track_caller]
    pub fn certificate(dir: &Path) -> Self {
        let made = Certificate::make(dir);
        let (cert, key, ca) = (dir.join("tls.crt"), dir.join("tls.key"), made.authority);
        Self {
            configuration: format!(
                "tls {{\n  cert_file: {cert:?}\n  key_file: {key:?}\n  ca_file: {ca:?}\n  verify: true\n}}\n"
            ),
            tls: true,
            ca: Some(ca),
            cert: Some((cert, key)),
            ..Self::default()
        }
    }

    /// Whoever has the credentials of a user of the one account there is.
    ///
    /// # Panics
    /// When a file cannot be written.
    #[track_caller]
    pub fn credentials(dir: &Path) -> Self {
        let [operator, account, user] = [KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user()];
        let system = KeyPair::new_account();
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
            "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1
        });
        let permissions =
            json!({ "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2 });
        let ours = |kind: &str, mut body: Value| {
            body["type"] = kind.into();
            body["version"] = 2.into();
            body
        };
        let of_operator = token(&operator, &operator.public_key(), "tests", ours("operator", json!({})));
        let of_account = |account: &KeyPair, limits: &Value| {
            let body = ours("account", json!({ "limits": limits, "default_permissions": { "pub": {}, "sub": {} } }));
            token(&operator, &account.public_key(), "sifaka", body)
        };
        let no_streams = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1
        });
        let of_user = token(&account, &user.public_key(), "agent", permissions);
        let seed = user.seed().expect("a key that was made here has its seed");
        let file = format!(
            "-----BEGIN NATS USER JWT-----\n{of_user}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        Self {
            configuration: format!(
                "operator: {of_operator}\nsystem_account: {system_key}\nresolver: MEMORY\nresolver_preload {{\n  {key}: {token}\n  \
                 {system_key}: {system_token}\n}}\n",
                key = account.public_key(),
                token = of_account(&account, &limits),
                system_key = system.public_key(),
                system_token = of_account(&system, &no_streams),
            ),
            credentials: Some(secret(dir.join("agent.creds"), &file)),
            ..Self::default()
        }
    }

    pub(super) fn configuration(&self) -> &str {
        &self.configuration
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.tls { "tls" } else { "nats" }
    }
}

/// A token of NATS: a JWT by a signature of its own kind.
fn token(issuer: &KeyPair, subject: &str, name: &str, body: Value) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let head = part(&json!({ "typ": "JWT", "alg": "ed25519-nkey" }));
    let claims = json!({
        "jti": format!("{name}-{subject}"), "iat": 1_700_000_000, "iss": issuer.public_key(), "name": name, "sub": subject,
        "nats": body
    });
    let signed = format!("{head}.{}", part(&claims));
    let signature = issuer.sign(signed.as_bytes()).expect("sign with a key that was made here");
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

/// A file that its owner alone can read.
#[track_caller]
fn secret(path: PathBuf, text: &str) -> PathBuf {
    fs::write(&path, text).expect("write a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("change a file's mode");
    path
}
