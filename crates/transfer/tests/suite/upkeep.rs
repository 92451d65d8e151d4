//! What is there, what it is, and how it goes away.

use super::{Bed, Calls, described, id, manifest, object, plain};
use model::{Digest, ObjectId};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::sync::mpsc::channel;
use transfer::manifest::{Kind, describe_beneath};
use transfer::{Encoding, Expected, PutOptions, Store, Stored, TransferError, Unwatched};

fn again(options: PutOptions<'static>) -> PutOptions<'static> {
    PutOptions { repeated: true, ..options }
}

pub(crate) fn everything_is_listed_once_and_a_listing_can_stop<B: Bed>() {
    let bed = B::new();
    let source = bed.file("source", b"x");
    let mut names: Vec<_> = (0..40).map(|n| format!("{:02x}{:02x}-object", n % 7, n)).collect();
    for (n, name) in names.iter().enumerate() {
        let options = if n % 2 == 0 { plain(Encoding::Raw, None) } else { described(Encoding::Raw) };
        bed.put(&id(name), &source, options).unwrap();
    }
    let mut listed = Vec::new();
    let mut collect = |id: ObjectId| {
        listed.push(id.to_string());
        ControlFlow::Continue(())
    };
    bed.store().list(&mut collect).unwrap();
    let mut with_manifest = Vec::new();
    let mut collect = |id: ObjectId| {
        with_manifest.push(id.to_string());
        ControlFlow::Continue(())
    };
    bed.store().list_manifests(&mut collect).unwrap();
    with_manifest.sort();
    let mut odd: Vec<_> = names.iter().skip(1).step_by(2).cloned().collect();
    odd.sort();
    assert_eq!(with_manifest, odd);
    names.sort();
    listed.sort();
    assert_eq!(listed, names);
    let mut seen = 0;
    let mut stop = |_| {
        seen += 1;
        if seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    bed.store().list(&mut stop).unwrap();
    assert_eq!(seen, 3);
}

pub(crate) fn an_object_replaces_its_older_forms<B: Bed>() {
    let bed = B::new();
    for size in [10_000, 12 << 20] {
        let source = bed.file("source", &vec![b'x'; size]);
        for encoding in [Encoding::Raw, Encoding::Gzip, Encoding::Zstd, Encoding::Raw, Encoding::Raw] {
            // The suffix of a proposed id counts for nothing: it would be read back as something else than it is.
            let stored = bed.put(&id("abcdef.gz"), &source, again(plain(encoding, None))).unwrap();
            bed.holds(vec![object(&stored.id)]);
            // And now with a manifest, which the next one has not.
            let stored = bed.put(&id("abcdef.gz"), &source, again(described(encoding))).unwrap();
            bed.holds(vec![object(&stored.id), manifest(&stored.id)]);
            assert_eq!(
                bed.store().verify(&stored.id, super::expected(&stored), &Unwatched).unwrap().bytes,
                size as u64
            );
        }
        bed.remove(&id("abcdef")).unwrap();
    }
}

pub(crate) fn a_proposed_id_removes_what_was_stored_under_it_and_a_full_one_only_itself<B: Bed>() {
    let bed = B::new();
    let source = bed.file("source", &[b'x'; 10_000]);
    for encoding in Encoding::ALL {
        let stored = bed.put(&id("abcdef"), &source, described(encoding)).unwrap();
        for other in ["abcdef.gz", "abcdef.zst"].into_iter().filter(|other| *other != stored.id.as_str()) {
            bed.remove(&id(other)).unwrap();
        }
        bed.holds(vec![object(&stored.id), manifest(&stored.id)]);
        bed.remove(&id("abcdef")).unwrap();
        bed.holds(Vec::new());
    }
}

pub(crate) fn p7_what_an_attempt_stored_is_found<B: Bed>() {
    let bed = B::new();
    let source = bed.file("source", b"the same content");
    let proposed = id("0e2f9a7c-5ad1-4b6e-9b7a-0a4dd0c8f0aa");
    let attempts = || bed.store().attempts(&proposed, 0).unwrap().into_iter().collect::<BTreeSet<_>>();
    let other = id("0e2f9a7c-5ad1-4b6e-9b7a-0a4dd0c8f0ab");
    bed.put(&other, &source, described(Encoding::Raw)).unwrap();
    assert!(attempts().is_empty());
    // Two of which neither knew of the other.
    let first = bed.put(&proposed, &source, described(Encoding::Zstd)).unwrap().id;
    bed.write(&proposed, super::Half::Object, b"a leftover");
    assert_eq!(attempts(), BTreeSet::from([first.clone(), proposed.clone()]));
    bed.remove(&first).unwrap();
    assert_eq!(attempts(), BTreeSet::from([proposed.clone()]));
    bed.remove(&proposed).unwrap();
    assert!(attempts().is_empty());
}

pub(crate) fn a_record_is_kept_listed_replaced_and_removed<B: Bed>() {
    let bed = B::new();
    fs::create_dir(bed.base().join("dir")).unwrap();
    let base = File::open(bed.base()).unwrap();
    let name = id("0e2f9a7c-record");
    for path in ["dir", ""] {
        let (description, kind) = describe_beneath(&base, path.as_bytes(), [5; 8]).unwrap();
        assert_eq!(kind, Kind::Directory);
        let record = description.with_kind(name.clone(), kind);
        let (tell, told) = channel();
        bed.store().put_record(&record, Box::new(move |result| tell.send(result).unwrap()));
        assert_eq!(told.recv().unwrap().unwrap(), Stored { id: name.clone(), bytes: 0, digest: None, at: None });
        assert_eq!(bed.store().manifest(&name).unwrap(), Some(record));
        bed.holds(vec![manifest(&name)]);
    }
    assert_eq!(bed.store().head(&name).unwrap(), None);
    let mut listed = 0;
    let mut count = |_| {
        listed += 1;
        ControlFlow::Continue(())
    };
    bed.store().list(&mut count).unwrap();
    assert_eq!(listed, 0);
    for _ in 0..2 {
        bed.remove(&name).unwrap();
        bed.holds(Vec::new());
        assert_eq!(bed.store().manifest(&name).unwrap(), None);
    }
}

pub(crate) fn an_object_s_manifest_says_what_it_is<B: Bed>() {
    let bed = B::new();
    let source = bed.file("source", &[b'x'; 5000]);
    let stored = bed.put(&id("abcdef"), &source, described(Encoding::Zstd)).unwrap();
    let found = bed.store().manifest(&stored.id).unwrap().unwrap();
    assert_eq!((found.object.as_str(), found.path.as_slice()), ("abcdef.zst", b"home/file".as_slice()));
    let content = found.content().unwrap();
    assert_eq!(Some(Digest::Blake3(content.hash)), stored.digest);
    assert_eq!((content.size, content.encoding), (5000, Encoding::Zstd));
    assert_eq!(content.stored_bytes, bed.read(&stored.id, super::Half::Object).len() as u64);
    // A name that would be a manifest's is nobody's.
    let reserved = id("abcdef.manifest");
    let error = bed.put(&reserved, &source, described(Encoding::Raw)).unwrap_err();
    assert!(matches!(error, TransferError::Reserved(_)), "{error}");
    assert!(matches!(bed.store().head(&reserved), Err(TransferError::Reserved(_))));
    assert!(matches!(bed.remove(&reserved), Err(TransferError::Reserved(_))));
    bed.holds(vec![object(&stored.id), manifest(&stored.id)]);
}

pub(crate) fn what_is_not_there_is_missing<B: Bed>() {
    let bed = B::new();
    let source = bed.file("source", &[b'x'; 5000]);
    let stored = bed.put(&id("abcdef"), &source, described(Encoding::Raw)).unwrap();
    let missing = id("abcdeg");
    for expected in [Expected::default(), super::expected(&stored), Expected { size: None, digest: stored.digest }] {
        let error = bed.get_over(&missing, b"", expected).unwrap_err();
        assert!(matches!(error, TransferError::Missing { .. }), "{error}");
        let error = bed.store().verify(&missing, expected, &Unwatched).unwrap_err();
        assert!(matches!(error, TransferError::Missing { .. }), "{error}");
        let target = transfer::OpenFile::for_writing(bed.base().join("restored")).unwrap();
        let error = bed.store().get_range(&missing, &target, model::Extent::WHOLE, expected, &Unwatched).unwrap_err();
        let refused = matches!(error, TransferError::Missing { .. } | TransferError::NoManifest { .. });
        assert!(refused && (expected.digest.is_none() || matches!(error, TransferError::Missing { .. })), "{error}");
    }
    assert_eq!((bed.store().head(&missing).unwrap(), bed.store().manifest(&missing).unwrap()), (None, None));
    bed.remove(&missing).unwrap();
}
