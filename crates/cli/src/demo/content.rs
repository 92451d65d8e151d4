//! Comparing what was read back with the original, byte by byte.

use super::{cannot_at, wrong};
use crate::exit::CliError;
use crate::output::escaped_path;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use transfer::OpenFile;

const BUFFER_BYTES: usize = 256 << 10;

/// Whether `copy`, opened and read as any program would, holds what `original` holds. Gives the number of bytes.
pub(super) fn compare(original: &Path, copy: &Path) -> Result<u64, CliError> {
    // Without moving the original's atime.
    let expected = OpenFile::for_reading(original).map_err(|why| wrong(why.to_string()))?;
    let found = File::open(copy).map_err(cannot_at("open", copy))?;
    let (mut expected, mut found) = (expected.file(), &found);
    let mut buffers = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    let mut compared = 0;
    loop {
        let one = fill(&mut expected, &mut buffers.0).map_err(cannot_at("read", original))?;
        let other = fill(&mut found, &mut buffers.1).map_err(cannot_at("read", copy))?;
        if one != other {
            let (copy, original) = (escaped_path(copy), escaped_path(original));
            return Err(wrong(format!("{copy} differs from {original} at or after byte {compared}")));
        }
        if one.is_empty() {
            return Ok(compared);
        }
        compared += one.len() as u64;
    }
}

/// Fills the buffer as far as there is something before the end.
fn fill<'b>(from: &mut impl Read, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(buffer.get(..filled).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let content = vec![7; BUFFER_BYTES + 100];
        let original = file("original", &content);
        assert_eq!(compare(&original, &file("same", &content)).unwrap(), content.len() as u64);
        let mut last = content.clone();
        last[BUFFER_BYTES + 99] = 8;
        for (name, other) in [("last", last.as_slice()), ("short", &content[..BUFFER_BYTES]), ("none", &[])] {
            assert!(compare(&original, &file(name, other)).is_err(), "{name}");
        }
        assert!(compare(&file("empty", &[]), &original).is_err());
    }
}
