//! The agent's keys: which there are, what they may hold, and what is wrong with what they do hold.

use super::{
    AGENT_MOUNT, Admin, AgentConfig, InfluxDb, LogLevel, RestoreMode, Transport, TransportKind, default_admin_socket,
    host, nats, plugin_name, push_unique,
};
use crate::device::ClientDevice;
use crate::error::{ConfigError, Warning};
use crate::reader::{At, Reader, Section};
use crate::secret::Secret;
use crate::tree;
use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

pub(super) const HANDLER_LIMIT: usize = 4096;
/// As many as a file can name: the first one and `model::Copies::MAX` further ones.
const MAX_COPIES: usize = 8;
pub(super) const DAY_S: u64 = 24 * 60 * 60;

pub(super) fn parse(text: &str, file_name: &str) -> Result<(AgentConfig, Vec<Warning>), ConfigError> {
    let root = tree::parse(text).map_err(|problem| ConfigError::one(file_name, problem))?;
    let reader = Reader::new(file_name);
    let mut config = read(reader.root(&root));
    config.given = reader.given_keys();
    let warnings = reader.finish()?;
    Ok((config, warnings))
}

/// Reads a file that holds nothing: absent sections are read too, so every key is asked for.
pub(super) fn known_keys() -> BTreeSet<String> {
    let reader = Reader::new(String::new());
    let nothing = tree::Node { pos: tree::Pos::START, value: tree::Value::Block(Vec::new()) };
    read(reader.root(&nothing));
    reader.known_keys()
}

fn read(mut root: Section<'_>) -> AgentConfig {
    // A file without a usable device has a problem by then, so this stand-in never leaves `parse`.
    let device = client_device(&mut root).unwrap_or_else(|| ClientDevice::Local(PathBuf::new()));
    let mut config = AgentConfig::for_device(device);

    set(&mut config.mount_root, root.optional_path("mount_root"));
    for option in root.string_list("client_mount_options").into_iter().flat_map(|list| list.value) {
        push_unique(&mut config.client_mount_options, option.value);
    }
    if let Some(count) = root.optional_u64("handler_count", 1..=HANDLER_LIMIT as u64) {
        config.handler_count = usize::try_from(count.value).unwrap_or(HANDLER_LIMIT);
    }
    config.enabled_plugins = enabled_plugins(&mut root);
    set(&mut config.plugin_dir, root.optional_path("plugin_dir"));
    root.ignored("agent_mountpoint", "the agent mounts at <mount_root>/agent; remove this key");

    let mut snapshots = root.section("snapshots");
    set(&mut config.snapshots.enabled, snapshots.optional_bool("enabled"));
    snapshots.finish();

    transport(root.section("transport"), &config.client_device, &mut config.transport);
    config.influxdb = influxdb(root.section("influxdb"));
    set(&mut config.state_dir, root.optional_path("state_dir"));
    config.admin = admin(root.section("admin"), &config.transport);

    let mut restore = root.section("restore");
    if let Some(timeout) = seconds(&mut restore, "timeout_s", 0..=30 * DAY_S) {
        config.restore.timeout = Some(timeout.value).filter(|timeout| !timeout.is_zero());
    }
    let modes = [RestoreMode::Whole, RestoreMode::Range].map(|mode| (mode.as_str(), mode));
    set(&mut config.restore.mode, restore.optional_choice("mode", &modes));
    set(&mut config.restore.threshold, restore.optional_bytes("threshold", 1..=u64::MAX >> 1));
    set(&mut config.restore.readahead, restore.optional_bytes("readahead", 0..=1 << 30));
    if let Some(list) = restore.string_list("whole_for") {
        config.restore.whole_for = list.value.into_iter().map(|name| name.value).collect();
    }
    restore.finish();

    let mut retry = root.section("retry");
    if let Some(attempts) = retry.optional_u64("max_attempts", 0..=u64::from(u32::MAX)) {
        config.retry.max_attempts = u32::try_from(attempts.value).ok().and_then(NonZeroU32::new);
    }
    set(&mut config.retry.max_delay, seconds(&mut retry, "max_delay_s", 1..=DAY_S));
    retry.finish();

    set(&mut config.mover_hang_timeout, seconds(&mut root, "mover_hang_timeout_s", 1..=DAY_S));
    set(&mut config.remove_grace, seconds(&mut root, "remove_grace_s", 0..=3650 * DAY_S));
    set(&mut config.keep_versions, seconds(&mut root, "keep_versions_s", 0..=3650 * DAY_S));
    archives(&mut root, &mut config);

    let mut log = root.section("log");
    let levels = [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
    set(&mut config.log.level, log.optional_choice("level", &levels.map(|level| (level.as_str(), level))));
    log.finish();
    config.host = host::read(root.section("host"));

    root.finish();
    config
}

/// The archive of requests that name none, and those that all files have copies in.
fn archives(root: &mut Section<'_>, config: &mut AgentConfig) {
    let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let default = root.optional_u64("default_archive", 1..=u64::from(u32::MAX));
    let copies = root.number_list("copies", 1..=u64::from(u32::MAX), MAX_COPIES);
    config.copies = copies.iter().flat_map(|list| &list.value).map(|archive| number(archive.value)).collect();
    match (&default, config.copies.first()) {
        (Some(At { pos, value }), Some(_)) if !config.copies.contains(&number(*value)) => root.reader().problem(
            *pos,
            format!("`default_archive` is {value}, which is not among `copies`"),
            Some("add it to copies, or remove default_archive: the first of copies is used then"),
        ),
        (Some(archive), _) => config.default_archive = number(archive.value),
        (None, Some(first)) => config.default_archive = *first,
        (None, None) => {}
    }
}

fn set<T>(slot: &mut T, found: Option<At<T>>) {
    if let Some(At { value, .. }) = found {
        *slot = value;
    }
}

fn seconds(section: &mut Section<'_>, key: &'static str, range: RangeInclusive<u64>) -> Option<At<Duration>> {
    let At { pos, value } = section.optional_u64(key, range)?;
    Some(At { pos, value: Duration::from_secs(value) })
}

fn client_device(root: &mut Section<'_>) -> Option<ClientDevice> {
    let hint = "write client_device = \"mgs@tcp:/fsname\" for Lustre, or the absolute path of a local filesystem";
    let text = root.required_string("client_device", hint)?;
    match text.value.parse() {
        Ok(device) => Some(device),
        Err(error) => {
            root.reader().problem(text.pos, format!("`client_device`: {error}"), None);
            None
        }
    }
}

fn enabled_plugins(root: &mut Section<'_>) -> Vec<String> {
    let hint = "write enabled_plugins = [\"posix\"] for the builtin POSIX mover";
    let Some(list) = root.required_string_list("enabled_plugins", hint) else { return Vec::new() };
    let reader = root.reader();
    if list.value.is_empty() {
        reader.problem(list.pos, "`enabled_plugins` is empty, so nothing could move data", Some(hint));
    }
    let mut plugins = Vec::with_capacity(list.value.len());
    let mut names = BTreeSet::new();
    for At { pos, value: plugin } in list.value {
        let shown = plugin.escape_debug();
        let name = plugin_name(&plugin);
        if !plugin.starts_with('/') && plugin.contains('/') {
            let what = format!("plugin \"{shown}\" must be a name under plugin_dir or an absolute path");
            reader.problem(pos, what, None);
        } else if matches!(name, "" | "." | "..") || plugin.contains('\0') {
            reader.problem(pos, format!("plugin \"{shown}\" has no usable name"), None);
        } else if name == AGENT_MOUNT {
            let what = format!("plugin \"{shown}\" would be mounted where the agent is");
            reader.problem(pos, what, Some("give its program another name"));
        } else if !names.insert(name.to_owned()) {
            let what = format!("plugin \"{shown}\" has the name of another, and so its mount and its configuration");
            reader.problem(pos, what, None);
        }
        plugins.push(plugin);
    }
    plugins
}

fn transport(mut section: Section<'_>, device: &ClientDevice, transport: &mut Transport) {
    let chosen = section.optional_choice("type", &[("grpc", false), ("nats", true)]);
    let chosen = chosen.filter(|chosen| chosen.value).map(|chosen| chosen.pos);
    if let Some(nats) = nats::read(&mut section, chosen, device) {
        transport.kind = TransportKind::Nats(nats);
    }
    set(&mut transport.socket_dir, section.optional_path("socket_dir"));
    section.ignored("port", "the transport is a unix socket under socket_dir; remove this key");
    section.finish();
}

fn influxdb(mut section: Section<'_>) -> Option<InfluxDb> {
    let url = section.required_string("url", "write url = \"http://host:8086\", or remove the block");
    let db = section.required_string("db", "the database to write to");
    let user = section.optional_string("user");
    let password = section.optional_string("password");
    // Lemur's sample file holds the block with empty values, which turned it off.
    let disabled = url.as_ref().filter(|url| url.value.is_empty()).map(|url| url.pos);
    if let Some(pos) = disabled {
        section.reader().warning(pos, "`influxdb.url` is empty: no metrics are pushed", None);
    } else if let Some(At { pos, .. }) = &url {
        section.reader().warning(*pos, "`influxdb` has no effect yet: nothing is pushed", None);
    }
    section.finish();
    if disabled.is_some() {
        return None;
    }
    Some(InfluxDb {
        url: url?.value,
        db: db?.value,
        user: user.map(|user| user.value),
        password: password.map(|password| Secret::new(password.value)),
    })
}

fn admin(mut section: Section<'_>, transport: &Transport) -> Admin {
    let socket = section.optional_path("socket");
    let group = section.optional_string("group");
    if let Some(At { pos, .. }) = group.as_ref().filter(|group| group.value.is_empty()) {
        section.reader().problem(*pos, "`group` is empty", Some("remove the key to let only root in"));
    }
    section.finish();
    Admin {
        socket: socket.map_or_else(|| default_admin_socket(&transport.socket_dir), |socket| socket.value),
        group: group.map(|group| group.value),
    }
}
