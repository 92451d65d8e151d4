//! S3's multipart uploads that were neither completed nor aborted: they are in no listing of objects, and are paid for.
//!
//! OpenDAL cannot list them. Two requests, ListMultipartUploads and AbortMultipartUpload, are made here, signed as OpenDAL's are and sent over the same
//! transport. Of the other services Azure forgets uncommitted blocks after a week, Google unfinished uploads likewise; nobody can list either.

use crate::fault::{Fault, shown};
use crate::retry::Retry;
use crate::settings::{S3, S3Credentials};
use http::{Method, Request, StatusCode};
use opendal::{Buffer, Error, ErrorKind, HttpTransporter};
use reqsign_aws_v4::{Credential, DefaultCredentialProvider, RequestSigner, StaticCredentialProvider};
use reqsign_core::{Context, OsEnv, Signer};
use reqsign_file_read_tokio::TokioFileRead;
use serde::Deserialize;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

/// Asks for uploads in one bucket.
pub(crate) struct Uploads {
    /// With the bucket, without a slash at the end.
    base: String,
    /// Of the keys; with a slash at the end, or empty.
    root: String,
    /// `None` for who is nobody.
    signer: Option<Signer<Credential>>,
    transport: HttpTransporter,
    attempts: u32,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Unfinished {
    /// Whole, with the prefix of everything.
    pub(crate) key: String,
    upload_id: String,
    /// When it was begun, as a date of ISO 8601.
    #[serde(default)]
    initiated: String,
}

/// Where the next page of a listing begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Marker {
    key: String,
    upload_id: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Page {
    is_truncated: bool,
    next_key_marker: String,
    next_upload_id_marker: String,
    #[serde(rename = "Upload")]
    uploads: Vec<Unfinished>,
}

impl Uploads {
    pub(crate) fn new(
        (s3, region, virtual_host): (&S3, &str, bool),
        (endpoint, bucket, prefix): (&str, &str, &str),
        transport: HttpTransporter,
        attempts: u32,
    ) -> Self {
        let endpoint = endpoint.trim_end_matches('/');
        let base = match endpoint.split_once("://") {
            Some((scheme, host)) if virtual_host => format!("{scheme}://{bucket}.{host}"),
            _ => format!("{endpoint}/{bucket}"),
        };
        let root = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let context = Context::new().with_file_read(TokioFileRead).with_http_send(transport.clone()).with_env(OsEnv);
        let sign = RequestSigner::new("s3", region);
        let signer = match &s3.credentials {
            S3Credentials::Anonymous => None,
            S3Credentials::Keys { id, secret, token } => {
                let provider = StaticCredentialProvider::new(id, secret.expose());
                let provider = match token {
                    Some(token) => provider.with_session_token(token.expose()),
                    None => provider,
                };
                Some(Signer::new(context, provider, sign))
            }
            S3Credentials::Chain { profile } => {
                let provider = match profile {
                    Some(profile) => DefaultCredentialProvider::builder().with_profile(profile.clone()).build(),
                    None => DefaultCredentialProvider::new(),
                };
                Some(Signer::new(context, provider, sign))
            }
        };
        Self { base, root, signer, transport, attempts }
    }

    /// The prefix of everything, with a slash at its end.
    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    /// Visits uploads whose keys begin with `prefix`, below the prefix of everything, page by page.
    pub(crate) async fn each<F: Future<Output = Result<(), Fault>>>(
        &self,
        prefix: &str,
        mut visit: impl FnMut(Vec<Unfinished>) -> F,
    ) -> Result<(), Fault> {
        let mut marker = Marker::default();
        loop {
            let page = self.page(prefix, &marker).await?;
            let next = Marker { key: page.next_key_marker, upload_id: page.next_upload_id_marker };
            visit(page.uploads).await?;
            if !page.is_truncated {
                return Ok(());
            }
            if next == marker || next.key.is_empty() {
                return Err(Fault::strange("the list of unfinished uploads goes round in circles"));
            }
            marker = next;
        }
    }

    async fn page(&self, prefix: &str, marker: &Marker) -> Result<Page, Fault> {
        let mut query = String::from("uploads=&max-uploads=1000");
        let prefix = format!("{}{prefix}", self.root);
        let parameters =
            [("prefix", prefix.as_str()), ("key-marker", &marker.key), ("upload-id-marker", &marker.upload_id)];
        for (name, value) in parameters.into_iter().filter(|(_, value)| !value.is_empty()) {
            query.push_str(&format!("&{name}={}", encoded(value, false)));
        }
        let answer = self.send(&Method::GET, &format!("{}?{query}", self.base)).await?;
        quick_xml::de::from_reader(answer.to_bytes().as_ref())
            .map_err(|e| Fault::strange(shown(&format!("a list of unfinished uploads makes no sense: {e}"))))
    }

    /// Aborts one. One that is not there any more counts as aborted.
    pub(crate) async fn abort(&self, upload: &Unfinished) -> Result<(), Fault> {
        let (key, id) = (encoded(&upload.key, true), encoded(&upload.upload_id, false));
        match self.send(&Method::DELETE, &format!("{}/{key}?uploadId={id}", self.base)).await {
            Err(fault) if !fault.is_missing() => Err(fault),
            _ => Ok(()),
        }
    }

    async fn send(&self, method: &Method, uri: &str) -> Result<Buffer, Fault> {
        let mut retry = Retry::new(self.attempts);
        loop {
            match self.send_once(method, uri).await {
                Ok(answer) => return Ok(answer),
                Err(error) => retry.after(&error).await?,
            }
        }
    }

    async fn send_once(&self, method: &Method, uri: &str) -> opendal::Result<Buffer> {
        let request = Request::builder().method(method).uri(uri).body(Buffer::new());
        let request = request.map_err(|_| {
            Error::new(ErrorKind::ConfigInvalid, "the request's URL makes no sense: check the endpoint")
        })?;
        let (mut parts, body) = request.into_parts();
        if let Some(signer) = &self.signer {
            let signed = signer.sign(&mut parts, None).await;
            signed.map_err(|e| {
                Error::new(ErrorKind::PermissionDenied, "there are no credentials to sign with")
                    .with_temporary(e.is_retryable())
            })?;
        }
        parts.headers.remove(http::header::HOST);
        let answer = self.transport.send(Request::from_parts(parts, body)).await?;
        let status = answer.status();
        if status.is_success() { Ok(answer.into_body()) } else { Err(refused(status, &answer.into_body().to_bytes())) }
    }
}

impl Unfinished {
    /// Whether it was begun before that. One that does not say is taken for a new one.
    pub(crate) fn is_of_before(&self, time: SystemTime) -> bool {
        let begun = self.initiated.parse::<opendal::raw::Timestamp>().ok().map(SystemTime::from);
        begun.is_some_and(|begun| begun < time)
    }

    /// Whether it was begun so long ago. One that does not say is taken for a new one.
    pub(crate) fn is_older_than(&self, age: Duration) -> bool {
        let begun = self.initiated.parse::<opendal::raw::Timestamp>().ok().map(SystemTime::from);
        // One that was begun in the future is new, whatever the age: clocks differ.
        begun.is_some_and(|begun| SystemTime::now().duration_since(begun).unwrap_or_default() >= age)
    }
}

fn refused(status: StatusCode, body: &[u8]) -> Error {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "PascalCase")]
    struct Said {
        code: String,
        message: String,
    }
    let said: Said = quick_xml::de::from_reader(body).unwrap_or_default();
    let (kind, temporary) = match (status, said.code.as_str()) {
        (_, "NoSuchBucket") => (ErrorKind::ConfigInvalid, false),
        (StatusCode::NOT_FOUND, _) => (ErrorKind::NotFound, false),
        (StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED, _) => (ErrorKind::PermissionDenied, false),
        (StatusCode::NOT_IMPLEMENTED | StatusCode::METHOD_NOT_ALLOWED, _) => (ErrorKind::Unsupported, false),
        (StatusCode::TOO_MANY_REQUESTS, _) | (_, "SlowDown") => (ErrorKind::RateLimited, true),
        (status, _) => (ErrorKind::Unexpected, status.is_server_error()),
    };
    Error::new(kind, format!("{status} {} {}", said.code, said.message)).with_temporary(temporary)
}

/// With everything but letters, digits and `-._~` (and slashes, in a path) as `%XX`: what is signed so is sent so.
pub(crate) fn encoded(text: &str, is_path: bool) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (is_path && byte == b'/') {
            encoded.push(char::from(byte));
        } else {
            // Writing to a text does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_and_garbage_is_an_error() {
        let text = "<?xml version=\"1.0\"?><ListMultipartUploadsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
            <Bucket>b</Bucket><IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker>\
            <NextUploadIdMarker>2~x</NextUploadIdMarker><Upload><Key>a b/c</Key><UploadId>2~y</UploadId>\
            <Initiated>2020-01-02T03:04:05.678Z</Initiated></Upload><Upload><Key>d</Key><UploadId>2~z</UploadId></Upload>\
            </ListMultipartUploadsResult>";
        let page: Page = quick_xml::de::from_str(text).unwrap();
        assert!(page.is_truncated && page.next_key_marker == "k" && page.next_upload_id_marker == "2~x");
        let [old, undated] = page.uploads.as_slice() else { panic!("{page:?}") };
        assert_eq!((old.key.as_str(), old.upload_id.as_str()), ("a b/c", "2~y"));
        assert!(old.is_older_than(Duration::from_secs(3600)) && !undated.is_older_than(Duration::ZERO));
        for garbage in ["", "<", "no xml", "<a><Upload/></a>", "<a><IsTruncated>perhaps</IsTruncated></a>"] {
            assert!(quick_xml::de::from_str::<Page>(garbage).is_err(), "{garbage}");
        }
        let none: Page = quick_xml::de::from_str("<a><IsTruncated>false</IsTruncated></a>").unwrap();
        assert!(none.uploads.is_empty());
    }

    #[test]
    fn what_is_no_plain_letter_is_encoded() {
        assert_eq!(encoded("a b/ü+~", true), "a%20b/%C3%BC%2B~");
        assert_eq!(encoded("a b/&=", false), "a%20b%2F%26%3D");
    }
}
