//! Running the system's programs: a missing one fails the test with the name of the package that has it.

use std::io::ErrorKind;
use std::process::{Command, Output};

/// Runs `command`, which package `package` provides, and returns its output, whatever its exit status.
///
/// # Panics
/// When the program is not installed or cannot be started.
#[track_caller]
pub fn output(package: &str, command: &mut Command) -> Output {
    match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let program = command.get_program().to_string_lossy();
            panic!("`{program}` is not installed: install the package `{package}`, or run scripts/install-test-deps")
        }
        Err(error) => panic!("cannot start {command:?}: {error}"),
    }
}

/// As [`output`], for programs that must succeed; returns what was written to standard output.
///
/// # Panics
/// Also when the program fails, with what it wrote.
#[track_caller]
pub fn run(package: &str, command: &mut Command) -> Vec<u8> {
    let output = output(package, command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}
