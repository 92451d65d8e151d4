//! `transport { type = "nats" … }`: where the servers are, and how they and we know that the other is who it should be.

use crate::device::ClientDevice;
use crate::reader::{At, Section};
use crate::tree::Pos;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// NATS's own.
const PORT: u16 = 4222;
/// Sixteen servers are more than any cluster of them needs to be found.
const MAX_SERVERS: usize = 16;
/// A name is part of subjects and of streams' names.
const NAME_LIMIT: usize = 32;
/// From how short a lease to how long a one, in seconds.
const LEASE_S: std::ops::RangeInclusive<u64> = 2..=600;

/// How an agent and the hosts of its movers find one another by NATS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nats {
    /// `servers` (required): any of the cluster; the others are learned from it.
    pub servers: Vec<NatsAddress>,
    /// `filesystem` (the name of `client_device` on Lustre, else required): what the agent and its hosts have in common, and other
    /// filesystems by the same servers have not.
    pub filesystem: String,
    /// `replicas` (3; 1, 3 or 5): how many servers keep what is on its way.
    pub replicas: usize,
    /// `lease_s` (30; 2 to 600): a host that was not heard for so long has stopped, by itself, what it had; and an agent that was
    /// not, too.
    pub lease: Duration,
    /// `tls { … }` or addresses with `tls://`.
    pub tls: Option<NatsTls>,
    /// `credentials`, or `user` and `password_file`.
    pub login: Option<NatsLogin>,
}

/// The address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsAddress {
    /// A name or an address; one of version 6 without its brackets.
    pub host: String,
    /// `4222` unless it is given.
    pub port: u16,
}

/// `tls { … }`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NatsTls {
    /// `ca` (the system's): certificates of those whom to trust.
    pub ca: Option<PathBuf>,
    /// `cert` and `key` (none): the certificate to show, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// How servers know us. Files, so that no secret is in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NatsLogin {
    /// `credentials`: a file as `nsc` makes it.
    Credentials(PathBuf),
    /// `user` and `password_file`.
    Password {
        /// The name.
        user: String,
        /// A file whose first line is the password.
        file: PathBuf,
    },
}

impl NatsAddress {
    /// Whether it is this host, whatever a name service says.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }

    /// `[nats://|tls://]host[:port]`, and whether it asks for TLS.
    fn parse(text: &str) -> Option<(Self, bool)> {
        let (tls, rest) = match text.split_once("://") {
            None => (false, text),
            Some(("nats", rest)) => (false, rest),
            Some(("tls", rest)) => (true, rest),
            Some(_) => return None,
        };
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
            }
            None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if host.is_empty() || (!rest.starts_with('[') && !host.chars().all(plain)) {
            return None;
        }
        let port = match port {
            None => PORT,
            Some(port) if port.bytes().all(|digit| digit.is_ascii_digit()) => {
                port.parse().ok().filter(|&port| port > 0)?
            }
            Some(_) => return None,
        };
        Some((Self { host: host.to_owned(), port }, tls))
    }
}

impl fmt::Display for NatsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Reads what `type = "nats"` needs. Without that type every key is asked for all the same, and warned about.
pub(super) fn read(section: &mut Section<'_>, chosen: Option<Pos>, device: &ClientDevice) -> Option<Nats> {
    let servers = servers(section, chosen);
    let filesystem = section.optional_string("filesystem");
    let replicas = section.optional_u64("replicas", 1..=5);
    let lease = section.optional_u64("lease_s", LEASE_S);
    let credentials = section.optional_path("credentials");
    let user = section.optional_string("user");
    let password_file = section.optional_path("password_file");
    let mut tls = section.section("tls");
    let (ca, cert, key) = (tls.optional_path("ca"), tls.optional_path("cert"), tls.optional_path("key"));
    let tls_at = tls.is_present().then(|| tls.pos());
    tls.finish();
    let reader = section.reader();
    let Some(chosen) = chosen else {
        let positions = [
            servers.first().map(|server| server.pos),
            filesystem.map(|at| at.pos),
            replicas.map(|at| at.pos),
            lease.map(|at| at.pos),
            credentials.map(|at| at.pos),
            user.map(|at| at.pos),
            password_file.map(|at| at.pos),
            tls_at,
        ];
        for pos in positions.into_iter().flatten() {
            reader.warning(
                pos,
                "has no effect: it is for transport \"nats\"",
                Some("write type = \"nats\", or remove it"),
            );
        }
        return None;
    };
    if let Some(At { pos, value }) = replicas.as_ref().filter(|replicas| replicas.value % 2 == 0) {
        reader.problem(
            *pos,
            format!("`replicas` must be 1, 3 or 5, found {value}"),
            Some("of an even number, no more may die"),
        );
    }
    let identity = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert.value, key.value)),
        (Some(At { pos, .. }), None) | (None, Some(At { pos, .. })) => {
            reader.problem(pos, "`cert` and `key` come together", None);
            None
        }
        (None, None) => None,
    };
    let login = match (credentials, user, password_file) {
        (Some(file), None, None) => Some(NatsLogin::Credentials(file.value)),
        (None, Some(user), Some(file)) => Some(NatsLogin::Password { user: user.value, file: file.value }),
        (None, None, None) => None,
        (Some(At { pos, .. }), ..) => {
            reader.problem(pos, "give `credentials`, or `user` and `password_file`, not both", None);
            None
        }
        (None, user, file) => {
            let pos = user.map(|at| at.pos).or(file.map(|at| at.pos)).unwrap_or(chosen);
            reader.problem(pos, "`user` and `password_file` come together", None);
            None
        }
    };
    let tls_addresses = servers.iter().filter(|server| server.value.1).count();
    let tls = (tls_at.is_some() || tls_addresses > 0).then(|| NatsTls { ca: ca.map(|ca| ca.value), identity });
    if let Some(first) = servers.iter().find(|server| tls_addresses > 0 && !server.value.1) {
        reader.problem(
            first.pos,
            "some servers have tls:// and this one has not",
            Some("write tls:// for all of them"),
        );
    }
    authenticated(section, &servers, tls.as_ref(), login.as_ref());
    Some(Nats {
        filesystem: name(section, chosen, filesystem, device)?,
        servers: servers.into_iter().map(|server| server.value.0).collect(),
        replicas: replicas.map_or(3, |replicas| usize::try_from(replicas.value).unwrap_or(3)),
        lease: Duration::from_secs(lease.map_or(30, |lease| lease.value)),
        tls,
        login,
    })
}

fn servers(section: &mut Section<'_>, chosen: Option<Pos>) -> Vec<At<(NatsAddress, bool)>> {
    let hint = "write servers = [\"tls://nats-1:4222\", \"tls://nats-2:4222\", \"tls://nats-3:4222\"]";
    let list =
        if chosen.is_some() { section.required_string_list("servers", hint) } else { section.string_list("servers") };
    let Some(list) = list else { return Vec::new() };
    let reader = section.reader();
    if list.value.is_empty() {
        reader.problem(list.pos, "`servers` is empty", Some(hint));
    }
    if let Some(beyond) = list.value.get(MAX_SERVERS) {
        reader.problem(beyond.pos, format!("`servers` has at most {MAX_SERVERS} entries"), None);
    }
    let mut found: Vec<At<(NatsAddress, bool)>> = Vec::new();
    for At { pos, value: text } in list.value {
        match NatsAddress::parse(&text) {
            Some(server) => found.push(At { pos, value: server }),
            // It may hold a password before an `@`: not shown.
            None if text.contains('@') => reader.problem(
                pos,
                "an address of a server holds no user",
                Some("give user and password_file, or credentials"),
            ),
            None => {
                let what = format!("\"{}\" is not the address of a NATS server", text.escape_debug());
                reader.problem(pos, what, Some("write host, host:port, nats://host:port or tls://host:port"));
            }
        }
    }
    found
}

/// Whoever can reach an open server can have files read and written: only this host may have one.
fn authenticated(
    section: &Section<'_>,
    servers: &[At<(NatsAddress, bool)>],
    tls: Option<&NatsTls>,
    login: Option<&NatsLogin>,
) {
    let Some(remote) = servers.iter().find(|server| !server.value.0.is_loopback()) else { return };
    let problem = |what: &str, hint: &str| {
        let what = format!("{} is not on this host, and {what}", remote.value.0);
        section.reader().problem(remote.pos, what, Some(hint));
    };
    if tls.is_none() {
        problem("the connection would not be encrypted", "add tls { ca = FILE }, or write tls:// before the addresses");
    }
    if login.is_none() && tls.is_none_or(|tls| tls.identity.is_none()) {
        problem(
            "nothing says who we are: whoever reaches the server could have files read and written",
            "add credentials, or user and password_file, or cert and key in tls { }",
        );
    }
}

fn name(section: &Section<'_>, chosen: Pos, given: Option<At<String>>, device: &ClientDevice) -> Option<String> {
    let At { pos, value } = match (given, device) {
        (Some(given), _) => given,
        (None, ClientDevice::Lustre { fsname, .. }) => At { pos: chosen, value: fsname.clone() },
        (None, ClientDevice::Local(_)) => {
            let hint = "write filesystem = \"NAME\", the same for the agent and all hosts of its movers";
            section.reader().problem(chosen, "`filesystem` is missing in `transport`", Some(hint));
            return None;
        }
    };
    if is_name(&value, NAME_LIMIT) {
        return Some(value);
    }
    let what = format!(
        "`filesystem` must be 1 to {NAME_LIMIT} letters, digits, `_` or `-`, found \"{}\"",
        value.escape_debug()
    );
    section.reader().problem(pos, what, None);
    None
}

/// What may be part of a subject.
pub(super) fn is_name(text: &str, limit: usize) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    !text.is_empty() && text.len() <= limit && text.bytes().all(plain)
}
