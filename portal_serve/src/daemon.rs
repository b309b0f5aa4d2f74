//! The daemon: one thread, one epoll, all sockets non-blocking.
//!
//! Every step is bounded: clients accepted in a row, messages taken from or sent to
//! one client in a row, events taken at once. What remains is done in the next round.

use crate::Notice;
use crate::Options;
use crate::PortalSocket;
use crate::RegionConfig;
use crate::ServeError;
use crate::activation;
use crate::guard::Guard;
use crate::notice::Budget;
use crate::prepare::assign;
use crate::prepare::make_folder;
use crate::prepare::make_room;
use crate::region::Memory;
use crate::socket::Listener;
use crate::state::Folder;
use crate::state::Records;
use crate::store;
use hv_shmem::backing::MappedMem;
use hv_shmem::doorbell::EventFd;
use hv_shmem::name::Name;
use portal_device::guard::stands;
use portal_ivshmem_server::ClientId as QemuId;
use portal_protocol::server::ClientId as PortalId;
use portal_switchboard::PeerKey;
use portal_switchboard::Switchboard;
use rustix::event::EventfdFlags;
use rustix::event::Timespec;
use rustix::event::epoll;
use rustix::event::epoll::EventFlags;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

/// Clients accepted in a row, before those who are in get their turn.
const ACCEPT_BATCH: u32 = 64;

/// Events taken at once.
const EVENTS: usize = 64;

/// Bytes that the kernel keeps for a client that does not read (it doubles the
/// number): some 40 messages of the compatibility socket. The rest waits in the
/// switchboard, which costs nothing, and fds in flight stay few.
const SEND_BUFFER: usize = 16 << 10;

/// Longest time between two looks at clients whose time runs.
const TICK_MAX: Duration = Duration::from_millis(250);

/// Tokens: clients count up from 0, these down from the top.
const STOP: u64 = u64::MAX;
const LISTENERS: u64 = u64::MAX - 1;

/// What a listening socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    /// Stock QEMU and those who speak its protocol, into this region.
    Region(usize),
    /// Our own clients, into any.
    Portal,
}

#[derive(Debug)]
struct Listening {
    listener: Listener,
    door: Door,
    /// Not in the epoll for now: the system has no fds or memory for clients.
    paused: bool,
    path: Option<PathBuf>,
}

#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) name: Name,
    /// Vectors of the compatibility socket, where the region has one.
    pub(crate) compatible: Option<u16>,
    pub(crate) memory: Memory,
    pub(crate) records: Option<Records>,
}

/// A client of either kind of socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Client {
    Qemu(QemuId),
    Portal(PortalId),
    /// A process that was a client of a compatibility socket before a restart. It
    /// cannot come back, but it lives in its region; its socket here is a pidfd.
    Orphan(u64),
}

impl Client {
    fn token(self) -> epoll::EventData {
        epoll::EventData::new_u64(match self {
            Self::Qemu(id) => id.0 << 2,
            Self::Portal(id) => id.0 << 2 | 1,
            Self::Orphan(number) => number << 2 | 2,
        })
    }

    fn of_token(token: u64) -> Self {
        match token & 3 {
            0 => Self::Qemu(QemuId(token >> 2)),
            1 => Self::Portal(PortalId(token >> 2)),
            _ => Self::Orphan(token >> 2),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: OwnedFd,
    /// The process at the other end, as the kernel knows it.
    pub(crate) pid: Option<i32>,
    /// Which peer it is.
    pub(crate) place: Option<PeerKey>,
    /// Most fds that were sent to it and may not have been received yet.
    pub(crate) in_flight: usize,
    /// Whether the epoll watches for room in the socket's buffer.
    watches_room: bool,
}

/// The daemon, ready to run.
#[derive(Debug)]
pub struct Daemon {
    epoll: OwnedFd,
    pub(crate) board: Switchboard<MappedMem, Arc<EventFd>>,
    pub(crate) qemu: portal_ivshmem_server::Server<Arc<EventFd>>,
    pub(crate) portal: portal_protocol::server::Server<Arc<EventFd>>,
    pub(crate) regions: Vec<Served>,
    listeners: Vec<Listening>,
    pub(crate) connections: BTreeMap<Client, Connection>,
    /// Clients that may have something to be sent.
    pub(crate) dirty: BTreeSet<Client>,
    /// Clients to try again at the next tick: the kernel was short of something.
    retry: BTreeSet<Client>,
    /// Given up to accept and turn away a client when no other fd is left, so
    /// that it does not wait for ever.
    spare: Option<OwnedFd>,
    pub(crate) start: Instant,
    tick: Duration,
    ticked: Duration,
    budget: Budget,
    notices: Vec<Notice>,
    folder: Option<Folder>,
    pub(crate) orphans: u64,
}

impl Daemon {
    /// Makes the regions and listens on their sockets: those that a service
    /// manager passed, by the region's name or else in order, for regions with
    /// no path of their own; else at their paths. A passed socket of the name
    /// `portal` is the Portal socket.
    ///
    /// # Errors
    /// [`ServeError`]. Sockets that were made are removed again.
    pub fn new(regions: &[RegionConfig], options: &Options) -> Result<Self, ServeError> {
        if regions.is_empty() {
            return Err(ServeError::NoRegion);
        }
        let mut notices = Vec::new();
        make_room(regions, &mut notices);
        let folder = options.state.as_deref().map(Folder::open).transpose()?;
        let mut passed = activation::passed()?;
        let portal = passed.iter().position(|(name, _)| name == PORTAL);
        let portal = portal.map(|at| passed.remove(at).1);
        let (stored, passed): (Vec<_>, _) = passed
            .into_iter()
            .partition(|(name, _)| store::is_stored(name));
        let mut passed = assign(regions, passed)?;
        let limits = options.limits;
        let shortest = limits.welcome.min(limits.stall);
        let shortest = shortest
            .min(options.clients.hello)
            .min(options.clients.grace);
        let tick = (shortest / 4).clamp(Duration::from_millis(10), TICK_MAX);
        let mut this = Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)
                .map_err(ServeError::os("make an epoll"))?,
            board: Switchboard::new(limits.board),
            qemu: portal_ivshmem_server::Server::new(limits),
            portal: portal_protocol::server::Server::new(options.clients),
            regions: Vec::new(),
            listeners: Vec::new(),
            connections: BTreeMap::new(),
            dirty: BTreeSet::new(),
            retry: BTreeSet::new(),
            spare: spare(),
            start: Instant::now(),
            tick,
            ticked: Duration::ZERO,
            budget: Budget::default(),
            notices,
            folder,
            orphans: 0,
        };
        for (index, config) in regions.iter().enumerate() {
            this.add(config, &stored)?;
            this.open_region(config, index, passed.remove(&index))?;
        }
        this.open_portal(&options.portal, portal)?;
        Ok(this)
    }

    /// Makes a region, or takes up what was kept of it.
    fn add(
        &mut self,
        config: &RegionConfig,
        stored: &[(String, OwnedFd)],
    ) -> Result<(), ServeError> {
        let fail = |reason: String| ServeError::Region {
            name: config.name,
            reason,
        };
        let mut pieces = Vec::new();
        for (name, fd) in stored {
            if let Some(piece) = store::piece_of(name, &config.name) {
                let fd = fd.try_clone().map_err(|e| fail(e.to_string()))?;
                pieces.push((piece, fd));
            }
        }
        let opened = Memory::open(config, self.folder.as_ref(), pieces)?;
        let records: Vec<_> = opened.known.iter().map(|record| record.peer).collect();
        let expected = self
            .board
            .restore_region(opened.pages, config.policy(), &records)
            .map_err(|error| fail(error.to_string()))?;
        if opened.memory.is_unsealed() {
            let region = config.name;
            self.notices.push(Notice::Unsealed { region });
        }
        self.regions.push(Served {
            name: config.name,
            compatible: (!config.sectioned).then_some(config.vectors),
            memory: opened.memory,
            records: opened.records,
        });
        for key in expected {
            let known = opened
                .known
                .iter()
                .find(|record| record.peer.id == key.peer);
            self.restore(key, known.and_then(|record| record.origin));
        }
        Ok(())
    }

    /// Listens on a region's compatibility socket, if it has one.
    fn open_region(
        &mut self,
        config: &RegionConfig,
        index: usize,
        passed: Option<OwnedFd>,
    ) -> Result<(), ServeError> {
        if config.sectioned {
            return match passed {
                None => Ok(()),
                Some(_) => Err(ServeError::Region {
                    name: config.name,
                    reason: "sections=enforced takes no socket of its own; one was passed"
                        .to_owned(),
                }),
            };
        }
        self.qemu.serve(config.name, config.departures);
        let door = Door::Region(index);
        match passed {
            Some(fd) => self.open(Listener::adopt(fd, SocketType::STREAM)?, door, None),
            None => {
                let path = socket_path(config);
                if config.socket.is_none() {
                    make_folder(&path)?;
                }
                self.listen_at(path, SocketType::STREAM, door)
            }
        }
    }

    fn open_portal(
        &mut self,
        wanted: &PortalSocket,
        passed: Option<OwnedFd>,
    ) -> Result<(), ServeError> {
        if let Some(fd) = passed {
            let listener = Listener::adopt(fd, SocketType::SEQPACKET)?;
            return self.open(listener, Door::Portal, None);
        }
        match wanted {
            PortalSocket::At(path) => {
                self.listen_at(path.clone(), SocketType::SEQPACKET, Door::Portal)
            }
            PortalSocket::Default => {
                let path = crate::default_socket(PORTAL);
                let opened = make_folder(&path)
                    .and_then(|()| self.listen_at(path, SocketType::SEQPACKET, Door::Portal));
                // Nobody asked for it by name: regions with sockets elsewhere are
                // served all the same.
                if let Err(error) = opened {
                    let reason = error.to_string();
                    self.notices.push(Notice::NoPortalSocket { reason });
                }
                Ok(())
            }
            PortalSocket::None => Ok(()),
        }
    }

    fn listen_at(&mut self, path: PathBuf, kind: SocketType, door: Door) -> Result<(), ServeError> {
        if self
            .listeners
            .iter()
            .any(|l| l.path.as_ref() == Some(&path))
        {
            return Err(ServeError::SocketTwice { path });
        }
        let listener = Listener::bind(&path, kind)?;
        self.open(listener, door, Some(path))
    }

    fn open(
        &mut self,
        listener: Listener,
        door: Door,
        path: Option<PathBuf>,
    ) -> Result<(), ServeError> {
        let token = epoll::EventData::new_u64(LISTENERS - self.listeners.len() as u64);
        epoll::add(&self.epoll, &listener, token, EventFlags::IN)
            .map_err(ServeError::os("watch a socket"))?;
        self.listeners.push(Listening {
            listener,
            door,
            paused: false,
            path,
        });
        Ok(())
    }

    /// Name and compatibility socket of each region that has one; `None` for a
    /// socket that was passed.
    pub fn sockets(&self) -> impl Iterator<Item = (Name, Option<&Path>)> {
        self.listeners.iter().filter_map(|l| match l.door {
            Door::Region(index) => Some((self.regions.get(index)?.name, l.path.as_deref())),
            Door::Portal => None,
        })
    }

    /// The Portal socket, if there is one: its path, `None` when it was passed.
    pub fn portal_socket(&self) -> Option<Option<&Path>> {
        let found = self.listeners.iter().find(|l| l.door == Door::Portal);
        found.map(|l| l.path.as_deref())
    }

    /// Serves until `stop` is readable, and tells what happens. Sockets that
    /// were made are removed in the end.
    ///
    /// # Errors
    /// [`ServeError::Os`] when the epoll itself fails; never because of a client.
    pub fn run(
        mut self,
        stop: BorrowedFd<'_>,
        tell: &mut dyn FnMut(&Notice),
    ) -> Result<(), ServeError> {
        let token = epoll::EventData::new_u64(STOP);
        epoll::add(&self.epoll, stop, token, EventFlags::IN)
            .map_err(ServeError::os("watch for the wish to stop"))?;
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            for notice in self.notices.drain(..) {
                tell(&notice);
            }
            let timeout = self.timeout();
            events.clear();
            let buffer = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, buffer, timeout.as_ref()) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(ServeError::os("wait for events")(errno)),
            }
            for event in &events {
                let (token, flags) = (event.data.u64(), event.flags);
                match token {
                    STOP => return Ok(()),
                    _ if LISTENERS - token < self.listeners.len() as u64 => {
                        self.accept((LISTENERS - token) as usize);
                    }
                    _ => self.stir(Client::of_token(token), flags),
                }
            }
            self.keep_time();
            self.flush();
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn timeout(&self) -> Option<Timespec> {
        let wait = if !self.dirty.is_empty() {
            Duration::ZERO
        } else if !self.retry.is_empty()
            || self.listeners.iter().any(|l| l.paused)
            || self.spare.is_none()
            || self.qemu.running_out().next().is_some()
            || self.portal.time_runs()
        {
            self.tick
        } else {
            return None;
        };
        Some(Timespec {
            tv_sec: wait.as_secs() as i64,
            tv_nsec: wait.subsec_nanos().into(),
        })
    }

    pub(crate) fn note(&mut self, notice: Notice) {
        if let Some(omitted) = self.budget.admit(self.now()) {
            if omitted > 0 {
                self.notices.push(Notice::Omitted { count: omitted });
            }
            self.notices.push(notice);
        }
    }

    fn refuse_at(&mut self, door: Door, reason: String) {
        let region = match door {
            Door::Region(index) => self.regions.get(index).map(|served| served.name),
            Door::Portal => None,
        };
        self.note(Notice::Refused { region, reason });
    }

    fn accept(&mut self, index: usize) {
        for _ in 0..ACCEPT_BATCH {
            let Some(listening) = self.listeners.get(index) else {
                return;
            };
            let door = listening.door;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(&listening.listener, flags) {
                Ok(socket) => self.let_in(door, socket),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::MFILE) if self.spare.take().is_some() => {
                    let turned_away = rustix::net::accept_with(&listening.listener, flags);
                    // The kernel looks for an fd before it looks for a client:
                    // there may be none.
                    let turned_away = turned_away.map(drop);
                    self.spare = spare();
                    match turned_away {
                        Ok(()) => self.refuse_at(door, no_files()),
                        Err(Errno::AGAIN) => return,
                        Err(errno) => return self.pause_for(index, door, errno),
                    }
                }
                Err(errno) => return self.pause_for(index, door, errno),
            }
        }
    }

    fn pause_for(&mut self, index: usize, door: Door, errno: Errno) {
        self.pause(index);
        self.refuse_at(door, format!("cannot accept it now: {errno}"));
    }

    fn let_in(&mut self, door: Door, socket: OwnedFd) {
        // A smaller buffer is a courtesy to the kernel, not a condition.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER);
        let let_in = match door {
            Door::Region(index) => self.admit_qemu(index, socket),
            Door::Portal => self.admit_portal(socket),
        };
        if let Err(reason) = let_in {
            self.refuse_at(door, reason);
        }
    }

    /// Watches a new client's socket and keeps it.
    pub(crate) fn connect(&mut self, client: Client, socket: OwnedFd) -> Result<(), Errno> {
        let flags = EventFlags::IN | EventFlags::RDHUP;
        epoll::add(&self.epoll, &socket, client.token(), flags)?;
        let peer = rustix::net::sockopt::socket_peercred(&socket).ok();
        let connection = Connection {
            socket,
            pid: peer.map(|who| who.pid.as_raw_nonzero().get()),
            place: None,
            in_flight: 0,
            watches_room: false,
        };
        self.connections.insert(client, connection);
        Ok(())
    }

    /// Stops listening until the next tick: what accepting lacks does not come
    /// back sooner by asking again.
    fn pause(&mut self, index: usize) {
        if let Some(listening) = self.listeners.get_mut(index)
            && epoll::delete(&self.epoll, &listening.listener).is_ok()
        {
            listening.paused = true;
        }
    }

    fn resume(&mut self) {
        for (index, listening) in self.listeners.iter_mut().enumerate() {
            if listening.paused {
                let token = epoll::EventData::new_u64(LISTENERS - index as u64);
                let added = epoll::add(&self.epoll, &listening.listener, token, EventFlags::IN);
                listening.paused = added.is_err();
            }
        }
    }

    /// Every client that is a peer of this region may have something to hear.
    pub(crate) fn dirty_region(&mut self, region: &Name) {
        let inside = |c: &Connection| c.place.is_some_and(|key| key.region == *region);
        let heard = self.connections.iter().filter(|(_, c)| inside(c));
        self.dirty.extend(heard.map(|(client, _)| *client));
    }

    /// Something happened at a client's socket.
    fn stir(&mut self, client: Client, flags: EventFlags) {
        if flags.contains(EventFlags::OUT) {
            self.dirty.insert(client);
        }
        let heard = EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        if !flags.intersects(heard) {
            return;
        }
        match client {
            Client::Qemu(id) => self.hear_qemu(id),
            Client::Portal(id) => self.hear_portal(id),
            Client::Orphan(_) => self.lose_orphan(client),
        }
    }

    /// The client is this peer from now on, or none.
    pub(crate) fn place(&mut self, client: Client, key: Option<PeerKey>) {
        if let Some(connection) = self.connections.get_mut(&client) {
            connection.place = key;
        }
    }

    /// Closes the socket of a client that has lost its place.
    pub(crate) fn disconnect(&mut self, client: Client) {
        self.connections.remove(&client);
        self.dirty.remove(&client);
        self.retry.remove(&client);
    }

    /// What is due by the clock.
    fn keep_time(&mut self) {
        let now = self.now();
        if now.saturating_sub(self.ticked) < self.tick {
            return;
        }
        self.ticked = now;
        if self.spare.is_none() {
            self.spare = spare();
        }
        self.resume();
        self.dirty.append(&mut self.retry);
        self.keep_time_of_qemu(now);
        self.keep_time_of_portal(now);
    }

    /// Sends what can be sent.
    fn flush(&mut self) {
        // Who came last has most to be told, and reads it while the others are told of it.
        for client in std::mem::take(&mut self.dirty).into_iter().rev() {
            let sent = match client {
                Client::Qemu(id) => self.send_qemu(id),
                Client::Portal(id) => self.send_portal(id),
                Client::Orphan(_) => Ok(Sent::All),
            };
            match sent {
                Ok(Sent::All) => self.watch_room(client, false),
                Ok(Sent::Batch) => {
                    self.dirty.insert(client);
                }
                Err(Errno::AGAIN) => {
                    self.blocked(client);
                    self.watch_room(client, true);
                }
                // Too many fds in flight or open, or no memory: nothing that this
                // client did, and no event tells when it is over.
                Err(
                    Errno::TOOMANYREFS
                    | Errno::NOBUFS
                    | Errno::NOMEM
                    | Errno::MFILE
                    | Errno::NFILE
                    | Errno::INTR,
                ) => {
                    self.blocked(client);
                    self.retry.insert(client);
                }
                Err(_) => match client {
                    Client::Qemu(id) => self.lose_qemu(id, portal_ivshmem_server::Lost::Closed),
                    Client::Portal(id) => {
                        self.lose_portal(id, portal_protocol::server::Lost::Closed);
                    }
                    Client::Orphan(_) => {}
                },
            }
        }
    }

    fn blocked(&mut self, client: Client) {
        let now = self.now();
        match client {
            Client::Qemu(id) => self.qemu.blocked(id, now),
            Client::Portal(id) => self.portal.blocked(id, now),
            Client::Orphan(_) => {}
        }
    }

    fn watch_room(&mut self, client: Client, watch: bool) {
        let Some(connection) = self.connections.get_mut(&client) else {
            return;
        };
        if connection.watches_room == watch {
            return;
        }
        let mut flags = EventFlags::IN | EventFlags::RDHUP;
        flags.set(EventFlags::OUT, watch);
        // There may be room, and what waits is that the client reads: each time
        // that it does is an edge.
        flags.set(EventFlags::ET, watch);
        if epoll::modify(&self.epoll, &connection.socket, client.token(), flags).is_ok() {
            connection.watches_room = watch;
        } else {
            self.retry.insert(client);
        }
    }
}

/// How far sending came.
pub(crate) enum Sent {
    All,
    Batch,
}

/// The name of the Portal socket: of its file, and when it is passed.
pub(crate) const PORTAL: &str = "portal";

/// A bell that does not block who rings it, however full another client makes it.
pub(crate) fn bell() -> Result<Arc<EventFd>, Errno> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    rustix::event::eventfd(0, flags).map(|fd| Arc::new(fd.into()))
}

pub(crate) fn no_files() -> String {
    "no file descriptor is left for it; raise the limit (ulimit -n, LimitNOFILE=)".to_owned()
}

fn spare() -> Option<OwnedFd> {
    if !stands(Guard::Spare) {
        return None;
    }
    rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
}

fn socket_path(config: &RegionConfig) -> PathBuf {
    let path = config.socket.clone();
    path.unwrap_or_else(|| crate::default_socket(config.name.as_str()))
}
