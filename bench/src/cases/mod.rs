//! The benchmarks.

mod buckets;
mod dispatch;
mod durable;
mod files;
mod import;
mod load;
mod memory;
mod migrate;
mod noop_agent;
mod packs;
mod ranges;
mod resident;

use crate::finding::Finding;
use crate::options::Options;

/// One of them.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// How it is measured.
    pub(crate) about: &'static str,
    pub(crate) run: fn(&Options) -> Vec<Finding>,
}

/// All, in the order in which they run.
pub(crate) const ALL: &[Case] = &[
    Case { name: "dispatch", about: dispatch::ABOUT, run: dispatch::run },
    Case { name: "durable", about: durable::ABOUT, run: durable::run },
    Case { name: "small", about: files::ABOUT_SMALL, run: files::small },
    Case { name: "large", about: files::ABOUT_LARGE, run: files::large },
    Case { name: "packs", about: packs::ABOUT, run: packs::run },
    Case { name: "ranges", about: ranges::ABOUT, run: ranges::run },
    Case { name: "bucket-small", about: buckets::ABOUT_SMALL, run: buckets::small },
    Case { name: "bucket-large", about: buckets::ABOUT_LARGE, run: buckets::large },
    Case { name: "bucket-import", about: import::ABOUT, run: import::run },
    Case { name: "migrate-small", about: migrate::ABOUT_SMALL, run: migrate::small },
    Case { name: "migrate-large", about: migrate::ABOUT_LARGE, run: migrate::large },
    Case { name: "migrate-mixed", about: migrate::ABOUT_MIXED, run: migrate::mixed },
    Case { name: "migrate-again", about: migrate::ABOUT_AGAIN, run: migrate::again },
    Case { name: "resident", about: resident::ABOUT, run: resident::run },
    Case { name: "memory", about: memory::ABOUT, run: memory::run },
];

/// Their names, for the command line.
pub(crate) fn names() -> Vec<&'static str> {
    ALL.iter().map(|case| case.name).collect()
}
