//! Packs: many small files in one object, so that one sync (or one upload) makes all of them durable.
//!
//! ```text
//! pack   = header  member*  index  footer
//! member = record  manifest  content
//! ```
//!
//! Written in one go and never appended to. The index at the end says where each member is; a record says what its member is
//! by itself, so that members are found without the index too, when that is damaged. Every byte is covered by a BLAKE3 check: no
//! bit of a pack can change unnoticed. `docs/formats.md` has the bytes.
//!
//! For: the file format, over anything that can be read at an offset ([`ReadAt`](crate::manifest::ReadAt)) or written in order. Not for: where packs are
//! kept, when one is full, or which members count as removed; that is the store's.

mod builder;
mod error;
mod id;
mod index;
mod layout;
mod member;
mod names;
mod reader;
mod salvage;
mod writer;

#[cfg(test)]
mod tests;

pub use builder::PackBuilder;
pub use error::PackError;
pub use id::{MemberId, MemberName, PackId};
pub use index::{Entry, Index};
pub use member::{Member, NewMember};
pub use names::NameFilter;
pub use reader::PackReader;
pub use writer::PackWriter;

/// The largest content of a member, in bytes: one chunk, so that a member is verified and restored as a whole.
pub const MAX_CONTENT_BYTES: usize = model::limits::CHUNK_SIZE_BYTES;
/// The largest manifest of a member, in bytes. A file with more attributes becomes an object of its own.
pub const MAX_MANIFEST_BYTES: usize = 256 << 10;
/// The most members of one pack: its index is at most 128 KiB.
pub const MAX_MEMBERS: usize = 4096;
/// The most bytes at the end of a pack that tell where its members are: index and footer.
pub const MAX_TAIL_BYTES: u64 = (MAX_MEMBERS * layout::ENTRY_BYTES + layout::FOOTER_BYTES) as u64;
