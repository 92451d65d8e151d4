//! What dispatch sees.

use super::action;
use crate::{Change, Cursor, NewAction, Queue};
use model::{Class, Failure};

fn at(class: Class, owner: u32, not_before_ms: u64) -> NewAction {
    NewAction { not_before_ms, ..action(class, owner) }
}

/// By start, then id; of one class and owner; in pages that neither repeat nor leave out, also among equal starts.
pub fn ready_entries_come_in_order(queue: &dyn Queue) {
    let entries: Vec<_> = [30, 10, 20, 10, 10, 99]
        .iter()
        .map(|ms| at(Class::Archive, 7, *ms))
        .chain([at(Class::Archive, 8, 0), at(Class::Remove, 7, 0)])
        .collect();
    let ids = queue.submit(&entries).unwrap();
    let expected = [ids[1], ids[3], ids[4], ids[2], ids[0]];
    for limit in 1..7 {
        let (mut seen, mut after) = (Vec::new(), Cursor::default());
        loop {
            let page = queue.ready(Class::Archive, 7, after, 98, limit).unwrap();
            assert!(page.len() <= limit);
            let Some(last) = page.last() else { break };
            after = Cursor { not_before_ms: last.action.not_before_ms, id: last.id };
            seen.extend(page.iter().map(|e| e.id));
        }
        assert_eq!(seen, expected, "in pages of {limit}");
    }
    assert_eq!(queue.ready(Class::Archive, 7, Cursor::default(), 99, 9).unwrap().len(), 6, "ready at its very start");
    assert!(queue.ready(Class::Archive, 7, Cursor::default(), 9, 9).unwrap().is_empty());
    assert!(queue.ready(Class::Reader, 7, Cursor::default(), u64::MAX, 9).unwrap().is_empty());
}

/// Of that class, ready at that time, each once, ascending.
pub fn owners_are_those_with_ready_entries(queue: &dyn Queue) {
    let mut entries: Vec<_> = [5, 0, 5, u32::MAX, 9].iter().map(|owner| at(Class::Archive, *owner, 0)).collect();
    entries.extend([at(Class::Archive, 6, 50), at(Class::Archive, 9, 60), at(Class::Reader, 1, 0)]);
    queue.submit(&entries).unwrap();
    assert_eq!(queue.owners(Class::Archive, 49).unwrap(), [0, 5, 9, u32::MAX]);
    assert_eq!(queue.owners(Class::Archive, u64::MAX).unwrap(), [0, 5, 6, 9, u32::MAX]);
    assert_eq!(queue.owners(Class::Reader, 0).unwrap(), [1]);
    assert_eq!(queue.owners(Class::Remove, u64::MAX).unwrap(), [0; 0]);
}

/// Over all classes and owners, later than now.
pub fn the_next_start_is_known(queue: &dyn Queue) {
    assert_eq!(queue.next_ready_ms(0).unwrap(), None);
    queue.submit(&[at(Class::Archive, 1, 40), at(Class::Reader, 2, 70), at(Class::Archive, 3, 20)]).unwrap();
    let next: Vec<_> = [0, 19, 20, 40, 69, 70, u64::MAX].iter().map(|now| queue.next_ready_ms(*now).unwrap()).collect();
    assert_eq!(next, [Some(20), Some(20), Some(40), Some(70), Some(70), None, None]);
}

/// One attempt each, the last failure remembered, the new start kept to.
pub fn a_retry_waits_and_counts(queue: &dyn Queue) {
    let id = queue.submit(&[at(Class::Restore, 1, 0)]).unwrap()[0];
    let first = Failure::temporary(110, "no answer");
    queue.apply(&[Change::Retry { id, not_before_ms: 500, failure: first }]).unwrap();
    assert!(queue.ready(Class::Restore, 1, Cursor::default(), 499, 9).unwrap().is_empty());
    let second = Failure::permanent(-7, "\u{fffd} odd");
    queue.apply(&[Change::Retry { id, not_before_ms: 900, failure: second.clone() }]).unwrap();
    let entry = queue.ready(Class::Restore, 1, Cursor::default(), 900, 9).unwrap().remove(0);
    assert_eq!((entry.attempts, entry.last_failure, entry.action.not_before_ms), (2, Some(second), 900));
    assert_eq!(queue.next_ready_ms(0).unwrap(), Some(900));
}

/// No attempt is counted, and since when something is being thawed is remembered until it fails otherwise.
pub fn what_is_put_back_counts_no_attempt(queue: &dyn Queue) {
    let id = queue.submit(&[at(Class::Restore, 1, 0)]).unwrap()[0];
    let thaw = Some(model::Thaw { since_ms: 1_700_000_000_000, again_s: 0 });
    let failure = Failure { thaw, ..Failure::thawing("it is being thawed", 0) };
    queue.apply(&[Change::PutBack { id, not_before_ms: 500, failure: failure.clone() }]).unwrap();
    assert!(queue.ready(Class::Restore, 1, Cursor::default(), 499, 9).unwrap().is_empty());
    let entry = queue.ready(Class::Restore, 1, Cursor::default(), 500, 9).unwrap().remove(0);
    assert_eq!((entry.attempts, entry.last_failure), (0, Some(failure)));
    let other = Failure::temporary(110, "no answer");
    queue.apply(&[Change::Retry { id, not_before_ms: 600, failure: other.clone() }]).unwrap();
    let entry = queue.get(id).unwrap().unwrap();
    assert_eq!((entry.attempts, entry.last_failure), (1, Some(other)));
}

/// To another class and start, everything else as it was.
pub fn promotion_moves_an_entry(queue: &dyn Queue) {
    let id = queue.submit(&[at(Class::Restore, 1, 100)]).unwrap()[0];
    let before = queue.get(id).unwrap().unwrap();
    queue.apply(&[Change::Promote { id, class: Class::Reader, not_before_ms: 3 }]).unwrap();
    assert!(queue.owners(Class::Restore, u64::MAX).unwrap().is_empty());
    let found = queue.ready(Class::Reader, 1, Cursor::default(), 3, 9).unwrap();
    let mut expected = before;
    (expected.action.class, expected.action.not_before_ms) = (Class::Reader, 3);
    assert_eq!(found, [expected]);
    let totals = queue.totals().unwrap();
    assert_eq!(totals.live, [(Class::Reader, model::Command::Archive, 1, 1)]);
}
