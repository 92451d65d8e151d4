//! The names of packs and of their members.

use model::ObjectId;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// Between a member's uuid and its pack's id.
const MARK: &str = ".pk";
const SECONDS_DIGITS: usize = 8;
const DIGITS: usize = 20;

/// A pack's name: 8 hexadecimal digits of the second it was begun in, 12 random ones. So the packs of a time are found by prefix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackId([u8; DIGITS / 2]);

impl PackId {
    /// A new one, of this moment.
    #[must_use]
    pub fn new(now: SystemTime) -> Self {
        let mut id = Self::first_of(now);
        let random = Uuid::new_v4().into_bytes();
        id.0.iter_mut().zip(random).skip(SECONDS_DIGITS / 2).for_each(|(to, from)| *to = from);
        id
    }

    /// The least id of a second.
    #[must_use]
    pub fn first_of(time: SystemTime) -> Self {
        let mut id = [0; DIGITS / 2];
        if let Some(first) = id.first_chunk_mut() {
            *first = seconds(time).to_be_bytes();
        }
        Self(id)
    }

    /// From its text: exactly 20 lower-case hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if !rest.is_empty() || pairs.len() != DIGITS / 2 {
            return None;
        }
        let digit = |c: u8| match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        };
        let mut id = [0; DIGITS / 2];
        for (to, [high, low]) in id.iter_mut().zip(pairs) {
            *to = digit(*high)? << 4 | digit(*low)?;
        }
        Some(Self(id))
    }

    /// When it was begun, to the second.
    #[must_use]
    pub fn began(&self) -> SystemTime {
        let [a, b, c, d, ..] = self.0;
        UNIX_EPOCH + Duration::from_secs(u32::from_be_bytes([a, b, c, d]).into())
    }

    pub(super) fn as_bytes(&self) -> &[u8; DIGITS / 2] {
        &self.0
    }
}

/// Enough until 2106; later packs only lose their order.
fn seconds(time: SystemTime) -> u32 {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a member is called inside its pack: the uuid that was proposed for the file's object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberName(Uuid);

impl MemberName {
    /// From a uuid as it is usually written: lower case, with hyphens. No other text, so that text and name go both ways.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let uuid = Uuid::try_parse(text).ok()?;
        (uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text).then_some(Self(uuid))
    }

    pub(super) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    pub(super) fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.as_hyphenated(), f)
    }
}

impl fmt::Debug for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A member's id as an object's: `<uuid>.pk<pack id>`. It says where the content is; no table has to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId {
    /// The pack.
    pub pack: PackId,
    /// The member in it.
    pub name: MemberName,
}

impl MemberId {
    /// `None` for the ids of other objects.
    #[must_use]
    pub fn parse(id: &ObjectId) -> Option<Self> {
        let (name, pack) = id.as_str().split_once(MARK)?;
        Some(Self { pack: PackId::parse(pack)?, name: MemberName::parse(name)? })
    }

    /// The id that requests and files know the member by.
    pub fn object_id(&self) -> Result<ObjectId, model::ObjectIdError> {
        ObjectId::parse(&self.to_string())
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{MARK}{}", self.name, self.pack)
    }
}
