//! What a program says on standard error: its last lines, for people, and whether a line tells what kind of failure it was.
//!
//! Takes any amount of any bytes in bounded memory.

use super::error::Verdict;
use config::command::Failures;
use std::collections::VecDeque;

/// Of a longer line the beginning is looked at.
const LINE_LIMIT: usize = 4096;
/// So many lines are kept, and of each so much.
const LINES: usize = 5;
const SHOWN: usize = 300;

pub(super) struct Complaints<'a> {
    failures: &'a Failures,
    line: Vec<u8>,
    last: VecDeque<String>,
    temporary: bool,
    permanent: bool,
    missing: bool,
}

impl<'a> Complaints<'a> {
    pub(super) fn new(failures: &'a Failures) -> Self {
        Self { failures, line: Vec::new(), last: VecDeque::new(), temporary: false, permanent: false, missing: false }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n' || *byte == b'\r') {
            let room = LINE_LIMIT.saturating_sub(self.line.len());
            self.line.extend(piece.iter().take(room));
            if piece.ends_with(b"\n") || piece.ends_with(b"\r") {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let text = String::from_utf8_lossy(&self.line);
        let says = |texts: &[String]| texts.iter().any(|part| text.contains(part.as_str()));
        self.temporary |= says(&self.failures.temporary_text);
        self.permanent |= says(&self.failures.permanent_text);
        self.missing |= says(&self.failures.missing_text);
        let shown = text.trim();
        if !shown.is_empty() {
            if self.last.len() == LINES {
                self.last.pop_front();
            }
            self.last.push_back(shown.chars().take(SHOWN).collect());
        }
        self.line.clear();
    }

    /// The end: what is to be added to a message, and what an exit code means beside what was said. `None`: no code, but a signal.
    pub(super) fn finish(mut self, code: Option<i32>) -> (String, Verdict) {
        self.end_line();
        let is_one_of = |codes: &[u8]| code.is_some_and(|code| codes.iter().any(|one| i32::from(*one) == code));
        let failures = self.failures;
        let verdict = if self.temporary || is_one_of(&failures.temporary) {
            Verdict::Temporary
        } else if self.missing {
            Verdict::Missing
        } else if self.permanent || is_one_of(&failures.permanent) {
            Verdict::Permanent
        } else if is_one_of(&failures.missing) {
            Verdict::Missing
        } else {
            Verdict::Temporary
        };
        let lines: Vec<String> = self.last.iter().map(|line| line.escape_debug().to_string()).collect();
        let said = if lines.is_empty() { String::new() } else { format!(": {}", lines.join(" / ")) };
        (said, verdict)
    }
}

/// What a text that a program gave as one file's result means.
pub(super) fn judge(failures: &Failures, text: &str) -> Verdict {
    let mut complaints = Complaints::new(failures);
    complaints.push(text.as_bytes());
    complaints.finish(None).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn failures() -> Failures {
        Failures {
            temporary: vec![75],
            permanent: vec![1],
            missing: vec![4],
            temporary_text: vec!["busy".into()],
            permanent_text: vec!["denied".into()],
            missing_text: vec!["no such".into()],
        }
    }

    fn end(said: &[&[u8]], code: Option<i32>) -> (String, Verdict) {
        let failures = failures();
        let mut complaints = Complaints::new(&failures);
        said.iter().for_each(|bytes| complaints.push(bytes));
        complaints.finish(code)
    }

    #[test]
    fn texts_count_more_than_codes_and_what_may_pass_more_than_what_does_not() {
        for (said, code, verdict) in [
            ("", Some(1), Verdict::Permanent),
            ("", Some(4), Verdict::Missing),
            ("", Some(75), Verdict::Temporary),
            ("", Some(2), Verdict::Temporary),
            ("", None, Verdict::Temporary),
            ("file: no such", Some(1), Verdict::Missing),
            ("denied", Some(2), Verdict::Permanent),
            ("no such\ndrive is busy", Some(1), Verdict::Temporary),
            ("no such", Some(75), Verdict::Temporary),
        ] {
            assert_eq!(end(&[said.as_bytes()], code).1, verdict, "{said} {code:?}");
        }
    }

    #[test]
    fn the_last_lines_are_kept_whatever_comes() {
        let (said, verdict) = end(&[b"de", b"nied\n1\n2\n\n3\r", b"4\n\xff\x1b[31m", b"5"], Some(9));
        assert_eq!(said, ": 1 / 2 / 3 / 4 / \u{fffd}\\u{1b}[31m5");
        assert_eq!(verdict, Verdict::Permanent);
        let long = vec![b'x'; 1 << 20];
        let failures = failures();
        let mut complaints = Complaints::new(&failures);
        complaints.push(&long);
        assert_eq!(complaints.line.len(), LINE_LIMIT);
        assert!(complaints.finish(None).0.len() < 2 * SHOWN);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_say_the_same(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..200) {
            let (one, two) = bytes.split_at(at.min(bytes.len()));
            prop_assert_eq!(end(&[&bytes], Some(1)), end(&[one, two], Some(1)));
        }
    }
}
