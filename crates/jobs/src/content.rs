//! Contents of files, read on both sides and compared.

use crate::failure::Failure;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Bytes that are compared at a time.
const STEP: usize = 1 << 20;

/// Where two files differ first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compared {
    /// Nowhere.
    Same,
    /// From this byte on.
    DiffersAt(u64),
    /// Somebody asked to stop.
    Stopped,
}

/// Compares the contents of two files, as they are on stable storage as far as that can be had: what the page cache has of them and need not
/// keep is dropped first. `moved` is told of each step (bytes of one side), and says whether to stop.
///
/// # Errors
/// One of them cannot be read.
pub fn compare(source: &File, target: &File, mut moved: impl FnMut(u64) -> bool) -> Result<Compared, Failure> {
    for file in [source, target] {
        // Advice: a filesystem that does not take it is read as it is.
        let _ = sys::file::advise_dontneed(file, 0, 0);
        let _ = sys::file::advise_sequential(file);
    }
    // One byte more than there is: reading fewer bytes than there is room for is the end.
    let size = source.metadata().map_err(Failure::source("read attributes of"))?.len();
    let step = usize::try_from(size).map_or(STEP, |size| size.saturating_add(1).min(STEP));
    let (mut one, mut other) = (vec![0; step], vec![0; step]);
    let mut at = 0;
    loop {
        // What is a hole in both need not be read; their ends are compared all the same.
        at = next_data(source, at)
            .map_err(Failure::source("find holes in"))?
            .min(next_data(target, at).map_err(Failure::destination("find holes in"))?)
            .max(at);
        let read = fill(source, &mut one, at).map_err(Failure::source("read"))?;
        let found = fill(target, &mut other, at).map_err(Failure::destination("read"))?;
        let (read, found) = (one.get(..read).unwrap_or_default(), other.get(..found).unwrap_or_default());
        if read != found {
            let same = read.iter().zip(found).take_while(|(one, other)| one == other).count();
            return Ok(Compared::DiffersAt(at + same as u64));
        }
        let bytes = read.len();
        if moved(bytes as u64) {
            return Ok(Compared::Stopped);
        }
        if bytes < step {
            return Ok(Compared::Same);
        }
        at += bytes as u64;
    }
}

/// Whether all that is in `target` is in `source`, too, in the same places: zeros count as not written. **Files that are read here are small.**
///
/// # Errors
/// One of them cannot be read.
pub(crate) fn is_part(target: &File, source: &File) -> Result<bool, Failure> {
    let (mut one, mut other) = (vec![0; STEP], vec![0; STEP]);
    let mut at = 0;
    loop {
        let found = fill(target, &mut one, at).map_err(Failure::destination("read"))?;
        let read = fill(source, &mut other, at).map_err(Failure::source("read"))?;
        let (found, read) = (one.get(..found).unwrap_or_default(), other.get(..read).unwrap_or_default());
        if found.len() > read.len() || found.iter().zip(read).any(|(found, read)| *found != 0 && found != read) {
            return Ok(false);
        }
        if found.len() < STEP {
            return Ok(true);
        }
        at += found.len() as u64;
    }
}

/// Where there is data again, or the end of the file. A filesystem that cannot tell has data everywhere.
fn next_data(file: &File, at: u64) -> io::Result<u64> {
    match sys::file::next_data(file, at) {
        Ok(Some(data)) => Ok(data),
        Ok(None) => Ok(file.metadata()?.len()),
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(at),
        Err(error) => Err(error),
    }
}

/// Less than the buffer only at the end.
pub(crate) fn fill(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
