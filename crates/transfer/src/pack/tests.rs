#![allow(clippy::indexing_slicing, reason = "a panic is how a test fails")]

use super::*;
use model::ObjectId;
use proptest::prelude::*;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use testkit::Random;
use uuid::Uuid;

const PACK: &str = "5e0be10001f2e3d4c5b6";

fn pack_id() -> PackId {
    PackId::parse(PACK).unwrap()
}

fn name(number: u128) -> MemberName {
    MemberName::parse(&Uuid::from_u128(number).to_string()).unwrap()
}

fn reader(bytes: &Vec<u8>) -> PackReader<&Vec<u8>> {
    PackReader::new(bytes, bytes.len() as u64, pack_id())
}

type Parts = (u128, Vec<u8>, Vec<u8>);

fn pack(members: &[Parts]) -> Vec<u8> {
    let mut writer = PackWriter::begin(pack_id(), Vec::new()).unwrap();
    for (number, manifest, content) in members {
        writer.add(&NewMember::new(name(*number), manifest.clone(), content.clone(), None).unwrap()).unwrap();
    }
    writer.finish().unwrap()
}

fn random_members(random: &mut Random, count: usize) -> Vec<Parts> {
    let member = |_| {
        let mut bytes = |most: u64| {
            let mut bytes = vec![0; usize::try_from(random.within(0..most)).unwrap()];
            random.fill(&mut bytes);
            bytes
        };
        let (manifest, content) = (bytes(500), bytes(3000));
        let number = u128::from(random.next_u64()) << 64 | u128::from(random.next_u64());
        (number, manifest, content)
    };
    (0..count).map(member).collect()
}

/// The entries that a scan finds.
fn salvaged(bytes: &Vec<u8>) -> Vec<Entry> {
    let mut found = Vec::new();
    reader(bytes)
        .salvage(&mut |entry| {
            found.push(entry);
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

#[test]
fn ids_are_read_back_and_nothing_else_is_an_id() {
    let now = UNIX_EPOCH + Duration::from_secs(0x5e0b_e100);
    let (one, other) = (PackId::new(now), PackId::new(now));
    assert_ne!(one, other);
    assert_eq!(one.began(), now);
    assert!(one.to_string().starts_with("5e0be100"));
    let member = MemberId { pack: one, name: name(7) };
    assert_eq!(MemberId::parse(&member.object_id().unwrap()), Some(member));
    assert_eq!(PackId::parse(&one.to_string()), Some(one));
    let uuid = "0e2f9a7c-5ad1-4b6e-9b7a-0a4dd0c8f0aa";
    for text in [
        uuid.to_owned(),
        format!("{uuid}.pk"),
        format!("{uuid}.pk{}", &PACK[1..]),
        format!("{uuid}.pk{PACK}0"),
        format!("{uuid}.pk{PACK}.zst"),
        format!("{}.pk{PACK}", uuid.to_uppercase()),
        format!("{uuid}.pk{}", PACK.to_uppercase()),
        format!("{}.pk{PACK}", uuid.replace('-', "")),
        format!("{uuid}.pk{PACK}.pk{PACK}"),
        format!("abcdef.pk{PACK}"),
    ] {
        assert_eq!(MemberId::parse(&ObjectId::parse(&text).unwrap()), None, "{text}");
    }
    assert_eq!(PackId::new(UNIX_EPOCH - Duration::from_secs(1)).began(), UNIX_EPOCH);
    assert!(PackId::new(SystemTime::now()) > one);
}

#[test]
fn a_name_twice_a_member_too_large_and_a_pack_too_full_are_refused() {
    let member = |number| NewMember::new(name(number), Vec::new(), Vec::new(), None).unwrap();
    let mut writer = PackWriter::begin(pack_id(), Vec::new()).unwrap();
    writer.add(&member(1)).unwrap();
    writer.add(&member(1)).unwrap();
    assert!(matches!(writer.finish(), Err(PackError::Damaged(_))));
    let mut writer = PackWriter::begin(pack_id(), Vec::new()).unwrap();
    for number in 0..MAX_MEMBERS as u128 {
        writer.add(&member(number)).unwrap();
    }
    assert!(matches!(writer.add(&member(u128::MAX)), Err(PackError::TooLarge(_))));
    let full = writer.finish().unwrap();
    assert_eq!(reader(&full).index().unwrap().entries().len(), MAX_MEMBERS);
    assert!(matches!(
        NewMember::new(name(1), Vec::new(), vec![0; MAX_CONTENT_BYTES + 1], None),
        Err(PackError::TooLarge(_))
    ));
    assert!(matches!(
        NewMember::new(name(1), vec![0; MAX_MANIFEST_BYTES + 1], Vec::new(), None),
        Err(PackError::TooLarge(_))
    ));
}

#[test]
fn the_largest_member_is_read_and_salvaged() {
    let members = [(1, vec![1; MAX_MANIFEST_BYTES], vec![2; MAX_CONTENT_BYTES]), (2, vec![3], vec![4])];
    let bytes = pack(&members);
    let reader = reader(&bytes);
    for (number, manifest, content) in &members {
        let member = reader.member(name(*number)).unwrap().unwrap();
        assert!(member.manifest == *manifest && member.content == *content);
    }
    assert_eq!(salvaged(&bytes).len(), 2);
}

/// A frozen example: packs written by this version are read by all later ones.
#[test]
fn version_1_is_what_it_was() {
    let bytes = pack(&[(2, b"two's manifest".to_vec(), b"two".to_vec()), (1, Vec::new(), b"one".to_vec())]);
    assert_eq!(bytes.len(), 48 + (96 + 14 + 3) + (96 + 3) + 2 * 32 + 72);
    assert_eq!(
        blake3::hash(&bytes).to_string(),
        "61d2e37fe7a5d99cad1a688cde9e16f981334cfc1cf31765144f306be4fe9660",
        "the format changed: it needs a new version, and the old one has to be read on"
    );
}

/// Whatever bit of a pack is flipped: a full check tells, and no reader is served anything but what was written.
#[test]
fn p5_every_flipped_bit_of_a_pack_is_found_and_never_served() {
    let mut random = Random::new(31);
    let members = random_members(&mut random, 12);
    let whole = pack(&members);
    let mut bytes = whole.clone();
    let mut still_served = 0u64;
    for _ in 0..6000 {
        let at = usize::try_from(random.within(0..whole.len() as u64)).unwrap();
        bytes[at] ^= 1 << random.within(0..8);
        let reader = reader(&bytes);
        let mut damaged = 0;
        let checked = reader.check(&mut |_, _| damaged += 1);
        assert!(checked.is_err() || damaged == 1, "byte {at} of {}", whole.len());
        let mut refused = 0;
        for (number, manifest, content) in &members {
            match reader.member(name(*number)) {
                Ok(Some(member)) => {
                    assert!(member.manifest == *manifest && member.content == *content, "byte {at}");
                    still_served += 1;
                }
                Err(PackError::Damaged(_)) => refused += 1,
                other => panic!("byte {at}: {other:?}"),
            }
        }
        assert!(refused <= 1, "one bit damages one member at most");
        bytes[at] = whole[at];
    }
    // All but the one that was hit, each time.
    assert!(still_served >= 6000 * 11);
}

#[test]
fn members_are_salvaged_from_what_is_left() {
    let mut random = Random::new(32);
    let members = random_members(&mut random, 60);
    let whole = pack(&members);
    let index = reader(&whole).index().unwrap();
    let by_name: HashMap<_, _> = members.iter().map(|(number, m, c)| (name(*number), (m, c))).collect();
    for _ in 0..12 {
        // A lost block, as disks have them, and the end cut off.
        let mut bytes = whole.clone();
        let at = usize::try_from(random.within(0..whole.len() as u64)).unwrap();
        let lost_end = (at + 4096).min(bytes.len());
        bytes[at..lost_end].fill(0xa5);
        let cut = usize::try_from(random.within(0..whole.len() as u64)).unwrap();
        bytes.truncate(cut);
        let found = salvaged(&bytes);
        let reader = reader(&bytes);
        for entry in index.entries() {
            let (from, to) = (entry.offset, entry.offset + entry.total_bytes());
            if to <= cut as u64 && (to <= at as u64 || from >= lost_end as u64) {
                assert!(found.contains(entry), "an untouched member is lost");
                let member = reader.member(entry.name).unwrap().unwrap();
                let (manifest, content) = by_name[&entry.name];
                assert!(member.manifest == *manifest && member.content == *content);
            }
        }
    }
}

#[test]
fn content_that_looks_like_a_member_is_not_one() {
    // A pack inside a pack, once of another id and once, which nobody can know beforehand, of the same.
    let inner = pack(&[(66, b"evil".to_vec(), b"evil".to_vec())]);
    let mut outer = pack(&[(1, Vec::new(), inner), (2, Vec::new(), b"two".to_vec())]);
    assert_eq!(salvaged(&outer).iter().map(|e| e.name).collect::<Vec<_>>(), [name(1), name(2)]);
    assert_eq!(reader(&outer).member(name(66)).unwrap(), None);
    let other = PackId::new(SystemTime::now());
    let mut writer = PackWriter::begin(other, Vec::new()).unwrap();
    writer.add(&NewMember::new(name(66), Vec::new(), b"evil".to_vec(), None).unwrap()).unwrap();
    outer = pack(&[(1, Vec::new(), writer.finish().unwrap())]);
    outer[48] ^= 1;
    let end = outer.len() - 1;
    outer[end] ^= 1;
    assert!(salvaged(&outer).is_empty());
    assert!(matches!(reader(&outer).member(name(66)), Err(PackError::Damaged(_))));
}

proptest! {
    #[test]
    fn what_was_packed_is_read_back(
        members in prop::collection::btree_map(
            any::<u128>(),
            (prop::collection::vec(any::<u8>(), 0..300), prop::collection::vec(any::<u8>(), 0..2000)),
            0..40,
        ),
        missing: u128,
    ) {
        let parts: Vec<Parts> = members.iter().map(|(n, (m, c))| (*n, m.clone(), c.clone())).collect();
        let bytes = pack(&parts);
        let reader = reader(&bytes);
        let index = reader.check(&mut |name, why| panic!("{name}: {why}")).unwrap();
        prop_assert_eq!(index.entries().len(), parts.len());
        for (number, manifest, content) in &parts {
            let member = reader.member(name(*number)).unwrap().unwrap();
            prop_assert_eq!((&member.manifest, &member.content), (manifest, content));
            let (entry, described) = reader.describe(name(*number)).unwrap().unwrap();
            prop_assert_eq!(&described, manifest);
            let content_at = usize::try_from(entry.content_at()).unwrap();
            prop_assert_eq!(&bytes[content_at..][..content.len()], content);
            let again = NewMember::from(member);
            prop_assert_eq!(again, NewMember::new(name(*number), manifest.clone(), content.clone(), None).unwrap());
        }
        if !members.contains_key(&missing) {
            prop_assert_eq!(reader.member(name(missing)).unwrap(), None);
        }
        let mut scanned = salvaged(&bytes);
        scanned.sort_unstable();
        prop_assert_eq!(scanned.as_slice(), index.entries());
    }

    #[test]
    fn no_bytes_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..4000),
        splices in prop::collection::vec((any::<prop::sample::Index>(), any::<u32>()), 0..4),
        good: bool,
        number: u128,
    ) {
        if good {
            // Most of it right, a few words replaced: lengths and offsets that lead anywhere.
            bytes = pack(&[(1, bytes.clone(), b"x".to_vec()), (2, Vec::new(), bytes)]);
        }
        for (at, word) in splices {
            if bytes.len() >= 4 {
                let at = at.index(bytes.len() - 3);
                bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
            }
        }
        let reader = reader(&bytes);
        let _ = (reader.member(name(number)), reader.member(name(1)), reader.describe(name(2)), reader.index_or_salvage());
        let _ = reader.check(&mut |_, _| {});
        salvaged(&bytes);
    }
}
