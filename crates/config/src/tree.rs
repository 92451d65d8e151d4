//! The tree both syntaxes are read into. No I/O, and no idea what any key means.

use crate::error::Problem;
use crate::{hcl, json};

/// Blocks, objects and lists may be nested so deep. Real files need four levels; the limit keeps hostile text
/// from overflowing the stack of a recursive parser.
pub const NESTING_LIMIT: usize = 64;

/// A place in a text: both counted from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pos {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl Pos {
    /// The beginning of a text.
    pub const START: Pos = Pos { line: 1, column: 1 };
}

/// A value and where it began.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where the value's first character stood; for a block, its opening brace.
    pub pos: Pos,
    /// The value.
    pub value: Value,
}

/// A literal of either syntax.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number without a fraction that fits 64 bits.
    Integer(i64),
    /// A finite number with a fraction or an exponent.
    Float(f64),
    /// Quoted text, escapes resolved.
    String(String),
    /// `[ … ]`.
    List(Vec<Node>),
    /// `{ … }`, in the order of the file, duplicates included.
    Block(Vec<Entry>),
}

impl Value {
    /// The kind of value with its article, for messages. Never the value itself, which may be a secret.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a number with a fraction",
            Value::String(_) => "a string",
            Value::List(_) => "a list",
            Value::Block(_) => "a block",
        }
    }
}

/// `key = value`, `key { … }` or `key "label" { … }`.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key, without quotes.
    pub key: String,
    /// Where the key stood.
    pub key_pos: Pos,
    /// The labels between key and block; none in JSON, where a label is one more level of objects.
    pub labels: Vec<String>,
    /// The value.
    pub node: Node,
}

/// Reads `text`, as JSON when its first character that is not blank is `{`, as HCL otherwise. The result is
/// always a [`Value::Block`]; an empty text is an empty block. A byte order mark is skipped.
///
/// # Errors
/// The first syntax error.
pub fn parse(text: &str) -> Result<Node, Problem> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with('{') { json::parse_json(text) } else { hcl::parse_hcl(text) }
}

pub(crate) fn too_deep(pos: Pos) -> Problem {
    Problem::at(pos, format!("nested deeper than {NESTING_LIMIT} levels"))
}
