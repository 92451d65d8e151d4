//! What is kept of objects: who names them, and what waits for its removal.

use super::{finish, handle, whole};
use crate::{About, Change, NewAction, ObjectRef, Queue, Removal, Retired, Standing, SyncedStamp};
use model::{ActionId, Command, Digest, FileHandle, Identity, Stamp, Timestamp};

fn about(path: &str, size: u64) -> About {
    About {
        path: path.into(),
        size,
        mode: 0o6755,
        uid: u32::MAX,
        gid: 7,
        mtime: Timestamp { seconds: i64::MIN, nanos: 999_999_999 },
        hash: Some(Digest::Blake3([9; 32])),
    }
}

fn object(uuid: &str) -> ObjectRef {
    ObjectRef { archive_id: 1, uuid: uuid.into(), url: "url".into() }
}

fn share(uuid: &str, complete: bool, files: &[u8]) -> Change {
    Change::Share { object: object(uuid), complete, files: files.iter().map(|n| handle(*n)).collect() }
}

fn retire(uuid: &str, path: &str, file: u8, until_ms: u64) -> Change {
    let removal = NewAction {
        command: Command::Remove,
        archive_id: 1,
        file: None,
        identity: Identity { uuid: uuid.into(), hash: None, url: "url".into() },
        not_before_ms: until_ms,
        ..whole(1)
    };
    let retired = Retired { replaced: file > 1, file: handle(file), about: about(path, 5), retired_ms: 3 };
    Change::Retire { removal, retired }
}

fn shared(queue: &dyn Queue, archive_id: u32, uuid: &str) -> Option<bool> {
    let found = queue.standing(&[Removal { id: ActionId(99), archive_id, uuid }], 0).unwrap();
    assert_eq!(found.len(), 1);
    found[0].shared
}

/// The last description counts, and goes with the stamp.
pub fn files_are_described_until_their_stamp_is_forgotten(queue: &dyn Queue) {
    let describe = |n, about| Change::Describe { file: handle(n), about };
    assert_eq!(queue.about(&handle(1)).unwrap(), None);
    queue.apply(&[describe(1, About::default()), describe(1, about("\u{fffd}/ü", u64::MAX))]).unwrap();
    queue.apply(&[describe(2, about("", 0))]).unwrap();
    assert_eq!(queue.about(&handle(1)).unwrap(), Some(about("\u{fffd}/ü", u64::MAX)));
    queue.apply(&[Change::ForgetStamp { file: handle(1) }]).unwrap();
    assert_eq!(queue.about(&handle(1)).unwrap(), None);
    assert_eq!(queue.about(&handle(2)).unwrap(), Some(about("", 0)));
}

/// An object is complete only as long as no doubt came, and only if it was when it was first shared.
pub fn referrers_are_known_until_a_doubt(queue: &dyn Queue) {
    let found = |uuid: &str| queue.referrers(1, uuid, None, 9).unwrap();
    assert_eq!((shared(queue, 1, "a"), found("a")), (None, vec![]));
    queue.apply(&[share("a", true, &[3, 1]), share("b", false, &[1]), share("a", false, &[2, 1])]).unwrap();
    assert_eq!((shared(queue, 1, "a"), shared(queue, 1, "b")), (Some(true), Some(false)));
    assert_eq!(found("a"), [handle(1), handle(2), handle(3)]);
    assert_eq!(queue.referrers(1, "a", Some(&handle(1)), 1).unwrap(), [handle(2)]);
    assert_eq!((shared(queue, 2, "a"), queue.sharing().unwrap().sequence), (None, 3));
    let forget = |file: FileHandle| Change::ForgetReferrer { archive_id: 1, uuid: "a".into(), file };
    queue.apply(&[forget(handle(1)), forget(handle(9))]).unwrap();
    assert_eq!(found("a"), [handle(2), handle(3)]);
    let before = queue.sharing().unwrap();
    let ids = queue.submit(&[whole(1)]).unwrap();
    queue.apply(&[Change::Doubt, share("c", true, &[4]), share("a", true, &[])]).unwrap();
    let after = queue.sharing().unwrap();
    assert_ne!(before.database, after.database);
    assert_eq!((after.doubted, after.sequence), (ids[0], 5));
    let complete = ["a", "b", "c"].map(|uuid| shared(queue, 1, uuid));
    assert_eq!(complete, [Some(false), Some(false), Some(true)]);
    assert_eq!(found("a"), [handle(2), handle(3)]);
    queue.apply(&[Change::ForgetShared { archive_id: 1, uuid: "a".into() }]).unwrap();
    assert_eq!((shared(queue, 1, "a"), found("a"), found("c")), (None, vec![], vec![handle(4)]));
}

/// Stamps still prove content, and say no more which object would go with the file.
pub fn a_doubt_forgets_objects_and_owed_checks(queue: &dyn Queue) {
    let stamp = Stamp { size: 5, ..Stamp::default() };
    let synced = |object| SyncedStamp { stamp, object };
    let check = crate::OrphanCheck { archive_id: 1, uuid: "x".into(), url: String::new(), file: handle(1) };
    queue
        .apply(&[
            Change::SetStamp { file: handle(1), stamp: synced(Some(object("x"))) },
            Change::OweOrphanCheck(check),
            Change::Doubt,
        ])
        .unwrap();
    assert_eq!(queue.stamp(&handle(1)).unwrap(), Some(synced(None)));
    assert_eq!(queue.orphan_checks(9).unwrap(), []);
}

/// Found by object, by file and by path, until the removal has its result.
pub fn retired_objects_wait_with_what_they_were(queue: &dyn Queue) {
    let changes = [
        retire("a", "dir/x", 1, 10),
        retire("b", "dir/x", 2, 11),
        retire("c", "dir/sub/y", 1, 12),
        retire("d", "dir0", 2, 13),
        retire("a", "", 3, 14),
    ];
    queue.apply(&changes).unwrap();
    let uuids = |found: Vec<crate::RetiredObject>| found.into_iter().map(|r| r.object.uuid).collect::<Vec<_>>();
    let under = |after| queue.retired_in(b"dir/", b"dir0", after, 9).unwrap();
    let all = under(None);
    assert_eq!(uuids(all.clone()), ["c", "a", "b"]);
    assert_eq!(all[1].retired, Retired { replaced: false, file: handle(1), about: about("dir/x", 5), retired_ms: 3 });
    assert_eq!((all[1].until_ms, &all[1].object), (10, &object("a")));
    assert_eq!(uuids(under(Some((b"dir/x", all[1].id)))), ["b"]);
    assert_eq!(uuids(under(Some((b"dir/sub/y", all[0].id)))), ["a", "b"]);
    assert_eq!(uuids(queue.retired_in(b"dir/x", b"dir/x\0", None, 1).unwrap()), ["a"]);
    assert_eq!(uuids(queue.retired_of_file(&handle(2), 9).unwrap()), ["b", "d"]);
    let same: Vec<_> = queue.retired_object(1, "a", 9).unwrap().into_iter().map(|r| r.until_ms).collect();
    assert_eq!(same, [10, 14]);
    queue.apply(&[finish(all[1].id, Ok(())), finish(ActionId(99), Ok(()))]).unwrap();
    assert_eq!(uuids(under(None)), ["c", "b"]);
    assert_eq!(queue.retired_object(1, "a", 9).unwrap().len(), 1);
}

/// Each object's answer is its own, in the order of the question, and an action does not wait for itself.
pub fn many_objects_are_asked_for_at_once(queue: &dyn Queue) {
    let changes = [
        retire("twice", "x", 1, 10),
        retire("twice", "x", 2, 20),
        retire("once", "x", 1, 20),
        share("known", true, &[1]),
        share("doubtful", false, &[]),
        retire("known", "x", 3, 20),
    ];
    queue.apply(&changes).unwrap();
    let ids = |uuid| -> Vec<_> { queue.retired_object(1, uuid, 9).unwrap().into_iter().map(|r| r.id).collect() };
    let (twice, once) = (ids("twice"), ids("once"));
    let ask = |id, uuid| Removal { id, archive_id: 1, uuid };
    let other = Removal { archive_id: 2, ..ask(ActionId(99), "twice") };
    let removals = [
        ask(twice[0], "twice"),
        ask(ActionId(99), "plain"),
        ask(ActionId(99), "doubtful"),
        ask(twice[1], "twice"),
        ask(ActionId(99), "known"),
        ask(once[0], "once"),
        other,
        ask(ActionId(99), "twice"),
    ];
    let answers = |now_ms| -> Vec<_> {
        let found = queue.standing(&removals, now_ms).unwrap();
        found.into_iter().map(|Standing { waits, shared }| (waits, shared)).collect()
    };
    let plain = (false, None);
    let waits = (true, None);
    let (doubtful, known) = ((false, Some(false)), |waits| (waits, Some(true)));
    assert_eq!(answers(5), [waits, plain, doubtful, waits, known(true), plain, plain, waits]);
    assert_eq!(answers(10), [waits, plain, doubtful, plain, known(true), plain, plain, waits]);
    assert_eq!(answers(20), [plain, plain, doubtful, plain, known(false), plain, plain, plain]);
    queue.apply(&[finish(twice[1], Ok(()))]).unwrap();
    assert_eq!(answers(10)[0], plain);
    assert_eq!(queue.standing(&[], 0).unwrap(), []);
}
