//! Requests with `curl`: what another program sees in a store.

use std::path::Path;
use std::process::Command;

use crate::tool;

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Itself, when the status is one of success.
    ///
    /// # Panics
    /// When it is not, with what the server said.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!((200..300).contains(&self.status), "status {}: {}", self.status, self.text());
        self
    }

    fn parse(mut bytes: &[u8]) -> Option<Self> {
        loop {
            let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            bytes = &bytes[end + 4..];
            let mut lines = head.split("\r\n");
            let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
            // Before an interim answer's end there is another one.
            if status >= 200 {
                let pairs = lines.filter_map(|line| line.split_once(':'));
                let headers = pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
                return Some(Self { status, headers, body: bytes.to_vec() });
            }
        }
    }
}

/// Asks with `curl` and further arguments; `body` is sent when there is one, by way of a file in `dir`. When there is no
/// complete answer, the error is curl's exit code.
///
/// # Panics
/// When curl is not installed.
#[track_caller]
pub(crate) fn try_curl(
    dir: &Path,
    method: &str,
    url: &str,
    body: Option<&[u8]>,
    args: &[String],
) -> Result<Answer, i32> {
    let mut command = Command::new("curl");
    command.args(["-sS", "-i", "--http1.1", "--path-as-is", "--globoff", "--max-time", "60", "--noproxy", "*"]);
    command.args(args);
    let mut file = tempfile::NamedTempFile::new_in(dir).expect("make a temporary file");
    match (method, body) {
        // Told by -X alone, curl would wait for a body.
        ("HEAD", _) => command.arg("--head"),
        (_, None) => command.args(["-X", method]),
        (_, Some(body)) => {
            std::io::Write::write_all(&mut file, body).expect("write a temporary file");
            let mut data = std::ffi::OsString::from("@");
            data.push(file.path());
            command.args(["-X", method, "-H", "Content-Type: application/octet-stream", "--data-binary"]).arg(data)
        }
    };
    let output = tool::output("curl", command.arg(url));
    match output.status.code() {
        Some(0) => Ok(Answer::parse(&output.stdout)
            .unwrap_or_else(|| panic!("no answer to {method} {url}: {}", String::from_utf8_lossy(&output.stdout)))),
        code => Err(code.unwrap_or(-1)),
    }
}

/// As [`try_curl`], when there has to be an answer.
///
/// # Panics
/// When there is none.
#[track_caller]
pub(crate) fn curl(dir: &Path, method: &str, url: &str, body: Option<&[u8]>, args: &[String]) -> Answer {
    try_curl(dir, method, url, body, args).unwrap_or_else(|code| panic!("curl: exit code {code}: {method} {url}"))
}

/// The texts of all `<tag>`s in a document of XML, in order.
pub(crate) fn texts_of(xml: &str, tag: &str) -> Vec<String> {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    let parts = xml.split(open.as_str()).skip(1).filter_map(|part| part.split(close.as_str()).next());
    parts.map(unescape).collect()
}

fn unescape(text: &str) -> String {
    [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&#39;", "'"), ("&amp;", "&")]
        .iter()
        .fold(text.to_owned(), |text, (entity, character)| text.replace(entity, character))
}

/// `text` with all but the letters, digits, and `-._~` as `%XX`: what may stand in a path or a query, and is signed
/// without being changed.
pub fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
