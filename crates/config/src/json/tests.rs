use super::parse_json;
use crate::error::ConfigError;
use crate::tree::{NESTING_LIMIT, Value};

fn refusal(text: &str) -> String {
    ConfigError::one("f", parse_json(text).unwrap_err()).to_string()
}

#[test]
fn values_and_places() {
    let root = parse_json("{\n  \"é\": [true, null, -1, 1.5, \"\\u0041\"], // x\n \"b\": {\"c\": 1,}\n}").unwrap();
    let Value::Block(entries) = root.value else { panic!("a block") };
    let Value::List(items) = &entries[0].node.value else { panic!("a list") };
    let values: Vec<_> = items.iter().map(|item| item.value.clone()).collect();
    assert_eq!(
        values,
        [Value::Bool(true), Value::Null, Value::Integer(-1), Value::Float(1.5), Value::String("A".into())]
    );
    assert_eq!((items[1].pos.line, items[1].pos.column), (2, 15));
    assert_eq!((entries[1].key_pos.line, entries[1].key_pos.column), (3, 2));
}

#[test]
fn refusals() {
    for (text, message) in [
        ("", "f:1:1: expected a JSON object"),
        ("[1]", "f:1:1: expected a JSON object"),
        ("{", "f:1:1: JSON: unterminated object"),
        ("{\"a\": }", "f:1:7: JSON: unexpected close brace"),
        ("{\"a\" 1}", "f:1:6: JSON: expected colon after the string or word in object property"),
        ("{\"a\": 1 \"b\": 2}", "f:1:8: JSON: expected comma"),
        ("{a: 1}", "f:1:2: JSON: expected string for object property"),
        ("{\"a\": 99999999999999999999}", "f:1:7: number does not fit 64 bits"),
        ("{\"a\": 1e999}", "f:1:7: number does not fit 64 bits"),
        ("{}\n{}", "f:2:1: JSON: text cannot contain more than one JSON value"),
    ] {
        assert_eq!(refusal(text), message, "{text:?}");
    }
}

#[test]
fn nesting_is_limited_not_fatal() {
    let lists = |depth: usize| format!("{{\"a\": {}{}}}", "[".repeat(depth), "]".repeat(depth));
    parse_json(&lists(NESTING_LIMIT)).unwrap();
    assert_eq!(refusal(&lists(NESTING_LIMIT + 1)), "f:1:71: nested deeper than 64 levels");
    for text in [lists(200_000), "{\"a\":".repeat(200_000)] {
        assert!(refusal(&text).ends_with(": nested deeper than 64 levels"), "{}", refusal(&text));
    }
}
