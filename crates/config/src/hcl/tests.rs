use super::parse_hcl;
use crate::error::ConfigError;
use crate::tree::{Entry, NESTING_LIMIT, Value};

fn entries(text: &str) -> Vec<Entry> {
    match parse_hcl(text).unwrap().value {
        Value::Block(entries) => entries,
        other => panic!("a block, not {other:?}"),
    }
}

/// The one value of a text that is one attribute.
fn value(text: &str) -> Value {
    let mut entries = entries(text);
    assert_eq!(entries.len(), 1, "{text}");
    entries.remove(0).node.value
}

fn refusal(text: &str) -> String {
    ConfigError::one("f", parse_hcl(text).unwrap_err()).to_string()
}

#[test]
fn literals() {
    assert_eq!(value("a = null"), Value::Null);
    assert_eq!(value("a = true"), Value::Bool(true));
    assert_eq!(value("a = -7"), Value::Integer(-7));
    assert_eq!(value("a = 2.5"), Value::Float(2.5));
    assert_eq!(value(r#"a = "x""#), Value::String("x".into()));
    assert_eq!(value(r#""a" = "x","#), Value::String("x".into()));
    assert_eq!(value("a = []"), Value::List(vec![]));
    assert_eq!(value("a {}"), Value::Block(vec![]));
    assert_eq!(value("a = {}"), Value::Block(vec![]));
}

#[test]
fn escapes() {
    assert_eq!(value(r#"a = "\n\r\t\"\\\/\u00e9\U0001F600""#), Value::String("\n\r\t\"\\/é😀".into()));
    assert_eq!(value(r#"a = "$${x} $ $$ %{y}""#), Value::String("${x} $ $$ %{y}".into()));
}

#[test]
fn places_count_characters_and_survive_comments_and_crlf() {
    let found = entries("/* é\n */ a = 1 // x\r\n  \"é\" = \"b\" # y\r\nc \"l\" m { d = [1,\n 22] }");
    let places: Vec<_> = found
        .iter()
        .map(|e| (e.key.as_str(), e.key_pos.line, e.key_pos.column, e.node.pos.line, e.node.pos.column))
        .collect();
    assert_eq!(places, [("a", 2, 5, 2, 9), ("é", 3, 3, 3, 9), ("c", 4, 1, 4, 9)]);
    assert_eq!(found[2].labels, ["l", "m"]);
    let Value::Block(inner) = &found[2].node.value else { panic!("a block") };
    let Value::List(items) = &inner[0].node.value else { panic!("a list") };
    assert_eq!((items[1].pos.line, items[1].pos.column), (5, 2));
}

#[test]
fn refusals() {
    for (text, message) in [
        ("a", "f:1:2: expected `=` or `{` after `a`, found the end of the file"),
        ("a \"b\" = 1", "f:1:7: expected `{` after `a`, found `=`"),
        ("a =", "f:1:4: expected a literal value, found the end of the file (expressions are not supported)"),
        (
            "a = b",
            "f:1:5: expected a literal value, found a bare word (put text in double quotes; variables and functions are not supported)",
        ),
        ("a = (1)", "f:1:5: expected a literal value, found `(` (expressions are not supported)"),
        (
            "a = 1 + 2",
            "f:1:7: expected a key, found `+` (write `key = value` or `key { … }`; values are literals, not expressions)",
        ),
        ("a = \"${b}\"", "f:1:6: interpolation is not supported (write `$${` for a literal `${`)"),
        ("a = <<EOF\nx\nEOF\n", "f:1:5: heredocs are not supported (write a string in double quotes)"),
        ("a = \"x\ny\"", "f:1:5: this string is not closed on its line"),
        (
            "a = \"\\q\"",
            "f:1:6: unknown escape in a string (the escapes are \\n \\r \\t \\\" \\\\ \\uXXXX \\UXXXXXXXX)",
        ),
        ("a = \"\\u12\"", "f:1:6: this escape needs 4 hexadecimal digits"),
        ("a = \"\\ud800\"", "f:1:6: this escape is not a Unicode character"),
        ("a = \"x\0\"", "f:1:7: control character U+0000 in a string"),
        (
            "\0",
            "f:1:1: expected a key, found `\\0` (write `key = value` or `key { … }`; values are literals, not expressions)",
        ),
        ("a {\n b = 1", "f:1:3: this `{` is never closed"),
        ("a = [1, ", "f:1:5: this `[` is never closed"),
        ("a = [1 2]", "f:1:8: expected `,` or `]` in a list, found a number"),
        (
            "}",
            "f:1:1: expected a key, found `}` (write `key = value` or `key { … }`; values are literals, not expressions)",
        ),
        ("/* x", "f:1:1: this comment is never closed"),
        ("a = 1 / 2", "f:1:7: unexpected `/` (comments begin with #, // or /*)"),
        ("a = 99999999999999999999", "f:1:5: number does not fit 64 bits"),
        ("a = 1x", "f:1:5: malformed number"),
    ] {
        assert_eq!(refusal(text), message, "{text:?}");
    }
}

#[test]
fn a_password_without_quotes_is_not_repeated() {
    assert!(!refusal("password = hunter2").contains("hunter"));
    assert!(!refusal("password \"hunter2\"").contains("hunter"));
}

#[test]
fn nesting_is_limited_not_fatal() {
    let blocks = |depth: usize| format!("{}{}", "a {".repeat(depth), "}".repeat(depth));
    let lists = |depth: usize| format!("a = {}{}", "[".repeat(depth), "]".repeat(depth));
    parse_hcl(&blocks(NESTING_LIMIT)).unwrap();
    parse_hcl(&lists(NESTING_LIMIT)).unwrap();
    assert_eq!(refusal(&blocks(NESTING_LIMIT + 1)), "f:1:195: nested deeper than 64 levels");
    assert_eq!(refusal(&lists(NESTING_LIMIT + 1)), "f:1:69: nested deeper than 64 levels");
    assert_eq!(refusal(&"a {".repeat(200_000)), "f:1:195: nested deeper than 64 levels");
    assert_eq!(refusal(&format!("a = {}", "[".repeat(200_000))), "f:1:69: nested deeper than 64 levels");
}
