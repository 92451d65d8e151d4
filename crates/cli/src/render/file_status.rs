//! The state of a file on one line, in Lemur's form.

use super::units::bytes;
use agent::admin::api::{ActionState, FileStatus};
use model::Command;

/// What a line shows besides the state.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Show {
    /// `-H`: no path.
    pub(crate) hide_path: bool,
    /// `-l`: all flags instead of the one that matters most.
    pub(crate) long: bool,
    /// `-a`: what is being done.
    pub(crate) action: bool,
    /// `-p`: how far that is.
    pub(crate) progress: bool,
}

/// What a line says of a file, wherever it is.
#[derive(Debug)]
pub(crate) struct View<'a> {
    /// Names of its flags.
    pub(crate) flags: Vec<&'a str>,
    /// Their numbers, separated by commas.
    pub(crate) archives: String,
    pub(crate) doing: Option<Doing>,
}

/// What is being done to a file.
#[derive(Debug)]
pub(crate) struct Doing {
    pub(crate) command: Command,
    pub(crate) state: &'static str,
    pub(crate) bytes_done: u64,
    /// All that is to be done, in bytes.
    pub(crate) size: u64,
}

impl<'a> From<&'a FileStatus> for View<'a> {
    fn from(status: &'a FileStatus) -> Self {
        let doing = status.action.as_ref().map(|action| Doing {
            command: action.command,
            state: match action.state {
                ActionState::Queued | ActionState::Retrying => "waiting",
                ActionState::Thawing => "thawing",
                ActionState::Running => "running",
            },
            bytes_done: action.bytes_done,
            size: action.size.unwrap_or(status.size),
        });
        Self { flags: status.flags.iter().map(String::as_str).collect(), archives: archives(status), doing }
    }
}

impl View<'_> {
    fn has(&self, flag: &str) -> bool {
        self.flags.contains(&flag)
    }
}

/// `PATH ID STATE ACTION`, without a newline. `name` is the path as it may be written.
pub(crate) fn line(name: &[u8], status: &View<'_>, show: Show) -> Vec<u8> {
    let mut out = Vec::new();
    if !show.hide_path {
        out.extend_from_slice(name);
        out.push(b' ');
    }
    let exists = status.has("exists");
    let archive = if exists { status.archives.as_str() } else { "-" };
    let state = if show.long { long(status) } else { short(status) };
    let action = match &status.doing {
        Some(action) if exists && show.action => doing(action, show.progress),
        _ => "-".to_owned(),
    };
    out.extend_from_slice(format!("{archive} {state} {action}").as_bytes());
    out
}

/// The archive of the copy that Lemur's tools know, then those of further copies.
fn archives(status: &FileStatus) -> String {
    status.copies.iter().fold(status.archive_id.to_string(), |text, copy| format!("{text},{}", copy.archive_id))
}

fn long(status: &View<'_>) -> String {
    if status.flags.is_empty() { "-".to_owned() } else { status.flags.join(",") }
}

fn short(status: &View<'_>) -> String {
    let state = match () {
        () if !status.has("exists") => "-",
        () if status.has("released") && status.has("lost") => "released+lost",
        () if status.has("released") => "released",
        () if status.has("lost") => "lost",
        () if status.has("dirty") => "dirty",
        () if status.has("archived") => "archived",
        () => "unarchived",
    };
    let norelease = if status.has("norelease") { "@" } else { "" };
    let noarchive = if status.has("noarchive") { "%" } else { "" };
    format!("{state}{norelease}{noarchive}")
}

fn doing(action: &Doing, progress: bool) -> String {
    let text = format!("[{}:{}]", action.command, action.state);
    if progress && matches!(action.command, Command::Archive | Command::Restore) {
        format!("{text}({}/{})", bytes(action.bytes_done), bytes(action.size))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent::admin::api::{ActionView, FurtherCopy};
    use model::{ActionId, Class, FileHandle};

    fn status(flags: &[&str]) -> FileStatus {
        FileStatus {
            path: "/fs/f".into(),
            handle: FileHandle { kind: 1, bytes: vec![1, 2, 3, 4].into() },
            managed: !flags.is_empty(),
            flags: flags.iter().map(|f| (*f).to_owned()).collect(),
            archive_id: 2,
            uuid: "0e2f9a7c-5ad1-4b6e-9b7a-0a4dd0c8f0aa".into(),
            hash: "00ff".into(),
            url: String::new(),
            copies: Vec::new(),
            size: 3 << 20,
            archived_size: Some(3 << 20),
            dirty: false,
            action: None,
            error: None,
        }
    }

    fn shown(flags: &[&str], show: Show) -> String {
        String::from_utf8(line(b"f", &View::from(&status(flags)), show)).unwrap()
    }

    #[test]
    fn the_short_form_is_lemur_s() {
        let cases: [(&[&str], &str); 9] = [
            (&[], "f - - -"),
            (&["exists", "archived"], "f 2 archived -"),
            (&["exists", "archived", "released"], "f 2 released -"),
            (&["exists", "archived", "released", "lost"], "f 2 released+lost -"),
            (&["exists", "archived", "lost"], "f 2 lost -"),
            (&["exists", "archived", "dirty"], "f 2 dirty -"),
            (&["exists"], "f 2 unarchived -"),
            (&["exists", "archived", "norelease"], "f 2 archived@ -"),
            (&["norelease", "noarchive"], "f - -@% -"),
        ];
        for (flags, expected) in cases {
            assert_eq!(shown(flags, Show::default()), expected);
        }
    }

    #[test]
    fn further_copies_stand_beside_the_first() {
        let copy = |archive_id| FurtherCopy { archive_id, uuid: "x".into(), hash: String::new(), url: String::new() };
        let status = FileStatus { copies: vec![copy(1), copy(7)], ..status(&["exists", "archived"]) };
        assert_eq!(line(b"f", &View::from(&status), Show::default()), b"f 2,1,7 archived -");
    }

    #[test]
    fn options_are_lemur_s() {
        let flags = ["exists", "archived", "released"];
        assert_eq!(shown(&flags, Show { long: true, ..Show::default() }), "f 2 exists,archived,released -");
        assert_eq!(shown(&[], Show { long: true, ..Show::default() }), "f - - -");
        assert_eq!(shown(&flags, Show { hide_path: true, ..Show::default() }), "2 released -");
        let running = ActionView {
            id: ActionId(5),
            request: 1,
            command: Command::Restore,
            class: Class::Reader,
            archive_id: 2,
            path: "/fs/f".into(),
            state: ActionState::Running,
            fid: None,
            cookie: None,
            mover: Some("posix".into()),
            attempts: 0,
            bytes_done: 1 << 20,
            size: None,
            created_ms: 0,
            not_before_ms: 0,
            thawing_since_ms: None,
            last_error: None,
        };
        let status = FileStatus { action: Some(running), ..status(&flags) };
        let shown = |show| String::from_utf8(line(b"f", &View::from(&status), show)).unwrap();
        assert_eq!(shown(Show::default()), "f 2 released -");
        assert_eq!(shown(Show { action: true, ..Show::default() }), "f 2 released [restore:running]");
        let progress = Show { action: true, progress: true, ..Show::default() };
        assert_eq!(shown(progress), "f 2 released [restore:running](1.0 MiB/3.0 MiB)");
    }
}
