//! The socket's file: made with the right owner and mode before anybody can connect, removed when the agent ends.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixSocket};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 128;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another agent answers on it.
    #[error("another agent is listening on {}: stop it, or set another admin.socket in the configuration", .0.display())]
    InUse(PathBuf),
    /// Something else is there, and it is not ours to remove.
    #[error("{} is there and is no socket: move it away, or set another admin.socket in the configuration", .0.display())]
    NotASocket(PathBuf),
    /// The configured group is unknown to this system.
    #[error("there is no group {0:?}: create it, or change admin.group in the configuration")]
    NoGroup(String),
    /// A system call failed.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A listening admin socket. Dropping it removes the file, unless another one has taken its place.
#[derive(Debug)]
pub struct AdminSocket {
    pub(super) listener: UnixListener,
    /// Whether anybody whom the file's mode lets connect may use it.
    pub(super) shared: bool,
    _file: SocketFile,
}

impl AdminSocket {
    /// Listens on `path`: mode 0660 and owned by `group` if there is one, else 0600. Makes the directory. A socket file that
    /// nobody listens on is replaced. Call it inside a runtime.
    pub fn bind(path: &Path, group: Option<&str>) -> Result<Self, SocketError> {
        let gid = group.map(find_group).transpose()?;
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed("make the directory", directory))?;
        }
        refuse_if_used(path)?;
        // Made under another name, and not listening before owner and mode are right.
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(format!(".{}", std::process::id()));
        let fresh = PathBuf::from(fresh);
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &fresh)(error)),
            _ => {}
        }
        let socket = UnixSocket::new_stream().map_err(failed("make a socket for", path))?;
        socket.bind(&fresh).map_err(failed("make the socket", &fresh))?;
        let mut file = SocketFile::of(fresh.clone())?;
        if let Some(gid) = gid {
            std::os::unix::fs::chown(&fresh, None, Some(gid)).map_err(failed("change the group of", &fresh))?;
        }
        let mode = if gid.is_some() { 0o660 } else { 0o600 };
        fs::set_permissions(&fresh, fs::Permissions::from_mode(mode)).map_err(failed("change the mode of", &fresh))?;
        let listener = socket.listen(BACKLOG).map_err(failed("listen on", path))?;
        fs::rename(&fresh, path).map_err(failed("put the socket at", path))?;
        file.path = path.to_owned();
        Ok(Self { listener, shared: gid.is_some(), _file: file })
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SocketError {
    let path = path.to_owned();
    move |source| SocketError::Io { what, path, source }
}

fn find_group(name: &str) -> Result<u32, SocketError> {
    match nix::unistd::Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        _ => Err(SocketError::NoGroup(name.to_owned())),
    }
}

fn refuse_if_used(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("look at", path)(error)),
        Ok(found) if !found.file_type().is_socket() => Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("see whether anybody listens on", path)(error)),
            Ok(_) => Err(SocketError::InUse(path.to_owned())),
        },
    }
}

/// The file of a socket, by inode: another agent's socket of the same name is not ours to remove.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl SocketFile {
    fn of(path: PathBuf) -> Result<Self, SocketError> {
        let found = fs::symlink_metadata(&path).map_err(failed("look at", &path))?;
        Ok(Self { inode: (found.dev(), found.ino()), path })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the admin socket");
        }
    }
}
