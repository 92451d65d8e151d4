use super::Reader;
use crate::tree;

/// Reads `text` with `read` and returns the messages of everything wrong with it.
fn problems(text: &str, read: impl FnOnce(&mut super::Section<'_>)) -> Vec<String> {
    let root = tree::parse(text).unwrap();
    let reader = Reader::new("f");
    let mut section = reader.root(&root);
    read(&mut section);
    section.finish();
    match reader.finish() {
        Ok(_) => Vec::new(),
        Err(error) => error.to_string().lines().map(ToOwned::to_owned).collect(),
    }
}

#[test]
fn unknown_keys_are_found_with_the_nearest_known_one() {
    let found = problems("mount_rot = 1\n  Handler_Count = 1\nsomething = 2\n\"a\\u001b\" = 1", |root| {
        root.optional_string("mount_root");
        root.optional_u64("handler_count", 1..=2);
    });
    assert_eq!(
        found,
        [
            "f:1:1: unknown key `mount_rot` (did you mean `mount_root`?)",
            "f:2:3: unknown key `Handler_Count` (did you mean `handler_count`?)",
            "f:3:1: unknown key `something`",
            "f:4:1: unknown key `a\\u{1b}`",
        ]
    );
}

#[test]
fn wrong_types_name_both_kinds_and_no_value() {
    let text = r#"a = 5
b = "5m"
c = "true"
d = ["x", 5]
e = "x"
f = [{}, {}]
g = 1.5
h = null"#;
    let found = problems(text, |root| {
        root.optional_string("a");
        root.optional_u64("b", 0..=9);
        root.optional_bool("c");
        root.string_list("d");
        root.string_list("e");
        root.section("f").finish();
        root.optional_u64("g", 0..=9);
        root.optional_string("h");
    });
    assert_eq!(
        found,
        [
            "f:1:5: `a` must be a string, found an integer",
            "f:2:5: `b` must be an integer, found a string",
            "f:3:5: `c` must be true or false, found a string",
            "f:4:11: `d` must be a list of strings, found an integer",
            "f:5:5: `e` must be a list of strings, found a string",
            "f:6:5: `f` must be one block, found a list",
            "f:7:5: `g` must be an integer, found a number with a fraction",
            "f:8:5: `h` must be a string, found null",
        ]
    );
}

#[test]
fn ranges_choices_and_paths() {
    let text = "a = 0\nb = -1\nc = \"x\"\nd = \"rel\"\ne = \"/a/../b\"\nf = \"/a//./b/\"";
    let found = problems(text, |root| {
        root.optional_u64("a", 1..=9);
        root.optional_u64("b", 0..=u64::MAX);
        root.optional_choice("c", &[("on", 1), ("off", 2), ("auto", 3)]);
        root.optional_path("d");
        root.optional_path("e");
        assert_eq!(root.optional_path("f").unwrap().value.to_str(), Some("/a/b"));
    });
    assert_eq!(
        found,
        [
            "f:1:5: `a` must be between 1 and 9, found 0",
            "f:2:5: `b` must be between 0 and 18446744073709551615, found -1",
            "f:3:5: `c` must be \"on\", \"off\" or \"auto\", found \"x\"",
            "f:4:5: `d` must be an absolute path, found \"rel\"",
            "f:5:5: `e` must be an absolute path, found \"/a/../b\", which holds `..`",
        ]
    );
}

#[test]
fn duplicates_and_labels() {
    let text = "a = 1\na = 2\nb \"x\" {}\nc \"x\" {}\nc \"y\" {}\nc \"x\" {}\nc \"x\" \"y\" {}\nc { z = 1 }\nc = 3";
    let found = problems(text, |root| {
        root.optional_u64("a", 0..=9);
        root.section("b").finish();
        let names: Vec<_> = root.labelled_sections("c").into_iter().map(|(label, _)| label.value).collect();
        assert_eq!(names, ["x", "y"]);
    });
    assert_eq!(
        found,
        [
            "f:2:1: `a` is given twice; the first is on line 1",
            "f:3:1: `b` takes no label",
            "f:6:1: `c \"x\"` is given twice; the first is on line 4",
            "f:7:1: `c` takes one label, found 2",
            "f:8:3: this `c` has no name (write c \"name\" { … })",
            "f:9:5: `c` must be blocks with a name each, found an integer",
        ]
    );
}

#[test]
fn absent_sections_require_nothing_and_make_their_keys_known() {
    let root = tree::parse("").unwrap();
    let reader = Reader::new("f");
    let mut section = reader.root(&root);
    let mut absent = section.section("s");
    assert!(!absent.is_present());
    assert_eq!(absent.required_string("k", "hint"), None);
    absent.finish();
    section.finish();
    assert_eq!(reader.known_keys().into_iter().collect::<Vec<_>>(), ["s", "s.k"]);
    assert!(reader.given_keys().is_empty());
    assert_eq!(reader.finish().unwrap(), []);
}

#[test]
fn present_sections_require_their_keys() {
    let found = problems("\ns {\n}", |root| {
        let mut section = root.section("s");
        section.required_string("k", "write it");
        section.finish();
    });
    assert_eq!(found, ["f:2:3: `k` is missing in `s` (write it)"]);
}

#[test]
fn a_number_in_quotes_is_taken_with_a_warning() {
    let root = tree::parse("n = \"5\"").unwrap();
    let reader = Reader::new("f");
    let mut section = reader.root(&root);
    assert_eq!(section.optional_u64("n", 0..=9).map(|n| n.value), Some(5));
    section.finish();
    let shown: Vec<_> = reader.finish().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["f:1:5: `n` is a number in quotes (remove them)"]);
}
