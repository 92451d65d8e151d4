//! The transport "nats", and hosts of movers.

use super::{MINIMAL, absolute, parsed};
use crate::agent::{AgentConfig, Host, Nats, NatsAddress, NatsLogin, NatsTls};
use crate::device::ClientDevice;
use proptest::prelude::*;
use std::time::Duration;

fn nats(keys: &str) -> Nats {
    let text = format!(
        "client_device = \"mgs@tcp:/big\"\nenabled_plugins = [\"noop\"]\ntransport {{ type = \"nats\" {keys} }}"
    );
    AgentConfig::parse(&text, "f").unwrap().0.nats().unwrap().clone()
}

/// The messages about `keys`, which begin in column 28 of line 3.
fn refusal(keys: &str) -> String {
    let text =
        format!("client_device = \"/srv/big\"\nenabled_plugins = [\"noop\"]\ntransport {{ type = \"nats\" {keys} }}");
    AgentConfig::parse(&text, "f").unwrap_err().to_string()
}

fn address(host: &str, port: u16) -> NatsAddress {
    NatsAddress { host: host.into(), port }
}

#[test]
fn every_key_is_read() {
    let read = nats(
        r#"servers = ["tls://nats-1", "tls://10.0.0.2:4333"] filesystem = "fs_1-a" replicas = 1 lease_s = 2
        credentials = "/etc/c" tls { ca = "/ca" cert = "/cert" key = "/key" }"#,
    );
    let tls = NatsTls { ca: Some("/ca".into()), identity: Some(("/cert".into(), "/key".into())) };
    let expected = Nats {
        servers: vec![address("nats-1", 4222), address("10.0.0.2", 4333)],
        filesystem: "fs_1-a".into(),
        replicas: 1,
        lease: Duration::from_secs(2),
        tls: Some(tls),
        login: Some(NatsLogin::Credentials("/etc/c".into())),
    };
    assert_eq!(read, expected);
    let read = nats(r#"servers = ["nats://localhost:1", "[::1]", "127.0.0.9:2"] user = "u" password_file = "/p""#);
    let expected = Nats {
        servers: vec![address("localhost", 1), address("::1", 4222), address("127.0.0.9", 2)],
        filesystem: "big".into(),
        replicas: 3,
        lease: Duration::from_secs(30),
        tls: None,
        login: Some(NatsLogin::Password { user: "u".into(), file: "/p".into() }),
    };
    assert_eq!(read, expected);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let local = r#"servers = ["localhost"] filesystem = "f""#;
    for (keys, message) in [
        (
            String::new(),
            "f:3:11: `servers` is missing in `transport` (write servers = [\"tls://nats-1:4222\", \"tls://nats-2:4222\", \
             \"tls://nats-3:4222\"])\n\
             f:3:20: `filesystem` is missing in `transport` (write filesystem = \"NAME\", the same for the agent and all hosts of \
             its movers)",
        ),
        (
            r#"servers = ["a b"] filesystem = "f.g""#.into(),
            "f:3:38: \"a b\" is not the address of a NATS server (write host, host:port, nats://host:port or tls://host:port)\n\
             f:3:58: `filesystem` must be 1 to 32 letters, digits, `_` or `-`, found \"f.g\"",
        ),
        (
            format!("{local} replicas = 2"),
            "f:3:79: `replicas` must be 1, 3 or 5, found 2 (of an even number, no more may die)",
        ),
        (format!("{local} lease_s = 1"), "f:3:78: `lease_s` must be between 2 and 600, found 1"),
        (format!("{local} user = \"u\""), "f:3:75: `user` and `password_file` come together"),
        (
            format!("{local} user = \"u\" password_file = \"/p\" credentials = \"/c\""),
            "f:3:114: give `credentials`, or `user` and `password_file`, not both",
        ),
        (format!("{local} tls {{ cert = \"/c\" }}"), "f:3:81: `cert` and `key` come together"),
        (
            format!("{local} tls {{ cret = \"/c\" }}"),
            "f:3:74: unknown key `cret` in `transport.tls` (did you mean `cert`?)",
        ),
        (
            r#"servers = ["tls://localhost", "localhost"] filesystem = "f""#.into(),
            "f:3:57: some servers have tls:// and this one has not (write tls:// for all of them)",
        ),
        (
            r#"servers = ["nats://u:geheim@localhost"] filesystem = "f""#.into(),
            "f:3:38: an address of a server holds no user (give user and password_file, or credentials)",
        ),
    ] {
        assert_eq!(refusal(&keys), message, "{keys}");
    }
    for bad in ["", ":1", "h:", "h:0", "h:65536", "h:+1", "[::1", "[h]:1", "http://h", "h/x", "[::1]x", "*"] {
        let refused = refusal(&format!("servers = [\"{bad}\"] filesystem = \"f\""));
        assert!(refused.contains("is not the address"), "{bad}: {refused}");
    }
}

#[test]
fn only_this_host_may_have_an_open_server() {
    let refused = |keys: &str| refusal(&format!("servers = [\"localhost\", \"nats-1\"] filesystem = \"f\" {keys}"));
    let encrypted = "f:3:51: nats-1:4222 is not on this host, and the connection would not be encrypted (add tls { ca = FILE }, \
                     or write tls:// before the addresses)";
    let unknown = "f:3:51: nats-1:4222 is not on this host, and nothing says who we are: whoever reaches the server could have \
                   files read and written (add credentials, or user and password_file, or cert and key in tls { })";
    assert_eq!(refused(""), format!("{encrypted}\n{unknown}"));
    assert_eq!(refused("credentials = \"/c\""), encrypted);
    assert_eq!(refused("tls { ca = \"/c\" }"), unknown);
    nats("servers = [\"nats-1\"] tls { cert = \"/c\" key = \"/k\" }");
    nats("servers = [\"tls://nats-1\"] credentials = \"/c\"");
}

#[test]
fn keys_of_another_transport_are_warned_about() {
    let text = format!("{MINIMAL}transport {{ servers = [\"h\"] tls {{ }} }}");
    let (config, warnings) = AgentConfig::parse(&text, "f").unwrap();
    let shown: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    let text = "has no effect: it is for transport \"nats\" (write type = \"nats\", or remove it)";
    assert_eq!(shown, [format!("f:3:24: {text}"), format!("f:3:33: {text}")]);
    assert_eq!(config.nats(), None);
}

#[test]
fn hosts_have_names_that_can_be_told_apart() {
    let refusal = |host: &str| AgentConfig::parse(&format!("{MINIMAL}host {{ {host} }}"), "f").unwrap_err().to_string();
    assert_eq!(
        refusal("name = \"a b\""),
        "f:3:15: `name` must be 1 to 64 letters, digits, `.`, `_` or `-`, found \"a b\""
    );
    assert_eq!(refusal("groups = [\"any\"]"), "f:3:18: every host is in the group \"any\" (remove it)");
    assert_eq!(refusal("groups = [\"a\", \"a\"]"), "f:3:23: `groups` names \"a\" twice");
    assert_eq!(
        refusal("groups = [\"a.b\"]"),
        "f:3:18: a group's name has 1 to 32 letters, digits, `_` or `-`, found \"a.b\""
    );
    let groups: Vec<String> = (0..9).map(|n| format!("\"g{n}\"")).collect();
    assert_eq!(
        refusal(&format!("groups = [{}]", groups.join(", "))),
        "f:3:66: `groups` has at most 8 entries, found 9"
    );
    assert!(refusal(&format!("labels {{ a = \"{}\" }}", "x".repeat(129))).starts_with("f:3:17: a label has"));
    assert_eq!(parsed("host { }").host, Host::default());
}

#[test]
fn nothing_of_the_transport_can_be_taken_over_by_a_running_agent() {
    let config = |lease: u32| {
        parsed(&format!("transport {{ type = \"nats\" servers = [\"::1\"] filesystem = \"f\" lease_s = {lease} tls {{ ca = \"/{lease}\" }} }}").replace("::1", "[::1]"))
    };
    let changes: Vec<_> = config(7).changes_to(&config(8)).into_iter().map(|c| (c.is_reloadable(), c.key)).collect();
    assert_eq!(changes, [(false, "transport.lease_s".to_owned()), (false, "transport.tls.ca".to_owned())]);
    assert!(parsed("").changes_to(&config(7)).iter().any(|change| change.key == "transport.type"));
}

#[test]
fn the_filesystems_name_follows_a_lustre_device() {
    let device: ClientDevice = "mgs@tcp:/other".parse().unwrap();
    let text = format!(
        "client_device = \"{device}\" enabled_plugins = [\"noop\"] transport {{ type = \"nats\" servers = [\"localhost\"] }}"
    );
    assert_eq!(AgentConfig::parse(&text, "f").unwrap().0.nats().unwrap().filesystem, "other");
}

prop_compose! {
    pub(super) fn any_nats()(
        hosts in prop::collection::vec(("[a-z][a-z0-9.-]{0,9}|::1|127\\.0\\.0\\.1", 1..=u16::MAX), 1..4),
        filesystem in "[a-zA-Z0-9_-]{1,32}",
        replicas in prop::sample::select(vec![1_usize, 3, 5]),
        lease in 2..=600_u64,
        ca in prop::option::of(absolute()),
        identity in (absolute(), absolute()),
        credentials in prop::option::of(absolute()),
        user in (".{0,8}", absolute()),
    ) -> Nats {
        Nats {
            servers: hosts.into_iter().map(|(host, port)| NatsAddress { host, port }).collect(),
            filesystem,
            replicas,
            lease: Duration::from_secs(lease),
            tls: Some(NatsTls { ca, identity: Some(identity) }),
            login: Some(credentials.map_or(NatsLogin::Password { user: user.0, file: user.1 }, NatsLogin::Credentials)),
        }
    }
}

prop_compose! {
    pub(super) fn any_host()(
        name in prop::option::of("[a-z0-9_-]{1,20}(\\.[a-z]{1,9})?"),
        groups in prop::collection::btree_set("g[a-zA-Z0-9_-]{0,8}", 0..8),
        labels in prop::collection::btree_map("[a-zA-Z0-9_-]{1,8}", ".{0,20}", 0..4),
    ) -> Host {
        Host { name, groups: groups.into_iter().collect(), labels }
    }
}
