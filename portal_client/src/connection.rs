//! A connection to a switchboard: requests and their answers.

use crate::ClientError;
use crate::JoinOptions;
use crate::Peer;
use hv_shmem::backing::Backing;
use hv_shmem::backing::SharedPart;
use hv_shmem::doorbell::EventFd;
use hv_shmem::name::Name;
use portal_protocol::MESSAGE_MAX;
use portal_protocol::RegionInfo;
use portal_protocol::Reply;
use portal_protocol::Request;
use portal_protocol::VERSION;
use portal_protocol::message::TREE_MAX;
use portal_protocol::packet;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::net::AddressFamily;
use rustix::net::RecvFlags;
use rustix::net::SendFlags;
use rustix::net::SocketAddrUnix;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

/// How long a switchboard may take to answer. It answers in microseconds; a host
/// that swaps, or one under test with every core busy, gets this long.
const ANSWER: Duration = Duration::from_secs(10);

/// Most bytes of an inspect tree: 64 regions of 1024 peers are below this.
const WHOLE_TREE_MAX: usize = 64 << 20;

/// Most regions of a list; a switchboard serves 64.
const REGIONS_MAX: usize = 4096;

/// A connection that is no peer (yet).
#[derive(Debug)]
pub struct Connection {
    pub(crate) link: Link,
    pub(crate) path: PathBuf,
}

impl Connection {
    /// Connects to the Portal socket at `path`.
    ///
    /// # Errors
    /// [`ClientError::Connect`]; [`ClientError::Refused`] when the two have no
    /// protocol version in common.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        let path = path.as_ref().to_owned();
        let mut link = Link::open(&path)?;
        link.ask(&hello(), &[])?;
        match link.answer()? {
            (Reply::Welcome { version }, _) if version == VERSION => Ok(Self { link, path }),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// The regions that are served.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn regions(&mut self) -> Result<Vec<RegionInfo>, ClientError> {
        self.link.ask(&Request::List, &[])?;
        let mut regions = Vec::new();
        loop {
            match self.link.answer()? {
                (Reply::Region(region), _) if regions.len() < REGIONS_MAX => regions.push(region),
                (Reply::EndOfList, _) => return Ok(regions),
                (other, _) => return Err(unexpected(&other)),
            }
        }
    }

    /// The switchboard's inspect tree, as JSON.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn inspect(&mut self) -> Result<String, ClientError> {
        self.link.ask(&Request::Inspect, &[])?;
        let mut tree = Vec::new();
        loop {
            match self.link.answer()? {
                // Every piece but the last is full: nobody can go on for ever.
                (Reply::Tree { last, text }, _)
                    if tree.len() + text.len() <= WHOLE_TREE_MAX
                        && (last || text.len() == TREE_MAX) =>
                {
                    tree.extend(text);
                    if last {
                        return Ok(String::from_utf8_lossy(&tree).into_owned());
                    }
                }
                (other, _) => return Err(unexpected(&other)),
            }
        }
    }

    /// The memory of a region, for reading only. The connection is no peer of it
    /// and takes no id.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn watch(&mut self, region: &Name) -> Result<Backing, ClientError> {
        self.link.ask(&Request::Watch { region: *region }, &[])?;
        let pieces = match self.link.answer()? {
            (Reply::Watching { pieces, .. }, _) => pieces,
            (other, _) => return Err(unexpected(&other)),
        };
        Ok(Backing::from_shared(self.link.memory(pieces)?)?)
    }

    /// Becomes a peer of a region.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the switchboard's reason; it names the thing,
    /// the value and the limit.
    pub fn join(self, options: &JoinOptions) -> Result<Peer, ClientError> {
        Peer::join(self, options)
    }
}

pub(crate) fn hello() -> Request {
    Request::Hello {
        oldest: VERSION,
        newest: VERSION,
    }
}

pub(crate) fn unexpected(reply: &Reply) -> ClientError {
    ClientError::Unexpected(format!("{reply:?}"))
}

/// What came: a message, or nothing within the time.
pub(crate) type Heard = Option<(Reply, Vec<OwnedFd>)>;

/// The socket.
#[derive(Debug)]
pub(crate) struct Link {
    socket: OwnedFd,
}

impl Link {
    pub(crate) fn open(path: &Path) -> Result<Self, ClientError> {
        let fail = |errno| ClientError::Connect {
            path: path.to_owned(),
            errno,
        };
        let flags = SocketFlags::CLOEXEC;
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let socket = rustix::net::socket_with(family, kind, flags, None).map_err(fail)?;
        let address = SocketAddrUnix::new(path).map_err(fail)?;
        rustix::net::connect(&socket, &address).map_err(fail)?;
        Ok(Self { socket })
    }

    pub(crate) fn ask(
        &mut self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ClientError> {
        let sent = packet::send(
            self.socket.as_fd(),
            &request.encode(),
            fds,
            SendFlags::DONTWAIT,
        );
        match sent {
            Ok(()) => Ok(()),
            // One request at a time: there is always room at a switchboard that
            // lives.
            Err(Errno::AGAIN) => Err(ClientError::Lost),
            // It hung up, perhaps with a reason that has not been read yet.
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => {
                Err(self.answer().err().unwrap_or(ClientError::Lost))
            }
            Err(errno) => Err(ClientError::Os {
                what: "send to the switchboard",
                errno,
            }),
        }
    }

    /// So many pieces of a region's memory.
    pub(crate) fn memory(&mut self, pieces: u16) -> Result<Vec<SharedPart>, ClientError> {
        let mut parts = Vec::new();
        while parts.len() < usize::from(pieces) {
            match self.answer()? {
                (Reply::Memory(pieces), fds) if !pieces.is_empty() => {
                    let part = |((part, writable), fd)| SharedPart { part, writable, fd };
                    parts.extend(pieces.into_iter().zip(fds).map(part));
                }
                (other, _) => return Err(unexpected(&other)),
            }
        }
        Ok(parts)
    }

    /// The next message, within the time that an answer may take.
    pub(crate) fn answer(&mut self) -> Result<(Reply, Vec<OwnedFd>), ClientError> {
        match self.hear(Some(ANSWER))? {
            Some((Reply::Refused(refusal), _)) => Err(refusal.into()),
            Some(heard) => Ok(heard),
            None => Err(ClientError::TooSlow { limit: ANSWER }),
        }
    }

    /// The next message; `None` when the time is up.
    pub(crate) fn hear(&mut self, timeout: Option<Duration>) -> Result<Heard, ClientError> {
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        let mut buffer = [0; MESSAGE_MAX + 1];
        loop {
            match packet::receive(self.socket.as_fd(), &mut buffer, RecvFlags::DONTWAIT) {
                Ok(packet::Received { len: 0, .. }) => return Err(ClientError::Lost),
                Ok(received) if received.fds_missing => return Err(ClientError::FilesMissing),
                Ok(received) => {
                    let message = buffer.get(..received.len).unwrap_or_default();
                    let reply = Reply::decode(message, received.fds.len())?;
                    return Ok(Some((reply, received.fds)));
                }
                Err(Errno::AGAIN) => {
                    let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
                    if !self.wait(left)? && left.is_some_and(|left| left.is_zero()) {
                        return Ok(None);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Err(ClientError::Lost),
                Err(errno) => return Err(ClientError::os("read from the switchboard")(errno)),
            }
        }
    }

    /// Waits until there is something to read.
    fn wait(&self, timeout: Option<Duration>) -> Result<bool, ClientError> {
        let timeout = timeout.map(|t| Timespec {
            tv_sec: t.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: t.subsec_nanos().into(),
        });
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(true),
            Err(errno) => Err(ClientError::os("wait for the switchboard")(errno)),
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

pub(crate) fn events(fds: Vec<OwnedFd>) -> Vec<std::sync::Arc<EventFd>> {
    let event = |fd| std::sync::Arc::new(EventFd::from(fd));
    fds.into_iter().map(event).collect()
}
