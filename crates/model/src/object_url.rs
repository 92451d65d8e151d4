//! Objects that Sifaka did not make, named by their URLs.
//!
//! An identity that is a URL names an object where it is, under whatever key its owner chose. Which version of it was meant stands in the URL that
//! goes with the identity, behind `#etag=`.

use std::fmt;

/// A service that has buckets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// S3 and what speaks it: `s3://bucket/key`.
    S3,
    /// Azure Blob Storage: `az://container/key`.
    Azure,
    /// Google Cloud Storage: `gs://bucket/key`.
    Google,
}

impl Scheme {
    /// All.
    pub const ALL: [Self; 3] = [Self::S3, Self::Azure, Self::Google];

    /// As it stands in URLs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Azure => "az",
            Self::Google => "gs",
        }
    }
}

/// One object in one bucket.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct ObjectUrl {
    scheme: Scheme,
    bucket: String,
    key: String,
}

/// A text that names no object in a bucket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectUrlError {
    /// Begins with nothing that a bucket's URL begins with.
    #[error("{0:?} is no URL of an object: those begin with s3://, az:// or gs://")]
    Scheme(String),
    /// No bucket, or one that none is called.
    #[error("{0:?} names no bucket that can be: letters, digits, '-', '_', '.' and '$' are allowed")]
    Bucket(String),
    /// No key.
    #[error("{0:?} names a bucket, and no object in it")]
    Key(String),
    /// Longer than anything that a service has.
    #[error("a URL of {0} bytes is too long: at most {max}", max = ObjectUrl::MAX_BYTES)]
    TooLong(usize),
    /// `%` without two digits, a character that has to be written so and is not, or bytes that are no text.
    #[error("{0:?} is not written as URLs are: {1}")]
    Encoding(String, &'static str),
}

/// What a version is behind.
const TAG: &str = "#etag=";

impl ObjectUrl {
    /// The longest text of one, with the version behind it. S3's keys have at most 1024 bytes.
    pub const MAX_BYTES: usize = 4096;

    /// An object by its parts. The key is as the service has it.
    pub fn new(scheme: Scheme, bucket: &str, key: &str) -> Result<Self, ObjectUrlError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '$');
        if bucket.is_empty() || bucket.len() > 255 || !bucket.chars().all(allowed) {
            return Err(ObjectUrlError::Bucket(bucket.to_owned()));
        }
        if key.is_empty() {
            return Err(ObjectUrlError::Key(format!("{}://{bucket}", scheme.name())));
        }
        let url = Self { scheme, bucket: bucket.to_owned(), key: key.to_owned() };
        let length = url.to_string().len();
        if length > Self::MAX_BYTES { Err(ObjectUrlError::TooLong(length)) } else { Ok(url) }
    }

    /// Whether an identity means to be one. Anything else is an id of the archive's own.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        scheme_of(text).is_some()
    }

    /// Reads a text that came from outside: an attribute, a protocol message, somebody's keyboard. A version behind it is an error here.
    pub fn parse(text: &str) -> Result<Self, ObjectUrlError> {
        if text.len() > Self::MAX_BYTES {
            return Err(ObjectUrlError::TooLong(text.len()));
        }
        let (scheme, rest) = scheme_of(text).ok_or_else(|| ObjectUrlError::Scheme(text.to_owned()))?;
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        Self::new(scheme, bucket, &decode(key, text)?)
    }

    /// The version that stands in the URL beside an identity that names this object, as the service told it when that was written; `None` for a URL
    /// that says nothing of it.
    ///
    /// # Errors
    /// The URL is that of something else, or not one.
    pub fn version(&self, url: &str) -> Result<Option<String>, ObjectUrlError> {
        if url.is_empty() {
            return Ok(None);
        }
        let (bare, tag) = url.split_once(TAG).map_or((url, None), |(bare, tag)| (bare, Some(tag)));
        if Self::parse(bare)? != *self {
            return Err(ObjectUrlError::Encoding(url.to_owned(), "it names another object than the identity does"));
        }
        let tag = tag.map(|tag| decode(tag, url)).transpose()?;
        Ok(tag.filter(|tag| !tag.is_empty()))
    }

    /// The URL that goes with an identity that names this version of the object.
    pub fn with_version(&self, version: &str) -> Result<String, ObjectUrlError> {
        let url = format!("{self}{TAG}{}", Encoded(version));
        if url.len() > Self::MAX_BYTES { Err(ObjectUrlError::TooLong(url.len())) } else { Ok(url) }
    }

    /// The service.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The bucket, or Azure's container.
    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The key, as the service has it.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

fn scheme_of(text: &str) -> Option<(Scheme, &str)> {
    Scheme::ALL.into_iter().find_map(|scheme| {
        let rest = text.strip_prefix(scheme.name())?.strip_prefix("://")?;
        Some((scheme, rest))
    })
}

impl fmt::Display for ObjectUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/{}", self.scheme.name(), self.bucket, Encoded(&self.key))
    }
}

/// Written so that nothing in it means anything in a URL, or moves a terminal. Letters of any language stay.
struct Encoded<'a>(&'a str);

fn is_written_with_digits(c: char) -> bool {
    c.is_control() || matches!(c, ' ' | '%' | '#' | '?')
}

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if is_written_with_digits(c) {
                c.encode_utf8(&mut [0; 4]).bytes().try_for_each(|byte| write!(f, "%{byte:02X}"))?;
            } else {
                fmt::Write::write_char(f, c)?;
            }
        }
        Ok(())
    }
}

fn decode(text: &str, whole: &str) -> Result<String, ObjectUrlError> {
    let wrong = |why| ObjectUrlError::Encoding(whole.to_owned(), why);
    if text.chars().any(|c| c != '%' && is_written_with_digits(c)) {
        return Err(wrong("blanks, control characters, '#' and '?' are written with '%' and two digits"));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let [high, low, after @ ..] = rest else { return Err(wrong("'%' is followed by two digits")) };
        let (Some(high), Some(low)) = (digit(high), digit(low)) else {
            return Err(wrong("'%' is followed by two digits"));
        };
        bytes.push(high << 4 | low);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| wrong("what stands there with '%' is no text"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_object_is_a_service_a_bucket_and_a_key() {
        let url = ObjectUrl::parse("s3://my.bucket/a/b%20c%23%25.dat").unwrap();
        assert_eq!((url.scheme(), url.bucket(), url.key()), (Scheme::S3, "my.bucket", "a/b c#%.dat"));
        assert_eq!(url.to_string(), "s3://my.bucket/a/b%20c%23%25.dat");
        assert_eq!(ObjectUrl::parse("az://c/grün/ö").unwrap().to_string(), "az://c/grün/ö");
        assert_eq!(ObjectUrl::parse("gs://b/x").unwrap().scheme(), Scheme::Google);
    }

    #[test]
    fn what_is_none_is_refused() {
        for bad in [
            "",
            "s3:/b/k",
            "S3://b/k",
            "http://b/k",
            "s3://",
            "s3://b",
            "s3://b/",
            "s3:///k",
            "s3://b c/k",
            "s3://b/a b",
            "s3://b/a#etag=1",
            "s3://b/a?x",
            "s3://b/%",
            "s3://b/%4",
            "s3://b/%zz",
            "s3://b/%+1",
            "s3://b/%ff",
            "s3://b/a\nb",
        ] {
            assert!(ObjectUrl::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            ObjectUrl::parse(&format!("s3://b/{}", "k".repeat(5000))),
            Err(ObjectUrlError::TooLong("s3://b/".len() + 5000))
        );
        assert!(!ObjectUrl::is_meant("0e2f9a7c-5ad1-4b6e-9b7a-0a4dd0c8f0aa"));
        assert!(ObjectUrl::is_meant("s3://b") && ObjectUrl::is_meant("gs://b/k"));
    }

    #[test]
    fn a_version_is_that_of_the_object_that_the_identity_names() {
        let url = ObjectUrl::parse("s3://b/k%20k").unwrap();
        let with = url.with_version("\"a#b\"").unwrap();
        assert_eq!(with, "s3://b/k%20k#etag=\"a%23b\"");
        assert_eq!(url.version(&with).unwrap().as_deref(), Some("\"a#b\""));
        for silent in ["", "s3://b/k%20k", "s3://b/k%20k#etag="] {
            assert_eq!(url.version(silent), Ok(None));
        }
        for other in ["s3://b/other#etag=1", "nonsense", "s3://b/k%20k#etag=%", "s3://b/k%20k#etag=1#etag=2"] {
            assert!(url.version(other).is_err(), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn keys_and_versions_come_back_as_they_were(key in ".{1,300}|[ -~\\n]{1,300}", version in ".{1,80}") {
            let url = ObjectUrl::new(Scheme::S3, "b", &key).unwrap();
            prop_assert_eq!(&ObjectUrl::parse(&url.to_string()).unwrap(), &url);
            let with = url.with_version(&version).unwrap();
            prop_assert_eq!(url.version(&with).unwrap(), Some(version));
            prop_assert!(!with.chars().any(|c| c.is_control() || c == ' '));
        }

        #[test]
        fn nothing_from_outside_makes_it_panic(text in "(s3|az|gs)://[-%#a-f0-9/]{0,60}|.{0,80}") {
            if let Ok(url) = ObjectUrl::parse(&text) {
                let _ = url.version(&text);
            }
        }
    }
}
