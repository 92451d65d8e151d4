//! Content on its way between files and programs, hashed as it goes by.

use model::limits::CHUNK_SIZE_BYTES;
use model::{Digest, Extent};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use sys::file::FileStamp;
use transfer::{DigestKind, Digester, OpenFile, TransferError};

/// What a restored file must be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    pub(super) size: Option<u64>,
    pub(super) digest: Option<Digest>,
}

/// A file being read for a program's standard input: what is hashed is what the program is given.
pub(super) struct Feed<'a> {
    file: &'a OpenFile,
    size: u64,
    position: u64,
    digester: Digester,
}

impl<'a> Feed<'a> {
    pub(super) fn new(file: &'a OpenFile, size: u64) -> Self {
        Self { file, size, position: 0, digester: Digester::new(DigestKind::Blake3) }
    }

    /// The next chunk; none at the end.
    pub(super) fn next(&mut self, buffer: &mut Vec<u8>) -> Result<Extent, TransferError> {
        let chunk = (self.size - self.position).min(CHUNK_SIZE_BYTES as u64);
        buffer.resize(usize::try_from(chunk).unwrap_or(CHUNK_SIZE_BYTES), 0);
        let read = self.file.file().read_exact_at(buffer, self.position);
        read.map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => changed(self.file, self.size),
            _ => TransferError::io("read", self.file.path())(error),
        })?;
        self.digester.update(buffer);
        let extent = Extent { offset: self.position, length: chunk };
        self.position += chunk;
        Ok(extent)
    }

    pub(super) fn finish(self) -> Digest {
        self.digester.finish()
    }
}

/// A restored file being written, front to back.
pub(super) struct Receive<'a> {
    /// `None`: it is only compared.
    target: Option<&'a OpenFile>,
    object: &'a str,
    expected: Expected,
    written: u64,
    digester: Digester,
}

impl<'a> Receive<'a> {
    pub(super) fn new(target: Option<&'a OpenFile>, object: &'a str, expected: Expected) -> Self {
        let kind = expected.digest.as_ref().map_or(DigestKind::Blake3, DigestKind::of);
        Self { target, object, expected, written: 0, digester: Digester::new(kind) }
    }

    /// Writes the next bytes. More than the file had are refused, and none of them written.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Extent, TransferError> {
        let length = bytes.len() as u64;
        if let Some(size) = self.expected.size
            && self.written.saturating_add(length) > size
        {
            return Err(self.damaged(format!("more than the {size} bytes came that were archived")));
        }
        self.digester.update(bytes);
        if let Some(target) = self.target {
            self.write(target, bytes).map_err(TransferError::io("write to", target.path()))?;
        }
        let extent = Extent { offset: self.written, length };
        self.written += length;
        Ok(extent)
    }

    /// Zeros stay holes, or become some, where the filesystem has any.
    fn write(&self, target: &OpenFile, bytes: &[u8]) -> io::Result<()> {
        let are_zeros = bytes.iter().all(|byte| *byte == 0);
        if are_zeros && sys::file::punch(target.file(), self.written, bytes.len() as u64).is_ok() {
            return Ok(());
        }
        target.file().write_all_at(bytes, self.written)
    }

    /// After the last byte.
    ///
    /// # Errors
    /// It is not what was archived.
    pub(super) fn finish(self) -> Result<Digest, TransferError> {
        if let Some(size) = self.expected.size
            && self.written != size
        {
            return Err(self.damaged(format!("{} bytes came, {size} were archived", self.written)));
        }
        if let Some(target) = self.target
            && target.stamp()?.size != self.written
        {
            target.file().set_len(self.written).map_err(TransferError::io("set the size of", target.path()))?;
        }
        let found = self.digester.finish();
        match self.expected.digest {
            Some(expected) if expected != found => {
                Err(TransferError::Mismatch { path: self.object.into(), expected, found })
            }
            _ => Ok(found),
        }
    }

    fn damaged(&self, why: String) -> TransferError {
        TransferError::Damaged { path: self.object.into(), why }
    }
}

/// Copies what a command wrote into the file itself.
pub(super) fn place(
    staged: &OpenFile,
    mut receive: Receive<'_>,
    moved: &dyn Fn(Extent) -> Result<(), TransferError>,
) -> Result<Digest, TransferError> {
    let size = staged.stamp()?.size;
    if let Some(expected) = receive.expected.size
        && expected != size
    {
        return Err(receive.damaged(format!("{size} bytes came, {expected} were archived")));
    }
    let (mut buffer, mut position) = (vec![0; CHUNK_SIZE_BYTES], 0);
    loop {
        let read = match staged.file().read_at(&mut buffer, position) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other.map_err(TransferError::io("read", staged.path()))?,
        };
        if read == 0 {
            return receive.finish();
        }
        position += read as u64;
        moved(receive.take(buffer.get(..read).unwrap_or_default())?)?;
    }
}

/// That a file is not what it was when a command began with it.
pub(super) fn changed(file: &OpenFile, expected: u64) -> TransferError {
    let found = file.stamp().map_or(0, |stamp| stamp.size);
    TransferError::Changed { path: file.path().to_owned(), expected, found }
}

/// Whether nothing was written between the two looks. Reading may move atime.
pub(super) fn is_same(before: &FileStamp, after: &FileStamp) -> bool {
    (before.size, before.mtime, before.ctime) == (after.size, after.mtime, after.ctime)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn file(scratch: &testkit::Scratch, name: &str, content: &[u8]) -> OpenFile {
        std::fs::write(scratch.join(name), content).unwrap();
        OpenFile::for_writing(scratch.join(name)).unwrap()
    }

    #[test]
    fn what_comes_is_compared_with_what_was_archived() {
        let scratch = testkit::Scratch::new("receive");
        let digest = Digester::of(DigestKind::Blake3, b"content");
        let receive = |size, bytes: &[&[u8]]| {
            let target = file(&scratch, "t", b"xxxxxxx and more");
            let mut receive = Receive::new(Some(&target), "id", Expected { size, digest: Some(digest) });
            bytes.iter().try_for_each(|bytes| receive.take(bytes).map(|_| ()))?;
            receive.finish()
        };
        assert_eq!(receive(Some(7), &[b"con", b"tent"]).unwrap(), digest);
        assert_eq!(std::fs::read(scratch.join("t")).unwrap(), b"content");
        assert!(receive(None, &[b"content"]).is_ok());
        for (bytes, why) in [
            ([b"con".as_slice(), b"tenT"], "hash"),
            ([b"con", b"ten"], "6 bytes came, 7 were archived"),
            ([b"content", b"s"], "more than the 7 bytes"),
        ] {
            let error = receive(Some(7), &bytes).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn zeros_are_holes() {
        let scratch = testkit::Scratch::new("receive");
        let target = file(&scratch, "t", &vec![7; 1 << 20]);
        let zeros = vec![0; 1 << 20];
        let digest = Some(Digester::of(DigestKind::Blake3, &zeros));
        let mut receive = Receive::new(Some(&target), "id", Expected { size: Some(1 << 20), digest });
        receive.take(&zeros).unwrap();
        receive.finish().unwrap();
        assert!(std::fs::read(scratch.join("t")).unwrap() == zeros);
        assert!(std::fs::metadata(scratch.join("t")).unwrap().blocks() < 2048);
    }
}
