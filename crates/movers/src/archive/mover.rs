//! Actions on one archive: from a task to calls of the store, and from its errors to what people read.
//!
//! Blocks; runs on the threads of [`plugin::Workers`]. Archives and removals are answered from the store's syncing thread.
//! Part of a file is only restored for an agent of ours; everybody else's extents are hints, and whole files are moved (Lustre's
//! coordinator asks for nothing else).

use super::attempts;
use super::reload::ServedArchive;
use config::archive::{ArchiveSettings, Codec, Compression as Configured, Format};
use model::{Command, Extent, Identity, ObjectId, ObjectUrl};
use plugin::{Capabilities, Environment, Mover, Reply, Task};
use std::fs::File;
use std::sync::Arc;
use transfer::Limiter;
use transfer::copy::hash_file;
use transfer::manifest::{Manifest, describe_beneath};
use transfer::{
    Compression, DigestKind, Done, Encoding, Expected, ForeignObject, Monitor, OpenFile, Origin, PutOptions, Store,
    Stored, TransferError,
};
use uuid::Uuid;

/// Serves one archive out of a store.
pub(crate) struct ArchiveMover<S> {
    /// As the configuration has it now: see [`super::reload`].
    archive: Arc<ServedArchive>,
    store: Arc<S>,
    environment: Environment,
    /// The filesystem that files come from; zeros when that cannot be told.
    fsid: [u8; 8],
}

impl<S: Store + 'static> Mover for ArchiveMover<S> {
    fn run(&self, task: Task, reply: Reply) {
        match task.command {
            Command::Archive if task.metadata_only => self.record(&task, reply),
            Command::Archive => self.archive(&task, reply),
            Command::Restore => self.answer(&task, reply, Self::restore),
            Command::Verify => self.answer(&task, reply, Self::verify),
            Command::Remove => self.remove(&task, reply),
        }
    }
}

impl<S: Store + 'static> ArchiveMover<S> {
    pub(crate) fn new(archive: Arc<ServedArchive>, store: Arc<S>, environment: Environment) -> Self {
        let fsid = sys::mounts::filesystem_of(&environment.client_mountpoint).map_or([0; 8], |found| found.fsid);
        Self { archive, store, environment, fsid }
    }

    fn archive(&self, task: &Task, reply: Reply) {
        let context = self.context("archive", task);
        let staged = proposed_id(&task.identity.uuid).and_then(|id| {
            let source = OpenFile::for_reading(self.environment.resolve(&task.primary_path))?;
            let staged = self.store.stage(&id, &source, self.put_options(task), &self.watch(&reply, false))?;
            Ok((staged, attempts::earlier(&*self.store, task)?))
        });
        match staged {
            Err(error) => reply.fail(error.into_failure(&context)),
            Ok((staged, earlier)) => {
                let given_up = Box::new(reply.cancellation());
                let answer = self.answer_stored(reply, context);
                self.store.commit_unless(given_up, staged, attempts::instead_of(self.store.clone(), earlier, answer));
            }
        }
    }

    /// Keeps what is to be known of a directory, a link, or whatever else has no content of its own.
    fn record(&self, task: &Task, reply: Reply) {
        let context = self.context("record", task);
        match self.describe(task) {
            Err(error) => reply.fail(error.into_failure(&context)),
            Ok(record) => self.store.put_record(&record, self.answer_stored(reply, context)),
        }
    }

    fn describe(&self, task: &Task) -> Result<Manifest, TransferError> {
        let mount = &self.environment.client_mountpoint;
        if !keeps_manifests(&self.archive.settings()) {
            let why = "an archive of this format, or without checksums, has no manifests".to_owned();
            return Err(TransferError::NoManifest { path: mount.clone(), why });
        }
        let id = proposed_id(&task.identity.uuid)?;
        let root = File::open(mount).map_err(TransferError::io("open", mount))?;
        let (description, kind) = describe_beneath(&root, &task.tree_path, self.fsid)?;
        Ok(description.with_kind(id, kind))
    }

    fn restore(&self, task: &Task, reply: &Reply) -> Result<Identity, TransferError> {
        let object = self.object(&task.identity)?;
        let target = OpenFile::for_writing(self.environment.resolve(&task.write_path))?;
        let checksums = self.archive.settings().checksums;
        let compare = !checksums.disabled && !checksums.disable_compare_on_restore;
        let expected = Expected { size: task.expected_size, digest: task.identity.hash.filter(|_| compare) };
        let watch = self.watch(reply, true);
        // Whoever does not say the size does not mean the extent: Lemur's agent.
        let is_part = task.extent != Extent::WHOLE && task.expected_size.is_some();
        let restored = match &object {
            Object::Own(id) if is_part => self.store.get_range(id, &target, task.extent, expected, &watch)?,
            Object::Own(id) => self.store.get(id, &target, expected, &watch)?,
            Object::Foreign(foreign) if is_part => {
                let why = "nothing is known of its parts that they could be compared with".to_owned();
                return Err(TransferError::NoManifest { path: foreign.url.to_string().into(), why });
            }
            Object::Foreign(foreign) => {
                let foreign = ForeignObject { compare, ..foreign.clone() };
                self.store.get_foreign(&foreign, Some(&target), expected, &watch)?
            }
        };
        if task.sync_target {
            target.sync()?;
        }
        Ok(Identity { hash: restored.digest, ..task.identity.clone() })
    }

    fn verify(&self, task: &Task, reply: &Reply) -> Result<Identity, TransferError> {
        let file = OpenFile::for_reading(self.environment.resolve(&task.primary_path))?;
        if !task.identity.uuid.is_empty() {
            // The hash alone says that the file did not change, not that its copy is there.
            match self.object(&task.identity)? {
                Object::Own(id) if self.store.head(&id)?.is_none() => {
                    return Err(TransferError::Missing { path: id.as_str().into() });
                }
                Object::Own(_) => {}
                Object::Foreign(foreign) => self.store.check_foreign(&foreign)?,
            }
        }
        let kind = task.identity.hash.as_ref().map_or(self.digest_kind(), DigestKind::of);
        let (_, digest) = hash_file(&file, kind, &Unlimited(reply))?;
        Ok(Identity { hash: Some(digest), ..Identity::default() })
    }

    fn remove(&self, task: &Task, reply: Reply) {
        let context = self.context("remove", task);
        if ObjectUrl::is_meant(&task.identity.uuid) {
            // Also one that cannot be, or that is in another bucket: whatever it is, it is not ours.
            tracing::info!(
                object = task.identity.uuid,
                "the object was imported and is somebody else's: left where it is"
            );
            return reply.done(Identity::default());
        }
        match self.store.named(&task.identity) {
            None => {}
            Some(Err(error)) => return reply.fail(error.into_failure(&context)),
            Some(Ok(named)) => {
                let answer = move |result: Result<(), TransferError>| match result {
                    Ok(()) => reply.done(Identity::default()),
                    Err(error) => reply.fail(error.into_failure(&context)),
                };
                return self.store.remove_named(&named, Box::new(answer));
            }
        }
        let ids = ObjectId::parse(&task.identity.uuid).map_err(TransferError::from).and_then(|id| {
            let mut ids = attempts::earlier(&*self.store, task)?;
            // Also what is not there any more: an earlier removal may have been cut short before its sync.
            ids.push(id);
            Ok(ids)
        });
        match ids {
            Err(error) => reply.fail(error.into_failure(&context)),
            Ok(ids) => {
                let answer = move |result: Result<(), TransferError>| match result {
                    Ok(()) => reply.done(Identity::default()),
                    Err(error) => reply.fail(error.into_failure(&context)),
                };
                let remove: attempts::Remove<S> =
                    if task.attempted_since_ms == 0 { S::remove } else { S::remove_attempt };
                attempts::remove_all(self.store.clone(), remove, ids, Box::new(answer));
            }
        }
    }

    fn object(&self, identity: &Identity) -> Result<Object, TransferError> {
        if ObjectUrl::is_meant(&identity.uuid) {
            return Ok(Object::Foreign(ForeignObject::parse(identity)?));
        }
        match self.store.named(identity) {
            Some(named) => Ok(Object::Foreign(named?)),
            None => Ok(Object::Own(ObjectId::parse(&identity.uuid)?)),
        }
    }

    fn answer(&self, task: &Task, reply: Reply, action: fn(&Self, &Task, &Reply) -> Result<Identity, TransferError>) {
        match action(self, task, &reply) {
            Ok(identity) => reply.done(identity),
            Err(error) => reply.fail(error.into_failure(&self.context(task.command.name(), task))),
        }
    }

    fn answer_stored(&self, reply: Reply, context: String) -> Done {
        let store = self.store.clone();
        Box::new(move |result: Result<Stored, TransferError>| match result {
            Ok(stored) => reply.done(Identity { hash: stored.digest, ..store.identity(&stored) }),
            Err(error) => reply.fail(error.into_failure(&context)),
        })
    }

    fn watch<'a>(&'a self, reply: &'a Reply, is_restore: bool) -> Watch<'a> {
        Watch { reply, limiter: self.archive.limiter(), is_restore }
    }

    fn put_options<'a>(&self, task: &'a Task) -> PutOptions<'a> {
        let archive = self.archive.settings();
        let compression = match archive.compression {
            Configured::Off => Compression::Off,
            Configured::On(codec) => Compression::On(encoding(codec)),
            Configured::Auto(codec) => Compression::Auto(encoding(codec)),
        };
        let digest = (!archive.checksums.disabled).then(|| self.digest_kind());
        let wants_path = keeps_manifests(&archive) || archive.format == Format::LemurBucket;
        let origin = wants_path.then_some(Origin { path: &task.tree_path, fsid: self.fsid });
        let repeated = task.attempted_since_ms != 0;
        PutOptions { digest, compression, origin, pack_up_to_bytes: archive.pack_threshold_bytes, repeated }
    }

    fn digest_kind(&self) -> DigestKind {
        match self.archive.settings().format {
            Format::Sifaka | Format::LemurBucket => DigestKind::Blake3,
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

/// What the agent may ask of it.
pub(super) fn capabilities(archive: &ArchiveSettings) -> Capabilities {
    Capabilities {
        cancel: true,
        verify: true,
        proposed_uuid: true,
        range: restores_ranges(archive),
        namespace: keeps_manifests(archive),
        ..Capabilities::default()
    }
}

/// Whether objects get manifests. Lemur's layout has none, and without hashes there is nothing to put into them.
fn keeps_manifests(archive: &ArchiveSettings) -> bool {
    archive.format == Format::Sifaka && !archive.checksums.disabled
}

/// Whether parts of files can be restored: each is compared before it is written.
fn restores_ranges(archive: &ArchiveSettings) -> bool {
    keeps_manifests(archive) && !archive.checksums.disable_compare_on_restore
}

/// What an identity names.
enum Object {
    /// An object of this archive.
    Own(ObjectId),
    /// Somebody else's, in a bucket; or one of this archive's, where those go by paths.
    Foreign(ForeignObject),
}

/// The agent's proposal, so that a retry overwrites its own object; an agent that proposes none gets a random one.
fn proposed_id(uuid: &str) -> Result<ObjectId, TransferError> {
    if uuid.is_empty() { Ok(ObjectId::parse(&Uuid::new_v4().to_string())?) } else { Ok(ObjectId::parse(uuid)?) }
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
