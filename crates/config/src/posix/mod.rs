//! The POSIX mover's configuration: `lhsm-plugin-posix` beside the agent's file, with Lemur's keys and `format`.
//!
//! [`PosixConfig::parse`] is pure, [`PosixConfig::load`] reads the file. Whether a root exists is not looked at
//! here: that is the mover's to find out when it starts.

use crate::error::{ConfigError, Warning};
use crate::reader::{At, Reader, Section};
use crate::tree;
use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};

const THREAD_LIMIT: u32 = 1024;
/// The most actions a mover may ask to hold at once (`model::limits::MAX_CREDITS`).
const IN_FLIGHT_LIMIT: u32 = 65_536;
/// At less than this the first chunk of a file would take so long that a mover that works looks like one that hangs.
const BANDWIDTH_MIN: u64 = 64 << 10;
const BANDWIDTH_MAX: u64 = 1 << 50;
/// Files up to this size share packs, when nothing else is said.
const PACK_THRESHOLD: u64 = 64 << 10;
/// A member of a pack is one chunk (`model::limits::CHUNK_SIZE_BYTES`).
const PACK_THRESHOLD_MAX: u64 = 1 << 20;

/// How the POSIX mover runs, and the archives it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PosixConfig {
    /// `num_threads` (4; 1 to 1024): actions worked on at the same time.
    pub num_threads: u32,
    /// `checksums { … }`: for archives that do not say otherwise.
    pub checksums: Checksums,
    /// `archive "name" { … }`, in the order of the file; at least one.
    pub archives: Vec<PosixArchive>,
}

/// One `archive "name" { … }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PosixArchive {
    /// The label: names the archive in logs.
    pub name: String,
    /// `id` (required; at least 1): the archive id of requests; no two archives share one.
    pub id: u32,
    /// `root` (required): the absolute path of the directory that holds the archive; no two archives share one.
    pub root: PathBuf,
    /// `compression` (`off`).
    pub compression: Compression,
    /// `checksums { … }`: what it does not say is taken from the file's own.
    pub checksums: Checksums,
    /// `format` (`sifaka`).
    pub format: Format,
    /// `max_in_flight` (none, which leaves it to the agent; 1 to 65536): actions of this archive that the mover holds at once,
    /// queued and running.
    pub max_in_flight: Option<NonZeroU32>,
    /// `bandwidth_limit` (none; 0 is none too; else at least 64 KiB): bytes a second that the mover moves for this archive, in both
    /// directions together.
    pub bandwidth_limit: Option<NonZeroU64>,
    /// `pack { threshold }` (64 KiB; 0 to 1 MiB; 0 packs nothing): files up to this size share objects. Always 0 where there are no
    /// manifests: with `format = "lemur"`, and without checksums.
    pub pack_threshold_bytes: u64,
}

/// `checksums { … }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checksums {
    /// `disabled` (false): neither compute nor compare checksums.
    pub disabled: bool,
    /// `disable_compare_on_restore` (false): compute them when archiving, do not compare them when restoring.
    pub disable_compare_on_restore: bool,
}

/// What happens to bytes on the way into the archive. Restoring reads whatever an object was written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// `"off"`: stored as they are.
    Off,
    /// `"zstd"`, `"gzip"`, or `"on"`, which is the format's own.
    On(Codec),
    /// `"auto"`: with the format's own codec when a sample of the file shrinks enough, else stored as they are.
    Auto(Codec),
}

/// A way to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Zstandard.
    Zstd,
    /// gzip, the only one Lemur reads.
    Gzip,
}

/// How objects are laid out in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `"sifaka"`: BLAKE3, zstd, a manifest beside each object.
    Sifaka,
    /// `"lemur"`: exactly what Lemur writes (SHA-1, whole-file gzip), so that Lemur can restore it.
    Lemur,
}

impl Format {
    fn codec(self) -> Codec {
        match self {
            Self::Sifaka => Codec::Zstd,
            Self::Lemur => Codec::Gzip,
        }
    }
}

impl PosixConfig {
    /// Reads a configuration, calling it `file_name` in messages.
    ///
    /// # Errors
    /// Every problem of the text.
    pub fn parse(text: &str, file_name: &str) -> Result<(Self, Vec<Warning>), ConfigError> {
        let root = tree::parse(text).map_err(|problem| ConfigError::one(file_name, problem))?;
        let reader = Reader::new(file_name);
        let config = read(reader.root(&root));
        let warnings = reader.finish()?;
        Ok((config, warnings))
    }

    /// Reads the configuration file at `path`.
    ///
    /// # Errors
    /// As [`PosixConfig::parse`]; also when the file cannot be read, or its mode lets group or others at it
    /// (as Lemur's plugins have it for all their files, whatever they hold).
    pub fn load(path: &Path) -> Result<(Self, Vec<Warning>), ConfigError> {
        let loaded = crate::file::load(path, "posix mover's configuration", "create it, with mode 0600")?;
        loaded.refuse_if_shared("must be private to its owner")?;
        Self::parse(&loaded.text, &loaded.name)
    }

    /// Every key a posix mover's file may hold, as `key` or `section.key`, an archive's as `archive.key`.
    pub fn known_keys() -> BTreeSet<String> {
        let at = |value| tree::Node { pos: tree::Pos::START, value };
        let archive = tree::Entry {
            key: "archive".into(),
            key_pos: tree::Pos::START,
            labels: vec!["any".into()],
            node: at(tree::Value::Block(Vec::new())),
        };
        let root = at(tree::Value::Block(vec![archive]));
        let reader = Reader::new(String::new());
        read(reader.root(&root));
        reader.known_keys()
    }
}

fn read(mut root: Section<'_>) -> PosixConfig {
    let num_threads = root.optional_u64("num_threads", 1..=u64::from(THREAD_LIMIT));
    let checksums = checksums(root.section("checksums"), Checksums::default());
    let hint = "write archive \"name\" { id = 1, root = \"/path\" }";
    let sections = root.required_labelled_sections("archive", hint);
    let mut taken = Taken::default();
    let archives = sections.into_iter().filter_map(|(name, section)| archive(name, section, checksums, &mut taken));
    let archives = archives.collect();
    root.finish();
    PosixConfig {
        num_threads: num_threads.and_then(|threads| u32::try_from(threads.value).ok()).unwrap_or(4),
        checksums,
        archives,
    }
}

/// What two archives must not share, with the name of the archive that has it.
#[derive(Default)]
struct Taken {
    ids: BTreeMap<u32, String>,
    roots: BTreeMap<PathBuf, String>,
}

fn archive(name: At<String>, mut section: Section<'_>, defaults: Checksums, taken: &mut Taken) -> Option<PosixArchive> {
    let reader = section.reader();
    if name.value.is_empty() {
        reader.problem(name.pos, "an archive's name is empty", None);
    }
    let id = section.required_u64("id", 1..=u64::from(u32::MAX), "the archive id of requests, 1 or more");
    let root = section.required_path("root", "the absolute path of the directory that holds the archive");
    let formats = [("sifaka", Format::Sifaka), ("lemur", Format::Lemur)];
    let format = section.optional_choice("format", &formats).map_or(Format::Sifaka, |format| format.value);
    let compression = compression(&mut section, format);
    let checksums = checksums(section.section("checksums"), defaults);
    let max_in_flight = section.optional_u64("max_in_flight", 1..=u64::from(IN_FLIGHT_LIMIT));
    let max_in_flight = max_in_flight.and_then(|at| NonZeroU32::new(u32::try_from(at.value).ok()?));
    let bandwidth_limit = bandwidth_limit(&mut section);
    let pack_threshold_bytes = pack(section.section("pack"), format, checksums);
    section.finish();

    let id = id.and_then(|id| Some(At { pos: id.pos, value: u32::try_from(id.value).ok()? }));
    if let Some(At { pos, value }) = id
        && let Some(other) = taken.ids.insert(value, name.value.clone())
    {
        reader.problem(pos, format!("id {value} is already that of archive \"{}\"", other.escape_debug()), None);
    }
    if let Some(At { pos, value }) = &root
        && let Some(other) = taken.roots.insert(value.clone(), name.value.clone())
    {
        let what = format!(
            "root \"{}\" is already that of archive \"{}\"",
            value.to_string_lossy().escape_debug(),
            other.escape_debug()
        );
        reader.problem(*pos, what, None);
    }
    Some(PosixArchive {
        name: name.value,
        id: id?.value,
        root: root?.value,
        compression,
        checksums,
        format,
        max_in_flight,
        bandwidth_limit,
        pack_threshold_bytes,
    })
}

fn pack(mut section: Section<'_>, format: Format, checksums: Checksums) -> u64 {
    let threshold = section.optional_bytes("threshold", 0..=PACK_THRESHOLD_MAX);
    let has_manifests = format == Format::Sifaka && !checksums.disabled;
    if let Some(At { pos, value: 1.. }) = threshold
        && format == Format::Lemur
    {
        let hint = "use format = \"sifaka\", or leave it out";
        section.reader().problem(pos, "packs are not part of format \"lemur\"", Some(hint));
    }
    section.finish();
    if has_manifests { threshold.map_or(PACK_THRESHOLD, |at| at.value) } else { 0 }
}

fn bandwidth_limit(section: &mut Section<'_>) -> Option<NonZeroU64> {
    let At { pos, value } = section.optional_rate("bandwidth_limit", 0..=BANDWIDTH_MAX)?;
    if (1..BANDWIDTH_MIN).contains(&value) {
        let hint = "the least is \"64KiB/s\"; 0 is no limit";
        section.reader().problem(pos, format!("`bandwidth_limit` of {value} bytes a second is too little"), Some(hint));
    }
    NonZeroU64::new(value)
}

fn compression(section: &mut Section<'_>, format: Format) -> Compression {
    let own = format.codec();
    let choices = [
        ("off", Compression::Off),
        ("on", Compression::On(own)),
        ("auto", Compression::Auto(own)),
        ("zstd", Compression::On(Codec::Zstd)),
        ("gzip", Compression::On(Codec::Gzip)),
    ];
    let Some(At { pos, value }) = section.optional_choice("compression", &choices) else { return Compression::Off };
    if format == Format::Lemur && value == Compression::On(Codec::Zstd) {
        let hint = "use \"on\" or \"gzip\", or format = \"sifaka\"";
        section.reader().problem(pos, "compression \"zstd\" is not part of format \"lemur\"", Some(hint));
    }
    value
}

fn checksums(mut section: Section<'_>, defaults: Checksums) -> Checksums {
    let disabled = section.optional_bool("disabled");
    let disable_compare = section.optional_bool("disable_compare_on_restore");
    section.finish();
    Checksums {
        disabled: disabled.map_or(defaults.disabled, |at| at.value),
        disable_compare_on_restore: disable_compare.map_or(defaults.disable_compare_on_restore, |at| at.value),
    }
}

#[cfg(test)]
mod tests;
