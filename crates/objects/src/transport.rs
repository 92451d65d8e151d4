//! HTTP under OpenDAL: what makes each request end.
//!
//! - A connection has to be made in time, and neither direction of a request may stand still for longer than the idle timeout; how long a
//!   request takes in all is nobody's business.
//! - A service that says `Retry-After` is left alone for so long, by everybody who uses this bucket.
//! - An answer that is longer than what was asked for is cut off: a service is not trusted with our memory.
//! - Redirects are not followed: what is signed is signed for one host. They show as errors.
//!
//! TLS is rustls with ring; the system's certificates, and those of a file. Proxies are taken from the environment (`HTTPS_PROXY`, `NO_PROXY`).

use crate::settings::{Limits, SettingsError};
use bytes::{Buf as _, Bytes};
use futures_util::StreamExt as _;
use futures_util::stream;
use http::header::{CONTENT_LENGTH, HeaderMap, RANGE, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use opendal::{Buffer, Error, ErrorKind, HttpBody, HttpTransport, Result};
use parking_lot::Mutex;
use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// The longest answer to what is no read of a range: lists, errors, whole small objects.
const MAX_ANSWER_BYTES: u64 = 32 << 20;
/// A body is sent in pieces of at most this: so that it shows when they stop.
const FRAME_BYTES: usize = 128 << 10;
/// No service is left alone for longer than this at a time.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A connection that nobody used for so long is closed.
const POOL_IDLE: Duration = Duration::from_secs(30);

/// A client of one bucket.
pub(crate) struct Transport {
    client: reqwest::Client,
    idle: Duration,
    /// The service asked not to be asked before.
    not_before: Mutex<Option<Instant>>,
}

impl Transport {
    pub(crate) fn new(limits: &Limits, ca_file: Option<&Path>) -> std::result::Result<Self, SettingsError> {
        // Another part of the process may have chosen before: all the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = reqwest::Client::builder()
            .connect_timeout(limits.connect_timeout)
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(limits.requests)
            .tcp_keepalive(POOL_IDLE)
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .http1_only()
            .user_agent(concat!("sifaka/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = ca_file {
            client = client.tls_certs_merge(certificates(path)?);
        }
        let client = client.build().map_err(|e| SettingsError::Refused(format!("TLS cannot be set up: {e}")))?;
        Ok(Self { client, idle: limits.idle_timeout, not_before: Mutex::new(None) })
    }

    async fn pause(&self) {
        let until = *self.not_before.lock();
        if let Some(until) = until {
            sleep_until(until).await;
        }
    }

    /// Notes what the service says about when to come again.
    fn heed(&self, status: StatusCode, headers: &HeaderMap) {
        if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            return;
        }
        // A date may stand there too. Nobody who limits rates sends one.
        let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        if let Some(seconds) = seconds {
            let until = Instant::now() + Duration::from_secs(seconds).min(LONGEST_PAUSE);
            let mut not_before = self.not_before.lock();
            *not_before = Some(not_before.map_or(until, |other| other.max(until)));
        }
    }

    /// Sends the request; ends when the head of the answer is there.
    async fn send(&self, request: reqwest::RequestBuilder, sent: &Progress) -> Result<reqwest::Response> {
        let answer = request.send();
        tokio::pin!(answer);
        loop {
            let quiet_until = sent.last() + self.idle;
            tokio::select! {
                answer = &mut answer => return answer.map_err(|e| failed("the service was not reached", e)),
                () = sleep_until(quiet_until) => {
                    if sent.last() + self.idle <= Instant::now() {
                        return Err(silent(self.idle));
                    }
                }
            }
        }
    }
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> Result<Response<HttpBody>> {
        self.pause().await;
        let (parts, body) = request.into_parts();
        let uri = parts.uri.to_string();
        let url = reqwest::Url::parse(&uri).map_err(|_| {
            Error::new(ErrorKind::ConfigInvalid, "the request's URL makes no sense: check the endpoint")
        })?;
        let is_head = parts.method == Method::HEAD;
        let most = range_length(&parts.headers).unwrap_or(MAX_ANSWER_BYTES).max(MAX_ANSWER_BYTES);
        let sent = Progress::start();
        let mut request = self.client.request(parts.method, url).headers(parts.headers);
        if !body.is_empty() {
            request = request.body(reqwest::Body::wrap(Upload { body, sent: sent.clone() }));
        }
        let mut answer = self.send(request, &sent).await?;
        self.heed(answer.status(), answer.headers());
        let length = if is_head { None } else { content_length(answer.headers()) };
        if length.is_some_and(|length| length > most) {
            return Err(too_long(most));
        }
        // Services' errors name the request's URL by it, and it stands in no message of ours.
        let mut response = Response::new(());
        *response.status_mut() = answer.status();
        *response.version_mut() = answer.version();
        std::mem::swap(response.headers_mut(), answer.headers_mut());
        Ok(response.map(|()| HttpBody::new(Box::pin(pieces(answer, self.idle, most)), length)))
    }
}

/// The body of an answer, piece by piece.
fn pieces(
    answer: reqwest::Response,
    idle: Duration,
    most: u64,
) -> impl stream::Stream<Item = Result<Buffer>> + Send + Sync + 'static {
    let body = Box::pin(answer.bytes_stream());
    stream::unfold((body, 0u64, false), move |(mut body, came, ended)| async move {
        if ended {
            return None;
        }
        let (piece, came) = match timeout(idle, body.next()).await {
            Err(_) => (Err(silent(idle)), came),
            Ok(None) => return None,
            Ok(Some(Err(e))) => (Err(failed("the answer broke off", e)), came),
            Ok(Some(Ok(bytes))) => {
                let came = came.saturating_add(bytes.len() as u64);
                (if came > most { Err(too_long(most)) } else { Ok(Buffer::from(bytes)) }, came)
            }
        };
        let ended = piece.is_err();
        Some((piece, (body, came, ended)))
    })
}

/// When a request's body moved last.
#[derive(Clone)]
struct Progress(Arc<Mutex<Instant>>);

impl Progress {
    fn start() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn note(&self) {
        *self.0.lock() = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock()
    }
}

/// A request's body, which notes that it moves.
struct Upload {
    body: Buffer,
    sent: Progress,
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        self.sent.note();
        let count = self.body.chunk().len().min(FRAME_BYTES);
        if count == 0 {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::data(self.body.copy_to_bytes(count)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.body.len() as u64)
    }
}

fn certificates(path: &Path) -> std::result::Result<Vec<reqwest::Certificate>, SettingsError> {
    let bad = |why: String| SettingsError::Certificates { path: path.to_owned(), why };
    let pem = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
    let found = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| bad(e.to_string()))?;
    if found.is_empty() { Err(bad("there are none in it".to_owned())) } else { Ok(found) }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// How many bytes are asked for by `bytes=<first>-<last>`.
fn range_length(headers: &HeaderMap) -> Option<u64> {
    let (first, last) = headers.get(RANGE)?.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    last.checked_sub(first)?.checked_add(1)
}

/// Whatever happens to a connection may be otherwise on the next one. The URL is left out: Azure has signatures in it.
fn failed(what: &str, error: reqwest::Error) -> Error {
    let error = error.without_url();
    let mut why = format!("{what}: {error}");
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        why = format!("{why}: {error}");
        source = error.source();
    }
    Error::new(ErrorKind::Unexpected, why).with_temporary(!error.is_builder())
}

fn silent(idle: Duration) -> Error {
    let why = format!("nothing moved for {} s", idle.as_secs_f64());
    Error::new(ErrorKind::Unexpected, why).set_temporary()
}

fn too_long(most: u64) -> Error {
    Error::new(ErrorKind::Unexpected, format!("the answer is longer than the {most} bytes that it may have"))
}
