//! The command line, and what the cases make of it.

use clap::Parser;
use testkit::FsKind;

use crate::cases;

/// Benchmarks of Sifaka. As root: they mount loop devices.
#[derive(Parser, Debug)]
#[command(name = "sifaka-bench")]
pub(crate) struct Arguments {
    /// Smaller and fewer: to see that everything runs. Nothing is written
    #[arg(long)]
    quick: bool,
    /// The filesystem of the files, and of the archive
    #[arg(long, default_value = "ext4", value_parser = ["ext4", "xfs", "btrfs"])]
    fs: String,
    /// Which of them (default: all)
    #[arg(value_parser = cases::names())]
    names: Vec<String>,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }

    /// RESULTS.md is about the default filesystem, at full size.
    pub(crate) fn writes(&self) -> bool {
        !self.quick && self.fs == FsKind::Ext4.name()
    }
}

/// Sizes and counts.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) fs: FsKind,
    /// Counted runs of each side; one more before them is not counted.
    pub(crate) runs: usize,
    /// The same for what takes long.
    pub(crate) long_runs: usize,
    pub(crate) quick: bool,
}

impl Options {
    /// `full`, or less when it has to be quick.
    pub(crate) fn size(&self, full: u64, quick: u64) -> u64 {
        if self.quick { quick } else { full }
    }
}

impl From<&Arguments> for Options {
    fn from(arguments: &Arguments) -> Self {
        let fs = FsKind::ALL.into_iter().find(|kind| kind.name() == arguments.fs).expect("clap knows the names");
        let (runs, long_runs) = if arguments.quick { (2, 1) } else { (5, 3) };
        Self { fs, runs, long_runs, quick: arguments.quick }
    }
}
