//! Whatever comes from outside, board and desk go on, and hold no more than they may.

#![allow(clippy::unwrap_used, reason = "the lints do not see that functions beside tests belong to them")]

use model::{ActionId, Class, Command, Extent, Identity};
use proptest::prelude::*;
use proto::cluster::{Announce, Answer, Ask, Tell, Work};
use proto::{Capabilities, Instruction, Task, pdm};
use sifaka_cluster::board::{self, Board};
use sifaka_cluster::desk::{self, Desk};
use sifaka_cluster::{Group, HostId, Lane, Pool, Served, Terms, Time};
use std::time::Duration;

fn terms() -> Terms {
    Terms::new(Duration::from_secs(3))
}

fn task(id: u64) -> Task {
    Task {
        id: ActionId(id),
        command: Command::Archive,
        primary_path: "p".into(),
        write_path: String::new(),
        extent: Extent::WHOLE,
        data: Vec::new(),
        identity: Identity { uuid: "u".into(), ..Identity::default() },
        file_path: String::new(),
        expected_size: None,
        tree_path: Vec::new(),
        attempted_since_ms: 0,
        metadata_only: false,
        owner: 0,
        reader_waits: false,
        sync_target: false,
    }
}

/// Small numbers, that mean something, and any.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0u64..6, 1 => any::<u64>()]
}

fn numbers() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(number(), 0..6)
}

fn ask() -> impl Strategy<Value = Vec<u8>> {
    let announce = (prop::collection::btree_set(number(), 0..5), any::<bool>(), any::<bool>(), 0u32..100_000);
    let announce = announce.prop_map(|(held, draining, leaving, credits)| Announce {
        name: "h".into(),
        groups: vec![Group::new("g").unwrap()],
        served: vec![Served { archive: 1, capabilities: Capabilities::default(), credits }; 2],
        draining,
        leaving,
        held: held.into_iter().filter(|&id| id > 0).collect(),
        ..Announce::default()
    });
    let status = (number(), any::<bool>(), prop_oneof![Just(0), Just(107), Just(125), any::<i32>()]);
    let status =
        status.prop_map(|(id, completed, error)| pdm::ActionStatus { id, completed, error, ..Default::default() });
    let parts = (
        0u128..3,
        0u32..3,
        number(),
        0u64..3,
        prop::option::of(announce),
        prop::collection::vec(status, 0..4),
        numbers(),
    );
    parts.prop_map(|(instance, session, seq, epoch, announce, statuses, claims)| {
        Ask { from: HostId { instance, session }, seq, epoch, announce, statuses, claims }.encode()
    })
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_board_gives_each_work_one_result_whatever_hosts_say(
        steps in prop::collection::vec((prop_oneof![8 => ask(), 1 => any_bytes()], 0u64..2_000, 0u8..8), 0..60),
    ) {
        let pool = Pool { archive: 1, group: Group::any() };
        let mut board = Board::new(2, terms(), Some(Vec::new()), Time(u64::MAX), Time(0));
        let (mut now, mut given, mut results) = (0, 0u64, Vec::new());
        let mut take = |board: &mut Board, given: u64| {
            while let Some(output) = board.next_output() {
                if let board::Output::Status { status, .. } = output {
                    assert!(status.id >= 1 && status.id <= given && !results.contains(&status.id), "{status:?}");
                    if status.completed || status.error != 0 {
                        results.push(status.id);
                    }
                }
            }
            results.len() as u64
        };
        for (bytes, later, what) in steps {
            now += later;
            match what {
                0 => {
                    given += 1;
                    board.offer(Time(now), now, pool.clone(), Instruction::Run(task(given)).into()).unwrap();
                }
                1 => board.cancel(Time(now), later % 5),
                2 => board.tick(Time(now)),
                3 => board.published(Time(now), later % 5, (later % 3) as u32, later.checked_sub(1000)),
                _ => board.hear(Time(now), "r".into(), &bytes),
            }
            let ended = take(&mut board, given);
            prop_assert_eq!(ended + board.in_flight() as u64, given);
            prop_assert!(board.hosts().count() <= 3);
        }
        board.depose();
        prop_assert_eq!(take(&mut board, given), given);
    }

    #[test]
    fn a_desk_runs_nothing_twice_whatever_the_agent_says(
        steps in prop::collection::vec((any_bytes(), numbers(), 0u64..1_500, 0u8..10, number()), 0..80),
    ) {
        let identity = desk::Identity { instance: 1, name: "h".into(), software: String::new(), groups: Vec::new(), labels: Vec::new() };
        let mut desk = Desk::new(identity, terms(), Time(0));
        desk.serve(Time(0), vec![Served { archive: 1, capabilities: Capabilities::default(), credits: 4 }]);
        let (mut now, mut seq, mut keys) = (0, 0, Vec::new());
        for (garbage, ids, later, what, n) in steps {
            now += later;
            let time = Time(now);
            let payload = match what {
                0 => garbage,
                1..=6 => Answer { epoch: 1 + n % 2, seq, granted: ids.clone(), cancel: ids.clone(), forget: if n == 3 { ids } else { Vec::new() }, drain: n == 5, ..Answer::default() }.encode(),
                _ => {
                    let pool = Pool { archive: 1, group: Group::any() };
                    Work { epoch: 1 + later % 2, serial: 1, lane: Lane { pool, class: Class::Archive }, task: task(n.max(1)) }.encode()
                }
            };
            match what {
                0..=6 => desk.answered(time, seq, &payload),
                7 | 8 => desk.delivered(time, n, "a".into(), &payload),
                _ => desk.told(time, &Tell { epoch: 1 + n % 2, cancel: vec![n], ..Tell::default() }.encode()),
            }
            if let Some(key) = keys.pop_if(|_| later % 7 == 0) {
                desk.ended(time, key, model::Outcome::Removed);
            }
            while let Some(output) = desk.next_output() {
                match output {
                    desk::Output::Register(id) => desk.registered(time, id),
                    desk::Output::Ask { seq: sent, .. } => seq = sent,
                    desk::Output::Run { key, .. } => {
                        prop_assert!(!keys.contains(&key));
                        keys.push(key);
                    }
                    _ => {}
                }
            }
            prop_assert_eq!(desk.running(), keys.len());
            prop_assert!(desk.wake_at(time) > time || desk.fence_at().is_some() || desk.held() <= 80);
        }
    }
}
