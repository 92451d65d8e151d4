//! The end of a drain against an agent that reads every report and never says so.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proto::Task;
use proto::pdm::data_mover_server::{DataMover, DataMoverServer};
use proto::pdm::{ActionItem, ActionStatus, Empty, Endpoint, Handle};
use sifaka_plugin::{AgentAddress, Archive, Capabilities, Environment, Handler, Plugin, Reply};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::UnixListener;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::{Pending, StreamExt, wrappers::UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Sends when the mover half-closed its stream of reports.
struct Silent(UnboundedSender<()>);

#[tonic::async_trait]
impl DataMover for Silent {
    async fn register(&self, _: Request<Endpoint>) -> Result<Response<Handle>, Status> {
        Ok(Response::new(Handle { id: 1 }))
    }

    type GetActionsStream = Pending<Result<ActionItem, Status>>;

    async fn get_actions(&self, _: Request<Handle>) -> Result<Response<Self::GetActionsStream>, Status> {
        Ok(Response::new(tokio_stream::pending()))
    }

    async fn status_stream(&self, reports: Request<Streaming<ActionStatus>>) -> Result<Response<Empty>, Status> {
        let mut reports = reports.into_inner();
        while reports.next().await.is_some() {}
        self.0.send(()).unwrap();
        std::future::pending().await
    }
}

struct Idle;

impl Handler for Idle {
    fn accept(&self, task: Task, reply: Reply) {
        reply.done(task.identity);
    }
}

#[tokio::test]
async fn an_agent_that_never_answers_is_not_waited_for_long() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let (half_closed, mut was_half_closed) = unbounded_channel();
    let listener = UnixListenerStream::new(UnixListener::bind(&path).unwrap());
    let server = tonic::transport::Server::builder().add_service(DataMoverServer::new(Silent(half_closed)));
    let _server = tokio::spawn(server.serve_with_incoming(listener));
    let environment =
        Environment { agent: AgentAddress::Path(path), client_mountpoint: "/mnt".into(), config_dir: "/etc".into() };
    let archive = Archive { id: 1, capabilities: Capabilities::default(), credits: 0, handler: Arc::new(Idle) };
    let asked = Instant::now();
    let end = Plugin::new(environment, "test mover").serve_until(vec![archive], async {}).await;
    end.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(60), "{:?}", asked.elapsed());
    was_half_closed.try_recv().unwrap();
}
