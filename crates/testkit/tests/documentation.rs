//! The repository's own documentation: links between its files lead somewhere.

#![allow(clippy::unwrap_used, reason = "the lint does not see that functions beside tests belong to them")]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn markdown_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![root()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if entry.file_type().unwrap().is_dir() {
                if name != "target" && !name.starts_with('.') {
                    dirs.push(path);
                }
            } else if name.ends_with(".md") {
                found.push(path);
            }
        }
    }
    found
}

/// The targets of inline links and images, outside code.
fn links(markdown: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        // Every other part stands between backquotes.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("code");
        for part in prose.split("](").skip(1) {
            found.extend(part.split(')').next().map(str::to_owned));
        }
    }
    found
}

fn broken(file: &Path, markdown: &str) -> Vec<String> {
    let dir = file.parent().unwrap();
    let elsewhere = |link: &String| link.contains("://") || link.starts_with("mailto:") || link.starts_with('#');
    let local = links(markdown).into_iter().filter(|link| !elsewhere(link));
    local.filter(|link| !dir.join(link.split('#').next().unwrap()).exists()).collect()
}

#[test]
fn relative_links_lead_to_files() {
    let files = markdown_files();
    assert!(files.contains(&root().join("README.md")), "{files:?}");
    for file in files {
        let found = broken(&file, &fs::read_to_string(&file).unwrap());
        assert!(found.is_empty(), "{} links to what is not there: {found:?}", file.display());
    }
}

#[test]
fn a_broken_link_is_found_and_code_is_left_alone() {
    let text = "[good](Cargo.toml#x) [web](https://example.org/x) ![bad](no/such.png)\n`[code](no)`\n```\n[code](no)\n```\n[b](no.md)";
    assert_eq!(broken(&root().join("README.md"), text), ["no/such.png", "no.md"]);
}
