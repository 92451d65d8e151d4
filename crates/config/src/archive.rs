//! The configuration of a mover with archives, whatever these are kept in: names and numbers, compression, checksums, limits.
//!
//! [`MoverConfig::parse`] is pure, [`MoverConfig::load`] reads the file. Whether a place exists is not looked at here: that is the
//! mover's to find out when it starts.

use crate::error::{ConfigError, Warning};
use crate::reader::{At, Reader, Section};
use crate::tree;
use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroU64};
use std::path::Path;

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

/// Where a kind of mover keeps its archives, as its configuration says it.
pub trait Place: Sized + Clone + PartialEq + std::fmt::Debug + Send + Sync + 'static {
    /// What may be said for all archives at once.
    type Common;
    /// What messages call the file.
    const FILE: &'static str;
    /// An archive that could be written where there is none.
    const EXAMPLE: &'static str;
    /// `num_threads` where nothing is said.
    const THREADS: u32;
    /// What `format` may be; the first is what it is where nothing is said. Where there is only Lemur's for buckets, it cannot be said, and nothing
    /// can be that Lemur has not.
    const FORMATS: &'static [(&'static str, Format)];

    /// Reads what is said for all archives.
    fn read_common(root: &mut Section<'_>) -> Self::Common;

    /// Reads what the mover's own keys of an archive's block say. Says what is wrong with it; `None` when it cannot be used.
    fn read(section: &mut Section<'_>, common: &Self::Common, name: &str, taken: &mut Taken) -> Option<Self>;
}

/// How a mover runs, and the archives it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoverConfig<P> {
    /// `num_threads` (1 to 1024): actions worked on at the same time.
    pub num_threads: u32,
    /// `checksums { … }`: for archives that do not say otherwise.
    pub checksums: Checksums,
    /// `archive "name" { … }`, in the order of the file; at least one.
    pub archives: Vec<Archive<P>>,
}

/// One `archive "name" { … }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive<P> {
    /// What archives of any mover have.
    pub settings: ArchiveSettings,
    /// Where it is.
    pub place: P,
}

impl<P: Place> MoverConfig<P> {
    /// Reads a configuration, calling it `file_name` in messages.
    ///
    /// # Errors
    /// Every problem of the text.
    pub fn parse(text: &str, file_name: &str) -> Result<(Self, Vec<Warning>), ConfigError> {
        parse(text, file_name, Self::read)
    }

    /// Reads the configuration file at `path`.
    ///
    /// # Errors
    /// As [`MoverConfig::parse`]; also when the file cannot be read, or its mode lets group or others at it
    /// (as Lemur's plugins have it for all their files, whatever they hold).
    pub fn load(path: &Path) -> Result<(Self, Vec<Warning>), ConfigError> {
        load(path, P::FILE, Self::read)
    }

    /// Every key that the mover's file may hold, as `key` or `section.key`, an archive's as `archive.key`.
    pub fn known_keys() -> BTreeSet<String> {
        known_keys(Self::read)
    }

    fn read(mut root: Section<'_>) -> Self {
        let num_threads = root.optional_u64("num_threads", 1..=u64::from(THREAD_LIMIT));
        let checksums = checksums(root.section("checksums"), Checksums::default());
        let common = P::read_common(&mut root);
        let sections = root.required_labelled_sections("archive", P::EXAMPLE);
        let mut taken = Taken::default();
        let mut read = |(name, section)| archive(name, section, (&common, checksums), &mut taken);
        let archives = sections.into_iter().filter_map(&mut read).collect();
        root.finish();
        let num_threads = num_threads.and_then(|threads| u32::try_from(threads.value).ok()).unwrap_or(P::THREADS);
        Self { num_threads, checksums, archives }
    }
}

/// Reads a mover's file: `read` is given its root.
pub(crate) fn parse<T>(
    text: &str,
    file_name: &str,
    read: impl FnOnce(Section<'_>) -> T,
) -> Result<(T, Vec<Warning>), ConfigError> {
    let root = tree::parse(text).map_err(|problem| ConfigError::one(file_name, problem))?;
    let reader = Reader::new(file_name);
    let config = read(reader.root(&root));
    let warnings = reader.finish()?;
    Ok((config, warnings))
}

/// As [`parse`], for the file at `path`, which has to be its owner's alone: it holds secrets, or commands for root.
pub(crate) fn load<T>(
    path: &Path,
    what: &str,
    read: impl FnOnce(Section<'_>) -> T,
) -> Result<(T, Vec<Warning>), ConfigError> {
    let loaded = crate::file::load(path, what, "create it, with mode 0600")?;
    loaded.refuse_if_shared("must be private to its owner")?;
    parse(&loaded.text, &loaded.name, read)
}

/// The keys that `read` asks for, also those of an archive.
pub(crate) fn known_keys<T>(read: impl FnOnce(Section<'_>) -> T) -> BTreeSet<String> {
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

fn archive<P: Place>(
    name: At<String>,
    mut section: Section<'_>,
    (common, defaults): (&P::Common, Checksums),
    taken: &mut Taken,
) -> Option<Archive<P>> {
    let id = read_id(&name, &mut section, taken);
    let place = P::read(&mut section, common, &name.value, taken);
    let settings = read_settings(name.value, id, &mut section, P::FORMATS, defaults);
    section.finish();
    Some(Archive { settings: settings?, place: place? })
}

/// What stands in an `archive "name" { … }` of any mover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveSettings {
    /// The label: names the archive in logs.
    pub name: String,
    /// `id` (required; at least 1): the archive id of requests; no two archives share one.
    pub id: u32,
    /// `compression` (`off`).
    pub compression: Compression,
    /// `checksums { … }`: what it does not say is taken from the file's own.
    pub checksums: Checksums,
    /// `format` (`sifaka`; for Lemur's movers for buckets, theirs).
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
    /// What Lemur's movers for buckets write: content as it is, and nothing beside it. The hash on the file is BLAKE3: Lemur's movers looked at none.
    LemurBucket,
}

impl Format {
    fn codec(self) -> Codec {
        match self {
            Self::Sifaka => Codec::Zstd,
            Self::Lemur | Self::LemurBucket => Codec::Gzip,
        }
    }
}

/// What two archives of a file must not share, with the name of the archive that has it.
#[derive(Debug, Default)]
pub struct Taken {
    ids: BTreeMap<u32, String>,
    places: BTreeMap<String, String>,
}

impl Taken {
    /// Says so if another archive is at this place already. `what` is how a message begins.
    pub fn place(&mut self, section: &Section<'_>, place: At<String>, what: &str, name: &str) {
        let At { pos, value } = place;
        let what = format!("{what} \"{}\"", value.escape_debug());
        if let Some(other) = self.places.insert(value, name.to_owned()) {
            let what = format!("{what} is already that of archive \"{}\"", other.escape_debug());
            section.reader().problem(pos, what, None);
        }
    }
}

/// Reads a name and an id; `None` when there is no id.
pub(crate) fn read_id(name: &At<String>, section: &mut Section<'_>, taken: &mut Taken) -> Option<u32> {
    let reader = section.reader();
    if name.value.is_empty() {
        reader.problem(name.pos, "an archive's name is empty", None);
    }
    let At { pos, value } =
        section.required_u64("id", 1..=u64::from(u32::MAX), "the archive id of requests, 1 or more")?;
    let id = u32::try_from(value).ok()?;
    if let Some(other) = taken.ids.insert(id, name.value.clone()) {
        reader.problem(pos, format!("id {id} is already that of archive \"{}\"", other.escape_debug()), None);
    }
    Some(id)
}

/// Reads what is common besides name and id.
fn read_settings(
    name: String,
    id: Option<u32>,
    section: &mut Section<'_>,
    formats: &[(&str, Format)],
    defaults: Checksums,
) -> Option<ArchiveSettings> {
    let (_, usual) = formats.first()?;
    let has_choice = *usual != Format::LemurBucket;
    let format = if has_choice { section.optional_choice("format", formats) } else { None };
    let format = format.map_or(*usual, |format| format.value);
    let compression = if has_choice { compression(section, format) } else { Compression::Off };
    let checksums = checksums(section.section("checksums"), defaults);
    let max_in_flight = section.optional_u64("max_in_flight", 1..=u64::from(IN_FLIGHT_LIMIT));
    let max_in_flight = max_in_flight.and_then(|at| NonZeroU32::new(u32::try_from(at.value).ok()?));
    let bandwidth_limit = bandwidth_limit(section);
    let pack_threshold_bytes = if has_choice { pack(section.section("pack"), format, checksums) } else { 0 };
    let id = id?;
    Some(ArchiveSettings {
        name,
        id,
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
