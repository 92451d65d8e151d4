//! A mover's life: connect, register, serve, drain.

use crate::intake::{Intake, describe};
use crate::lane::Lane;
use crate::outbox::{Outbox, Reports};
use crate::{Environment, PluginError, Reply, connection};
use model::ActionId;
use proto::pdm::{self, data_mover_client::DataMoverClient};
use proto::{Capabilities, ReportBody, Task};
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tonic::transport::Channel;

/// How long running actions may go on after the process was asked to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long actions have to notice that they were stopped: a chunk or a second, and some.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the agent has to read the last reports and to say so.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// What does the work of an archive.
pub trait Handler: Send + Sync + 'static {
    /// Takes an action. Called on the thread that receives, in the order of arrival: must not block. The end is
    /// reported through `reply`, from here or from elsewhere, now or later.
    fn accept(&self, task: Task, reply: Reply);

    /// An accepted action should stop; its reply's `is_cancelled` already says so. For handlers that have to wake
    /// something. Must not block. May be called for an action that has just ended.
    fn cancel(&self, id: ActionId) {
        let _ = id;
    }

    /// The process is going to end, and no action will be accepted any more. What is queued and not begun can be left
    /// to the agent. Must not block.
    fn drain(&self) {}
}

/// One archive that the mover serves.
pub struct Archive {
    /// The archive's id, 1 or more.
    pub id: u32,
    /// What the mover can do beyond Lemur's protocol. `cancel` and `reload` are set by the SDK.
    pub capabilities: Capabilities,
    /// How many actions it wants to hold at once; 0 leaves it to the agent.
    pub credits: u32,
    /// Does the work. Several archives may share one.
    pub handler: Arc<dyn Handler>,
}

/// What a mover does on SIGHUP: gives the archives whose number of actions at once may have changed, each with that number.
type OnReload = Box<dyn FnMut() -> Vec<(u32, u32)> + Send>;

/// A mover process.
pub struct Plugin {
    environment: Environment,
    name: String,
    drain_timeout: Duration,
    on_reload: Option<OnReload>,
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin")
            .field("environment", &self.environment)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Plugin {
    /// A mover of this name and version (for people).
    pub fn new(environment: Environment, name: impl Into<String>) -> Self {
        Self { environment, name: name.into(), drain_timeout: DRAIN_TIMEOUT, on_reload: None }
    }

    /// Has `reload` called when the process gets SIGHUP, which the agent sends when its configuration was read again; the agent
    /// learns that this mover understands the signal. `reload` reads the mover's configuration, keeps what it has when that is
    /// wrong, and gives the archives it serves, each with the number of actions it wants to hold at once from now on. It is
    /// called on the thread that receives actions, and must be quick.
    #[must_use]
    pub fn on_reload(mut self, reload: impl FnMut() -> Vec<(u32, u32)> + Send + 'static) -> Self {
        self.on_reload = Some(Box::new(reload));
        self
    }

    /// Sets how long running actions may go on after SIGTERM before they are stopped; 30 s by default.
    #[must_use]
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// [`Plugin::serve`] on the calling thread, with a runtime of its own. For `main`.
    ///
    /// # Errors
    /// As `serve`; or the runtime cannot be made.
    pub fn run(self, archives: Vec<Archive>) -> Result<(), PluginError> {
        // One thread: receiving and reporting is one pipeline, and the cores are for the data.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| PluginError::System { doing: "start the mover's event loop", source })?;
        runtime.block_on(self.serve(archives))
    }

    /// Serves until SIGTERM or SIGINT, then drains: begins no more actions (what still comes, and what was not begun,
    /// is left to the agent), lets running ones end, stops those that are cancelled or take too long, sends the last
    /// reports and waits, not for long, until the agent has read them. Only then it closes the streams of actions.
    ///
    /// # Errors
    /// The agent cannot be reached, refuses an archive, or is gone, be it during the drain. In the last case every action has been told to stop,
    /// and the caller has to end the process at once, with exit code 1: nobody may write into files without an agent.
    pub async fn serve(self, archives: Vec<Archive>) -> Result<(), PluginError> {
        let asked = asked_to_end().map_err(|source| PluginError::System { doing: "handle signals", source })?;
        self.serve_until(archives, asked).await
    }

    /// [`Plugin::serve`] with something else than a signal to end it.
    ///
    /// # Errors
    /// As `serve`.
    pub async fn serve_until(
        mut self,
        archives: Vec<Archive>,
        asked_to_end: impl Future<Output = ()>,
    ) -> Result<(), PluginError> {
        if archives.is_empty() {
            return Err(PluginError::NoArchives);
        }
        // Before anybody is told that the signal does no harm.
        let on_reload = self.on_reload.take().map(|reload| Ok((reload, signal(SignalKind::hangup())?))).transpose();
        let on_reload = on_reload.map_err(|source| PluginError::System { doing: "handle signals", source })?;
        let mut client = DataMoverClient::new(connection::connect(&self.environment.agent).await?);
        let outbox = Arc::new(Outbox::default());
        let mut lanes = Vec::with_capacity(archives.len());
        for archive in archives {
            let handle = self.register(&mut client, &archive, on_reload.is_some()).await?;
            lanes.push(Lane::new(handle, archive.id, archive.handler, outbox.clone()));
        }
        tracing::info!(name = self.name, archives = lanes.len(), "the mover is in service");

        let mut intake = Intake::open(&client, &lanes);
        let mut statuses = Box::pin(async move { client.status_stream(Reports::of(outbox)).await });
        let gone = tokio::select! {
            why = &mut intake => why,
            end = &mut statuses => status_stream_end(end),
            () = asked_to_end => return self.drain(&lanes, intake, statuses).await,
            never = reload_when_asked(on_reload, &lanes) => match never {},
        };
        Err(agent_gone(&lanes, gone))
    }

    async fn register(
        &self,
        client: &mut DataMoverClient<Channel>,
        archive: &Archive,
        reload: bool,
    ) -> Result<u64, PluginError> {
        let endpoint = pdm::Endpoint {
            archive: archive.id,
            fs_url: self.environment.client_mountpoint.to_string_lossy().into_owned(),
            capabilities: Capabilities { cancel: true, reload, ..archive.capabilities }.bits(),
            credits: archive.credits,
            name: self.name.clone(),
        };
        match client.register(endpoint).await {
            Ok(handle) => Ok(handle.into_inner().id),
            Err(status) => Err(PluginError::Register { archive: archive.id, reason: describe(&status) }),
        }
    }

    /// Ends with everything reported that could be. A stream that ends early is an agent that is gone.
    ///
    /// The agent takes the end of the intake for the end of the mover: it is read to the end of the last action, for
    /// cancels, and dropped after the last report.
    async fn drain<F>(&self, lanes: &[Arc<Lane>], mut intake: Intake, mut statuses: F) -> Result<(), PluginError>
    where
        F: Future<Output = StatusStreamEnd> + Unpin,
    {
        tracing::info!(name = self.name, "the mover was asked to end; waiting for running actions");
        for lane in lanes {
            lane.drain();
        }
        for timeout in [self.drain_timeout, STOP_TIMEOUT] {
            tokio::select! {
                why = &mut intake => return Err(agent_gone(lanes, why)),
                end = &mut statuses => return Err(agent_gone(lanes, status_stream_end(end))),
                idle = tokio::time::timeout(timeout, all_idle(lanes)) => if idle.is_ok() { break },
            }
            // In the first round: tells them to stop. In the second: they do not listen, and end with the process.
            for lane in lanes {
                lane.stop_all();
            }
        }
        for lane in lanes {
            lane.outbox().close();
        }
        match tokio::time::timeout(FLUSH_TIMEOUT, statuses).await {
            Ok(Ok(_)) => {}
            Ok(end) => return Err(agent_gone(lanes, status_stream_end(end))),
            Err(_) => tracing::warn!("the agent did not say that it read the last reports; not waiting any longer"),
        }
        drop(intake);
        Ok(())
    }
}

/// Reads the configuration again at each SIGHUP, and tells the agent what changed for it.
async fn reload_when_asked(on_reload: Option<(OnReload, Signal)>, lanes: &[Arc<Lane>]) -> Infallible {
    let Some((mut reload, mut hangups)) = on_reload else { return std::future::pending().await };
    while hangups.recv().await.is_some() {
        let wanted = reload();
        for lane in lanes {
            let credits = wanted.iter().find(|(archive, _)| *archive == lane.archive()).map(|(_, credits)| *credits);
            if let Some(credits) = credits.filter(|credits| *credits > 0) {
                lane.report(ActionId(0), ReportBody::Credits(credits));
            }
        }
    }
    std::future::pending().await
}

type StatusStreamEnd = Result<tonic::Response<pdm::Empty>, tonic::Status>;

fn status_stream_end(end: StatusStreamEnd) -> String {
    match end {
        Ok(_) => "it closed the stream of reports".to_owned(),
        Err(status) => describe(&status),
    }
}

async fn all_idle(lanes: &[Arc<Lane>]) {
    for lane in lanes {
        lane.idle().await;
    }
}

/// Stops everything: nobody may write into files any more.
fn agent_gone(lanes: &[Arc<Lane>], why: String) -> PluginError {
    for lane in lanes {
        lane.stop_all();
        lane.outbox().close();
    }
    PluginError::AgentGone(why)
}

/// Registers the handlers now; the future ends at the first signal.
fn asked_to_end() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
