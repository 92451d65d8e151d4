//! The command mover's configuration: `lhsm-plugin-command` beside the agent's file. Programs that move files to and from tape, HPSS, or
//! whatever else has a command line.
//!
//! [`CommandConfig::parse`] is pure. Whether the programs and directories exist is not looked at here: that is the mover's to find out.

mod profile;
mod template;

pub use profile::Profile;
pub use template::{Part, Placeholder, Template, Word};

use crate::archive::{self, Taken, read_id};
use crate::error::{ConfigError, Warning};
use crate::reader::{At, Reader, Section};
use crate::tree::Pos;
use profile::Defaults;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;
use template::Use;

/// The most actions a mover may ask to hold at once (`model::limits::MAX_CREDITS`).
const IN_FLIGHT_LIMIT: u64 = 65_536;
const COMMANDS_LIMIT: u64 = 256;
const TIMEOUT_LIMIT_S: u64 = 30 * 86_400;
const TIMEOUT_S: u64 = 86_400;
const BATCH_FILES_LIMIT: u64 = 10_000;
const BATCH_FILES: u64 = 100;
const BATCH_WAIT_LIMIT_S: u64 = 3600;
const BATCH_WAIT_S: u64 = 5;
/// Texts that failures are told by.
const TEXTS_LIMIT: usize = 64;

/// The archives that the command mover serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandConfig {
    /// `archive "name" { … }`, in the order of the file; at least one.
    pub archives: Vec<CommandArchive>,
}

/// One `archive "name" { … }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandArchive {
    /// The label: names the archive in logs.
    pub name: String,
    /// `id`: the archive id of requests; no two archives share one.
    pub id: u32,
    /// `archive`: reads `{file}`, the members of `{list}`, or else its standard input.
    pub archive: Template,
    /// `restore`: writes `{file}`, into `{dir}`, or else its standard output.
    pub restore: Template,
    /// `remove`; `None` with `keep_removed`.
    pub remove: Option<Template>,
    /// `stat`: succeeds when the object is there; what it prints, if that is a number, is its size.
    pub stat: Option<Template>,
    /// `id_from`.
    pub id_from: IdFrom,
    /// `check_stored`.
    pub check_stored: Check,
    /// `staging`: a directory for what commands write, and for lists.
    pub staging: Option<PathBuf>,
    /// `mount_point`: no command runs unless something is mounted there.
    pub mount_point: Option<PathBuf>,
    /// `directory` (`/`): where commands run that have no `{dir}`; the others run there.
    pub directory: Option<PathBuf>,
    /// `environment { … }`: all that commands get besides a plain PATH, HOME and LC_ALL.
    pub environment: BTreeMap<String, String>,
    /// `max_commands`: commands that run at the same time, such as one for each drive.
    pub max_commands: NonZeroU32,
    /// `max_in_flight`: actions that the mover holds at once, queued and running.
    pub max_in_flight: Option<NonZeroU32>,
    /// `timeout_s`: the longest that a command may take.
    pub timeout: Duration,
    /// `output_timeout_s`: the longest that a command may move and print nothing; `None`: as long as it likes.
    pub output_timeout: Option<Duration>,
    /// `failures { … }`.
    pub failures: Failures,
    /// `batch { … }`: counts for commands with `{list}` or `{list_paths}`.
    pub batch: Batch,
}

/// Who gives an object its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdFrom {
    /// The agent, so that a repeated archive replaces its own object.
    Uuid,
    /// The program, which prints it on standard output.
    Stdout,
}

/// What is done to see that an object was stored, before it counts as archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// The program's word is taken for it.
    No,
    /// It is asked for by `stat`; a size that this prints must be the file's.
    Stat,
    /// It is read back by `restore`, and its hash compared.
    Content,
}

/// How failures are told apart. What nothing is said of is temporary: it is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Failures {
    /// Exit codes of failures that may pass, whatever `permanent_text` and `missing_text` say.
    pub temporary: Vec<u8>,
    /// Exit codes of failures that do not pass.
    pub permanent: Vec<u8>,
    /// Exit codes that say that there is no such object.
    pub missing: Vec<u8>,
    /// Texts in a line on standard error, which count more than exit codes.
    pub temporary_text: Vec<String>,
    /// Likewise.
    pub permanent_text: Vec<String>,
    /// Likewise.
    pub missing_text: Vec<String>,
}

/// How many files one command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// A batch with so many files is begun.
    pub max_files: usize,
    /// A batch of so many bytes is begun.
    pub max_bytes: u64,
    /// A batch is begun when its first file has waited so long. A restore that a reader waits for waits for no others.
    pub max_wait: Duration,
    /// How a file's result is told.
    pub results: Results,
}

/// How a batch's command tells the result of each file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Results {
    /// By its exit code, for all of them.
    Exit,
    /// By a line on standard output for each: the name, a tab, and `ok` or what went wrong.
    Lines,
}

impl CommandConfig {
    /// Reads a configuration, calling it `file_name` in messages.
    ///
    /// # Errors
    /// Every problem of the text.
    pub fn parse(text: &str, file_name: &str) -> Result<(Self, Vec<Warning>), ConfigError> {
        archive::parse(text, file_name, read)
    }

    /// Reads the configuration file at `path`.
    ///
    /// # Errors
    /// As [`CommandConfig::parse`]; also when the file cannot be read, or its mode lets group or others at it: its commands are run as root.
    pub fn load(path: &Path) -> Result<(Self, Vec<Warning>), ConfigError> {
        archive::load(path, "command mover's configuration", read)
    }

    /// Every key a command mover's file may hold, as `archive` or `archive.key`.
    pub fn known_keys() -> BTreeSet<String> {
        archive::known_keys(read)
    }
}

fn read(mut root: Section<'_>) -> CommandConfig {
    let hint = "write archive \"name\" { id = 1, profile = \"rclone\", root = \"remote:bucket\" }";
    let mut taken = Taken::default();
    let sections = root.required_labelled_sections("archive", hint);
    let archives = sections.into_iter().filter_map(|(name, section)| one_archive(name, section, &mut taken)).collect();
    root.finish();
    CommandConfig { archives }
}

fn one_archive(name: At<String>, mut section: Section<'_>, taken: &mut Taken) -> Option<CommandArchive> {
    let reader = section.reader();
    let pos = section.pos();
    let id = read_id(&name, &mut section, taken);
    let profile = section.optional_choice("profile", &Profile::ALL).map(|at| at.value);
    let defaults = profile::defaults(profile);
    let commands = commands(&mut section, &defaults);
    let staging = section.optional_path("staging");
    let id_from = section.optional_choice("id_from", &[("uuid", IdFrom::Uuid), ("stdout", IdFrom::Stdout)]);
    let checks = [("no", Check::No), ("stat", Check::Stat), ("content", Check::Content)];
    let check_stored = section.optional_choice("check_stored", &checks);
    let mount_point = section.optional_path("mount_point").map(|at| at.value);
    if defaults.needs_mount_point && mount_point.is_none() {
        let hint = "where the tape is mounted; nothing is read or written while it is not";
        reader.problem(pos, "`mount_point` is missing", Some(hint));
    }
    let directory = section.optional_path("directory").map(|at| at.value);
    let environment = environment(&mut section);
    let max_commands = number(section.optional_u64("max_commands", 1..=COMMANDS_LIMIT));
    let max_in_flight = number(section.optional_u64("max_in_flight", 1..=IN_FLIGHT_LIMIT));
    let timeout_s = section.optional_u64("timeout_s", 1..=TIMEOUT_LIMIT_S).map_or(TIMEOUT_S, |at| at.value);
    let output_timeout_s = section.optional_u64("output_timeout_s", 0..=TIMEOUT_LIMIT_S).map_or(0, |at| at.value);
    let failures = failures(section.section("failures"), &defaults);
    let batch = batch(section.section("batch"), &defaults);
    section.finish();

    let (commands, id) = (commands?, id?);
    let check = check_stored.as_ref().map(|at| at.value).or(defaults.check);
    let check = check.unwrap_or(if commands.stat.is_some() { Check::Stat } else { Check::No });
    let read = CommandArchive {
        name: name.value,
        id,
        archive: commands.archive,
        restore: commands.restore,
        remove: commands.remove,
        stat: commands.stat,
        id_from: id_from.as_ref().map_or(IdFrom::Uuid, |at| at.value),
        check_stored: check,
        staging: staging.as_ref().map(|at| at.value.clone()),
        mount_point,
        directory,
        environment,
        max_commands: max_commands.unwrap_or(NonZeroU32::MIN),
        max_in_flight,
        timeout: Duration::from_secs(timeout_s),
        output_timeout: (output_timeout_s > 0).then(|| Duration::from_secs(output_timeout_s)),
        failures,
        batch,
    };
    agree(&read, reader, pos, staging);
    Some(read)
}

/// What goes together, and what does not.
fn agree(archive: &CommandArchive, reader: &Reader, pos: Pos, staging: Option<At<PathBuf>>) {
    let writes_files = [Placeholder::File, Placeholder::Dir, Placeholder::Member];
    let restores_files = writes_files.iter().any(|hole| archive.restore.has(*hole));
    let commands = [Some(&archive.archive), Some(&archive.restore), archive.remove.as_ref(), archive.stat.as_ref()];
    let is_batch = |template: &&Template| template.is_batch();
    let any_batch = commands.iter().flatten().any(is_batch);
    if archive.staging.is_none() && (restores_files || any_batch) {
        let hint = "a directory of the mover's own, large enough for the largest file that is restored; or let `restore` write to its standard output";
        reader.problem(pos, "`staging` is missing", Some(hint));
    }
    if let Some(At { pos, value }) = staging {
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=,@".contains(c);
        if !value.to_str().is_some_and(|text| text.chars().all(plain)) {
            let hint = "use letters, digits and /._-+=,@: some programs read their arguments as commands";
            reader.problem(pos, "`staging` holds a character that it must not", Some(hint));
        }
    }
    let names_batches = archive.archive.has(Placeholder::Batch);
    if names_batches && !archive.archive.is_batch() {
        reader.problem(pos, "`archive` has {batch}, and no {list} or {list_paths}", None);
    }
    for (key, template) in
        [("restore", Some(&archive.restore)), ("remove", archive.remove.as_ref()), ("stat", archive.stat.as_ref())]
    {
        let has = |hole| template.is_some_and(|template| template.has(hole));
        if (has(Placeholder::Batch) || has(Placeholder::Member)) && !names_batches {
            let what =
                format!("`{key}` has {{batch}} or {{member}}, and `archive` has no {{batch}}: ids do not name it");
            reader.problem(pos, what, None);
        }
    }
    let fans = |template: &&Template| template.is_batch() && template.has(Placeholder::Fan);
    if commands.iter().flatten().any(fans) && !names_batches {
        reader.problem(pos, "a command of many files has {fan}, and `archive` has no {batch}", None);
    }
    if archive.id_from == IdFrom::Stdout && any_batch {
        let hint = "commands with {list} take the agent's ids: use id_from = \"uuid\"";
        reader.problem(pos, "`id_from` is \"stdout\", and a command does many files", Some(hint));
    }
    if archive.id_from == IdFrom::Stdout && commands.iter().flatten().any(|template| template.has(Placeholder::Fan)) {
        reader.problem(pos, "`id_from` is \"stdout\", and a command has {fan}", Some("use {id} alone"));
    }
    if archive.id_from == IdFrom::Stdout && archive.archive.has(Placeholder::Id) {
        reader.problem(pos, "`id_from` is \"stdout\", and `archive` has {id}", Some("it is not known before"));
    }
    let names = [Placeholder::Id, Placeholder::Member, Placeholder::List, Placeholder::ListPaths];
    for (key, template) in [("restore", Some(&archive.restore)), ("remove", archive.remove.as_ref())] {
        if template.is_some_and(|template| !names.iter().any(|name| template.has(*name))) {
            reader.problem(pos, format!("`{key}` does not name the object"), Some("use {id} or {list}"));
        }
    }
    if archive.check_stored == Check::Stat && archive.stat.is_none() {
        let hint = "give `stat`, or use \"no\" or \"content\"";
        reader.problem(pos, "`check_stored` is \"stat\", and there is no `stat`", Some(hint));
    }
}

struct Commands {
    archive: Template,
    restore: Template,
    remove: Option<Template>,
    stat: Option<Template>,
}

fn commands(section: &mut Section<'_>, defaults: &Defaults) -> Option<Commands> {
    let (reader, pos) = (section.reader(), section.pos());
    let root = section.optional_string("root").map(|at| at.value);
    let mut command = |usage: Use, default: &[&str]| {
        let given = section.string_list(usage.key());
        let at = |text: &&str| At { pos, value: (*text).to_owned() };
        let words = given.or_else(|| {
            let words: Vec<_> = default.iter().map(at).collect();
            (!words.is_empty()).then_some(At { pos, value: words })
        })?;
        template::read(&words, usage, root.as_deref(), reader)
    };
    let archive = command(Use::Archive, defaults.archive);
    let restore = command(Use::Restore, defaults.restore);
    let remove = command(Use::Remove, defaults.remove);
    let stat = command(Use::Stat, defaults.stat);
    let keep_removed = section.optional_bool("keep_removed").map_or(defaults.keep_removed, |at| at.value);
    let given = |key: &str| reader.given_keys().contains(&format!("archive.{key}"));
    for (key, missing) in [("archive", archive.is_none()), ("restore", restore.is_none())] {
        if missing && section.is_present() && !given(key) && defaults.archive.is_empty() {
            let hint = format!("write {key} = [\"program\", \"argument\", …], or profile = \"…\"");
            reader.problem(pos, format!("`{key}` is missing"), Some(&hint));
        }
    }
    if remove.is_none() && !keep_removed && !given("remove") {
        let hint = "write remove = [\"program\", \"{id}\"], or keep_removed = true: objects that nobody needs any more then stay";
        reader.problem(pos, "`remove` is missing", Some(hint));
    }
    let remove = if keep_removed { None } else { remove };
    Some(Commands { archive: archive?, restore: restore?, remove, stat })
}

fn environment(section: &mut Section<'_>) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::new();
    for (name, value) in section.string_map("environment") {
        let fine = name.value.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !name.value.starts_with(|c: char| c.is_ascii_digit())
            && !name.value.is_empty();
        if !fine || value.contains('\0') {
            let what = format!("\"{}\" is no environment variable", name.value.escape_debug());
            section.reader().problem(name.pos, what, Some("letters, digits and _, and no NUL in the value"));
        }
        environment.insert(name.value, value);
    }
    environment
}

fn failures(mut section: Section<'_>, defaults: &Defaults) -> Failures {
    let mut codes = |key, default: &[u8]| match section.number_list(key, 1..=255, 255) {
        None => default.to_vec(),
        Some(at) => at.value.iter().filter_map(|code| u8::try_from(code.value).ok()).collect(),
    };
    let temporary = codes("temporary", &[]);
    let permanent = codes("permanent", defaults.permanent);
    let missing = codes("missing", defaults.missing);
    let mut texts = |key, default: &[&str]| -> Vec<String> {
        let Some(At { pos, value }) = section.string_list(key) else {
            return default.iter().map(|text| (*text).to_owned()).collect();
        };
        if value.len() > TEXTS_LIMIT || value.iter().any(|text| text.value.is_empty()) {
            let what = format!("`{key}` has at most {TEXTS_LIMIT} texts, none of them empty");
            section.reader().problem(pos, what, None);
        }
        value.into_iter().map(|text| text.value).collect()
    };
    let temporary_text = texts("temporary_text", &[]);
    let permanent_text = texts("permanent_text", &[]);
    let missing_text = texts("missing_text", defaults.missing_text);
    section.finish();
    Failures { temporary, permanent, missing, temporary_text, permanent_text, missing_text }
}

fn batch(mut section: Section<'_>, defaults: &Defaults) -> Batch {
    let max_files = section.optional_u64("max_files", 1..=BATCH_FILES_LIMIT).map(|at| at.value);
    let max_files = max_files.or(defaults.max_files).unwrap_or(BATCH_FILES);
    let max_bytes = section.optional_bytes("max_bytes", 1..=1 << 60).map_or(64 << 30, |at| at.value);
    let max_wait_s = section.optional_u64("max_wait_s", 0..=BATCH_WAIT_LIMIT_S).map_or(BATCH_WAIT_S, |at| at.value);
    let results = section.optional_choice("results", &[("exit", Results::Exit), ("lines", Results::Lines)]);
    section.finish();
    Batch {
        max_files: usize::try_from(max_files).unwrap_or(1),
        max_bytes,
        max_wait: Duration::from_secs(max_wait_s),
        results: results.map_or(Results::Exit, |at| at.value),
    }
}

fn number(value: Option<At<u64>>) -> Option<NonZeroU32> {
    NonZeroU32::new(u32::try_from(value?.value).ok()?)
}

#[cfg(test)]
mod tests;
