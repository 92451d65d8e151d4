//! HTTP under OpenDAL: what makes each request end.
//!
//! - A connection has to be made in time, and neither direction of a request may stand still for longer than the idle timeout; how long a
//!   request takes in all is nobody's business.
//! - A service that says `Retry-After` is left alone for so long, by everybody who uses this bucket.
//! - An answer that is longer than what was asked for is cut off: a service is not trusted with our memory.
//! - Only so many requests are under way at the same time, and part of the places is for those that read: who waits for a file does not wait
//!   for everything that is being stored. A place is taken for the request itself, with its answer; not while somebody waits to send it again.
//! - Answers that say that it may be otherwise next time, and that OpenDAL takes for final ones, are temporary errors: credentials that have
//!   just expired, content that was damaged on its way.
//! - What is stored compressed comes as it is stored: Google would decompress it for who does not say that he can.
//! - Redirects are not followed: what is signed is signed for one host. They show as errors.
//!
//! TLS is rustls with ring; the system's certificates, and those of a file. Proxies are taken from the environment (`HTTPS_PROXY`, `NO_PROXY`).

use crate::fault::{CODES_OF_COLD, HEAD_REFUSED, Said};
use crate::settings::{Limits, SettingsError};
use crate::signed::Refusal;
use bytes::{Buf as _, Bytes};
use futures_util::StreamExt as _;
use futures_util::stream;
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue, RANGE, RETRY_AFTER};
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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};

/// The longest answer to what is no read of a range: lists, errors, whole small objects.
const MAX_ANSWER_BYTES: u64 = 32 << 20;
/// A body is sent in pieces of at most this: so that it shows when they stop.
const FRAME_BYTES: usize = 128 << 10;
/// No service is left alone for longer than this at a time.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// One of so many places is for requests that read.
const READERS_SHARE: usize = 8;
/// To make an object of its parts takes a service longer than anything else, and it says nothing meanwhile: so many times longer.
const COMPLETION_PATIENCE: u32 = 3;
/// An error that is longer is not looked into.
const MAX_ERROR_BYTES: u64 = 64 << 10;
/// S3's and Azure's codes of errors that may be gone with the next try, which OpenDAL does not know as such.
const PASSING: [&str; 8] = [
    "BadDigest",
    "ExpiredToken",
    "IncompleteBody",
    "Md5Mismatch",
    "RequestTimeTooSkewed",
    "TokenRefreshRequired",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
];
/// A connection that nobody used for so long is closed.
const POOL_IDLE: Duration = Duration::from_secs(30);

/// A client of one bucket.
pub(crate) struct Transport {
    client: reqwest::Client,
    idle: Duration,
    places: Places,
    /// When the service last did what it was asked for.
    served: Progress,
    /// The service asked not to be asked before.
    not_before: Mutex<Option<Instant>>,
}

impl Transport {
    /// `served` is told of every success.
    pub(crate) fn new(
        limits: &Limits,
        ca_file: Option<&Path>,
        served: Progress,
    ) -> std::result::Result<Self, SettingsError> {
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
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .http1_only()
            .user_agent(concat!("sifaka/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = ca_file {
            client = client.tls_certs_merge(certificates(path)?);
        }
        let client = client.build().map_err(|e| SettingsError::Refused(format!("TLS cannot be set up: {e}")))?;
        let places = Places::new(limits.requests);
        Ok(Self { client, idle: limits.idle_timeout, places, served, not_before: Mutex::new(None) })
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
    async fn send(
        &self,
        request: reqwest::RequestBuilder,
        sent: &Progress,
        idle: Duration,
    ) -> Result<reqwest::Response> {
        let answer = request.send();
        tokio::pin!(answer);
        loop {
            let quiet_until = sent.last() + idle;
            tokio::select! {
                answer = &mut answer => return answer.map_err(|e| failed("the service was not reached", e)),
                () = sleep_until(quiet_until) => {
                    if sent.last() + idle <= Instant::now() {
                        return Err(silent(idle));
                    }
                }
            }
        }
    }
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> Result<Response<HttpBody>> {
        let place = self.places.take(request.method()).await;
        self.pause().await;
        let (mut parts, body) = request.into_parts();
        if is_read_of_google(&parts) {
            parts.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let idle = if is_completion(&parts) { self.idle * COMPLETION_PATIENCE } else { self.idle };
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
        let mut answer = self.send(request, &sent, idle).await?;
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
        let status = response.status();
        if status.is_success() {
            self.served.note();
        }
        let mut body = HttpBody::new(Box::pin(pieces(answer, idle, most, place)), length);
        if is_head && status == StatusCode::BAD_REQUEST {
            // No reason comes with it, and nothing of it can be wrong by itself: so they refuse credentials that expired, and what is encrypted with
            // somebody else's key.
            let error = Error::new(ErrorKind::Unexpected, status.to_string()).set_temporary();
            return Err(error.set_source(Said { code: HEAD_REFUSED.to_owned() }));
        }
        if status.is_client_error() && !is_head && length.is_none_or(|length| length <= MAX_ERROR_BYTES) {
            let text = body.to_buffer().await?;
            if let Some(error) = known(status, response.headers(), &text.to_bytes()) {
                return Err(error);
            }
            body = HttpBody::new(stream::iter([Ok(text)]), length);
        }
        Ok(response.map(|()| body))
    }
}

/// The body of an answer, piece by piece.
fn pieces(
    answer: reqwest::Response,
    idle: Duration,
    most: u64,
    place: Place,
) -> impl stream::Stream<Item = Result<Buffer>> + Send + Sync + 'static {
    let body = Box::pin(answer.bytes_stream());
    stream::unfold((body, 0u64, false, place), move |(mut body, came, ended, place)| async move {
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
        Some((piece, (body, came, ended, place)))
    })
}

/// How many requests may be under way.
struct Places {
    all: Arc<Semaphore>,
    /// Fewer: those that read never wait for all others.
    writing: Arc<Semaphore>,
}

/// A request's place among the others.
struct Place {
    _any: Option<OwnedSemaphorePermit>,
    _writing: Option<OwnedSemaphorePermit>,
}

impl Places {
    fn new(requests: usize) -> Self {
        let reading = requests.div_ceil(READERS_SHARE);
        let writing = requests.saturating_sub(reading).max(1);
        Self { all: Arc::new(Semaphore::new(requests)), writing: Arc::new(Semaphore::new(writing)) }
    }

    async fn take(&self, method: &Method) -> Place {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        // They are never closed.
        let writing = if reads { None } else { self.writing.clone().acquire_owned().await.ok() };
        Place { _any: self.all.clone().acquire_owned().await.ok(), _writing: writing }
    }
}

/// Whether it makes an object of its parts.
fn is_completion(request: &http::request::Parts) -> bool {
    let has = |parameter: &str| {
        request.uri.query().is_some_and(|query| {
            query
                .split('&')
                .any(|pair| pair == parameter || pair.split_once('=').is_some_and(|(key, _)| key == parameter))
        })
    };
    match request.method {
        Method::POST => has("uploadId"),
        Method::PUT => has("comp=blocklist"),
        _ => false,
    }
}

/// Whether it asks Google for an object's content. Its other answers need not be compressed.
fn is_read_of_google(request: &http::request::Parts) -> bool {
    let query = request.uri.query().unwrap_or_default();
    request.method == Method::GET && query.split('&').any(|pair| pair == "alt=media")
}

/// The error for a refusal that may be none the next time, when this is one; or that of an object in a cold storage class. OpenDAL tells neither.
fn known(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Option<Error> {
    let Refusal { code, .. } = Refusal::of(headers, body);
    if CODES_OF_COLD.contains(&code.as_str()) {
        let error = Error::new(ErrorKind::PermissionDenied, "the object has to be thawed first");
        return Some(error.set_source(Said { code }));
    }
    // Credentials are read again for each request: the next one may have newer ones. What took too long may be faster.
    let by_status = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::REQUEST_TIMEOUT);
    let is_passing = by_status || PASSING.contains(&code.as_str());
    is_passing.then(|| Error::new(ErrorKind::Unexpected, format!("{status} {code}")).set_temporary())
}

/// When something moved last.
#[derive(Clone)]
pub(crate) struct Progress(Arc<Mutex<Instant>>);

impl Progress {
    pub(crate) fn start() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn note(&self) {
        *self.0.lock() = Instant::now();
    }

    pub(crate) fn last(&self) -> Instant {
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

/// Of a kind of its own: whoever asked may ask for less at a time.
fn too_long(most: u64) -> Error {
    Error::new(ErrorKind::RangeNotSatisfied, format!("the answer is longer than the {most} bytes that it may have"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[test]
    fn readers_have_places_when_writers_have_taken_theirs() {
        for requests in [2, 8, 64] {
            let places = Places::new(requests);
            let take = |method: &Method| places.take(method).now_or_never();
            let mut writers: Vec<Place> = std::iter::from_fn(|| take(&Method::PUT)).collect();
            let readers: Vec<Place> = std::iter::from_fn(|| take(&Method::GET)).collect();
            assert_eq!(writers.len() + readers.len(), requests);
            assert_eq!(readers.len(), requests.div_ceil(8));
            writers.pop();
            assert!(take(&Method::HEAD).is_some());
            assert!(take(&Method::DELETE).is_some());
        }
        assert!(Places::new(1).take(&Method::POST).now_or_never().is_some());
    }

    #[test]
    fn what_may_be_otherwise_next_time_is_known_by_its_code() {
        let said = |status: u16, code: &str| {
            let body = format!("<Error><Code>{code}</Code><Message>words</Message></Error>");
            known(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes())
        };
        for code in PASSING {
            assert!(said(400, code).is_some_and(|error| error.is_temporary()), "{code}");
        }
        assert!(said(401, "").is_some() && said(408, "x").is_some());
        assert!(said(403, "AccessDenied").is_none() && said(404, "NoSuchKey").is_none());
        assert!(known(StatusCode::BAD_REQUEST, &HeaderMap::new(), b"ExpiredToken").is_none());
        let cold = said(403, "InvalidObjectState").map(|error| crate::fault::Fault::new(&error));
        assert!(cold.is_some_and(|fault| fault.is_cold() && !fault.is_missing()));
        let azure = HeaderMap::from_iter([("x-ms-error-code".parse().unwrap(), "Md5Mismatch".parse().unwrap())]);
        assert!(known(StatusCode::BAD_REQUEST, &azure, b"").is_some());
    }

    #[test]
    fn only_completions_are_waited_for_longer() {
        let completes = |method: Method, uri: &str| {
            is_completion(&Request::builder().method(method).uri(uri).body(()).unwrap().into_parts().0)
        };
        assert!(completes(Method::POST, "http://h/b/k?uploadId=x"));
        assert!(completes(Method::PUT, "http://h/b/k?comp=blocklist"));
        for (method, uri) in [
            (Method::PUT, "http://h/b/k?partNumber=1&uploadId=x"),
            (Method::POST, "http://h/b/k?uploads"),
            (Method::PUT, "http://h/b/k?comp=block&blockid=x"),
            (Method::DELETE, "http://h/b/k?uploadId=x"),
        ] {
            assert!(!completes(method, uri), "{uri}");
        }
    }
}
