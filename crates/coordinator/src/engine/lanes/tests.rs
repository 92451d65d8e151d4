use super::*;
use model::{Command, Identity};
use queue::{MemoryQueue, NewAction, RequestId};

fn submit(queue: &MemoryQueue, count: usize, class: Class, archive_id: u32, owner: u32) {
    let action = NewAction {
        request: RequestId(1),
        class,
        command: Command::Archive,
        archive_id,
        owner,
        file: None,
        path: String::new(),
        identity: Identity::default(),
        data: Vec::new(),
        not_before_ms: 0,
        created_ms: 0,
    };
    queue.submit(&vec![action; count]).unwrap();
}

/// What comes out until nothing has room, as (class, archive, owner).
fn drain(
    lanes: &mut Lanes,
    queue: &MemoryQueue,
    count: usize,
    has_room: impl Fn(u32) -> bool + Copy,
) -> Vec<(Class, u32, u32)> {
    let next = || {
        lanes.refill(queue, 1, has_room).unwrap();
        lanes.pop(has_room).map(|entry| (entry.action.class, entry.action.archive_id, entry.action.owner))
    };
    std::iter::from_fn(next).take(count).collect()
}

#[test]
fn a_full_archive_of_one_user_holds_up_no_other_user() {
    let queue = MemoryQueue::default();
    let mut lanes = Lanes::default();
    submit(&queue, 1000, Class::Archive, 2, 7);
    assert!(drain(&mut lanes, &queue, 9, |archive| archive != 2).is_empty());
    submit(&queue, 300, Class::Archive, 1, 8);
    lanes.rewind(Class::Archive, 8, 0);
    let out = drain(&mut lanes, &queue, 5000, |archive| archive != 2);
    assert_eq!(out, vec![(Class::Archive, 1, 8); 300]);
    assert!(lanes.known.len() <= 300 + PAGE + LOW, "{} entries in memory", lanes.known.len());
    // It has room again: everything comes.
    assert_eq!(drain(&mut lanes, &queue, 5000, |_| true).len(), 1000);
}

#[test]
fn a_user_who_comes_later_need_not_wait_for_what_is_in_memory() {
    let queue = MemoryQueue::default();
    let mut lanes = Lanes::default();
    submit(&queue, 1000, Class::Archive, 1, 7);
    assert_eq!(drain(&mut lanes, &queue, 10, |_| true).len(), 10);
    submit(&queue, 1, Class::Archive, 1, 8);
    lanes.rewind(Class::Archive, 8, 0);
    let out = drain(&mut lanes, &queue, 2, |_| true);
    assert!(out.contains(&(Class::Archive, 1, 8)), "{out:?}");
}

#[test]
fn restores_without_end_leave_turns_to_archiving() {
    let queue = MemoryQueue::default();
    let mut lanes = Lanes::default();
    submit(&queue, 1000, Class::Restore, 1, 7);
    submit(&queue, 100, Class::Archive, 1, 7);
    let out = drain(&mut lanes, &queue, 160, |_| true);
    assert_eq!(out.iter().filter(|(class, ..)| *class == Class::Archive).count(), 10);
    assert_eq!(drain(&mut lanes, &queue, 5000, |_| true).len(), 940);
}
