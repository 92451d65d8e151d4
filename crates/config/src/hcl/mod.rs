//! The literal part of HCL, both generations of it.
//!
//! Lemur reads its files with HCL 1, which takes quoted keys, several attributes on a line and commas between
//! them, and HCL 2 parsers refuse those. What the two have in common and what HCL 1 adds, as far as it is literals,
//! is small: `key = value`, `"key" = value`, `key { }`, `key "label" { }`, `key = { }`, lists, three kinds of
//! comment. Everything that computes (interpolation, functions, operators, heredocs) is refused by name.

mod lexer;

use crate::error::Problem;
use crate::tree::{Entry, NESTING_LIMIT, Node, Pos, Value, too_deep};
use lexer::{Lexer, Token, TokenKind};

/// Reads `text` into a [`Value::Block`].
///
/// # Errors
/// The first syntax error, or nesting beyond [`NESTING_LIMIT`].
pub fn parse_hcl(text: &str) -> Result<Node, Problem> {
    let mut parser = Parser::new(text)?;
    let entries = parser.body(None, 0)?;
    Ok(Node { pos: Pos::START, value: Value::Block(entries) })
}

struct Parser<'t> {
    lexer: Lexer<'t>,
    /// The next token, not yet taken.
    next: Token,
}

impl<'t> Parser<'t> {
    fn new(text: &'t str) -> Result<Self, Problem> {
        let mut lexer = Lexer::new(text);
        let next = lexer.token()?;
        Ok(Self { lexer, next })
    }

    fn take(&mut self) -> Result<Token, Problem> {
        let following = self.lexer.token()?;
        Ok(std::mem::replace(&mut self.next, following))
    }

    fn take_if(&mut self, kind: &TokenKind) -> Result<bool, Problem> {
        let found = self.next.kind == *kind;
        if found {
            self.take()?;
        }
        Ok(found)
    }

    /// Entries up to the brace that closes the block opened at `opened`, or to the end of the text.
    fn body(&mut self, opened: Option<Pos>, depth: usize) -> Result<Vec<Entry>, Problem> {
        let mut entries = Vec::new();
        loop {
            match (&self.next.kind, opened) {
                (TokenKind::CloseBrace, Some(_)) => {
                    self.take()?;
                    return Ok(entries);
                }
                (TokenKind::End, None) => return Ok(entries),
                (TokenKind::End, Some(pos)) => return Err(Problem::at(pos, "this `{` is never closed")),
                _ => {}
            }
            entries.push(self.entry(depth)?);
            self.take_if(&TokenKind::Comma)?;
        }
    }

    fn entry(&mut self, depth: usize) -> Result<Entry, Problem> {
        let token = self.take()?;
        let key_pos = token.pos;
        let key = match token.kind {
            TokenKind::Word(text) | TokenKind::String(text) => text,
            kind => {
                return Err(Problem::at(key_pos, format!("expected a key, found {}", kind.describe()))
                    .with_hint("write `key = value` or `key { … }`; values are literals, not expressions"));
            }
        };
        let mut labels = Vec::new();
        loop {
            let token = self.take()?;
            match token.kind {
                TokenKind::Equals | TokenKind::Colon if labels.is_empty() => {
                    let node = self.value(depth)?;
                    return Ok(Entry { key, key_pos, labels, node });
                }
                TokenKind::OpenBrace => {
                    let node = self.block(token.pos, depth)?;
                    return Ok(Entry { key, key_pos, labels, node });
                }
                TokenKind::Word(label) | TokenKind::String(label) => labels.push(label),
                kind => {
                    let expected = if labels.is_empty() { "`=` or `{`" } else { "`{`" };
                    let what = format!("expected {expected} after `{}`, found {}", key.escape_debug(), kind.describe());
                    return Err(Problem::at(token.pos, what));
                }
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Node, Problem> {
        let Token { pos, kind } = self.take()?;
        let value = match kind {
            TokenKind::String(text) => Value::String(text),
            TokenKind::Number(value) => value,
            TokenKind::Word(word) => match word.as_str() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                "null" => Value::Null,
                // The word itself stays out of the message: it may be a password somebody forgot to quote.
                _ => {
                    return Err(Problem::at(pos, "expected a literal value, found a bare word")
                        .with_hint("put text in double quotes; variables and functions are not supported"));
                }
            },
            TokenKind::OpenBracket => Value::List(self.list(pos, depth + 1)?),
            TokenKind::OpenBrace => return self.block(pos, depth),
            kind => {
                return Err(Problem::at(pos, format!("expected a literal value, found {}", kind.describe()))
                    .with_hint("expressions are not supported"));
            }
        };
        Ok(Node { pos, value })
    }

    /// The block whose opening brace, at `pos`, has been taken.
    fn block(&mut self, pos: Pos, depth: usize) -> Result<Node, Problem> {
        if depth >= NESTING_LIMIT {
            return Err(too_deep(pos));
        }
        let entries = self.body(Some(pos), depth + 1)?;
        Ok(Node { pos, value: Value::Block(entries) })
    }

    /// The list whose opening bracket, at `opened`, has been taken; `depth` counts this list.
    fn list(&mut self, opened: Pos, depth: usize) -> Result<Vec<Node>, Problem> {
        if depth > NESTING_LIMIT {
            return Err(too_deep(opened));
        }
        let mut nodes = Vec::new();
        loop {
            if self.take_if(&TokenKind::CloseBracket)? {
                return Ok(nodes);
            }
            if self.next.kind == TokenKind::End {
                return Err(Problem::at(opened, "this `[` is never closed"));
            }
            nodes.push(self.value(depth)?);
            let separated = self.take_if(&TokenKind::Comma)?;
            match &self.next.kind {
                TokenKind::CloseBracket | TokenKind::End => {}
                _ if separated => {}
                kind => {
                    let what = format!("expected `,` or `]` in a list, found {}", kind.describe());
                    return Err(Problem::at(self.next.pos, what));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
