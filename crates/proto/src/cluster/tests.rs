//! Messages of hosts and agent: there and back, garbage, and samples of version 1 as they have to be understood for ever.

use super::*;
use crate::{Capabilities, Task, pdm};
use model::{ActionId, Class, Command, Extent, Identity};
use proptest::prelude::*;

fn task() -> Task {
    Task {
        id: ActionId(7),
        command: Command::Archive,
        primary_path: ".lustre/fid/0x200000401:0x1:0x0".into(),
        write_path: String::new(),
        extent: Extent::WHOLE,
        data: b"d".to_vec(),
        identity: Identity { uuid: "abcd".into(), ..Identity::default() },
        file_path: "a/b".into(),
        expected_size: Some(5),
        tree_path: b"a/b".to_vec(),
        attempted_since_ms: 9,
        metadata_only: false,
        owner: 1000,
        reader_waits: false,
        sync_target: true,
    }
}

fn work() -> Work {
    let pool = Pool { archive: 3, group: Group::new("tape").unwrap() };
    Work { epoch: 5, serial: 2, lane: Lane { pool, class: Class::Archive }, task: task() }
}

fn ask() -> Ask {
    let announce = Announce {
        version: 1,
        name: "h1".into(),
        software: "sifaka 0.1.0".into(),
        groups: vec![Group::new("tape").unwrap()],
        labels: vec!["rack=4".into()],
        served: vec![Served { archive: 3, capabilities: Capabilities::from_bits(1), credits: 16 }],
        draining: true,
        leaving: false,
        held: vec![7, 9, 1000],
        finished: 11,
        moved_bytes: 12,
        ending: 0,
    };
    let status = pdm::ActionStatus { id: 8, completed: true, uuid: "u".into(), ..pdm::ActionStatus::default() };
    let from = HostId { instance: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10, session: 4 };
    Ask { from, seq: 6, epoch: 5, announce: Some(announce), statuses: vec![status], claims: vec![9, 1000] }
}

fn answer() -> Answer {
    Answer {
        epoch: 5,
        seq: 6,
        version: 1,
        announce: true,
        granted: vec![9],
        cancel: vec![7],
        forget: vec![1],
        drain: true,
    }
}

fn tell() -> Tell {
    Tell { epoch: 5, announce: true, cancel: vec![7, 8], drain: true }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// What programs of version 1 send. Never change these: what they say has to be understood as long as version 1 is.
#[test]
fn p3_messages_of_version_1_are_understood_for_ever() {
    let samples = include_str!("samples_v1.txt");
    let sample = |name: &str| {
        let line = samples.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        bytes(line.unwrap_or_else(|| panic!("no sample of {name}")))
    };
    assert_eq!(Work::decode(&sample("work")), Ok(work()));
    assert_eq!(Ask::decode(&sample("ask")), Ok(ask()));
    assert_eq!(Answer::decode(&sample("answer")), Ok(answer()));
    assert_eq!(Tell::decode(&sample("tell")), Ok(tell()));
    let leader = Leader { epoch: 5, instance: 1, host: "a".into(), ttl_ms: 30_000 };
    assert_eq!(Leader::decode(&sample("leader")), Ok(leader.clone()));
    let member = Member { id: HostId { instance: 1, session: 2 }, name: "h1".into() };
    assert_eq!(Member::decode(&sample("member")), Ok(member.clone()));
    // And this program still sends the same.
    let ours = [
        ("work", work().encode()),
        ("ask", ask().encode()),
        ("answer", answer().encode()),
        ("tell", tell().encode()),
        ("leader", leader.encode()),
        ("member", member.encode()),
    ];
    for (name, ours) in ours {
        assert_eq!(hex(&ours), hex(&sample(name)), "{name}");
    }
}

#[test]
fn fields_of_later_versions_are_ignored() {
    // Field 1000, a text.
    let later = [0xc2, 0x3e, 0x02, b'h', b'i'];
    let with = |mut bytes: Vec<u8>| {
        bytes.extend(later);
        bytes
    };
    assert_eq!(Work::decode(&with(work().encode())), Ok(work()));
    assert_eq!(Ask::decode(&with(ask().encode())), Ok(ask()));
    assert_eq!(Answer::decode(&with(answer().encode())), Ok(answer()));
    assert_eq!(Tell::decode(&with(tell().encode())), Ok(tell()));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let refused = |change: &dyn Fn(&mut Ask)| {
        let mut ask = ask();
        change(&mut ask);
        assert!(Ask::decode(&ask.clone().encode()).is_err(), "{ask:?}");
    };
    refused(&|ask| ask.epoch = u64::MAX);
    refused(&|ask| ask.claims = vec![1; MAX_ASK_ITEMS + 1]);
    refused(&|ask| ask.announce.as_mut().unwrap().name = String::new());
    refused(&|ask| ask.announce.as_mut().unwrap().name = "a\nb".into());
    refused(&|ask| ask.announce.as_mut().unwrap().name = "a".repeat(MAX_NAME_BYTES + 1));
    refused(&|ask| ask.announce.as_mut().unwrap().held = vec![7, 7]);
    refused(&|ask| ask.announce.as_mut().unwrap().labels = vec![String::new(); MAX_GROUPS + 1]);
    assert_eq!(Ask::decode(&vec![0; MAX_MESSAGE_BYTES + 1]), Err(MessageError::Size(MAX_MESSAGE_BYTES + 1)));
    assert!(Ask::decode(&[]).is_err(), "no instance");
    assert!(Work::decode(&[]).is_err() && Answer::decode(&[]).is_err() && Tell::decode(&[]).is_err());
    for group in ["", "a.b", "a b", "*", ">", "ä"] {
        assert_eq!(Group::new(group), None, "{group}");
    }
    assert_eq!(work().lane.to_string(), "3.tape.archive");
}

proptest! {
    #[test]
    fn garbage_is_refused_and_nothing_else(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Work::decode(&bytes);
        let _ = Ask::decode(&bytes);
        let _ = Answer::decode(&bytes);
        let _ = Tell::decode(&bytes);
        let _ = Leader::decode(&bytes);
        let _ = Member::decode(&bytes);
    }

    #[test]
    fn damaged_messages_are_refused_or_hold_what_they_may(at in 0usize..400, with in any::<u8>()) {
        let damage = |mut bytes: Vec<u8>| {
            let at = at % bytes.len();
            bytes[at] = with;
            bytes
        };
        let _ = Work::decode(&damage(work().encode()));
        let _ = Answer::decode(&damage(answer().encode()));
        if let Ok(Ask { announce: Some(announce), .. }) = Ask::decode(&damage(ask().encode())) {
            prop_assert!(announce.held.is_sorted() && announce.held.len() <= MAX_HELD);
        }
    }

    #[test]
    fn asks_come_as_they_were_sent(held in prop::collection::btree_set(1u64..u64::MAX, 0..50), claims in prop::collection::vec(any::<u64>(), 0..50)) {
        let mut sent = ask();
        sent.announce.as_mut().unwrap().held = held.into_iter().collect();
        sent.claims = claims;
        prop_assert_eq!(Ask::decode(&sent.clone().encode()), Ok(sent));
    }
}
