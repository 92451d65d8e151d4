//! Local sockets that keep message boundaries and carry descriptors (`AF_UNIX`, `SOCK_SEQPACKET`).
//!
//! All sockets are close-on-exec and non-blocking: a call that would wait fails with `WouldBlock`.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::Mode;

/// The most descriptors one message can carry here.
pub const MAX_FDS: usize = 16;

const SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_FDS));

/// Connections that may wait for [`accept`].
const BACKLOG: i32 = 128;

/// Two connected sockets.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, socket_flags(), None)?)
}

/// Sends one message, whole or not at all, with duplicates of `fds`.
///
/// `EINVAL` for an empty message (the other end could not tell it from the end) and for more than [`MAX_FDS`] descriptors;
/// `EMSGSIZE` when it is larger than the socket's buffer; `EPIPE`, never a signal, when the other end is closed.
pub fn send(socket: impl AsFd, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fits = fds.is_empty() || (fds.len() <= MAX_FDS && control.push(SendAncillaryMessage::ScmRights(fds)));
    if message.is_empty() || !fits {
        return Err(Errno::INVAL.into());
    }
    let parts = [IoSlice::new(message)];
    rustix::io::retry_on_intr(|| rustix::net::sendmsg(socket.as_fd(), &parts, &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives one message into `buffer`: its length, and the descriptors that came with it (close-on-exec). `None` at the end.
///
/// `EMSGSIZE` when `buffer` was too small or not all descriptors could be taken (`EMFILE` shows so too): the message is lost and
/// what came of the descriptors is closed.
pub fn recv(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(buffer)];
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket.as_fd(), &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(Errno::MSGSIZE.into());
    }
    Ok((received.bytes > 0).then_some((received.bytes, fds)))
}

/// Listens at `path`, with exactly the permissions `mode`. A socket that a dead process left there is replaced.
///
/// `EADDRINUSE` when somebody listens there, or something that is no socket has the name; `ENAMETOOLONG` past 107 bytes.
pub fn listen(path: impl AsRef<Path>, mode: Mode) -> io::Result<OwnedFd> {
    let path = path.as_ref();
    remove_stale(path)?;
    let address = SocketAddrUnix::new(path)?;
    let socket = new_socket()?;
    rustix::net::bind(&socket, &address)?;
    // Nobody can connect before listen: between bind and here the permissions do not matter.
    rustix::fs::chmod(path, mode)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// The next connection; `None` when none waits.
pub fn accept(listener: impl AsFd) -> io::Result<Option<OwnedFd>> {
    match rustix::io::retry_on_intr(|| rustix::net::accept_with(listener.as_fd(), socket_flags())) {
        Ok(socket) => Ok(Some(socket)),
        Err(Errno::AGAIN | Errno::CONNABORTED) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Connects to the listener at `path`. `ECONNREFUSED` when nobody listens, `WouldBlock` when too many wait already.
pub fn connect(path: impl AsRef<Path>) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path.as_ref())?;
    let socket = new_socket()?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return Err(Errno::ADDRINUSE.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    match connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Err(Errno::ADDRINUSE.into()),
    }
}

fn new_socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, socket_flags(), None)?)
}

fn socket_flags() -> SocketFlags {
    SocketFlags::CLOEXEC | SocketFlags::NONBLOCK
}
