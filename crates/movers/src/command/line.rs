//! From a template to the words of a command line.

use super::error::CommandError;
use config::command::{Part, Placeholder, Template};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// What there is to put into the holes.
#[derive(Default, Clone, Copy)]
pub(super) struct Values<'a> {
    pub(super) archive: u32,
    pub(super) file: Option<&'a Path>,
    /// The object's whole id.
    pub(super) id: Option<&'a str>,
    pub(super) size: Option<u64>,
    pub(super) path: Option<&'a [u8]>,
    pub(super) list: Option<&'a Path>,
    pub(super) list_paths: Option<&'a Path>,
    pub(super) dir: Option<&'a Path>,
    /// Where it is not in the id already.
    pub(super) batch: Option<&'a str>,
}

/// Of the id `<batch>.<member>` the batch, if it has one, and the member.
pub(super) fn parts_of(id: &str) -> (Option<&str>, &str) {
    match id.split_once('.') {
        Some((batch, member)) => (Some(batch), member),
        None => (None, id),
    }
}

/// # Errors
/// A hole has no value; a word that begins with data would be an option; a NUL.
pub(super) fn fill(template: &Template, values: &Values<'_>) -> Result<Vec<OsString>, CommandError> {
    let wrong = |why: String| CommandError::Word { program: template.program().to_owned(), why };
    let mut words = Vec::with_capacity(template.words.len());
    for parts in &template.words {
        let mut word = Vec::new();
        for part in parts {
            match part {
                Part::Text(text) => word.extend_from_slice(text.as_bytes()),
                Part::Hole(hole) => match value(*hole, values) {
                    Some(value) if !value.is_empty() => word.extend(value),
                    _ => return Err(wrong(format!("the agent gave nothing for {hole:?}"))),
                },
            }
        }
        if matches!(parts.first(), Some(Part::Hole(_))) && word.starts_with(b"-") {
            let shown = String::from_utf8_lossy(&word).into_owned();
            return Err(wrong(format!("{shown:?} would be taken for an option")));
        }
        if word.contains(&0) {
            return Err(wrong("a word would hold a NUL".to_owned()));
        }
        words.push(OsString::from_vec(word));
    }
    Ok(words)
}

fn value(hole: Placeholder, values: &Values<'_>) -> Option<Vec<u8>> {
    let path = |path: Option<&Path>| path.map(|path| path.as_os_str().as_bytes().to_vec());
    let text = |text: Option<&str>| text.map(|text| text.as_bytes().to_vec());
    let parts = values.id.map(parts_of);
    let batch = values.batch.or(parts.and_then(|(batch, _)| batch));
    match hole {
        Placeholder::File => path(values.file),
        Placeholder::Id => text(values.id),
        Placeholder::Fan => text(batch.or(values.id).and_then(|name| name.get(..4))),
        Placeholder::Archive => Some(values.archive.to_string().into_bytes()),
        Placeholder::Size => values.size.map(|size| size.to_string().into_bytes()),
        Placeholder::Path => values.path.map(<[u8]>::to_vec),
        Placeholder::List => path(values.list),
        Placeholder::ListPaths => path(values.list_paths),
        Placeholder::Dir => path(values.dir),
        Placeholder::Batch => text(batch),
        Placeholder::Member => text(parts.map(|(_, member)| member)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::command::CommandConfig;

    fn template(words: &str) -> Template {
        let text =
            format!("archive \"a\" {{ id = 1 archive = {words} restore = [\"g\", \"{{id}}\"] keep_removed = true }}");
        CommandConfig::parse(&text, "f").unwrap().0.archives.remove(0).archive
    }

    fn words(words: &str, values: &Values<'_>) -> Result<Vec<String>, String> {
        let filled = fill(&template(words), values).map_err(|error| error.to_string())?;
        Ok(filled.into_iter().map(|word| word.into_string().unwrap()).collect())
    }

    #[test]
    fn a_word_stays_a_word_whatever_is_put_into_it() {
        let values = Values {
            archive: 7,
            file: Some(Path::new("/proc/1/fd/9")),
            id: Some("abcd-ef"),
            size: Some(12),
            path: Some(b"a b/$(rm -rf x);`y` -o\n{id}\"'"),
            ..Values::default()
        };
        let line = r#"["put", "-i{id}", "./{path}", "{file}:{fan}/{id}", "{size}", "{archive}", "{{id}}"]"#;
        let expected =
            ["put", "-iabcd-ef", "./a b/$(rm -rf x);`y` -o\n{id}\"'", "/proc/1/fd/9:abcd/abcd-ef", "12", "7", "{id}"];
        assert_eq!(words(line, &values).unwrap(), expected);
    }

    #[test]
    fn data_is_no_option_and_no_nothing() {
        let id = |id| Values { id: Some(id), ..Values::default() };
        assert!(words(r#"["put", "{id}"]"#, &id("-rf--")).unwrap_err().contains("taken for an option"));
        assert_eq!(words(r#"["put", "x{id}"]"#, &id("-rf--")).unwrap()[1], "x-rf--");
        assert!(words(r#"["put", "./{path}"]"#, &id("abcde")).unwrap_err().contains("nothing for Path"));
        let nul = Values { path: Some(b"a\0b"), ..Values::default() };
        assert!(words(r#"["put", "./{path}"]"#, &nul).unwrap_err().contains("NUL"));
    }

    #[test]
    fn an_id_names_its_batch() {
        assert_eq!(parts_of("aaaa-1.bbbb-2"), (Some("aaaa-1"), "bbbb-2"));
        assert_eq!(parts_of("bbbb-2"), (None, "bbbb-2"));
    }
}
