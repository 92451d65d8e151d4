//! Actions on one archive, each by a command of its own, and what they have in common with those that share one (`batch`).
//!
//! Archiving proves its content: what goes through a pipe is hashed as it goes; of a file that the program reads by itself the hash is computed
//! meanwhile, and the file's stamp must be the same after as before. A restore is compared before it counts: see `content`.
//!
//! No program touches a file that is being restored. The guard knows the mover and not its children: one that opened such a file would wait
//! for the restore that it is to do. So programs write to the mover, or into the staging directory, and the mover writes the file.

use super::answer::Answer;
use super::content::{Expected, Feed, Receive, changed, is_same, place};
use super::error::CommandError;
use super::line::{Values, fill, parts_of};
use super::program::{self, Input, Output};
use super::queue::Job;
use super::staging::{Staging, WorkDir};
use config::command::{Check, CommandArchive, IdFrom, Placeholder, Template};
use model::{Command, Digest, Extent, Identity, ObjectId, ObjectIdError, ObjectUrl};
use plugin::{Environment, Reply, Task};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use sys::file::FileStamp;
use transfer::copy::hash_file;
use transfer::{DigestKind, Monitor, OpenFile, TransferError};
use uuid::Uuid;

/// Serves one archive.
pub(super) struct CommandMover {
    pub(super) archive: Arc<CommandArchive>,
    pub(super) staging: Option<Arc<Staging>>,
    pub(super) environment: Environment,
}

/// A file that is being archived.
pub(super) struct Source {
    file: OpenFile,
    before: FileStamp,
}

impl Source {
    /// How a program finds it: it may be opened by anybody who may look at this process, and needs no name.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.file().as_raw_fd()).into()
    }

    /// That it did not change since it was opened.
    pub(super) fn check(&self) -> Result<(), TransferError> {
        if is_same(&self.before, &self.file.stamp()?) { Ok(()) } else { Err(changed(&self.file, self.before.size)) }
    }
}

/// How the hashes of files came out; `None` for those that were not looked at, because all was stopped.
pub(super) type Hashes = Vec<Option<Result<Digest, TransferError>>>;

impl CommandMover {
    /// Does the jobs of a batch, or the one that there is. Gives back those to be done again.
    pub(super) fn run(&self, jobs: Vec<Job>) -> Vec<Job> {
        // What is named by a URL was imported, and is nobody's to remove.
        let is_left = |job: &Job| job.task.command == Command::Remove && ObjectUrl::is_meant(&job.task.identity.uuid);
        let (left, mut jobs): (Vec<_>, Vec<_>) = jobs.into_iter().partition(is_left);
        left.into_iter().for_each(|job| job.reply.done(Identity::default()));
        let Some(first) = jobs.first() else { return jobs };
        let (command, is_record) = (first.task.command, first.task.metadata_only);
        let template = match command {
            Command::Archive => Some(&self.archive.archive),
            Command::Restore => Some(&self.archive.restore),
            Command::Remove => self.archive.remove.as_ref(),
            Command::Verify => None,
        };
        match template {
            Some(template) if template.is_batch() && !is_record => self.run_batch(command, template, jobs),
            _ => {
                for Job { task, reply, .. } in jobs.drain(..) {
                    let done = self.run_one(template, &task, &reply);
                    self.answer(&task, reply, done);
                }
                jobs
            }
        }
    }

    fn run_one(&self, template: Option<&Template>, task: &Task, reply: &Reply) -> Result<Identity, CommandError> {
        match task.command {
            Command::Archive if task.metadata_only => {
                Err(CommandError::Unsupported("this mover keeps nothing of what has no content"))
            }
            Command::Archive => self.archive_one(task, reply),
            Command::Restore => {
                let target = OpenFile::for_writing(self.environment.resolve(&task.write_path))?;
                let expected = Expected { size: task.expected_size, digest: task.identity.hash };
                let digest = self.fetch(&task.identity.uuid, Some(&target), expected, reply)?;
                if task.sync_target {
                    target.sync()?;
                }
                Ok(identity(task.identity.uuid.clone(), Some(digest)))
            }
            Command::Remove => self.remove_one(template, task, reply),
            Command::Verify => self.verify(task, reply),
        }
    }

    pub(super) fn answer(&self, task: &Task, reply: Reply, done: Result<Identity, CommandError>) {
        match done {
            Ok(identity) => reply.done(identity),
            Err(error) => reply.fail(error.to_failure(&self.context(task))),
        }
    }

    /// How messages about a task begin.
    pub(super) fn context(&self, task: &Task) -> String {
        let paths = [&task.file_path, &task.primary_path, &task.write_path, &task.identity.uuid];
        let file = paths.into_iter().find(|path| !path.is_empty()).map_or("?", String::as_str);
        format!("cannot {} {file} (archive \"{}\")", task.command.name(), self.archive.name)
    }

    pub(super) fn source(&self, task: &Task) -> Result<Source, CommandError> {
        let file = OpenFile::for_reading(self.environment.resolve(&task.primary_path))?;
        let before = file.stamp()?;
        Ok(Source { file, before })
    }

    pub(super) fn values(&self) -> Values<'_> {
        Values { archive: self.archive.id, ..Values::default() }
    }

    /// The configuration sees to it that there is a staging directory where it is needed.
    pub(super) fn work_dir(&self) -> Result<WorkDir, CommandError> {
        let staging =
            self.staging.as_ref().ok_or(CommandError::Unsupported("this archive has no staging directory"))?;
        Ok(staging.work_dir()?)
    }

    /// Runs a command to its end, in `dir` if there is one.
    pub(super) fn command(
        &self,
        template: &Template,
        values: &Values<'_>,
        input: Option<Input<'_>>,
        output: Output<'_>,
        stopped: &dyn Fn() -> bool,
    ) -> Result<(), CommandError> {
        let archive = &self.archive;
        if let Some(path) = &archive.mount_point
            && !sys::mounts::is_mount_point(path).unwrap_or(false)
        {
            return Err(CommandError::NotMounted { path: path.clone() });
        }
        let directory = values.dir.or(archive.directory.as_deref()).unwrap_or(Path::new("/"));
        program::run(archive, &fill(template, values)?, directory, input, output, stopped)
    }

    fn archive_one(&self, task: &Task, reply: &Reply) -> Result<Identity, CommandError> {
        let source = self.source(task)?;
        let proposed = match self.archive.id_from {
            IdFrom::Uuid => Some(proposed_id(&task.identity.uuid)?),
            IdFrom::Stdout => None,
        };
        let (template, path, size) = (&self.archive.archive, source.path(), source.before.size);
        let values = Values {
            file: Some(&path),
            id: proposed.as_deref(),
            size: Some(size),
            path: Some(&task.tree_path),
            ..self.values()
        };
        let mut printed = Answer::default();
        let mut output = |bytes: &[u8]| printed.take(bytes);
        let stopped = || is_stopped(&[reply]);
        let digest = if template.has(Placeholder::File) {
            let (ran, hashes) = hash_meanwhile(&[&source], &[reply], false, || {
                self.command(template, &values, None, &mut output, &stopped)
            });
            ran?;
            hashes.into_iter().next().flatten().ok_or(TransferError::Cancelled)??
        } else {
            let mut feed = Feed::new(&source.file, size);
            let mut input = |buffer: &mut Vec<u8>| feed.next(buffer).map(|moved| reply.progress(moved));
            self.command(template, &values, Some(&mut input), &mut output, &stopped)?;
            feed.finish()
        };
        source.check()?;
        let id = proposed.map_or_else(|| printed.id(template), Ok)?;
        self.check_stored(&id, &source, digest, reply)?;
        Ok(identity(id, Some(digest)))
    }

    /// Has an object brought by a command for it alone into an open file; or only compared, without one.
    pub(super) fn fetch(
        &self,
        id: &str,
        target: Option<&OpenFile>,
        expected: Expected,
        reply: &Reply,
    ) -> Result<Digest, CommandError> {
        let id = ObjectId::parse(id)?;
        let (id, template) = (id.as_str(), &self.archive.restore);
        let mut receive = Receive::new(target, id, expected);
        let moved = |extent| watch_one(reply, extent);
        let stopped = || is_stopped(&[reply]);
        let values = Values { id: Some(id), size: expected.size, ..self.values() };
        let (has_file, has_dir) = (template.has(Placeholder::File), template.has(Placeholder::Dir));
        // With {member} alone it is written where the command runs.
        let has_dir = has_dir || template.has(Placeholder::Member) || template.is_batch();
        if !has_file && !has_dir {
            let mut output = |bytes: &[u8]| receive.take(bytes).and_then(moved);
            self.command(template, &values, None, &mut output, &stopped)?;
            return Ok(receive.finish()?);
        }
        let dir = self.work_dir()?;
        let name = if has_file { "content" } else { parts_of(id).1 };
        let file = dir.members().join(name);
        let [list, list_paths] = dir.lists([name].into_iter())?;
        let values = Values {
            file: Some(&file),
            dir: Some(dir.members()),
            list: Some(&list),
            list_paths: Some(&list_paths),
            ..values
        };
        self.command(template, &values, None, &mut |_| Ok(()), &stopped)?;
        let Some(staged) = dir.written(name)? else {
            return Err(CommandError::NotWritten { program: template.program().to_owned(), path: file });
        };
        Ok(place(&staged, receive, &moved)?)
    }

    fn remove_one(&self, template: Option<&Template>, task: &Task, reply: &Reply) -> Result<Identity, CommandError> {
        // None with `keep_removed`.
        let Some(template) = template else { return Ok(Identity::default()) };
        let id = ObjectId::parse(&task.identity.uuid)?;
        let values = Values { id: Some(id.as_str()), ..self.values() };
        match self.command(template, &values, None, &mut |_| Ok(()), &|| is_stopped(&[reply])) {
            Err(error) if error.is_missing() => Ok(Identity::default()),
            other => other.map(|()| Identity::default()),
        }
    }

    fn verify(&self, task: &Task, reply: &Reply) -> Result<Identity, CommandError> {
        let file = OpenFile::for_reading(self.environment.resolve(&task.primary_path))?;
        if !task.identity.uuid.is_empty() {
            // The hash alone says that the file did not change, not that its copy is there.
            let why = "this archive has no `stat` to ask for an object with";
            let template = self.archive.stat.as_ref().ok_or(CommandError::Unsupported(why))?;
            self.stat(template, &task.identity.uuid, reply)?;
        }
        let kind = task.identity.hash.as_ref().map_or(DigestKind::Blake3, DigestKind::of);
        let (_, digest) = hash_file(&file, kind, &Watch { replies: &[reply], stop: &AtomicBool::new(false) })?;
        Ok(Identity { hash: Some(digest), ..Identity::default() })
    }

    /// The object's size, if the command prints one. An object that is not there is an error.
    fn stat(&self, template: &Template, id: &str, reply: &Reply) -> Result<Option<u64>, CommandError> {
        let id = ObjectId::parse(id)?;
        let values = Values { id: Some(id.as_str()), ..self.values() };
        let mut printed = Answer::default();
        self.command(template, &values, None, &mut |bytes| printed.take(bytes), &|| is_stopped(&[reply]))?;
        Ok(printed.number())
    }

    /// That the object is there before it counts as archived, as far as the configuration says.
    pub(super) fn check_stored(
        &self,
        id: &str,
        source: &Source,
        digest: Digest,
        reply: &Reply,
    ) -> Result<(), CommandError> {
        let size = source.before.size;
        let checked = match (self.archive.check_stored, &self.archive.stat) {
            (Check::No, _) | (Check::Stat, None) => return Ok(()),
            (Check::Stat, Some(template)) => match self.stat(template, id, reply) {
                Ok(Some(stored)) if stored != size => Err(CommandError::WrongSize { id: id.to_owned(), stored, size }),
                other => other.map(|_| ()),
            },
            (Check::Content, _) => {
                let expected = Expected { size: Some(size), digest: Some(digest) };
                self.fetch(id, None, expected, reply).map(|_| ())
            }
        };
        // Not as they would be for a reader: what was stored badly is stored again.
        checked.map_err(|error| match error {
            CommandError::Transfer(TransferError::Damaged { .. } | TransferError::Mismatch { .. }) => {
                CommandError::NotStored { id: id.to_owned(), why: error.to_string() }
            }
            error if error.is_missing() => CommandError::NotStored { id: id.to_owned(), why: error.to_string() },
            error => error,
        })
    }
}

/// Runs a command while the files are hashed that it reads. When it fails, or is stopped, hashing ends, too, unless `keep_on`.
pub(super) fn hash_meanwhile(
    sources: &[&Source],
    replies: &[&Reply],
    keep_on: bool,
    command: impl FnOnce() -> Result<(), CommandError>,
) -> (Result<(), CommandError>, Hashes) {
    let stop = AtomicBool::new(false);
    let watch = Watch { replies, stop: &stop };
    let hash = || -> Hashes {
        let each = sources.iter().map(|source| match hash_file(&source.file, DigestKind::Blake3, &watch) {
            Ok((size, _)) if size != source.before.size => Some(Err(changed(&source.file, source.before.size))),
            Ok((_, digest)) => Some(Ok(digest)),
            Err(TransferError::Cancelled) => None,
            Err(error) => Some(Err(error)),
        });
        each.collect()
    };
    std::thread::scope(|scope| {
        let hasher = std::thread::Builder::new().name("command-hash".to_owned()).spawn_scoped(scope, hash);
        let ran = command();
        if ran.as_ref().is_err_and(|error| error.is_cancelled() || !keep_on) {
            stop.store(true, Ordering::Relaxed);
        }
        // Without another thread it comes after the command.
        let hashes = hasher.map_or_else(|_| hash(), |hasher| hasher.join().unwrap_or_default());
        (ran, hashes)
    })
}

/// Whether a command is to stop, because one of those that it works for is. Tells the agent that they are being worked on.
pub(super) fn is_stopped(replies: &[&Reply]) -> bool {
    replies.iter().for_each(|reply| reply.progress(Extent { offset: 0, length: 0 }));
    replies.iter().any(|reply| reply.is_cancelled())
}

/// Tells of bytes that were moved.
pub(super) fn watch_one(reply: &Reply, moved: Extent) -> Result<(), TransferError> {
    reply.progress(moved);
    if reply.is_cancelled() { Err(TransferError::Cancelled) } else { Ok(()) }
}

/// The agent's proposal, or a new one. A dot would say that a batch is named before it.
pub(super) fn proposed_id(uuid: &str) -> Result<String, ObjectIdError> {
    let id = if uuid.is_empty() { Uuid::new_v4().to_string() } else { uuid.to_owned() };
    match ObjectId::parse(&id) {
        Ok(_) if id.contains('.') => Err(ObjectIdError::Character(id, '.')),
        other => other.map(|id| id.to_string()),
    }
}

pub(super) fn identity(uuid: String, hash: Option<Digest>) -> Identity {
    Identity { uuid, hash, url: String::new() }
}

/// Hashing for actions of which at least one is still wanted.
struct Watch<'a> {
    replies: &'a [&'a Reply],
    stop: &'a AtomicBool,
}

impl Monitor for Watch<'_> {
    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.replies.iter().all(|reply| reply.is_cancelled())
    }

    fn advanced(&self, extent: Extent) {
        if let [reply] = self.replies {
            reply.progress(extent);
        }
    }
}
