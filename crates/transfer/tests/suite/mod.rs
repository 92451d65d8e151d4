//! What every store does alike: each passes all of it.
//!
//! A [`Bed`] is a store with an archive of its own, and a way to look into that archive past the store. `store_suite!(SomeBed)` makes
//! the tests. A store that counts what it is asked for is told by `large()` from which size on it does otherwise than with small files.

pub(crate) mod damage;
pub(crate) mod moves;
pub(crate) mod packs;
pub(crate) mod parts;
pub(crate) mod upkeep;

use model::{Digest, ObjectId};
use std::fs;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use transfer::{
    Compression, DigestKind, Encoding, Expected, Monitor, OpenFile, Origin, PutOptions, Restored, Store, Stored,
    TransferError, Unwatched,
};

/// Half of what makes an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    Object,
    Manifest,
}

/// A store with an archive of its own, empty at first.
pub(crate) trait Bed {
    type Store: Store;

    fn new() -> Self;

    /// Whether it says when something was stored.
    fn tells_ages(&self) -> bool {
        true
    }

    fn store(&self) -> &Self::Store;

    /// A directory for files that are no part of the archive.
    fn base(&self) -> &Path;

    /// Everything in the archive, whole or not: `objects/<id>`, `manifests/<id>`, and whatever else there is. In order.
    fn names(&self) -> Vec<String>;

    /// The stored bytes.
    fn read(&self, id: &ObjectId, half: Half) -> Vec<u8>;

    /// Puts these bytes there.
    fn write(&self, id: &ObjectId, half: Half, bytes: &[u8]);
}

/// What the tests do with one.
pub(crate) trait Calls: Bed {
    fn file(&self, name: &str, content: &[u8]) -> OpenFile {
        let path = self.base().join(name);
        fs::write(&path, content).unwrap();
        OpenFile::for_reading(path).unwrap()
    }

    fn put(&self, id: &ObjectId, source: &OpenFile, options: PutOptions<'_>) -> Result<Stored, TransferError> {
        self.put_watched(id, source, options, &Unwatched)
    }

    fn put_watched(
        &self,
        id: &ObjectId,
        source: &OpenFile,
        options: PutOptions<'_>,
        monitor: &dyn Monitor,
    ) -> Result<Stored, TransferError> {
        let staged = self.store().stage(id, source, options, monitor)?;
        let (tell, told) = channel();
        self.store().commit(staged, Box::new(move |result| tell.send(result).unwrap()));
        told.recv().unwrap()
    }

    fn remove(&self, id: &ObjectId) -> Result<(), TransferError> {
        let (tell, told) = channel();
        self.store().remove(id, Box::new(move |result| tell.send(result).unwrap()));
        told.recv().unwrap()
    }

    /// Restores into a file that holds `before`; gives back what it holds after.
    fn get_over(&self, id: &ObjectId, before: &[u8], expected: Expected) -> Result<(Restored, Vec<u8>), TransferError> {
        let path = self.base().join("restored");
        fs::write(&path, before).unwrap();
        let restored = self.store().get(id, &OpenFile::for_writing(&path).unwrap(), expected, &Unwatched)?;
        Ok((restored, fs::read(path).unwrap()))
    }

    /// That exactly this is there. What is being cleaned up has a moment for it.
    fn holds(&self, mut names: Vec<String>) {
        names.sort();
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let found = self.names();
            if found == names {
                return;
            }
            assert!(Instant::now() < deadline, "there is {found:?}, and there should be {names:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl<B: Bed> Calls for B {}

pub(crate) fn id(text: &str) -> ObjectId {
    ObjectId::parse(text).unwrap()
}

pub(crate) fn object(id: &ObjectId) -> String {
    format!("objects/{id}")
}

pub(crate) fn manifest(id: &ObjectId) -> String {
    format!("manifests/{id}")
}

pub(crate) fn expected(stored: &Stored) -> Expected {
    Expected { size: Some(stored.bytes), digest: stored.digest }
}

/// Without a manifest.
pub(crate) fn plain(encoding: Encoding, digest: Option<DigestKind>) -> PutOptions<'static> {
    let compression = if encoding == Encoding::Raw { Compression::Off } else { Compression::On(encoding) };
    PutOptions { digest, compression, origin: None, pack_up_to_bytes: 0, repeated: false }
}

/// With one.
pub(crate) fn described(encoding: Encoding) -> PutOptions<'static> {
    let origin = Some(Origin { path: b"home/file", fsid: *b"a fs id." });
    PutOptions { origin, ..plain(encoding, Some(DigestKind::Blake3)) }
}

/// Computed with the libraries directly.
pub(crate) fn hash(kind: DigestKind, content: &[u8]) -> Digest {
    match kind {
        DigestKind::Blake3 => Digest::Blake3(blake3::hash(content).into()),
        DigestKind::Sha1 => Digest::Sha1(<sha1::Sha1 as sha1::Digest>::digest(content).into()),
    }
}

/// One test for each thing that is promised.
macro_rules! store_suite {
    ($bed:ty) => {
        store_suite!($bed, without packs);
        store_suite!(@ $bed, packs, [
            small_files_that_come_together_share_packs_and_come_back,
            what_is_expected_of_a_member_is_compared,
            a_removed_member_is_gone_and_the_others_are_not,
            a_pack_goes_with_its_last_member,
            p7_what_earlier_attempts_left_in_packs_is_found,
        ]);
    };
    // For a store that keeps each file by itself.
    ($bed:ty, without packs) => {
        store_suite!(@ $bed, moves, [
            every_size_comes_back,
            holes_come_back,
            auto_compresses_what_shrinks_and_nothing_else,
            a_source_that_shrinks_is_not_archived,
            p4_a_cancelled_archive_stops_within_a_chunk_and_leaves_nothing,
            p4_a_cancelled_restore_stops_within_a_chunk,
            what_is_staged_and_dropped_leaves_nothing,
        ]);
        store_suite!(@ $bed, parts, [
            exactly_the_chunks_that_touch_a_range_come,
            a_range_without_a_usable_manifest_is_refused_as_unsupported,
            p5_a_damaged_chunk_is_named_and_the_others_come,
        ]);
        store_suite!(@ $bed, damage, [
            p5_every_flipped_bit_is_found,
            p5_a_truncated_or_longer_object_is_found_out,
            a_wrong_object_says_so_and_leaves_the_target_s_size,
        ]);
        store_suite!(@ $bed, upkeep, [
            everything_is_listed_once_and_a_listing_can_stop,
            an_object_replaces_its_older_forms,
            a_proposed_id_removes_what_was_stored_under_it_and_a_full_one_only_itself,
            p7_what_an_attempt_stored_is_found,
            a_record_is_kept_listed_replaced_and_removed,
            an_object_s_manifest_says_what_it_is,
            what_is_not_there_is_missing,
        ]);
    };
    (@ $bed:ty, $module:ident, [$($name:ident),* $(,)?]) => {
        $(
            #[test]
            fn $name() {
                super::suite::$module::$name::<$bed>();
            }
        )*
    };
}
