//! The three calls of pdm.

use super::socket::Peer;
use crate::Endpoints;
use crate::endpoint::{ActionStream, OpenError, Registration};
use crate::endpoints::Reporting;
use futures_util::StreamExt;
use model::limits::MAX_WIRE_TEXT_BYTES;
use proto::{Capabilities, pdm};
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// Reports taken in at once.
const BATCH: usize = 512;

/// What movers call.
pub(super) struct Movers {
    endpoints: Arc<Endpoints>,
}

impl Movers {
    pub(super) fn new(endpoints: Arc<Endpoints>) -> Self {
        Self { endpoints }
    }
}

fn peer<T>(request: &Request<T>) -> Result<Peer, Status> {
    let peer = request.extensions().get::<Peer>().copied();
    peer.ok_or_else(|| Status::internal("the connection's peer is not known"))
}

#[tonic::async_trait]
impl pdm::data_mover_server::DataMover for Movers {
    async fn register(&self, request: Request<pdm::Endpoint>) -> Result<Response<pdm::Handle>, Status> {
        let peer = peer(&request)?;
        let pdm::Endpoint { archive, capabilities, credits, name, .. } = request.into_inner();
        if archive == 0 {
            return Err(Status::invalid_argument("archive 0 is none: archive ids begin at 1"));
        }
        if name.len() > MAX_WIRE_TEXT_BYTES {
            return Err(Status::invalid_argument(format!("a name of {} bytes is too long", name.len())));
        }
        let registration = Registration {
            archive_id: archive,
            name,
            capabilities: Capabilities::from_bits(capabilities),
            credits,
            connection: peer.id,
            pid: peer.pid,
            remote: false,
        };
        let endpoint = self.endpoints.add(registration);
        let endpoint = endpoint.ok_or_else(|| Status::unavailable("the agent is stopping"))?;
        Ok(Response::new(pdm::Handle { id: endpoint.handle() }))
    }

    type GetActionsStream = ActionStream;

    async fn get_actions(&self, request: Request<pdm::Handle>) -> Result<Response<ActionStream>, Status> {
        let peer = peer(&request)?;
        let handle = request.into_inner().id;
        let stream = self.endpoints.open(handle, peer.id).map_err(|error| match error {
            OpenError::Unknown(_) => Status::not_found(error.to_string()),
            OpenError::AlreadyOpen(_) => Status::already_exists(error.to_string()),
        })?;
        Ok(Response::new(stream))
    }

    async fn status_stream(
        &self,
        request: Request<Streaming<pdm::ActionStatus>>,
    ) -> Result<Response<pdm::Empty>, Status> {
        let peer = peer(&request)?;
        let reading = self.endpoints.reporting(peer.id);
        // A task of its own: when the connection breaks, this call is dropped, and what had arrived must still be read.
        let reader = tokio::spawn(read_reports(self.endpoints.clone(), peer.id, request.into_inner(), reading));
        match reader.await {
            Ok(result) => result.map(|()| Response::new(pdm::Empty {})),
            Err(_) => Err(Status::internal("reading the reports ended early")),
        }
    }
}

async fn read_reports(
    endpoints: Arc<Endpoints>,
    connection: u64,
    reports: Streaming<pdm::ActionStatus>,
    reading: Reporting,
) -> Result<(), Status> {
    let mut reports = reports.ready_chunks(BATCH);
    while let Some(chunk) = reports.next().await {
        if !endpoints.knows(connection) {
            return Err(Status::failed_precondition("reports of a mover that is not registered: register first"));
        }
        let mut batch = Vec::with_capacity(chunk.len());
        let mut broken = None;
        for report in chunk {
            match report {
                Ok(report) => batch.push(report),
                Err(status) => broken = Some(status),
            }
        }
        endpoints.report(batch, connection);
        if let Some(status) = broken {
            tracing::debug!(connection, %status, "a mover's stream of reports broke");
            return Err(status);
        }
    }
    drop(reading);
    Ok(())
}
