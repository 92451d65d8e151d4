//! Where a job keeps what an interrupted run of it has done.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The file for a job of this kind from `source` to `target`: the same one for the same job.
pub(crate) fn state_file(kind: &str, source: &OsStr, target: &OsStr) -> PathBuf {
    let absolute = |path: &OsStr| std::path::absolute(path).unwrap_or_else(|_| Path::new(path).to_owned());
    let name = format!("{kind} {:?} {:?}", absolute(source), absolute(target));
    let id = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, name.as_bytes()).simple().to_string();
    directory().join(format!("{kind}-{}.db", id.get(..16).unwrap_or(&id)))
}

/// As systemd and XDG have it.
fn directory() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return "/var/lib/sifaka/jobs".into();
    }
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || set("HOME").map(|home| home.join(".local/state"));
    set("XDG_STATE_HOME").or_else(home).unwrap_or_else(std::env::temp_dir).join("sifaka/jobs")
}
