//! Extended attributes, for tests of crates that set none themselves.

use std::fs::File;
use std::path::Path;

/// Sets an attribute of a file.
///
/// # Panics
/// When it cannot be set.
#[track_caller]
pub fn set_attribute(path: &Path, name: &str, value: &[u8]) {
    let file = File::open(path).unwrap_or_else(|e| panic!("cannot open {}: {e}", path.display()));
    sys::xattr::set(file, name, value).unwrap_or_else(|e| panic!("cannot set {name} of {}: {e}", path.display()));
}
