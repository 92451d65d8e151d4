//! Bytes that can be read at any place: a file, part of a file, memory.

use crate::OpenFile;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Read at any place, from any thread.
pub trait ReadAt: Sync {
    /// Fills as much of `buffer` as there is from `offset` on; fewer bytes mean that the end was reached.
    fn read_full_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl<R: ReadAt + ?Sized> ReadAt for &R {
    fn read_full_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_full_at(buffer, offset)
    }
}

impl ReadAt for File {
    fn read_full_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read_at(rest, offset.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }
}

impl ReadAt for OpenFile {
    fn read_full_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        ReadAt::read_full_at(self.file(), buffer, offset)
    }
}

impl ReadAt for [u8] {
    fn read_full_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        Ok(count)
    }
}

impl ReadAt for Vec<u8> {
    fn read_full_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.as_slice().read_full_at(buffer, offset)
    }
}

/// Part of something: what lies outside it is past its end.
#[derive(Debug, Clone, Copy)]
pub struct Window<R> {
    inner: R,
    offset: u64,
    length: u64,
}

impl<R: ReadAt> Window<R> {
    /// The `length` bytes of `inner` from `offset` on.
    pub fn new(inner: R, offset: u64, length: u64) -> Self {
        Self { inner, offset, length }
    }
}

impl<R: ReadAt> ReadAt for Window<R> {
    fn read_full_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = buffer.len().min(left);
        self.inner.read_full_at(buffer.get_mut(..count).unwrap_or_default(), self.offset.saturating_add(offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_ends_where_it_ends() {
        let bytes: Vec<u8> = (0..10).collect();
        let window = Window::new(&bytes, 3, 4);
        let mut buffer = [0xff; 6];
        assert_eq!(window.read_full_at(&mut buffer, 1).unwrap(), 3);
        assert_eq!(buffer, [4, 5, 6, 0xff, 0xff, 0xff]);
        assert_eq!(window.read_full_at(&mut buffer, 4).unwrap(), 0);
        assert_eq!(window.read_full_at(&mut buffer, u64::MAX).unwrap(), 0);
        assert_eq!(Window::new(&bytes, 8, 100).read_full_at(&mut buffer, 0).unwrap(), 2);
    }
}
