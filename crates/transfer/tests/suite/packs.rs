//! Small files in packs.

use super::{Bed, Calls, described, expected, hash, id};
use model::{Digest, Extent, ObjectId};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::mpsc::channel;
use std::time::{SystemTime, UNIX_EPOCH};
use transfer::pack::MemberId;
use transfer::{DigestKind, Encoding, Expected, OpenFile, PutOptions, Store as _, Stored, TransferError, Unwatched};

const THRESHOLD: u64 = 64 << 10;

/// The proposed id of a file.
pub(crate) fn uuid(number: usize) -> ObjectId {
    id(&format!("0e2f{number:04x}-5ad1-4b6e-9b7a-0a4dd0c8f0aa"))
}

pub(crate) fn content(number: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| ((at / 7 * 31) ^ number) as u8).collect()
}

pub(crate) fn small(encoding: Encoding) -> PutOptions<'static> {
    PutOptions { pack_up_to_bytes: THRESHOLD, ..described(encoding) }
}

/// Archives files that come together, so that they share packs but for those that came first.
pub(crate) fn put_together<B: Bed>(
    bed: &B,
    files: &[(ObjectId, Vec<u8>)],
    options: PutOptions<'_>,
) -> Vec<Result<Stored, TransferError>> {
    let staged: Vec<_> = files
        .iter()
        .map(|(name, content)| bed.store().stage(name, &bed.file("source", content), options, &Unwatched).unwrap())
        .collect();
    let ends: Vec<_> = staged
        .into_iter()
        .map(|staged| {
            let (tell, told) = channel();
            bed.store().commit(staged, Box::new(move |result| tell.send(result).unwrap()));
            told
        })
        .collect();
    ends.into_iter().map(|told| told.recv().unwrap()).collect()
}

/// So many small files, with their ids and contents; those that share packs are the most.
pub(crate) fn packed<B: Bed>(bed: &B, numbers: std::ops::Range<usize>) -> Vec<(ObjectId, Vec<u8>)> {
    let files: Vec<_> = numbers.map(|n| (uuid(n), content(n, 2000))).collect();
    let stored = put_together(bed, &files, small(Encoding::Raw));
    let stored: Vec<_> =
        stored.into_iter().zip(files).map(|(stored, (_, content))| (stored.unwrap().id, content)).collect();
    let members = stored.iter().filter(|(id, _)| is_member(id)).count();
    assert!(members * 2 > stored.len(), "{members} of {}", stored.len());
    stored
}

pub(crate) fn is_member(id: &ObjectId) -> bool {
    MemberId::parse(id).is_some()
}

pub(crate) fn listed<B: Bed>(bed: &B) -> BTreeSet<ObjectId> {
    let mut listed = BTreeSet::new();
    let visit = &mut |id| {
        assert!(listed.insert(id), "listed twice");
        ControlFlow::Continue(())
    };
    bed.store().list(visit).unwrap();
    listed
}

fn is_there<B: Bed>(bed: &B, id: &ObjectId, content: &[u8]) {
    let expected = Expected { size: Some(content.len() as u64), digest: Some(hash(DigestKind::Blake3, content)) };
    let (restored, found) = bed.get_over(id, b"before", expected).unwrap();
    assert!(found == content, "{id}");
    assert_eq!((restored.bytes, restored.digest), (content.len() as u64, expected.digest));
}

pub(crate) fn small_files_that_come_together_share_packs_and_come_back<B: Bed>() {
    let bed = B::new();
    let sizes = [10, 0, 1, 4095, 4096, 4097, 65_535, 65_536, 65_537, 200_000];
    let mut all = BTreeSet::new();
    let mut number = 0;
    for encoding in Encoding::ALL {
        let mut files = Vec::new();
        for size in sizes.into_iter().cycle().take(30) {
            number += 1;
            files.push((uuid(number), content(number, size)));
        }
        let stored = put_together(&bed, &files, small(encoding));
        let mut members = 0;
        for ((name, content), stored) in files.iter().zip(stored) {
            let stored = stored.unwrap();
            let is_member = is_member(&stored.id);
            members += usize::from(is_member);
            assert!(stored.id.as_str().starts_with(name.as_str()), "{stored:?}");
            assert!(!is_member || content.len() as u64 <= THRESHOLD, "{stored:?}");
            assert_eq!((stored.bytes, stored.digest), (content.len() as u64, Some(hash(DigestKind::Blake3, content))));
            is_there(&bed, &stored.id, content);
            bed.store().verify(&stored.id, expected(&stored), &Unwatched).unwrap();
            let manifest = bed.store().manifest(&stored.id).unwrap().unwrap();
            assert_eq!((&manifest.object, manifest.path.as_slice()), (&stored.id, &b"home/file"[..]));
            assert!(bed.store().head(&stored.id).unwrap().is_some());
            all.insert(stored.id);
        }
        assert!(members >= 12, "{members} members");
    }
    assert_eq!(listed(&bed), all);
    let mut with_manifests = BTreeSet::new();
    let visit = &mut |id| {
        with_manifests.insert(id);
        ControlFlow::Continue(())
    };
    bed.store().list_manifests(visit).unwrap();
    assert_eq!(with_manifests, all);
}

pub(crate) fn what_is_expected_of_a_member_is_compared<B: Bed>() {
    let bed = B::new();
    let stored = packed(&bed, 0..10);
    let (member, content) = stored.iter().find(|(id, _)| is_member(id)).unwrap();
    let right = Expected { size: Some(2000), digest: Some(hash(DigestKind::Blake3, content)) };
    let verify = |expected| bed.store().verify(member, expected, &Unwatched);
    verify(right).unwrap();
    verify(Expected::default()).unwrap();
    assert!(matches!(verify(Expected { size: Some(1999), ..right }), Err(TransferError::Damaged { .. })));
    let other = Some(Digest::Blake3([7; 32]));
    assert!(matches!(verify(Expected { digest: other, ..right }), Err(TransferError::Mismatch { .. })));
    let path = bed.base().join("part");
    std::fs::write(&path, [0; 2000]).unwrap();
    let target = OpenFile::for_writing(&path).unwrap();
    bed.store().get_range(member, &target, Extent { offset: 100, length: 1 }, right, &Unwatched).unwrap();
    assert_eq!(&std::fs::read(&path).unwrap(), content, "its only chunk");
}

pub(crate) fn a_removed_member_is_gone_and_the_others_are_not<B: Bed>() {
    let bed = B::new();
    let stored = packed(&bed, 0..12);
    let (gone, _) = stored.iter().find(|(id, _)| is_member(id)).unwrap();
    // Read before: what is kept in mind of it must not bring it back.
    bed.store().verify(gone, Expected::default(), &Unwatched).unwrap();
    bed.remove(gone).unwrap();
    bed.remove(gone).unwrap();
    assert!(matches!(bed.store().verify(gone, Expected::default(), &Unwatched), Err(TransferError::Missing { .. })));
    assert!(bed.store().head(gone).unwrap().is_none() && bed.store().manifest(gone).unwrap().is_none());
    for (id, content) in stored.iter().filter(|(id, _)| id != gone) {
        is_there(&bed, id, content);
    }
    let left: BTreeSet<_> = stored.iter().map(|(id, _)| id.clone()).filter(|id| id != gone).collect();
    assert_eq!(listed(&bed), left);
}

pub(crate) fn a_pack_goes_with_its_last_member<B: Bed>() {
    let bed = B::new();
    let stored = packed(&bed, 0..12);
    let packs =
        |bed: &B| bed.names().into_iter().filter(|name| name.contains("packs/") && !name.contains(".d/")).count();
    assert!(packs(&bed) > 0);
    for (id, _) in &stored {
        bed.remove(id).unwrap();
    }
    assert_eq!((packs(&bed), listed(&bed)), (0, BTreeSet::new()));
    // What never was there leaves no trace either.
    let before = bed.names();
    bed.remove(&id("0e2f9a7c-5ad1-4b6e-9b7a-0a4dd0c8f0aa.pk5e0b1234aabbccddeeff")).unwrap();
    assert_eq!(bed.names(), before);
}

/// A crash between "the pack is durable" and "the result is recorded": the next attempt finds what the first one left.
pub(crate) fn p7_what_earlier_attempts_left_in_packs_is_found<B: Bed>() {
    let bed = B::new();
    let began = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let attempts = |number, since| -> BTreeSet<ObjectId> {
        bed.store().attempts(&uuid(number), since).unwrap().into_iter().collect()
    };
    let other = packed(&bed, 20..24);
    // Somebody has asked before: what comes after that is found as well.
    assert!(attempts(0, began).is_empty());
    let (first, second) = (packed(&bed, 0..10), packed(&bed, 0..10));
    for (number, ((first, _), (second, _))) in first.iter().zip(&second).enumerate() {
        let both = BTreeSet::from([first.clone(), second.clone()]);
        assert_eq!(attempts(number, began), both);
        // A minute's grace, and not more than that.
        assert_eq!(attempts(number, began + 50_000), both);
        let objects = both.iter().filter(|id| !is_member(id)).cloned().collect();
        assert_eq!(attempts(number, began + 100_000), objects, "packs of before");
        for id in &both {
            bed.remove(id).unwrap();
        }
        assert!(attempts(number, began).is_empty());
    }
    assert!(attempts(77, 0).is_empty());
    assert_eq!(listed(&bed), other.into_iter().map(|(id, _)| id).collect());
}
