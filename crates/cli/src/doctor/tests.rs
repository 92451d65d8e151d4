//! On the filesystem of the build directory, whatever it is: what must hold anywhere.

use super::*;

#[test]
fn the_probe_file_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let checks = check(directory.path());
    assert!(checks.iter().any(|check| check.name == "filesystem"));
    assert!(checks.iter().any(|check| check.name == "pre-content events"), "{checks:?}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    for check in &checks {
        assert_eq!(check.state == State::Ok, check.consequence.is_empty(), "{check:?}");
    }
}

#[test]
fn tmpfs_cannot_release() {
    let checks = check(Path::new("/dev/shm"));
    let state = |name: &str| checks.iter().find(|check| check.name == name).map(|check| check.state);
    assert_eq!(state("filesystem"), Some(State::Fail));
    assert_eq!(state("pre-content events"), Some(State::Fail));
}

#[test]
fn a_directory_that_is_not_there_is_told() {
    let checks = check(Path::new("/nonexistent/sifaka"));
    let last = checks.last().unwrap();
    assert_eq!((last.name, last.state), ("probe file", State::Fail));
}
