//! Actions on one archive: from a task to calls of the store, and from its errors to what people read.
//!
//! Blocks; runs on the threads of [`plugin::Workers`]. Archives and removals are answered from the store's syncing thread.
//! A task's extent is only a hint: whole files are moved (Lustre's and our coordinator ask for nothing else).

use super::rate::Limiter;
use super::reload::ServedArchive;
use config::posix::{Codec, Compression as Configured, Format};
use model::{Command, Digest, Extent, Identity, ObjectId};
use plugin::{Environment, Mover, Reply, Task};
use std::sync::Arc;
use transfer::copy::hash_file;
use transfer::{
    Compression, DigestKind, Encoding, Expected, Monitor, OpenFile, PutOptions, Store, Stored, TransferError,
};
use uuid::Uuid;

/// Serves one archive out of a store.
pub(super) struct PosixMover<S> {
    /// As the configuration has it now: see [`super::reload`].
    archive: Arc<ServedArchive>,
    store: Arc<S>,
    environment: Environment,
}

impl<S: Store + 'static> Mover for PosixMover<S> {
    fn run(&self, task: Task, reply: Reply) {
        match task.command {
            Command::Archive => self.archive(&task, reply),
            Command::Restore => self.answer(&task, reply, Self::restore),
            Command::Verify => self.answer(&task, reply, Self::verify),
            Command::Remove => self.remove(&task, reply),
        }
    }
}

impl<S: Store + 'static> PosixMover<S> {
    pub(super) fn new(archive: Arc<ServedArchive>, store: Arc<S>, environment: Environment) -> Self {
        Self { archive, store, environment }
    }

    fn archive(&self, task: &Task, reply: Reply) {
        let context = self.context("archive", task);
        let staged = proposed_id(&task.identity.uuid).and_then(|id| {
            let source = OpenFile::for_reading(self.environment.resolve(&task.primary_path))?;
            self.store.stage(&id, &source, self.put_options(), &self.watch(&reply, false))
        });
        match staged {
            Err(error) => reply.fail(error.into_failure(&context)),
            Ok(staged) => {
                let answer = move |result: Result<Stored, TransferError>| match result {
                    Ok(stored) => reply.done(identity(&stored.id, stored.digest)),
                    Err(error) => reply.fail(error.into_failure(&context)),
                };
                self.store.commit(staged, Box::new(answer));
            }
        }
    }

    fn restore(&self, task: &Task, reply: &Reply) -> Result<Identity, TransferError> {
        let id = ObjectId::parse(&task.identity.uuid)?;
        let target = OpenFile::for_writing(self.environment.resolve(&task.write_path))?;
        let checksums = self.archive.settings().checksums;
        let compare = !checksums.disabled && !checksums.disable_compare_on_restore;
        let expected = Expected { size: task.expected_size, digest: task.identity.hash.filter(|_| compare) };
        let restored = self.store.get(&id, &target, expected, &self.watch(reply, true))?;
        Ok(identity(&id, restored.digest))
    }

    fn verify(&self, task: &Task, reply: &Reply) -> Result<Identity, TransferError> {
        let file = OpenFile::for_reading(self.environment.resolve(&task.primary_path))?;
        if !task.identity.uuid.is_empty() {
            // The hash alone says that the file did not change, not that its copy is there.
            let id = ObjectId::parse(&task.identity.uuid)?;
            if self.store.head(&id)?.is_none() {
                return Err(TransferError::Missing { path: self.archive.settings().root.join(id.as_str()) });
            }
        }
        let kind = task.identity.hash.as_ref().map_or(self.digest_kind(), DigestKind::of);
        let (_, digest) = hash_file(&file, kind, &Unlimited(reply))?;
        Ok(Identity { hash: Some(digest), ..Identity::default() })
    }

    fn remove(&self, task: &Task, reply: Reply) {
        let context = self.context("remove", task);
        match ObjectId::parse(&task.identity.uuid) {
            Err(error) => reply.fail(TransferError::from(error).into_failure(&context)),
            Ok(id) => {
                let answer = move |result: Result<(), TransferError>| match result {
                    Ok(()) => reply.done(Identity::default()),
                    Err(error) => reply.fail(error.into_failure(&context)),
                };
                self.store.remove(&id, Box::new(answer));
            }
        }
    }

    fn answer(&self, task: &Task, reply: Reply, action: fn(&Self, &Task, &Reply) -> Result<Identity, TransferError>) {
        match action(self, task, &reply) {
            Ok(identity) => reply.done(identity),
            Err(error) => reply.fail(error.into_failure(&self.context(task.command.name(), task))),
        }
    }

    fn watch<'a>(&'a self, reply: &'a Reply, is_restore: bool) -> Watch<'a> {
        Watch { reply, limiter: self.archive.limiter(), is_restore }
    }

    fn put_options(&self) -> PutOptions<'static> {
        let archive = self.archive.settings();
        let compression = match archive.compression {
            Configured::Off => Compression::Off,
            Configured::On(codec) => Compression::On(encoding(codec)),
            Configured::Auto(codec) => Compression::Auto(encoding(codec)),
        };
        let digest = (!archive.checksums.disabled).then(|| self.digest_kind());
        PutOptions { digest, compression, origin: None }
    }

    fn digest_kind(&self) -> DigestKind {
        match self.archive.settings().format {
            Format::Sifaka => DigestKind::Blake3,
            Format::Lemur => DigestKind::Sha1,
        }
    }

    /// How messages about a task begin.
    fn context(&self, verb: &str, task: &Task) -> String {
        let paths = [&task.file_path, &task.primary_path, &task.write_path, &task.identity.uuid];
        let file = paths.into_iter().find(|path| !path.is_empty()).map_or("?", String::as_str);
        format!("cannot {verb} {file} (archive \"{}\")", self.archive.settings().name)
    }
}

/// The agent's proposal, so that a retry overwrites its own object; an agent that proposes none gets a random one.
fn proposed_id(uuid: &str) -> Result<ObjectId, TransferError> {
    if uuid.is_empty() { Ok(ObjectId::parse(&Uuid::new_v4().to_string())?) } else { Ok(ObjectId::parse(uuid)?) }
}

/// Without a URL, like Lemur's.
fn identity(id: &ObjectId, hash: Option<Digest>) -> Identity {
    Identity { uuid: id.to_string(), hash, url: String::new() }
}

fn encoding(codec: Codec) -> Encoding {
    match codec {
        Codec::Zstd => Encoding::Zstd,
        Codec::Gzip => Encoding::Gzip,
    }
}

/// A reply, watching its own action and what the archive may move in a second.
struct Watch<'a> {
    reply: &'a Reply,
    limiter: &'a Limiter,
    is_restore: bool,
}

impl Monitor for Watch<'_> {
    fn cancelled(&self) -> bool {
        self.limiter.wait(self.is_restore, || {
            // Whoever waits for his share is not hung, and the agent is to know.
            self.reply.progress(Extent { offset: 0, length: 0 });
            self.reply.is_cancelled()
        })
    }

    fn advanced(&self, extent: Extent) {
        self.limiter.spend(extent.length);
        self.reply.progress(extent);
    }

    fn skipped(&self, extent: Extent) {
        self.reply.progress(extent);
    }
}

/// A reply, watching an action that moves nothing to or from the archive.
struct Unlimited<'a>(&'a Reply);

impl Monitor for Unlimited<'_> {
    fn cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    fn advanced(&self, extent: Extent) {
        self.0.progress(extent);
    }
}
