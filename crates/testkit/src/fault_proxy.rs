//! A proxy between a client and a real server that does to their requests what networks and busy servers do: wrong
//! answers, late ones, half ones, none.
//!
//! It speaks HTTP/1.1 and passes requests on as they are, `Host` included, since signatures cover it. What it does to
//! which request is said by rules ([`When`], [`Fault`]); a request that no rule takes is passed on. All requests are noted, so that a test
//! can say how many there were. A server that refuses the connection, or breaks it, shows as a reset.
//!
//! Clients that take it for their proxy (`HTTP_PROXY`) find the server by it, whatever host they ask for.
//!
//! Not for: answers with a `Location` of the server's own (Google's resumable uploads), which lead past the proxy.

mod fault;
mod freezer;
mod rule;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, InvalidHeaderValue, TRANSFER_ENCODING};
use http::{Method, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_stream::wrappers::ReceiverStream;

pub use fault::{Fault, Reply};
pub use freezer::Freezer;
pub use rule::{Request, When};

/// How long what was said is given to leave before the connection is closed.
const FLUSH_TIME: Duration = Duration::from_millis(50);

/// Why a connection is broken off.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Meant(&'static str),
    #[error("the server cannot be reached")]
    Connect(#[from] io::Error),
    #[error("the client or the server broke off")]
    Http(#[from] hyper::Error),
    #[error("a rule sets a header to what no header can be")]
    Header(#[from] InvalidHeaderValue),
}

type Body = UnsyncBoxBody<Bytes, Failure>;

/// The proxy. Dropping it ends its connections.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// `None` only while being dropped.
    runtime: Option<Runtime>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    seen: Vec<Request>,
    connections: usize,
}

#[derive(Debug)]
struct Rule {
    when: When,
    fault: Fault,
    hits: usize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request, and says what is to happen to it.
    fn fault_for(&self, request: Request) -> Option<Fault> {
        let mut state = self.lock();
        let rule = state.rules.iter_mut().find_map(|rule| rule.when.takes(&request).then_some(rule));
        let fault = rule.map(|rule| {
            rule.hits += 1;
            rule.fault.clone()
        });
        state.seen.push(request);
        fault
    }
}

/// A rule that was added; for asking what it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleId(usize);

impl FaultProxy {
    /// Starts one on a free port of 127.0.0.1, in front of the server at `upstream` (`127.0.0.1:<port>`), without rules.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn start(upstream: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("start a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("listen");
        let address = listener.local_addr().expect("the address of a listener");
        let shared = Arc::new(Shared { upstream: upstream.to_owned(), state: Mutex::default() });
        runtime.spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, runtime: Some(runtime) }
    }

    /// Where it is: `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on `fault` happens to the requests that `when` takes. When several rules take a request, the oldest has it, and
    /// the others do not count it.
    pub fn add(&self, when: When, fault: Fault) -> RuleId {
        let mut state = self.shared.lock();
        state.rules.push(Rule { when, fault, hits: 0 });
        RuleId(state.rules.len() - 1)
    }

    /// To how many requests the rule's fault has happened.
    pub fn hits(&self, rule: RuleId) -> usize {
        self.shared.lock().rules.get(rule.0).map_or(0, |rule| rule.hits)
    }

    /// From now on all rules so far take no request.
    pub fn heal(&self) {
        self.shared.lock().rules.iter_mut().for_each(|rule| rule.when = When::any().times(0));
    }

    /// All requests so far, in the order in which their heads arrived.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().seen.clone()
    }

    /// How many connections were made to it so far.
    pub fn connections(&self) -> usize {
        self.shared.lock().connections
    }

    /// How many of the requests so far meet a condition.
    pub fn count(&self, condition: impl Fn(&Request) -> bool) -> usize {
        self.shared.lock().seen.iter().filter(|request| condition(request)).count()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Not waiting for those who hang.
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, or a connection that was gone at once.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Ok(socket) = rustix::io::fcntl_dupfd_cloexec(&stream, 0) else { continue };
        let _ = stream.set_nodelay(true);
        shared.lock().connections += 1;
        tokio::spawn(serve(stream, Arc::new(socket), Arc::clone(&shared)));
    }
}

/// `socket` is the stream's socket again: what hyper owns cannot be told to be reset.
async fn serve(stream: TcpStream, socket: Arc<OwnedFd>, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let (socket, shared) = (Arc::clone(&socket), Arc::clone(&shared));
        async move {
            match handle(request, &shared).await {
                Ok(response) => Ok(response),
                Err(failure) => {
                    // Closing it, which the error makes hyper do, is then a reset.
                    let _ = rustix::net::sockopt::set_socket_linger(&*socket, Some(Duration::ZERO));
                    Err(failure)
                }
            }
        }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// The answer for the client, or an error that resets its connection.
async fn handle(request: http::Request<Incoming>, shared: &Shared) -> Result<Response<Body>, Failure> {
    let head = request.method() == Method::HEAD;
    let Some(fault) = shared.fault_for(Request::of(&request)) else {
        return Ok(ask(request, shared).await?.map(streamed));
    };
    match fault {
        Fault::Answer(reply) => {
            // Read, so that the client has sent all of it and looks for the answer, as with a server that is only busy.
            request.into_body().collect().await?;
            Ok(reply.into_response().map(whole))
        }
        Fault::ReplaceAnswer(reply) => {
            complete(ask(request, shared).await?).await?;
            Ok(reply.into_response().map(whole))
        }
        Fault::Delay(time) => {
            tokio::time::sleep(time).await;
            Ok(ask(request, shared).await?.map(streamed))
        }
        Fault::DelayAnswer(time) => {
            let answer = complete(ask(request, shared).await?).await?;
            tokio::time::sleep(time).await;
            Ok(answer.map(whole))
        }
        Fault::Hang => std::future::pending().await,
        Fault::ResetBefore => Err(Failure::Meant("reset before the server was asked")),
        Fault::ResetAfter => {
            complete(ask(request, shared).await?).await?;
            Err(Failure::Meant("reset after the server had answered"))
        }
        Fault::SlowBody(bytes, pause) => {
            let answer = complete(ask(request, shared).await?).await?;
            Ok(answer.map(|body| dripping(body, bytes.max(1), pause)))
        }
        Fault::CutBody(length) => {
            let answer = complete(ask(request, shared).await?).await?;
            Ok(answer.map(|body| cut(body, length)))
        }
        Fault::ShortBody(length) => {
            let mut answer = complete(ask(request, shared).await?).await?;
            answer.body_mut().truncate(length);
            let length = answer.body().len();
            // The answer to a HEAD has a length and no body.
            if !head {
                answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            Ok(answer.map(whole))
        }
        Fault::CorruptBody(at) => {
            let answer = complete(ask(request, shared).await?).await?;
            Ok(answer.map(|body| whole(corrupted(&body, at))))
        }
        Fault::SetHeader(name, value) => {
            let mut answer = ask(request, shared).await?;
            answer.headers_mut().insert(HeaderName::from_static(name), value.parse()?);
            Ok(answer.map(streamed))
        }
        Fault::RemoveHeader(name) => {
            let mut answer = ask(request, shared).await?;
            answer.headers_mut().remove(name);
            Ok(answer.map(streamed))
        }
    }
}

/// Passes a request on, on a connection of its own.
async fn ask(mut request: http::Request<Incoming>, shared: &Shared) -> Result<Response<Incoming>, Failure> {
    let stream = TcpStream::connect(&shared.upstream).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    // As whoever takes us for his proxy does not send it.
    if let Some(path) = request.uri().path_and_query().cloned().filter(|_| request.uri().authority().is_some()) {
        *request.uri_mut() = path.into();
    }
    // What is about the client's connection with us.
    request.headers_mut().remove(CONNECTION);
    let mut answer = sender.send_request(request).await?;
    answer.headers_mut().remove(CONNECTION);
    // Ours is framed anew.
    answer.headers_mut().remove(TRANSFER_ENCODING);
    Ok(answer)
}

/// Reads the whole answer.
async fn complete(answer: Response<Incoming>) -> Result<Response<Bytes>, Failure> {
    let (parts, body) = answer.into_parts();
    Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
}

fn streamed(body: Incoming) -> Body {
    body.map_err(Failure::from).boxed_unsync()
}

fn whole(body: Bytes) -> Body {
    Full::new(body).map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn corrupted(body: &Bytes, at: usize) -> Bytes {
    let mut bytes = body.to_vec();
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 0x10;
    }
    Bytes::from(bytes)
}

fn dripping(body: Bytes, bytes: usize, pause: Duration) -> Body {
    made(|sender: Sender| async move {
        for piece in body.chunks(bytes) {
            if sender.send(Ok(Frame::data(body.slice_ref(piece)))).await.is_err() {
                return;
            }
            tokio::time::sleep(pause).await;
        }
    })
}

fn cut(body: Bytes, length: usize) -> Body {
    made(|sender: Sender| async move {
        let _ = sender.send(Ok(Frame::data(body.slice(..length.min(body.len()))))).await;
        // Else the error may overtake the bytes before it in hyper's buffer.
        tokio::time::sleep(FLUSH_TIME).await;
        let _ = sender.send(Err(Failure::Meant("the rest is cut off"))).await;
    })
}

type Sender = tokio::sync::mpsc::Sender<Result<Frame<Bytes>, Failure>>;

/// A body that a task of its own makes.
fn made<F: Future<Output = ()> + Send + 'static>(make: impl FnOnce(Sender) -> F) -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(make(sender));
    StreamBody::new(ReceiverStream::new(receiver)).boxed_unsync()
}
