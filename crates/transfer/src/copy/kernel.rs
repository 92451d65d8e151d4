//! Copies that the kernel makes without showing us the bytes.

use super::each::{Step, each_chunk};
use super::intake::Intake;
use crate::manifest::Shape;
use crate::{Monitor, OpenFile, TransferError};
use model::Extent;
use std::io;

/// Less than this is copied sooner than the kernel is asked.
const REFLINK_FROM_BYTES: u64 = 8 << 20;

/// Makes `target`, which is empty, share the blocks of the file, where a filesystem has both and can (btrfs, XFS). `false` where not.
///
/// What is hashed afterwards is the target: nobody changes that.
pub(crate) fn reflink(file: &OpenFile, size: u64, target: &OpenFile) -> Result<bool, TransferError> {
    if size < REFLINK_FROM_BYTES || sys::file::reflink(file.file(), target.file()).is_err() {
        return Ok(false);
    }
    let found = target.stamp()?.size;
    if found < size {
        return Err(TransferError::Changed { path: file.path().to_owned(), expected: size, found });
    }
    if found > size {
        target.file().set_len(size).map_err(target.failed("set the size of"))?;
    }
    Ok(true)
}

/// Copies the data of a file into `target`, which is empty, inside the kernel. `false` where it cannot; then nothing was copied.
pub(crate) fn copy_ranges(
    intake: &Intake<'_>,
    target: &OpenFile,
    monitor: &dyn Monitor,
) -> Result<bool, TransferError> {
    let first = intake.data(Extent { offset: 0, length: intake.size }).next();
    if let Some(Extent { offset, .. }) = first {
        match sys::file::copy_range(intake.file.file(), offset, target.file(), offset, 1) {
            Ok(_) => {}
            Err(e) if cannot(&e) => return Ok(false),
            Err(e) => return Err(intake.file.failed("copy")(e)),
        }
    }
    let shape = Shape::of(intake.size);
    each_chunk(
        shape,
        0..shape.chunks(),
        monitor,
        || (),
        |(), _, extent| {
            let mut step = Step::Skipped;
            for data in intake.data(extent) {
                copy_range(intake, data, target)?;
                step = Step::Moved;
            }
            Ok(step)
        },
    )?;
    intake.finish(target)?;
    Ok(true)
}

fn copy_range(intake: &Intake<'_>, data: Extent, target: &OpenFile) -> Result<(), TransferError> {
    let (mut at, end) = (data.offset, data.offset + data.length);
    while at < end {
        let length = usize::try_from(end - at).unwrap_or(usize::MAX);
        match sys::file::copy_range(intake.file.file(), at, target.file(), at, length) {
            Ok(0) => return Err(intake.changed(at)),
            Ok(copied) => at += copied as u64,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(intake.file.failed("copy")(e)),
        }
    }
    Ok(())
}

/// Not this pair of files, or not here.
fn cannot(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, InvalidInput, Unsupported};
    matches!(error.kind(), CrossesDevices | InvalidInput | Unsupported)
}
