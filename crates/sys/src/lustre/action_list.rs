//! Action lists: what the coordinator sends a copytool, read with bounds checked.
//!
//! The bytes come from the MDT through the kernel. Whatever they hold, reading them gives the items that are whole and
//! says what is wrong with the rest.

use std::fmt;
use std::mem::{offset_of, size_of};

use model::{Extent, Fid};

use super::abi::{HsmActionItem, HsmActionList};
use super::wire::{fid_at, u32_at, u64_at};

const HEADER: usize = size_of::<HsmActionList>();
const ITEM: usize = size_of::<HsmActionItem>();

/// The only version of the format there is.
const VERSION: u32 = 1;

/// HAL flag: a reader is blocked until this restore is done. Known from Lustre 2.16.57 on; without it nothing is said.
pub const READER_IS_BLOCKED: u64 = 4;

/// What the coordinator wants (`enum hsm_copytool_action`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// Copy the file's content into the archive.
    Archive,
    /// Bring it back.
    Restore,
    /// Remove it from the archive.
    Remove,
    /// Give up the action with the same cookie.
    Cancel,
    /// A number nobody here knows.
    Unknown(u32),
}

impl Action {
    /// From the wire's number.
    #[must_use]
    pub fn from_wire(number: u32) -> Self {
        match number {
            20 => Self::Archive,
            21 => Self::Restore,
            22 => Self::Remove,
            23 => Self::Cancel,
            other => Self::Unknown(other),
        }
    }

    /// The wire's number.
    #[must_use]
    pub fn to_wire(self) -> u32 {
        match self {
            Self::Archive => 20,
            Self::Restore => 21,
            Self::Remove => 22,
            Self::Cancel => 23,
            Self::Unknown(number) => number,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Archive => f.write_str("archive"),
            Self::Restore => f.write_str("restore"),
            Self::Remove => f.write_str("remove"),
            Self::Cancel => f.write_str("cancel"),
            Self::Unknown(number) => write!(f, "unknown action {number}"),
        }
    }
}

/// Bytes that are no item.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an action item: it has {bytes} bytes and says that it has {says:?} (at least {ITEM})")]
pub struct ItemError {
    /// How many bytes there are.
    pub bytes: usize,
    /// How many its length field names, if there is one.
    pub says: Option<u32>,
}

/// One thing to do. Keeps its bytes whole, as a new process needs them to end what an old one began.
#[derive(Clone, PartialEq, Eq)]
pub struct Item {
    /// Always at least [`ITEM`] bytes: checked by [`Item::from_bytes`].
    bytes: Box<[u8]>,
    fields: Fields,
}

/// The fixed part, read once.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Fields {
    action: Action,
    fid: Fid,
    dfid: Fid,
    extent: Extent,
    cookie: u64,
    gid: u64,
}

impl Item {
    /// From the bytes of exactly one item, without padding after it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ItemError> {
        let says = u32_at(bytes, offset_of!(HsmActionItem, len));
        let error = ItemError { bytes: bytes.len(), says };
        if says.is_none_or(|len| len as usize != bytes.len()) {
            return Err(error);
        }
        let fields = Fields::read(bytes).ok_or(error)?;
        Ok(Self { bytes: bytes.into(), fields })
    }

    /// An item as the coordinator would send it.
    ///
    /// Fails when `data` is longer than an item can say.
    pub fn new(
        action: Action,
        fid: Fid,
        dfid: Fid,
        extent: Extent,
        cookie: u64,
        gid: u64,
        data: &[u8],
    ) -> Result<Self, ItemError> {
        let bytes = ITEM.saturating_add(data.len());
        let len = u32::try_from(bytes).map_err(|_| ItemError { bytes, says: None })?;
        let mut out = Vec::with_capacity(bytes);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&action.to_wire().to_le_bytes());
        for fid in [fid, dfid] {
            out.extend_from_slice(&fid.seq.to_le_bytes());
            out.extend_from_slice(&fid.oid.to_le_bytes());
            out.extend_from_slice(&fid.ver.to_le_bytes());
        }
        for number in [extent.offset, extent.length, cookie, gid] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(data);
        Self::from_bytes(&out)
    }

    /// All of it, for a journal.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What to do.
    #[must_use]
    pub fn action(&self) -> Action {
        self.fields.action
    }

    /// The file.
    #[must_use]
    pub fn fid(&self) -> Fid {
        self.fields.fid
    }

    /// Where its data are: the file itself until a restore begins.
    #[must_use]
    pub fn dfid(&self) -> Fid {
        self.fields.dfid
    }

    /// Which part of the file.
    #[must_use]
    pub fn extent(&self) -> Extent {
        self.fields.extent
    }

    /// The coordinator's name for the action; a cancel has that of what it cancels.
    #[must_use]
    pub fn cookie(&self) -> u64 {
        self.fields.cookie
    }

    /// The group lock's id; 0 when there is none.
    #[must_use]
    pub fn gid(&self) -> u64 {
        self.fields.gid
    }

    /// What the requester gave for the mover; anything.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        self.bytes.get(ITEM..).unwrap_or_default()
    }
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Item")
            .field("action", &self.action())
            .field("fid", &format_args!("{}", self.fid()))
            .field("dfid", &format_args!("{}", self.dfid()))
            .field("extent", &self.extent())
            .field("cookie", &format_args!("{:#x}", self.cookie()))
            .field("gid", &self.gid())
            .field("data", &format_args!("{} bytes", self.data().len()))
            .finish()
    }
}

impl Fields {
    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            action: Action::from_wire(u32_at(bytes, offset_of!(HsmActionItem, action))?),
            fid: fid_at(bytes, offset_of!(HsmActionItem, fid))?,
            dfid: fid_at(bytes, offset_of!(HsmActionItem, dfid))?,
            extent: Extent {
                offset: u64_at(bytes, offset_of!(HsmActionItem, extent))?,
                length: u64_at(bytes, offset_of!(HsmActionItem, extent) + 8)?,
            },
            cookie: u64_at(bytes, offset_of!(HsmActionItem, cookie))?,
            gid: u64_at(bytes, offset_of!(HsmActionItem, gid))?,
        })
    }
}

/// What is wrong with a list. The items before the damage are good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Shorter than a list's header.
    #[error("the action list has {0} bytes, fewer than its header of {HEADER}")]
    NoHeader(usize),
    /// Another format.
    #[error("the action list is of version {0}; only {VERSION} is known")]
    Version(u32),
    /// The filesystem's name does not end.
    #[error("the action list's filesystem name has no end")]
    NameWithoutEnd,
    /// The filesystem's name is no text. All items are there.
    #[error("the action list's filesystem name is no UTF-8: {0:?}")]
    Name(Vec<u8>),
    /// The list ends before its items do.
    #[error("the action list is cut short: it says that it has {says} items and ends after {found}")]
    CutShort {
        /// How many it should have.
        says: u32,
        /// How many there are.
        found: usize,
    },
    /// An item's length is below that of its fixed part, or reaches past the end: nothing after it can be found.
    #[error(
        "item {index} of the action list says that it has {says} bytes, {left} are left (at least {ITEM} are needed)"
    )]
    ItemLength {
        /// Which, counted from 0.
        index: usize,
        /// The length it names.
        says: u32,
        /// How many bytes are left from its start on.
        left: usize,
    },
    /// More bytes after the last item than padding can be: the count is wrong. The items it counts are there.
    #[error("the action list says that it has {says} items, and {left} bytes follow them")]
    Left {
        /// How many it says it has.
        says: u32,
        /// How many bytes follow.
        left: usize,
    },
}

/// One message of the coordinator. A list is for one archive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ActionList {
    /// The filesystem's name; with replacement characters when it was no text.
    pub fsname: String,
    /// Means nothing today.
    pub compound_id: u64,
    /// Flags for all items: bits 0 and 1 are the requester's, [`READER_IS_BLOCKED`] the kernel's.
    pub flags: u64,
    /// Which archive.
    pub archive_id: u32,
    /// What to do, in order. Unknown actions are among them: they too are owed an answer.
    pub items: Vec<Item>,
    /// What is wrong with the list. The items in it are good, and are to be done; of those lost nothing is known.
    pub damage: Option<Damage>,
}

impl ActionList {
    /// Reads a list. Whatever the bytes are, gives the items that are whole, and says in [`damage`](Self::damage) why
    /// there may be fewer than were sent. Allocates no more than a small multiple of `bytes`.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let mut list = Self::default();
        list.damage = list.read(bytes).err();
        list
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), Damage> {
        let no_header = || Damage::NoHeader(bytes.len());
        let (_, rest) = bytes.split_at_checked(HEADER).ok_or_else(no_header)?;
        let number = |at| u32_at(bytes, at).ok_or_else(no_header);
        let long = |at| u64_at(bytes, at).ok_or_else(no_header);
        let version = number(offset_of!(HsmActionList, version))?;
        if version != VERSION {
            return Err(Damage::Version(version));
        }
        let count = number(offset_of!(HsmActionList, count))?;
        self.compound_id = long(offset_of!(HsmActionList, compound_id))?;
        self.flags = long(offset_of!(HsmActionList, flags))?;
        self.archive_id = number(offset_of!(HsmActionList, archive_id))?;
        let end = rest.iter().position(|byte| *byte == 0).ok_or(Damage::NameWithoutEnd)?;
        let (name, after) = rest.split_at_checked(end).ok_or(Damage::NameWithoutEnd)?;
        self.fsname = String::from_utf8_lossy(name).into_owned();
        // The name and its NUL are padded to 8; at the end of a list without items the padding may be missing.
        let padding = (end + 1).next_multiple_of(8) - end;
        self.read_items(after.get(padding..).unwrap_or_default(), count)?;
        if str::from_utf8(name).is_err() { Err(Damage::Name(name.to_vec())) } else { Ok(()) }
    }

    fn read_items(&mut self, mut rest: &[u8], count: u32) -> Result<(), Damage> {
        for index in 0..count as usize {
            let says = u32_at(rest, 0).ok_or(Damage::CutShort { says: count, found: index })?;
            let item = rest.get(..says as usize).and_then(|bytes| Item::from_bytes(bytes).ok());
            self.items.push(item.ok_or(Damage::ItemLength { index, says, left: rest.len() })?);
            rest = rest.get((says as usize).next_multiple_of(8)..).unwrap_or_default();
        }
        // As much as another item: the count was too small. Less may be padding.
        if rest.len() >= ITEM { Err(Damage::Left { says: count, left: rest.len() }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(list: &ActionList) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&u32::try_from(list.items.len()).unwrap().to_le_bytes());
        out.extend_from_slice(&list.compound_id.to_le_bytes());
        out.extend_from_slice(&list.flags.to_le_bytes());
        out.extend_from_slice(&list.archive_id.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(list.fsname.as_bytes());
        out.push(0);
        for item in &list.items {
            out.resize(out.len().next_multiple_of(8), 0);
            out.extend_from_slice(item.as_bytes());
        }
        out.resize(out.len().next_multiple_of(8), 0);
        out
    }

    fn item(action: Action, cookie: u64, data: &[u8]) -> Item {
        let fid = Fid { seq: 0x2_0000_0401, oid: 1, ver: 0 };
        Item::new(action, fid, fid, Extent::WHOLE, cookie, 0, data).unwrap()
    }

    fn three() -> ActionList {
        let items = vec![
            item(Action::Archive, 1, b"sevenxx"),
            item(Action::Cancel, 1, b""),
            item(Action::Unknown(99), 3, b"1"),
        ];
        ActionList { fsname: "lustre".into(), flags: 4, archive_id: 2, compound_id: 7, items, damage: None }
    }

    #[test]
    fn the_layout_is_that_of_the_table() {
        let bytes = encode(&three());
        assert_eq!(&bytes[32..39], b"lustre\0");
        assert_eq!(bytes[40..44], 79u32.to_le_bytes(), "seven bytes of data make an item of 79, not 80");
        assert_eq!(bytes[120..124], 72u32.to_le_bytes(), "the next item is at a multiple of 8");
        let list = ActionList::parse(&bytes);
        assert_eq!(list, three());
        assert_eq!(list.items[0].data(), b"sevenxx");
        assert_eq!(list.items[2].action(), Action::Unknown(99));
    }

    #[test]
    fn a_list_cut_anywhere_keeps_the_items_before_the_cut() {
        let bytes = encode(&three());
        // Where each item ends, without its padding.
        let ends = [40 + 79, 120 + 72, 192 + 73];
        for cut in 0..bytes.len() {
            let list = ActionList::parse(&bytes[..cut]);
            let whole = ends.iter().filter(|end| **end <= cut).count();
            assert_eq!(list.items, three().items[..whole], "cut at {cut}");
            assert_eq!(list.damage.is_none(), whole == 3, "cut at {cut}: {:?}", list.damage);
        }
    }

    #[test]
    fn lengths_and_counts_that_lie_are_named() {
        let good = encode(&three());
        let with = |at: usize, value: u32| {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            ActionList::parse(&bytes)
        };
        for says in [0, 1, 71, u32::MAX, u32::MAX - 6] {
            let list = with(120, says);
            assert_eq!(list.items, three().items[..1]);
            assert_eq!(list.damage, Some(Damage::ItemLength { index: 1, says, left: good.len() - 120 }));
        }
        assert_eq!(with(4, u32::MAX).damage, Some(Damage::CutShort { says: u32::MAX, found: 3 }));
        assert_eq!(with(4, u32::MAX).items, three().items);
        assert_eq!(with(4, 2).damage, Some(Damage::Left { says: 2, left: 80 }));
        assert_eq!(with(4, 2).items, three().items[..2]);
        assert_eq!(with(0, 2).damage, Some(Damage::Version(2)));
    }

    #[test]
    fn a_name_that_is_no_text_costs_no_item() {
        let mut bytes = encode(&three());
        bytes[33] = 0xff;
        let list = ActionList::parse(&bytes);
        assert_eq!(list.items, three().items);
        assert_eq!(list.damage, Some(Damage::Name(b"l\xffstre".to_vec())));
        bytes.truncate(38);
        assert_eq!(ActionList::parse(&bytes).damage, Some(Damage::NameWithoutEnd));
    }

    #[test]
    fn an_item_s_bytes_are_exactly_its_own() {
        let item = item(Action::Restore, 5, b"abc");
        assert_eq!(Item::from_bytes(item.as_bytes()), Ok(item.clone()));
        let mut longer = item.as_bytes().to_vec();
        longer.push(0);
        assert_eq!(Item::from_bytes(&longer), Err(ItemError { bytes: 76, says: Some(75) }));
        assert_eq!(Item::from_bytes(&item.as_bytes()[..74]), Err(ItemError { bytes: 74, says: Some(75) }));
        assert_eq!(Item::from_bytes(&[3, 0, 0]), Err(ItemError { bytes: 3, says: None }));
        assert_eq!(Item::from_bytes(&[4, 0, 0, 0]), Err(ItemError { bytes: 4, says: Some(4) }));
    }

    prop_compose! {
        fn any_item()(
            numbers: [u64; 6], action: u32, oid: u32, data in prop::collection::vec(any::<u8>(), 0..40),
        ) -> Item {
            let [seq, data_seq, offset, length, cookie, gid] = numbers;
            let fid = |seq| Fid { seq, oid, ver: oid ^ 5 };
            let extent = Extent { offset, length };
            Item::new(Action::from_wire(action), fid(seq), fid(data_seq), extent, cookie, gid, &data).unwrap()
        }
    }

    prop_compose! {
        fn any_list()(
            fsname in "[a-z0-9é]{0,9}", compound_id: u64, flags: u64, archive_id: u32,
            items in prop::collection::vec(any_item(), 0..8),
        ) -> ActionList {
            ActionList { fsname, compound_id, flags, archive_id, items, damage: None }
        }
    }

    proptest! {
        #[test]
        fn lists_round_trip(list in any_list()) {
            prop_assert_eq!(ActionList::parse(&encode(&list)), list);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = ActionList::parse(&bytes);
            let _ = Item::from_bytes(&bytes);
        }

        #[test]
        fn no_change_of_a_list_panics_or_makes_more_of_it(
            list in any_list(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ) {
            let mut bytes = encode(&list);
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let read: usize = ActionList::parse(&bytes).items.iter().map(|item| item.as_bytes().len()).sum();
            prop_assert!(read <= bytes.len());
        }
    }
}
