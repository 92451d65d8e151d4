//! What `walk` has counted.

use super::table::table;
use super::units::bytes;
use crate::output::escaped_path;
use jobs::census::{AgeClass, Census, Kinds, LeftOut, SizeClass, Sum};
use serde::Serialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Names of users, as far as they have any.
type Users = BTreeMap<u32, String>;

/// For programs.
#[derive(Serialize)]
pub(crate) struct Counted<'a> {
    kinds: Kinds,
    further_names: u64,
    unclear_names: u64,
    sizes: &'a [SizeClass],
    modified: &'a [AgeClass],
    accessed: &'a [AgeClass],
    owners: Vec<Owner<'a>>,
    other_owners: Sum,
    largest_files: Vec<Large<'a>>,
    largest_directories: Vec<Wide<'a>>,
    deepest: Option<Deep<'a>>,
    #[serde(flatten)]
    left_out: LeftOut,
    interrupted: bool,
}

#[derive(Serialize)]
struct Owner<'a> {
    uid: u32,
    name: Option<&'a str>,
    #[serde(flatten)]
    sum: Sum,
}

#[derive(Serialize)]
struct Large<'a> {
    size_bytes: u64,
    #[serde(flatten)]
    path: Shown<'a>,
}

#[derive(Serialize)]
struct Wide<'a> {
    entries: u64,
    #[serde(flatten)]
    path: Shown<'a>,
}

#[derive(Serialize)]
struct Deep<'a> {
    levels: u64,
    #[serde(flatten)]
    path: Shown<'a>,
}

/// A path that is not UTF-8 comes as lossy text and as bytes.
#[derive(Serialize)]
struct Shown<'a> {
    path: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<&'a [u8]>,
}

impl<'a> Shown<'a> {
    fn new(path: &'a Path) -> Self {
        let raw = path.as_os_str().as_bytes();
        Self { path: path.to_string_lossy(), path_bytes: str::from_utf8(raw).is_err().then_some(raw) }
    }
}

impl<'a> Counted<'a> {
    pub(crate) fn new(census: &'a Census, users: &'a Users) -> Self {
        let owner = |(uid, sum): &(u32, Sum)| Owner { uid: *uid, name: users.get(uid).map(String::as_str), sum: *sum };
        let large = |(size_bytes, path): &'a (u64, PathBuf)| Large { size_bytes: *size_bytes, path: Shown::new(path) };
        let wide = |(entries, path): &'a (u64, PathBuf)| Wide { entries: *entries, path: Shown::new(path) };
        let deep = |(levels, path): &'a (u64, PathBuf)| Deep { levels: *levels, path: Shown::new(path) };
        Self {
            kinds: census.kinds,
            further_names: census.further_names,
            unclear_names: census.unclear_names,
            sizes: &census.sizes,
            modified: &census.modified,
            accessed: &census.accessed,
            owners: census.owners.iter().map(owner).collect(),
            other_owners: census.other_owners,
            largest_files: census.largest_files.iter().map(large).collect(),
            largest_directories: census.largest_directories.iter().map(wide).collect(),
            deepest: census.deepest.as_ref().map(deep),
            left_out: census.left_out,
            interrupted: census.interrupted,
        }
    }
}

/// For people.
pub(crate) fn human(census: &Census, users: &Users) -> String {
    let Kinds { files, directories, symlinks, pipes, sockets, devices } = census.kinds;
    let kinds = [
        ("files", files),
        ("directories", directories),
        ("symbolic links", symlinks),
        ("pipes", pipes),
        ("sockets", sockets),
        ("devices", devices),
        ("all", census.kinds.total()),
    ];
    let kinds = kinds.into_iter().filter(|(_, sum)| sum.count > 0).map(|(what, sum)| (what.to_owned(), sum));
    let mut out = sums("", kinds);
    notes(&mut out, census);
    section(&mut out, "files of", coarse(&census.sizes).into_iter().map(|class| (size_label(&class), class.sum)));
    section(&mut out, "files changed", census.modified.iter().map(|class| (age_label(class), class.sum)));
    section(&mut out, "files read", census.accessed.iter().map(|class| (age_label(class), class.sum)));
    let named = |(uid, sum): &(u32, Sum)| (users.get(uid).cloned().unwrap_or_else(|| uid.to_string()), *sum);
    let others = Some(("others".to_owned(), census.other_owners)).filter(|(_, sum)| sum.count > 0);
    section(&mut out, "owner", census.owners.iter().map(named).chain(others));
    paths(&mut out, "largest files", census.largest_files.iter().map(|(size, path)| (bytes(*size), path)));
    let entries = |(count, path): &'_ (u64, PathBuf)| (format!("{count} entries"), path.clone());
    let directories: Vec<(String, PathBuf)> = census.largest_directories.iter().map(entries).collect();
    paths(&mut out, "largest directories", directories.iter().map(|(count, path)| (count.clone(), path)));
    let deepest = census.deepest.iter().map(|(levels, path)| (format!("{levels} levels"), path));
    paths(&mut out, "deepest", deepest);
    out += "\ncounted ";
    out
}

fn notes(out: &mut String, census: &Census) {
    let LeftOut { filtered, elsewhere, vanished, failed } = census.left_out;
    let told = [
        (census.further_names, "further names of files that are counted already"),
        (census.unclear_names, "names of files with several, of which some may be counted more than once"),
        (filtered, "left out by filters"),
        (elsewhere, "directories of other filesystems not entered"),
        (vanished, "removed before they could be looked at"),
        (failed, "could not be looked at"),
    ];
    for (count, what) in told.into_iter().filter(|(count, _)| *count > 0) {
        let _ = writeln!(out, "{count} {what}");
    }
}

fn section(out: &mut String, what: &'static str, rows: impl Iterator<Item = (String, Sum)>) {
    let text = sums(what, rows);
    if text.lines().count() > 1 {
        *out += "\n";
        *out += &text;
    }
}

fn sums(what: &'static str, rows: impl Iterator<Item = (String, Sum)>) -> String {
    let row =
        |(label, sum): (String, Sum)| [label, sum.count.to_string(), bytes(sum.size_bytes), bytes(sum.allocated_bytes)];
    let rows: Vec<[String; 4]> = rows.map(row).collect();
    table([what, "count", "content", "allocated"], &rows)
}

fn paths<'a>(out: &mut String, what: &str, rows: impl Iterator<Item = (String, &'a PathBuf)>) {
    let rows: Vec<(String, &PathBuf)> = rows.collect();
    let width = rows.iter().map(|(value, _)| value.len()).max().unwrap_or_default();
    for (number, (value, path)) in rows.into_iter().enumerate() {
        if number == 0 {
            let _ = writeln!(out, "\n{what}");
        }
        let _ = writeln!(out, "{value:width$}  {}", escaped_path(path));
    }
}

/// Powers of four from 1 KiB on: fewer lines than the powers of two that are counted.
fn coarse(sizes: &[SizeClass]) -> Vec<SizeClass> {
    let mut classes: Vec<SizeClass> = Vec::new();
    for class in sizes {
        let (from, below) = match class.from_bytes.checked_ilog2() {
            None => (0, Some(1)),
            Some(0..10) => (1, Some(1024)),
            Some(bits) => (1 << (bits & !1), 1u64.checked_shl((bits & !1) + 2)),
        };
        match classes.last_mut() {
            Some(last) if last.from_bytes == from => last.sum.add(class.sum),
            _ => classes.push(SizeClass { from_bytes: from, below_bytes: below, sum: class.sum }),
        }
    }
    classes
}

fn size_label(class: &SizeClass) -> String {
    match (class.from_bytes, class.below_bytes) {
        (0, _) => "nothing".to_owned(),
        (1, Some(below)) => format!("less than {}", short(below)),
        (from, Some(below)) => format!("{} to {}", short(from), short(below)),
        (from, None) => format!("{} or more", short(from)),
    }
}

/// A power of two.
fn short(size: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let bits = size.checked_ilog2().unwrap_or_default();
    format!("{} {}", 1u64 << (bits % 10), UNITS.get((bits / 10) as usize).unwrap_or(&""))
}

fn age_label(class: &AgeClass) -> String {
    let days = |days: i64| match days {
        1 => "a day".to_owned(),
        7 => "a week".to_owned(),
        30 => "30 days".to_owned(),
        91 => "3 months".to_owned(),
        182 => "6 months".to_owned(),
        365 => "a year".to_owned(),
        other => format!("{} years", other / 365),
    };
    match (class.from_days, class.below_days) {
        (None, _) => "in the future".to_owned(),
        (Some(0), Some(below)) => format!("within {}", days(below)),
        (Some(from), Some(below)) => format!("{} to {} ago", days(from), days(below)),
        (Some(from), None) => format!("more than {} ago", days(from)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn census() -> Census {
        let sum = |count, size_bytes| Sum { count, size_bytes, allocated_bytes: size_bytes + 4096 };
        let size = |from_bytes, below_bytes, sum| SizeClass { from_bytes, below_bytes, sum };
        let age = |from_days, below_days, sum| AgeClass { from_days, below_days, sum };
        Census {
            kinds: Kinds { files: sum(6, 5 << 20), directories: sum(2, 0), devices: sum(1, 0), ..Kinds::default() },
            further_names: 3,
            unclear_names: 0,
            sizes: vec![
                size(0, Some(1), sum(1, 0)),
                size(1, Some(2), sum(1, 1)),
                size(512, Some(1024), sum(1, 700)),
                size(4096, Some(8192), sum(1, 5000)),
                size(8192, Some(16384), sum(1, 9000)),
                size(1 << 63, None, sum(1, 1 << 63)),
            ],
            modified: vec![
                age(None, Some(0), sum(1, 7)),
                age(Some(0), Some(1), sum(2, 8)),
                age(Some(730), Some(1825), sum(2, 8)),
            ],
            accessed: vec![age(Some(3650), None, sum(6, 9))],
            owners: vec![(0, sum(5, 100)), (4711, sum(2, 50))],
            other_owners: sum(2, 7),
            largest_files: vec![(5 << 20, "a/large".into()), (12, "b\n".into())],
            largest_directories: vec![(1000, "a".into()), (9, "b".into())],
            deepest: Some((3, "a/b/c".into())),
            left_out: LeftOut { elsewhere: 1, ..LeftOut::default() },
            interrupted: false,
        }
    }

    #[test]
    fn all_that_was_counted_is_shown() {
        let users = Users::from([(0, "root".to_owned())]);
        insta::assert_snapshot!(human(&census(), &users), @r"
                     count  content  allocated
        files        6      5.0 MiB  5.0 MiB
        directories  2      0 B      4.0 KiB
        devices      1      0 B      4.0 KiB
        all          9      5.0 MiB  5.0 MiB
        3 further names of files that are counted already
        1 directories of other filesystems not entered

        files of         count  content  allocated
        nothing          1      0 B      4.0 KiB
        less than 1 KiB  2      701 B    8.7 KiB
        4 KiB to 16 KiB  2      14 KiB   22 KiB
        4 EiB or more    1      8.0 EiB  8.0 EiB

        files changed           count  content  allocated
        in the future           1      7 B      4.0 KiB
        within a day            2      8 B      4.0 KiB
        2 years to 5 years ago  2      8 B      4.0 KiB

        files read              count  content  allocated
        more than 10 years ago  6      9 B      4.0 KiB

        owner   count  content  allocated
        root    5      100 B    4.1 KiB
        4711    2      50 B     4.0 KiB
        others  2      7 B      4.0 KiB

        largest files
        5.0 MiB  a/large
        12 B     b\n

        largest directories
        1000 entries  a
        9 entries     b

        deepest
        3 levels  a/b/c

        counted
        ");
        let json = serde_json::to_value(Counted::new(&census(), &users)).unwrap();
        let owner =
            serde_json::json!({"uid": 0, "name": "root", "count": 5, "size_bytes": 100, "allocated_bytes": 4196});
        assert_eq!(json["owners"][0], owner);
        assert_eq!(json["largest_files"][1], serde_json::json!({"size_bytes": 12, "path": "b\n"}));
        assert_eq!(json["modified"][0]["from_days"], serde_json::Value::Null);
        assert_eq!((&json["elsewhere"], &json["sizes"][3]["from_bytes"]), (&1.into(), &4096.into()));
    }
}
