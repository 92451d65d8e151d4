//! What can go wrong between a client and a server.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};

/// What happens to a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The server is not asked; the client gets this answer.
    Answer(Reply),
    /// The server is asked and does what it does; the client gets this answer instead of the server's.
    ReplaceAnswer(Reply),
    /// The server is asked after this time.
    Delay(Duration),
    /// The server is asked; the client gets the answer after this time.
    DelayAnswer(Duration),
    /// Nobody is asked, and no answer comes as long as the client waits.
    Hang,
    /// The connection is reset when the head of the request has arrived. The server is not asked.
    ResetBefore,
    /// The server is asked and has answered; the connection is reset, and the answer lost.
    ResetAfter,
    /// The body of the answer comes in pieces of this many bytes, with a pause after each.
    SlowBody(usize, Duration),
    /// The connection ends after this many bytes of the answer's body, which its head had said to be longer.
    CutBody(usize),
    /// The answer's body is only this long, and its head says so: nothing of HTTP tells that the rest is missing.
    ShortBody(usize),
    /// One bit of the answer's body is wrong, in the byte of this number.
    CorruptBody(usize),
    /// The answer has another value of a header.
    SetHeader(&'static str, String),
    /// The answer lacks a header.
    RemoveHeader(&'static str),
}

impl Fault {
    /// An answer without a body; the server is not asked.
    pub fn status(code: u16) -> Self {
        Self::Answer(Reply::status(code))
    }

    /// 503 with `Retry-After`, in whole seconds; the server is not asked.
    pub fn busy(retry_after: Duration) -> Self {
        Self::Answer(Reply::status(503).header("retry-after", &retry_after.as_secs().to_string()))
    }
}

/// An answer that the proxy makes up.
#[derive(Debug, Clone)]
pub struct Reply {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Reply {
    /// Of this status, without a body.
    ///
    /// # Panics
    /// When there is no such status.
    #[track_caller]
    pub fn status(code: u16) -> Self {
        let status = StatusCode::from_u16(code).expect("a status of HTTP");
        Self { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// With one more header.
    ///
    /// # Panics
    /// When it cannot be one.
    #[track_caller]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((HeaderName::from_static(name), value.parse().expect("the value of a header")));
        self
    }

    /// With this body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Bytes::from(body.into());
        self
    }

    pub(crate) fn into_response(self) -> Response<Bytes> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers);
        response
    }
}
