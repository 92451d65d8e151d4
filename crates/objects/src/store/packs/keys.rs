//! Where packs and the marks of removed members are in a bucket.
//!
//! ```text
//! packs/<pack id>              the pack
//! packs/<pack id>.d/<uuid>     an empty object: this member was removed
//! ```

use opendal::raw::oio::Entry;
use transfer::pack::{MemberId, MemberName, PackId};

pub(super) const PACKS: &str = "packs/";
const MARKS: &str = ".d/";

pub(super) fn pack(pack: PackId) -> String {
    format!("{PACKS}{pack}")
}

/// What the keys of a pack's marks begin with.
pub(super) fn marks(pack: PackId) -> String {
    format!("{PACKS}{pack}{MARKS}")
}

pub(super) fn mark(member: &MemberId) -> String {
    format!("{PACKS}{}{MARKS}{}", member.pack, member.name)
}

/// For messages: the member as if it were an object in its pack.
pub(super) fn member(member: &MemberId) -> String {
    format!("{PACKS}{}/{}", member.pack, member.name)
}

/// What a key below `packs/` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listed {
    Pack(PackId),
    Mark(MemberId),
}

/// `None` for what is nothing of ours.
pub(super) fn listed(entry: &Entry) -> Option<Listed> {
    parse(entry.path())
}

fn parse(key: &str) -> Option<Listed> {
    let name = key.strip_prefix(PACKS)?;
    match name.split_once(MARKS) {
        None => PackId::parse(name).map(Listed::Pack),
        Some((pack, member)) => {
            let (pack, name) = (PackId::parse(pack)?, MemberName::parse(member)?);
            Some(Listed::Mark(MemberId { pack, name }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_ids_go_both_ways_and_strangers_are_none() {
        let id = PackId::parse("5e0b1234aabbccddeeff").unwrap();
        let name = MemberName::parse("0e2f9a7c-5ad1-4b6e-9b7a-0a4dd0c8f0aa").unwrap();
        let one = MemberId { pack: id, name };
        assert_eq!(parse(&pack(id)), Some(Listed::Pack(id)));
        assert_eq!(parse(&mark(&one)), Some(Listed::Mark(one)));
        assert!(mark(&one).starts_with(&marks(id)));
        for stranger in ["packs/", "packs/x", "packs/5e0b1234aabbccddeeff.lock", &marks(id), &member(&one)] {
            assert_eq!(parse(stranger), None, "{stranger}");
        }
    }

    /// A listing gives a pack, then its marks, then the next pack.
    #[test]
    fn marks_lie_between_their_pack_and_the_next() {
        let [first, second] = ["5e0b1234aabbccddeeff", "5e0b1234aabbccddef00"].map(|id| PackId::parse(id).unwrap());
        assert!(pack(first) < marks(first) && marks(first) < pack(second));
    }
}
