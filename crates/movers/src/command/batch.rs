//! Many actions by one command.
//!
//! One result for each file, whatever the command says of all: a line of its own, or the exit code. Where that says of several that they failed
//! for good, each is tried by itself first. A restored file whose hash is right is restored, whatever the command says.
//! Cancelling one action stops the command (P4); the others begin anew.

use super::answer::Lines;
use super::complaints::judge;
use super::content::{Expected, Receive, place};
use super::error::CommandError;
use super::line::{Values, parts_of};
use super::mover::{CommandMover, hash_meanwhile, identity, is_stopped, proposed_id, watch_one};
use super::queue::Job;
use super::staging::WorkDir;
use config::command::{Placeholder, Results, Template};
use model::{Command, ErrorKind, Identity, ObjectId};
use transfer::{OpenFile, TransferError};
use uuid::Uuid;

/// A job, the name of its file in lists and in `{dir}`, and what is known of it besides.
struct Member<T> {
    job: Job,
    name: String,
    of_it: T,
}

/// What a batch's command came to.
struct Ran<'a> {
    template: &'a Template,
    result: Result<(), CommandError>,
    told: Lines,
}

impl CommandMover {
    pub(super) fn run_batch(&self, command: Command, template: &Template, jobs: Vec<Job>) -> Vec<Job> {
        match command {
            Command::Archive => self.archive_batch(template, jobs),
            Command::Restore => self.restore_batch(template, jobs),
            Command::Remove | Command::Verify => self.remove_batch(template, jobs),
        }
    }

    /// Those of which all is there that the command needs. The others are answered.
    fn members<T>(
        &self,
        jobs: Vec<Job>,
        prepare: impl Fn(&Job) -> Result<(String, T), CommandError>,
    ) -> Vec<Member<T>> {
        let mut members: Vec<Member<T>> = Vec::with_capacity(jobs.len());
        for job in jobs {
            match prepare(&job) {
                Ok((name, of_it)) => members.push(Member { job, name, of_it }),
                Err(error) => self.answer(&job.task, job.reply, Err(error)),
            }
        }
        members
    }

    /// Runs the command for these members, who are in `dir`, or are to be.
    fn command_for<T>(
        &self,
        template: &Template,
        members: &[Member<T>],
        dir: &WorkDir,
        batch: Option<&str>,
        told: &mut Lines,
    ) -> Result<(), CommandError> {
        let replies: Vec<_> = members.iter().map(|member| &member.job.reply).collect();
        let [list, list_paths] = dir.lists(members.iter().map(|member| member.name.as_str()))?;
        let values = Values {
            dir: Some(dir.members()),
            list: Some(&list),
            list_paths: Some(&list_paths),
            batch,
            ..self.values()
        };
        self.command(template, &values, None, &mut |bytes| told.take(bytes), &|| is_stopped(&replies))
    }

    fn archive_batch(&self, template: &Template, jobs: Vec<Job>) -> Vec<Job> {
        // A new name each time: a tar file of an earlier attempt may hold what counts as archived.
        let batch = template.has(Placeholder::Batch).then(|| Uuid::new_v4().to_string());
        let members = self.members(jobs, |job| Ok((proposed_id(&job.task.identity.uuid)?, self.source(&job.task)?)));
        if members.is_empty() {
            return Vec::new();
        }
        let mut told = Lines::of(members.iter().map(|member| member.name.as_str()));
        let sources: Vec<_> = members.iter().map(|member| &member.of_it).collect();
        let replies: Vec<_> = members.iter().map(|member| &member.job.reply).collect();
        let keep_on = self.archive.batch.results == Results::Lines;
        let (result, hashes) = hash_meanwhile(&sources, &replies, keep_on, || {
            let dir = self.work_dir()?;
            members.iter().try_for_each(|member| dir.link(&member.name, &member.of_it.path()))?;
            self.command_for(template, &members, &dir, batch.as_deref(), &mut told)
        });
        let hashes = hashes.into_iter().chain(std::iter::repeat_with(|| None));
        let members = members.into_iter().zip(hashes).map(|(member, hash)| {
            let Member { job, name, of_it } = member;
            Member { job, name, of_it: (of_it, hash) }
        });
        let ran = Ran { template, result, told };
        self.end(ran, members.collect(), false, |job, name, (source, hash)| {
            let digest = hash.ok_or(TransferError::Cancelled)??;
            source.check()?;
            let id = batch.as_ref().map_or_else(|| name.to_owned(), |batch| format!("{batch}.{name}"));
            self.check_stored(&id, &source, digest, &job.reply)?;
            Ok(identity(id, Some(digest)))
        })
    }

    fn restore_batch(&self, template: &Template, jobs: Vec<Job>) -> Vec<Job> {
        let members = self.members(jobs, |job| {
            let id = ObjectId::parse(&job.task.identity.uuid)?;
            let target = OpenFile::for_writing(self.environment.resolve(&job.task.write_path))?;
            Ok((parts_of(id.as_str()).1.to_owned(), target))
        });
        let (members, again) = once_each(members);
        let mut again: Vec<Job> = again.into_iter().map(|member| member.job).collect();
        if members.is_empty() {
            return again;
        }
        let mut told = Lines::of(members.iter().map(|member| member.name.as_str()));
        let dir = match self.work_dir() {
            Ok(dir) => dir,
            Err(error) => {
                let ran = Ran { template, result: Err(error), told };
                again.extend(self.end(ran, members, false, |_, _, _: OpenFile| Ok(Identity::default())));
                return again;
            }
        };
        let batch = batch_of(&members);
        let result = self.command_for(template, &members, &dir, batch.as_deref(), &mut told);
        let ran = Ran { template, result, told };
        again.extend(self.end(ran, members, true, |job, name, target| {
            let Some(staged) = dir.written(name)? else {
                let (program, path) = (template.program().to_owned(), dir.members().join(name));
                return Err(CommandError::NotWritten { program, path });
            };
            let expected = Expected { size: job.task.expected_size, digest: job.task.identity.hash };
            let receive = Receive::new(Some(&target), &job.task.identity.uuid, expected);
            let digest = place(&staged, receive, &|moved| watch_one(&job.reply, moved))?;
            if job.task.sync_target {
                target.sync()?;
            }
            dir.forget(name);
            Ok(identity(job.task.identity.uuid.clone(), Some(digest)))
        }));
        again
    }

    fn remove_batch(&self, template: &Template, jobs: Vec<Job>) -> Vec<Job> {
        let members = self.members(jobs, |job| {
            let id = ObjectId::parse(&job.task.identity.uuid)?;
            Ok((parts_of(id.as_str()).1.to_owned(), ()))
        });
        let (members, again) = once_each(members);
        let mut again: Vec<Job> = again.into_iter().map(|member| member.job).collect();
        if members.is_empty() {
            return again;
        }
        let mut told = Lines::of(members.iter().map(|member| member.name.as_str()));
        let batch = batch_of(&members);
        let result =
            self.work_dir().and_then(|dir| self.command_for(template, &members, &dir, batch.as_deref(), &mut told));
        let ran = Ran { template, result, told };
        again.extend(self.end(ran, members, false, |_, _, ()| Ok(Identity::default())));
        again
    }

    /// Answers each, and gives back those to be done again. `finish` makes the result of one that the command did; with `try_all` also of one of
    /// which it is not known, if its content can be proven.
    fn end<T>(
        &self,
        mut ran: Ran<'_>,
        members: Vec<Member<T>>,
        try_all: bool,
        mut finish: impl FnMut(&Job, &str, T) -> Result<Identity, CommandError>,
    ) -> Vec<Job> {
        let by_lines = self.archive.batch.results == Results::Lines;
        let program = ran.template.program();
        let several = members.len() > 1;
        let mut again = Vec::new();
        for Member { mut job, name, of_it } in members {
            let told = if by_lines { ran.told.result(&name) } else { None };
            let is_its_own = told.is_some();
            let result = match (told, &ran.result) {
                (Some(Ok(())), _) => finish(&job, &name, of_it),
                (Some(Err(why)), _) => {
                    let verdict = judge(&self.archive.failures, &why);
                    Err(CommandError::Told { program: program.to_owned(), why, verdict })
                }
                (None, Ok(())) if by_lines => Err(CommandError::Untold { program: program.to_owned(), name }),
                (None, Ok(())) => finish(&job, &name, of_it),
                (None, Err(error)) if try_all && !error.is_cancelled() && job.task.identity.hash.is_some() => {
                    finish(&job, &name, of_it).map_err(|_| error.again())
                }
                (None, Err(error)) => Err(error.again()),
            };
            let of_all = !is_its_own && several && ran.result.is_err();
            match result {
                Err(error) if error.is_cancelled() && !job.reply.is_cancelled() => again.push(job),
                Err(error) if of_all && error.kind() == ErrorKind::Permanent && !error.is_cancelled() => {
                    job.alone = true;
                    again.push(job);
                }
                Err(error) if job.task.command == Command::Remove && error.is_missing() => {
                    job.reply.done(Identity::default());
                }
                result => self.answer(&job.task, job.reply, result),
            }
        }
        again
    }
}

/// One member of each name; a second one (two files that share an object) is for another command.
fn once_each<T>(members: Vec<Member<T>>) -> (Vec<Member<T>>, Vec<Member<T>>) {
    let mut names = std::collections::HashSet::new();
    members.into_iter().partition(|member| names.insert(member.name.clone()))
}

/// The batch that all of them are of.
fn batch_of<T>(members: &[Member<T>]) -> Option<String> {
    let (batch, _) = parts_of(&members.first()?.job.task.identity.uuid);
    batch.map(str::to_owned)
}
