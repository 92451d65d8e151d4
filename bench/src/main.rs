//! `sifaka-bench`: Sifaka beside what it is compared with, on one machine, in one run, in turns.
//!
//! `make bench` runs it. It prints what it finds, and writes RESULTS.md and results.json beside its sources (not with `--quick`).
//! Why the numbers are what they are is written by people, in `notes/`, and taken up into RESULTS.md.
//! Not here: benchmarks of single functions; the crates' examples have those.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot go on says why and ends; unwinding removes what it made"
)]

mod cases;
mod finding;
mod machine;
mod options;
mod peers;
mod process;
mod report;
mod served;
mod timing;

use clap::Parser;
use options::{Arguments, Options};
use report::Results;

fn main() {
    let arguments = Arguments::parse();
    let options = Options::from(&arguments);
    let mut results = Results::load(&machine::facts());
    for case in cases::ALL.iter().filter(|case| arguments.wants(case.name)) {
        eprintln!("== {} ==", case.name);
        let findings = (case.run)(&options);
        println!("{}", report::section(case.name, &findings));
        results.set(case.name, findings);
        if arguments.writes() {
            // After each, so that what was measured is not lost when a later one fails.
            results.write();
        }
    }
}
