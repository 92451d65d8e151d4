//! Requests that OpenDAL cannot make, signed as its own are and sent over the same transport.
//!
//! For: what is asked of one service alone, such as lists of unfinished uploads and thaws. Not for content.

use crate::fault::{Fault, Said};
use crate::retry::Retry;
use crate::settings::{Azure, AzureCredentials, Encryption, S3, S3Credentials, SseKey};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use md5::{Digest as _, Md5};
use opendal::{Buffer, Error, ErrorKind, HttpTransporter};
use reqsign_aws_v4 as aws;
use reqsign_azure_storage as azure;
use reqsign_core::{Context, OsEnv, ProvideCredentialChain, Signer};
use reqsign_file_read_tokio::TokioFileRead;
use serde::Deserialize;
use std::fmt::Write as _;

/// The version of Azure's protocol, the one that OpenDAL speaks.
const AZURE_VERSION: &str = "2022-11-02";
/// S3's code for a fast thaw that it has no machines for at the moment.
pub(crate) const NO_CAPACITY: &str = "GlacierExpeditedRetrievalNotAvailable";

/// Asks one bucket.
pub(crate) struct Signed {
    /// With the bucket, without a slash at the end.
    base: String,
    who: Who,
    transport: HttpTransporter,
    attempts: u32,
}

enum Who {
    Aws {
        /// `None` for who is nobody.
        signer: Option<Signer<aws::Credential>>,
        /// What tells the key of the customer that objects are encrypted with, without which a HEAD is refused.
        customer: Vec<(HeaderName, HeaderValue)>,
    },
    Azure(Signer<azure::Credential>),
}

/// One request, but for the host and the bucket.
#[derive(Debug, Default)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    /// Encoded, with its slash; empty for the bucket itself.
    pub(crate) path: String,
    /// Encoded; may be empty.
    pub(crate) query: String,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: String,
}

impl Signed {
    pub(crate) fn s3(
        (s3, region, virtual_host): (&S3, &str, bool),
        (endpoint, bucket): (&str, &str),
        transport: HttpTransporter,
        attempts: u32,
    ) -> Self {
        let endpoint = endpoint.trim_end_matches('/');
        let base = match endpoint.split_once("://") {
            Some((scheme, host)) if virtual_host => format!("{scheme}://{bucket}.{host}"),
            _ => format!("{endpoint}/{bucket}"),
        };
        let context = Context::new().with_file_read(TokioFileRead).with_http_send(transport.clone()).with_env(OsEnv);
        let sign = aws::RequestSigner::new("s3", region);
        let signer = match &s3.credentials {
            S3Credentials::Anonymous => None,
            S3Credentials::Keys { id, secret, token } => {
                let provider = aws::StaticCredentialProvider::new(id, secret.expose());
                let provider = match token {
                    Some(token) => provider.with_session_token(token.expose()),
                    None => provider,
                };
                Some(Signer::new(context, provider, sign))
            }
            S3Credentials::Chain { profile } => {
                let provider = match profile {
                    Some(profile) => aws::DefaultCredentialProvider::builder().with_profile(profile.clone()).build(),
                    None => aws::DefaultCredentialProvider::new(),
                };
                Some(Signer::new(context, provider, sign))
            }
        };
        let customer = match &s3.encryption {
            Some(Encryption::Customer(key)) => customer_headers(key),
            _ => Vec::new(),
        };
        Self { base, who: Who::Aws { signer, customer }, transport, attempts }
    }

    pub(crate) fn azure(
        account: &Azure,
        (endpoint, container): (&str, &str),
        transport: HttpTransporter,
        attempts: u32,
    ) -> Self {
        let context = Context::new().with_file_read(TokioFileRead).with_http_send(transport.clone()).with_env(OsEnv);
        let chain = ProvideCredentialChain::new();
        let provider = match &account.credentials {
            AzureCredentials::Chain => chain.push(azure::DefaultCredentialProvider::new()),
            AzureCredentials::Key(key) => {
                chain.push(azure::StaticCredentialProvider::new_shared_key(&account.account, key.expose()))
            }
            AzureCredentials::Sas(token) => {
                let token = token.expose().trim_start_matches('?');
                chain.push(azure::StaticCredentialProvider::new_sas_token(token))
            }
        };
        let base = format!("{}/{container}", endpoint.trim_end_matches('/'));
        let signer = Signer::new(context, provider, azure::RequestSigner::new());
        Self { base, who: Who::Azure(signer), transport, attempts }
    }

    pub(crate) fn is_azure(&self) -> bool {
        matches!(self.who, Who::Azure(_))
    }

    /// What a HEAD of an object has to say besides.
    pub(crate) fn to_look(&self) -> Vec<(HeaderName, HeaderValue)> {
        if let Who::Aws { customer, .. } = &self.who { customer.clone() } else { Vec::new() }
    }

    /// Sends it, again and again if it fails for now. Any answer but a success is a fault, which knows the service's code for it.
    pub(crate) async fn send(&self, ask: &Ask) -> Result<Response<Buffer>, Fault> {
        let mut retry = Retry::new(self.attempts);
        loop {
            match self.send_once(ask).await {
                Ok(answer) => return Ok(answer),
                Err(error) => retry.after(&error).await?,
            }
        }
    }

    async fn send_once(&self, ask: &Ask) -> opendal::Result<Response<Buffer>> {
        let Ask { method, path, query, headers, body } = ask;
        let mark = if query.is_empty() { "" } else { "?" };
        let request = Request::builder().method(method).uri(format!("{}{path}{mark}{query}", self.base));
        let request = request.body(Buffer::from(body.clone())).map_err(|_| {
            Error::new(ErrorKind::ConfigInvalid, "the request's URL makes no sense: check the endpoint")
        })?;
        let (mut parts, body) = request.into_parts();
        parts.headers.extend(headers.iter().cloned());
        if !matches!(*method, Method::GET | Method::HEAD) {
            parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        let signed = match &self.who {
            Who::Aws { signer: None, .. } => Ok(()),
            Who::Aws { signer: Some(signer), .. } => signer.sign(&mut parts, None).await,
            Who::Azure(signer) => {
                parts.headers.insert(HeaderName::from_static("x-ms-version"), HeaderValue::from_static(AZURE_VERSION));
                signer.sign(&mut parts, None).await
            }
        };
        signed.map_err(|e| {
            Error::new(ErrorKind::PermissionDenied, "there are no credentials to sign with")
                .with_temporary(e.is_retryable())
        })?;
        parts.headers.remove(http::header::HOST);
        let answer = self.transport.send(Request::from_parts(parts, body)).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let (parts, body) = answer.into_parts();
        Err(refused(parts.status, &parts.headers, &body.to_bytes()))
    }
}

fn customer_headers(key: &SseKey) -> Vec<(HeaderName, HeaderValue)> {
    const BASE: &str = "x-amz-server-side-encryption-customer";
    let md5 = Md5::digest(key.0);
    let told = [
        ("algorithm", "AES256".to_owned()),
        ("key", BASE64_STANDARD.encode(key.0)),
        ("key-md5", BASE64_STANDARD.encode(md5)),
    ];
    let header = |(name, value): (&str, String)| {
        let mut value = HeaderValue::try_from(value).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::try_from(format!("{BASE}-{name}")).ok()?, value))
    };
    told.into_iter().filter_map(header).collect()
}

fn refused(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Error {
    let Refusal { code, message } = Refusal::of(headers, body);
    let (kind, temporary) = match (status, code.as_str()) {
        (_, "NoSuchBucket" | "ContainerNotFound") => (ErrorKind::ConfigInvalid, false),
        (StatusCode::NOT_FOUND, _) => (ErrorKind::NotFound, false),
        (StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED, _) => (ErrorKind::PermissionDenied, false),
        (StatusCode::NOT_IMPLEMENTED | StatusCode::METHOD_NOT_ALLOWED, _) => (ErrorKind::Unsupported, false),
        (StatusCode::TOO_MANY_REQUESTS, _) | (_, "SlowDown") => (ErrorKind::RateLimited, true),
        // To ask again within seconds helps nobody.
        (_, NO_CAPACITY) => (ErrorKind::RateLimited, false),
        (status, _) => (ErrorKind::Unexpected, status.is_server_error()),
    };
    Error::new(kind, format!("{status} {code} {message}")).with_temporary(temporary).set_source(Said { code })
}

/// What a service says with an error. Azure says it in the head, too, which is all there is of the answer to a HEAD.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct Refusal {
    pub(crate) code: String,
    message: String,
}

impl Refusal {
    pub(crate) fn of(headers: &HeaderMap, body: &[u8]) -> Self {
        let said: Self = quick_xml::de::from_reader(body).unwrap_or_default();
        match headers.get("x-ms-error-code").and_then(|code| code.to_str().ok()) {
            Some(code) => Self { code: code.to_owned(), ..said },
            None => said,
        }
    }
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
    fn what_is_no_plain_letter_is_encoded() {
        assert_eq!(encoded("a b/ü+~", true), "a%20b/%C3%BC%2B~");
        assert_eq!(encoded("a b/&=", false), "a%20b%2F%26%3D");
    }

    #[test]
    fn a_refusal_is_known_by_its_code_wherever_that_stands() {
        let fault = |status: u16, headers: &HeaderMap, body: &str| {
            Fault::new(&refused(StatusCode::from_u16(status).unwrap(), headers, body.as_bytes()))
        };
        let s3 = "<Error><Code>RestoreAlreadyInProgress</Code><Message>words</Message></Error>";
        assert_eq!(fault(409, &HeaderMap::new(), s3).code(), "RestoreAlreadyInProgress");
        let azure =
            HeaderMap::from_iter([("x-ms-error-code".parse().unwrap(), "BlobBeingRehydrated".parse().unwrap())]);
        assert_eq!(fault(409, &azure, "").code(), "BlobBeingRehydrated");
        assert!(fault(404, &HeaderMap::new(), "garbage").is_missing());
    }
}
