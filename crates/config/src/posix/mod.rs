//! The POSIX mover's configuration: `lhsm-plugin-posix` beside the agent's file, with Lemur's keys and `format`.

use crate::archive::{Format, MoverConfig, Place, Taken};
use crate::reader::{At, Section};
use std::path::PathBuf;

/// How the POSIX mover runs, and the archives it serves.
pub type PosixConfig = MoverConfig<Roots>;

/// `root` (required): the absolute path of the directory that holds the archive, or a list of the directories that hold it together, at least one; no two
/// archives share one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots(pub Vec<PathBuf>);

impl Place for Roots {
    type Common = ();
    const FILE: &'static str = "posix mover's configuration";
    const EXAMPLE: &'static str = "write archive \"name\" { id = 1, root = \"/path\" }";
    const THREADS: u32 = 4;
    const FORMATS: &'static [(&'static str, Format)] = &[("sifaka", Format::Sifaka), ("lemur", Format::Lemur)];

    fn read_common(_: &mut Section<'_>) {}

    fn read(section: &mut Section<'_>, (): &(), name: &str, taken: &mut Taken) -> Option<Self> {
        let hint = "the absolute path of the directory that holds the archive, or a list of several";
        let roots = section.required_paths("root", hint)?;
        for At { pos, value } in &roots {
            taken.place(section, At { pos: *pos, value: value.to_string_lossy().into_owned() }, "root", name);
        }
        Some(Self(roots.into_iter().map(|root| root.value).collect()))
    }
}

#[cfg(test)]
mod tests;
