//! The rules of ARCHITECTURE.md about crates, checked against what cargo builds. The table is read from that file, so
//! that the two cannot drift apart.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the lints do not see that functions beside tests belong to them"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

type Table = BTreeMap<String, BTreeSet<String>>;

const HEADING: &str = "## Crates, and who may use whom";
/// Their tests run the whole program, so their dev-dependencies may be anything of ours.
const TEST_THE_WHOLE: [&str; 2] = ["agent", "cli"];
/// Of use to anybody's tests, and to nothing else.
const FOR_TESTS_ALONE: [&str; 2] = ["testkit", "lustre-standin"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn metadata() -> Metadata {
    let mut command = MetadataCommand::new();
    command.manifest_path(root().join("Cargo.toml")).no_deps().other_options(["--offline".to_owned()]);
    command.exec().unwrap()
}

/// The crate's name in the table; `None` for what is not ours.
fn short(name: &str) -> Option<&str> {
    name.strip_prefix("sifaka-")
}

fn ours(package: &Package, kind: DependencyKind) -> BTreeSet<String> {
    let of_kind = package.dependencies.iter().filter(|dependency| dependency.kind == kind);
    of_kind.filter_map(|dependency| short(&dependency.name)).map(str::to_owned).collect()
}

/// Lines of the form `a, b -> c, d   (remark)` in the first code block after the heading.
fn parse(text: &str) -> Table {
    let section = text.split_once(HEADING).unwrap_or_else(|| panic!("ARCHITECTURE.md has no heading {HEADING:?}")).1;
    let block = section.split("```").nth(1).unwrap();
    let mut table = Table::new();
    for line in block.lines().filter(|line| !line.trim().is_empty()) {
        let line = line.split('(').next().unwrap();
        let (users, used) = line.split_once("->").unwrap_or_else(|| panic!("not a line of the table: {line:?}"));
        let names = |text: &str| {
            let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
            names.map(str::to_owned).collect::<BTreeSet<_>>()
        };
        for user in names(users) {
            let known = table.insert(user.clone(), names(used));
            assert!(known.is_none(), "{user} stands in the table twice");
        }
    }
    table
}

fn table() -> Table {
    parse(&fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap())
}

/// What `name` uses, directly or through others: its tests may talk to any of that.
fn reach(table: &Table, name: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut next = vec![name];
    while let Some(user) = next.pop() {
        for used in table.get(user).into_iter().flatten() {
            if reached.insert(used.clone()) {
                next.push(used);
            }
        }
    }
    reached
}

/// What the crates do that `table` does not allow.
fn violations(table: &Table, metadata: &Metadata) -> Vec<String> {
    let mut found = Vec::new();
    for package in metadata.workspace_packages() {
        let name = short(&package.name).unwrap_or_else(|| panic!("{} is not named sifaka-…", package.name));
        let Some(allowed) = table.get(name) else {
            found.push(format!("{name} is not in the table"));
            continue;
        };
        for kind in [DependencyKind::Normal, DependencyKind::Build] {
            let forbidden = ours(package, kind).into_iter().filter(|used| !allowed.contains(used));
            found.extend(forbidden.map(|used| format!("{name} must not use {used}")));
        }
        if !TEST_THE_WHOLE.contains(&name) {
            let reach = reach(table, name);
            let in_tests = ours(package, DependencyKind::Development);
            let forbidden =
                in_tests.into_iter().filter(|used| !reach.contains(used) && !FOR_TESTS_ALONE.contains(&used.as_str()));
            found.extend(forbidden.map(|used| format!("the tests of {name} must not use {used}")));
        }
    }
    found
}

#[test]
fn crates_use_only_what_the_table_allows() {
    let found = violations(&table(), &metadata());
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_table_names_each_crate_and_nothing_else() {
    let (table, metadata) = (table(), metadata());
    let packages = metadata.workspace_packages();
    let crates: BTreeSet<_> = packages.iter().filter_map(|package| short(&package.name)).map(str::to_owned).collect();
    assert_eq!(table.keys().cloned().collect::<BTreeSet<_>>(), crates);
    for (user, used) in &table {
        assert!(used.is_subset(&crates), "{user} may use crates that do not exist: {used:?}");
        for tool in FOR_TESTS_ALONE {
            assert!(!used.contains(tool), "{user} may use {tool} outside tests");
        }
    }
}

#[test]
fn a_forbidden_edge_is_found() {
    let (mut table, metadata) = (table(), metadata());
    let used = table.get_mut("plugin").unwrap();
    assert!(used.remove("proto"), "plugin uses proto in the table");
    assert!(violations(&table, &metadata).contains(&"plugin must not use proto".to_owned()));
}

#[test]
fn the_absent_edges_that_are_the_design_stay_absent() {
    let table = table();
    assert!(!table["agent"].contains("transfer"), "file bytes would flow through the daemon");
    assert!(table["plugin"].is_subset(&["model", "proto"].map(str::to_owned).into()), "plugin is the protocol only");
    assert!(table["model"].is_empty(), "model stands alone");
}

#[test]
fn unsafe_code_is_in_sys_alone() {
    // The stand-in is a C library, and in no program: see FOR_TESTS_ALONE.
    const ALLOWED: [&str; 2] = ["sys", "lustre-standin"];
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(workspace.contains("unsafe_code = \"forbid\""), "the workspace must forbid unsafe code");
    for (name, manifest) in manifests() {
        let inherits = manifest.contains("[lints]\nworkspace = true\n");
        let own = manifest.contains("unsafe_code");
        assert_eq!(
            (inherits, own),
            if ALLOWED.contains(&name.as_str()) { (false, true) } else { (true, false) },
            "lints of {name}"
        );
    }
}

#[test]
fn versions_stand_in_the_root_alone() {
    for (name, manifest) in manifests() {
        let mut dependencies = false;
        for line in manifest.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(section) = line.strip_prefix('[') {
                let section = section.trim_end_matches(']');
                dependencies = section.ends_with("dependencies");
                let table_of_one = section.contains("dependencies.");
                assert!(!table_of_one, "{name}: write {line} as one line with `workspace = true`");
            } else if dependencies {
                let inherited = line.contains("workspace = true") && !line.contains("version");
                assert!(inherited, "{name}: `{line}` must be `….workspace = true`, with the version in the root");
            }
        }
    }
}

/// Each crate's name with the text of its Cargo.toml.
fn manifests() -> Vec<(String, String)> {
    let metadata = metadata();
    let packages = metadata.workspace_packages();
    let manifests = packages.iter().map(|package| {
        let name = short(&package.name).unwrap().to_owned();
        (name, fs::read_to_string(&package.manifest_path).unwrap())
    });
    manifests.collect()
}
