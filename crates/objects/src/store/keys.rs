//! Under which keys things lie, by layout. What is under which key is decided here alone.
//!
//! - [`Layout::Uuid`]: `small/<id>` for an object that carries its manifest in its metadata: one request stores both. `objects/<id>` for others, and
//!   `manifests/<id>` for their manifests and for records. All with the suffix of the object's encoding. So a listing finds what has a
//!   manifest by the keys alone. S3 spreads keys by itself; no fan-out by directories is needed.
//! - [`Layout::Path`]: the path of the file, see `paths`; everything else of ours below `.sifaka/`: `.sifaka/manifests/<id>`, and `.sifaka/objects/<id>` for
//!   objects of files whose paths are no keys.
//! - [`Layout::LemurS3`]: `o/<id>`, and nothing else.
//! - [`Layout::LemurAz`]: the path of the file, which is its id, and nothing else.

use crate::Layout;
use model::ObjectId;
use transfer::Encoding;
use transfer::forms::other_encodings;

impl Layout {
    /// Where content lies that carries no manifest.
    pub(super) fn object(self, id: &ObjectId) -> String {
        let below = match self {
            Self::Uuid => "objects/",
            Self::Path => ".sifaka/objects/",
            Self::LemurS3 => "o/",
            Self::LemurAz => "",
        };
        format!("{below}{id}")
    }

    /// Where content lies that carries its manifest, where there is such.
    pub(super) fn small(self, id: &ObjectId) -> Option<String> {
        (self == Self::Uuid).then(|| format!("small/{id}"))
    }

    /// Where a manifest lies. Layouts without manifests have nothing there.
    pub(super) fn manifest(self, id: &ObjectId) -> String {
        let below = if self == Self::Path { ".sifaka/manifests/" } else { "manifests/" };
        format!("{below}{id}")
    }

    /// Every key that there may be for an id. There is none where objects go by paths alone.
    pub(super) fn all(self, id: &ObjectId) -> Vec<String> {
        if self == Self::LemurAz {
            return Vec::new();
        }
        let manifest = self.has_manifests().then(|| self.manifest(id));
        self.small(id).into_iter().chain([self.object(id)]).chain(manifest).collect()
    }

    /// What the keys of objects begin with.
    pub(super) fn objects(self) -> &'static [&'static str] {
        match self {
            Self::Uuid => &["objects/", "small/"],
            // And what is visible, which a listing of keys says nothing of.
            Self::Path => &[".sifaka/objects/"],
            Self::LemurS3 => &["o/"],
            Self::LemurAz => &[""],
        }
    }

    /// What the keys begin with of everything that has a manifest.
    pub(super) fn manifests(self) -> &'static [&'static str] {
        match self {
            Self::Uuid => &["manifests/", "small/"],
            Self::Path => &[".sifaka/manifests/"],
            Self::LemurS3 | Self::LemurAz => &[],
        }
    }

    /// What the keys begin with that are uploaded to in parts.
    pub(super) fn uploads(self) -> &'static [&'static str] {
        match self {
            Self::Uuid => &["objects/", "manifests/"],
            Self::LemurS3 => &["o/"],
            // By its key nobody can tell whose an upload is.
            Self::LemurAz | Self::Path => &[""],
        }
    }

    /// Whether objects have manifests, and encodings.
    pub(super) fn has_manifests(self) -> bool {
        matches!(self, Self::Uuid | Self::Path)
    }

    /// Whether small files share packs.
    pub(super) fn has_packs(self) -> bool {
        self == Self::Uuid
    }

    /// How an object is stored that goes by this id.
    pub(super) fn encoding(self, id: &ObjectId) -> Encoding {
        if self.has_manifests() { Encoding::split(id.as_str()).1 } else { Encoding::Raw }
    }

    /// What else the same content may be called.
    pub(super) fn other_forms(self, id: &ObjectId) -> impl Iterator<Item = ObjectId> {
        self.has_manifests().then(|| other_encodings(id)).into_iter().flatten()
    }
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
        let layout = Layout::Uuid;
        assert_eq!(id("objects/", &layout.object(&known)), Some(known.clone()));
        assert_eq!(id("manifests/", &layout.manifest(&known)), Some(known.clone()));
        for stranger in ["objects/", "objects/a/bcdefg", "objects/..%2f..", "other/0e2f9a7c", &layout.manifest(&known)]
        {
            assert_eq!(id("objects/", stranger), None, "{stranger}");
        }
    }

    #[test]
    fn in_lemur_s_layout_an_id_says_nothing_of_an_encoding() {
        let named = ObjectId::parse("0e2f9a7c-5ad1.gz").unwrap();
        assert_eq!(Layout::LemurS3.encoding(&named), Encoding::Raw);
        assert_eq!(Layout::LemurS3.all(&named), ["o/0e2f9a7c-5ad1.gz"]);
        assert_eq!(Layout::LemurS3.other_forms(&named).count(), 0);
        assert_eq!(Layout::Uuid.encoding(&named), Encoding::Gzip);
        assert_eq!(Layout::Uuid.other_forms(&named).count(), 2);
    }
}
