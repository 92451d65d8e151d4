//! Checks of a place on Lustre: what an agent needs there. Guard, leases and handles are not among it.

use super::{Check, system};
use std::path::Path;
use sys::lustre::{Library, path2fid};

const NO_AGENT: &str = "neither an agent nor commands on files can work here";

/// `None` when the path is not on Lustre.
pub(super) fn checks(path: &Path) -> Option<Vec<Check>> {
    let found = sys::mounts::filesystem_of(path).ok()?;
    let library = Library::load();
    let has_fid = library.as_ref().is_ok_and(|library| path2fid(library, path).is_ok());
    if found.kind != "lustre" && !has_fid {
        return None;
    }
    let detail = format!("{} ({}) mounted at {}", found.kind, found.source.display(), found.mount_point.display());
    let mut checks = vec![system::privileges(), system::open_files(), Check::ok("filesystem", detail)];
    checks.push(match library {
        Ok(library) => Check::ok("client library", library.path().display().to_string()),
        Err(error) => Check::fail("client library", error.to_string(), NO_AGENT),
    });
    checks.push(match std::fs::read_dir(found.mount_point.join(".lustre/fid")) {
        Ok(_) => Check::ok("access by FID", "as root"),
        Err(error) => Check::error(
            "access by FID",
            &error,
            "movers open files by their FIDs, which only root may, and only where the whole filesystem is mounted",
        ),
    });
    checks.push(system::private_mount(path));
    Some(checks)
}
