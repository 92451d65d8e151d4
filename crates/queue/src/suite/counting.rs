//! Sums: by request, by class and command, over all.

use super::{action, finish, finish_at};
use crate::{Change, NewAction, Queue, RequestId, RequestStatus, Retention, Totals};
use model::{Class, Command, Failure};

/// By how they ended; cancelled ones are not failed ones; a request may grow after it was done; 0 is none.
pub fn requests_are_counted(queue: &dyn Queue) {
    let of = |request| NewAction { request: RequestId(request), ..action(Class::Archive, 1) };
    let status = |request| queue.request(RequestId(request)).unwrap();
    assert_eq!(status(5), None);
    let ids = queue.submit(&[of(5), of(5), of(5), of(6), of(0)]).unwrap();
    let (failed, cancelled) = (Failure::permanent(2, ""), Failure::cancelled());
    queue.apply(&[finish(ids[0], Ok(())), finish(ids[1], Err(failed)), finish(ids[4], Ok(()))]).unwrap();
    queue.apply(&[finish(ids[2], Err(cancelled))]).unwrap();
    let expected = RequestStatus { total: 3, succeeded: 1, failed: 1, cancelled: 1, bytes: 10 };
    assert_eq!(status(5), Some(expected));
    assert_eq!(status(6), Some(RequestStatus { total: 1, ..RequestStatus::default() }));
    assert_eq!(status(0), None);
    queue.apply(&[Change::Submit(of(5))]).unwrap();
    assert_eq!(status(5), Some(RequestStatus { total: 4, ..expected }));
}

/// Counted from their last finish, by the times of later finishes; never one with something left to do.
pub fn requests_are_forgotten_after_a_week(queue: &dyn Queue) {
    let of = |request| NewAction { request: RequestId(request), ..action(Class::Archive, 1) };
    let known = |request| queue.request(RequestId(request)).unwrap().is_some();
    let week_ms = Retention::DEFAULT.request_ms;
    let ids = queue.submit(&[of(1), of(2), of(2), of(3), of(4), of(5), of(5)]).unwrap();
    queue
        .apply(&[finish_at(ids[0], Ok(()), 100), finish_at(ids[1], Ok(()), 100), finish_at(ids[5], Ok(()), 100)])
        .unwrap();
    queue.apply(&[finish_at(ids[6], Ok(()), 200)]).unwrap();
    queue.apply(&[finish_at(ids[3], Ok(()), 100 + week_ms)]).unwrap();
    assert!(known(1), "a week is not over");
    queue.apply(&[finish_at(ids[4], Ok(()), 101 + week_ms)]).unwrap();
    assert_eq!([1, 2, 3, 4, 5].map(known), [false, true, true, true, true]);
}

/// Live ones by class, command and archive; finished ones ever.
pub fn totals_count_by_class_and_command(queue: &dyn Queue) {
    let of = |class, command, archive_id| NewAction { command, archive_id, ..action(class, 1) };
    let entries = [
        of(Class::Archive, Command::Verify, 1),
        of(Class::Archive, Command::Archive, 2),
        of(Class::Archive, Command::Archive, 1),
        of(Class::Archive, Command::Archive, 1),
        of(Class::Reader, Command::Restore, 1),
    ];
    let ids = queue.submit(&entries).unwrap();
    let live = vec![
        (Class::Reader, Command::Restore, 1, 1),
        (Class::Archive, Command::Archive, 1, 2),
        (Class::Archive, Command::Archive, 2, 1),
        (Class::Archive, Command::Verify, 1, 1),
    ];
    assert_eq!(queue.totals().unwrap(), Totals { live, succeeded: 0, failed: 0 });
    let results = [Ok(()), Ok(()), Err(Failure::cancelled()), Err(Failure::permanent(1, "")), Ok(())];
    queue.apply(&ids.into_iter().zip(results).map(|(id, r)| finish(id, r)).collect::<Vec<_>>()).unwrap();
    assert_eq!(queue.totals().unwrap(), Totals { live: Vec::new(), succeeded: 3, failed: 2 });
}
