use super::*;
use proptest::prelude::*;
use prost::Message;

fn identities() -> impl Strategy<Value = Identity> {
    ("[a-z0-9-]{0,40}", prop::option::of(any::<[u8; 32]>()), "[a-z:/]{0,20}").prop_map(|(uuid, hash, url)| Identity {
        uuid,
        hash: hash.map(Digest::Blake3),
        url,
    })
}

fn extents() -> impl Strategy<Value = Extent> {
    (0..1u64 << 62, prop_oneof![Just(u64::MAX), 0..1u64 << 61]).prop_map(|(offset, length)| Extent { offset, length })
}

proptest! {
    #[test]
    fn tasks_round_trip(
        id: u64, command in prop::sample::select(&Command::ALL), primary_path: String, extent in extents(),
        data: Vec<u8>, identity in identities(), expected_size: Option<u64>, tree_path: Vec<u8>, attempted_since_ms: u64, cancel: bool, sync_target: bool,
    ) {
        let instruction = if cancel { Instruction::Cancel(ActionId(id)) } else {
            Instruction::Run(Task {
                id: ActionId(id), command, write_path: primary_path.clone(), file_path: primary_path.clone(),
                primary_path, extent, data, identity, expected_size, tree_path, attempted_since_ms, metadata_only: expected_size.is_none(), owner: attempted_since_ms as u32, reader_waits: expected_size.is_some(), sync_target,
            })
        };
        let wire = pdm::ActionItem::from(instruction.clone()).encode_to_vec();
        let back = Instruction::try_from(pdm::ActionItem::decode(wire.as_slice()).unwrap());
        prop_assert_eq!(back, Ok(instruction));
    }

    #[test]
    fn reports_round_trip(id: u64, handle: Option<u64>, extent in extents(), identity in identities(), errno in 1..130i32, temporary: bool, which in 0..4u8, credits in 1..=u32::MAX) {
        let kind = if temporary { ErrorKind::Temporary } else { ErrorKind::Permanent };
        let body = match which {
            0 => ReportBody::Progress(extent),
            1 => ReportBody::Done { identity },
            2 => ReportBody::Credits(credits),
            _ => ReportBody::Failed(Failure { kind, ..Failure::temporary(errno, "why") }),
        };
        let id = ActionId(if which == 2 { 0 } else { id });
        let report = Report { id, handle, body };
        let wire = pdm::ActionStatus::from(report.clone()).encode_to_vec();
        prop_assert_eq!(Report::try_from(pdm::ActionStatus::decode(wire.as_slice()).unwrap()), Ok(report));
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        if let Ok(item) = pdm::ActionItem::decode(bytes.as_slice()) {
            let _ = Instruction::try_from(item);
        }
        if let Ok(status) = pdm::ActionStatus::decode(bytes.as_slice()) {
            for command in Command::ALL {
                let _ = Report::try_from(status.clone()).map(|r| r.body.outcome(command));
            }
        }
    }
}

/// Bytes as Lemur's generated Go code writes them, by hand from the field numbers.
#[test]
fn lemur_s_bytes_are_understood() {
    // id 7, completed, handle {id 3}, uuid "abc"
    let status = [0x08, 7, 0x10, 1, 0x32, 2, 0x08, 3, 0x4a, 3, b'a', b'b', b'c'];
    let report = Report::try_from(pdm::ActionStatus::decode(&status[..]).unwrap()).unwrap();
    assert_eq!((report.id, report.handle), (ActionId(7), Some(3)));
    let outcome = report.body.outcome(Command::Archive).unwrap().unwrap();
    assert_eq!(outcome, Outcome::Archived(Identity { uuid: "abc".into(), ..Identity::default() }));
    // error -1 is a varint of ten bytes, length -1 likewise
    let minus_one = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let failed = [&[0x08, 7, 0x10, 1, 0x18][..], &minus_one].concat();
    let report = Report::try_from(pdm::ActionStatus::decode(&failed[..]).unwrap()).unwrap();
    assert!(matches!(report.body, ReportBody::Failed(Failure { errno: 5, kind: ErrorKind::Temporary, .. })));
    let progress = [&[0x08, 7, 0x28][..], &minus_one].concat();
    let report = Report::try_from(pdm::ActionStatus::decode(&progress[..]).unwrap()).unwrap();
    assert_eq!(report.body, ReportBody::Progress(Extent::WHOLE));
}

#[test]
fn nonsense_is_named() {
    let item = |op: i32| pdm::ActionItem { op, length: -1, ..Default::default() };
    assert_eq!(Instruction::try_from(item(0)), Err(WireError::Command(0)));
    assert_eq!(Instruction::try_from(item(99)), Err(WireError::Command(99)));
    let negative = pdm::ActionItem { offset: -4, ..item(1) };
    assert_eq!(Instruction::try_from(negative), Err(WireError::Extent(-4)));
    let short_hash = pdm::ActionItem { hash: vec![1, 2, 3], ..item(2) };
    assert_eq!(Instruction::try_from(short_hash), Err(WireError::Digest(DigestError::Length(3))));
    let long = pdm::ActionItem { uuid: "x".repeat(20_000), ..item(2) };
    assert!(matches!(Instruction::try_from(long), Err(WireError::TooLong { field: "uuid", .. })));
    let done = ReportBody::Done { identity: Identity::default() };
    assert!(matches!(done.clone().outcome(Command::Archive), Some(Err(WireError::Missing(..)))));
    assert!(matches!(done.outcome(Command::Verify), Some(Err(WireError::Missing(..)))));
}

#[test]
fn a_long_error_text_is_cut_between_characters() {
    for (text, kept) in [
        ("x".repeat(MAX_WIRE_TEXT_BYTES), MAX_WIRE_TEXT_BYTES),
        ("x".repeat(MAX_WIRE_TEXT_BYTES + 1), MAX_WIRE_TEXT_BYTES),
        ("x".repeat(MAX_WIRE_TEXT_BYTES - 1) + "€", MAX_WIRE_TEXT_BYTES - 1),
        ("x".repeat(MAX_WIRE_TEXT_BYTES - 3) + "€€", MAX_WIRE_TEXT_BYTES),
    ] {
        let status = pdm::ActionStatus { completed: true, error: 5, error_text: text.clone(), ..Default::default() };
        let Report { body: ReportBody::Failed(failure), .. } = Report::try_from(status).unwrap() else {
            panic!("an error is a failure")
        };
        assert_eq!(failure.message, text[..kept]);
    }
}
