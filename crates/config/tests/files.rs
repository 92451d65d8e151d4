//! Whole files: Lemur's, the documentation's, and real ones on disk with their modes.

// clippy's allow-unwrap-in-tests covers the tests themselves, not the functions they share.
#![allow(clippy::unwrap_used, clippy::panic)]

use sifaka_config::agent::{LogLevel, TransportKind};
use sifaka_config::archive::{Checksums, Codec, Compression, Format};
use sifaka_config::{AgentConfig, AzConfig, ClientDevice, ObjectConfig, PosixConfig, S3Config};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn documentation(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn warnings(warnings: &[sifaka_config::Warning]) -> Vec<String> {
    warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn lemur_agent_file_in_hcl_and_json_means_the_same() {
    let (hcl, hcl_warnings) = AgentConfig::parse(include_str!("fixtures/lemur-agent.hcl"), "agent").unwrap();
    let (json, json_warnings) = AgentConfig::parse(include_str!("fixtures/lemur-agent.json"), "agent").unwrap();
    assert_eq!(hcl, json);
    assert_eq!(hcl.client_device, "10.0.2.15@tcp:/lustre".parse().unwrap());
    assert_eq!(hcl.mount_root, Path::new("/mnt/hsm"));
    assert_eq!(hcl.client_mount_options, ["user_xattr", "flock"]);
    assert_eq!(hcl.handler_count, 2);
    assert_eq!(hcl.enabled_plugins, ["lhsm-plugin-posix", "/opt/site/lhsm-plugin-tape"]);
    assert!(hcl.snapshots.enabled);
    assert_eq!(hcl.transport.socket_dir, Path::new("/run/hsm"));
    assert_eq!(hcl.admin.socket, Path::new("/run/hsm/admin.sock"));
    assert_eq!(
        warnings(&hcl_warnings),
        [
            "agent:5:1: `agent_mountpoint` has no effect (the agent mounts at <mount_root>/agent; remove this key)",
            "agent:13:28: `transport.port` has no effect (the transport is a unix socket under socket_dir; remove this key)",
        ]
    );
    assert_eq!(
        warnings(&json_warnings),
        [
            "agent:4:5: `agent_mountpoint` has no effect (the agent mounts at <mount_root>/agent; remove this key)",
            "agent:9:36: `transport.port` has no effect (the transport is a unix socket under socket_dir; remove this key)",
        ]
    );
}

#[test]
fn lemur_posix_file_in_hcl_and_json_means_the_same() {
    let (hcl, _) = PosixConfig::parse(include_str!("fixtures/lemur-posix.hcl"), "posix").unwrap();
    let (json, _) = PosixConfig::parse(include_str!("fixtures/lemur-posix.json"), "posix").unwrap();
    assert_eq!(hcl, json);
    assert_eq!(hcl.num_threads, 8);
    let [one, two] = hcl.archives.as_slice() else { panic!("two archives, not {:?}", hcl.archives) };
    assert_eq!(
        (one.settings.name.as_str(), one.settings.id, one.place.0[0].as_path()),
        ("one", 1, Path::new("/srv/archives/1"))
    );
    assert_eq!((one.settings.format, one.settings.compression), (Format::Lemur, Compression::On(Codec::Gzip)));
    assert_eq!(one.settings.checksums, Checksums { disabled: true, disable_compare_on_restore: false });
    assert_eq!(
        (two.settings.name.as_str(), two.settings.id, two.place.0[0].as_path()),
        ("two", 2, Path::new("/srv/archives/2"))
    );
    assert_eq!((two.settings.format, two.settings.compression), (Format::Sifaka, Compression::Auto(Codec::Zstd)));
    assert_eq!(two.settings.checksums, Checksums::default());
}

#[test]
fn documented_agent_example_is_the_defaults_it_claims_to_show() {
    let (mut config, warnings) = AgentConfig::parse(&documentation("examples/agent.hcl"), "agent.hcl").unwrap();
    let shown: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["agent.hcl:51:14: `influxdb` has no effect yet: nothing is pushed"]);
    let influxdb = config.influxdb.take().unwrap();
    assert_eq!(influxdb.password.unwrap().expose(), "change me");
    assert_eq!(config.admin.group.take().as_deref(), Some("hsmadmin"));

    let mut defaults = AgentConfig::for_device(config.client_device.clone());
    defaults.handler_count = 8;
    defaults.enabled_plugins = vec!["posix".into()];
    assert_eq!(config.to_string(), defaults.to_string());
}

#[test]
fn documented_posix_example_is_valid() {
    let text = documentation("examples/lhsm-plugin-posix.hcl");
    let (config, warnings) = PosixConfig::parse(&text, "posix.hcl").unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.num_threads, 4);
    assert_eq!(config.archives.len(), 2);
}

#[test]
fn documented_object_example_is_valid() {
    let text = documentation("examples/lhsm-plugin-object.hcl");
    let (config, warnings) = ObjectConfig::parse(&text, "object.hcl").unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.archives.len(), 3);
}

#[test]
fn documented_s3_example_is_valid() {
    let text = documentation("examples/lhsm-plugin-s3.hcl");
    let (config, warnings) = S3Config::parse(&text, "s3.hcl").unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.archives.len(), 2);
}

#[test]
fn documented_az_example_is_valid() {
    let text = documentation("examples/lhsm-plugin-az.hcl");
    let (config, warnings) = AzConfig::parse(&text, "az.hcl").unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.archives.len(), 1);
}

#[test]
fn every_known_key_is_documented() {
    let text = documentation("configuration.md");
    let keys: Vec<_> = AgentConfig::known_keys()
        .into_iter()
        .chain(PosixConfig::known_keys())
        .chain(ObjectConfig::known_keys())
        .chain(S3Config::known_keys())
        .chain(AzConfig::known_keys())
        .collect();
    assert!(keys.len() > 40, "the readers know {} keys", keys.len());
    for key in &keys {
        // A section has a heading of its own, a value a row of a table.
        let row = format!("| `{key}` |");
        let is_section = keys.iter().any(|other| other.starts_with(&format!("{key}.")));
        assert!(text.contains(&row) || is_section, "docs/configuration.md has no row for `{key}`");
    }
}

#[test]
fn every_documented_key_is_known() {
    let known: Vec<_> = AgentConfig::known_keys()
        .into_iter()
        .chain(PosixConfig::known_keys())
        .chain(ObjectConfig::known_keys())
        .chain(S3Config::known_keys())
        .chain(AzConfig::known_keys())
        .collect();
    for row in documentation("configuration.md").lines().filter_map(|line| line.strip_prefix("| `")) {
        let key = row.split('`').next().unwrap();
        assert!(known.iter().any(|known| known == key), "docs/configuration.md documents `{key}`, which is unknown");
    }
}

#[test]
fn every_agent_default() {
    let text = r#"client_device = "/srv/data" enabled_plugins = ["posix"]"#;
    let (config, warnings) = AgentConfig::parse(text, "agent").unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.client_device, ClientDevice::Local("/srv/data".into()));
    assert_eq!(config.mount_root, Path::new("/mnt/lhsmd"));
    assert_eq!(config.agent_mountpoint(), Path::new("/mnt/lhsmd/agent"));
    assert_eq!(config.client_mount_options, ["user_xattr"]);
    assert_eq!(config.handler_count, std::thread::available_parallelism().unwrap().get());
    assert_eq!(config.enabled_plugins, ["posix"]);
    assert_eq!(config.plugin_dir, Path::new("/usr/libexec/lhsmd"));
    assert!(!config.snapshots.enabled);
    assert_eq!(config.transport.kind, TransportKind::Grpc);
    assert_eq!(config.transport.socket_dir, Path::new("/var/run/lhsmd"));
    assert_eq!(config.influxdb, None);
    assert_eq!(config.state_dir, Path::new("/var/lib/sifaka"));
    assert_eq!(config.admin.socket, Path::new("/var/run/lhsmd/admin.sock"));
    assert_eq!(config.admin.group, None);
    assert_eq!(config.restore.timeout, Some(Duration::from_secs(3600)));
    assert_eq!(config.retry.max_attempts, None);
    assert_eq!(config.retry.max_delay, Duration::from_secs(600));
    assert_eq!(config.mover_hang_timeout, Duration::from_secs(300));
    assert_eq!(config.remove_grace, Duration::from_secs(604_800));
    assert_eq!(config.default_archive, 1);
    assert_eq!(config.log.level, LogLevel::Info);
}

#[test]
fn every_posix_default() {
    let (config, _) = PosixConfig::parse(r#"archive "a" { id = 1 root = "/a" }"#, "posix").unwrap();
    assert_eq!(config.num_threads, 4);
    assert_eq!(config.checksums, Checksums { disabled: false, disable_compare_on_restore: false });
    let [archive] = config.archives.as_slice() else { panic!("one archive, not {:?}", config.archives) };
    assert_eq!(archive.settings.compression, Compression::Off);
    assert_eq!(archive.settings.format, Format::Sifaka);
    assert_eq!(archive.settings.checksums, config.checksums);
}

/// A file of the given mode in a directory of its own, which goes with the first part of the pair.
fn file(content: impl AsRef<[u8]>, mode: u32) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("conf");
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    (dir, path)
}

#[test]
fn agent_file_with_a_password_must_be_private() {
    let plain = r#"client_device = "/d" enabled_plugins = ["posix"]"#;
    let secret = format!(r#"{plain} influxdb {{ url = "http://h" db = "d" password = "pw" }}"#);
    for mode in [0o640, 0o604, 0o644, 0o660, 0o601] {
        let (_dir, path) = file(&secret, mode);
        let shown = path.display();
        assert_eq!(
            AgentConfig::load(&path).unwrap_err().to_string(),
            format!(
                "{shown}: holds a password (influxdb.password), and its mode {mode:04o} lets group or others at it \
                 (run: chmod 600 {shown})"
            )
        );
    }
    for mode in [0o600, 0o400] {
        let (_dir, path) = file(&secret, mode);
        AgentConfig::load(&path).unwrap();
    }
    let (_dir, path) = file(plain, 0o644);
    AgentConfig::load(&path).unwrap();
}

#[test]
fn posix_file_must_be_private() {
    let text = r#"archive "a" { id = 1 root = "/a" }"#;
    let (_dir, path) = file(text, 0o640);
    let shown = path.display();
    assert_eq!(
        PosixConfig::load(&path).unwrap_err().to_string(),
        format!(
            "{shown}: must be private to its owner, and its mode 0640 lets group or others at it \
             (run: chmod 600 {shown})"
        )
    );
    let (_dir, path) = file(text, 0o600);
    PosixConfig::load(&path).unwrap();
}

#[test]
fn absent_file_says_which_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("absent");
    let error = AgentConfig::load(&path).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{}: there is no such agent configuration file (create it, or name another with --config)",
            path.display()
        )
    );
    assert_eq!(error.source.unwrap().kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn directory_garbage_and_giant_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let message = |path: &Path| AgentConfig::load(path).unwrap_err().to_string();
    assert_eq!(message(dir.path()), format!("{}: is a directory, not the agent configuration", dir.path().display()));
    let (_dir, path) = file(b"ab\xff\xfe\x00\x01", 0o600);
    assert_eq!(message(&path), format!("{}: is not text: byte 2 is not UTF-8", path.display()));
    let (_dir, path) = file(vec![b'#'; (1 << 20) + 1], 0o600);
    assert_eq!(
        message(&path),
        format!("{}: is larger than 1048576 bytes, which no agent configuration is", path.display())
    );
}

#[test]
fn absent_posix_file_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("absent");
    assert_eq!(
        PosixConfig::load(&path).unwrap_err().to_string(),
        format!("{}: there is no such posix mover's configuration file (create it, with mode 0600)", path.display())
    );
}

#[test]
fn a_path_with_blanks_is_quoted_in_the_command_to_type() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("it's");
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let message = PosixConfig::load(&path).unwrap_err().to_string();
    assert!(message.ends_with(&format!("(run: chmod 600 '{}/it'\\''s')", dir.path().display())), "{message}");
}
