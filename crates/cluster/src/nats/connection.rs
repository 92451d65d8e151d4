//! The connection to the servers: made again for ever, with what is wrong told in the log.

use super::NatsError;
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use config::agent::{Nats, NatsLogin};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// Before the next attempt, at most.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// No credentials are longer.
const SECRET_LIMIT: u64 = 64 << 10;

/// Connects; `called` is what the servers call the connection. Gives a client at once, whether or not a server answers: it connects, and
/// connects again, in the background.
///
/// # Errors
/// A file that the configuration names cannot be used.
pub(crate) async fn connect(nats: &Nats, called: &str) -> Result<Client, NatsError> {
    let mut options = match &nats.login {
        None => ConnectOptions::new(),
        Some(NatsLogin::Password { user, file }) => {
            let text = secret(file)?;
            let password = text.lines().next().unwrap_or_default();
            ConnectOptions::with_user_and_password(user.clone(), password.to_owned())
        }
        Some(NatsLogin::Credentials(file)) => ConnectOptions::with_credentials(&secret(file)?)
            .map_err(|cause| NatsError::File { path: file.clone(), what: "it holds no credentials", cause })?,
    };
    if let Some(tls) = &nats.tls {
        options = options.require_tls(true);
        if let Some(ca) = &tls.ca {
            readable(ca)?;
            options = options.add_root_certificates(ca.clone());
        }
        if let Some((cert, key)) = &tls.identity {
            readable(cert)?;
            secret(key)?;
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
    }
    // A server that hangs is noticed after three of these, well before a lease is over.
    let ping = (nats.lease / 12).clamp(Duration::from_millis(250), Duration::from_secs(20));
    let options = options
        .name(called)
        .retry_on_initial_connect()
        .connection_timeout((nats.lease / 6).clamp(Duration::from_secs(1), Duration::from_secs(5)))
        .request_timeout(Some(nats.lease / 3))
        .ping_interval(ping)
        .reconnect_delay_callback(|attempts| {
            Duration::from_millis(50).saturating_mul(1 << attempts.min(7)).min(MAX_PAUSE)
        })
        .event_callback(|event| async move { tell(&event) });
    let mut servers = Vec::with_capacity(nats.servers.len());
    for server in &nats.servers {
        let address = format!("nats://{server}");
        let cause = |error: std::io::Error| NatsError::Address { address: server.to_string(), cause: error };
        servers.push(address.parse::<ServerAddr>().map_err(cause)?);
    }
    options.connect(servers).await.map_err(|error| NatsError::Refused(error.to_string()))
}

fn tell(event: &Event) {
    match event {
        Event::Connected => tracing::info!("connected to NATS"),
        Event::Disconnected => tracing::warn!("lost the connection to NATS: trying again"),
        Event::ServerError(error) => tracing::error!(%error, "NATS refuses"),
        Event::ClientError(error) => tracing::warn!(%error, "cannot reach NATS: trying again"),
        other => tracing::info!(event = %other, "NATS"),
    }
}

/// The text of a file that its owner alone can read.
fn secret(path: &Path) -> Result<String, NatsError> {
    let failed = |what| move |cause| NatsError::File { path: path.to_owned(), what, cause };
    let file = File::open(path).map_err(failed("cannot open it"))?;
    let mode = file.metadata().map_err(failed("cannot look at it"))?.permissions().mode();
    if mode & 0o077 != 0 {
        let cause = std::io::ErrorKind::PermissionDenied.into();
        return Err(failed("it holds a secret, and its mode lets group or others at it: chmod 600")(cause));
    }
    let mut text = String::new();
    file.take(SECRET_LIMIT).read_to_string(&mut text).map_err(failed("cannot read it"))?;
    Ok(text)
}

fn readable(path: &Path) -> Result<(), NatsError> {
    let failed = |cause| NatsError::File { path: path.to_owned(), what: "cannot open it", cause };
    File::open(path).map(drop).map_err(failed)
}
