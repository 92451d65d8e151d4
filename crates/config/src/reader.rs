//! A typed reader over a [`crate::tree`]: asks for keys, collects every problem, and knows which keys nobody
//! asked for.
//!
//! A [`Reader`] stands for one file and gathers what is wrong with it; a [`Section`] is one block of it. Asking
//! for a key makes it known. [`Section::finish`] then reports each key that is not, with the nearest one that is.
//! Sections that are absent are read too (every optional key of them is `None`), so that [`Reader::known_keys`]
//! is complete whatever the file held. What a key means is decided by the caller, which adds problems of its own
//! with [`Reader::problem`].

use crate::error::{ConfigError, Problem, Warning};
use crate::tree::{Entry, Node, Pos, Value};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// A value and where it stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At<T> {
    /// Where the value began.
    pub pos: Pos,
    /// The value.
    pub value: T,
}

/// One file being read. Sections share it by reference and report into it.
#[derive(Debug)]
pub struct Reader {
    file: String,
    log: RefCell<Log>,
}

#[derive(Debug, Default)]
struct Log {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    /// Every key asked for, as `section.key`.
    known: BTreeSet<String>,
    /// Those of them that the file holds.
    given: BTreeSet<String>,
}

impl Reader {
    /// A reader of the file called `file` in messages.
    pub fn new(file: impl Into<String>) -> Self {
        Self { file: file.into(), log: RefCell::default() }
    }

    /// The section that is the whole file. A root that is not a block is a problem and reads as an empty one.
    pub fn root<'r>(&'r self, root: &'r Node) -> Section<'r> {
        let entries = match &root.value {
            Value::Block(entries) => entries.as_slice(),
            other => {
                self.problem(root.pos, format!("expected a block, found {}", other.kind()), None);
                &[]
            }
        };
        Section::new(self, String::new(), String::new(), root.pos, Some(entries))
    }

    /// Adds something wrong.
    pub fn problem(&self, pos: Pos, what: impl Into<String>, hint: Option<&str>) {
        let problem = Problem { pos: Some(pos), what: what.into(), hint: hint.map(Into::into) };
        self.log.borrow_mut().problems.push(problem);
    }

    /// Adds something that has no effect.
    pub fn warning(&self, pos: Pos, what: impl Into<String>, hint: Option<&str>) {
        let problem = Problem { pos: Some(pos), what: what.into(), hint: hint.map(Into::into) };
        self.log.borrow_mut().warnings.push(problem);
    }

    /// Every key that was asked for so far, as `key` or `section.key`.
    pub fn known_keys(&self) -> BTreeSet<String> {
        self.log.borrow().known.clone()
    }

    /// Every known key the file holds, as `key` or `section.key`.
    pub fn given_keys(&self) -> BTreeSet<String> {
        self.log.borrow().given.clone()
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// Every problem, in the order of the file.
    pub fn finish(self) -> Result<Vec<Warning>, ConfigError> {
        let Log { mut problems, mut warnings, .. } = self.log.into_inner();
        problems.sort_by_key(|problem| problem.pos);
        warnings.sort_by_key(|problem| problem.pos);
        if problems.is_empty() {
            let file = self.file;
            Ok(warnings.into_iter().map(|problem| Warning { file: file.clone(), problem }).collect())
        } else {
            Err(ConfigError { file: self.file, problems, source: None })
        }
    }
}

/// One block of a file. Getters return `None` both for an absent key and for a wrong value, having reported the
/// latter; a file with problems never becomes a configuration, so callers need not tell the two apart.
#[derive(Debug)]
#[must_use = "unknown keys are only reported by `finish`"]
pub struct Section<'r> {
    reader: &'r Reader,
    /// The keys that lead here, joined by dots; empty for the file itself.
    path: String,
    /// How messages name this section, with its label; empty for the file itself.
    title: String,
    pos: Pos,
    present: bool,
    entries: &'r [Entry],
    known: BTreeSet<&'static str>,
}

impl<'r> Section<'r> {
    fn new(reader: &'r Reader, path: String, title: String, pos: Pos, entries: Option<&'r [Entry]>) -> Self {
        let present = entries.is_some();
        Self { reader, path, title, pos, present, entries: entries.unwrap_or_default(), known: BTreeSet::new() }
    }

    /// Whether the file holds this section.
    pub fn is_present(&self) -> bool {
        self.present
    }

    /// Where the section began; the file's beginning when it is absent.
    pub fn pos(&self) -> Pos {
        self.pos
    }

    /// The reader this section reports to.
    pub fn reader(&self) -> &'r Reader {
        self.reader
    }

    /// Marks `key` as known and returns its entries.
    fn ask(&mut self, key: &'static str) -> impl Iterator<Item = &'r Entry> + use<'r> {
        self.known.insert(key);
        let path = self.path_of(key);
        let entries = self.entries;
        let mut log = self.reader.log.borrow_mut();
        if entries.iter().any(|entry| entry.key == key) {
            log.given.insert(path.clone());
        }
        log.known.insert(path);
        entries.iter().filter(move |entry| entry.key == key)
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The one value of `key`.
    fn single(&mut self, key: &'static str) -> Option<&'r Node> {
        let mut found: Option<&Entry> = None;
        for entry in self.ask(key) {
            match found {
                None => found = Some(entry),
                Some(first) => self.reader.problem(
                    entry.key_pos,
                    format!("`{key}` is given twice; the first is on line {}", first.key_pos.line),
                    None,
                ),
            }
            if !entry.labels.is_empty() {
                self.reader.problem(entry.key_pos, format!("`{key}` takes no label"), None);
            }
        }
        found.map(|entry| &entry.node)
    }

    fn wrong_type(&self, node: &Node, key: &str, expected: &str) {
        self.reader.problem(node.pos, format!("`{key}` must be {expected}, found {}", node.value.kind()), None);
    }

    /// " in `section`", for messages; nothing for the file itself.
    fn place(&self) -> String {
        if self.title.is_empty() { String::new() } else { format!(" in {}", self.title) }
    }

    /// A string.
    pub fn optional_string(&mut self, key: &'static str) -> Option<At<String>> {
        let node = self.single(key)?;
        match &node.value {
            Value::String(text) => Some(At { pos: node.pos, value: text.clone() }),
            _ => {
                self.wrong_type(node, key, "a string");
                None
            }
        }
    }

    /// A string that must be there when the section is. `hint` says what to write.
    pub fn required_string(&mut self, key: &'static str, hint: &str) -> Option<At<String>> {
        self.report_if_missing(key, hint);
        self.optional_string(key)
    }

    fn report_if_missing(&mut self, key: &'static str, hint: &str) {
        let absent = self.ask(key).next().is_none();
        if absent && self.present {
            self.reader.problem(self.pos, format!("`{key}` is missing{}", self.place()), Some(hint));
        }
    }

    /// `true` or `false`.
    pub fn optional_bool(&mut self, key: &'static str) -> Option<At<bool>> {
        let node = self.single(key)?;
        match node.value {
            Value::Bool(value) => Some(At { pos: node.pos, value }),
            _ => {
                self.wrong_type(node, key, "true or false");
                None
            }
        }
    }

    /// An integer within `range`. One in quotes is taken, with a warning.
    pub fn optional_u64(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<At<u64>> {
        let node = self.single(key)?;
        let number = match &node.value {
            Value::Integer(number) => *number,
            // HCL 1 took a number in quotes, so files written for Lemur may hold one.
            Value::String(text) if let Ok(number) = text.parse::<i64>() => {
                self.reader.warning(
                    node.pos,
                    format!("`{}` is a number in quotes", self.path_of(key)),
                    Some("remove them"),
                );
                number
            }
            _ => {
                self.wrong_type(node, key, "an integer");
                return None;
            }
        };
        match u64::try_from(number).ok().filter(|value| range.contains(value)) {
            Some(value) => Some(At { pos: node.pos, value }),
            None => {
                let (low, high) = (range.start(), range.end());
                let what = format!("`{key}` must be between {low} and {high}, found {number}");
                self.reader.problem(node.pos, what, None);
                None
            }
        }
    }

    /// An integer within `range` that must be there when the section is.
    pub fn required_u64(&mut self, key: &'static str, range: RangeInclusive<u64>, hint: &str) -> Option<At<u64>> {
        self.report_if_missing(key, hint);
        self.optional_u64(key, range)
    }

    /// A number of bytes within `range`: an integer, or a string with a unit such as `"64KiB"` or `"16MB"`.
    pub fn optional_bytes(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<At<u64>> {
        let expected = "a number of bytes, or a string such as \"64KiB\" or \"16MB\"";
        self.measure(key, &range, expected, crate::bytes::parse_size)
    }

    /// Bytes a second within `range`: an integer, or a string with a unit such as `"200MB/s"` or `"1GiB/s"`.
    pub fn optional_rate(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<At<u64>> {
        let expected = "bytes a second, as a number or a string such as \"200MB/s\" or \"1GiB/s\"";
        self.measure(key, &range, expected, crate::bytes::parse_rate)
    }

    fn measure(
        &mut self,
        key: &'static str,
        range: &RangeInclusive<u64>,
        expected: &str,
        parse: fn(&str) -> Option<u64>,
    ) -> Option<At<u64>> {
        let node = self.single(key)?;
        let (found, value) = match &node.value {
            Value::Integer(number) => (number.to_string(), u64::try_from(*number).ok()),
            Value::String(text) => {
                let value = parse(text);
                if value.is_none() {
                    let what = format!("`{key}` must be {expected}, found \"{}\"", text.escape_debug());
                    self.reader.problem(node.pos, what, None);
                    return None;
                }
                (format!("\"{}\"", text.escape_debug()), value)
            }
            _ => {
                self.wrong_type(node, key, expected);
                return None;
            }
        };
        match value.filter(|value| range.contains(value)) {
            Some(value) => Some(At { pos: node.pos, value }),
            None => {
                let (low, high) = (crate::bytes::show(*range.start()), crate::bytes::show(*range.end()));
                let what = format!("`{key}` must be between {low} and {high} bytes, found {found}");
                self.reader.problem(node.pos, what, None);
                None
            }
        }
    }

    /// A string that is one of the names in `choices`, as the value beside that name.
    pub fn optional_choice<T: Clone>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<At<T>> {
        let At { pos, value: text } = self.optional_string(key)?;
        match choices.iter().find(|(name, _)| *name == text) {
            Some((_, value)) => Some(At { pos, value: value.clone() }),
            None => {
                let names: Vec<_> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
                let what = format!("`{key}` must be {}, found \"{}\"", one_of(&names), text.escape_debug());
                self.reader.problem(pos, what, None);
                None
            }
        }
    }

    /// An absolute path, without its trailing slashes.
    pub fn optional_path(&mut self, key: &'static str) -> Option<At<PathBuf>> {
        let At { pos, value: text } = self.optional_string(key)?;
        match absolute_path(&text) {
            Ok(value) => Some(At { pos, value }),
            Err(why) => {
                let what = format!("`{key}` must be an absolute path, found \"{}\"{why}", text.escape_debug());
                self.reader.problem(pos, what, None);
                None
            }
        }
    }

    /// An absolute path, or a list of such, which must be there when the section is; none twice, and at least one.
    pub fn required_paths(&mut self, key: &'static str, hint: &str) -> Option<Vec<At<PathBuf>>> {
        self.report_if_missing(key, hint);
        let node = self.single(key)?;
        let items = match &node.value {
            Value::String(_) => std::slice::from_ref(node),
            Value::List(items) => items.as_slice(),
            _ => {
                self.wrong_type(node, key, "an absolute path, or a list of such");
                return None;
            }
        };
        if items.is_empty() {
            self.reader.problem(node.pos, format!("`{key}` is empty"), Some(hint));
        }
        let mut paths: Vec<At<PathBuf>> = Vec::with_capacity(items.len());
        for item in items {
            let Value::String(text) = &item.value else {
                self.wrong_type(item, key, "an absolute path, or a list of such");
                continue;
            };
            match absolute_path(text) {
                Ok(value) if paths.iter().any(|have| have.value == value) => {
                    let what = format!("`{key}` names \"{}\" twice", value.to_string_lossy().escape_debug());
                    self.reader.problem(item.pos, what, None);
                }
                Ok(value) => paths.push(At { pos: item.pos, value }),
                Err(why) => {
                    let what = format!("`{key}` must be an absolute path, found \"{}\"{why}", text.escape_debug());
                    self.reader.problem(item.pos, what, None);
                }
            }
        }
        Some(paths).filter(|paths| !paths.is_empty())
    }

    /// A list of strings.
    pub fn string_list(&mut self, key: &'static str) -> Option<At<Vec<At<String>>>> {
        let node = self.single(key)?;
        let Value::List(items) = &node.value else {
            self.wrong_type(node, key, "a list of strings");
            return None;
        };
        let mut strings = Vec::with_capacity(items.len());
        for item in items {
            match &item.value {
                Value::String(text) => strings.push(At { pos: item.pos, value: text.clone() }),
                _ => self.wrong_type(item, key, "a list of strings"),
            }
        }
        Some(At { pos: node.pos, value: strings })
    }

    /// A list of integers within `range`, each once, at most `most` of them.
    pub fn number_list(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        most: usize,
    ) -> Option<At<Vec<At<u64>>>> {
        let node = self.single(key)?;
        let Value::List(items) = &node.value else {
            self.wrong_type(node, key, "a list of integers");
            return None;
        };
        if let Some(beyond) = items.get(most) {
            self.reader.problem(beyond.pos, format!("`{key}` has at most {most} entries, found {}", items.len()), None);
        }
        let (low, high) = (range.start(), range.end());
        let mut numbers: Vec<At<u64>> = Vec::with_capacity(items.len().min(most));
        for item in items.iter().take(most) {
            let Value::Integer(number) = item.value else {
                self.wrong_type(item, key, "a list of integers");
                continue;
            };
            match u64::try_from(number).ok().filter(|value| range.contains(value)) {
                Some(value) if numbers.iter().any(|have| have.value == value) => {
                    self.reader.problem(item.pos, format!("`{key}` names {value} twice"), None);
                }
                Some(value) => numbers.push(At { pos: item.pos, value }),
                None => {
                    let what = format!("entries of `{key}` must be between {low} and {high}, found {number}");
                    self.reader.problem(item.pos, what, None);
                }
            }
        }
        Some(At { pos: node.pos, value: numbers })
    }

    /// A list of strings that must be there when the section is.
    pub fn required_string_list(&mut self, key: &'static str, hint: &str) -> Option<At<Vec<At<String>>>> {
        self.report_if_missing(key, hint);
        self.string_list(key)
    }

    /// The block `key { NAME = "text" … }`, whose names are not ours: each once, in the order of the file. Nothing when it is absent.
    pub fn string_map(&mut self, key: &'static str) -> Vec<(At<String>, String)> {
        let Some(node) = self.single(key) else { return Vec::new() };
        let Some((_, entries)) = sole_block(node) else {
            self.wrong_type(node, key, "one block");
            return Vec::new();
        };
        let mut strings: Vec<(At<String>, String)> = Vec::new();
        for entry in entries {
            let name = entry.key.escape_debug();
            match &entry.node.value {
                _ if strings.iter().any(|(have, _)| have.value == entry.key) => {
                    self.reader.problem(entry.key_pos, format!("`{name}` is given twice in `{key}`"), None);
                }
                Value::String(text) if entry.labels.is_empty() => {
                    strings.push((At { pos: entry.key_pos, value: entry.key.clone() }, text.clone()));
                }
                other => {
                    let what = format!("`{name}` in `{key}` must be a string, found {}", other.kind());
                    self.reader.problem(entry.node.pos, what, None);
                }
            }
        }
        strings
    }

    /// A key of an older program that is accepted, whatever its value, and warned about.
    pub fn ignored(&mut self, key: &'static str, hint: &str) {
        let first = self.ask(key).next();
        if let Some(entry) = first {
            self.reader.warning(entry.key_pos, format!("`{}` has no effect", self.path_of(key)), Some(hint));
        }
    }

    /// The block `key { … }`, in JSON also `[{ … }]`. An absent block is a section that is not present.
    pub fn section(&mut self, key: &'static str) -> Section<'r> {
        let found = self.single(key).and_then(|node| match sole_block(node) {
            None => {
                self.wrong_type(node, key, "one block");
                None
            }
            found => found,
        });
        let (pos, entries) = match found {
            Some((pos, entries)) => (pos, Some(entries)),
            None => (Pos::START, None),
        };
        let path = self.path_of(key);
        let title = format!("`{path}`");
        Section::new(self.reader, path, title, pos, entries)
    }

    /// The blocks `key "label" { … }`, in the order of the file. JSON, and HCL with `=`, write a label as one more
    /// level: `"key": {"label": { … }}`, or a list of such objects.
    pub fn labelled_sections(&mut self, key: &'static str) -> Vec<(At<String>, Section<'r>)> {
        let mut found: Vec<(At<String>, &'r Node)> = Vec::new();
        for entry in self.ask(key) {
            let objects = match (&entry.node.value, entry.labels.as_slice()) {
                (_, [label]) => {
                    found.push((At { pos: entry.key_pos, value: label.clone() }, &entry.node));
                    continue;
                }
                (Value::List(items), []) => items.as_slice(),
                (_, []) => std::slice::from_ref(&entry.node),
                (_, labels) => {
                    let what = format!("`{key}` takes one label, found {}", labels.len());
                    self.reader.problem(entry.key_pos, what, None);
                    continue;
                }
            };
            for object in objects {
                match &object.value {
                    Value::Block(entries) if is_unnamed(entries) => {
                        let hint = format!("write {key} \"name\" {{ … }}");
                        self.reader.problem(object.pos, format!("this `{key}` has no name"), Some(&hint));
                    }
                    Value::Block(entries) => {
                        let labelled = |e: &'r Entry| (At { pos: e.key_pos, value: e.key.clone() }, &e.node);
                        found.extend(entries.iter().map(labelled));
                    }
                    _ => self.wrong_type(object, key, "blocks with a name each"),
                }
            }
        }
        self.open_labelled(key, found)
    }

    /// As [`Section::labelled_sections`], and at least one of them.
    pub fn required_labelled_sections(&mut self, key: &'static str, hint: &str) -> Vec<(At<String>, Section<'r>)> {
        let before = self.reader.log.borrow().problems.len();
        let sections = self.labelled_sections(key);
        let refused = self.reader.log.borrow().problems.len() > before;
        if sections.is_empty() && !refused {
            self.reader.problem(self.pos, format!("no `{key}` is defined{}", self.place()), Some(hint));
        }
        sections
    }

    fn open_labelled(&self, key: &str, found: Vec<(At<String>, &'r Node)>) -> Vec<(At<String>, Section<'r>)> {
        let mut first_line: BTreeMap<String, usize> = BTreeMap::new();
        let mut sections = Vec::with_capacity(found.len());
        for (label, node) in found {
            let title = format!("`{key} \"{}\"`", label.value.escape_debug());
            let Value::Block(entries) = &node.value else {
                let hint = format!("write {key} \"name\" {{ … }}");
                let what = format!("{title} must be a block, found {}", node.value.kind());
                self.reader.problem(label.pos, what, Some(&hint));
                continue;
            };
            if let Some(line) = first_line.get(&label.value) {
                let what = format!("{title} is given twice; the first is on line {line}");
                self.reader.problem(label.pos, what, None);
                continue;
            }
            first_line.insert(label.value.clone(), label.pos.line);
            let section = Section::new(self.reader, self.path_of(key), title, node.pos, Some(entries));
            sections.push((label, section));
        }
        sections
    }

    /// Reports every key of this section that was not asked for.
    pub fn finish(self) {
        for entry in self.entries.iter().filter(|entry| !self.known.contains(entry.key.as_str())) {
            let hint = nearest(&entry.key, &self.known).map(|known| format!("did you mean `{known}`?"));
            let what = format!("unknown key `{}`{}", entry.key.escape_debug(), self.place());
            self.reader.problem(entry.key_pos, what, hint.as_deref());
        }
    }
}

/// The block that `node` is, or that is the only item of the list `node` is.
fn sole_block(node: &Node) -> Option<(Pos, &[Entry])> {
    match &node.value {
        Value::Block(entries) => Some((node.pos, entries)),
        Value::List(items) => match items.as_slice() {
            [Node { pos, value: Value::Block(entries) }] => Some((*pos, entries)),
            _ => None,
        },
        _ => None,
    }
}

/// Whether a block that should hold one block a name holds settings instead: its name was forgotten.
fn is_unnamed(entries: &[Entry]) -> bool {
    !entries.is_empty() && !entries.iter().any(|entry| matches!(entry.node.value, Value::Block(_)))
}

/// `"a"`, `"a" or "b"`, `"a", "b" or "c"`.
fn one_of(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

/// The path, or what to add to the message that refuses it.
fn absolute_path(text: &str) -> Result<PathBuf, &'static str> {
    if text.contains('\0') {
        return Err(", which holds a NUL");
    }
    let path = PathBuf::from(text);
    if !path.is_absolute() {
        return Err("");
    }
    if path.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(", which holds `..`");
    }
    // Collecting the components drops `.`, doubled and trailing slashes, so that equal places compare equal.
    Ok(path.components().collect())
}

/// The known key that `key` is most likely a misspelling of: at most a third of its letters differ.
fn nearest<'k>(key: &str, known: &BTreeSet<&'k str>) -> Option<&'k str> {
    let key = key.to_lowercase();
    known
        .iter()
        .map(|candidate| (strsim::osa_distance(&key, candidate), *candidate))
        .filter(|(distance, candidate)| distance * 3 <= candidate.chars().count().max(3))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests;
