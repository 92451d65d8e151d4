//! The NATS servers that tests start: that they let in whom they should, and lose nothing when one of them dies.

#![allow(clippy::unwrap_used, reason = "the lint does not see that functions beside tests belong to them")]

use std::time::Duration;

use async_nats::jetstream::stream::{Config, RetentionPolicy};
use async_nats::{Client, ConnectOptions, jetstream};
use sifaka_testkit::services::{NatsAccess, NatsCluster};
use sifaka_testkit::wait_until;

const SOON: Duration = Duration::from_secs(60);

async fn connect(cluster: &NatsCluster, options: ConnectOptions) -> Result<Client, async_nats::ConnectError> {
    let urls: Vec<async_nats::ServerAddr> = cluster.urls().iter().map(|url| url.parse().unwrap()).collect();
    options.connection_timeout(SOON).request_timeout(Some(SOON)).connect(urls).await
}

async fn stream(client: &Client, replicas: usize) -> jetstream::Context {
    let context = jetstream::new(client.clone());
    let config = Config {
        name: "WORK".into(),
        subjects: vec!["work.>".into()],
        retention: RetentionPolicy::WorkQueue,
        num_replicas: replicas,
        ..Config::default()
    };
    context.create_stream(config).await.unwrap();
    context
}

async fn publish(context: &jetstream::Context, text: &str) {
    // Refused, or not answered, while nobody leads.
    let deadline = std::time::Instant::now() + SOON;
    loop {
        let sent = context.publish("work.a", text.to_owned().into()).await;
        match async { sent?.await }.await {
            Ok(_) => return,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_keeps_streams_when_their_leader_dies_or_hangs() {
    let cluster = NatsCluster::start(3);
    let client = connect(&cluster, ConnectOptions::new()).await.unwrap();
    let context = stream(&client, 3).await;
    publish(&context, "first").await;
    wait_until(SOON, "a leader", || cluster.leader("WORK").is_some());
    let first = cluster.leader("WORK").unwrap();
    assert_eq!((cluster.messages("WORK"), cluster.leader("NONE")), (Some(1), None));

    cluster.servers()[first].server().kill();
    wait_until(SOON, "another leader", || cluster.leader("WORK").is_some_and(|leader| leader != first));
    publish(&context, "second").await;
    cluster.servers()[first].server().restart();
    cluster.wait_until_ready();

    let second = cluster.leader("WORK").unwrap();
    cluster.servers()[second].server().freeze();
    wait_until(SOON, "a third leader", || cluster.leader("WORK").is_some_and(|leader| leader != second));
    cluster.servers()[second].server().thaw();
    cluster.wait_until_ready();
    publish(&context, "third").await;
    wait_until(SOON, "all messages", || cluster.messages("WORK").is_some_and(|messages| messages >= 3));

    for server in cluster.servers() {
        server.server().kill();
    }
    for server in cluster.servers() {
        server.server().restart();
    }
    cluster.wait_until_ready();
    wait_until(SOON, "all messages again", || cluster.messages("WORK").is_some_and(|messages| messages >= 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_lets_in_whom_it_should() {
    let open = NatsCluster::start(1);
    publish(&stream(&connect(&open, ConnectOptions::new()).await.unwrap(), 1).await, "one").await;
    assert_eq!(open.messages("WORK"), Some(1));

    let cluster = NatsCluster::start_for(1, NatsAccess::password);
    assert!(connect(&cluster, ConnectOptions::new()).await.is_err());
    let (user, password) = (NatsCluster::USER.to_owned(), NatsCluster::PASSWORD.to_owned());
    let options = ConnectOptions::with_user_and_password(user, password);
    publish(&stream(&connect(&cluster, options).await.unwrap(), 1).await, "one").await;

    let cluster = NatsCluster::start_for(1, NatsAccess::credentials);
    assert!(connect(&cluster, ConnectOptions::new()).await.is_err());
    let options = ConnectOptions::with_credentials_file(cluster.access().credentials.as_ref().unwrap()).await.unwrap();
    publish(&stream(&connect(&cluster, options).await.unwrap(), 1).await, "one").await;
    assert_eq!(cluster.messages("WORK"), Some(1));

    let cluster = NatsCluster::start_for(1, NatsAccess::certificate);
    let access = cluster.access().clone();
    let trusting = || ConnectOptions::new().add_root_certificates(access.ca.clone().unwrap()).require_tls(true);
    assert!(connect(&cluster, ConnectOptions::new()).await.is_err());
    assert!(connect(&cluster, trusting()).await.is_err());
    let (cert, key) = access.cert.clone().unwrap();
    let options = trusting().add_client_certificate(cert, key);
    publish(&stream(&connect(&cluster, options).await.unwrap(), 1).await, "one").await;
}
