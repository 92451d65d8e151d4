//! The POSIX mover's configuration: `lhsm-plugin-posix` beside the agent's file, with Lemur's keys and `format`.

use crate::archive::{Archive, Format, MoverConfig, Place, Taken};
use crate::reader::{At, Section};
use std::path::PathBuf;

/// How the POSIX mover runs, and the archives it serves.
pub type PosixConfig = MoverConfig<Root>;
/// One `archive "name" { … }`.
pub type PosixArchive = Archive<Root>;

/// `root` (required): the absolute path of the directory that holds the archive; no two archives share one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root(pub PathBuf);

impl Place for Root {
    type Common = ();
    const FILE: &'static str = "posix mover's configuration";
    const EXAMPLE: &'static str = "write archive \"name\" { id = 1, root = \"/path\" }";
    const THREADS: u32 = 4;
    const FORMATS: &'static [(&'static str, Format)] = &[("sifaka", Format::Sifaka), ("lemur", Format::Lemur)];

    fn read_common(_: &mut Section<'_>) {}

    fn read(section: &mut Section<'_>, (): &(), name: &str, taken: &mut Taken) -> Option<Self> {
        let At { pos, value } =
            section.required_path("root", "the absolute path of the directory that holds the archive")?;
        taken.place(section, At { pos, value: value.to_string_lossy().into_owned() }, "root", name);
        Some(Self(value))
    }
}

#[cfg(test)]
mod tests;
