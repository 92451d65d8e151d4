//! The forms in which the content of one proposed id may be stored: one for each encoding, told apart by the id's suffix.

use crate::{Encoding, TransferError, manifest};
use model::ObjectId;

/// An object of such a name would be taken for the manifest of another.
pub fn not_reserved(id: &ObjectId) -> Result<(), TransferError> {
    if id.as_str().ends_with(manifest::SUFFIX) { Err(TransferError::Reserved(id.clone())) } else { Ok(()) }
}

/// The object's name: the id's own suffix counts for nothing, because what is read back is decided by it.
pub fn with_encoding(id: &ObjectId, encoding: Encoding) -> Result<ObjectId, TransferError> {
    let (base, _) = Encoding::split(id.as_str());
    Ok(ObjectId::parse(&format!("{base}{}", encoding.suffix()))?)
}

/// What the same content would be called if stored otherwise.
pub fn other_encodings(id: &ObjectId) -> impl Iterator<Item = ObjectId> {
    let all = Encoding::ALL.into_iter().filter_map(|encoding| with_encoding(id, encoding).ok());
    all.filter(move |other| other != id)
}
