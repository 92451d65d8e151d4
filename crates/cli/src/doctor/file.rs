//! Checks of what can be done with a file: attributes, handles, leases, punching holes.

use super::Check;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use sys::OFlags;
use sys::lease::WriteLease;

/// Bytes in the probe file; more than any block.
pub(super) const PROBE_BYTES: usize = 1 << 20;

/// A file for trying things; removed when dropped.
pub(super) struct ProbeFile {
    pub(super) path: PathBuf,
    file: File,
}

impl ProbeFile {
    pub(super) fn create(directory: &Path) -> io::Result<Self> {
        let path = directory.join(format!(".sifaka-doctor-{}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        let mut this = Self { path, file };
        this.file.write_all(&vec![0x5a; PROBE_BYTES])?;
        this.file.sync_all()?;
        Ok(this)
    }
}

impl Drop for ProbeFile {
    fn drop(&mut self) {
        // Nothing can be done about a failure, and the name says whose file it is.
        let _ = fs::remove_file(&self.path);
    }
}

pub(super) fn checks(probe: &mut ProbeFile) -> Vec<Check> {
    // Punching comes last: the others want a file with content, fanotify's probes do not mind.
    vec![handles(probe), attributes(probe), lease(probe), punch(probe)]
}

fn handles(probe: &ProbeFile) -> Check {
    let opened = sys::handle::name_to_handle(&probe.file).and_then(|handle| {
        let directory =
            File::open(probe.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
        let again = File::from(sys::handle::open_by_handle(&directory, &handle, OFlags::RDONLY)?);
        Ok(again.metadata()?.ino() == probe.file.metadata()?.ino())
    });
    let consequence = "files cannot be named across renames and restarts: this filesystem cannot be served";
    match opened {
        Ok(true) => Check::ok("file handles", "name and open the same file"),
        Ok(false) => Check::fail("file handles", "a handle opened another file", consequence),
        Err(error) => Check::error("file handles", &error, consequence),
    }
}

fn attributes(probe: &ProbeFile) -> Check {
    const NAME: &str = "trusted.sifaka_doctor";
    const VALUE: &[u8] = b"probe";
    let kept = sys::xattr::set(&probe.file, NAME, VALUE).and_then(|()| {
        let value = sys::xattr::get(&probe.file, NAME)?;
        sys::xattr::remove(&probe.file, NAME)?;
        Ok(value.as_deref() == Some(VALUE))
    });
    let consequence = "a file's state cannot be kept with the file: nothing can be archived here";
    match kept {
        Ok(true) => Check::ok("attributes", "trusted.* can be set and read"),
        Ok(false) => Check::fail("attributes", "trusted.* is not kept", consequence),
        Err(error) => Check::error("attributes", &error, consequence),
    }
}

/// Through a descriptor of its own: the probe's own would be somebody else who has the file open. So this one is closed, and the
/// file opened again.
fn lease(probe: &mut ProbeFile) -> Check {
    let taken = (|| {
        // A clone would be the same open file description; the old one has to go.
        probe.file = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        let alone = OpenOptions::new().read(true).write(true).open(&probe.path)?;
        let held = WriteLease::take(&alone)?.is_some_and(|lease| lease.still_held());
        probe.file = alone;
        Ok::<_, io::Error>(held)
    })();
    let consequence = "it cannot be proven that nobody uses a file: files cannot be released here";
    match taken {
        Ok(true) => Check::ok("leases", "a write lease can be taken"),
        Ok(false) => {
            Check::fail("leases", "a write lease on a file that nobody else has open was refused", consequence)
        }
        Err(error) => Check::error("leases", &error, consequence),
    }
}

fn punch(probe: &ProbeFile) -> Check {
    let freed = (|| {
        let before = probe.file.metadata()?.blocks();
        sys::file::punch_all(&probe.file, PROBE_BYTES as u64)?;
        probe.file.sync_all()?;
        let after = probe.file.metadata()?;
        Ok::<_, io::Error>((before, after.blocks(), after.len()))
    })();
    let consequence = "releasing files would free nothing here";
    match freed {
        Ok((before, after, size)) if after < before && size == PROBE_BYTES as u64 => {
            Check::ok("punching holes", format!("frees blocks ({before} before, {after} after, of 512 bytes)"))
        }
        Ok((before, after, _)) => {
            Check::fail("punching holes", format!("frees no blocks ({before} before, {after} after)"), consequence)
        }
        Err(error) => Check::error("punching holes", &error, consequence),
    }
}
