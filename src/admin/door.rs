//! The listener of the admin API. A Unix socket is a file: it is made for its owner and group only,
//! and removed at the end.

use std::fs::{self, Permissions};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::AdminListen;
use crate::http::Listener;

/// Who may connect to the socket: its owner and group.
const SOCKET_MODE: u32 = 0o660;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// A bound listener. The file of a Unix socket is removed when it is dropped.
#[derive(Debug)]
pub struct Door(Bound);

#[derive(Debug)]
enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

impl Door {
    /// Binds. A socket's file that is left over from another time is replaced.
    ///
    /// # Errors
    ///
    /// The address or path cannot be had. `AddrInUse` if somebody answers there; `AlreadyExists` if
    /// there is a file that is no socket.
    pub fn bind(listen: &AdminListen) -> io::Result<Self> {
        match listen {
            AdminListen::Tcp(address) => {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(Self(Bound::Tcp(listener)))
            }
            AdminListen::Unix(path) => {
                remove_stale(path)?;
                let (listener, file) = bind_unix(path)?;
                Ok(Self(Bound::Unix(listener, file)))
            }
        }
    }

    /// Whether a client must show a token: the file of a Unix socket is lock enough.
    pub(super) fn needs_token(&self) -> bool {
        matches!(self.0, Bound::Tcp(_))
    }

    /// The listener for the runtime that this is called in, and what to keep until the end.
    pub(super) fn open(self) -> io::Result<(Listener, Option<SocketFile>)> {
        Ok(match self.0 {
            Bound::Tcp(listener) => {
                (Listener::Tcp(tokio::net::TcpListener::from_std(listener)?), None)
            }
            Bound::Unix(listener, file) => {
                let listener = tokio::net::UnixListener::from_std(listener)?;
                (Listener::Unix(listener), Some(file))
            }
        })
    }
}

/// The file of a socket that we have made.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode: another daemon may have put its own there since.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn bind_unix(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile { path: path.to_owned(), identity: identity(path)? };
    // Whatever the umask: nobody can connect before the mode is right and the socket listens.
    fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok((socket.into(), file))
}

/// Removes the file of a socket that nobody listens on.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        let text = "there is a file, and it is not a socket";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EADDRINUSE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(path: &Path) -> io::Result<Door> {
        Door::bind(&AdminListen::Unix(path.to_owned()))
    }

    #[test]
    fn a_socket_is_for_its_owner_and_group_and_goes_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let door = unix(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o660);
        assert!(UnixStream::connect(&path).is_ok());
        drop(door);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_somebody_answers_on_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _door = unix(&path).unwrap();
        assert_eq!(unix(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn a_stale_socket_is_replaced_but_no_other_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the standard library leaves the file");
        drop(unix(&path).unwrap());
        fs::write(&path, "a file").unwrap();
        assert_eq!(unix(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
    }

    #[test]
    fn a_socket_of_another_daemon_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let old = unix(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _new = unix(&path).unwrap();
        drop(old);
        assert!(UnixStream::connect(&path).is_ok());
    }
}
