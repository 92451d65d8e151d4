//! Random histories: the durable queue, reopened now and then, shows what the one in memory shows.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap in a test is a failed test"
)]

use model::{ActionId, Class, Command, Failure, FileHandle, Identity, Stamp, Thaw};
use proptest::prelude::*;
use sifaka_queue::{
    About, Change, Cursor, ListFilter, MemoryQueue, NewAction, ObjectRef, OrphanCheck, Queue, Removal, RequestId,
    Retention, Retired, SqliteQueue, SyncedStamp,
};

/// Small, so that short histories reach all limits.
const RETENTION: Retention = Retention { successes: 4, failures: 3, requests: 2, request_ms: 20 };

#[derive(Clone, Debug)]
enum Step {
    Submit(Vec<NewAction>),
    Apply(Vec<Change>),
    Reopen,
}

fn handle(n: u8) -> FileHandle {
    FileHandle::from_bytes(&[1, 0, 0, 0, n]).unwrap()
}

fn class() -> impl Strategy<Value = Class> {
    prop::sample::select(Class::ALL.to_vec())
}

fn id() -> impl Strategy<Value = ActionId> {
    (0..30u64).prop_map(ActionId)
}

fn failure() -> impl Strategy<Value = Failure> {
    prop_oneof![
        Just(Failure::cancelled()),
        (2..=i64::MAX.unsigned_abs(), any::<String>()).prop_map(|(since_ms, message)| {
            Failure { thaw: Some(Thaw { since_ms, again_s: 0 }), ..Failure::thawing(message, 0) }
        }),
        any::<(bool, i32, String)>().prop_map(|(temporary, errno, message)| {
            if temporary { Failure::temporary(errno, message) } else { Failure::permanent(errno, message) }
        })
    ]
}

prop_compose! {
    fn action()(
        class in class(),
        command in prop::sample::select(Command::ALL.to_vec()),
        (request, archive_id, owner) in (0..5u64, 1..3u32, 0..3u32),
        file in prop::option::of(0..4u8),
        (path, uuid, url, data) in any::<(String, String, String, Vec<u8>)>(),
        (not_before_ms, created_ms) in (0..50u64, any::<u64>()),
    ) -> NewAction {
        let identity = Identity { uuid, hash: None, url };
        NewAction { request: RequestId(request), class, command, archive_id, owner, file: file.map(handle), path, identity, data, not_before_ms, created_ms }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let stamp = |size| SyncedStamp { stamp: Stamp { size, ..Stamp::default() }, object: None };
    let uuid = || "[ab]";
    prop_oneof![
        6 => (id(), prop::option::of(failure()), any::<u64>(), 0..100u64).prop_map(|(id, failure, bytes, finished_ms)| {
            Change::Finish { id, result: failure.map_or(Ok(()), Err), bytes, finished_ms }
        }),
        2 => (id(), 0..50u64, failure()).prop_map(|(id, not_before_ms, failure)| Change::Retry { id, not_before_ms, failure }),
        1 => (id(), 0..50u64, failure()).prop_map(|(id, not_before_ms, failure)| Change::PutBack { id, not_before_ms, failure }),
        2 => (id(), class(), 0..50u64).prop_map(|(id, class, not_before_ms)| Change::Promote { id, class, not_before_ms }),
        1 => (0..4u8, any::<u64>()).prop_map(move |(n, size)| Change::SetStamp { file: handle(n), stamp: stamp(size) }),
        1 => (0..4u8).prop_map(|n| Change::ForgetStamp { file: handle(n) }),
        1 => (0..4u8, prop::collection::btree_set((1..3u32, uuid()), 0..3)).prop_map(|(n, copies)| {
            let object = |(archive_id, uuid)| ObjectRef { archive_id, uuid, url: String::new() };
            Change::SetCopies { file: handle(n), copies: copies.into_iter().map(object).collect() }
        }),
        1 => (1..3u32, uuid(), any::<String>(), 0..4u8).prop_map(|(archive_id, uuid, url, n)| {
            Change::OweOrphanCheck(OrphanCheck { archive_id, uuid, url, file: handle(n) })
        }),
        1 => (1..3u32, uuid()).prop_map(|(archive_id, uuid)| Change::SettleOrphanCheck { archive_id, uuid }),
        1 => action().prop_map(Change::Submit),
        1 => (0..4u8, any::<Vec<u8>>()).prop_map(|(n, path)| {
            Change::Describe { file: handle(n), about: About { path, ..About::default() } }
        }),
        2 => (action(), uuid(), 0..4u8, "[a-c]/[ab]").prop_map(|(action, uuid, n, path)| Change::Retire {
            removal: NewAction {
                command: Command::Remove,
                file: None,
                identity: Identity { uuid, ..action.identity },
                ..action
            },
            retired: Retired {
                replaced: n > 1,
                file: handle(n),
                about: About { path: path.into(), ..About::default() },
                retired_ms: 1,
            },
        }),
        2 => (1..3u32, uuid(), any::<bool>(), prop::collection::vec(0..4u8, 0..3)).prop_map(
            |(archive_id, uuid, complete, files)| {
                let object = ObjectRef { archive_id, uuid, url: String::new() };
                Change::Share { object, complete, files: files.into_iter().map(handle).collect() }
            }
        ),
        1 => (1..3u32, uuid(), 0..4u8).prop_map(|(archive_id, uuid, n)| {
            Change::ForgetReferrer { archive_id, uuid, file: handle(n) }
        }),
        1 => (1..3u32, uuid()).prop_map(|(archive_id, uuid)| Change::ForgetShared { archive_id, uuid }),
        1 => Just(Change::Doubt),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop::collection::vec(action(), 0..6).prop_map(Step::Submit),
        5 => prop::collection::vec(change(), 0..12).prop_map(Step::Apply),
        1 => Just(Step::Reopen),
    ]
}

/// Everything that can be seen of a queue, in words.
fn observe(queue: &dyn Queue) -> Vec<String> {
    let mut seen = vec![
        format!("{:?}", queue.totals().unwrap()),
        format!("{:?}", queue.list(&ListFilter::default(), ActionId(0), usize::MAX).unwrap()),
        format!(
            "{:?}",
            queue
                .list(
                    &ListFilter { request: Some(RequestId(1)), command: Some(Command::Verify), archive_id: None },
                    ActionId(3),
                    3
                )
                .unwrap()
        ),
        format!("{:?}", queue.finished(ActionId(u64::MAX), usize::MAX).unwrap()),
        format!("{:?}", queue.finished(ActionId(12), 2).unwrap()),
        format!("{:?}", queue.orphan_checks(9).unwrap()),
    ];
    seen.extend((0..5).map(|n| format!("request {n}: {:?}", queue.request(RequestId(n)).unwrap())));
    seen.extend((0..4).map(|n| {
        let file = handle(n);
        let known = (queue.of_file(&file).unwrap(), queue.stamp(&file).unwrap(), queue.about(&file).unwrap());
        let objects = (queue.copies(&file).unwrap(), queue.retired_of_file(&file, 2).unwrap());
        format!("file {n}: {known:?} {objects:?}")
    }));
    let sharing = queue.sharing().unwrap();
    seen.push(format!("sharing: {} {}", sharing.sequence, sharing.doubted));
    for (archive_id, uuid) in [(1, "a"), (1, "b"), (2, "a"), (2, "b")] {
        let files = queue.referrers(archive_id, uuid, Some(&handle(0)), 2).unwrap();
        let retired = queue.retired_object(archive_id, uuid, 2).unwrap();
        let removals = [0, 5].map(|id| Removal { id: ActionId(id), archive_id, uuid });
        let standing = [0, 25, 60].map(|now_ms| queue.standing(&removals, now_ms).unwrap());
        seen.push(format!("{archive_id} {uuid}: {standing:?} {files:?} {retired:?}"));
    }
    for after in [None, Some((b"b/a".as_slice(), ActionId(4)))] {
        seen.push(format!("{:?}", queue.retired_in(b"a/b", b"c/b", after, 3).unwrap()));
    }
    for n in 0..30 {
        seen.push(format!("{n}: {:?} {:?}", queue.get(ActionId(n)).unwrap(), queue.result(ActionId(n)).unwrap()));
    }
    for now_ms in [0, 25, 60] {
        seen.push(format!("next after {now_ms}: {:?}", queue.next_ready_ms(now_ms).unwrap()));
        for class in Class::ALL {
            seen.push(format!("owners {class:?} {now_ms}: {:?}", queue.owners(class, now_ms).unwrap()));
            for owner in 0..3 {
                for after in [Cursor::default(), Cursor { not_before_ms: 20, id: ActionId(5) }] {
                    let ready = queue.ready(class, owner, after, now_ms, 3).unwrap();
                    seen.push(format!("{class:?} {owner} {after:?} {now_ms}: {ready:?}"));
                }
            }
        }
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sqlite_does_what_memory_does(steps in prop::collection::vec(step(), 1..20)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.db");
        let reopen = || SqliteQueue::with_retention(&path, RETENTION).unwrap();
        let model = MemoryQueue::with_retention(RETENTION);
        let mut durable = Some(reopen());
        for step in steps {
            let queue = durable.get_or_insert_with(reopen);
            match step {
                Step::Submit(actions) => prop_assert_eq!(queue.submit(&actions).unwrap(), model.submit(&actions).unwrap()),
                Step::Apply(changes) => {
                    queue.apply(&changes).unwrap();
                    model.apply(&changes).unwrap();
                }
                Step::Reopen => durable = None,
            }
            let queue = durable.get_or_insert_with(reopen);
            prop_assert_eq!(observe(queue), observe(&model));
        }
    }
}
