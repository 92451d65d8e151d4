//! Command lines with holes: a list of words, each of text and placeholders.
//!
//! Words stay words, whatever is put into the holes: there is no shell. What is known before anything runs is refused here:
//! unknown placeholders, those that an action has no value for, and data where a program would take it for an option or a command.

use crate::reader::{At, Reader};
use crate::tree::Pos;

/// What a hole is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Placeholder {
    /// `{file}`: the file to read (archive), or to write in the staging directory (restore).
    File,
    /// `{id}`: the object's id.
    Id,
    /// `{fan}`: the first four characters of the id (in a batch, of its name), to spread objects over directories.
    Fan,
    /// `{archive}`: the archive's number.
    Archive,
    /// `{size}`: the file's size in bytes.
    Size,
    /// `{path}`: the file's path in its filesystem, relative to its root; may hold any bytes.
    Path,
    /// `{list}`: a file with one member's name a line.
    List,
    /// `{list_paths}`: a file with the absolute path of one member a line.
    ListPaths,
    /// `{dir}`: the directory that the members of a batch are in, or are to be put into.
    Dir,
    /// `{batch}`: the batch's name; objects archived with it have ids `<batch>.<member>`.
    Batch,
    /// `{member}`: the id without the batch's name.
    Member,
}

impl Placeholder {
    const ALL: [(&'static str, Self); 11] = [
        ("file", Self::File),
        ("id", Self::Id),
        ("fan", Self::Fan),
        ("archive", Self::Archive),
        ("size", Self::Size),
        ("path", Self::Path),
        ("list", Self::List),
        ("list_paths", Self::ListPaths),
        ("dir", Self::Dir),
        ("batch", Self::Batch),
        ("member", Self::Member),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, placeholder)| *placeholder == self).map_or("", |(name, _)| name)
    }
}

/// A piece of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// As it stands.
    Text(String),
    /// To be filled.
    Hole(Placeholder),
}

/// One word of a command line.
pub type Word = Vec<Part>;

/// A command line with holes. The first word is the program and has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// At least one.
    pub words: Vec<Word>,
}

impl Template {
    /// Whether a hole is filled with it.
    #[must_use]
    pub fn has(&self, placeholder: Placeholder) -> bool {
        self.words.iter().flatten().any(|part| *part == Part::Hole(placeholder))
    }

    /// Whether one command does many files.
    #[must_use]
    pub fn is_batch(&self) -> bool {
        self.has(Placeholder::List) || self.has(Placeholder::ListPaths)
    }

    /// The program, as it is looked for.
    #[must_use]
    pub fn program(&self) -> &str {
        match self.words.first().map(Vec::as_slice) {
            Some([Part::Text(program)]) => program,
            _ => "",
        }
    }
}

/// For which action a template is, and so what there is to put into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Archive,
    Restore,
    Remove,
    Stat,
}

impl Use {
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Restore => "restore",
            Self::Remove => "remove",
            Self::Stat => "stat",
        }
    }

    fn allows(self, placeholder: Placeholder, is_batch: bool) -> bool {
        match placeholder {
            Placeholder::Archive | Placeholder::Fan | Placeholder::Batch => true,
            Placeholder::List | Placeholder::ListPaths => self != Self::Stat,
            Placeholder::Id => !is_batch,
            Placeholder::Member => !is_batch && self != Self::Archive,
            Placeholder::File | Placeholder::Size => !is_batch && matches!(self, Self::Archive | Self::Restore),
            Placeholder::Path => !is_batch && self == Self::Archive,
            Placeholder::Dir => (is_batch && self != Self::Stat) || self == Self::Restore,
        }
    }
}

/// Reads the words of a command, with `root` in place of `{root}`. `None` when something is wrong with it, which is told.
pub(super) fn read(words: &At<Vec<At<String>>>, usage: Use, root: Option<&str>, reader: &Reader) -> Option<Template> {
    let key = usage.key();
    let Some(program) = words.value.first() else {
        reader.problem(words.pos, format!("`{key}` is an empty list"), Some("write the program and its arguments"));
        return None;
    };
    let mut fine = true;
    let mut wrong = |pos: Pos, what: String, hint: &str| {
        reader.problem(pos, what, Some(hint));
        fine = false;
    };
    let mut parsed = Vec::with_capacity(words.value.len());
    for word in &words.value {
        match parse(&word.value, root) {
            Ok(parts) => parsed.push(parts),
            Err((what, hint)) => wrong(word.pos, format!("`{key}`: {what}"), &hint),
        }
    }
    let template = Template { words: parsed };
    if template.words.len() == words.value.len() {
        if template.program().is_empty() {
            let what = format!("`{key}` begins with \"{}\", which is no program's name", program.value.escape_debug());
            wrong(program.pos, what, "the first word is the program, without placeholders");
        }
        let is_batch = template.is_batch();
        for (word, text) in template.words.iter().zip(&words.value) {
            for part in word {
                if let Part::Hole(hole) = part
                    && !usage.allows(*hole, is_batch)
                {
                    let of = if is_batch { " of many files" } else { "" };
                    let what = format!("`{key}`{of} has nothing to put into {{{}}}", hole.name());
                    wrong(text.pos, what, "docs/command-mover.md says what each command can use");
                }
            }
            if let Some((what, hint)) = path_danger(word) {
                wrong(text.pos, format!("`{key}`: {what}"), hint);
            }
        }
    }
    fine.then_some(template)
}

/// A path is its owner's text: it must be no option, and no part of a text that the program reads as commands.
fn path_danger(word: &[Part]) -> Option<(String, &'static str)> {
    if !word.contains(&Part::Hole(Placeholder::Path)) {
        return None;
    }
    if word.first() == Some(&Part::Hole(Placeholder::Path)) {
        let what = "a word that begins with {path} could be taken for an option".to_owned();
        return Some((what, "write something before it, such as ./{path}"));
    }
    let is_language = |part: &Part| matches!(part, Part::Text(text) if text.contains(|c: char| c.is_whitespace() || ";|&`'\"$!".contains(c)));
    word.iter().any(is_language).then(|| {
        let what = "{path} in a word with blanks, quotes or the like could be taken for commands".to_owned();
        (what, "give it a word of its own, or use {id}")
    })
}

/// Splits a word at its holes. `{{` and `}}` are braces.
fn parse(text: &str, root: Option<&str>) -> Result<Word, (String, String)> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    if text.contains('\0') {
        return Err(("a word holds a NUL".to_owned(), "leave it out".to_owned()));
    }
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        plain.push_str(before);
        if let Some(after) = from.strip_prefix("{{") {
            plain.push('{');
            rest = after;
        } else if let Some(after) = from.strip_prefix("}}") {
            plain.push('}');
            rest = after;
        } else if let Some((name, after)) = from.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            rest = after;
            if name == "root" {
                let hint = "write root = \"…\"".to_owned();
                plain.push_str(root.ok_or(("{root} is used, and there is no `root`".to_owned(), hint))?);
                continue;
            }
            let Some((_, hole)) = Placeholder::ALL.iter().find(|(known, _)| *known == name) else {
                let known: Vec<_> = Placeholder::ALL.iter().map(|(known, _)| format!("{{{known}}}")).collect();
                let what = format!("there is no placeholder {{{}}}", name.escape_debug());
                return Err((what, format!("there are {{root}}, {}; a brace is written {{{{", known.join(", "))));
            };
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Hole(*hole));
        } else {
            let what = format!("a brace of \"{}\" has no partner", text.escape_debug());
            return Err((what, "a brace is written {{ or }}".to_owned()));
        }
    }
    plain.push_str(rest);
    if !plain.is_empty() || parts.is_empty() {
        parts.push(Part::Text(plain));
    }
    Ok(parts)
}
