use super::*;
use proptest::prelude::*;

mod nats;

const MINIMAL: &str = "client_device = \"/srv/data\"\nenabled_plugins = [\"posix\"]\n";

fn parsed(extra: &str) -> AgentConfig {
    AgentConfig::parse(&format!("{MINIMAL}{extra}"), "f").unwrap().0
}

/// The messages about `extra`, which begins on line 3.
fn refusal(extra: &str) -> String {
    AgentConfig::parse(&format!("{MINIMAL}{extra}"), "f").unwrap_err().to_string()
}

#[test]
fn empty_file_lacks_both_required_keys() {
    for text in ["", "\u{feff}", " \n# nothing\n", "{}"] {
        assert_eq!(
            AgentConfig::parse(text, "f").unwrap_err().to_string(),
            "f:1:1: `client_device` is missing (write client_device = \"mgs@tcp:/fsname\" for Lustre, or the absolute \
             path of a local filesystem)\n\
             f:1:1: `enabled_plugins` is missing (write enabled_plugins = [\"posix\"] for the builtin POSIX mover)"
        );
    }
}

#[test]
fn every_key_is_read() {
    let config = parsed(
        r#"mount_root = "/m" client_mount_options = ["flock", "user_xattr", "flock"] handler_count = 4096
        plugin_dir = "/p" state_dir = "/s" mover_hang_timeout_s = 1 remove_grace_s = 0 keep_versions_s = 7 default_archive = 4294967295 copies = [2, 4294967295]
        snapshots { enabled = true } transport { socket_dir = "/t" } log { level = "trace" }
        admin { socket = "/a" group = "g" } restore { timeout_s = 0 mode = "range" threshold = "1MiB" readahead = 0 whole_for = ["x"] } retry { max_attempts = 3 max_delay_s = 9 }
        influxdb { url = "http://h:8086" db = "d" user = "u" password = "pw" }
        host { name = "h.example" groups = ["tape", "far"] labels { rack = "7, \"left\"" } }"#,
    );
    let expected = AgentConfig {
        client_device: ClientDevice::Local("/srv/data".into()),
        mount_root: "/m".into(),
        client_mount_options: vec!["user_xattr".into(), "flock".into()],
        handler_count: 4096,
        enabled_plugins: vec!["posix".into()],
        plugin_dir: "/p".into(),
        snapshots: Snapshots { enabled: true },
        transport: Transport { kind: TransportKind::Grpc, socket_dir: "/t".into() },
        influxdb: Some(InfluxDb {
            url: "http://h:8086".into(),
            db: "d".into(),
            user: Some("u".into()),
            password: Some(Secret::new("pw")),
        }),
        state_dir: "/s".into(),
        admin: Admin { socket: "/a".into(), group: Some("g".into()) },
        restore: Restore {
            timeout: None,
            mode: RestoreMode::Range,
            threshold: 1 << 20,
            readahead: 0,
            whole_for: vec!["x".into()],
        },
        retry: Retry { max_attempts: NonZeroU32::new(3), max_delay: Duration::from_secs(9) },
        mover_hang_timeout: Duration::from_secs(1),
        remove_grace: Duration::ZERO,
        keep_versions: Duration::from_secs(7),
        default_archive: u32::MAX,
        copies: vec![2, u32::MAX],
        log: Log { level: LogLevel::Trace },
        host: Host {
            name: Some("h.example".into()),
            groups: vec!["tape".into(), "far".into()],
            labels: [("rack".to_owned(), "7, \"left\"".to_owned())].into(),
        },
        given: config.given.clone(),
    };
    assert_eq!(config, expected);
}

#[test]
fn refusals() {
    for (extra, message) in [
        ("mount_root = \"x\"", "f:3:14: `mount_root` must be an absolute path, found \"x\""),
        ("handler_count = 0", "f:3:17: `handler_count` must be between 1 and 4096, found 0"),
        ("handler_count = 4097", "f:3:17: `handler_count` must be between 1 and 4096, found 4097"),
        ("mover_hang_timeout_s = 0", "f:3:24: `mover_hang_timeout_s` must be between 1 and 86400, found 0"),
        ("default_archive = 0", "f:3:19: `default_archive` must be between 1 and 4294967295, found 0"),
        ("copies = 1", "f:3:10: `copies` must be a list of integers, found an integer"),
        ("copies = [\"1\"]", "f:3:11: `copies` must be a list of integers, found a string"),
        ("copies = [0]", "f:3:11: entries of `copies` must be between 1 and 4294967295, found 0"),
        ("copies = [2, 1, 2]", "f:3:17: `copies` names 2 twice"),
        ("copies = [1, 2, 3, 4, 5, 6, 7, 8, 9]", "f:3:35: `copies` has at most 8 entries, found 9"),
        (
            "copies = [1, 2]\ndefault_archive = 3",
            "f:4:19: `default_archive` is 3, which is not among `copies` (add it to copies, or remove default_archive: \
             the first of copies is used then)",
        ),
        ("remove_grace_s = -1", "f:3:18: `remove_grace_s` must be between 0 and 315360000, found -1"),
        ("restore { timeout_s = 2592001 }", "f:3:23: `timeout_s` must be between 0 and 2592000, found 2592001"),
        ("retry { max_delay_s = 0 }", "f:3:23: `max_delay_s` must be between 1 and 86400, found 0"),
        (
            "log { level = \"loud\" }",
            "f:3:15: `level` must be \"error\", \"warn\", \"info\", \"debug\" or \"trace\", found \"loud\"",
        ),
        ("transport { type = \"tcp\" }", "f:3:20: `type` must be \"grpc\" or \"nats\", found \"tcp\""),
        ("transport = \"grpc\"", "f:3:13: `transport` must be one block, found a string"),
        ("transport { socketdir = 1 }", "f:3:13: unknown key `socketdir` in `transport` (did you mean `socket_dir`?)"),
        ("admin { group = \"\" }", "f:3:17: `group` is empty (remove the key to let only root in)"),
        (
            "influxdb { }",
            "f:3:10: `url` is missing in `influxdb` (write url = \"http://host:8086\", or remove the block)\n\
             f:3:10: `db` is missing in `influxdb` (the database to write to)",
        ),
        ("client_device = \"/x\"", "f:3:1: `client_device` is given twice; the first is on line 1"),
    ] {
        assert_eq!(refusal(extra), message, "{extra}");
    }
}

#[test]
fn every_problem_is_reported_in_the_order_of_the_file() {
    assert_eq!(
        AgentConfig::parse("log { lvel = 1 }\nclient_device = \"x\"\nenabled_plugins = []\nstate = 1", "f")
            .unwrap_err()
            .to_string(),
        "f:1:7: unknown key `lvel` in `log` (did you mean `level`?)\n\
         f:2:17: `client_device`: \"x\" is neither an absolute path nor of the form mgsnid[,nid][:mgsnid]:/fsname\n\
         f:3:19: `enabled_plugins` is empty, so nothing could move data (write enabled_plugins = [\"posix\"] for the \
         builtin POSIX mover)\n\
         f:4:1: unknown key `state`"
    );
}

#[test]
fn plugins_need_names_of_their_own() {
    let refusal = |plugins: &str| {
        let text = format!("client_device = \"/d\"\nenabled_plugins = [{plugins}]");
        AgentConfig::parse(&text, "f").unwrap_err().to_string()
    };
    assert_eq!(refusal(r#""a/b""#), r#"f:2:20: plugin "a/b" must be a name under plugin_dir or an absolute path"#);
    assert_eq!(refusal(r#""""#), r#"f:2:20: plugin "" has no usable name"#);
    assert_eq!(refusal(r#""..""#), r#"f:2:20: plugin ".." has no usable name"#);
    assert_eq!(refusal(r#""/x/""#), r#"f:2:20: plugin "/x/" has no usable name"#);
    assert_eq!(
        refusal(r#""/x/agent""#),
        r#"f:2:20: plugin "/x/agent" would be mounted where the agent is (give its program another name)"#
    );
    assert_eq!(
        refusal(r#""p", "/x/p""#),
        r#"f:2:25: plugin "/x/p" has the name of another, and so its mount and its configuration"#
    );
}

#[test]
fn plugin_names_paths_and_mountpoints() {
    let mut config = parsed("");
    config.enabled_plugins = vec!["posix".into(), "/opt/x/tape".into()];
    assert_eq!(config.plugin_names(), ["posix", "tape"]);
    assert_eq!(config.plugin_path("posix"), Path::new("/usr/libexec/lhsmd/posix"));
    assert_eq!(config.plugin_path("/opt/x/tape"), Path::new("/opt/x/tape"));
    assert_eq!(config.plugin_mountpoint("/opt/x/tape"), Path::new("/mnt/lhsmd/tape"));
    assert_eq!(config.plugin_mountpoint("posix"), Path::new("/mnt/lhsmd/posix"));
    assert_eq!(config.agent_mountpoint(), Path::new("/mnt/lhsmd/agent"));
}

#[test]
fn an_empty_influxdb_url_turns_it_off_with_a_warning() {
    let text = format!("{MINIMAL}influxdb {{ url = \"\" db = \"\" }}");
    let (config, warnings) = AgentConfig::parse(&text, "f").unwrap();
    assert_eq!(config.influxdb, None);
    let shown: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["f:3:18: `influxdb.url` is empty: no metrics are pushed"]);
}

#[test]
fn the_password_is_shown_nowhere() {
    let config = parsed(r#"influxdb { url = "http://h" db = "d" password = "hunter2" }"#);
    assert_eq!(config.influxdb.as_ref().unwrap().password.as_ref().unwrap().expose(), "hunter2");
    assert!(!config.to_string().contains("hunter2"), "{config}");
    assert!(!format!("{config:?}").contains("hunter2"));
    assert!(config.to_string().contains("# password is set, and not shown"));
    assert!(!refusal("influxdb { url = \"http://h\" db = \"d\" password = hunter2 }").contains("hunter2"));
    assert!(!refusal("influxdb { url = \"http://h\" db = \"d\" password = 48151623 }").contains("48151623"));
}

#[test]
fn merge_takes_what_the_other_file_set_and_nothing_else() {
    let base =
        parsed("handler_count = 7 mount_root = \"/base\" client_mount_options = [\"flock\"] log { level = \"debug\" }");
    let over = parsed(
        "handler_count = 9 client_mount_options = [\"ro\"] log { level = \"info\" } transport { socket_dir = \"/t\" }",
    );
    let merged = base.merge(over);
    assert_eq!(merged.handler_count, 9);
    assert_eq!(merged.mount_root, Path::new("/base"), "the other's default does not win");
    assert_eq!(merged.log.level, LogLevel::Info, "an explicit value wins even when it is the default");
    assert_eq!(merged.client_mount_options, ["user_xattr", "flock", "ro"]);
    assert_eq!(merged.admin.socket, Path::new("/t/admin.sock"), "the default follows socket_dir");

    let merged = parsed("admin { socket = \"/mine\" }").merge(parsed("transport { socket_dir = \"/t\" }"));
    assert_eq!(merged.admin.socket, Path::new("/mine"), "an explicit socket does not follow it");
}

#[test]
fn merging_a_file_that_sets_every_key_gives_that_file() {
    let text = r#"mount_root = "/m" handler_count = 3 plugin_dir = "/p" state_dir = "/s" mover_hang_timeout_s = 1
        remove_grace_s = 5 keep_versions_s = 7 default_archive = 6 copies = [5, 6] snapshots { enabled = true }
        transport { type = "grpc" socket_dir = "/t" } log { level = "trace" } restore { timeout_s = 0 mode = "range" threshold = "1MiB" readahead = 0 whole_for = ["x"] }
        admin { socket = "/a" group = "g" } retry { max_attempts = 3 max_delay_s = 9 }
        influxdb { url = "http://h:8086" db = "d" } client_mount_options = []
        host { name = "h" groups = ["g"] labels { rack = "7" } }"#;
    let full = parsed(text);
    let values = AgentConfig::known_keys();
    let missing: Vec<_> = values.difference(&full.given).collect();
    // Lemur's two dead keys have nothing to merge; the others are part of the influxdb block, or of another transport.
    let nats =
        ["credentials", "filesystem", "lease_s", "password_file", "port", "replicas", "servers", "tls", "tls.ca"];
    let nats = nats.into_iter().chain(["tls.cert", "tls.key", "user"]).map(|key| format!("transport.{key}"));
    let dead = ["agent_mountpoint", "influxdb.password", "influxdb.user"].map(str::to_owned);
    assert_eq!(missing, dead.into_iter().chain(nats).collect::<Vec<_>>().iter().collect::<Vec<_>>());

    let defaults = AgentConfig::for_device(ClientDevice::Local("/other".into()));
    assert_eq!(defaults.merge(full.clone()), full);
}

#[test]
fn each_key_alone_survives_a_merge() {
    for key in [
        "mount_root = \"/m\"",
        "client_mount_options = [\"flock\"]",
        "handler_count = 4000",
        "plugin_dir = \"/p\"",
        "snapshots { enabled = true }",
        "transport { socket_dir = \"/t\" }",
        "influxdb { url = \"http://h\" db = \"d\" }",
        "state_dir = \"/s\"",
        "admin { socket = \"/a\" }",
        "admin { group = \"g\" }",
        "restore { timeout_s = 0 }",
        "restore { mode = \"range\" }",
        "restore { threshold = 5 }",
        "restore { readahead = 0 }",
        "restore { whole_for = [] }",
        "retry { max_attempts = 3 }",
        "retry { max_delay_s = 9 }",
        "mover_hang_timeout_s = 1",
        "remove_grace_s = 5",
        "keep_versions_s = 7",
        "default_archive = 6",
        "copies = [6, 7]",
        "log { level = \"trace\" }",
        "host { name = \"h\" }",
        "host { groups = [\"g\"] }",
        "host { labels { rack = \"7\" } }",
        "transport { type = \"nats\" servers = [\"localhost\"] filesystem = \"f\" }",
    ] {
        let over = parsed(key);
        assert_ne!(over.to_string(), parsed("").to_string(), "{key} is not a default");
        assert_eq!(parsed("").merge(over.clone()), over, "{key}");
    }
}

fn absolute() -> impl Strategy<Value = PathBuf> {
    // Any text that is a path in its shortest form.
    prop::collection::vec("[^/\0.]{1,8}", 1..4).prop_map(|parts| PathBuf::from(format!("/{}", parts.join("/"))))
}

fn device() -> impl Strategy<Value = ClientDevice> {
    let nid = ("[a-z0-9.]{1,12}", "(tcp|o2ib)[1-9]?").prop_map(|(host, network)| format!("{host}@{network}"));
    let node = prop::collection::vec(nid, 1..3);
    let lustre = (prop::collection::vec(node, 1..3), "[a-zA-Z0-9_-]{1,8}")
        .prop_map(|(mgs_nids, fsname)| ClientDevice::Lustre { mgs_nids, fsname });
    prop_oneof![absolute().prop_map(ClientDevice::Local), lustre]
}

prop_compose! {
    fn any_config()(
        client_device in device(),
        paths in (absolute(), absolute(), absolute(), absolute(), absolute()),
        options in prop::collection::btree_set(any::<String>(), 0..3),
        plugins in prop::collection::btree_set("[a-z$\"\\\\]{1,8}", 1..4),
        handler_count in 1..=4096_usize,
        influxdb in prop::option::of(("[^/]{1,9}", any::<String>(), prop::option::of(any::<String>()))),
        group in prop::option::of(".{1,8}"),
        seconds in (0..=2_592_000_u64, 1..=86_400_u64, 1..=86_400_u64, 0..=315_360_000_u64),
        max_attempts in any::<u32>(),
        copies in prop::collection::btree_set(1..=u32::MAX, 0..8),
        default_archive in 1..=u32::MAX,
        enabled in any::<bool>(),
        level in prop::sample::select(vec![LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace]),
        (nats, host) in (prop::option::of(nats::any_nats()), nats::any_host()),
    ) -> AgentConfig {
        let mut config = AgentConfig::for_device(client_device);
        (config.mount_root, config.plugin_dir, config.state_dir, config.transport.socket_dir, config.admin.socket) = paths;
        for option in options {
            push_unique(&mut config.client_mount_options, option);
        }
        config.enabled_plugins = plugins.into_iter().filter(|name| name != AGENT_MOUNT).chain(["posix-0".into()]).collect();
        config.handler_count = handler_count;
        config.influxdb = influxdb.map(|(url, db, user)| InfluxDb { url, db, user, password: None });
        config.admin.group = group;
        config.restore.timeout = Some(Duration::from_secs(seconds.0)).filter(|timeout| !timeout.is_zero());
        config.retry = Retry { max_attempts: NonZeroU32::new(max_attempts), max_delay: Duration::from_secs(seconds.1) };
        config.mover_hang_timeout = Duration::from_secs(seconds.2);
        config.remove_grace = Duration::from_secs(seconds.3);
        config.keep_versions = Duration::from_secs(seconds.3 / 2);
        config.copies = copies.into_iter().collect();
        config.default_archive = config.copies.last().copied().unwrap_or(default_archive);
        config.snapshots.enabled = enabled;
        config.log.level = level;
        config.transport.kind = nats.map_or(TransportKind::Grpc, TransportKind::Nats);
        config.host = host;
        config
    }
}

proptest! {
    #[test]
    fn a_shown_configuration_reads_back_as_itself(mut config in any_config()) {
        let text = config.to_string();
        let (read, warnings) = AgentConfig::parse(&text, "f").map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
        prop_assert!(warnings.iter().all(|w| w.to_string().contains("has no effect yet")), "{:?}", warnings);
        config.given = read.given.clone();
        prop_assert_eq!(read, config);
    }
}

#[test]
fn changes_are_named_with_what_a_running_agent_can_take_over() {
    let parse = |text: &str| {
        let text = format!("client_device = \"/data\"\nenabled_plugins = [\"posix\"]\n{text}");
        AgentConfig::parse(&text, "f").unwrap().0
    };
    let changes = |from: &str, to: &str| -> Vec<(String, bool)> {
        let changes = parse(from).changes_to(&parse(to));
        changes.into_iter().map(|change| (change.key.clone(), change.is_reloadable())).collect()
    };
    assert!(changes("", "").is_empty());
    assert!(changes("default_archive = 1", "").is_empty(), "what is written out and the default are the same");
    let to = "restore { timeout_s = 7 }\nretry { max_attempts = 3 }\nremove_grace_s = 1\nlog { level = \"debug\" }\n\
        handler_count = 3\nmount_root = \"/mnt/other\"\nadmin { group = \"staff\" }";
    let keys = [
        ("admin.group", false),
        ("handler_count", true),
        ("log.level", true),
        ("mount_root", false),
        ("remove_grace_s", true),
        ("restore.timeout_s", true),
        ("retry.max_attempts", true),
    ];
    let keys: Vec<_> = keys.into_iter().map(|(key, reloadable)| (key.to_owned(), reloadable)).collect();
    assert_eq!(changes("", to), keys);
    assert_eq!(changes(to, ""), keys);
    let influxdb = |password: &str| format!("influxdb {{ url = \"u\" db = \"d\" password = \"{password}\" }}");
    let change = parse(&influxdb("one")).changes_to(&parse(&influxdb("two"))).remove(0);
    assert_eq!((change.key.as_str(), change.is_reloadable()), ("influxdb.password", false));
    assert!(!format!("{change:?}").contains("two"));
}
