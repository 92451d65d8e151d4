//! How actions ended.

use super::{action, finish, finish_at, whole};
use crate::{Finished, Queue, RequestId, Retention};
use model::{ActionId, Class, Failure};

/// It leaves the queue with what was known of it and its first result.
pub fn an_action_ends_once(queue: &dyn Queue) {
    let ids = queue.submit(&[whole(1), whole(2)]).unwrap();
    let failure = Failure::permanent(28, "archive full");
    queue.apply(&[finish_at(ids[0], Err(failure.clone()), u64::MAX), finish_at(ids[0], Ok(()), 1)]).unwrap();
    let expected = Finished {
        id: ids[0],
        request: RequestId(1),
        command: whole(1).command,
        archive_id: whole(1).archive_id,
        path: whole(1).path,
        result: Err(failure),
        bytes: 10,
        created_ms: whole(1).created_ms,
        finished_ms: i64::MAX as u64,
    };
    assert_eq!(queue.result(ids[0]).unwrap(), Some(expected));
    assert_eq!(queue.get(ids[0]).unwrap(), None);
    assert!(queue.of_file(&super::handle(1)).unwrap().is_empty());
    assert_eq!(queue.finished(ActionId(u64::MAX), 9).unwrap().len(), 1);
    assert_eq!(queue.result(ids[1]).unwrap(), None);
}

/// By id, in pages.
pub fn finished_actions_are_listed_newest_first(queue: &dyn Queue) {
    let ids = queue.submit(&vec![action(Class::Archive, 1); 6]).unwrap();
    for n in [3, 0, 5, 1] {
        let result = if n == 5 { Err(Failure::cancelled()) } else { Ok(()) };
        queue.apply(&[finish(ids[n], result)]).unwrap();
    }
    let page = |before, limit| queue.finished(before, limit).unwrap().into_iter().map(|f| f.id).collect::<Vec<_>>();
    assert_eq!(page(ActionId(u64::MAX), 2), [ids[5], ids[3]]);
    assert_eq!(page(ids[3], 2), [ids[1], ids[0]]);
    assert_eq!(page(ids[0], 2), []);
    assert_eq!(page(ActionId(u64::MAX), 0), []);
}

/// One success and one failure more than are kept: of each kind the one goes that finished first, not the one with
/// the smallest id, and successes do not push failures out.
pub fn old_results_are_forgotten_in_the_order_of_finishing(queue: &dyn Queue, retention: Retention) {
    for (kept, result) in [(retention.failures, Err(Failure::permanent(2, ""))), (retention.successes, Ok(()))] {
        let number = usize::try_from(kept + 1).unwrap();
        let ids = queue.submit(&vec![action(Class::Archive, 1); number]).unwrap();
        // The oldest action finishes last.
        let order = || ids.iter().skip(1).chain(ids.first());
        for some in order().copied().collect::<Vec<_>>().chunks(4000) {
            queue.apply(&some.iter().map(|id| finish(*id, result.clone())).collect::<Vec<_>>()).unwrap();
        }
        assert!(queue.result(ids[1]).unwrap().is_none(), "the first to finish");
        assert!(queue.result(ids[2]).unwrap().is_some(), "the second to finish");
        assert!(queue.result(ids[0]).unwrap().is_some(), "the last to finish");
    }
    let kept = queue.finished(ActionId(u64::MAX), usize::MAX).unwrap();
    let failures = kept.iter().filter(|f| f.result.is_err()).count() as u64;
    assert_eq!((failures, kept.len() as u64 - failures), (retention.failures, retention.successes));
    let totals = queue.totals().unwrap();
    assert_eq!((totals.failed, totals.succeeded), (retention.failures + 1, retention.successes + 1));
}
