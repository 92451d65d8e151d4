//! HCL text to tokens, each with its place.

use crate::error::Problem;
use crate::number;
use crate::tree::{Pos, Value};
use std::iter::Peekable;
use std::str::Chars;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) pos: Pos,
    pub(super) kind: TokenKind,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum TokenKind {
    /// An identifier, or one of the words `true`, `false`, `null`.
    Word(String),
    /// Quoted text, escapes resolved.
    String(String),
    Number(Value),
    Equals,
    Colon,
    Comma,
    OpenBrace,
    CloseBrace,
    OpenBracket,
    CloseBracket,
    /// A character that begins nothing a configuration may hold; the parser says what it expected instead.
    Other(char),
    End,
}

impl TokenKind {
    /// For messages. Leaves out the text of words and strings, which may be secret.
    pub(super) fn describe(&self) -> String {
        match self {
            TokenKind::Word(_) => "a word".into(),
            TokenKind::String(_) => "a string".into(),
            TokenKind::Number(_) => "a number".into(),
            TokenKind::Equals => "`=`".into(),
            TokenKind::Colon => "`:`".into(),
            TokenKind::Comma => "`,`".into(),
            TokenKind::OpenBrace => "`{`".into(),
            TokenKind::CloseBrace => "`}`".into(),
            TokenKind::OpenBracket => "`[`".into(),
            TokenKind::CloseBracket => "`]`".into(),
            TokenKind::Other(c) => format!("`{}`", c.escape_debug()),
            TokenKind::End => "the end of the file".into(),
        }
    }
}

pub(super) struct Lexer<'t> {
    rest: Peekable<Chars<'t>>,
    pos: Pos,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { rest: text.chars().peekable(), pos: Pos::START }
    }

    fn peek(&mut self) -> Option<char> {
        self.rest.peek().copied()
    }

    fn advance(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        if c == '\n' {
            self.pos = Pos { line: self.pos.line + 1, column: 1 };
        } else {
            self.pos.column += 1;
        }
        Some(c)
    }

    /// The next token; [`TokenKind::End`] at the end of the text, as often as asked.
    pub(super) fn token(&mut self) -> Result<Token, Problem> {
        self.skip_blanks()?;
        let pos = self.pos;
        let Some(c) = self.advance() else { return Ok(Token { pos, kind: TokenKind::End }) };
        let kind = match c {
            '"' => TokenKind::String(self.string(pos)?),
            '=' => TokenKind::Equals,
            ':' => TokenKind::Colon,
            ',' => TokenKind::Comma,
            '{' => TokenKind::OpenBrace,
            '}' => TokenKind::CloseBrace,
            '[' => TokenKind::OpenBracket,
            ']' => TokenKind::CloseBracket,
            '<' if self.peek() == Some('<') => {
                return Err(Problem::at(pos, "heredocs are not supported").with_hint("write a string in double quotes"));
            }
            '-' | '0'..='9' => {
                let text = self.run(c, |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '-'));
                TokenKind::Number(number::parse(&text).map_err(|what| Problem::at(pos, what))?)
            }
            c if c.is_alphabetic() || c == '_' => {
                TokenKind::Word(self.run(c, |c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.')))
            }
            c => TokenKind::Other(c),
        };
        Ok(Token { pos, kind })
    }

    /// `first` and every character after it that belongs to the same token.
    fn run(&mut self, first: char, belongs: impl Fn(char) -> bool) -> String {
        let mut text = String::from(first);
        while let Some(c) = self.peek().filter(|c| belongs(*c)) {
            text.push(c);
            self.advance();
        }
        text
    }

    /// Skips white space and the comments `# …`, `// …` and `/* … */`.
    fn skip_blanks(&mut self) -> Result<(), Problem> {
        while let Some(c) = self.peek() {
            match c {
                c if c.is_whitespace() => {
                    self.advance();
                }
                '#' => self.skip_line(),
                '/' => {
                    let pos = self.pos;
                    self.advance();
                    match self.peek() {
                        Some('/') => self.skip_line(),
                        Some('*') => self.skip_comment(pos)?,
                        _ => {
                            return Err(Problem::at(pos, "unexpected `/`").with_hint("comments begin with #, // or /*"));
                        }
                    }
                }
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    fn skip_line(&mut self) {
        while self.peek().is_some_and(|c| c != '\n') {
            self.advance();
        }
    }

    /// The rest of a `/* … */` that began at `opened`; its slash has been taken, its first star has not.
    fn skip_comment(&mut self, opened: Pos) -> Result<(), Problem> {
        self.advance();
        while let Some(c) = self.advance() {
            if c == '*' && self.peek() == Some('/') {
                self.advance();
                return Ok(());
            }
        }
        Err(Problem::at(opened, "this comment is never closed"))
    }

    /// The rest of a string whose opening quote stood at `opened`.
    fn string(&mut self, opened: Pos) -> Result<String, Problem> {
        let mut text = String::new();
        loop {
            let pos = self.pos;
            match self.advance() {
                None | Some('\n') => return Err(Problem::at(opened, "this string is not closed on its line")),
                Some('"') => return Ok(text),
                Some('\\') => text.push(self.escape(pos)?),
                Some('$') if self.peek() == Some('{') => {
                    if text.ends_with('$') {
                        // `$${` is how HCL writes a literal `${`: drop one of the two dollar signs.
                        continue;
                    }
                    return Err(
                        Problem::at(pos, "interpolation is not supported").with_hint("write `$${` for a literal `${`")
                    );
                }
                Some(c) if c.is_control() && c != '\t' => {
                    let what = format!("control character U+{:04X} in a string", u32::from(c));
                    return Err(Problem::at(pos, what));
                }
                Some(c) => text.push(c),
            }
        }
    }

    /// The character an escape stands for; the backslash, at `pos`, has been taken.
    fn escape(&mut self, pos: Pos) -> Result<char, Problem> {
        let digits = match self.advance() {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some(c @ ('"' | '\\' | '/')) => return Ok(c),
            Some('u') => 4,
            Some('U') => 8,
            _ => {
                return Err(Problem::at(pos, "unknown escape in a string")
                    .with_hint(r#"the escapes are \n \r \t \" \\ \uXXXX \UXXXXXXXX"#));
            }
        };
        let mut code: u32 = 0;
        for _ in 0..digits {
            let digit = self.peek().and_then(|c| c.to_digit(16));
            let Some(digit) = digit else {
                return Err(Problem::at(pos, format!("this escape needs {digits} hexadecimal digits")));
            };
            self.advance();
            // At most eight hexadecimal digits, so nothing is shifted out.
            code = (code << 4) | digit;
        }
        char::from_u32(code).ok_or_else(|| Problem::at(pos, "this escape is not a Unicode character"))
    }
}
