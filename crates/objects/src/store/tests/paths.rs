//! The layout "path": the suite on each service, and what people see in the bucket.

use super::rgw::{self, BUCKET, settings};
use super::suite::{self, Bed, Calls as _, Half, described, expected, id};
use super::{ServerBed, azurite, gcs, read_key};
use crate::store::paths;
use crate::{Layout, ObjectStore, Settings};
use model::{Digest, ObjectId};
use opendal::options::WriteOptions;
use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;
use testkit::fault_proxy::{Fault, FaultProxy, Reply, Request, When};
use testkit::services::{Azurite, FakeGcs, Rgw};
use testkit::wait_until;
use transfer::{Encoding, Expected, Origin, PutOptions, Store as _, Stored, TransferError, Unwatched};

struct PathBed<S = Rgw>(ServerBed<S>);

/// A server that the layout is tried on.
trait Host: Sized {
    fn start() -> (Self, Settings);

    /// Uploads that are not completed.
    fn unfinished(&self) -> Vec<String> {
        Vec::new()
    }
}

impl Host for Rgw {
    fn start() -> (Self, Settings) {
        rgw::start()
    }

    fn unfinished(&self) -> Vec<String> {
        self.uploads(BUCKET)
    }
}

impl Host for Azurite {
    fn start() -> (Self, Settings) {
        azurite::start()
    }
}

impl Host for FakeGcs {
    fn start() -> (Self, Settings) {
        gcs::start()
    }
}

impl<S: Host> PathBed<S> {
    fn find(&self, id: &ObjectId) -> Option<(String, HashMap<String, String>)> {
        let (bucket, id) = (self.0.store.bucket().clone(), id.clone());
        let found = self.0.store.bucket().engine().wait(async move { paths::find(&bucket, &id).await }).unwrap();
        found.map(|(key, found)| (key, texts(found.user_metadata())))
    }

    fn texts(&self, key: &str) -> HashMap<String, String> {
        let (bucket, key) = (self.0.store.bucket().clone(), key.to_owned());
        let found = self.0.store.bucket().engine().wait(async move { bucket.stat(&key).await }).unwrap();
        texts(found.as_ref().and_then(opendal::Metadata::user_metadata))
    }

    /// What people see: no keys of ours.
    fn visible(&self) -> Vec<String> {
        let keys = super::names(&self.0.store).into_iter();
        keys.filter(|key| !key.starts_with(".sifaka/")).collect()
    }

    fn put_at(&self, name: &str, path: &[u8], content: &[u8]) -> Result<Stored, TransferError> {
        self.put(&id(name), &self.file("source", content), at(path))
    }

    fn put_again(&self, name: &str, path: &[u8], content: &[u8]) -> Result<Stored, TransferError> {
        let options = PutOptions { repeated: true, ..at(path) };
        self.put(&id(name), &self.file("again", content), options)
    }

    /// Past the store: an object with texts.
    fn write_at(&self, key: &str, content: &[u8], texts: HashMap<String, String>) {
        let (bucket, content, key) = (self.0.store.bucket().clone(), content.to_vec(), key.to_owned());
        let options = move || WriteOptions { user_metadata: Some(texts.clone()), ..WriteOptions::default() };
        let written =
            async move { bucket.request(|| bucket.operator().write_options(&key, content.clone(), options())).await };
        self.0.store.bucket().engine().wait(written).unwrap();
    }

    fn holds_content(&self, stored: &Stored, content: &[u8]) {
        let (_, found) = self.get_over(&stored.id, b"stale", expected(stored)).unwrap();
        assert!(found == content, "{}", stored.id);
    }
}

impl PathBed {
    /// On a server that things can happen to on the way.
    fn behind_a_proxy() -> (FaultProxy, Self) {
        let server = Rgw::start();
        server.create_bucket(BUCKET);
        let proxy = FaultProxy::start(&server.server().authority());
        let settings = Settings { layout: Layout::Path, ..settings(proxy.url()) };
        (proxy, Self(ServerBed::with(server, &settings)))
    }

    /// Past the store.
    fn remove_only(&self, key: &str) {
        self.0.server.request("DELETE", &format!("/{BUCKET}/site/a%20prefix/{key}"), None, &[]).ok();
    }
}

fn texts<'a, K: ToString + 'a, V: ToString + 'a>(
    found: Option<impl IntoIterator<Item = (K, V)>>,
) -> HashMap<String, String> {
    found.into_iter().flatten().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn at(path: &[u8]) -> PutOptions<'_> {
    PutOptions { origin: Some(Origin { path, fsid: [1; 8] }), ..described(Encoding::Raw) }
}

impl<S: Host> Bed for PathBed<S> {
    type Store = ObjectStore;

    fn new() -> Self {
        let (server, settings) = S::start();
        Self(ServerBed::with(server, &Settings { layout: Layout::Path, ..settings }))
    }

    fn store(&self) -> &ObjectStore {
        &self.0.store
    }

    fn base(&self) -> &Path {
        self.0.scratch.path()
    }

    fn names(&self) -> Vec<String> {
        let uploads = self.0.server.unfinished().into_iter().map(|key| format!("unfinished {key}"));
        let below = |key: String| match key.strip_prefix(".sifaka/") {
            Some(ours) => ours.to_owned(),
            None => format!("objects/{}", self.texts(&key)["id"]),
        };
        let keys = super::names(&self.0.store).into_iter();
        let mut names: Vec<String> = keys.map(below).chain(uploads).collect();
        names.sort();
        names
    }

    fn read(&self, id: &ObjectId, half: Half) -> Vec<u8> {
        match half {
            Half::Object => read_key(self.store(), self.find(id).unwrap().0),
            Half::Manifest => read_key(self.store(), format!(".sifaka/manifests/{id}")),
        }
    }

    fn write(&self, id: &ObjectId, half: Half, bytes: &[u8]) {
        let manifest = format!(".sifaka/manifests/{id}");
        let (key, texts) = match half {
            Half::Object => self.find(id).unwrap_or_else(|| (format!(".sifaka/objects/{id}"), HashMap::new())),
            Half::Manifest => (manifest.clone(), self.texts(&manifest)),
        };
        self.write_at(&key, bytes, texts);
    }
}

store_suite!(PathBed, without packs);

mod in_azure {
    use super::*;
    store_suite!(PathBed<Azurite>, without packs);

    #[test]
    fn p1_a_path_is_taken_by_one_and_wanted_by_others() {
        taken_by_one_and_wanted_by_others::<Azurite>();
    }
}

mod in_gcs {
    use super::*;
    store_suite!(PathBed<FakeGcs>, without packs);

    /// Google's own service heeds them, and this one does not.
    #[test]
    fn p1_nothing_is_brought_where_the_service_heeds_no_conditions() {
        let bed = PathBed::<FakeGcs>::new();
        let [first, second] = [("aaaaa-1", "first"), ("aaaaa-2", "second")]
            .map(|(name, content)| bed.put_at(name, b"f", content.as_bytes()).unwrap());
        bed.remove(&first.id).unwrap();
        assert_eq!(bed.visible(), ["f~aaaaa-2"]);
        bed.holds_content(&second, b"second");
        bed.remove(&second.id).unwrap();
        bed.holds(Vec::new());
    }
}

#[test]
fn objects_lie_where_their_files_lay() {
    let bed = PathBed::<Rgw>::new();
    let odd = ["a", "home/some one/\u{fc}b+er&c=d?#%41~.txt", ".hidden/x", "home/some one"];
    let large = vec![7; 20 << 20];
    let mut stored = Vec::new();
    for (n, path) in odd.into_iter().enumerate() {
        let content = if n == 2 { large.as_slice() } else { path.as_bytes() };
        stored.push((bed.put_at(&format!("0000{n}-id"), path.as_bytes(), content).unwrap(), content));
    }
    let mut expected: Vec<&str> = odd.to_vec();
    expected.sort_unstable();
    assert_eq!(bed.visible(), expected);
    for (stored, content) in &stored {
        bed.holds_content(stored, content);
        let manifest = bed.store().manifest(&stored.id).unwrap().unwrap();
        assert_eq!(Some(Digest::Blake3(manifest.content().unwrap().hash)), stored.digest);
        bed.remove(&stored.id).unwrap();
    }
    bed.holds(Vec::new());
}

#[test]
fn paths_that_are_no_keys_are_found_by_their_ids() {
    let bed = PathBed::<Rgw>::new();
    let long = vec![b'x'; 1100];
    let odd: [&[u8]; 8] =
        [b"a\nb", b"\xff\xfe", b"dot.", b" blank", b"back\\slash", b".sifaka/objects/abcdef", b"", &long];
    for path in odd {
        let stored = bed.put_at("abcdef", path, b"content").unwrap();
        assert_eq!(bed.visible(), [""; 0], "{path:?}");
        bed.holds_content(&stored, b"content");
        bed.holds(vec!["manifests/abcdef".to_owned(), "objects/abcdef".to_owned()]);
        bed.remove(&stored.id).unwrap();
        bed.holds(Vec::new());
    }
}

/// Rewritten: the old version stays readable, and the new one gets the place when that goes.
#[test]
fn p1_a_path_is_taken_by_one_and_wanted_by_others() {
    taken_by_one_and_wanted_by_others::<Rgw>();
}

fn taken_by_one_and_wanted_by_others<S: Host>() {
    let bed = PathBed::<S>::new();
    let [first, second, third] = [("aaaaa-1", "first"), ("aaaaa-2", "second"), ("aaaaa-3", "third")]
        .map(|(name, content)| bed.put_at(name, b"dir/f", content.as_bytes()).unwrap());
    assert_eq!(bed.visible(), ["dir/f", "dir/f~aaaaa-2", "dir/f~aaaaa-3"]);
    let mut listed = BTreeSet::new();
    let mut collect = |id| {
        assert!(listed.insert(id), "once each");
        ControlFlow::Continue(())
    };
    bed.store().list(&mut collect).unwrap();
    assert_eq!(listed, BTreeSet::from([first.id.clone(), second.id.clone(), third.id.clone()]));
    for (stored, content) in [(&first, "first"), (&second, "second"), (&third, "third")] {
        bed.holds_content(stored, content.as_bytes());
    }
    bed.remove(&first.id).unwrap();
    assert_eq!(bed.visible(), ["dir/f", "dir/f~aaaaa-2"], "the newest is at the path");
    assert_eq!(read_key(bed.store(), "dir/f".to_owned()), b"third");
    bed.holds_content(&second, b"second");
    bed.holds_content(&third, b"third");
    bed.remove(&second.id).unwrap();
    assert_eq!(bed.visible(), ["dir/f"]);
    bed.holds_content(&third, b"third");
    bed.remove(&third.id).unwrap();
    bed.holds(Vec::new());
}

#[test]
fn p1_what_sifaka_did_not_make_is_left_alone() {
    let bed = PathBed::<Rgw>::new();
    let theirs = format!("/{BUCKET}/site/a%20prefix/dir/f");
    let is_theirs = || assert_eq!(bed.0.server.request("GET", &theirs, None, &[]).ok().text(), "theirs");
    bed.0.server.request("PUT", &theirs, Some(b"theirs"), &[]).ok();
    for content in [vec![1; 5000], vec![2; 20 << 20]] {
        let stored = bed.put_at("abcdef", b"dir/f", &content).unwrap();
        assert_eq!(bed.visible(), ["dir/f", "dir/f~abcdef"]);
        bed.holds_content(&stored, &content);
        bed.remove(&stored.id).unwrap();
        is_theirs();
    }
    // Somebody writes over ours: it is theirs from then on, and ours is missing.
    bed.0.server.request("DELETE", &theirs, None, &[]).ok();
    let stored = bed.put_at("abcdef", b"dir/f", b"ours").unwrap();
    bed.0.server.request("PUT", &theirs, Some(b"theirs"), &[]).ok();
    let error = bed.get_over(&stored.id, b"", Expected::default()).unwrap_err();
    assert!(matches!(error, TransferError::Missing { .. }), "{error}");
    assert_eq!(bed.store().head(&stored.id).unwrap(), None);
    let (tell, told) = std::sync::mpsc::channel();
    bed.store().remove_attempt(&stored.id, Box::new(move |result| tell.send(result).unwrap()));
    told.recv().unwrap().unwrap();
    is_theirs();
    assert_eq!(bed.visible(), ["dir/f"]);
}

/// A renamed file's attempt is repeated: what the first attempt left at the old path goes.
#[test]
fn p7_a_repeated_attempt_leaves_nothing_at_the_path_that_the_file_had_before() {
    let bed = PathBed::<Rgw>::new();
    bed.put_at("abcdef", b"before", b"content").unwrap();
    let again = PutOptions { repeated: true, ..at(b"after") };
    let stored = bed.put(&id("abcdef"), &bed.file("source", b"content"), again).unwrap();
    assert_eq!(bed.visible(), ["after"]);
    let same = bed.put(&id("abcdef"), &bed.file("source", b"other"), again).unwrap();
    assert_eq!(bed.visible(), ["after"]);
    bed.holds_content(&same, b"other");
    let zstd = PutOptions { repeated: true, ..PutOptions { origin: again.origin, ..described(Encoding::Zstd) } };
    let packed = bed.put(&stored.id, &bed.file("source", b"content"), zstd).unwrap();
    assert_eq!(packed.id.as_str(), "abcdef.zst");
    bed.holds(vec!["manifests/abcdef.zst".to_owned(), "objects/abcdef.zst".to_owned()]);
}

/// Each step of a removal may be the last one of a process; the next one goes on from there.
#[test]
fn p1_a_removal_that_is_broken_off_anywhere_is_finished_by_the_next_one() {
    let bed = PathBed::<Rgw>::new();
    let delete = |key: &str| bed.remove_only(key);
    // Only the object went.
    let first = bed.put_at("aaaaa-1", b"f", b"first").unwrap();
    let second = bed.put_at("aaaaa-2", b"f", b"second").unwrap();
    delete("f");
    bed.holds_content(&second, b"second");
    bed.remove(&first.id).unwrap();
    assert_eq!(bed.visible(), ["f"]);
    bed.holds_content(&second, b"second");
    // The copy at the path was made, and what lay beside it is still there.
    let third = bed.put_at("aaaaa-3", b"f", b"third").unwrap();
    delete("f");
    bed.write(&third.id, Half::Object, b"third");
    let (key, texts) = bed.find(&third.id).unwrap();
    assert_eq!(key, "f~aaaaa-3");
    bed.write_at("f", b"third", texts);
    assert_eq!(bed.visible(), ["f", "f~aaaaa-3"]);
    bed.holds_content(&third, b"third");
    bed.store().verify(&third.id, expected(&third), &Unwatched).unwrap();
    bed.remove(&third.id).unwrap();
    assert_eq!(bed.visible(), [""; 0]);
    // A manifest of which nothing was stored any more.
    bed.put_at("aaaaa-4", b"g", b"fourth").unwrap();
    delete("g");
    assert_eq!(bed.store().attempts(&id("aaaaa-4"), 1).unwrap(), [id("aaaaa-4")]);
    bed.remove(&id("aaaaa-4")).unwrap();
    bed.remove(&second.id).unwrap();
    bed.holds(Vec::new());
}

/// What is put, but for manifests.
fn puts_of_content() -> When {
    When::method("PUT").and(|request: &Request| !request.path.contains("/.sifaka/"))
}

#[test]
fn p1_what_is_archived_anew_is_not_replaced_by_what_is_brought_to_its_path() {
    let (proxy, bed) = PathBed::behind_a_proxy();
    let first = bed.put_at("aaaaa-1", b"f", b"first").unwrap();
    bed.put_at("aaaaa-2", b"f", b"an attempt").unwrap();
    // It is read to be brought there; and before it is put, the next attempt is done.
    let read = proxy.add(When::method("GET").path("aaaaa-2").times(1), Fault::DelayAnswer(Duration::from_secs(3)));
    let second = std::thread::scope(|scope| {
        scope.spawn(|| bed.remove(&first.id).unwrap());
        wait_until(Duration::from_secs(10), "it is being brought", || proxy.hits(read) == 1);
        bed.put_again("aaaaa-2", b"f", b"the next attempt").unwrap()
    });
    assert_eq!(bed.visible(), ["f"]);
    bed.holds_content(&second, b"the next attempt");

    // An attempt that is under way, or was broken off: nothing of it is touched.
    bed.put_at("aaaaa-3", b"f", b"an attempt").unwrap();
    proxy.add(puts_of_content().times(1), Fault::status(403));
    bed.put_again("aaaaa-3", b"f", b"the next attempt").unwrap_err();
    bed.remove(&second.id).unwrap();
    assert_eq!(bed.visible(), ["f~aaaaa-3"]);
    let third = bed.put_again("aaaaa-3", b"f", b"the last attempt").unwrap();
    assert_eq!(bed.visible(), ["f"]);
    bed.holds_content(&third, b"the last attempt");

    // Of two, that of the manifest's attempt counts, wherever it lies.
    let fourth = bed.put_at("aaaaa-4", b"f", b"the one").unwrap();
    bed.remove_only("f");
    bed.write_at(
        "f",
        b"another",
        HashMap::from([("id", "aaaaa-4"), ("sifaka", "mark")].map(|(k, v)| (k.into(), v.into()))),
    );
    bed.holds_content(&fourth, b"the one");
    bed.remove(&fourth.id).unwrap();
    bed.remove(&third.id).unwrap();
    bed.holds(Vec::new());
}

#[test]
fn p1_nothing_is_brought_where_the_service_heeds_no_conditions() {
    let (proxy, bed) = PathBed::behind_a_proxy();
    let [first, second] = [("aaaaa-1", "first"), ("aaaaa-2", "second")]
        .map(|(name, content)| bed.put_at(name, b"f", content.as_bytes()).unwrap());
    let asked = proxy.add(When::method("PUT").path("/.sifaka/probe-"), Fault::status(200));
    bed.remove(&first.id).unwrap();
    assert_eq!((proxy.hits(asked), bed.visible()), (2, vec!["f~aaaaa-2".to_owned()]));
    bed.holds_content(&second, b"second");
}

/// The manifest leads to the new path, and the attempt ends there.
#[test]
fn p7_a_broken_off_attempt_at_a_new_path_leaves_nothing_at_the_old_one() {
    let (proxy, bed) = PathBed::behind_a_proxy();
    bed.put_at("abcdef", b"before", b"content").unwrap();
    proxy.add(puts_of_content().times(1), Fault::status(403));
    bed.put_again("abcdef", b"after", b"content").unwrap_err();
    let (tell, told) = std::sync::mpsc::channel();
    bed.store().remove_attempt(&id("abcdef"), Box::new(move |result| tell.send(result).unwrap()));
    told.recv().unwrap().unwrap();
    bed.holds(Vec::new());
}

/// A copy with its texts, or what a late request of an attempt left.
#[test]
fn p7_what_nothing_leads_to_is_told() {
    let bed = PathBed::<Rgw>::new();
    let stored = bed.put_at("aaaaa-1", b"f", b"content").unwrap();
    let beside = bed.put_at("aaaaa-2", b"f", b"beside").unwrap();
    let texts = |id: &str| HashMap::from([("id".to_owned(), id.to_owned())]);
    bed.write_at("a copy", b"content", texts("aaaaa-1"));
    bed.write_at("late", b"content", texts("aaaaa-3"));
    let (mut listed, mut strays) = (BTreeSet::new(), Vec::new());
    let visit = &mut |id| {
        listed.insert(id);
        ControlFlow::Continue(())
    };
    let stray = &mut |name: std::path::PathBuf, id| strays.push((name, id));
    bed.store().list_with_strays(visit, stray).unwrap();
    assert_eq!(listed, BTreeSet::from([stored.id.clone(), beside.id, id("aaaaa-3")]));
    strays.sort();
    let name = |key: &str| bed.store().bucket().path(key);
    assert_eq!(strays, [(name("a copy"), stored.id), (name("late"), id("aaaaa-3"))]);
}

#[test]
fn objects_that_nobody_may_look_at_end_no_listing_and_no_archive() {
    let (proxy, bed) = PathBed::behind_a_proxy();
    let stored = bed.put_at("aaaaa-1", b"dir/ours", b"ours").unwrap();
    for theirs in ["dir/sealed", "dir/denied", "dir//odd", "%20blank", "dir/"] {
        bed.0.server.request("PUT", &format!("/{BUCKET}/site/a%20prefix/{theirs}"), Some(b"theirs"), &[]).ok();
    }
    let sealed = |request: &Request| request.path.ends_with("/dir/sealed");
    proxy.add(When::method("HEAD").and(sealed), Fault::status(400));
    proxy.add(When::method("HEAD").path("/dir/denied"), Fault::status(403));
    let mut listed = Vec::new();
    let collect = &mut |id| {
        listed.push(id);
        ControlFlow::Continue(())
    };
    bed.store().list(collect).unwrap();
    assert_eq!(listed, [stored.id]);
    let beside = bed.put_at("aaaaa-2", b"dir/sealed", b"ours, too").unwrap();
    assert_eq!(bed.find(&beside.id).unwrap().0, "dir/sealed~aaaaa-2");
    bed.holds_content(&beside, b"ours, too");
}

/// Where names are a tree, a file may be where a directory is wanted.
#[test]
fn what_the_service_takes_under_no_such_key_is_kept_by_its_id() {
    let (proxy, bed) = PathBed::behind_a_proxy();
    for (status, code) in [(400, "XMinioParentIsObject"), (409, "PathConflict")] {
        let reply = Reply::status(status).body(format!("<Error><Code>{code}</Code></Error>"));
        proxy.add(When::method("PUT").path("/dir/f"), Fault::Answer(reply));
        let stored = bed.put_at("abcdef", b"dir/f", b"content").unwrap();
        assert_eq!(bed.visible(), [""; 0]);
        bed.holds_content(&stored, b"content");
        proxy.heal();
        let again = bed.put_again("abcdef", b"dir/f", b"content").unwrap();
        assert_eq!(bed.visible(), ["dir/f"]);
        bed.remove(&again.id).unwrap();
        bed.holds(Vec::new());
    }
    let deep = vec!["d"; 254].join("/");
    bed.put_at("abcdef", deep.as_bytes(), b"content").unwrap();
    assert_eq!(bed.visible(), [""; 0]);
}

#[test]
fn what_is_brought_away_while_it_is_read_is_found_again() {
    let (proxy, bed) = PathBed::behind_a_proxy();
    let stored = bed.put_at("abcdef", b"f", b"content").unwrap();
    let gone = || proxy.add(When::method("GET").path("/f").times(1), Fault::status(404));
    gone();
    bed.store().verify(&stored.id, expected(&stored), &Unwatched).unwrap();
    gone();
    bed.holds_content(&stored, b"content");
    let all = proxy.add(When::method("GET").path("/f"), Fault::status(404));
    let error = bed.store().verify(&stored.id, expected(&stored), &Unwatched).unwrap_err();
    assert!(matches!(error, TransferError::Missing { .. }), "{error}");
    assert_eq!(proxy.hits(all), 2);
}
