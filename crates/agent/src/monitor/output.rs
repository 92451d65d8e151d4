//! What plugins print goes to the log, line by line, under the plugin's name.

use std::os::fd::OwnedFd;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

/// Longer lines are logged in pieces.
const LINE_LIMIT_BYTES: usize = 4096;

/// Logs lines until the pipe ends.
pub(super) async fn log_lines(pipe: OwnedFd, plugin: String, stream: &'static str) {
    let mut pipe = match Receiver::from_owned_fd(pipe) {
        Ok(pipe) => pipe,
        Err(error) => return tracing::warn!(plugin, %error, "cannot read the plugin's output"),
    };
    let mut buffer = Vec::with_capacity(2 * LINE_LIMIT_BYTES);
    loop {
        // `buffer` holds less than a line here, so this never grows it.
        let read = pipe.read_buf(&mut buffer).await;
        let ended = !matches!(read, Ok(1..));
        for line in take_lines(&mut buffer, ended) {
            tracing::info!(target: "plugin", name = %plugin, stream, "{line}");
        }
        if ended {
            return;
        }
    }
}

/// Takes the whole lines, pieces of lines that are too long, and at the end whatever is left.
fn take_lines(buffer: &mut Vec<u8>, ended: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = buffer.as_slice();
    loop {
        let within = rest.get(..LINE_LIMIT_BYTES).unwrap_or(rest);
        if let Some(end) = within.iter().position(|byte| *byte == b'\n') {
            lines.push(printable(rest.get(..end).unwrap_or_default()));
            rest = rest.get(end + 1..).unwrap_or_default();
        } else if within.len() == LINE_LIMIT_BYTES || (ended && !within.is_empty()) {
            lines.push(printable(within));
            rest = rest.get(within.len()..).unwrap_or_default();
        } else {
            break;
        }
    }
    let taken = buffer.len() - rest.len();
    buffer.drain(..taken);
    lines
}

/// A plugin may print any bytes; the log gets no control characters from it.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut out = String::with_capacity(text.len());
    for c in text.trim_end_matches('\r').chars() {
        if c.is_control() && c != '\t' { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_and_never_too_long() {
        let mut buffer = b"one\r\ntwo \x1b[31m\n\nthr".to_vec();
        assert_eq!(take_lines(&mut buffer, false), ["one", "two \\u{1b}[31m", ""]);
        assert_eq!(buffer, b"thr");
        buffer.extend(b"ee \xff\xfe");
        assert_eq!(take_lines(&mut buffer, true), ["three \u{fffd}\u{fffd}"]);
        let mut long = vec![b'x'; LINE_LIMIT_BYTES * 2 + 5];
        long.push(b'\n');
        let lines = take_lines(&mut long, false);
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [LINE_LIMIT_BYTES, LINE_LIMIT_BYTES, 5]);
        assert!(long.is_empty());
    }
}
