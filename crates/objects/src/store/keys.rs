//! The layout "uuid": under which keys things lie.
//!
//! `small/<id>` for an object that carries its manifest in its metadata: one request stores both. `objects/<id>` for others, and `manifests/<id>`
//! for their manifests and for records. All with the suffix of the object's encoding. So a listing finds what has a manifest by the keys
//! alone. S3 spreads keys by itself; no fan-out by directories is needed.

use model::ObjectId;

pub(super) const OBJECTS: &str = "objects/";
pub(super) const SMALL: &str = "small/";
pub(super) const MANIFESTS: &str = "manifests/";

pub(super) fn object(id: &ObjectId) -> String {
    format!("{OBJECTS}{id}")
}

pub(super) fn small(id: &ObjectId) -> String {
    format!("{SMALL}{id}")
}

/// Every key that there may be for an id.
pub(super) fn all(id: &ObjectId) -> [String; 3] {
    [small(id), object(id), manifest(id)]
}

pub(super) fn manifest(id: &ObjectId) -> String {
    format!("{MANIFESTS}{id}")
}

/// The id of a key that a listing of `prefix` gave; `None` for what is nothing of ours.
pub(super) fn id(prefix: &str, key: &str) -> Option<ObjectId> {
    ObjectId::parse(key.strip_prefix(prefix)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_ids_go_both_ways_and_strangers_are_none() {
        let known = ObjectId::parse("0e2f9a7c-5ad1.zst").unwrap();
        assert_eq!(id(OBJECTS, &object(&known)), Some(known.clone()));
        assert_eq!(id(MANIFESTS, &manifest(&known)), Some(known.clone()));
        for stranger in ["objects/", "objects/a/bcdefg", "objects/..%2f..", "other/0e2f9a7c", &manifest(&known)] {
            assert_eq!(id(OBJECTS, stranger), None, "{stranger}");
        }
    }
}
