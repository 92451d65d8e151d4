//! Moving objects between roots: what is moved, what is not, and what goes on meanwhile.

use super::harness::{described, id};
use super::suite::{Bed as _, Calls as _, Half, expected};
use super::tier::Tier;
use model::ObjectId;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use transfer::manifest::describe_beneath;
use transfer::{
    DigestKind, Encoding, Expected, Limiter, MovesWatcher, OpenFile, PutOptions, Rebalance, Rebalanced, Store, Stored,
    TransferError, Unwatched,
};

#[derive(Default)]
pub(crate) struct Noted {
    pub(crate) moved: Mutex<Vec<String>>,
    pub(crate) stays: Mutex<Vec<String>>,
}

impl MovesWatcher for Noted {
    fn moved(&self, what: &str, _: &Path, _: &Path, _: u64) {
        self.moved.lock().push(what.to_owned());
    }

    fn stays(&self, what: &str, _: &Path, why: &str) {
        self.stays.lock().push(format!("{what}: {why}"));
    }
}

pub(crate) fn rebalance(
    tier: &Tier,
    drain: Option<usize>,
    dry_run: bool,
) -> Result<(Rebalanced, Noted), TransferError> {
    let roots = tier.roots();
    let limiter = Limiter::new(None);
    let stop = AtomicBool::new(false);
    let drain = drain.map(|root| roots[root].as_path());
    let how = Rebalance { drain, within: 0.05, dry_run, limiter: &limiter, stop: &stop };
    let noted = Noted::default();
    Ok((tier.store.rebalance(&how, &noted)?, noted))
}

/// Small files come in groups, so that they share packs.
fn packed() -> PutOptions<'static> {
    PutOptions { pack_up_to_bytes: 64 << 10, ..described(Encoding::Raw) }
}

fn put_all(tier: &Tier, files: &[(ObjectId, Vec<u8>)], options: PutOptions<'_>) -> Vec<Stored> {
    let (tell, told) = channel();
    for (n, (name, content)) in files.iter().enumerate() {
        let source = tier.file("source", content);
        let staged = tier.store.stage(name, &source, options, &Unwatched).unwrap();
        let tell = tell.clone();
        tier.store.commit(staged, Box::new(move |result| tell.send((n, result.unwrap())).unwrap()));
    }
    drop(tell);
    let mut stored: Vec<_> = told.iter().collect();
    stored.sort_by_key(|(n, _)| *n);
    stored.into_iter().map(|(_, stored)| stored).collect()
}

/// Objects, records, and members of packs, of some of which a member is removed.
fn filled(tier: &Tier) -> Vec<(Stored, Vec<u8>)> {
    let mut all = Vec::new();
    for group in 0..12u64 {
        let name = |n: u64| id(&format!("{group:04x}9a7c-5ad1-4b6e-9b7a-0a4dd0c8f{n:03x}"));
        let small: Vec<_> = (0..10).map(|n| (name(n), format!("small {group} {n}").into_bytes())).collect();
        let large: Vec<_> = (10..13).map(|n| (name(n), vec![group as u8; 300_000 + n as usize])).collect();
        for (files, options) in [(small, packed()), (large, described(Encoding::Zstd))] {
            let stored = put_all(tier, &files, options);
            all.extend(stored.into_iter().zip(files.into_iter().map(|(_, content)| content)));
        }
    }
    let (kept, removed): (Vec<_>, Vec<_>) = all.into_iter().enumerate().partition(|(n, _)| n % 5 != 0);
    removed.iter().for_each(|(_, (stored, _))| tier.remove(&stored.id).unwrap());
    kept.into_iter().map(|(_, kept)| kept).collect()
}

fn all_there(tier: &Tier, files: &[(Stored, Vec<u8>)]) {
    for (stored, content) in files {
        assert_eq!(tier.get_over(&stored.id, b"", expected(stored)).unwrap().1, *content, "{}", stored.id);
    }
    let mut listed = BTreeSet::new();
    let mut collect = |id: ObjectId| {
        assert!(listed.insert(id.to_string()), "{id} is there twice");
        ControlFlow::Continue(())
    };
    tier.store.list(&mut collect).unwrap();
    let names: BTreeSet<_> = files.iter().map(|(stored, _)| stored.id.to_string()).collect();
    assert_eq!(listed, names);
}

/// What is left in a root, but for what Sifaka keeps there for itself.
fn left_in(root: &Path) -> Vec<String> {
    let files = super::harness::files_below(root).into_iter();
    let is_own = |path: &Path| path.strip_prefix(root).unwrap().to_str().unwrap().starts_with(".sifaka-");
    files.filter(|path| !is_own(path)).map(|path| path.display().to_string()).collect()
}

#[test]
fn a_root_is_emptied_and_what_was_in_it_is_in_the_others() {
    let tier = Tier::with(3);
    let files = filled(&tier);
    all_there(&tier, &files);
    let (would, told) = rebalance(&tier, Some(1), true).unwrap();
    assert!(would.done && would.moved > 0 && told.moved.lock().len() as u64 == would.moved);
    assert!(!left_in(&tier.roots()[1]).is_empty() && !tier.roots()[1].join(".sifaka-drained").exists());
    let (done, told) = rebalance(&tier, Some(1), false).unwrap();
    assert!(done.done && done.failed == 0 && done.moved == would.moved, "{done:?} {:?}", told.stays.lock());
    assert!(told.moved.lock().iter().any(|what| what.starts_with("pack ")));
    assert_eq!(left_in(&tier.roots()[1]), Vec::<String>::new());
    all_there(&tier, &files);
    // Nothing new comes into it, and the others do without it.
    for (stored, content) in filled(&tier) {
        assert_eq!(tier.get_over(&stored.id, b"", expected(&stored)).unwrap().1, content);
    }
    assert_eq!(left_in(&tier.roots()[1]), Vec::<String>::new());
    let roots = tier.roots();
    let without = super::tier::open(&[roots[0].clone(), roots[2].clone()]);
    assert!(without.head(&id("nothing")).unwrap().is_none());
    assert!(rebalance(&tier, Some(1), false).unwrap().0.done);
}

#[test]
fn what_is_not_configured_any_more_is_not_missing() {
    let tier = Tier::with(2);
    let files = filled(&tier);
    let one = super::tier::open(&tier.roots()[..1]);
    let temporary = |error: TransferError| assert_eq!(error.kind(), model::ErrorKind::Temporary, "{error}");
    temporary(one.head(&id("nothing")).unwrap_err());
    temporary(one.list(&mut |_| ControlFlow::Continue(())).unwrap_err());
    all_there(&tier, &files);
}

#[test]
fn of_two_equal_copies_one_goes_and_two_that_differ_stay() {
    let tier = Tier::with(2);
    let files = filled(&tier);
    let (stored, _) = files.iter().find(|(stored, _)| tier.homes(&stored.id) == [0]).unwrap();
    let (other, content) = files.iter().rfind(|(stored, _)| tier.homes(&stored.id) == [0]).unwrap();
    assert_ne!(stored.id, other.id);
    for id in [&stored.id, &other.id] {
        for half in [Half::Object, Half::Manifest] {
            let to = tier.place(1, id, half);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(tier.place(0, id, half), to).unwrap();
        }
    }
    fs::write(tier.place(1, &other.id, Half::Object), b"something else").unwrap();
    let (done, told) = rebalance(&tier, Some(0), false).unwrap();
    assert_eq!((done.twins, done.failed, done.done), (1, 1, false), "{:?}", told.stays.lock());
    assert_eq!(told.stays.lock().len(), 1);
    assert_eq!((tier.homes(&stored.id), tier.homes(&other.id)), (vec![1], vec![0, 1]));
    assert_eq!(tier.get_over(&other.id, b"", expected(other)).unwrap().1, *content);
    tier.remove(&other.id).unwrap();
    assert!(rebalance(&tier, Some(0), false).unwrap().0.done);
}

#[test]
fn what_a_run_was_in_the_middle_of_is_settled_by_the_next_one() {
    let tier = Tier::with(2);
    let files = filled(&tier);
    let roots = tier.roots();
    // As if it had been killed after the names were given, and before the originals went: everything of the one root is in the other, too.
    let mut journal = String::new();
    let mut copied = Vec::new();
    for path in super::harness::files_below(&roots[0]) {
        let relative = path.strip_prefix(&roots[0]).unwrap();
        let text = relative.to_str().unwrap();
        if text.starts_with(".sifaka-") {
            continue;
        }
        let to = roots[1].join(relative);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(&path, &to).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let is_pack = text.starts_with("packs/") && text.split('/').count() == 3;
        if is_pack || text.starts_with("objects/") && !name.ends_with(".manifest") {
            journal += &format!("{} {name}\n", if is_pack { "pack" } else { "object" });
            copied.push(path);
        }
    }
    fs::write(roots[1].join(".sifaka-moves"), journal + "obj").unwrap();
    // Removed from both by now; and if it was the last one of its pack, that too.
    let member = files.iter().find(|(stored, _)| stored.id.as_str().contains(".pk")).unwrap().0.id.clone();
    tier.remove(&member).unwrap();
    let files: Vec<_> = files.into_iter().filter(|(stored, _)| stored.id != member).collect();
    let copies = copied.iter().filter(|path| path.exists()).count() as u64;
    let (done, told) = rebalance(&tier, None, false).unwrap();
    assert_eq!((done.twins, done.failed), (copies, 0), "{:?}", told.stays.lock());
    assert_eq!(left_in(&roots[0]), Vec::<String>::new());
    assert_eq!(fs::read(roots[1].join(".sifaka-moves")).unwrap(), b"");
    all_there(&tier, &files);
}

#[test]
fn archives_restores_and_removals_go_on_while_all_is_moved_to_and_fro() {
    let tier = Tier::with(2);
    let files = filled(&tier);
    let (over, reads, runs) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let base = tier.base().to_owned();
    let read = |name: &str, stored: &Stored, content: &[u8]| {
        let path = base.join(name);
        fs::write(&path, b"").unwrap();
        let target = OpenFile::for_writing(&path).unwrap();
        let restored = tier.store.get(&stored.id, &target, expected(stored), &Unwatched);
        restored.unwrap_or_else(|error| panic!("{}: {error}", stored.id));
        assert_eq!(fs::read(&path).unwrap(), content);
    };
    std::thread::scope(|scope| {
        for reader in 0..2usize {
            let (files, over, reads, read) = (&files, &over, &reads, &read);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    for (stored, content) in files.iter().skip(reader) {
                        read(&format!("read{reader}"), stored, content);
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let (tier, over, read) = (&tier, &over, &read);
        let mover = scope.spawn(move || {
            // The same id again and again: written, written over, read, removed.
            let path = tier.base().join("again");
            let mut kept = Vec::new();
            for round in 0u64.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let name = id(&format!("{:04x}-again", round % 3));
                let content = vec![round as u8; 20_000];
                fs::write(&path, &content).unwrap();
                let source = OpenFile::for_reading(&path).unwrap();
                let options =
                    PutOptions { repeated: true, digest: Some(DigestKind::Blake3), ..described(Encoding::Raw) };
                let stored = match tier.put(&name, &source, options) {
                    Ok(stored) => stored,
                    // Closed meanwhile, and the other one not known to be open again: nothing but what is tried again.
                    Err(error) if matches!(error.errno(), 11 | 28) => continue,
                    Err(error) => panic!("{error}"),
                };
                read("reread", &stored, &content);
                if round % 4 == 3 {
                    tier.remove(&name).unwrap();
                    let gone = tier.store.head(&stored.id).unwrap();
                    assert_eq!(gone, None, "it came back");
                    kept.retain(|(kept, _): &(Stored, Vec<u8>)| kept.id != stored.id);
                } else {
                    kept.retain(|(kept, _): &(Stored, Vec<u8>)| kept.id != stored.id);
                    kept.push((stored, content));
                }
            }
            kept
        });
        for round in 0..6 {
            let (done, told) = rebalance(tier, Some(round % 2), false).unwrap();
            assert!(done.done && done.failed == 0, "{done:?} {:?}", told.stays.lock());
            fs::remove_file(tier.roots()[round % 2].join(".sifaka-drained")).unwrap();
            // It was taken out of the other's list, as one that is not needed any more.
            tier.store.enrol().unwrap();
            runs.fetch_add(1, Ordering::Relaxed);
        }
        over.store(true, Ordering::Relaxed);
        let kept = mover.join().unwrap();
        let mut all = files.clone();
        all.extend(kept);
        all_there(tier, &all);
    });
    assert!(reads.load(Ordering::Relaxed) > 100 && runs.load(Ordering::Relaxed) == 6);
    let nothing = tier.store.get(
        &id("0000-nothing"),
        &OpenFile::for_writing(tier.base().join("again")).unwrap(),
        Expected::default(),
        &Unwatched,
    );
    assert!(matches!(nothing, Err(TransferError::Missing { .. })), "{nothing:?}");
}

#[test]
fn listing_and_moving_exclude_each_other_and_a_root_has_to_be_known_to_the_mover() {
    let tier = Tier::with(2);
    filled(&tier);
    let mut refused = None;
    let mut during = |_| {
        refused = Some(rebalance(&tier, None, false).map(|_| ()).unwrap_err());
        ControlFlow::Break(())
    };
    tier.store.list(&mut during).unwrap();
    assert!(refused.unwrap().to_string().contains("being listed"));
    fs::remove_file(tier.roots()[0].join(".sifaka-root")).unwrap();
    let refused = rebalance(&tier, None, false).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("the mover has to be started"), "{refused}");
}

/// Records are written anew under their ids, when a directory gets another owner, say.
#[test]
fn of_a_record_the_newest_is_left() {
    let tier = Tier::with(2);
    let name = id("be0d9e05d3a956168e8e51dd36e0744f.rec");
    let put = |mode: u32| {
        let root = fs::File::open(tier.base()).unwrap();
        let (mut description, kind) = describe_beneath(root, b"", [3; 8]).unwrap();
        description.inode.mode = mode;
        let record = description.with_kind(name.clone(), kind);
        let (tell, told) = channel();
        tier.store.put_record(&record, Box::new(move |result| tell.send(result).unwrap()));
        told.recv().unwrap().unwrap();
    };
    let mode = || tier.store.manifest(&name).unwrap().unwrap().inode.mode;
    let homes = || [0, 1].map(|root| tier.place(root, &name, Half::Manifest).exists());
    put(1);
    let first = homes().iter().position(|is_there| *is_there).unwrap();
    // Its root takes nothing new: it is put into the other one, and gone from there.
    fs::write(tier.roots()[first].join(".sifaka-drained"), "").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    put(2);
    assert_eq!((homes()[first], homes()[1 - first], mode()), (false, true, 2));
    // What a crash in between left: an older one in the root that is emptied, or in the one that takes it.
    let newer = tier.place(1 - first, &name, Half::Manifest);
    let older = tier.place(first, &name, Half::Manifest);
    fs::remove_file(tier.roots()[first].join(".sifaka-drained")).unwrap();
    for drain in [first, 1 - first] {
        let second = fs::read(&newer).unwrap();
        put(if drain == first { 3 } else { 5 });
        let third = if newer.exists() { fs::read(&newer).unwrap() } else { fs::read(&older).unwrap() };
        fs::create_dir_all(older.parent().unwrap()).unwrap();
        fs::create_dir_all(newer.parent().unwrap()).unwrap();
        fs::write(&older, &second).unwrap();
        fs::write(&newer, &third).unwrap();
        let (done, told) = rebalance(&tier, Some(drain), false).unwrap();
        assert!(done.done && done.failed == 0, "{done:?} {:?}", told.stays.lock());
        assert_eq!((homes()[drain], homes()[1 - drain]), (false, true));
        assert_eq!(mode(), if drain == first { 3 } else { 5 });
        fs::remove_file(tier.roots()[drain].join(".sifaka-drained")).unwrap();
        tier.store.enrol().unwrap();
    }
}
