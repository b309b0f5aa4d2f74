//! The daemon: one thread, one epoll, all sockets non-blocking.
//!
//! Every step is bounded: clients accepted in a row, messages sent to one client
//! in a row, events taken at once. What remains is done in the next round.

use crate::Limits;
use crate::Lost;
use crate::Notice;
use crate::RegionConfig;
use crate::ServeError;
use crate::activation;
use crate::notice::Budget;
use crate::region::Memory;
use crate::socket::Listener;
use crate::wire;
use hv_shmem::backing::MappedMem;
use hv_shmem::doorbell::EventFd;
use hv_shmem::name::Name;
use portal_device::inspect::Node;
use portal_ivshmem_server::ClientId;
use portal_ivshmem_server::Passed;
use portal_ivshmem_server::Refused;
use portal_ivshmem_server::Server;
use rustix::event::EventfdFlags;
use rustix::event::Timespec;
use rustix::event::epoll;
use rustix::event::epoll::EventFlags;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::net::SocketFlags;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

/// Clients accepted in a row, before those who are in get their turn.
const ACCEPT_BATCH: u32 = 64;

/// Messages sent to one client in a row, before the others get their turn.
const SEND_BATCH: u32 = 256;

/// Events taken at once.
const EVENTS: usize = 64;

/// Bytes that the kernel keeps for a client that does not read (it doubles the
/// number): some 40 messages. The rest waits in the switchboard, which costs
/// nothing, and fds in flight stay few.
const SEND_BUFFER: usize = 16 << 10;

/// Fds of the process beside those of regions: standard streams, epoll, stop,
/// the spare one, and room for libraries.
const OTHER_FILES: u64 = 32;

/// Longest time between two looks at clients whose time runs.
const TICK_MAX: Duration = Duration::from_millis(250);

/// Tokens: clients count up from 0, these down from the top.
const STOP: u64 = u64::MAX;
const LISTENERS: u64 = u64::MAX - 1;

#[derive(Debug)]
struct Served {
    name: Name,
    vectors: u16,
    memory: Memory,
    listener: Listener,
    /// Not in the epoll for now: the system has no fds or memory for clients.
    paused: bool,
    path: Option<PathBuf>,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    region: usize,
    /// Whether the epoll watches for room in the socket's buffer.
    watches_room: bool,
}

/// The daemon, ready to run.
#[derive(Debug)]
pub struct Daemon {
    epoll: OwnedFd,
    server: Server<MappedMem, Arc<EventFd>>,
    regions: Vec<Served>,
    connections: BTreeMap<ClientId, Connection>,
    /// Clients that may have something to be sent.
    dirty: BTreeSet<ClientId>,
    /// Clients to try again at the next tick: the kernel was short of something.
    retry: BTreeSet<ClientId>,
    /// Given up to accept and turn away a client when no other fd is left, so
    /// that it does not wait for ever.
    spare: Option<OwnedFd>,
    start: Instant,
    tick: Duration,
    ticked: Duration,
    budget: Budget,
    notices: Vec<Notice>,
}

impl Daemon {
    /// Makes the regions and listens on their sockets: those that a service
    /// manager passed, by the region's name or else in order, for regions with
    /// no path of their own; else at their paths.
    ///
    /// # Errors
    /// [`ServeError`]. Sockets that were made are removed again.
    pub fn new(regions: &[RegionConfig], limits: Limits) -> Result<Self, ServeError> {
        if regions.is_empty() {
            return Err(ServeError::NoRegion);
        }
        let mut notices = Vec::new();
        make_room(regions, &mut notices);
        let mut passed = assign(regions, activation::passed()?)?;
        let tick =
            (limits.welcome.min(limits.stall) / 4).clamp(Duration::from_millis(10), TICK_MAX);
        let mut this = Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)
                .map_err(ServeError::os("make an epoll"))?,
            server: Server::new(limits),
            regions: Vec::new(),
            connections: BTreeMap::new(),
            dirty: BTreeSet::new(),
            retry: BTreeSet::new(),
            spare: spare(),
            start: Instant::now(),
            tick,
            ticked: Duration::ZERO,
            budget: Budget::default(),
            notices,
        };
        for (index, config) in regions.iter().enumerate() {
            this.add(config, passed.remove(&index))?;
        }
        Ok(this)
    }

    fn add(&mut self, config: &RegionConfig, passed: Option<OwnedFd>) -> Result<(), ServeError> {
        let (memory, pages) = Memory::make(config)?;
        let name = self
            .server
            .add_region(pages, config.departures)
            .map_err(|error| ServeError::Region {
                name: config.name,
                reason: error.to_string(),
            })?;
        let (listener, path) = match passed {
            Some(fd) => (Listener::adopt(fd)?, None),
            None => {
                let path = socket_path(config);
                if self.regions.iter().any(|r| r.path.as_ref() == Some(&path)) {
                    return Err(ServeError::SocketTwice { path });
                }
                if config.socket.is_none() {
                    make_folder(&path)?;
                }
                (Listener::bind(&path)?, Some(path))
            }
        };
        let token = epoll::EventData::new_u64(LISTENERS - self.regions.len() as u64);
        epoll::add(&self.epoll, &listener, token, EventFlags::IN)
            .map_err(ServeError::os("watch a socket"))?;
        self.regions.push(Served {
            name,
            vectors: config.vectors,
            memory,
            listener,
            paused: false,
            path,
        });
        Ok(())
    }

    /// Name and socket of each region; `None` for a socket that was passed.
    pub fn sockets(&self) -> impl Iterator<Item = (Name, Option<&Path>)> {
        self.regions.iter().map(|r| (r.name, r.path.as_deref()))
    }

    /// The tree that `portal inspect` shows.
    pub fn inspect(&self) -> Node {
        self.server.inspect()
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
                    _ if LISTENERS - token < self.regions.len() as u64 => {
                        self.accept((LISTENERS - token) as usize);
                    }
                    _ => self.stir(ClientId(token), flags),
                }
            }
            self.keep_time();
            self.flush();
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn timeout(&self) -> Option<Timespec> {
        let wait = if !self.dirty.is_empty() {
            Duration::ZERO
        } else if !self.retry.is_empty()
            || self.regions.iter().any(|r| r.paused)
            || self.server.running_out().next().is_some()
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

    fn note(&mut self, notice: Notice) {
        if let Some(omitted) = self.budget.admit(self.now()) {
            if omitted > 0 {
                self.notices.push(Notice::Omitted { count: omitted });
            }
            self.notices.push(notice);
        }
    }

    fn refuse(&mut self, region: usize, reason: String) {
        if let Some(served) = self.regions.get(region) {
            let region = served.name;
            self.note(Notice::Refused { region, reason });
        }
    }

    fn accept(&mut self, region: usize) {
        for _ in 0..ACCEPT_BATCH {
            let Some(served) = self.regions.get(region) else {
                return;
            };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(&served.listener, flags) {
                Ok(socket) => self.admit(region, socket),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::MFILE) if self.spare.take().is_some() => {
                    let turned_away = rustix::net::accept_with(&served.listener, flags);
                    drop(turned_away);
                    self.spare = spare();
                    self.refuse(region, no_files());
                }
                Err(errno) => {
                    self.pause(region);
                    self.refuse(region, format!("cannot accept it now: {errno}"));
                    return;
                }
            }
        }
    }

    /// Stops listening until the next tick: what accepting lacks does not come
    /// back sooner by asking again.
    fn pause(&mut self, region: usize) {
        if let Some(served) = self.regions.get_mut(region)
            && epoll::delete(&self.epoll, &served.listener).is_ok()
        {
            served.paused = true;
        }
    }

    fn resume(&mut self) {
        for (index, served) in self.regions.iter_mut().enumerate() {
            if served.paused {
                let token = epoll::EventData::new_u64(LISTENERS - index as u64);
                let added = epoll::add(&self.epoll, &served.listener, token, EventFlags::IN);
                served.paused = added.is_err();
            }
        }
    }

    /// Makes a peer of a connection, or closes it.
    fn admit(&mut self, region: usize, socket: OwnedFd) {
        let now = self.now();
        let Some(served) = self.regions.get(region) else {
            return;
        };
        let name = served.name;
        // A smaller buffer is a courtesy to the kernel, not a condition.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER);
        let vectors = served.vectors;
        let make = || (0..vectors).map(|_| bell()).collect::<Result<Vec<_>, _>>();
        let client = match self.server.connect(&name, now, make) {
            Ok(client) => client,
            Err(Refused::Bells(Errno::MFILE)) => return self.refuse(region, no_files()),
            Err(error) => return self.refuse(region, error.to_string()),
        };
        let token = epoll::EventData::new_u64(client.0);
        let flags = EventFlags::IN | EventFlags::RDHUP;
        if let Err(errno) = epoll::add(&self.epoll, &socket, token, flags) {
            self.server.closed(client);
            return self.refuse(region, format!("cannot watch its socket: {errno}"));
        }
        let connection = Connection {
            socket,
            region,
            watches_room: false,
        };
        self.connections.insert(client, connection);
        self.dirty_region(region);
        if let Some((region, peer)) = self.server.place(client) {
            self.note(Notice::Joined { region, peer });
        }
    }

    fn dirty_region(&mut self, region: usize) {
        let of_region = self.connections.iter().filter(|(_, c)| c.region == region);
        self.dirty.extend(of_region.map(|(client, _)| *client));
    }

    /// Something happened at a client's socket.
    fn stir(&mut self, client: ClientId, flags: EventFlags) {
        let Some(connection) = self.connections.get(&client) else {
            return;
        };
        if flags.contains(EventFlags::OUT) {
            self.dirty.insert(client);
        }
        if !flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR)
        {
            return;
        }
        // No room for fds: the kernel closes what a client passes.
        let mut bytes = [0; 8];
        match rustix::net::recv(&connection.socket, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((0, _)) => self.lose(client, Lost::Closed),
            Ok(_) => self.lose(client, Lost::Spoke),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.lose(client, Lost::Closed),
        }
    }

    fn lose(&mut self, client: ClientId, why: Lost) {
        let departure = match why {
            Lost::Spoke => self.server.spoke(client),
            _ => self.server.closed(client),
        };
        if let Some(departure) = departure {
            self.forget(client, departure);
        }
    }

    /// Closes the socket of a client that has lost its place.
    fn forget(&mut self, client: ClientId, departure: portal_ivshmem_server::Departure) {
        if let Some(connection) = self.connections.remove(&client) {
            self.dirty_region(connection.region);
        }
        self.dirty.remove(&client);
        self.retry.remove(&client);
        self.note(Notice::Left {
            region: departure.region,
            peer: departure.peer,
            why: departure.why,
        });
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
        let running: Vec<_> = self.server.running_out().collect();
        for client in running {
            if let Some(connection) = self.connections.get(&client)
                && wire::is_read(&connection.socket)
            {
                self.server.caught_up(client);
            }
        }
        while let Some((client, departure)) = self.server.overdue(now) {
            self.forget(client, departure);
        }
    }

    /// Sends what can be sent.
    fn flush(&mut self) {
        for client in std::mem::take(&mut self.dirty) {
            match self.send_to(client) {
                Ok(Sent::All) => self.watch_room(client, false),
                Ok(Sent::Batch) => {
                    self.dirty.insert(client);
                }
                Err(Errno::AGAIN) => {
                    self.server.blocked(client, self.now());
                    self.watch_room(client, true);
                }
                // Too many fds in flight, or no memory: nothing that this client
                // did, and no event tells when it is over.
                Err(Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM | Errno::INTR) => {
                    self.server.blocked(client, self.now());
                    self.retry.insert(client);
                }
                Err(_) => self.lose(client, Lost::Closed),
            }
        }
    }

    fn send_to(&mut self, client: ClientId) -> Result<Sent, Errno> {
        let Some(connection) = self.connections.get(&client) else {
            return Ok(Sent::All);
        };
        let memory = self.regions.get(connection.region).map(|r| &r.memory);
        for _ in 0..SEND_BATCH {
            let Some(message) = self.server.next(client) else {
                return Ok(Sent::All);
            };
            let fd = match &message.passed {
                Passed::Nothing => None,
                Passed::Memory => Some(memory.and_then(Memory::fd).ok_or(Errno::BADF)?),
                Passed::Bell(bell) => Some(bell.as_fd()),
            };
            wire::send(connection.socket.as_fd(), message.bytes(), fd)?;
            self.server.sent(client);
        }
        Ok(Sent::Batch)
    }

    fn watch_room(&mut self, client: ClientId, watch: bool) {
        let Some(connection) = self.connections.get_mut(&client) else {
            return;
        };
        if connection.watches_room == watch {
            return;
        }
        let mut flags = EventFlags::IN | EventFlags::RDHUP;
        flags.set(EventFlags::OUT, watch);
        let token = epoll::EventData::new_u64(client.0);
        if epoll::modify(&self.epoll, &connection.socket, token, flags).is_ok() {
            connection.watches_room = watch;
        } else {
            self.retry.insert(client);
        }
    }
}

enum Sent {
    All,
    Batch,
}

/// A bell that does not block who rings it, however full another client makes it.
fn bell() -> Result<Arc<EventFd>, Errno> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    rustix::event::eventfd(0, flags).map(|fd| Arc::new(fd.into()))
}

fn no_files() -> String {
    "no file descriptor is left for it; raise the limit (ulimit -n, LimitNOFILE=)".to_owned()
}

fn spare() -> Option<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
}

fn socket_path(config: &RegionConfig) -> PathBuf {
    let path = config.socket.clone();
    path.unwrap_or_else(|| crate::default_socket(config.name.as_str()))
}

/// The default folder, for this user alone.
fn make_folder(socket: &Path) -> Result<(), ServeError> {
    let Some(folder) = socket.parent() else {
        return Ok(());
    };
    match rustix::fs::mkdir(folder, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(ServeError::Socket {
            path: socket.to_owned(),
            what: "make its folder",
            errno,
        }),
    }
}

/// Which region takes which passed socket.
fn assign(
    regions: &[RegionConfig],
    passed: Vec<(String, OwnedFd)>,
) -> Result<BTreeMap<usize, OwnedFd>, ServeError> {
    let mut taken = BTreeMap::new();
    let mut unnamed = Vec::new();
    for (name, fd) in passed {
        let wanted = regions.iter().position(|r| r.name.as_str() == name);
        match wanted.filter(|index| !taken.contains_key(index)) {
            Some(index) => {
                taken.insert(index, fd);
            }
            None => unnamed.push((name, fd)),
        }
    }
    for (name, fd) in unnamed {
        let free = regions
            .iter()
            .enumerate()
            .position(|(index, r)| r.socket.is_none() && !taken.contains_key(&index));
        let Some(index) = free else {
            return Err(ServeError::Activation {
                reason: format!("no region is left for the passed socket {name:?}"),
            });
        };
        taken.insert(index, fd);
    }
    Ok(taken)
}

/// Raises the soft limit of open files to what all peers take.
fn make_room(regions: &[RegionConfig], notices: &mut Vec<Notice>) {
    use rustix::process::Resource;
    let need = regions.iter().map(RegionConfig::files).sum::<u64>() + OTHER_FILES;
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|soft| soft >= need) {
        return;
    }
    let soft = limit.maximum.map_or(need, |hard| hard.min(need));
    let before = limit.current;
    limit.current = Some(soft);
    let raised = rustix::process::setrlimit(Resource::Nofile, limit).is_ok();
    let have = if raised { soft } else { before.unwrap_or(soft) };
    if have < need {
        notices.push(Notice::FewFiles { need, limit: have });
    }
}
