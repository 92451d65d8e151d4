//! No agent, or one that goes away.

use crate::agent_double::{sifaka, stderr};
use std::io::Read;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;

#[test]
fn no_socket_no_listener_no_permission_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let socket = directory.path().join("admin.sock");
    let status = || {
        let mut command = sifaka("sifaka");
        command.arg("--socket").arg(&socket).arg("status");
        command
    };
    let ended = |mut command: std::process::Command, code, part: &str| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert!(stderr(&output).contains(part) && stderr(&output).contains("admin.sock"), "{}", stderr(&output));
    };
    ended(status(), 3, "there is no such socket");
    drop(UnixListener::bind(&socket).unwrap());
    ended(status(), 3, "nobody listens there any more");
    std::fs::remove_file(&socket).unwrap();
    let _listening = UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    // The program has to be where somebody else can run it.
    let program = directory.path().join("sifaka");
    std::fs::copy(env!("CARGO_BIN_EXE_sifaka"), &program).unwrap();
    let mut stranger = std::process::Command::new(program);
    stranger.arg("--socket").arg(&socket).arg("status").uid(65534).gid(65534);
    ended(stranger, 5, "permission denied");
}

#[test]
fn an_agent_that_dies_during_a_call_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let dying = std::thread::spawn(move || {
        // Takes the request, and closes instead of answering.
        let (mut stream, _) = listener.accept().unwrap();
        stream.read(&mut [0; 4096]).unwrap()
    });
    let output = sifaka("sifaka").arg("--socket").arg(&socket).arg("actions").output().unwrap();
    assert!(dying.join().unwrap() > 0);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("it may or may not have done that"), "{}", stderr(&output));
}

#[test]
fn what_is_no_agent_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let stranger = std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = listener.accept().unwrap();
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").unwrap();
    });
    let output = sifaka("sifaka").arg("--socket").arg(&socket).arg("status").output().unwrap();
    stranger.join().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("does not speak as an agent does"), "{}", stderr(&output));
}
