//! JSON text to a tree. Comments and trailing commas are let through; the rest of JSON5 is not.

use crate::error::Problem;
use crate::number;
use crate::tree::{Entry, NESTING_LIMIT, Node, Pos, Value, too_deep};
use jsonc_parser::ast;
use jsonc_parser::common::Ranged;
use jsonc_parser::errors::ParseErrorKind;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

/// Reads `text`, which must hold one object, into a [`Value::Block`]. Labels are left as levels of objects: only
/// the reader knows which keys take labels.
///
/// # Errors
/// The first syntax error, or nesting beyond [`NESTING_LIMIT`].
pub fn parse_json(text: &str) -> Result<Node, Problem> {
    let lines = Lines::of(text);
    let options = ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    // The parser stops at 512 levels by itself, which a stack holds; `Tree::node` then applies our own limit.
    let parsed = parse_to_ast(text, &CollectOptions::default(), &options).map_err(|error| {
        let pos = lines.pos(error.range().start);
        match error.kind() {
            ParseErrorKind::NestingDepthExceeded => too_deep(pos),
            kind => Problem::at(pos, format!("JSON: {}", lower_first(&kind.to_string()))),
        }
    })?;
    match parsed.value {
        Some(value @ ast::Value::Object(_)) => lines.node(value, 0),
        Some(other) => Err(Problem::at(lines.pos(other.range().start), "expected a JSON object")),
        None => Err(Problem::at(Pos::START, "expected a JSON object")),
    }
}

/// The library's messages are sentences; ours continue one.
fn lower_first(message: &str) -> String {
    let mut chars = message.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// Turns byte offsets into lines and columns.
struct Lines<'t> {
    text: &'t str,
    /// The offset of each line's first byte.
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn of(text: &'t str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    fn pos(&self, offset: usize) -> Pos {
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        let column = self.text.get(start..offset).map_or(1, |before| before.chars().count() + 1);
        Pos { line, column }
    }

    fn node(&self, value: ast::Value<'_>, depth: usize) -> Result<Node, Problem> {
        let pos = self.pos(value.range().start);
        if depth > NESTING_LIMIT {
            return Err(too_deep(pos));
        }
        let value = match value {
            ast::Value::NullKeyword(_) => Value::Null,
            ast::Value::BooleanLit(literal) => Value::Bool(literal.value),
            ast::Value::StringLit(literal) => Value::String(literal.value.into_owned()),
            ast::Value::NumberLit(literal) => number::parse(literal.value).map_err(|what| Problem::at(pos, what))?,
            ast::Value::Array(array) => {
                let nodes = array.elements.into_iter().map(|element| self.node(element, depth + 1));
                Value::List(nodes.collect::<Result<_, _>>()?)
            }
            ast::Value::Object(object) => {
                let mut entries = Vec::with_capacity(object.properties.len());
                for property in object.properties {
                    let key_pos = self.pos(property.name.range().start);
                    let node = self.node(property.value, depth + 1)?;
                    entries.push(Entry { key: property.name.into_string(), key_pos, labels: Vec::new(), node });
                }
                Value::Block(entries)
            }
        };
        Ok(Node { pos, value })
    }
}

#[cfg(test)]
mod tests;
