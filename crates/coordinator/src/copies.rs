//! Further copies of a file's content, in other archives: `trusted.sifaka_copies`, and what the parts of the coordinator make of it.
//!
//! The order in which copies come is nobody's plan: an action that is to *ensure* a copy in its archive makes it the first one
//! (the one of Lemur's attributes) when the archive does not hold the present content yet, and else a further one. So an archive that
//! is out of reach keeps no file from being archived elsewhere.
//!
//! A further copy belongs to the one file that lists it; it has its own object, of its own id. Clones and snapshots name the first
//! copy only.

use crate::state::{FileState, StateError, clear, get, set};
use model::{Copies, Copy, Digest, FileHandle, Identity, xattr};
use queue::{Change, NewAction, ObjectRef, OrphanCheck};
use std::os::fd::AsFd;

/// What stands for the URL, which the archive has not given yet, in the proposed identity of an action that wants something special: after
/// this, [`ENSURE`] or [`ANEW`] with a number, or both with a comma between.
const WISHES: &str = "sifaka:";
const ENSURE: &str = "copy";
const ANEW: &str = "anew=";

/// What an archive action wants beside its archive's having the file's content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// A copy is ensured in its archive; the file's copy is not moved there.
    pub(crate) ensure: bool,
    /// The file is archived although it is archived as it is, if it is still this version that is (`archive_version` in
    /// `trusted.hsm`): a later one came after this was asked for, by this action or another.
    pub(crate) anew: Option<u64>,
}

impl Wishes {
    /// Of the action that this identity is proposed to.
    pub(crate) fn write(self, proposed: &mut Identity) {
        let words = self.ensure.then(|| ENSURE.to_owned()).into_iter();
        let words: Vec<String> = words.chain(self.anew.map(|version| format!("{ANEW}{version}"))).collect();
        if !words.is_empty() {
            proposed.url = format!("{WISHES}{}", words.join(","));
        }
    }

    pub(crate) fn of(action: &NewAction) -> Self {
        let url = action.identity.url.strip_prefix(WISHES).filter(|_| action.command == model::Command::Archive);
        let words = || url.into_iter().flat_map(|words| words.split(','));
        Self {
            ensure: words().any(|word| word == ENSURE),
            anew: words().find_map(|word| word.strip_prefix(ANEW)?.parse().ok()),
        }
    }
}

/// Whether an action ensures a copy.
pub(crate) fn is_ensured(action: &NewAction) -> bool {
    Wishes::of(action).ensure
}

/// The proposed identity as movers may see it.
pub(crate) fn proposed(action: &NewAction) -> Identity {
    let Identity { uuid, hash, url } = action.identity.clone();
    Identity { uuid, hash, url: if Wishes::of(action) == Wishes::default() { url } else { String::new() } }
}

/// The further copies of the content that `state` names, as the file lists them.
pub(crate) fn read(fd: impl AsFd, state: &FileState) -> Result<Vec<Copy>, StateError> {
    let Some(bytes) = get(fd, xattr::COPIES)? else { return Ok(Vec::new()) };
    let copies = Copies::decode(&bytes)
        .map_err(|e| StateError::Damaged { name: xattr::COPIES, why: format!("{e}; its copies are not used") })?;
    Ok(if state.identity.uuid.is_empty() { Vec::new() } else { copies.of(&state.identity.uuid).to_vec() })
}

/// The further copies of the content that `state` names, as the file lists them. A list that cannot be read is none, and is told of.
pub fn known(fd: impl AsFd, state: &FileState) -> Vec<Copy> {
    read(fd, state).unwrap_or_else(|error| {
        tracing::warn!(%error, uuid = state.identity.uuid, "the file's further copies are not known");
        Vec::new()
    })
}

/// Whether the file names the object, as its first copy or as a further one.
pub(crate) fn names(fd: impl AsFd, uuid: &str) -> Result<bool, StateError> {
    let fd = fd.as_fd();
    let state = FileState::read(fd)?;
    Ok(state.identity.uuid == uuid || read(fd, &state)?.iter().any(|copy| copy.identity.uuid == uuid))
}

/// Whether the file may name exactly this object, its URL included: ids may be used again, and URLs tell such objects apart.
pub(crate) fn may_name(fd: impl AsFd, object: &Identity) -> bool {
    let fd = fd.as_fd();
    let is_it = |identity: &Identity| (&identity.uuid, &identity.url) == (&object.uuid, &object.url);
    let names = || -> Result<bool, StateError> {
        let state = FileState::read(fd)?;
        Ok(is_it(&state.identity) || read(fd, &state)?.iter().any(|copy| is_it(&copy.identity)))
    };
    names().unwrap_or(true)
}

/// Whether the file names an object of attempts to archive it under a proposed id: movers may have added to that.
pub(crate) fn names_attempt(fd: impl AsFd, proposed: &str) -> Result<bool, StateError> {
    let fd = fd.as_fd();
    let state = FileState::read(fd)?;
    let of_attempt = |identity: &Identity| identity.uuid.starts_with(proposed);
    Ok(of_attempt(&state.identity) || read(fd, &state)?.iter().any(|copy| of_attempt(&copy.identity)))
}

/// Writes the list; the flags and the identity of the file stay. Not durable by itself.
pub(crate) fn write(fd: impl AsFd, beside: &str, list: Vec<Copy>) -> Result<(), StateError> {
    set(fd, xattr::COPIES, &Copies { beside: beside.to_owned(), list }.encode())
}

/// Takes the list away. Not durable by itself.
pub(crate) fn forget(fd: impl AsFd) -> Result<(), StateError> {
    clear(fd, xattr::COPIES)
}

/// Whether two hashes, as far as they can be compared, allow that it is the same content.
pub(crate) fn may_be_equal(one: Option<Digest>, other: Option<Digest>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => std::mem::discriminant(&one) != std::mem::discriminant(&other) || one == other,
        _ => true,
    }
}

pub(crate) fn object(copy: &Copy) -> ObjectRef {
    let Copy { archive_id, identity } = copy;
    ObjectRef { archive_id: *archive_id, uuid: identity.uuid.clone(), url: identity.url.clone() }
}

/// What is owed for a copy that its file is about to forget.
pub(crate) fn check(copy: &Copy, file: &FileHandle) -> OrphanCheck {
    let ObjectRef { archive_id, uuid, url } = object(copy);
    OrphanCheck { archive_id, uuid, url, file: file.clone() }
}

/// What the queue has to know of a file's further copies, for when the file is gone.
pub(crate) fn remember(file: &FileHandle, copies: &[Copy]) -> Change {
    Change::SetCopies { file: file.clone(), copies: copies.iter().map(object).collect() }
}

/// From where a file's content is to be had, the best first: its objects in the archive that was asked for, then the others. Copies
/// whose hash is not the file's are of no use.
pub(crate) fn sources(state: &FileState, copies: &[Copy], archive_id: u32, asked: &Identity) -> Vec<Copy> {
    let own = &state.identity;
    if asked.uuid != own.uuid {
        // An object that somebody else named: it is that or nothing.
        return vec![Copy { archive_id, identity: asked.clone() }];
    }
    let first = Copy { archive_id: state.archive_id().unwrap_or(archive_id), identity: own.clone() };
    let good = copies.iter().filter(|copy| may_be_equal(copy.identity.hash, own.hash)).cloned();
    let mut found: Vec<Copy> = std::iter::once(first).chain(good).collect();
    if !found.iter().any(|copy| copy.archive_id == archive_id) {
        found.insert(0, Copy { archive_id, identity: own.clone() });
    }
    // Stable: the others keep their order.
    found.sort_by_key(|copy| copy.archive_id != archive_id);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{HsmFlags, HsmState};

    fn identity(uuid: &str, hash: u8) -> Identity {
        Identity { uuid: uuid.into(), hash: Some(Digest::Blake3([hash; 32])), url: String::new() }
    }

    fn state() -> FileState {
        let flags = HsmFlags::EXISTS.with(HsmFlags::ARCHIVED);
        let hsm = HsmState { flags, archive_id: 1, ..HsmState::default() };
        FileState { hsm, identity: identity("first", 7), record: None }
    }

    fn copy(archive_id: u32, uuid: &str, hash: u8) -> Copy {
        Copy { archive_id, identity: identity(uuid, hash) }
    }

    #[test]
    fn the_archive_asked_for_comes_first_and_wrong_copies_never() {
        let copies = [copy(2, "second", 7), copy(3, "stale", 8), copy(4, "fourth", 7)];
        let order = |archive_id, asked: &Identity| {
            let found = sources(&state(), &copies, archive_id, asked);
            found.into_iter().map(|c| (c.archive_id, c.identity.uuid)).collect::<Vec<_>>()
        };
        let pair = |id: u32, uuid: &str| (id, uuid.to_owned());
        let first = identity("first", 7);
        assert_eq!(order(1, &first), [pair(1, "first"), pair(2, "second"), pair(4, "fourth")]);
        assert_eq!(order(4, &first), [pair(4, "fourth"), pair(1, "first"), pair(2, "second")]);
        // As before there were copies: the file's object, in the archive that was named; then what is known.
        assert_eq!(order(9, &first), [pair(9, "first"), pair(1, "first"), pair(2, "second"), pair(4, "fourth")]);
        assert_eq!(order(2, &identity("other", 7)), [pair(2, "other")]);
    }

    #[test]
    fn only_hashes_of_one_kind_can_differ() {
        let (one, other) = (Some(Digest::Blake3([1; 32])), Some(Digest::Blake3([2; 32])));
        assert!(may_be_equal(one, one) && !may_be_equal(one, other));
        assert!(may_be_equal(one, None) && may_be_equal(one, Some(Digest::Sha1([2; 20]))));
    }

    #[test]
    fn a_file_names_an_object_by_its_id_and_its_url() {
        let scratch = testkit::Scratch::new("names");
        let file = std::fs::File::create(scratch.path().join("file")).unwrap();
        let at = |url: &str| Identity { url: url.into(), ..identity("a", 1) };
        let further = Copy { archive_id: 2, identity: at("az://c/a#sifaka=2") };
        FileState { identity: at("az://c/a#sifaka=1"), ..state() }.write(&file).unwrap();
        assert!(may_name(&file, &at("az://c/a#sifaka=1")) && !may_name(&file, &at("az://c/a#sifaka=2")));
        write(&file, "a", vec![further]).unwrap();
        assert!(may_name(&file, &at("az://c/a#sifaka=2")) && !may_name(&file, &at("az://c/a#sifaka=3")));
        // What cannot be read may say anything.
        set(&file, xattr::HSM, b"garbage").unwrap();
        assert!(may_name(&file, &at("az://c/a#sifaka=3")));
    }

    #[test]
    fn movers_do_not_see_what_is_wished() {
        let mut action = crate::engine::removal_action(1, identity("x", 1), String::new(), 0);
        action.command = model::Command::Archive;
        for ensure in [false, true] {
            for anew in [None, Some(0), Some(u64::MAX)] {
                let wishes = Wishes { ensure, anew };
                action.identity = identity("x", 1);
                wishes.write(&mut action.identity);
                assert_eq!(Wishes::of(&action), wishes);
                assert_eq!(is_ensured(&action), ensure);
                assert_eq!(proposed(&action), identity("x", 1));
            }
        }
        action.identity.url = "s3://sifaka:copy".into();
        assert_eq!((Wishes::of(&action), proposed(&action)), (Wishes::default(), action.identity.clone()));
    }
}
