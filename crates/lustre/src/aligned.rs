//! Memory that direct access can read into.

/// What direct access wants: the page size of all machines that Lustre's clients run on is a divisor of this; no component begins or ends at another place.
pub(crate) const ALIGNMENT_BYTES: u64 = 64 << 10;
pub(crate) const ALIGNMENT: usize = ALIGNMENT_BYTES as usize;

/// Bytes, the first of which is at a multiple of the page size.
pub(crate) struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    pub(crate) fn new(len: usize) -> Self {
        let bytes = vec![0_u8; len + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        Self { bytes, start, len }
    }

    pub(crate) fn get_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..).and_then(|rest| rest.get_mut(..self.len)).unwrap_or_default()
    }

    /// The first `len` of them.
    pub(crate) fn get(&self, len: usize) -> &[u8] {
        self.bytes.get(self.start..).and_then(|rest| rest.get(..len.min(self.len))).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_aligned_and_as_long_as_asked() {
        for len in [1, 4096, 1 << 20] {
            let mut memory = Aligned::new(len);
            assert_eq!(memory.get_mut().len(), len);
            assert_eq!(memory.get_mut().as_ptr().align_offset(4096), 0);
            assert_eq!(memory.get(usize::MAX).len(), len);
        }
    }
}
