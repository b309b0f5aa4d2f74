//! The listening socket: made, or taken over from a service manager.
//!
//! A path that a dead server left behind is used again; one where somebody
//! listens, or that is no socket, is left alone. Servers that start at the same
//! time take turns by a lock on the folder, so none removes another's socket.

use crate::ServeError;
use rustix::fs::AtFlags;
use rustix::fs::FileType;
use rustix::fs::FlockOperation;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::Stat;
use rustix::io::Errno;
use rustix::net::AddressFamily;
use rustix::net::SocketAddrUnix;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

/// Bytes of a path in a socket address: `sun_path` without its final zero.
pub const PATH_MAX: usize = 107;

/// Clients that wait to be accepted; more are kept waiting by the kernel.
const BACKLOG: i32 = 128;

/// Tries to lock the folder, and the time between them: starting takes a
/// server milliseconds.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A listening socket. Dropping it takes its path away, if it made it.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    made: Option<Made>,
}

#[derive(Debug)]
struct Made {
    path: PathBuf,
    /// Device and inode: whether what is there later is still ours.
    identity: (u64, u64),
}

impl Listener {
    /// Listens at `path` with a socket that keeps messages apart, as the Portal
    /// socket does. Accepting does not wait.
    ///
    /// # Errors
    /// [`ServeError`] when the path is too long, in use, or not this user's.
    pub fn packets(path: &Path) -> Result<Self, ServeError> {
        Self::bind(path, SocketType::SEQPACKET)
    }

    /// Listens at `path` with a socket of this type.
    pub(crate) fn bind(path: &Path, kind: SocketType) -> Result<Self, ServeError> {
        let len = path.as_os_str().as_bytes().len();
        if len > PATH_MAX {
            return Err(ServeError::PathTooLong {
                path: path.to_owned(),
                len,
                limit: PATH_MAX,
            });
        }
        let fail = |what: &'static str| {
            move |errno| ServeError::Socket {
                path: path.to_owned(),
                what,
                errno,
            }
        };
        let address = SocketAddrUnix::new(path).map_err(fail("use it as an address"))?;
        let _lock = lock_folder(path)?;
        let fd = socket(kind).map_err(fail("make a socket"))?;
        match rustix::net::bind(&fd, &address) {
            Err(Errno::ADDRINUSE) => {
                make_way(path, &address)?;
                rustix::net::bind(&fd, &address).map_err(fail("bind to it"))?;
            }
            other => other.map_err(fail("bind to it"))?,
        }
        let stat = look(path).map_err(fail("look at it"))?;
        let made = Made {
            path: path.to_owned(),
            identity: identity(&stat),
        };
        // From here on, a failure removes the path again.
        let this = Self {
            fd,
            made: Some(made),
        };
        rustix::net::listen(&this.fd, BACKLOG).map_err(fail("listen on it"))?;
        Ok(this)
    }

    /// Takes a socket that a service manager listens on. Its path stays when
    /// this is dropped.
    pub(crate) fn adopt(fd: OwnedFd, kind: SocketType) -> Result<Self, ServeError> {
        let is_ours = rustix::net::sockopt::socket_domain(&fd) == Ok(AddressFamily::UNIX)
            && rustix::net::sockopt::socket_type(&fd) == Ok(kind)
            && rustix::net::sockopt::socket_acceptconn(&fd) == Ok(true);
        if !is_ours {
            let reason = if kind == SocketType::SEQPACKET {
                "the file descriptor passed as \"portal\" is no listening Unix socket that keeps \
                 messages apart (ListenSequentialPacket= with a path)"
            } else {
                "a passed file descriptor is no listening Unix stream socket (ListenStream= with \
                 a path)"
            };
            let reason = reason.to_owned();
            return Err(ServeError::Activation { reason });
        }
        rustix::io::ioctl_fionbio(&fd, true).map_err(ServeError::os("make a socket not wait"))?;
        Ok(Self { fd, made: None })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some(made) = &self.made else {
            return;
        };
        let _lock = lock_folder(&made.path);
        if look(&made.path).is_ok_and(|stat| identity(&stat) == made.identity) {
            let _ = rustix::fs::unlink(&made.path);
        }
    }
}

fn socket(kind: SocketType) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)
}

fn look(path: &Path) -> Result<Stat, Errno> {
    rustix::fs::statat(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW)
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Removes what a dead server left at `path`.
fn make_way(path: &Path, address: &SocketAddrUnix) -> Result<(), ServeError> {
    let path = || path.to_owned();
    let fail = |what: &'static str| {
        move |errno| ServeError::Socket {
            path: path(),
            what,
            errno,
        }
    };
    let stat = look(&path()).map_err(fail("look at it"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(ServeError::NotASocket { path: path() });
    }
    let probe = socket(SocketType::STREAM).map_err(fail("make a socket"))?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => rustix::fs::unlink(path()).map_err(fail("remove it")),
        // "Again": a server whose queue is full. "Wrong type": no stream, and
        // somebody listens (who is dead refuses whatever the type).
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => {
            Err(ServeError::PathInUse { path: path() })
        }
        Err(errno) => Err(fail("connect to it, to see who listens there")(errno)),
    }
}

/// An fd of the folder of `path`, locked until it is closed.
fn lock_folder(path: &Path) -> Result<OwnedFd, ServeError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let fail = |what: &'static str| {
        move |errno| ServeError::Socket {
            path: path.to_owned(),
            what,
            errno,
        }
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(folder, flags, Mode::empty()).map_err(fail("open its folder"))?;
    for _ in 0..LOCK_TRIES {
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(fd),
            Err(Errno::AGAIN | Errno::INTR) => std::thread::sleep(LOCK_PAUSE),
            Err(errno) => return Err(fail("lock its folder")(errno)),
        }
    }
    Err(ServeError::FolderLocked {
        path: path.to_owned(),
    })
}
