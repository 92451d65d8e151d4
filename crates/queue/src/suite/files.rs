//! What is kept of files: actions, stamps, owed checks.

use super::{action, finish, handle, whole};
use crate::{Change, ObjectRef, OrphanCheck, Queue, SyncedStamp};
use model::{Class, Stamp, Timestamp};

/// All that live, oldest first.
pub fn actions_are_found_by_file(queue: &dyn Queue) {
    let again = crate::NewAction { class: Class::Reader, ..whole(1) };
    let ids = queue.submit(&[whole(1), whole(2), again, action(Class::Archive, 1)]).unwrap();
    let found = |n| queue.of_file(&handle(n)).unwrap().into_iter().map(|e| e.id).collect::<Vec<_>>();
    assert_eq!(found(1), [ids[0], ids[2]]);
    assert_eq!(found(2), [ids[1]]);
    assert_eq!(found(3), []);
    queue.apply(&[finish(ids[0], Ok(()))]).unwrap();
    assert_eq!(found(1), [ids[2]]);
}

/// The last one counts.
pub fn stamps_are_set_and_forgotten(queue: &dyn Queue) {
    let stamp = |size, seconds| SyncedStamp {
        stamp: Stamp {
            size,
            mtime: Timestamp { seconds, nanos: 999_999_999 },
            ctime: Timestamp { seconds: i64::MAX, nanos: 1 },
        },
        object: (seconds > 1).then(|| ObjectRef { archive_id: u32::MAX, uuid: "an object".into(), url: String::new() }),
    };
    let set = |n, s| Change::SetStamp { file: handle(n), stamp: s };
    assert_eq!(queue.stamp(&handle(1)).unwrap(), None);
    queue.apply(&[set(1, stamp(1, 1)), set(1, stamp(u64::MAX, i64::MIN)), set(2, stamp(3, 3))]).unwrap();
    assert_eq!(queue.stamp(&handle(1)).unwrap(), Some(stamp(u64::MAX, i64::MIN)));
    queue.apply(&[Change::ForgetStamp { file: handle(1) }]).unwrap();
    assert_eq!(queue.stamp(&handle(1)).unwrap(), None);
    assert_eq!(queue.stamp(&handle(2)).unwrap(), Some(stamp(3, 3)));
    queue.apply(&[Change::ForgetStamp { file: handle(2) }, set(2, stamp(4, 4))]).unwrap();
    assert_eq!(queue.stamp(&handle(2)).unwrap(), Some(stamp(4, 4)));
}

/// The last list counts; it goes with the stamp, and with what else is known of objects at a doubt.
pub fn further_copies_go_with_the_stamp(queue: &dyn Queue) {
    let copy = |archive_id, uuid: &str| ObjectRef { archive_id, uuid: uuid.into(), url: "u".into() };
    let set = |n, copies: &[ObjectRef]| Change::SetCopies { file: handle(n), copies: copies.to_vec() };
    let known = |n| queue.copies(&handle(n)).unwrap();
    assert_eq!(known(1), []);
    queue.apply(&[set(1, &[copy(9, "x")]), set(1, &[copy(3, "b"), copy(2, "c")]), set(2, &[copy(2, "d")])]).unwrap();
    assert_eq!((known(1), known(2)), (vec![copy(2, "c"), copy(3, "b")], vec![copy(2, "d")]));
    queue.apply(&[set(1, &[])]).unwrap();
    assert_eq!(known(1), []);
    queue.apply(&[set(1, &[copy(5, "e")]), Change::ForgetStamp { file: handle(2) }]).unwrap();
    assert_eq!((known(1), known(2)), (vec![copy(5, "e")], vec![]));
    queue.apply(&[Change::Doubt]).unwrap();
    assert_eq!(known(1), []);
}

/// Oldest first; owing the same object again replaces what is known of it and keeps its place.
pub fn orphan_checks_are_owed_until_settled(queue: &dyn Queue) {
    let check = |archive_id, uuid: &str, file| OrphanCheck {
        archive_id,
        uuid: uuid.into(),
        url: format!("url {file}"),
        file: handle(file),
    };
    let owe = |c: OrphanCheck| Change::OweOrphanCheck(c);
    queue.apply(&[owe(check(1, "b", 1)), owe(check(1, "a", 1)), owe(check(2, "b", 2)), owe(check(1, "b", 3))]).unwrap();
    assert_eq!(queue.orphan_checks(9).unwrap(), [check(1, "b", 3), check(1, "a", 1), check(2, "b", 2)]);
    assert_eq!(queue.orphan_checks(1).unwrap(), [check(1, "b", 3)]);
    queue.apply(&[Change::SettleOrphanCheck { archive_id: 1, uuid: "b".into() }]).unwrap();
    assert_eq!(queue.orphan_checks(9).unwrap(), [check(1, "a", 1), check(2, "b", 2)]);
}
