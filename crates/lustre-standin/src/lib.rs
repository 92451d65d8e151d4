//! For tests only: a `liblustreapi.so.1` over an ordinary directory, which behaves, and fails, as Lustre does.
//!
//! All processes that load it share a directory ([`Root`]); there is no daemon. Whoever calls in plays the coordinator.
//! It is a second witness: structs and numbers are its own ([`abi`]), nothing is shared with what is tested.
//!
//! How tests use it: [`Root::make`] on a directory, [`library_dir`] for the `LD_LIBRARY_PATH` of the processes they
//! start, [`control`] for knobs, faults, blocked readers and what the coordinator knows. Root is needed (attributes named
//! `trusted.…`), and a filesystem with holes and extended attributes.
//!
//! What it cannot play, because no system call of a program goes through it: a plain `open` and `read` of a released file does
//! not block, but reads zeros ([`control::read`] blocks); writes are noticed by the time of modification and the size; the
//! attribute `lustre.lov`; records of the changelog for what programs do by themselves.

#![allow(
    clippy::missing_safety_doc,
    reason = "the contract of each function is liblustreapi's: pointers are null, or valid for what their type says"
)]

pub mod abi;
mod boundary;
mod changelog;
pub mod changelog_reader;
mod completion;
pub mod control;
mod coordinator;
pub mod copyaction;
pub mod copytool;
mod file;
pub mod group;
pub mod import;
mod layout;
pub mod layout_api;
pub mod lease;
mod mirror;
pub mod mirror_api;
pub mod ost;
mod root;
mod state;
pub mod user;

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

pub use boundary::{Errno, Result};
pub use changelog::KIND_HSM;
pub use root::Root;
pub use state::{Client, Request, Status};

/// The shared object that cargo built along with the running test.
///
/// # Panics
/// When it is not there: a test cannot go on without.
#[allow(clippy::panic, reason = "it is how a test learns that a prerequisite is missing")]
pub fn shared_object() -> PathBuf {
    const NAME: &str = "liblustreapi_standin.so";
    let executable = std::env::current_exe().unwrap_or_default();
    let beside = executable.ancestors().skip(1).take(2);
    let mut candidates = beside.flat_map(|directory| [directory.join(NAME), directory.join("deps").join(NAME)]);
    candidates.find(|candidate| candidate.exists()).unwrap_or_else(|| {
        panic!(
            "{NAME} is not beside {}: it is built for tests of crates that have lustre-standin among their \
             dev-dependencies, or by `cargo build -p sifaka-lustre-standin`",
            executable.display()
        )
    })
}

/// A copy of [`shared_object`] in `into` that does not have some functions, as the library of an older Lustre: where the dynamic linker
/// looks for their names, there are others.
///
/// # Panics
/// When it cannot be made, or has no such function.
#[allow(clippy::panic, reason = "it is how a test learns that a prerequisite is missing")]
pub fn shared_object_without(functions: &[&str], into: &Path) -> PathBuf {
    let made = into.join("liblustreapi_older.so");
    let mut bytes = fs::read(shared_object()).unwrap_or_else(|why| panic!("cannot read the stand-in: {why}"));
    for function in functions {
        let name = [b"\0", function.as_bytes(), b"\0"].concat();
        let found: Vec<usize> =
            bytes.windows(name.len()).enumerate().filter(|(_, window)| *window == name).map(|(at, _)| at).collect();
        assert!(!found.is_empty(), "the stand-in has no {function}");
        for at in found {
            // The first letter, after the zero that ends the name before it.
            if let Some(letter) = bytes.get_mut(at + 1) {
                *letter = b'_';
            }
        }
    }
    fs::write(&made, bytes).unwrap_or_else(|why| panic!("cannot write {}: {why}", made.display()));
    made
}

/// Makes `into` a directory for `LD_LIBRARY_PATH`: with [`shared_object`] under the name Lustre's library has.
pub fn library_dir(into: &Path) -> io::Result<()> {
    fs::create_dir_all(into)?;
    symlink(shared_object(), into.join("liblustreapi.so.1"))
}
