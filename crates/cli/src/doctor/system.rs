//! Checks of the system as a whole: kernel, privileges, limits, the kind of filesystem.

use super::Check;
use std::fs;
use std::path::Path;

/// Pre-content events came with this version (major, minor).
const PRE_CONTENT: (u32, u32) = (6, 14);
/// The guard and movers keep an open descriptor a blocked reader and a running action.
const NOFILE_WANTED: u64 = 65_536;

const NO_RELEASE: &str = "files cannot be released here; archive, verify and restore by request work";

pub(super) fn kernel() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    match version(release) {
        Some(found) if found >= PRE_CONTENT => Check::ok("kernel", release),
        Some(_) => Check::fail("kernel", format!("{release}, and pre-content events came with 6.14"), NO_RELEASE),
        None => {
            Check::warn("kernel", format!("version {release:?} is not understood"), "the other checks tell what works")
        }
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Number in linux/capability.h, and name: nothing works without these.
const NEEDED: [(u32, &str); 6] = [
    (21, "CAP_SYS_ADMIN"),
    (2, "CAP_DAC_READ_SEARCH"),
    (1, "CAP_DAC_OVERRIDE"),
    (3, "CAP_FOWNER"),
    (28, "CAP_LEASE"),
    (5, "CAP_KILL"),
];
const CAP_SYS_PTRACE: u32 = 19;

pub(super) fn privileges() -> Check {
    const NAME: &str = "privileges";
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(effective) = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()) else {
        return Check::warn(NAME, "/proc/self/status does not tell", "the other checks tell what works");
    };
    let has = |number: u32| effective >> number & 1 == 1;
    let missing: Vec<_> = NEEDED.iter().filter(|(number, _)| !has(*number)).map(|(_, name)| *name).collect();
    if !missing.is_empty() {
        let detail = format!("missing: {}", missing.join(", "));
        Check::fail(NAME, detail, "the agent cannot run like this: run it as root")
    } else if !has(CAP_SYS_PTRACE) {
        let consequence = "an open that truncates cannot be told from others: files are restored that need not be";
        Check::warn(NAME, "missing: CAP_SYS_PTRACE", consequence)
    } else {
        Check::ok(NAME, "all that are needed")
    }
}

pub(super) fn open_files() -> Check {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let hard = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_ascii_whitespace().nth(1));
    match hard {
        Some("unlimited") => Check::ok("open files", "unlimited"),
        Some(text) => match text.parse::<u64>() {
            Ok(limit) if limit >= NOFILE_WANTED => Check::ok("open files", format!("limit {limit}")),
            _ => Check::warn(
                "open files",
                format!("hard limit {text}"),
                format!(
                    "so many readers can be blocked at once, the next ones get errors: set LimitNOFILE={NOFILE_WANTED}"
                ),
            ),
        },
        None => Check::warn("open files", "/proc/self/limits does not tell", "the limit may be too low"),
    }
}

pub(super) fn filesystem(path: &Path) -> Check {
    match sys::mounts::filesystem_of(path) {
        Ok(found) => {
            let detail =
                format!("{} ({}) mounted at {}", found.kind, found.source.display(), found.mount_point.display());
            match found.kind.as_str() {
                "ext4" | "xfs" | "btrfs" => Check::ok("filesystem", detail),
                _ => Check::fail(
                    "filesystem",
                    detail,
                    format!("pre-content events work on ext4, XFS and btrfs: {NO_RELEASE}"),
                ),
            }
        }
        Err(error) => {
            Check::fail("filesystem", format!("{}: {error}", path.display()), "name a directory that is there")
        }
    }
}

pub(super) fn private_mount(path: &Path) -> Check {
    // Detached, and gone when the descriptor closes.
    match sys::mounts::open_mount(path).and_then(sys::mounts::clone_private) {
        Ok(_) => Check::ok("private mount", "can be made"),
        Err(error) => Check::error("private mount", &error, "agent and movers cannot have mounts of their own here"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions_are_read() {
        assert_eq!(version("6.18.0-rc1-custom"), Some((6, 18)));
        assert_eq!(version("6.8.0-45-generic"), Some((6, 8)));
        assert_eq!(version("7-rc"), None);
        assert_eq!(version(""), None);
    }
}
