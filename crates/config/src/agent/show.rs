//! The configuration as text: HCL that reads back as itself, except that a password is never shown.

use super::{AgentConfig, Host, Nats, NatsLogin, NatsTls, TransportKind};
use std::fmt::{self, Display, Formatter};
use std::path::Path;

impl Display for AgentConfig {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "client_device = {}", Quoted(&self.client_device.to_string()))?;
        writeln!(f, "mount_root = {}", path(&self.mount_root))?;
        writeln!(f, "client_mount_options = {}", List(&self.client_mount_options))?;
        writeln!(f, "handler_count = {}", self.handler_count)?;
        writeln!(f, "enabled_plugins = {}", List(&self.enabled_plugins))?;
        writeln!(f, "plugin_dir = {}", path(&self.plugin_dir))?;
        writeln!(f, "state_dir = {}", path(&self.state_dir))?;
        writeln!(f, "mover_hang_timeout_s = {}", self.mover_hang_timeout.as_secs())?;
        writeln!(f, "remove_grace_s = {}", self.remove_grace.as_secs())?;
        writeln!(f, "keep_versions_s = {}", self.keep_versions.as_secs())?;
        writeln!(f, "default_archive = {}", self.default_archive)?;
        writeln!(f, "copies = {:?}", self.copies)?;
        writeln!(f, "snapshots {{\n  enabled = {}\n}}", self.snapshots.enabled)?;
        writeln!(f, "transport {{\n  socket_dir = {}", path(&self.transport.socket_dir))?;
        match &self.transport.kind {
            TransportKind::Grpc => writeln!(f, "  type = \"grpc\"\n}}")?,
            TransportKind::Nats(nats) => show_nats(nats, f)?,
        }
        if let Some(influxdb) = &self.influxdb {
            writeln!(f, "influxdb {{\n  url = {}\n  db = {}", Quoted(&influxdb.url), Quoted(&influxdb.db))?;
            if let Some(user) = &influxdb.user {
                writeln!(f, "  user = {}", Quoted(user))?;
            }
            if influxdb.password.is_some() {
                writeln!(f, "  # password is set, and not shown")?;
            }
            writeln!(f, "}}")?;
        }
        writeln!(f, "admin {{\n  socket = {}", path(&self.admin.socket))?;
        if let Some(group) = &self.admin.group {
            writeln!(f, "  group = {}", Quoted(group))?;
        }
        writeln!(f, "}}")?;
        let timeout_s = self.restore.timeout.map_or(0, |timeout| timeout.as_secs());
        let restore = &self.restore;
        writeln!(f, "restore {{\n  timeout_s = {timeout_s}\n  mode = \"{}\"", restore.mode.as_str())?;
        writeln!(f, "  threshold = \"{}\"", crate::bytes::show(restore.threshold))?;
        writeln!(f, "  readahead = \"{}\"", crate::bytes::show(restore.readahead))?;
        writeln!(f, "  whole_for = {}\n}}", List(&restore.whole_for))?;
        let attempts = self.retry.max_attempts.map_or(0, u32::from);
        let delay_s = self.retry.max_delay.as_secs();
        writeln!(f, "retry {{\n  max_attempts = {attempts}\n  max_delay_s = {delay_s}\n}}")?;
        writeln!(f, "log {{\n  level = \"{}\"\n}}", self.log.level.as_str())?;
        show_host(&self.host, f)
    }
}

fn show_nats(nats: &Nats, f: &mut Formatter<'_>) -> fmt::Result {
    let Nats { servers, filesystem, replicas, lease, tls, login } = nats;
    let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
    writeln!(f, "  type = \"nats\"\n  servers = {}\n  filesystem = {}", List(&servers), Quoted(filesystem))?;
    writeln!(f, "  replicas = {replicas}\n  lease_s = {}", lease.as_secs())?;
    match login {
        None => {}
        Some(NatsLogin::Credentials(file)) => writeln!(f, "  credentials = {}", path(file))?,
        Some(NatsLogin::Password { user, file }) => {
            writeln!(f, "  user = {}\n  password_file = {}", Quoted(user), path(file))?;
        }
    }
    if let Some(NatsTls { ca, identity }) = tls {
        writeln!(f, "  tls {{")?;
        if let Some(ca) = ca {
            writeln!(f, "    ca = {}", path(ca))?;
        }
        if let Some((cert, key)) = identity {
            writeln!(f, "    cert = {}\n    key = {}", path(cert), path(key))?;
        }
        writeln!(f, "  }}")?;
    }
    writeln!(f, "}}")
}

/// Nothing for an agent, which has no such section.
fn show_host(host: &Host, f: &mut Formatter<'_>) -> fmt::Result {
    if *host == Host::default() {
        return Ok(());
    }
    writeln!(f, "host {{")?;
    if let Some(name) = &host.name {
        writeln!(f, "  name = {}", Quoted(name))?;
    }
    writeln!(f, "  groups = {}", List(&host.groups))?;
    if !host.labels.is_empty() {
        writeln!(f, "  labels {{")?;
        for (name, text) in &host.labels {
            writeln!(f, "    {} = {}", Quoted(name), Quoted(text))?;
        }
        writeln!(f, "  }}")?;
    }
    writeln!(f, "}}")
}

/// Text as an HCL string.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.replace("${", "$${").chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}

fn path(path: &Path) -> String {
    Quoted(&path.to_string_lossy()).to_string()
}

struct List<'a>(&'a [String]);

impl Display for List<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let items: Vec<_> = self.0.iter().map(|item| Quoted(item).to_string()).collect();
        write!(f, "[{}]", items.join(", "))
    }
}
