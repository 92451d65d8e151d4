//! What packs in a bucket have to show besides the suite: few requests, repacking without locks, and servers that fail in between.

use super::memory::Memory;
use super::rgw::BUCKET;
use super::suite::packs::{content, is_member, listed, packed, put_together, small, uuid};
use super::suite::{Bed, Calls as _};
use super::{ServerBed, names};
use crate::{Bucket, Limits, ObjectStore, Settings};
use model::ObjectId;
use opendal::options::WriteOptions;
use std::time::Duration;
use testkit::Random;
use testkit::fault_proxy::{Fault, FaultProxy, Reply, When};
use testkit::services::Rgw;
use transfer::pack::{MemberId, PackId};
use transfer::{Encoding, Expected, OpenFile, Store as _, TransferError, Unwatched};

type Files = Vec<(ObjectId, Vec<u8>)>;

/// Another process at the same bucket.
fn another(store: &ObjectStore) -> ObjectStore {
    ObjectStore::new(store.bucket().clone())
}

fn behind_proxy(limits: Limits) -> (ServerBed<Rgw>, FaultProxy) {
    let server = Rgw::start();
    server.create_bucket(BUCKET);
    let proxy = FaultProxy::start(&server.server().authority());
    let settings = Settings { limits, ..super::rgw::settings(proxy.url()) };
    (ServerBed::with(server, &settings), proxy)
}

fn read_key(store: &ObjectStore, key: &str) -> Vec<u8> {
    super::read_key(store, key.to_owned())
}

fn write_key(store: &ObjectStore, key: &str, bytes: Vec<u8>) {
    let (bucket, key) = (store.bucket().clone(), key.to_owned());
    let write = async move {
        let options = WriteOptions::default;
        bucket.request(|| bucket.operator().write_options(&key, bytes.clone(), options())).await
    };
    store.bucket().engine().wait(write).unwrap();
}

fn pack_of(id: &ObjectId) -> Option<PackId> {
    MemberId::parse(id).map(|member| member.pack)
}

/// The pack with the most of these files, its key, and those files.
fn largest(files: &Files) -> (String, Files) {
    let mut packs: Vec<PackId> = files.iter().filter_map(|(id, _)| pack_of(id)).collect();
    packs.dedup();
    let members = |pack: PackId| files.iter().filter(move |(id, _)| pack_of(id) == Some(pack)).cloned();
    let pack = packs.into_iter().max_by_key(|pack| members(*pack).count()).unwrap();
    (format!("packs/{pack}"), members(pack).collect())
}

fn restored(bed: &impl Bed, store: &ObjectStore, id: &ObjectId, content: &[u8]) -> Result<(), TransferError> {
    let path = bed.base().join(id.as_str());
    std::fs::write(&path, b"before").unwrap();
    let digest = Some(super::suite::hash(transfer::DigestKind::Blake3, content));
    let expected = Expected { size: Some(content.len() as u64), digest };
    store.get(id, &OpenFile::for_writing(&path).unwrap(), expected, &Unwatched)?;
    assert!(std::fs::read(&path).unwrap() == content, "{id}");
    Ok(())
}

fn repack(store: &ObjectStore) -> crate::Repacked {
    store.repack(&mut |_| {}).unwrap()
}

/// Whatever bit of a pack is flipped: the right content or an error, through every way there is.
#[test]
fn p5_no_flipped_bit_of_a_pack_gets_into_a_file() {
    let bed = Memory::new();
    let (key, members) = largest(&packed(&bed, 0..8));
    let whole = read_key(bed.store(), &key);
    let mut random = Random::new(77);
    let mut refused = 0;
    for _ in 0..200 {
        let (at, bit) = (random.within(0..whole.len() as u64), random.within(0..8));
        let mut flipped = whole.clone();
        flipped[usize::try_from(at).unwrap()] ^= 1 << bit;
        write_key(bed.store(), &key, flipped);
        let store = another(bed.store());
        for (id, content) in &members {
            match restored(&bed, &store, id, content) {
                Ok(()) => {}
                Err(TransferError::Damaged { .. } | TransferError::DamagedChunk { .. }) => refused += 1,
                Err(other) => panic!("byte {at}: {other}"),
            }
        }
        let mut found = 0;
        store.check_packs(&mut |_, _| found += 1).unwrap();
        assert!(found > 0, "byte {at} is not found to be damaged");
    }
    assert!(refused > 100, "most of a pack is members: {refused}");
    write_key(bed.store(), &key, whole);
    bed.store().check_packs(&mut |path, why| panic!("{}: {why}", path.display())).unwrap();
}

#[test]
fn a_pack_that_is_cut_short_or_none_is_told_and_holds_up_nothing() {
    let bed = Memory::new();
    let (key, members) = largest(&packed(&bed, 0..8));
    let other = packed(&bed, 20..28);
    let whole = read_key(bed.store(), &key);
    for spoiled in [Vec::new(), b"x".to_vec(), whole[..whole.len() - 1].to_vec(), vec![0; whole.len()]] {
        write_key(bed.store(), &key, spoiled);
        let store = another(bed.store());
        let (mut found, mut told) = (Vec::new(), 0);
        let ended = store.list(&mut |id| {
            found.push(id);
            std::ops::ControlFlow::Continue(())
        });
        assert!(ended.is_err(), "not all of it could be listed");
        assert!(other.iter().all(|(id, _)| found.contains(id)));
        store.check_packs(&mut |_, _| told += 1).unwrap();
        assert!(told > 0);
        // Nobody may take them for gone, in whose place they would be looked for.
        for (id, content) in &members {
            match restored(&bed, &store, id, content) {
                Ok(()) | Err(TransferError::Damaged { .. }) => {}
                Err(other) => panic!("{other}"),
            }
            assert!(!matches!(store.head(id), Ok(None)), "{id}");
        }
    }
}

#[test]
fn what_is_removed_from_a_damaged_pack_is_noted_and_the_pack_is_never_rewritten() {
    let bed = Memory::new();
    let (key, members) = largest(&packed(&bed, 0..12));
    let mut spoiled = read_key(bed.store(), &key);
    let end = spoiled.len();
    spoiled[end - 100..].fill(0);
    // Of the first member too: it is not found without the index.
    spoiled[48..60].fill(0);
    write_key(bed.store(), &key, spoiled.clone());
    let store = another(bed.store());
    let dead = &members[..members.len() * 2 / 3];
    for (id, _) in dead {
        let (tell, told) = std::sync::mpsc::channel();
        store.remove(id, Box::new(move |result| tell.send(result).unwrap()));
        told.recv().unwrap().unwrap();
        let mark = format!("{key}.d/{}", MemberId::parse(id).unwrap().name);
        assert!(names(&store).contains(&mark), "{mark}");
    }
    let done = repack(&store);
    assert_eq!((done.rewritten, done.removed, done.failed), (0, 0, 1));
    assert!(read_key(&store, &key) == spoiled);
    for (id, content) in &members[dead.len()..] {
        restored(&bed, &store, id, content).unwrap();
    }
}

/// Between a reader's look at the pack and its first byte.
#[test]
fn a_pack_that_is_written_anew_while_it_is_looked_at_is_not_damaged() {
    let (bed, proxy) = behind_proxy(Limits::default());
    let (key, members) = largest(&packed(&bed, 0..40));
    let (dead, live) = members.split_at(members.len() / 2 + 1);
    let before = read_key(&bed.store, &key);
    for (id, _) in dead {
        bed.remove(id).unwrap();
    }
    assert_eq!(repack(&bed.store).rewritten, 1);
    // It is said to be as long as it was.
    let length = before.len().to_string();
    let old = Reply::status(200).header("content-length", &length).header("etag", "\"old\"");
    let rule = proxy.add(When::method("HEAD").path(&key).times(1), Fault::Answer(old));
    let store = another(&bed.store);
    for (id, content) in live {
        restored(&bed, &store, id, content).unwrap();
    }
    assert_eq!(proxy.hits(rule), 1);
}

#[test]
fn half_dead_packs_are_rewritten_and_readers_of_the_old_one_find_theirs() {
    let bed = Memory::new();
    let (key, members) = largest(&packed(&bed, 0..40));
    let before = read_key(bed.store(), &key).len();
    let reader = another(bed.store());
    // Read more than once: the index and blocks of the pack are kept in mind.
    for (id, content) in &members {
        restored(&bed, &reader, id, content).unwrap();
    }
    let (dead, live) = members.split_at(members.len() / 2 + 1);
    for (id, _) in dead {
        bed.remove(id).unwrap();
    }
    let done = repack(bed.store());
    assert_eq!((done.rewritten, done.removed, done.failed), (1, 0, 0), "{done:?}");
    assert!(read_key(bed.store(), &key).len() < before * 6 / 10);
    for store in [bed.store(), &reader, &another(bed.store())] {
        for (id, content) in live {
            restored(&bed, store, id, content).unwrap();
        }
    }
    for (id, _) in dead {
        assert!(bed.store().head(id).unwrap().is_none());
    }
    assert_eq!(repack(bed.store()), crate::Repacked::default(), "nothing is left to do");
}

/// Nothing locks a pack: whoever was slow puts members back that were removed meanwhile.
#[test]
fn p7_who_writes_a_pack_anew_too_late_brings_nothing_back() {
    let bed = Memory::new();
    let files = packed(&bed, 0..40);
    let (key, members) = largest(&files);
    let late = read_key(bed.store(), &key);
    let (dead, live) = members.split_at(members.len() / 2 + 1);
    for (id, _) in dead {
        bed.remove(id).unwrap();
    }
    assert_eq!(repack(bed.store()).rewritten, 1);
    write_key(bed.store(), &key, late.clone());
    let store = another(bed.store());
    for (id, content) in live {
        restored(&bed, &store, id, content).unwrap();
    }
    let listed = listed(&bed);
    assert!(dead.iter().all(|(id, _)| store.head(id).unwrap().is_none() && !listed.contains(id)));
    assert_eq!(repack(&store).rewritten, 1, "and it is found again");
    for (id, _) in live {
        bed.remove(id).unwrap();
    }
    write_key(bed.store(), &key, late);
    assert_eq!(repack(&another(bed.store())).removed, 1);
    assert!(!names(bed.store()).contains(&key));
}

/// On a server that says how old things are.
#[test]
fn marks_go_when_they_are_old_and_have_no_member() {
    let (bed, _proxy) = behind_proxy(Limits::default());
    let (_, members) = largest(&packed(&bed, 0..20));
    let (dead, live) = members.split_at(members.len() / 2 + 1);
    for (id, _) in dead {
        bed.remove(id).unwrap();
    }
    let marks = || names(&bed.store).iter().filter(|name| name.contains(".d/")).count();
    assert_eq!(repack(&bed.store).rewritten, 1);
    assert_eq!((repack(&bed.store).marks, marks()), (0, dead.len()), "they are not an hour old");
    let all_at_once = |grace| bed.store.packs.repack(grace, &mut |_| {}).unwrap();
    assert_eq!(all_at_once(Duration::ZERO).marks, dead.len() as u64);
    assert_eq!(marks(), 0);
    bed.remove(&live[0].0).unwrap();
    assert_eq!((all_at_once(Duration::ZERO).marks, marks()), (0, 1), "its member is there");
    live[1..].iter().for_each(|(id, _)| bed.remove(id).unwrap());
    assert_eq!(all_at_once(Duration::ZERO).marks, live.len() as u64, "of a pack that is gone");
    assert_eq!(marks(), 0);
}

#[test]
fn many_files_take_few_requests() {
    let (bed, proxy) = behind_proxy(Limits::default());
    let files: Vec<_> = (0..500).map(|n| (uuid(n), content(n, 4096))).collect();
    let stored = put_together(&bed, &files, small(Encoding::Raw));
    let puts = proxy.count(|request| request.method == "PUT");
    assert!(puts <= 25, "{puts} requests to store 500 files");
    let before = proxy.requests().len();
    let store = another(&bed.store);
    for (stored, (_, content)) in stored.iter().zip(&files) {
        restored(&bed, &store, &stored.as_ref().unwrap().id, content).unwrap();
    }
    let gets = proxy.requests().len() - before;
    // Three for a pack (is it there, what was removed, its index), one for its first member, and one for each MiB.
    assert!(gets <= 100, "{gets} requests to read 500 files");
}

#[test]
fn p1_a_pack_that_cannot_be_stored_fails_its_members_and_leaves_nothing() {
    let limits = Limits { attempts: 2, idle_timeout: Duration::from_secs(1), ..Limits::default() };
    let (bed, proxy) = behind_proxy(limits);
    proxy.add(When::method("PUT").path("/packs/"), Fault::status(500));
    let files: Vec<_> = (0..30).map(|n| (uuid(n), content(n, 1000))).collect();
    let ends = put_together(&bed, &files, small(Encoding::Raw));
    let failed = ends.iter().filter(|end| end.is_err()).count();
    assert!(failed > 15, "{failed}");
    assert!(ends.iter().flatten().all(|stored| !is_member(&stored.id)));
    proxy.heal();
    assert!(!bed.names().iter().any(|name| name.starts_with("packs/")));
    // And it goes on.
    packed(&bed, 0..30);
}

#[test]
fn p7_a_pack_whose_creation_was_never_answered_is_recognised() {
    let limits = Limits { attempts: 3, idle_timeout: Duration::from_secs(1), ..Limits::default() };
    let (bed, proxy) = behind_proxy(limits);
    for fault in [Fault::ResetAfter, Fault::ReplaceAnswer(Reply::status(500))] {
        let rule = proxy.add(When::method("PUT").path("/packs/").times(1), fault);
        let files = packed(&bed, 0..30);
        assert_eq!(proxy.hits(rule), 1);
        for (id, content) in &files {
            restored(&bed, &bed.store, id, content).unwrap();
            bed.remove(id).unwrap();
        }
        assert!(listed(&bed).is_empty());
    }
}

/// The gateway is away for a moment: it is an error for now, and the members are not taken for removed.
#[test]
fn members_are_not_missing_while_the_service_is_away() {
    let limits = Limits { attempts: 2, idle_timeout: Duration::from_secs(1), ..Limits::default() };
    let (bed, proxy) = behind_proxy(limits);
    let files = packed(&bed, 0..10);
    let store = another(&bed.store);
    proxy.add(When::any(), Fault::status(503));
    let (id, content) = files.iter().find(|(id, _)| is_member(id)).unwrap();
    let error = restored(&bed, &store, id, content).unwrap_err();
    assert_eq!(error.kind(), model::ErrorKind::Temporary, "{error}");
    assert!(store.head(id).is_err() && store.attempts(&uuid(3), 0).is_err());
    proxy.heal();
    restored(&bed, &store, id, content).unwrap();
}

#[test]
fn with_a_bucket_that_is_not_there_members_are_not_missing() {
    let (bed, _proxy) = behind_proxy(Limits::default());
    let files = packed(&bed, 0..10);
    let gone = Settings { bucket: "no-such-bucket".to_owned(), ..super::rgw::settings(bed.server.server().url()) };
    let store = ObjectStore::new(Bucket::open(&gone).unwrap());
    let (id, content) = files.iter().find(|(id, _)| is_member(id)).unwrap();
    let error = restored(&bed, &store, id, content).unwrap_err();
    assert_eq!(error.kind(), model::ErrorKind::Temporary, "{error}");
}
