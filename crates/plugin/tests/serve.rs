//! The SDK in this process against an agent's side on a real socket.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test, in its helpers too")]

use model::{ActionId, Command, Extent, Failure, Identity};
use proto::pdm::{self, ActionItem, ActionStatus};
use sifaka_plugin::{
    AgentAddress, Archive, Capabilities, Environment, Handler, Mover, Plugin, PluginError, Reply, Task, Workers,
};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use testkit::pdm_agent::{Event, PdmAgent};
use testkit::wait_until;

const ECANCELED: i32 = 125;
const PATIENCE: Duration = Duration::from_secs(60);
/// How long running actions may go on when a mover is asked to end: longer than anybody waits.
const DRAIN: Duration = Duration::from_secs(3600);

fn environment(address: &str) -> Environment {
    Environment {
        agent: AgentAddress::parse(address.as_ref()).unwrap(),
        client_mountpoint: "/mnt/lhsmd/test".into(),
        config_dir: "/etc/lhsmd".into(),
    }
}

/// An agent with one mover in service.
struct Service {
    agent: PdmAgent,
    handle: u64,
    mover: JoinHandle<Result<(), PluginError>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    _dir: tempfile::TempDir,
}

impl Service {
    fn start(handler: impl Handler) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = dir.path().join("agent.sock").to_str().unwrap().to_owned();
        let mut agent = PdmAgent::start(&address);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let mover = serve(environment(&address), vec![archive(1, handler)], stopped);
        let (_, handle) = agent.registration();
        Self { agent, handle, mover, stop: Some(stop), _dir: dir }
    }

    fn send(&self, id: u64, op: pdm::Command) {
        self.agent.send(self.handle, item(id, op));
    }

    fn cancel(&self, id: u64) {
        let op = pdm::Command::Cancel.into();
        self.agent.send(self.handle, ActionItem { op, cancel_target: id, ..ActionItem::default() });
    }

    fn ask_to_end(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Sends something that is answered on the receive path: all before it were read.
    fn wait_until_read(&mut self) {
        self.agent.send(self.handle, ActionItem { id: 999, op: 99, ..ActionItem::default() });
        assert_eq!(self.agent.status().id, 999);
    }

    /// Waits until it is drained; every report that was not asked for, and how serving ended.
    fn ended(mut self) -> (Vec<ActionStatus>, Result<(), PluginError>) {
        let (statuses, end) = self.agent.last_statuses();
        end.unwrap();
        (statuses, self.mover.join().unwrap())
    }
}

fn serve(
    environment: Environment,
    archives: Vec<Archive>,
    stop: tokio::sync::oneshot::Receiver<()>,
) -> JoinHandle<Result<(), PluginError>> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // A test that drops its end ends without stopping the mover.
        let stopped = async move {
            if stop.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        runtime.block_on(Plugin::new(environment, "test mover").drain_timeout(DRAIN).serve_until(archives, stopped))
    })
}

fn archive(id: u32, handler: impl Handler) -> Archive {
    Archive { id, capabilities: Capabilities::default(), credits: 0, handler: Arc::new(handler) }
}

fn item(id: u64, op: pdm::Command) -> ActionItem {
    ActionItem { id, op: op.into(), primary_path: format!("file-{id}"), length: -1, ..ActionItem::default() }
}

fn identity(uuid: &str) -> Identity {
    Identity { uuid: uuid.to_owned(), ..Identity::default() }
}

/// A handler that gives every task and reply to the test.
struct Given(Sender<(Task, Reply)>);

impl Handler for Given {
    fn accept(&self, task: Task, reply: Reply) {
        self.0.send((task, reply)).unwrap();
    }
}

fn given() -> (Given, Receiver<(Task, Reply)>) {
    let (sender, receiver) = mpsc::channel();
    (Given(sender), receiver)
}

/// A mover that tells the test when it begins an action, and waits for the test to say what to do.
struct Led {
    begun: Sender<ActionId>,
    orders: Mutex<Receiver<Order>>,
}

enum Order {
    Finish,
    Panic,
}

impl Mover for Led {
    fn run(&self, task: Task, reply: Reply) {
        self.begun.send(task.id).unwrap();
        let order = self.orders.lock().unwrap().recv().unwrap();
        match order {
            Order::Finish => reply.done(identity("done")),
            Order::Panic => std::panic::resume_unwind(Box::new("as ordered")),
        }
    }
}

fn led() -> (Workers, Receiver<ActionId>, Sender<Order>) {
    let (begun, was_begun) = mpsc::channel();
    let (order, orders) = mpsc::channel();
    let led = Led { begun, orders: Mutex::new(orders) };
    (Workers::start("led", NonZeroUsize::MIN, led).unwrap(), was_begun, order)
}

/// Tells the test when the handler inside was told to drain.
struct Telling<H>(H, Sender<()>);

impl<H: Handler> Handler for Telling<H> {
    fn accept(&self, task: Task, reply: Reply) {
        self.0.accept(task, reply);
    }

    fn cancel(&self, id: ActionId) {
        self.0.cancel(id);
    }

    fn drain(&self) {
        self.0.drain();
        self.1.send(()).unwrap();
    }
}

#[test]
fn each_archive_is_registered_over_an_abstract_socket() {
    let address = format!("@sifaka-plugin-test-{}", std::process::id());
    let mut agent = PdmAgent::start(&address);
    let (_stop, stopped) = tokio::sync::oneshot::channel();
    let (handler, _tasks) = given();
    let handler: Arc<dyn Handler> = Arc::new(handler);
    let capabilities = Capabilities { verify: true, ..Capabilities::default() };
    let archives = [3, 8].map(|id| Archive { id, capabilities, credits: id * 10, handler: handler.clone() });
    let _mover = serve(environment(&address), archives.into(), stopped);
    for id in [3, 8] {
        let (endpoint, handle) = agent.registration();
        assert_eq!((endpoint.archive, endpoint.credits), (id, id * 10));
        assert_eq!(endpoint.fs_url, "/mnt/lhsmd/test");
        assert_eq!(endpoint.name, "test mover");
        let announced = Capabilities::from_bits(endpoint.capabilities);
        assert_eq!(announced, Capabilities { cancel: true, verify: true, ..Capabilities::default() });
        agent.wait_for("a stream", |e| matches!(e, Event::ActionsOpened(h) if *h == handle).then_some(()));
    }
}

#[test]
fn an_action_is_run_and_answered() {
    let (handler, tasks) = given();
    let mut service = Service::start(handler);
    service.send(7, pdm::Command::Archive);
    let (task, reply) = tasks.recv_timeout(PATIENCE).unwrap();
    assert_eq!((task.id, task.command, task.extent), (ActionId(7), Command::Archive, Extent::WHOLE));
    assert_eq!(task.primary_path, "file-7");
    let hash = model::Digest::from_bytes(&[9; 32]).unwrap();
    reply.done(Identity { uuid: "u".into(), hash: Some(hash), url: "posix:u".into() });
    let status = service.agent.status();
    assert_eq!((status.id, status.completed, status.error), (7, true, 0));
    assert_eq!((status.uuid.as_str(), status.hash.as_slice(), status.url.as_str()), ("u", &[9; 32][..], "posix:u"));
    assert_eq!(status.handle, Some(pdm::Handle { id: service.handle }));

    service.send(8, pdm::Command::Remove);
    let (_, reply) = tasks.recv_timeout(PATIENCE).unwrap();
    reply.fail(Failure::temporary(28, "archive full"));
    let status = service.agent.status();
    assert_eq!((status.id, status.completed, status.error), (8, true, 28));
    assert_eq!(status.error_text, "archive full");
    service.ask_to_end();
    let (rest, end) = service.ended();
    assert_eq!(rest, []);
    end.unwrap();
}

#[test]
fn an_action_that_makes_no_sense_is_answered_too() {
    let (handler, _tasks) = given();
    let mut service = Service::start(handler);
    service.agent.send(service.handle, ActionItem { id: 1, op: 99, ..ActionItem::default() });
    service.agent.send(service.handle, ActionItem { offset: -5, ..item(2, pdm::Command::Restore) });
    let (first, second) = (service.agent.status(), service.agent.status());
    assert_eq!((first.id, first.error, first.completed), (1, 95, true));
    assert_eq!((second.id, second.error, second.completed), (2, 22, true));
}

#[test]
fn progress_is_limited_and_adds_up() {
    let (handler, tasks) = given();
    let mut service = Service::start(handler);
    service.send(1, pdm::Command::Restore);
    let (_, reply) = tasks.recv_timeout(PATIENCE).unwrap();
    let interval = Duration::from_secs(model::limits::PROGRESS_INTERVAL_S);
    let (begun, mut offset, mut reports) = (Instant::now(), 1000, Vec::new());
    while reports.len() < 2 && begun.elapsed() < PATIENCE {
        reply.progress(Extent { offset, length: 10 });
        offset += 10;
        std::thread::sleep(Duration::from_millis(1));
        while let Some(event) = service.agent.event_before(Instant::now()) {
            reports.extend(if let Event::Status(status) = event { Some(*status) } else { None });
        }
    }
    reply.done(Identity::default());
    while reports.iter().all(|report| !report.completed) {
        reports.push(service.agent.status());
    }
    let intervals = begun.elapsed().as_secs() / interval.as_secs();
    assert_eq!(reports.pop().map(|end| (end.id, end.error)), Some((1, 0)));
    assert!((2..=intervals).contains(&(reports.len() as u64)), "{} reports in {intervals} intervals", reports.len());
    let mut next = 1000;
    for report in reports {
        assert!(report.offset == next && report.length > 0, "from {next}: {report:?}");
        next += report.length;
    }
    assert!(next <= offset.cast_signed(), "{next} of {offset}");
}

#[test]
fn a_running_action_sees_its_cancel_and_its_failure_says_so() {
    let (handler, tasks) = given();
    let mut service = Service::start(handler);
    service.send(1, pdm::Command::Archive);
    service.send(2, pdm::Command::Archive);
    service.send(3, pdm::Command::Archive);
    let replies: Vec<_> = (0..3).map(|_| tasks.recv_timeout(PATIENCE).unwrap().1).collect();
    service.cancel(1);
    service.cancel(2);
    service.cancel(4711);
    wait_until(PATIENCE, "the cancels to arrive", || replies[0].is_cancelled() && replies[1].is_cancelled());
    assert!(!replies[2].is_cancelled());
    let mut replies = replies.into_iter();
    replies.next().unwrap().fail(Failure::temporary(5, "interrupted copy"));
    let status = service.agent.status();
    assert_eq!((status.id, status.error), (1, ECANCELED));
    assert_eq!(status.error_kind, i32::from(pdm::ErrorKind::Permanent));
    // Too late: it is in the archive, and the agent has to know.
    replies.next().unwrap().done(identity("late"));
    let status = service.agent.status();
    assert_eq!((status.id, status.error, status.uuid.as_str()), (2, 0, "late"));
    replies.next().unwrap().done(identity("other"));
    assert_eq!(service.agent.status().id, 3);
}

#[test]
fn a_queued_action_that_is_cancelled_waits_for_no_worker() {
    let (workers, begun, order) = led();
    let mut service = Service::start(workers);
    (1..=4).for_each(|id| service.send(id, pdm::Command::Archive));
    assert_eq!(begun.recv_timeout(PATIENCE), Ok(ActionId(1)));
    service.cancel(3);
    let status = service.agent.status();
    assert_eq!((status.id, status.error), (3, ECANCELED));
    (0..3).for_each(|_| order.send(Order::Finish).unwrap());
    let ids: Vec<_> = (0..3).map(|_| service.agent.status().id).collect();
    assert_eq!(ids, [1, 2, 4]);
}

#[test]
fn restores_are_begun_at_once_then_removals_then_the_rest() {
    let (workers, begun, order) = led();
    let mut service = Service::start(workers);
    service.send(1, pdm::Command::Archive);
    assert_eq!(begun.recv_timeout(PATIENCE), Ok(ActionId(1)));
    service.send(2, pdm::Command::Archive);
    service.send(3, pdm::Command::Remove);
    service.send(4, pdm::Command::Restore);
    assert_eq!(
        begun.recv_timeout(PATIENCE),
        Ok(ActionId(4)),
        "the one worker is busy, and the restore does not wait for it"
    );
    service.wait_until_read();
    (0..4).for_each(|_| order.send(Order::Finish).unwrap());
    let order: Vec<_> = (0..2).map(|_| begun.recv_timeout(PATIENCE).unwrap().0).collect();
    assert_eq!(order, [3, 2]);
}

#[test]
fn a_users_first_restore_waits_for_no_other_users() {
    let (workers, begun, order) = led();
    let mut service = Service::start(workers);
    let restore = |id, owner| ActionItem { owner, reader_waits: true, ..item(id, pdm::Command::Restore) };
    service.send(1, pdm::Command::Archive);
    assert_eq!(begun.recv_timeout(PATIENCE), Ok(ActionId(1)));
    service.agent.send(service.handle, restore(2, 7));
    assert_eq!(begun.recv_timeout(PATIENCE), Ok(ActionId(2)));
    for (id, owner) in [(3, 7), (4, 7), (5, 8)] {
        service.agent.send(service.handle, restore(id, owner));
    }
    service.wait_until_read();
    for next in [3, 5] {
        order.send(Order::Finish).unwrap();
        assert_eq!(begun.recv_timeout(PATIENCE), Ok(ActionId(next)));
    }
    (0..3).for_each(|_| order.send(Order::Finish).unwrap());
    assert_eq!(begun.recv_timeout(PATIENCE), Ok(ActionId(4)));
}

#[test]
fn a_dropped_reply_is_a_permanent_failure() {
    let (handler, tasks) = given();
    let mut service = Service::start(handler);
    service.send(1, pdm::Command::Restore);
    drop(tasks.recv_timeout(PATIENCE).unwrap());
    let status = service.agent.status();
    assert_eq!((status.id, status.completed, status.error), (1, true, 5));
    assert_eq!(status.error_kind, i32::from(pdm::ErrorKind::Permanent));
    assert!(status.error_text.contains("without a result"), "{}", status.error_text);
}

#[test]
fn a_panicking_mover_fails_its_action_and_goes_on() {
    let (workers, _begun, order) = led();
    let mut service = Service::start(workers);
    order.send(Order::Panic).unwrap();
    order.send(Order::Finish).unwrap();
    service.send(1, pdm::Command::Archive);
    service.send(2, pdm::Command::Archive);
    let status = service.agent.status();
    assert_eq!((status.id, status.error), (1, 5));
    assert_eq!(status.error_kind, i32::from(pdm::ErrorKind::Permanent));
    assert!(status.error_text.contains("panicked"), "{}", status.error_text);
    let status = service.agent.status();
    assert_eq!((status.id, status.error), (2, 0));
}

#[test]
fn a_drain_obeys_cancels_and_begins_nothing() {
    let (handler, tasks) = given();
    let (drain, drained) = mpsc::channel();
    let mut service = Service::start(Telling(handler, drain));
    service.send(1, pdm::Command::Archive);
    service.send(2, pdm::Command::Restore);
    let [first, second] = [(); 2].map(|()| tasks.recv_timeout(PATIENCE).unwrap().1);
    service.ask_to_end();
    drained.recv_timeout(PATIENCE).unwrap();
    service.send(3, pdm::Command::Restore);
    service.send(4, pdm::Command::Restore);
    service.cancel(1);
    service.wait_until_read();
    assert!(first.is_cancelled());
    assert!(!second.is_cancelled());
    assert!(tasks.try_recv().is_err(), "an action began while the mover drained");
    service.cancel(4);
    let status = service.agent.status();
    assert_eq!((status.id, status.completed, status.error), (4, true, ECANCELED));
    first.fail(Failure::temporary(5, "interrupted copy"));
    let status = service.agent.status();
    assert_eq!((status.id, status.completed, status.error), (1, true, ECANCELED));
    second.done(Identity::default());
    let (rest, end) = service.ended();
    end.unwrap();
    assert_eq!(rest.iter().map(|s| (s.id, s.completed, s.error)).collect::<Vec<_>>(), [(2, true, 0)]);
}

#[test]
fn a_queued_action_that_was_handed_back_is_reported_only_when_cancelled() {
    let (workers, begun, order) = led();
    let (drain, drained) = mpsc::channel();
    let mut service = Service::start(Telling(workers, drain));
    (1..=3).for_each(|id| service.send(id, pdm::Command::Archive));
    service.wait_until_read();
    assert_eq!(begun.recv_timeout(PATIENCE), Ok(ActionId(1)));
    service.ask_to_end();
    drained.recv_timeout(PATIENCE).unwrap();
    service.cancel(2);
    let status = service.agent.status();
    assert_eq!((status.id, status.completed, status.error), (2, true, ECANCELED));
    order.send(Order::Finish).unwrap();
    let (rest, end) = service.ended();
    end.unwrap();
    assert_eq!(rest.iter().map(|s| (s.id, s.error)).collect::<Vec<_>>(), [(1, 0)]);
}

#[test]
fn an_agent_that_is_gone_during_the_drain_ends_it_at_once() {
    let (handler, tasks) = given();
    let (drain, drained) = mpsc::channel();
    let mut service = Service::start(Telling(handler, drain));
    service.send(1, pdm::Command::Restore);
    let (_, reply) = tasks.recv_timeout(PATIENCE).unwrap();
    service.ask_to_end();
    drained.recv_timeout(PATIENCE).unwrap();
    drop(service.agent);
    let end = service.mover.join().unwrap();
    assert!(matches!(end, Err(PluginError::AgentGone(_))), "{end:?}");
    assert!(reply.is_cancelled());
}

struct PanicsOnce(AtomicBool);

impl Handler for PanicsOnce {
    fn accept(&self, task: Task, reply: Reply) {
        if !self.0.swap(true, Ordering::Relaxed) {
            std::panic::resume_unwind(Box::new("as planned"));
        }
        reply.done(task.identity);
    }
}

#[test]
fn a_handler_that_panics_on_the_receive_path_is_survived() {
    let mut service = Service::start(PanicsOnce(AtomicBool::new(false)));
    service.send(1, pdm::Command::Restore);
    service.send(2, pdm::Command::Restore);
    let (first, second) = (service.agent.status(), service.agent.status());
    assert_eq!((first.id, first.error), (1, 5));
    assert_eq!((second.id, second.error), (2, 0));
}

#[test]
fn an_action_sent_twice_while_it_runs_is_run_and_answered_once() {
    let (handler, tasks) = given();
    let mut service = Service::start(handler);
    service.send(1, pdm::Command::Restore);
    service.send(1, pdm::Command::Restore);
    service.send(2, pdm::Command::Restore);
    let (_, first) = tasks.recv_timeout(PATIENCE).unwrap();
    let (task, second) = tasks.recv_timeout(PATIENCE).unwrap();
    assert_eq!(task.id, ActionId(2));
    first.done(Identity::default());
    second.done(Identity::default());
    service.ask_to_end();
    let (statuses, end) = service.ended();
    end.unwrap();
    assert_eq!(statuses.iter().map(|s| s.id).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn when_the_agent_is_gone_everything_is_cancelled_at_once() {
    let (handler, tasks) = given();
    let service = Service::start(handler);
    service.send(1, pdm::Command::Restore);
    let (_, reply) = tasks.recv_timeout(PATIENCE).unwrap();
    let killed = Instant::now();
    drop(service.agent);
    let end = service.mover.join().unwrap();
    assert!(matches!(end, Err(PluginError::AgentGone(_))), "{end:?}");
    assert!(reply.is_cancelled());
    assert!(killed.elapsed() < PATIENCE, "{:?}", killed.elapsed());
}

#[test]
fn an_agent_that_listens_late_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let address = dir.path().join("agent.sock").to_str().unwrap().to_owned();
    let (handler, _tasks) = given();
    let (_stop, stopped) = tokio::sync::oneshot::channel();
    let mover = serve(environment(&address), vec![archive(1, handler)], stopped);
    std::thread::sleep(Duration::from_millis(200));
    let mut agent = PdmAgent::start(&address);
    agent.registration();
    drop(agent);
    assert!(matches!(mover.join().unwrap(), Err(PluginError::AgentGone(_))));
}

#[test]
fn a_refused_registration_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let address = dir.path().join("agent.sock").to_str().unwrap().to_owned();
    let _agent = PdmAgent::start_refusing(&address, "archive 1 is not configured");
    let (handler, _tasks) = given();
    let (_stop, stopped) = tokio::sync::oneshot::channel();
    let error = serve(environment(&address), vec![archive(1, handler)], stopped).join().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the agent refused archive 1: archive 1 is not configured");
}
