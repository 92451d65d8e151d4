//! Towards the agent: one mover for each archive that hosts serve.

use super::works::WorkStream;
use crate::Pool;
use agent::{Endpoint, Endpoints, Registration};
use futures_util::StreamExt;
use model::ActionId;
use proto::{Capabilities, Report, ReportBody, pdm};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// No mover that connects has this one.
const CONNECTION: u64 = u64::MAX;
/// After a refusal of the servers.
const PAUSE: Duration = Duration::from_secs(1);

/// What happens at pools.
#[derive(Debug)]
pub(crate) enum PoolEvent {
    /// Its consumers are there.
    Opened(Pool),
    /// The agent has something for it.
    Item(Pool, Box<pdm::ActionItem>),
}

/// The movers that stand for pools. Dropping removes them.
pub(crate) struct Pools {
    endpoints: Arc<Endpoints>,
    works: WorkStream,
    events: mpsc::Sender<PoolEvent>,
    pools: BTreeMap<Pool, State>,
    tasks: tokio::task::JoinSet<()>,
}

struct State {
    credits: u32,
    capabilities: Capabilities,
    /// Once its consumers are there.
    endpoint: Option<Arc<Endpoint>>,
    opening: bool,
}

impl Pools {
    pub(crate) fn new(endpoints: Arc<Endpoints>, works: WorkStream, events: mpsc::Sender<PoolEvent>) -> Self {
        let tasks = tokio::task::JoinSet::new();
        Self { endpoints, works, events, pools: BTreeMap::new(), tasks }
    }

    /// A pool takes so many works from now on.
    pub(crate) fn serve(&mut self, pool: Pool, credits: u32, mut capabilities: Capabilities) {
        // Actions name no group: the group of all hosts has each of them.
        if !pool.group.is_any() {
            return;
        }
        // What nobody has begun is cancelled here; for the rest, the movers are asked where they are.
        capabilities.cancel = true;
        capabilities.reload = false;
        let state =
            self.pools.entry(pool.clone()).or_insert(State { credits, capabilities, endpoint: None, opening: false });
        (state.credits, state.capabilities) = (credits, capabilities);
        match &state.endpoint {
            Some(endpoint) => {
                endpoint.set_capabilities(capabilities);
                let credits =
                    Report { id: ActionId(0), handle: Some(endpoint.handle()), body: ReportBody::Credits(credits) };
                self.endpoints.report(vec![credits.into()], CONNECTION);
                self.remove_unserved(&pool);
            }
            None if !state.opening && credits > 0 => {
                state.opening = true;
                let (works, events) = (self.works.clone(), self.events.clone());
                self.tasks.spawn(async move {
                    while let Err(error) = works.open(&pool).await {
                        tracing::warn!(%error, %pool, "making consumers: trying again");
                        tokio::time::sleep(PAUSE).await;
                    }
                    let _ = events.send(PoolEvent::Opened(pool)).await;
                });
            }
            None => {}
        }
    }

    /// Its consumers are there: from now on the agent can give it works.
    pub(crate) fn opened(&mut self, pool: &Pool) {
        let Some(state) = self.pools.get_mut(pool) else { return };
        state.opening = false;
        if state.endpoint.is_some() || state.credits == 0 {
            return;
        }
        let registration = Registration {
            archive_id: pool.archive,
            name: "hosts".into(),
            capabilities: state.capabilities,
            credits: state.credits,
            connection: CONNECTION,
            pid: None,
            remote: true,
        };
        let Some(endpoint) = self.endpoints.add(registration) else { return };
        let Ok(mut stream) = self.endpoints.open(endpoint.handle(), CONNECTION) else { return };
        state.endpoint = Some(endpoint);
        let (pool, events) = (pool.clone(), self.events.clone());
        self.tasks.spawn(async move {
            while let Some(Ok(item)) = stream.next().await {
                if events.send(PoolEvent::Item(pool.clone(), Box::new(item))).await.is_err() {
                    return;
                }
            }
        });
    }

    /// Passes on what became of works.
    pub(crate) fn report(&mut self, statuses: Vec<(Pool, pdm::ActionStatus)>) {
        let mut reports = Vec::with_capacity(statuses.len());
        let mut touched: Vec<Pool> = Vec::new();
        for (pool, mut status) in statuses {
            if let Some(endpoint) = self.pools.get(&pool).and_then(|state| state.endpoint.as_ref()) {
                status.handle = Some(pdm::Handle { id: endpoint.handle() });
                reports.push(status);
                if touched.last() != Some(&pool) {
                    touched.push(pool);
                }
            }
        }
        self.endpoints.report(reports, CONNECTION);
        touched.iter().for_each(|pool| self.remove_unserved(pool));
    }

    /// One without hosts goes when it has nothing left: what waits for it has another mover, or comes again later.
    fn remove_unserved(&mut self, pool: &Pool) {
        let Some(state) = self.pools.get_mut(pool).filter(|state| state.credits == 0) else { return };
        if let Some(endpoint) = state.endpoint.take_if(|endpoint| endpoint.status().in_flight == 0) {
            self.endpoints.remove_handle(endpoint.handle());
        }
    }
}

impl Drop for Pools {
    fn drop(&mut self) {
        for endpoint in self.pools.values_mut().filter_map(|state| state.endpoint.take()) {
            self.endpoints.remove_handle(endpoint.handle());
        }
    }
}
