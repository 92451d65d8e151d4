//! Which object a request is about: the one that its file names, or the one that the request names itself (`file_id`).
//!
//! Under Lustre's defaults anybody may ask for the restore of any file, with any data. So a request's word alone never decides what a file's
//! content becomes.

use crate::file::LustreFile;
use model::{ActionData, Failure, Identity};
use sys::lustre::Item;

const EPERM: i32 = 1;
const EINVAL: i32 = 22;
const ENODATA: i32 = 61;

/// The object of a restore.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) identity: Identity,
    /// Only the file's hash tells that it is the file's content: a restore without a hash to compare fails.
    pub(crate) needs_hash: bool,
}

/// The object to restore: the file's own, or another one of which the request says that it has the same content.
pub(crate) fn to_restore(item: &Item, own: Identity) -> Result<Wanted, Failure> {
    let named = named_in(item)?;
    if is_own(&named, &own) {
        return if names_nothing(&own) { Err(nothing(item)) } else { Ok(Wanted { identity: own, needs_hash: false }) };
    }
    if own.hash.is_none() {
        let message = format!(
            "the request names an object for {}, and the file has no hash that it could be compared with: nothing is restored",
            item.fid()
        );
        return Err(Failure::permanent(EPERM, message));
    }
    Ok(Wanted { identity: Identity { uuid: named, hash: own.hash, url: String::new() }, needs_hash: true })
}

/// The object to remove, and whether other files may name it. While the file is there, it is its own: a removal makes the coordinator take the file for
/// one that is not archived.
pub(crate) fn to_remove(item: &Item, file: Option<&LustreFile>) -> Result<(Identity, bool), Failure> {
    let named = named_in(item)?;
    let own = file.map_or_else(|| Ok(Identity::default()), LustreFile::identity)?;
    let identity = match (names_nothing(&own), is_own(&named, &own)) {
        (true, true) => return Err(nothing(item)),
        (true, false) => Identity { uuid: named, ..Identity::default() },
        (false, true) => own,
        (false, false) => {
            let message = format!(
                "{} names object {}{}, and the request another one, {named}: nothing is removed",
                item.fid(),
                own.uuid,
                own.url
            );
            return Err(Failure::permanent(EINVAL, message));
        }
    };
    let is_shared = file.map_or(Ok(false), |file| file.is_shared(&identity.uuid))?;
    Ok((identity, is_shared))
}

fn names_nothing(identity: &Identity) -> bool {
    identity.uuid.is_empty() && identity.url.is_empty()
}

fn is_own(named: &str, own: &Identity) -> bool {
    named.is_empty() || named == own.uuid || named == own.url
}

fn nothing(item: &Item) -> Failure {
    let message = format!("{} names no archived object, and the request has no file_id either", item.fid());
    Failure::permanent(ENODATA, message)
}

/// The request's `file_id`; empty for none.
fn named_in(item: &Item) -> Result<String, Failure> {
    String::from_utf8(ActionData::parse(item.data()).file_id).map_err(|_| {
        Failure::permanent(EINVAL, format!("the request for {} has a file_id that is no text", item.fid()))
    })
}
