//! The agent's side of the protocol, driven by a test: hands out the actions the test gives it, and shows the test
//! what the mover did. For tests of movers and of the SDK, over a real socket; it judges, schedules and retries nothing.

use proto::pdm::data_mover_server::{DataMover, DataMoverServer};
use proto::pdm::{ActionItem, ActionStatus, Empty, Endpoint, Handle};
use std::collections::{HashMap, VecDeque};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_stream::{Stream, StreamExt, wrappers::UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

const PATIENCE: Duration = Duration::from_secs(60);

/// Something the mover did.
#[derive(Debug)]
pub enum Event {
    /// It registered an archive, and was given this handle.
    Registered(Endpoint, u64),
    /// It opened the stream of actions of a handle.
    ActionsOpened(u64),
    /// It closed the stream of actions of a handle, or its connection ended.
    ActionsClosed(u64),
    /// It opened the stream of reports.
    StatusesOpened,
    /// It reported.
    Status(Box<ActionStatus>),
    /// It closed the stream of reports: in order, or with this error.
    StatusesEnded(Result<(), Status>),
}

/// A listening agent. Dropping it ends every connection at once, as a killed agent's would.
#[derive(Debug)]
pub struct PdmAgent {
    runtime: Option<Runtime>,
    shared: Arc<Shared>,
    events: mpsc::Receiver<Event>,
    /// Events that came while the test waited for others.
    passed_over: VecDeque<Event>,
}

#[derive(Debug)]
struct Shared {
    refusal: Option<String>,
    state: Mutex<State>,
    events: mpsc::Sender<Event>,
}

#[derive(Debug, Default)]
struct State {
    registered: u64,
    actions: HashMap<u64, (UnboundedSender<ActionItem>, Option<UnboundedReceiver<ActionItem>>)>,
}

impl PdmAgent {
    /// Listens at a path, or at `@name` in the abstract namespace.
    ///
    /// # Panics
    /// When it cannot.
    #[track_caller]
    #[must_use]
    pub fn start(address: &str) -> Self {
        Self::listen(address, None)
    }

    /// As `start`, but refuses every registration, saying `reason`.
    ///
    /// # Panics
    /// When it cannot listen.
    #[track_caller]
    #[must_use]
    pub fn start_refusing(address: &str, reason: &str) -> Self {
        Self::listen(address, Some(reason.to_owned()))
    }

    #[track_caller]
    fn listen(address: &str, refusal: Option<String>) -> Self {
        let socket = match address.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(address),
        };
        let listener = socket.and_then(|socket| UnixListener::bind_addr(&socket)).expect("listen on a unix socket");
        listener.set_nonblocking(true).expect("make a socket non-blocking");
        let (sender, events) = mpsc::channel();
        let shared = Arc::new(Shared { refusal, state: Mutex::default(), events: sender });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("start a runtime");
        let service = DataMoverServer::new(Service(shared.clone()));
        runtime.spawn(async move {
            let listener = tokio::net::UnixListener::from_std(listener).expect("register a socket");
            let server = tonic::transport::Server::builder()
                .initial_stream_window_size(8 << 20)
                .initial_connection_window_size(8 << 20)
                .add_service(service);
            server.serve_with_incoming(UnixListenerStream::new(listener)).await.expect("serve");
        });
        Self { runtime: Some(runtime), shared, events, passed_over: VecDeque::new() }
    }

    /// Gives the mover an action. May be called before it opened its stream.
    ///
    /// # Panics
    /// When there is no such handle, or the mover closed its stream.
    #[track_caller]
    pub fn send(&self, handle: u64, item: ActionItem) {
        assert!(self.offer(handle, item), "the mover takes no actions for handle {handle}");
    }

    /// As `send`; false when the mover closed its stream.
    pub fn offer(&self, handle: u64, item: ActionItem) -> bool {
        self.shared.lock().actions.get(&handle).is_some_and(|(sender, _)| sender.send(item).is_ok())
    }

    /// The next event, if one comes before `until`.
    pub fn event_before(&mut self, until: Instant) -> Option<Event> {
        let first = self.passed_over.pop_front();
        first.or_else(|| self.events.recv_timeout(until.saturating_duration_since(Instant::now())).ok())
    }

    /// Waits for the first event from which `choose` makes something; others stay for later calls.
    ///
    /// # Panics
    /// When none comes.
    #[track_caller]
    pub fn wait_for<T>(&mut self, what: &str, mut choose: impl FnMut(&Event) -> Option<T>) -> T {
        for at in 0..self.passed_over.len() {
            if let Some(chosen) = choose(&self.passed_over[at]) {
                self.passed_over.remove(at);
                return chosen;
            }
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => match choose(&event) {
                    Some(chosen) => return chosen,
                    None => self.passed_over.push_back(event),
                },
                Err(_) => panic!("waited in vain for {what}; other events: {:?}", self.passed_over),
            }
        }
    }

    /// Waits for a registration: what was registered, and the handle it got.
    ///
    /// # Panics
    /// When none comes.
    #[track_caller]
    pub fn registration(&mut self) -> (Endpoint, u64) {
        self.wait_for("a registration", |event| match event {
            Event::Registered(endpoint, handle) => Some((endpoint.clone(), *handle)),
            _ => None,
        })
    }

    /// Waits until the mover has opened its stream of reports: only then its end, however it comes, ends that stream.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn reports_opened(&mut self) {
        self.wait_for("the stream of reports", |event| matches!(event, Event::StatusesOpened).then_some(()));
    }

    /// Waits for the next report, of progress or an end.
    ///
    /// # Panics
    /// When none comes.
    #[track_caller]
    pub fn status(&mut self) -> ActionStatus {
        self.wait_for("a report", |event| match event {
            Event::Status(status) => Some((**status).clone()),
            _ => None,
        })
    }

    /// Waits for the end of the stream of reports. What was reported before and not asked for is returned with it.
    ///
    /// # Panics
    /// When the stream goes on.
    #[track_caller]
    pub fn last_statuses(&mut self) -> (Vec<ActionStatus>, Result<(), Status>) {
        let mut statuses = Vec::new();
        loop {
            let event = self.wait_for("the end of the reports", |event| match event {
                Event::Status(status) => Some(Ok((**status).clone())),
                Event::StatusesEnded(end) => Some(Err(end.clone())),
                _ => None,
            });
            match event {
                Ok(status) => statuses.push(status),
                Err(end) => return (statuses, end),
            }
        }
    }
}

impl Drop for PdmAgent {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    /// A test that has ended listens no more.
    fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }
}

struct Service(Arc<Shared>);

#[tonic::async_trait]
impl DataMover for Service {
    async fn register(&self, request: Request<Endpoint>) -> Result<Response<Handle>, Status> {
        if let Some(reason) = &self.0.refusal {
            return Err(Status::failed_precondition(reason.clone()));
        }
        let id = {
            let mut state = self.0.lock();
            state.registered += 1;
            // Not 1, so that a handle cannot pass for an archive id.
            let id = 1000 + state.registered;
            let (sender, receiver) = unbounded_channel();
            state.actions.insert(id, (sender, Some(receiver)));
            id
        };
        self.0.tell(Event::Registered(request.into_inner(), id));
        Ok(Response::new(Handle { id }))
    }

    type GetActionsStream = Actions;

    async fn get_actions(&self, request: Request<Handle>) -> Result<Response<Actions>, Status> {
        let handle = request.into_inner().id;
        let receiver = self.0.lock().actions.get_mut(&handle).and_then(|(_, receiver)| receiver.take());
        let receiver = receiver.ok_or_else(|| Status::not_found(format!("handle {handle} is not free")))?;
        self.0.tell(Event::ActionsOpened(handle));
        Ok(Response::new(Actions { handle, receiver, shared: self.0.clone() }))
    }

    async fn status_stream(&self, request: Request<Streaming<ActionStatus>>) -> Result<Response<Empty>, Status> {
        self.0.tell(Event::StatusesOpened);
        let mut statuses = request.into_inner();
        while let Some(status) = statuses.next().await {
            match status {
                Ok(status) => self.0.tell(Event::Status(Box::new(status))),
                Err(error) => {
                    self.0.tell(Event::StatusesEnded(Err(error.clone())));
                    return Err(error);
                }
            }
        }
        self.0.tell(Event::StatusesEnded(Ok(())));
        Ok(Response::new(Empty {}))
    }
}

/// One mover's stream of actions; dropped when the mover closes it.
#[derive(Debug)]
pub struct Actions {
    handle: u64,
    receiver: UnboundedReceiver<ActionItem>,
    shared: Arc<Shared>,
}

impl Stream for Actions {
    type Item = Result<ActionItem, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(cx).map(|item| item.map(Ok))
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // Before the event: whoever saw it finds the stream closed.
        self.receiver.close();
        self.shared.tell(Event::ActionsClosed(self.handle));
    }
}
