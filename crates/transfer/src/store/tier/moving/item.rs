//! What can be moved: an object with its manifest, a record, a pack. And what there is of that in a root.

use super::super::super::packs::place;
use super::super::super::root::{OBJECTS, Root, entries};
use crate::TransferError;
use crate::manifest;
use crate::pack::PackId;
use model::ObjectId;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// One thing that is moved as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// With its manifest, if it has one.
    Object(ObjectId),
    /// A manifest without an object.
    Record(ObjectId),
    /// With the marks of its removed members.
    Pack(PackId),
}

impl Item {
    /// The directory that it is in, relative to the root.
    pub(super) fn directory(&self) -> PathBuf {
        match self {
            Self::Object(id) | Self::Record(id) => Root::fan_out(id),
            Self::Pack(pack) => place::directory(*pack),
        }
    }

    /// The files, in the order in which they get their names. They lose them in the opposite one: where there is an object, its manifest is there.
    pub(super) fn files(&self) -> Vec<String> {
        match self {
            Self::Object(id) => vec![manifest::name_of(id), id.to_string()],
            Self::Record(id) => vec![manifest::name_of(id)],
            Self::Pack(pack) => vec![pack.to_string()],
        }
    }

    /// Whether there may be none of this name.
    pub(super) fn is_optional(&self, name: &str) -> bool {
        matches!(self, Self::Object(_)) && name.ends_with(manifest::SUFFIX)
    }

    /// As a line of a journal has it, and as people read it.
    pub(super) fn line(&self) -> String {
        match self {
            Self::Object(id) => format!("object {id}"),
            Self::Record(id) => format!("record {id}"),
            Self::Pack(pack) => format!("pack {pack}"),
        }
    }

    pub(super) fn parse(line: &str) -> Option<Self> {
        let (kind, name) = line.split_once(' ')?;
        match kind {
            "object" => ObjectId::parse(name).ok().map(Self::Object),
            "record" => ObjectId::parse(name).ok().map(Self::Record),
            "pack" => PackId::parse(name).map(Self::Pack),
            _ => None,
        }
    }

    /// Whether the root has it, or its last file; and the bytes that it takes there.
    pub(super) fn bytes_in(&self, root: &Root) -> io::Result<Option<u64>> {
        let directory = self.directory();
        let mut bytes = None;
        for name in self.files() {
            bytes = match sys::file::stamp_at(root.dir(), directory.join(name)) {
                Ok(stamp) => Some(bytes.unwrap_or(0) + stamp.blocks.saturating_mul(512)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
        }
        Ok(bytes)
    }
}

/// Visits all that is in a root, in no order. What comes or goes meanwhile may be missed.
pub(super) fn each(
    root: &Root,
    visit: &mut dyn FnMut(Found) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, TransferError> {
    if in_objects(root, Path::new(OBJECTS), 2, visit)?.is_break() {
        return Ok(ControlFlow::Break(()));
    }
    let failed = |path: &Path| TransferError::io("list", root.path().join(path));
    for directory in place::directories(root, None).map_err(failed(Path::new(place::PACKS)))? {
        let dir = root.open_dir(&directory).map_err(failed(&directory))?;
        for name in entries(&dir).map_err(failed(&directory))? {
            let name = name.map_err(failed(&directory))?;
            // What lies beside packs is theirs.
            if let Some(pack) = PackId::parse(&name)
                && visit(Found::Item(Item::Pack(pack))).is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// What is in a root.
pub(super) enum Found {
    Item(Item),
    /// Nothing of the archive's.
    Strange(PathBuf),
}

fn in_objects(
    root: &Root,
    path: &Path,
    depth: usize,
    visit: &mut dyn FnMut(Found) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, TransferError> {
    let failed = || TransferError::io("list", root.path().join(path));
    let dir = match root.open_dir(path) {
        Ok(dir) => dir,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(ControlFlow::Continue(())),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => return Ok(visit(Found::Strange(root.path().join(path)))),
        Err(e) => return Err(failed()(e)),
    };
    for name in entries(&dir).map_err(failed())? {
        let name = name.map_err(failed())?;
        let below = path.join(&name);
        let flow = if depth > 0 {
            in_objects(root, &below, depth - 1, visit)?
        } else {
            match item_of(&name, |object| sys::file::stamp_at(&dir, object).is_ok()) {
                Some(Some(item)) if item.directory() == path => visit(Found::Item(item)),
                // A manifest goes with its object.
                Some(None) => ControlFlow::Continue(()),
                _ => visit(Found::Strange(root.path().join(below))),
            }
        };
        if flow.is_break() {
            return Ok(flow);
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn item_of(name: &str, is_there: impl Fn(&str) -> bool) -> Option<Option<Item>> {
    if let Some(id) = manifest::object_of(name) {
        return Some((!is_there(id.as_str())).then_some(Item::Record(id)));
    }
    ObjectId::parse(name).ok().map(|id| Some(Item::Object(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_and_garbage_is_none() {
        let id = ObjectId::parse("abcdef.zst").unwrap();
        let pack = PackId::parse("0123456789abcdef0123").unwrap();
        for item in [Item::Object(id.clone()), Item::Record(id), Item::Pack(pack)] {
            assert_eq!(Item::parse(&item.line()), Some(item));
        }
        for garbage in ["", "object", "object ../etc", "pack 12", "what abcdef"] {
            assert_eq!(Item::parse(garbage), None, "{garbage:?}");
        }
    }
}
