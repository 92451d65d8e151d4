//! What was given comes back.

use super::{action, finish, handle, whole};
use crate::{Change, ListFilter, NewAction, Queue, QueuedAction, RequestId};
use model::{ActionId, Class, Command, Digest, Failure};

/// All fields, the extreme values among them; times beyond what a signed 64-bit number holds become the largest.
pub fn accepted_actions_come_back_whole(queue: &dyn Queue) {
    let sha1 = NewAction {
        request: RequestId(u64::MAX),
        file: None,
        identity: model::Identity { hash: Some(Digest::Sha1([7; 20])), ..whole(2).identity },
        ..whole(2)
    };
    let extreme = NewAction { not_before_ms: u64::MAX, created_ms: u64::MAX, ..action(Class::Reader, 0) };
    let given = [whole(1), sha1, extreme.clone()];
    let ids = queue.submit(&given).unwrap();
    assert_eq!(ids.len(), 3);
    let largest = i64::MAX as u64;
    let expected =
        [given[0].clone(), given[1].clone(), NewAction { not_before_ms: largest, created_ms: largest, ..extreme }];
    for (id, action) in ids.into_iter().zip(expected) {
        assert_eq!(queue.get(id).unwrap(), Some(QueuedAction { id, action, attempts: 0, last_failure: None }));
    }
    assert_eq!(queue.request(RequestId(u64::MAX)).unwrap().map(|r| r.total), Some(1));
}

/// Larger than every id given before, also when everything before has finished.
pub fn ids_rise_in_the_order_of_the_entries(queue: &dyn Queue) {
    let first = queue.submit(&[action(Class::Archive, 1), action(Class::Reader, 2)]).unwrap();
    assert!(ActionId(0) < first[0] && first[0] < first[1], "{first:?}");
    assert_eq!(queue.get(first[1]).unwrap().unwrap().action.owner, 2);
    queue.apply(&first.iter().map(|id| finish(*id, Ok(()))).collect::<Vec<_>>()).unwrap();
    let next = queue.submit(&[action(Class::Archive, 1)]).unwrap();
    assert!(next[0] > first[1], "{next:?} after {first:?}");
}

/// Nothing given, nothing changed.
pub fn empty_calls_do_nothing(queue: &dyn Queue) {
    assert!(queue.submit(&[]).unwrap().is_empty());
    queue.apply(&[]).unwrap();
    assert_eq!(queue.totals().unwrap(), crate::Totals::default());
    assert!(queue.list(&ListFilter::default(), ActionId(0), usize::MAX).unwrap().is_empty());
    let ids = queue.submit(&[action(Class::Archive, 1)]).unwrap();
    assert!(queue.list(&ListFilter::default(), ActionId(0), 0).unwrap().is_empty());
    assert!(queue.get(ActionId(ids[0].0 + 1)).unwrap().is_none());
    assert!(queue.get(ActionId(u64::MAX)).unwrap().is_none());
    assert!(queue.result(ids[0]).unwrap().is_none());
}

/// Repeating what was applied changes nothing more.
pub fn a_change_to_what_is_gone_is_passed_over(queue: &dyn Queue) {
    let ids = queue.submit(&[action(Class::Archive, 1), action(Class::Archive, 1)]).unwrap();
    let changes = [
        finish(ids[0], Ok(())),
        finish(ids[0], Err(Failure::permanent(2, "gone"))),
        Change::Retry { id: ids[0], not_before_ms: 9, failure: Failure::temporary(5, "again") },
        Change::Promote { id: ids[0], class: Class::Reader, not_before_ms: 0 },
        finish(ActionId(u64::MAX), Ok(())),
        Change::ForgetStamp { file: handle(1) },
        Change::SettleOrphanCheck { archive_id: 1, uuid: "none".into() },
    ];
    queue.apply(&changes).unwrap();
    let (totals, request) = (queue.totals().unwrap(), queue.request(RequestId(1)).unwrap().unwrap());
    queue.apply(&changes).unwrap();
    assert_eq!(queue.totals().unwrap(), totals);
    assert_eq!(queue.request(RequestId(1)).unwrap(), Some(request));
    assert_eq!((totals.succeeded, totals.failed, request.total, request.succeeded), (1, 0, 2, 1));
    assert_eq!(queue.result(ids[0]).unwrap().unwrap().result, Ok(()));
    assert!(queue.get(ids[1]).unwrap().is_some());
}

/// In its place among the other changes.
pub fn submit_inside_apply_enters_an_action(queue: &dyn Queue) {
    let id = queue.submit(&[action(Class::Archive, 1)]).unwrap()[0];
    queue.apply(&[finish(id, Ok(())), Change::Submit(whole(3)), Change::Submit(action(Class::Remove, 8))]).unwrap();
    let live = queue.list(&ListFilter::default(), ActionId(0), 10).unwrap();
    assert_eq!(live.iter().map(|e| e.action.clone()).collect::<Vec<_>>(), [whole(3), action(Class::Remove, 8)]);
    assert!(live[0].id > id && live[1].id > live[0].id);
    assert_eq!(queue.request(RequestId(1)).unwrap().unwrap().total, 3);
}

/// By command, archive and request, all that are named; in pages.
pub fn listings_filter_and_continue(queue: &dyn Queue) {
    let of = |command, archive_id, request| NewAction {
        command,
        archive_id,
        request: RequestId(request),
        ..action(Class::Archive, 1)
    };
    let ids = queue
        .submit(&[
            of(Command::Archive, 1, 0),
            of(Command::Verify, 1, 5),
            of(Command::Archive, 2, 5),
            of(Command::Archive, 1, 5),
        ])
        .unwrap();
    let list = |filter: ListFilter, after, limit| {
        let found = queue.list(&filter, after, limit).unwrap();
        found.into_iter().map(|e| ids.iter().position(|id| *id == e.id).unwrap()).collect::<Vec<_>>()
    };
    let all = ListFilter::default;
    assert_eq!(list(all(), ActionId(0), usize::MAX), [0, 1, 2, 3]);
    assert_eq!(list(all(), ActionId(0), 2), [0, 1]);
    assert_eq!(list(all(), ids[1], 2), [2, 3]);
    assert_eq!(list(all(), ActionId(u64::MAX), 2), [0; 0]);
    assert_eq!(list(ListFilter { command: Some(Command::Archive), ..all() }, ActionId(0), 9), [0, 2, 3]);
    assert_eq!(list(ListFilter { archive_id: Some(1), ..all() }, ActionId(0), 9), [0, 1, 3]);
    assert_eq!(list(ListFilter { request: Some(RequestId(0)), ..all() }, ActionId(0), 9), [0]);
    let narrow = ListFilter { command: Some(Command::Archive), archive_id: Some(1), request: Some(RequestId(5)) };
    assert_eq!(list(narrow, ActionId(0), 9), [3]);
}
