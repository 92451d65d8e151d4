//! The attributes that name a file's object. The agent reads them when the file is restored or removed.
//!
//! Raw values: what a file was archived under is for its mover to understand.

use model::xattr::{HASH, LAYOUT, SHARED, URL, UUID};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// See the module.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    /// In the order in which they are set: the object's id is the last, so that a file with an id has the others.
    values: Vec<(&'static str, Vec<u8>)>,
}

const ORDER: [&str; 5] = [LAYOUT, SHARED, HASH, URL, UUID];

impl Attributes {
    /// Those of a file. What may not be read, or is not there, is left out.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let mut values = Vec::new();
        for name in ORDER {
            match sys::xattr::get(&file, name) {
                Ok(Some(value)) => values.push((name, value)),
                Ok(None) => {}
                // Whoever is no administrator sees no `trusted.` attributes.
                Err(why) if matches!(why.raw_os_error(), Some(nix::libc::EPERM | nix::libc::EOPNOTSUPP)) => {}
                Err(why) => return Err(why),
            }
        }
        Ok(Self { values })
    }

    /// For an object that other files may name, too.
    pub(super) fn naming(identity: &model::Identity) -> Self {
        let mut values = vec![(SHARED, identity.uuid.clone().into_bytes())];
        if let Some(hash) = &identity.hash {
            values.push((HASH, hash.to_string().into_bytes()));
        }
        if !identity.url.is_empty() {
            values.push((URL, identity.url.clone().into_bytes()));
        }
        values.push((UUID, identity.uuid.clone().into_bytes()));
        Self { values }
    }

    /// Says on the file that others may name its object, and here as well. The agent does not remove such an object with the
    /// file's copy. Durable when this returns.
    pub(super) fn share(mut self, path: &Path) -> io::Result<Self> {
        let uuid = self.uuid().into_bytes();
        sys::xattr::set(open(path)?, SHARED, &uuid)?;
        File::open(path)?.sync_all()?;
        self.values.retain(|(name, _)| *name != SHARED);
        self.values.insert(0, (SHARED, uuid));
        Ok(self)
    }

    pub(super) fn set_on(&self, file: &impl AsFd) -> io::Result<()> {
        self.values.iter().try_for_each(|(name, value)| sys::xattr::set(file, *name, value))
    }

    /// Whether both name the same object, in the same words.
    pub(super) fn same_object(&self, other: &Self) -> bool {
        let of = |all: &Self, name| all.values.iter().find(|(found, _)| *found == name).map(|(_, value)| value.clone());
        [UUID, HASH, URL].into_iter().all(|name| of(self, name) == of(other, name))
    }

    pub(super) fn uuid(&self) -> String {
        self.text(UUID)
    }

    pub(super) fn hash(&self) -> String {
        self.text(HASH)
    }

    pub(super) fn url(&self) -> String {
        self.text(URL)
    }

    fn text(&self, wanted: &str) -> String {
        let found = self.values.iter().find(|(name, _)| *name == wanted);
        found.map_or_else(String::new, |(_, value)| String::from_utf8_lossy(value).into_owned())
    }
}

/// Restores nothing.
fn open(path: &Path) -> io::Result<File> {
    let flags = (sys::OFlags::PATH | sys::OFlags::NOFOLLOW).bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}
