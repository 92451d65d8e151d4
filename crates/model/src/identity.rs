//! Under what name an archive holds a file's content.

use crate::Digest;
use std::fmt;

/// What the archive and the file agree on: three attributes on the file, three fields on the wire.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    /// The object's id. Empty when the file was never archived. Opaque here: only the mover that wrote it knows its
    /// form, and must check it (see [`ObjectId`]) before building a path from it.
    pub uuid: String,
    /// The content's hash, if the mover computes one.
    pub hash: Option<Digest>,
    /// Where else the object can be found; may be empty.
    pub url: String,
}

/// An object id that is safe as the last component of a path: what the posix mover accepts.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(String);

/// Why a text is no object id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectIdError {
    /// The layout needs two directories of two characters each.
    #[error("object id {0:?} is too short: it has to have at least 5 characters")]
    TooShort(String),
    /// A file name has at most 255 bytes, and a suffix has to fit.
    #[error("object id of {0} characters is too long: at most 200")]
    TooLong(usize),
    /// A character outside letters, digits, `-`, `_` and `.`, or a dot at the start.
    #[error("object id {0:?} holds {1:?}, which no id has: letters, digits, '-', '_', and '.' (not first) are allowed")]
    Character(String, char),
}

impl ObjectId {
    /// Checks a text that came from outside: a request, an attribute, a protocol message.
    pub fn parse(text: &str) -> Result<Self, ObjectIdError> {
        if text.len() > 200 {
            return Err(ObjectIdError::TooLong(text.len()));
        }
        let allowed = |(i, c): (usize, char)| c.is_ascii_alphanumeric() || c == '-' || c == '_' || (c == '.' && i > 3);
        if let Some((_, c)) = text.char_indices().find(|&ic| !allowed(ic)) {
            return Err(ObjectIdError::Character(text.to_owned(), c));
        }
        if text.len() < 5 {
            return Err(ObjectIdError::TooShort(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names of the two directories the layout puts the object in: its first and second pair of characters.
    #[must_use]
    pub fn fan_out(&self) -> (&str, &str) {
        // `parse` made sure that there are five characters, all ASCII.
        (self.0.get(0..2).unwrap_or("00"), self.0.get(2..4).unwrap_or("00"))
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_uuid_is_an_object_id() {
        let id = ObjectId::parse("0e2f9a7c-5ad1-4b6e-9b7a-0a4dd0c8f0aa").unwrap();
        assert_eq!(id.fan_out(), ("0e", "2f"));
    }

    #[test]
    fn nothing_that_leaves_a_directory_is_an_object_id() {
        for bad in [
            "",
            "a",
            "abcd",
            "../../x",
            "ab/../cdef",
            "/etc/passwd",
            "....",
            "..abcdef",
            "ab\0cdef",
            "ab..cdef",
            "äbcdef",
            "ab cdef",
        ] {
            assert!(ObjectId::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(ObjectId::parse(&"a".repeat(201)), Err(ObjectIdError::TooLong(201)));
    }

    proptest! {
        #[test]
        fn an_accepted_id_is_one_plain_name(text in "\\PC{0,220}|[-a-zA-Z0-9_./]{0,220}") {
            if let Ok(id) = ObjectId::parse(&text) {
                let (a, b) = id.fan_out();
                for part in [a, b, id.as_str()] {
                    prop_assert!(!part.contains('/') && !part.starts_with('.') && !part.is_empty());
                }
            }
        }
    }
}
