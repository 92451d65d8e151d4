//! What every implementation of [`Queue`] must do, as functions to call from its tests. A failed check panics.
//!
//! Each function wants an empty queue; [`run`] calls them all. [`survives_reopening`] is for implementations that
//! have stable storage.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "called by tests alone: a failed check here is a failed test"
)]

mod accepting;
mod counting;
mod files;
mod order;
mod results;
mod sharing;

pub use accepting::{
    a_change_to_what_is_gone_is_passed_over, accepted_actions_come_back_whole, empty_calls_do_nothing,
    ids_rise_in_the_order_of_the_entries, listings_filter_and_continue, submit_inside_apply_enters_an_action,
};
pub use counting::{requests_are_counted, requests_are_forgotten_after_a_week, totals_count_by_class_and_command};
pub use files::{
    actions_are_found_by_file, further_copies_go_with_the_stamp, orphan_checks_are_owed_until_settled,
    stamps_are_set_and_forgotten,
};
pub use order::{
    a_retry_waits_and_counts, owners_are_those_with_ready_entries, promotion_moves_an_entry,
    ready_entries_come_in_order, the_next_start_is_known, what_is_put_back_counts_no_attempt,
};
pub use results::{
    an_action_ends_once, finished_actions_are_listed_newest_first, old_results_are_forgotten_in_the_order_of_finishing,
};
pub use sharing::{
    a_doubt_forgets_objects_and_owed_checks, files_are_described_until_their_stamp_is_forgotten,
    many_objects_are_asked_for_at_once, referrers_are_known_until_a_doubt, retired_objects_wait_with_what_they_were,
};

use crate::{Change, NewAction, Queue, RequestId, Retention};
use model::{ActionId, Class, Command, Digest, Failure, FileHandle, Identity};

/// Every check, each on a queue of its own with [`Retention::DEFAULT`].
pub fn run(make: impl Fn() -> Box<dyn Queue>) {
    let checks: [fn(&dyn Queue); 26] = [
        accepted_actions_come_back_whole,
        ids_rise_in_the_order_of_the_entries,
        empty_calls_do_nothing,
        a_change_to_what_is_gone_is_passed_over,
        submit_inside_apply_enters_an_action,
        listings_filter_and_continue,
        ready_entries_come_in_order,
        owners_are_those_with_ready_entries,
        the_next_start_is_known,
        a_retry_waits_and_counts,
        what_is_put_back_counts_no_attempt,
        promotion_moves_an_entry,
        an_action_ends_once,
        finished_actions_are_listed_newest_first,
        actions_are_found_by_file,
        stamps_are_set_and_forgotten,
        further_copies_go_with_the_stamp,
        orphan_checks_are_owed_until_settled,
        requests_are_counted,
        requests_are_forgotten_after_a_week,
        totals_count_by_class_and_command,
        files_are_described_until_their_stamp_is_forgotten,
        referrers_are_known_until_a_doubt,
        a_doubt_forgets_objects_and_owed_checks,
        retired_objects_wait_with_what_they_were,
        many_objects_are_asked_for_at_once,
    ];
    for check in checks {
        check(&*make());
    }
    old_results_are_forgotten_in_the_order_of_finishing(&*make(), Retention::DEFAULT);
}

/// `open` opens the same storage each time, empty at first: what one instance was given, the next one has, and it
/// gives no id a second time.
pub fn survives_reopening(open: impl Fn() -> Box<dyn Queue>) {
    let queue = open();
    let ids = queue.submit(&[whole(1), whole(2), whole(3)]).unwrap();
    let (first, second, last) = (ids[0], ids[1], ids[2]);
    let failure = Failure::temporary(110, "no answer");
    queue.apply(&[Change::Retry { id: second, not_before_ms: 77, failure }, finish(first, Ok(()))]).unwrap();
    let seen = |queue: &dyn Queue| {
        (
            queue.list(&crate::ListFilter::default(), ActionId(0), 10).unwrap(),
            queue.finished(ActionId(u64::MAX), 10).unwrap(),
            queue.totals().unwrap(),
            queue.request(RequestId(1)).unwrap(),
        )
    };
    let before = seen(&*queue);
    assert_eq!((before.0.len(), before.1.len()), (2, 1));
    drop(queue);
    let queue = open();
    assert_eq!(seen(&*queue), before);
    queue.apply(&[finish(second, Ok(())), finish(last, Ok(()))]).unwrap();
    drop(queue);
    let queue = open();
    let next = queue.submit(&[whole(4)]).unwrap();
    assert!(next[0] > last, "{next:?} after {last}");
}

/// An action of request 1 that starts at once.
fn action(class: Class, owner: u32) -> NewAction {
    NewAction {
        request: RequestId(1),
        class,
        command: Command::Archive,
        archive_id: 1,
        owner,
        file: None,
        path: String::new(),
        identity: Identity::default(),
        data: Vec::new(),
        not_before_ms: 0,
        created_ms: 0,
    }
}

/// An action with something in every field.
fn whole(n: u8) -> NewAction {
    NewAction {
        request: RequestId(1),
        class: Class::Restore,
        command: Command::Restore,
        archive_id: u32::MAX - u32::from(n),
        owner: u32::MAX,
        file: Some(handle(n)),
        path: format!("a/\u{fffd}\0 ü/{n}"),
        identity: Identity {
            uuid: format!("uuid-{n}"),
            hash: Some(Digest::Blake3([n; 32])),
            url: format!("s3://bucket/{n}"),
        },
        data: vec![0, 255, n],
        not_before_ms: 5,
        created_ms: 4,
    }
}

fn handle(n: u8) -> FileHandle {
    FileHandle::from_bytes(&[1, 0, 0, 0, n, 0, 0, 0, 9, 9]).unwrap()
}

fn finish(id: ActionId, result: Result<(), Failure>) -> Change {
    finish_at(id, result, 1000)
}

fn finish_at(id: ActionId, result: Result<(), Failure>, finished_ms: u64) -> Change {
    Change::Finish { id, result, bytes: 10, finished_ms }
}
