//! The control socket of a process that is looked at and is no switchboard: a VMM.
//!
//! Specification: the Portal protocol ([`portal_protocol`]) as far as looking
//! goes: hello, list, inspect, watch. Everything else is refused: nobody joins a
//! VMM's own regions from outside.
//!
//! Distrusted: whoever connects (who may is decided by the path's permissions).
//! [`CLIENTS`] are served at once, and those beyond are closed; a client that is
//! silent or does not read for [`PATIENCE`] is closed too. Each has a thread, and
//! none of these holds a lock of the VMM for longer than a look takes.

use crate::sample::Sample;
use crate::source::Source;
use crate::source::SourceError;
use crate::source::WatchedRegion;
use hv_shmem::backing::Backing;
use hv_shmem::backing::View;
use hv_shmem::name::Name;
use portal_device::inspect::Node;
use portal_protocol::FDS_MAX;
use portal_protocol::MESSAGE_MAX;
use portal_protocol::Refusal;
use portal_protocol::RefusalCode;
use portal_protocol::RegionInfo;
use portal_protocol::Reply;
use portal_protocol::Request;
use portal_protocol::VERSION;
use portal_protocol::message::TREE_MAX;
use portal_protocol::packet;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::net::SendFlags;
use rustix::net::SocketFlags;
use rustix::net::sockopt;
use rustix::net::sockopt::Timeout;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use uuid::Uuid;

/// Clients that are served at once.
pub const CLIENTS: usize = 16;
/// How long a client may be silent, or leave an answer unread.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Pause after an accept that failed for want of something.
const RETRY: Duration = Duration::from_millis(100);

/// A region of the process.
#[derive(Clone, Debug)]
pub struct ObservedRegion {
    /// What the list says of it.
    pub info: RegionInfo,
    /// Its memory; watchers get it for reading only.
    pub backing: Arc<Backing>,
}

/// A process that is looked at. Called from other threads.
pub trait Observed: Send + Sync {
    /// Its tree.
    fn tree(&self) -> Node;

    /// Its regions.
    fn regions(&self) -> Vec<ObservedRegion>;
}

/// This process as a source, for its own metrics.
pub struct OwnSource {
    observed: Arc<dyn Observed>,
    watched: BTreeMap<Uuid, WatchedRegion>,
    began: Instant,
}

impl OwnSource {
    /// Looks at nothing yet.
    pub fn new(observed: Arc<dyn Observed>) -> Self {
        Self {
            observed,
            watched: BTreeMap::new(),
            began: Instant::now(),
        }
    }

    /// Maps regions that are new and lets go of those that are not there any
    /// more.
    fn keep_up(&mut self) -> Vec<String> {
        let regions = self.observed.regions();
        let there = |uuid: &Uuid| regions.iter().any(|r| r.info.uuid == *uuid);
        self.watched.retain(|uuid, _| there(uuid));
        let mut problems = Vec::new();
        for region in &regions {
            if self.watched.contains_key(&region.info.uuid) {
                continue;
            }
            let shared = region.backing.share(View::OBSERVER);
            let watched = shared
                .and_then(Backing::from_shared)
                .map_err(SourceError::from)
                .and_then(|backing| WatchedRegion::new(backing, region.info.name.as_str()));
            match watched {
                Ok(watched) => {
                    self.watched.insert(region.info.uuid, watched);
                }
                Err(error) => problems.push(format!("region {}: {error}", region.info.name)),
            }
        }
        problems
    }
}

impl Source for OwnSource {
    fn title(&self) -> String {
        "this process".to_owned()
    }

    fn sample(&mut self) -> Result<Sample, SourceError> {
        let mut sample = Sample {
            problems: self.keep_up(),
            at: self.began.elapsed(),
            ..Sample::default()
        };
        for region in self.watched.values() {
            match region.glance() {
                Ok(view) => sample.regions.push(view),
                Err(error) => sample.problems.push(error.to_string()),
            }
        }
        sample.learn(&self.observed.tree());
        Ok(sample)
    }

    fn tree(&mut self) -> Result<Node, SourceError> {
        Ok(self.observed.tree())
    }
}

/// Serves a listening socket (of the type that keeps messages apart) from now on,
/// on a thread of its own, until the process ends.
///
/// # Errors
/// When there is no thread.
pub fn serve(listener: OwnedFd, observed: Arc<dyn Observed>) -> io::Result<()> {
    let open = Arc::new(AtomicUsize::new(0));
    let accept = move || {
        loop {
            match rustix::net::accept_with(&listener, SocketFlags::CLOEXEC) {
                Ok(socket) => admit(socket, &observed, &open),
                Err(Errno::AGAIN) => {
                    let mut fds = [PollFd::new(&listener, PollFlags::IN)];
                    // An error here is one of the next accept.
                    let _ = rustix::event::poll(&mut fds, None);
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => std::thread::sleep(RETRY),
            }
        }
    };
    let name = "control".to_owned();
    std::thread::Builder::new().name(name).spawn(accept)?;
    Ok(())
}

fn admit(socket: OwnedFd, observed: &Arc<dyn Observed>, open: &Arc<AtomicUsize>) {
    if open.fetch_add(1, Ordering::Relaxed) >= CLIENTS {
        open.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    let place = Place(Arc::clone(open));
    let observed = Arc::clone(observed);
    let work = move || {
        let _place = place;
        // However it ends, it is closed.
        let _ = converse(&socket, &*observed);
    };
    let name = "control-client".to_owned();
    // Without a thread, the connection is closed and its place free again.
    let _ = std::thread::Builder::new().name(name).spawn(work);
}

struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn converse(socket: &OwnedFd, observed: &dyn Observed) -> Result<(), Errno> {
    for timeout in [Timeout::Recv, Timeout::Send] {
        sockopt::set_socket_timeout(socket, timeout, Some(PATIENCE))?;
    }
    let mut greeted = false;
    let mut buffer = [0; MESSAGE_MAX + 1];
    loop {
        let received = packet::receive(socket.as_fd(), &mut buffer, RecvFlags::empty())?;
        let message = buffer.get(..received.len).unwrap_or_default();
        let decoded = Request::decode(message, received.fds.len());
        let Ok(request) = decoded else {
            // Its end, or no message.
            return Ok(());
        };
        match request {
            Request::Hello { oldest, newest } if !greeted => {
                greeted = (oldest..=newest).contains(&VERSION);
                if !greeted {
                    let text = format!(
                        "the client speaks protocol versions {oldest} to {newest}, this VMM \
                         speaks {VERSION}"
                    );
                    return refuse(socket, RefusalCode::Version, text);
                }
                send(socket, &Reply::Welcome { version: VERSION })?;
            }
            _ if !greeted => return Ok(()),
            request => answer(socket, observed, &request)?,
        }
    }
}

fn answer(socket: &OwnedFd, observed: &dyn Observed, request: &Request) -> Result<(), Errno> {
    match request {
        Request::List => {
            for region in observed.regions() {
                send(socket, &Reply::Region(region.info))?;
            }
            send(socket, &Reply::EndOfList)
        }
        Request::Inspect => {
            // A tree of numbers and names always has a text.
            let tree = serde_json::to_string(&observed.tree()).unwrap_or_default();
            let pieces = tree.as_bytes().chunks(TREE_MAX);
            let count = pieces.len();
            for (index, piece) in pieces.enumerate() {
                let last = index + 1 == count;
                let text = piece.to_vec();
                send(socket, &Reply::Tree { last, text })?;
            }
            Ok(())
        }
        Request::Watch { region } => watch(socket, observed, region),
        _ => refuse(
            socket,
            RefusalCode::Step,
            "this is a VMM's control socket, on which one can only look; regions to join are \
             served by portal serve"
                .to_owned(),
        ),
    }
}

fn watch(socket: &OwnedFd, observed: &dyn Observed, name: &Name) -> Result<(), Errno> {
    let regions = observed.regions();
    let Some(region) = regions.iter().find(|r| r.info.name == *name) else {
        let known: Vec<_> = regions.iter().map(|r| r.info.name.to_string()).collect();
        let text = format!("there is no region {name}; there are: {}", known.join(", "));
        return refuse(socket, RefusalCode::NoSuchRegion, text);
    };
    let pieces: Vec<_> = region.backing.held().collect();
    let uuid = region.info.uuid;
    // A region has at most 1026 pieces.
    let count = u16::try_from(pieces.len()).unwrap_or(u16::MAX);
    send(
        socket,
        &Reply::Watching {
            uuid,
            pieces: count,
        },
    )?;
    for pieces in pieces.chunks(FDS_MAX) {
        let mut opened = Vec::new();
        for piece in pieces {
            // Without descriptors, the client is closed.
            let fd = region.backing.share_piece(*piece, false);
            opened.push(fd.map_err(|_| Errno::MFILE)?);
        }
        let reply = Reply::Memory(pieces.iter().map(|piece| (*piece, false)).collect());
        let fds: Vec<_> = opened.iter().map(|fd| fd.as_fd()).collect();
        packet::send(socket.as_fd(), &reply.encode(), &fds, SendFlags::empty())?;
    }
    Ok(())
}

fn send(socket: &OwnedFd, reply: &Reply) -> Result<(), Errno> {
    packet::send(socket.as_fd(), &reply.encode(), &[], SendFlags::empty())
}

fn refuse(socket: &OwnedFd, code: RefusalCode, text: String) -> Result<(), Errno> {
    send(socket, &Reply::Refused(Refusal::new(code, text)))
}
