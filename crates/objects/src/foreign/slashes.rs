//! Keys that begin or end in a slash, kept apart from others in what a listing tells.
//!
//! OpenDAL takes a slash off the beginning of a key, so that `/x` looks like `x`, and takes what ends in one for a directory without a size. Both
//! would name the wrong object, or lose one. So where a service's answer has such a key, a mark is put before or behind it, which [`Marks::take_off`]
//! takes off again.

use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_LENGTH;
use http::{Request, Response};
use opendal::{Buffer, HttpBody, HttpTransport, HttpTransporter, Result};
use uuid::Uuid;

/// What is put beside slashes in one listing.
#[derive(Debug, Clone)]
pub(super) struct Marks(String);

impl Marks {
    /// One that no key has.
    pub(super) fn new() -> Self {
        Self(format!("sifaka-{}", Uuid::new_v4().simple()))
    }

    /// The key as it is.
    pub(super) fn take_off(&self, key: &str) -> String {
        let key = key.strip_prefix(&self.0).unwrap_or(key);
        key.strip_suffix(&self.0).unwrap_or(key).to_owned()
    }

    /// A transport for listings that marks what comes by way of this one.
    pub(super) fn over(self, transport: HttpTransporter) -> HttpTransporter {
        HttpTransporter::new(Marking { marks: self, transport })
    }

    fn put(&self, answer: &[u8]) -> Option<Vec<u8>> {
        if answer.trim_ascii_start().starts_with(b"{") { self.put_json(answer) } else { self.put_xml(answer) }
    }

    /// In XML neither can be anything but the beginning and the end of a key: in a text, `<` is written otherwise.
    fn put_xml(&self, answer: &[u8]) -> Option<Vec<u8>> {
        let mut out = None;
        for tag in ["Key", "Name"] {
            let (open, close) = (format!("<{tag}>/"), format!("/</{tag}>"));
            let marked = (format!("<{tag}>{}/", self.0), format!("/{}</{tag}>", self.0));
            for (pattern, by) in [(open, marked.0), (close, marked.1)] {
                let replaced = replace(out.as_deref().unwrap_or(answer), pattern.as_bytes(), by.as_bytes());
                out = replaced.or(out);
            }
        }
        out
    }

    /// Whatever is called `name`: what that is besides a key is not looked at.
    fn put_json(&self, answer: &[u8]) -> Option<Vec<u8>> {
        const NAME: &[u8] = b"\"name\"";
        let mut out = Vec::new();
        let mut taken = 0;
        let mut at = 0;
        while let Some(found) = find(answer.get(at..)?, NAME) {
            at += found + NAME.len();
            let rest = answer.get(at..)?;
            let gap = rest.iter().take_while(|byte| byte.is_ascii_whitespace() || **byte == b':').count();
            let Some((b'"', value)) = rest.get(gap..).and_then(<[u8]>::split_first) else { continue };
            let begin = at + gap + 1;
            let end = begin + length_of(value)?;
            let text = answer.get(begin..end)?;
            at = end;
            let first = text.starts_with(b"/") || text.starts_with(b"\\/");
            if first {
                out.extend_from_slice(answer.get(taken..begin)?);
                out.extend_from_slice(self.0.as_bytes());
                taken = begin;
            }
            if text.ends_with(b"/") {
                out.extend_from_slice(answer.get(taken..end)?);
                out.extend_from_slice(self.0.as_bytes());
                taken = end;
            }
        }
        out.extend_from_slice(answer.get(taken..)?);
        (taken > 0).then_some(out)
    }
}

/// Of a text in JSON, up to the quotation mark that ends it.
fn length_of(text: &[u8]) -> Option<usize> {
    let mut is_escaped = false;
    text.iter().position(|byte| {
        let ends = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        ends
    })
}

fn find(within: &[u8], pattern: &[u8]) -> Option<usize> {
    within.windows(pattern.len()).position(|window| window == pattern)
}

fn replace(within: &[u8], pattern: &[u8], by: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = within;
    while let Some(found) = find(rest, pattern) {
        let (before, after) = rest.split_at_checked(found)?;
        out.extend_from_slice(before);
        out.extend_from_slice(by);
        rest = after.get(pattern.len()..)?;
    }
    if rest.len() == within.len() {
        return None;
    }
    out.extend_from_slice(rest);
    Some(out)
}

struct Marking {
    marks: Marks,
    transport: HttpTransporter,
}

/// Whether it asks for a list of objects: of S3, of Azure, of Google.
fn is_listing(request: &Request<Buffer>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    let has = |name: &str| query.split('&').any(|parameter| parameter == name);
    has("list-type=2") || has("comp=list") || request.uri().path().ends_with("/o")
}

impl HttpTransport for Marking {
    async fn fetch(&self, request: Request<Buffer>) -> Result<Response<HttpBody>> {
        let is_listing = is_listing(&request);
        let response = self.transport.fetch(request).await?;
        if !is_listing || !response.status().is_success() {
            return Ok(response);
        }
        let (mut parts, mut body) = response.into_parts();
        let answer = body.to_buffer().await?.to_bytes();
        let answer = self.marks.put(&answer).map_or(answer, Bytes::from);
        parts.headers.remove(CONTENT_LENGTH);
        let length = answer.len() as u64;
        let body = HttpBody::new(stream::iter([Ok(Buffer::from(answer))]), Some(length));
        Ok(Response::from_parts(parts, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(answer: &str) -> String {
        let marks = Marks("M".to_owned());
        marks.put(answer.as_bytes()).map_or(answer.to_owned(), |out| String::from_utf8(out).unwrap())
    }

    #[test]
    fn keys_with_slashes_at_their_ends_are_marked_and_others_are_not() {
        for (answer, expected) in [
            ("<Key>a/b</Key>", "<Key>a/b</Key>"),
            ("<Key>/a</Key><Key>b/</Key><Key>/</Key>", "<Key>M/a</Key><Key>b/M</Key><Key>M/M</Key>"),
            ("<Name>/x/</Name><Prefix>/</Prefix>", "<Name>M/x/M</Name><Prefix>/</Prefix>"),
            (r#"{"name":"a/b","x":"/"}"#, r#"{"name":"a/b","x":"/"}"#),
            (r#"{"name": "/a", "name":"b/"}"#, r#"{"name": "M/a", "name":"b/M"}"#),
            (r#" {"name":"\/a\"/"}"#, r#" {"name":"M\/a\"/M"}"#),
            (r#"{"name":7,"name"#, r#"{"name":7,"name"#),
        ] {
            assert_eq!(marked(answer), expected);
        }
    }

    #[test]
    fn marks_come_off_again() {
        let marks = Marks::new();
        for key in ["a", "/a", "a/", "/a/", "/"] {
            let answer = format!("<Key>{key}</Key>");
            let put = marks.put(answer.as_bytes()).map_or(answer, |out| String::from_utf8(out).unwrap());
            let shown = put.trim_start_matches("<Key>").trim_end_matches("</Key>");
            assert_eq!(marks.take_off(shown), key);
            assert!(!shown.starts_with('/') && !shown.ends_with('/'), "{shown}");
        }
    }
}
