//! What programs print on standard output that is to be understood: an id, a size, a line for each file. In bounded memory.

use super::error::CommandError;
use config::command::Template;
use model::ObjectId;
use std::collections::HashMap;
use transfer::TransferError;

/// What is to be one line.
const ANSWER_LIMIT: usize = 4096;
/// The longest line of a file's result; of a longer one the beginning is taken.
const LINE_LIMIT: usize = 1024;

/// A short answer. Of a long one the rest is not kept, and it is no answer.
#[derive(Default)]
pub(super) struct Answer {
    bytes: Vec<u8>,
    is_long: bool,
}

impl Answer {
    #[expect(clippy::unnecessary_wraps, reason = "it is an `Output`")]
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), TransferError> {
        let room = ANSWER_LIMIT - self.bytes.len();
        self.is_long |= bytes.len() > room;
        self.bytes.extend(bytes.iter().take(room));
        Ok(())
    }

    /// The number that it is.
    pub(super) fn number(&self) -> Option<u64> {
        if self.is_long { None } else { std::str::from_utf8(&self.bytes).ok()?.trim().parse().ok() }
    }

    /// The object's id that it is.
    pub(super) fn id(&self, template: &Template) -> Result<String, CommandError> {
        let text = String::from_utf8_lossy(&self.bytes);
        let text = text.trim();
        let refused = |why: String| CommandError::PrintedId {
            program: template.program().to_owned(),
            text: text.chars().take(100).collect(),
            why,
        };
        if self.is_long || text.contains('\n') {
            return Err(refused("it is more than one line".to_owned()));
        }
        if text.starts_with('-') {
            return Err(refused("it would be taken for an option".to_owned()));
        }
        let id = ObjectId::parse(text).map_err(|error| refused(error.to_string()))?;
        Ok(id.to_string())
    }
}

/// Lines of a name, a tab, and `ok` or what went wrong. Others, and those of names that were not asked for, are passed over.
pub(super) struct Lines {
    told: HashMap<String, Option<Result<(), String>>>,
    line: Vec<u8>,
}

impl Lines {
    pub(super) fn of<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        Self { told: names.map(|name| (name.to_owned(), None)).collect(), line: Vec::new() }
    }

    #[expect(clippy::unnecessary_wraps, reason = "it is an `Output`")]
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), TransferError> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LINE_LIMIT.saturating_sub(self.line.len());
            self.line.extend(piece.iter().take(room));
            if piece.ends_with(b"\n") {
                self.end_line();
            }
        }
        Ok(())
    }

    fn end_line(&mut self) {
        let text = String::from_utf8_lossy(&self.line);
        if let Some((name, result)) = text.trim_end().split_once('\t')
            && let Some(told) = self.told.get_mut(name)
        {
            // Of two lines about one file the worse one counts.
            let is_ok = result == "ok" && !matches!(told, Some(Err(_)));
            *told = Some(if is_ok { Ok(()) } else { Err(result.escape_debug().to_string()) });
        }
        self.line.clear();
    }

    /// After the last byte, what it was for a file.
    pub(super) fn result(&mut self, name: &str) -> Option<Result<(), String>> {
        // A line that was cut off says nothing.
        self.line.clear();
        self.told.get(name).cloned().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_tell_of_those_that_were_asked_for() {
        let mut lines = Lines::of(["a", "b", "c", "d", "e"].into_iter());
        let long = vec![b'x'; 1 << 20];
        for piece in [b"gar\xffbage\na\to".as_slice(), b"k\nb\tno \x1bspace\n", &long, b"\nz\tok\nc\tbad\nc\tok\nd\tok"]
        {
            lines.take(piece).unwrap();
            assert!(lines.line.len() <= LINE_LIMIT);
        }
        assert_eq!(lines.result("a"), Some(Ok(())));
        assert_eq!(lines.result("b"), Some(Err("no \\u{1b}space".to_owned())));
        assert!(lines.result("c").unwrap().is_err());
        assert_eq!((lines.result("d"), lines.result("e"), lines.result("z")), (None, None, None));
    }

    #[test]
    fn an_answer_is_short() {
        let mut answer = Answer::default();
        answer.take(b" 42").unwrap();
        answer.take(b"\n").unwrap();
        assert_eq!(answer.number(), Some(42));
        for _ in 0..100 {
            answer.take(&[b' '; 1000]).unwrap();
        }
        assert_eq!((answer.number(), answer.bytes.len()), (None, ANSWER_LIMIT));
    }
}
