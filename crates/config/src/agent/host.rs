//! `host { … }`: what a host of movers (`sifaka mover-host`) is called, and what work it is for.

use super::nats::is_name;
use crate::reader::{At, Section};
use std::collections::BTreeMap;

const MAX_GROUPS: usize = 8;
const MAX_LABELS: usize = 16;
const NAME_LIMIT: usize = 64;
const GROUP_LIMIT: usize = 32;
const LABEL_LIMIT: usize = 128;
/// The group that every host is in.
const ANY: &str = "any";

/// `host { … }`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Host {
    /// `name` (the host's): unique among the hosts of a filesystem.
    pub name: Option<String>,
    /// `groups` (none; up to 8): takes what is for these as well as what is for any.
    pub groups: Vec<String>,
    /// `labels { … }` (none; up to 16): shown by `sifaka hosts`.
    pub labels: BTreeMap<String, String>,
}

pub(super) fn read(mut section: Section<'_>) -> Host {
    let name = section.optional_string("name");
    let groups = section.string_list("groups");
    let labels = section.string_map("labels");
    let reader = section.reader();
    let mut host = Host::default();
    if let Some(At { pos, value }) = name {
        // A dot would be fine in what is shown, and is not in a subject.
        if !value.is_empty() && value.len() <= NAME_LIMIT && value.split('.').all(|part| is_name(part, NAME_LIMIT)) {
            host.name = Some(value);
        } else {
            let shown = value.escape_debug();
            let what = format!("`name` must be 1 to {NAME_LIMIT} letters, digits, `.`, `_` or `-`, found \"{shown}\"");
            reader.problem(pos, what, None);
        }
    }
    let groups = groups.map(|list| list.value).unwrap_or_default();
    if let Some(beyond) = groups.get(MAX_GROUPS) {
        reader.problem(beyond.pos, format!("`groups` has at most {MAX_GROUPS} entries, found {}", groups.len()), None);
    }
    for At { pos, value } in groups {
        let shown = value.escape_debug();
        if value == ANY {
            reader.problem(pos, "every host is in the group \"any\"", Some("remove it"));
        } else if !is_name(&value, GROUP_LIMIT) {
            let what = format!("a group's name has 1 to {GROUP_LIMIT} letters, digits, `_` or `-`, found \"{shown}\"");
            reader.problem(pos, what, None);
        } else if host.groups.contains(&value) {
            reader.problem(pos, format!("`groups` names \"{shown}\" twice"), None);
        }
        host.groups.push(value);
    }
    if let Some((beyond, _)) = labels.get(MAX_LABELS) {
        reader.problem(beyond.pos, format!("`labels` has at most {MAX_LABELS} entries, found {}", labels.len()), None);
    }
    for (At { pos, value: name }, text) in labels {
        if !is_name(&name, GROUP_LIMIT) || text.len() > LABEL_LIMIT {
            let what = format!(
                "a label has a name of 1 to {GROUP_LIMIT} letters, digits, `_` or `-`, and at most {LABEL_LIMIT} bytes"
            );
            reader.problem(pos, what, None);
        }
        host.labels.insert(name, text);
    }
    section.finish();
    host
}
