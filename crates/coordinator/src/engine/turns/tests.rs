use super::*;
use proptest::prelude::*;
use std::collections::HashSet;

fn place(key: u64, class: Class, archive_id: u32, owner: u32) -> Place {
    Place { key, class, archive_id, owner }
}

/// Everything that can be given now, in order, none of it ending meanwhile.
fn all_at_once(turns: &mut Turns<Place>) -> Vec<Place> {
    std::iter::from_fn(|| turns.give()).collect()
}

fn put_many(turns: &mut Turns<Place>, first: u64, count: u64, class: Class, archive_id: u32, owner: u32) {
    for key in first..first + count {
        let place = place(key, class, archive_id, owner);
        turns.put(place, place);
    }
}

#[test]
fn one_read_comes_next_after_a_storm_of_another_users() {
    let mut turns = Turns::default();
    turns.set_rooms(&[(1, 64)]);
    put_many(&mut turns, 0, 10_000, Class::Reader, 1, 1000);
    let storm = all_at_once(&mut turns);
    assert_eq!(storm.len(), 32, "one half");
    put_many(&mut turns, 20_000, 1, Class::Reader, 1, 2000);
    assert_eq!(turns.give().map(|place| place.key), Some(20_000), "there is room, and it is his turn");
    assert_eq!(turns.give(), None);
    turns.ended(storm[0].key);
    assert_eq!(turns.give().map(|place| place.owner), Some(1000));
}

#[test]
fn a_slow_archive_holds_up_nobody_else() {
    let mut turns = Turns::default();
    turns.set_limit(100);
    turns.set_rooms(&[(1, 10), (2, 40)]);
    put_many(&mut turns, 0, 1000, Class::Archive, 1, 0);
    put_many(&mut turns, 5000, 30, Class::Archive, 2, 0);
    let given = all_at_once(&mut turns);
    let of = |archive| given.iter().filter(|place| place.archive_id == archive).count();
    assert_eq!((of(1), of(2)), (8, 30), "ten but for two that are the readers'");
    // Nothing of archive 1 ever ends: archive 2 goes on all the same.
    for place in given.iter().filter(|place| place.archive_id == 2) {
        turns.ended(place.key);
    }
    put_many(&mut turns, 9000, 200, Class::Archive, 2, 0);
    assert_eq!(all_at_once(&mut turns).len(), 35);
    assert_eq!(turns.len_of(1), 992);
}

#[test]
fn archiving_leaves_room_for_readers_and_a_storm_of_readers_for_archiving() {
    let mut turns = Turns::default();
    turns.set_limit(16);
    put_many(&mut turns, 0, 100, Class::Archive, 1, 0);
    let archives = all_at_once(&mut turns);
    assert_eq!(archives.len(), 14);
    put_many(&mut turns, 1000, 100, Class::Reader, 1, 7);
    assert_eq!(all_at_once(&mut turns).len(), 2);
    // From now on readers come without end, and one work ends at a time.
    let mut running: Vec<u64> = archives.iter().map(|place| place.key).chain([1000, 1001]).collect();
    let mut archived = 0;
    for _ in 0..800 {
        turns.ended(running.remove(0));
        put_many(&mut turns, 2000 + running.len() as u64, 0, Class::Reader, 1, 7);
        let Some(next) = turns.give() else { continue };
        archived += u64::from(next.class == Class::Archive);
        running.push(next.key);
        if next.class == Class::Reader {
            let again = place(next.key + 10_000, Class::Reader, 1, 7);
            turns.put(again, again);
        }
    }
    assert!(archived >= 40, "{archived} of 800 turns");
}

#[test]
fn one_at_a_time_is_possible_for_everybody() {
    for class in Class::ALL {
        let mut turns = Turns::default();
        turns.set_rooms(&[(1, 1)]);
        put_many(&mut turns, 0, 3, class, 1, 5);
        assert_eq!(all_at_once(&mut turns).len(), 1);
        turns.ended(0);
        assert_eq!(all_at_once(&mut turns).len(), 1);
    }
}

#[test]
fn nothing_goes_where_there_is_no_credit_and_what_nobody_serves_goes_out_to_come_back() {
    let mut turns = Turns::default();
    turns.set_rooms(&[(1, 0)]);
    put_many(&mut turns, 0, 1, Class::Reader, 1, 5);
    put_many(&mut turns, 1, 1, Class::Reader, 2, 5);
    assert_eq!(all_at_once(&mut turns).iter().map(|place| place.key).collect::<Vec<_>>(), [1]);
}

#[derive(Debug, Clone)]
enum Step {
    Put(Class, u32, u32),
    Give,
    End(usize),
    Withdraw(usize),
    Room(u32, usize),
    Limit(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let class = prop::sample::select(&Class::ALL);
    let step = prop_oneof![
        4 => (class, 1..4u32, 0..4u32).prop_map(|(class, archive, owner)| Step::Put(class, archive, owner)),
        4 => Just(Step::Give),
        3 => any::<usize>().prop_map(Step::End),
        1 => any::<usize>().prop_map(Step::Withdraw),
        1 => (1..4u32, 0..9usize).prop_map(|(archive, room)| Step::Room(archive, room)),
        1 => (1..12usize).prop_map(Step::Limit),
    ];
    prop::collection::vec(step, 1..300)
}

proptest! {
    /// Each work comes out once, by its turn or by being withdrawn; no limit that stood when it was given is exceeded by giving it;
    /// and whenever nothing is given though something is ready, everything ready lacks room.
    #[test]
    fn limits_hold_and_nothing_is_lost(steps in steps()) {
        let mut turns: Turns<Place> = Turns::default();
        let (mut ready, mut given): (Vec<Place>, Vec<Place>) = (Vec::new(), Vec::new());
        let (mut rooms, mut limit) = (BTreeMap::new(), usize::MAX);
        for (key, step) in steps.into_iter().enumerate() {
            match step {
                Step::Put(class, archive_id, owner) => {
                    let place = place(key as u64, class, archive_id, owner);
                    turns.put(place, place);
                    ready.push(place);
                }
                Step::Give => match turns.give() {
                    Some(place) => {
                        prop_assert!(ready.contains(&place));
                        ready.retain(|other| *other != place);
                        given.push(place);
                        let room = rooms.get(&place.archive_id).copied().unwrap_or(usize::MAX);
                        let here = given.iter().filter(|other| other.archive_id == place.archive_id).count();
                        prop_assert!(here <= room && given.len() <= limit);
                        let readers = |other: &&Place| other.class == Class::Reader && other.owner == place.owner;
                        let mine = given.iter().filter(readers).count();
                        prop_assert!(place.class != Class::Reader || mine <= for_one_reader(limit));
                        let background = given.iter().filter(|other| other.class != Class::Reader).count();
                        prop_assert!(place.class == Class::Reader || background <= for_background(limit));
                    }
                    None => prop_assert!(ready.iter().all(|place| !turns.rooms.has_room(place))),
                },
                Step::End(which) if !given.is_empty() => {
                    let at = which % given.len();
                    turns.ended(given.swap_remove(at).key);
                }
                Step::Withdraw(which) if !ready.is_empty() => {
                    let at = which % ready.len();
                    let place = ready.swap_remove(at);
                    prop_assert_eq!(turns.withdraw(place.key), Some(place));
                    prop_assert_eq!(turns.withdraw(place.key), None);
                }
                Step::Room(archive, room) => {
                    rooms.insert(archive, room);
                    turns.set_rooms(&rooms.iter().map(|(id, room)| (*id, *room)).collect::<Vec<_>>());
                }
                Step::Limit(new) => {
                    limit = new;
                    turns.set_limit(new);
                }
                Step::End(_) | Step::Withdraw(_) => {}
            }
            prop_assert_eq!(turns.len(), ready.len());
        }
        given.drain(..).for_each(|place| turns.ended(place.key));
        prop_assert!(turns.rooms.taken.is_empty() && turns.rooms.all.by_reader.is_empty() && turns.given.is_empty());
    }

    /// Of many users whose readers wait, each has a turn before anybody has a second one.
    #[test]
    fn users_take_turns(counts in prop::collection::vec(1..20u64, 1..8)) {
        let mut turns = Turns::default();
        for (owner, count) in counts.iter().enumerate() {
            put_many(&mut turns, owner as u64 * 1000, *count, Class::Reader, 1, owner as u32);
        }
        let order = all_at_once(&mut turns);
        let first: HashSet<u32> = order.iter().take(counts.len()).map(|place| place.owner).collect();
        prop_assert_eq!(first.len(), counts.len());
        prop_assert_eq!(order.len() as u64, counts.iter().sum::<u64>());
    }
}
