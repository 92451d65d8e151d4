//! What is told of a tree that is compared with an archive.

use super::Telling;
use maintenance::verify::{Difference, Finding, Found, Watcher};
use serde::Serialize;
use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// How something compares, for programs. A path that is not UTF-8 comes as lossy text and as bytes.
#[derive(Serialize)]
struct Line<'a> {
    path: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<&'a [u8]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<&'a str>,
    found: &'static str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    differs: &'a [Difference],
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
}

impl Watcher for Telling {
    fn wants_all(&self) -> bool {
        self.has_report()
    }

    fn tell(&self, finding: &Finding) {
        let Finding { path, object, found } = finding;
        let line = Line {
            path: String::from_utf8_lossy(path),
            path_bytes: str::from_utf8(path).is_err().then_some(path),
            object: object.as_deref(),
            found: found.word(),
            differs: if let Found::Differs(differences) = found { differences } else { &[] },
            why: if let Found::Failed(why) = found { Some(why) } else { None },
        };
        self.write(&line);
        if !found.is_problem() {
            return;
        }
        let object = object.as_deref().unwrap_or("none");
        let text = match found {
            Found::Differs(differences) => differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            Found::Missing => format!("its object {object} is gone"),
            Found::Extra => format!("object {object} is there, and no file names it"),
            Found::Changed => "changed each time that it was compared".to_owned(),
            Found::Failed(why) => why.clone(),
            other => other.word().to_owned(),
        };
        // An object of which nobody knows where its file was.
        let path = if path.is_empty() { b"(nowhere)" } else { &path[..] };
        self.problem(Path::new(OsStr::from_bytes(path)), &line, &text);
    }
}
