//! Lemur's layout in Azure, where ids are paths and are used again: nothing goes, and nothing is written over, but what is named by its mark.

use super::ServerBed;
use super::azurite;
use super::suite::{Calls as _, id, plain};
use crate::{Layout, ObjectStore, Settings};
use model::{ArchiveRecord, Digest, Identity, ObjectId, xattr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::channel;
use std::time::Duration;
use testkit::FaultProxy;
use testkit::fault_proxy::{Fault, When};
use testkit::services::Azurite;
use transfer::manifest::describe;
use transfer::{DigestKind, Encoding, Expected, OpenFile, Origin, PutOptions, Store as _, TransferError, Unwatched};

const LARGE: usize = 20 << 20;
const ACTION: &str = "0e2f9a7c-5ad1-4b6e-9b7a-0a4dd0c8f0a";

type AzBed = ServerBed<Azurite>;

fn start() -> AzBed {
    let (server, settings) = azurite::start();
    ServerBed::with(server, &Settings { layout: Layout::LemurAz, ..settings })
}

fn at(path: &str) -> PutOptions<'_> {
    let origin = Some(Origin { path: path.as_bytes(), fsid: [1; 8] });
    PutOptions { origin, ..plain(Encoding::Raw, Some(DigestKind::Blake3)) }
}

/// The id that an agent proposes to its action of this number.
fn action(number: u8) -> ObjectId {
    id(&format!("{ACTION}{number}"))
}

/// A file, as an agent sees it.
struct Subject<'b> {
    bed: &'b AzBed,
    path: PathBuf,
    content: Vec<u8>,
}

impl<'b> Subject<'b> {
    fn new(bed: &'b AzBed, name: &str, content: &[u8]) -> Self {
        let subject = Self { bed, path: bed.scratch.path().join(name), content: content.to_vec() };
        std::fs::write(&subject.path, content).unwrap();
        subject
    }

    fn write(&mut self, content: &[u8]) {
        self.content = content.to_vec();
        std::fs::write(&self.path, content).unwrap();
    }

    fn open(&self) -> OpenFile {
        OpenFile::for_reading(&self.path).unwrap()
    }

    /// Archives it as the file at this path, and has it name nothing.
    fn store(&self, number: u8, path: &str) -> Identity {
        let stored = self.bed.put(&action(number), &self.open(), at(path)).unwrap();
        Identity { hash: stored.digest, ..self.bed.store.identity(&stored) }
    }

    /// What a commit writes.
    fn name(&self, identity: &Identity) {
        let source = self.open();
        let inode = describe(&source, b"", [0; 8]).unwrap().inode;
        let size = source.stamp().unwrap().size;
        let record = ArchiveRecord { size, mtime: inode.mtime, inode: inode.handle.unwrap() };
        for (name, value) in [
            (xattr::UUID, identity.uuid.as_bytes()),
            (xattr::URL, identity.url.as_bytes()),
            (xattr::RECORD, &record.encode()),
        ] {
            self.set(name, value);
        }
    }

    fn set(&self, name: &str, value: &[u8]) {
        testkit::set_attribute(&self.path, name, value);
    }

    fn archive(&self, number: u8, path: &str) -> Identity {
        let identity = self.store(number, path);
        self.name(&identity);
        identity
    }

    fn is_restored_from(&self, identity: &Identity) {
        assert!(restored(&self.bed.store, identity).unwrap() == self.content, "{identity:?}");
    }
}

fn restored(store: &ObjectStore, identity: &Identity) -> Result<Vec<u8>, TransferError> {
    let scratch = testkit::Scratch::new("restored");
    let path = scratch.path().join("target");
    std::fs::write(&path, b"").unwrap();
    let object = store.named(identity).unwrap()?;
    let expected = Expected { size: None, digest: identity.hash };
    store.get_foreign(&object, Some(&OpenFile::for_writing(&path).unwrap()), expected, &Unwatched)?;
    Ok(std::fs::read(&path).unwrap())
}

fn remove(bed: &AzBed, identity: &Identity) {
    let object = bed.store.named(identity).unwrap().unwrap();
    let (tell, told) = channel();
    bed.store.remove_named(&object, Box::new(move |result| tell.send(result).unwrap()));
    told.recv().unwrap().unwrap();
}

fn put_without_mark(bed: &AzBed, name: &str, content: &[u8]) {
    let path = format!("/archive/site/a%20prefix/{name}");
    bed.server.request("PUT", &path, Some(content), &["x-ms-blob-type: BlockBlob"]).ok();
}

#[test]
fn p3_a_removal_that_comes_late_or_twice_takes_nothing_that_came_to_be_called_the_same() {
    let bed = start();
    for size in [5, LARGE] {
        let first = Subject::new(&bed, "first", &vec![1; size]);
        let old = first.archive(1, "dir/a");
        assert_eq!(old.uuid, "dir/a");
        assert!(old.url.starts_with("az://archive/site/a%20prefix/dir/a#sifaka="), "{}", old.url);
        first.is_restored_from(&old);
        remove(&bed, &old);
        // Another file's, under the same id.
        let second = Subject::new(&bed, "second", &vec![2; size]);
        let new = second.archive(2, "dir/a");
        assert_eq!(new.uuid, old.uuid);
        remove(&bed, &old);
        // Nor does one that names no mark.
        remove(&bed, &Identity { url: String::new(), ..new.clone() });
        second.is_restored_from(&new);
        remove(&bed, &new);
        remove(&bed, &new);
        bed.holds(Vec::new());
    }
}

#[test]
fn p3_the_removal_of_a_failed_attempt_leaves_what_the_next_one_stored() {
    let bed = start();
    for size in [5, LARGE] {
        let file = Subject::new(&bed, "file", &vec![1; size]);
        // It was stored, and then the agent could not commit it: nothing names it.
        let failed = file.store(1, "log");
        let next = file.archive(1, "log");
        assert_eq!(next.uuid, "log", "what the same action left is written over");
        assert_ne!(next.url, failed.url);
        remove(&bed, &failed);
        file.is_restored_from(&next);
        remove(&bed, &next);
        bed.holds(Vec::new());
    }
}

#[test]
fn p1_only_an_older_version_of_the_same_file_alone_is_written_over() {
    let bed = start();
    let mut file = Subject::new(&bed, "file", b"first");
    let first = file.archive(1, "a");
    file.write(b"second!");
    let second = file.archive(2, "a");
    assert_eq!(second.uuid, "a", "its own is replaced in its place");
    bed.holds(vec!["a".to_owned()]);
    file.is_restored_from(&second);
    // Not that of a file whose attributes were copied.
    let mut copy = Subject::new(&bed, "copy", b"second!");
    for name in [xattr::UUID, xattr::URL, xattr::RECORD] {
        copy.set(name, &file.open().attribute(name).unwrap().unwrap());
    }
    copy.write(b"of the copy");
    let of_copy = copy.archive(3, "a");
    assert!(of_copy.uuid.starts_with("a~"), "{of_copy:?}");
    file.is_restored_from(&second);
    copy.is_restored_from(&of_copy);
    // Nor while it may be released as it is, or is another's too.
    let again = file.store(4, "a");
    assert!(again.uuid.starts_with("a~"), "{again:?}");
    file.write(b"third");
    file.set(xattr::SHARED, b"a");
    let third = file.store(5, "a");
    assert!(third.uuid.starts_with("a~"), "{third:?}");
    assert_eq!(restored(&bed.store, &second).unwrap(), b"second!");
    // What named the first version leads to nothing now.
    for hash in [None, first.hash] {
        let lost = restored(&bed.store, &Identity { hash, ..first.clone() }).unwrap_err();
        assert!(matches!(lost, TransferError::Replaced { .. }), "{lost}");
    }
    let object = bed.store.named(&first).unwrap().unwrap();
    assert!(matches!(bed.store.check_foreign(&object), Err(TransferError::Replaced { .. })));
}

#[test]
fn what_has_no_mark_is_removed_by_who_names_none_and_never_written_over() {
    let bed = start();
    put_without_mark(&bed, "old", b"lemur's");
    let named = Identity { uuid: "old".to_owned(), ..Identity::default() };
    assert_eq!(restored(&bed.store, &named).unwrap(), b"lemur's");
    let mut file = Subject::new(&bed, "file", b"lemur's");
    file.name(&named);
    for content in [&b"edited"[..], &[7; LARGE]] {
        file.write(content);
        let stored = file.store(1, "old");
        assert!(stored.uuid.starts_with("old~"), "{stored:?}");
        file.is_restored_from(&stored);
        // That of what was stored takes nothing of Lemur's.
        remove(&bed, &stored);
        remove(&bed, &Identity { uuid: "old".to_owned(), ..stored });
        bed.holds(vec!["old".to_owned()]);
    }
    assert_eq!(restored(&bed.store, &named).unwrap(), b"lemur's");
    remove(&bed, &named);
    bed.holds(Vec::new());
}

#[test]
fn p7_an_archive_that_is_given_up_leaves_nothing_at_its_path() {
    let (server, settings) = azurite::start();
    let proxy = FaultProxy::start(&server.server().authority());
    let endpoint = Some(format!("{}/{}", proxy.url(), Azurite::ACCOUNT));
    let bed = ServerBed::with(server, &Settings { layout: Layout::LemurAz, endpoint, ..settings });
    proxy.add(When::method("PUT"), Fault::DelayAnswer(Duration::from_secs(60)));
    let file = Subject::new(&bed, "file", b"content");
    let staged = bed.store.stage(&action(1), &file.open(), at("a"), &Unwatched).unwrap();
    let (tell, told) = channel();
    let given_up = Arc::new(AtomicBool::new(false));
    let asked = given_up.clone();
    let done = Box::new(move |result| tell.send(result).unwrap());
    bed.store.commit_unless(Box::new(move || asked.load(SeqCst)), staged, done);
    bed.holds(vec!["a".to_owned()]);
    given_up.store(true, SeqCst);
    assert!(matches!(told.recv().unwrap(), Err(TransferError::Cancelled)));
    bed.holds(Vec::new());
}

#[test]
fn paths_that_azure_would_take_for_others_are_refused() {
    let bed = start();
    let file = Subject::new(&bed, "file", b"content");
    for path in ["name.", "dir./name"] {
        let error = bed.put(&action(1), &file.open(), at(path)).unwrap_err();
        assert!(matches!(error, TransferError::Undescribed { .. }), "{error}");
    }
    bed.holds(Vec::new());
}

#[test]
fn a_hash_tells_content_whoever_put_it_there() {
    let bed = start();
    let file = Subject::new(&bed, "file", b"content");
    let stored = file.store(1, "a");
    assert_eq!(stored.hash, Some(Digest::Blake3(blake3::hash(b"content").into())));
    // Brought back from somewhere, without texts.
    put_without_mark(&bed, "a", b"content");
    file.is_restored_from(&stored);
    let lost = restored(&bed.store, &Identity { hash: None, ..stored.clone() }).unwrap_err();
    assert!(matches!(lost, TransferError::Replaced { .. }), "{lost}");
    // Without reading it nobody knows: the file's own content is not given up for it.
    let object = bed.store.named(&stored).unwrap().unwrap();
    assert!(matches!(bed.store.check_foreign(&object), Err(TransferError::Replaced { .. })));
}
