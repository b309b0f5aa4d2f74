//! The clients of the Portal socket, and what the protocol needs of this process
//! for them: event fds, memory, tokens, the inspect tree.

use crate::Notice;
use crate::daemon::Client;
use crate::daemon::Connection;
use crate::daemon::Daemon;
use crate::daemon::Sent;
use crate::daemon::Served;
use crate::daemon::bell;
use crate::daemon::no_files;
use crate::guard::Guard;
use crate::state::Origin;
use crate::wire;
use hv_shmem::backing::MappedMem;
use hv_shmem::backing::Part;
use hv_shmem::doorbell::EventFd;
use hv_shmem::layout::PeerId;
use hv_shmem::name::Name;
use portal_device::guard::stands;
use portal_device::inspect::Node;
use portal_ivshmem_server::Departures;
use portal_ivshmem_server::Refused;
use portal_protocol::FDS_MAX;
use portal_protocol::MESSAGE_MAX;
use portal_protocol::Refusal;
use portal_protocol::RefusalCode;
use portal_protocol::Token;
use portal_protocol::packet;
use portal_protocol::server::ClientId;
use portal_protocol::server::Departure;
use portal_protocol::server::Done;
use portal_protocol::server::Host;
use portal_protocol::server::Lost;
use portal_protocol::server::Passed;
use portal_switchboard::Switchboard;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::net::SendFlags;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// Messages sent to one client in a row, before the others get their turn.
const SEND_BATCH: u32 = 64;

/// Messages taken from one client in a row.
const HEAR_BATCH: u32 = 4;

/// Most fds on their way to one client that does not read. The kernel counts those
/// of all clients against this user's limit of open files.
const IN_FLIGHT: usize = 2 * portal_protocol::FDS_MAX;

type Board = Switchboard<MappedMem, Arc<EventFd>>;

impl Daemon {
    pub(crate) fn admit_portal(&mut self, socket: OwnedFd) -> Result<(), String> {
        let now = self.now();
        let (id, displaced) = self.portal.connect(now);
        if let Some((other, departure)) = displaced
            && stands(Guard::Displaced)
        {
            self.forget_portal(other, departure);
        }
        if let Err(errno) = self.connect(Client::Portal(id), socket) {
            self.portal.part(&mut self.board, id, Lost::Closed);
            return Err(format!("cannot watch its socket: {errno}"));
        }
        Ok(())
    }

    pub(crate) fn hear_portal(&mut self, id: ClientId) {
        let mut buffer = [0; MESSAGE_MAX + 1];
        for _ in 0..HEAR_BATCH {
            let Some(connection) = self.connections.get(&Client::Portal(id)) else {
                return;
            };
            let socket = connection.socket.as_fd();
            let heard = match packet::receive(socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok(packet::Received { len: 0, .. }) => Err(Lost::Closed),
                Ok(received) if received.fds_missing => {
                    let text = format!("its file descriptors did not all arrive: {}", no_files());
                    let refusal = Refusal::new(RefusalCode::Resources, text);
                    self.portal.refuse(id, refusal).map(|()| Done::Quiet)
                }
                Ok(received) => {
                    let message = buffer.get(..received.len).unwrap_or_default();
                    self.take_in(id, message, received.fds)
                }
                Err(Errno::AGAIN | Errno::INTR) => return,
                Err(_) => Err(Lost::Closed),
            };
            self.dirty.insert(Client::Portal(id));
            match heard {
                Ok(done) => {
                    let key = self.portal.place(id);
                    self.place(Client::Portal(id), key);
                    self.done(id, done);
                }
                Err(Lost::Broke(_) | Lost::OutOfTurn) if !stands(Guard::Broke) => {}
                Err(why) => return self.lose_portal(id, why),
            }
            // The answer goes out before the next request is read.
            if !self.portal.listens(id) {
                return;
            }
        }
    }

    fn take_in(&mut self, id: ClientId, message: &[u8], fds: Vec<OwnedFd>) -> Result<Done, Lost> {
        let now = self.now();
        let bells = fds.into_iter().map(|fd| Arc::new(EventFd::from(fd)));
        let bells = bells.collect();
        let mut carrier = Carrier {
            qemu: &mut self.qemu,
            regions: &self.regions,
            connections: &self.connections,
            uptime: now,
        };
        self.portal
            .receive(&mut self.board, &mut carrier, id, message, bells, now)
    }

    fn done(&mut self, id: ClientId, done: Done) {
        let (key, notice) = match done {
            Done::Quiet => return,
            Done::Stepped(key) => (key, None),
            Done::Joined(key) => {
                let (region, peer) = (key.region, key.peer);
                (key, Some(Notice::Joined { region, peer }))
            }
            Done::Returned(key) => {
                let (region, peer) = (key.region, key.peer);
                (key, Some(Notice::Returned { region, peer }))
            }
            Done::Left(key) => {
                let notice = Notice::Left {
                    region: key.region,
                    peer: key.peer,
                    why: Lost::Left.to_string(),
                };
                (key, Some(notice))
            }
        };
        let token = self.portal.token(id);
        self.keep(key, token.map(Origin::Portal));
        self.dirty_region(&key.region);
        if let Some(notice) = notice {
            self.note(notice);
        }
    }

    pub(crate) fn lose_portal(&mut self, id: ClientId, why: Lost) {
        if let Some(departure) = self.portal.part(&mut self.board, id, why) {
            self.forget_portal(id, departure);
        }
    }

    fn forget_portal(&mut self, id: ClientId, departure: Departure) {
        self.disconnect(Client::Portal(id));
        self.tell_departure(departure);
    }

    fn tell_departure(&mut self, Departure { key, why }: Departure) {
        if let Some(key) = key {
            self.keep(key, None);
            self.dirty_region(&key.region);
            self.note(Notice::Left {
                region: key.region,
                peer: key.peer,
                why: why.to_string(),
            });
        } else if !matches!(why, Lost::Closed) {
            let reason = why.to_string();
            self.note(Notice::Refused {
                region: None,
                reason,
            });
        }
    }

    pub(crate) fn keep_time_of_portal(&mut self, now: Duration) {
        let stands = stands(Guard::Stall);
        while stands && let Some((id, departure)) = self.portal.overdue(&mut self.board, now) {
            self.forget_portal(id, departure);
        }
        while let Some(departure) = self.portal.expired(&mut self.board, now) {
            self.tell_departure(departure);
        }
    }

    fn withhold(&mut self, id: ClientId, errno: Errno) {
        let refusal = no_descriptors(errno);
        let reason = refusal.text.clone();
        let gone = self.portal.withhold(&mut self.board, id, refusal);
        let Some(key) = gone else {
            let region = None;
            return self.note(Notice::Refused { region, reason });
        };
        self.place(Client::Portal(id), None);
        self.keep(key, None);
        self.dirty_region(&key.region);
        self.note(Notice::Left {
            region: key.region,
            peer: key.peer,
            why: reason,
        });
    }

    pub(crate) fn send_portal(&mut self, id: ClientId) -> Result<Sent, Errno> {
        let client = Client::Portal(id);
        for _ in 0..SEND_BATCH {
            let Some(connection) = self.connections.get_mut(&client) else {
                return Ok(Sent::All);
            };
            let Some(message) = self.portal.next(&mut self.board, id) else {
                if self.portal.is_over(id) {
                    self.lose_portal(id, Lost::Closed);
                }
                return Ok(Sent::All);
            };
            let fds = message.passed.len();
            if fds > 0 && connection.in_flight + fds > IN_FLIGHT {
                if !wire::is_read(&connection.socket) {
                    return Err(Errno::AGAIN);
                }
                connection.in_flight = 0;
            }
            // Held until the message is out.
            let opened = match open_memory(&self.regions, &message.passed) {
                Ok(opened) => opened,
                // There was room when it asked. Waiting for it would keep a client
                // without an answer.
                Err(errno @ (Errno::MFILE | Errno::NFILE)) => {
                    self.withhold(id, errno);
                    continue;
                }
                Err(errno) => return Err(errno),
            };
            let bells = message.passed.iter().filter_map(|passed| match passed {
                Passed::Bell(bell) => Some(bell.as_fd()),
                Passed::Memory(..) => None,
            });
            let fds: Vec<BorrowedFd<'_>> =
                bells.chain(opened.iter().map(|fd| fd.as_fd())).collect();
            let socket = connection.socket.as_fd();
            packet::send(socket, &message.bytes, &fds, SendFlags::DONTWAIT)?;
            connection.in_flight += fds.len();
            self.portal.sent(id);
        }
        Ok(Sent::Batch)
    }
}

/// Opens the memory that a message passes.
fn open_memory(regions: &[Served], passed: &[Passed<Arc<EventFd>>]) -> Result<Vec<OwnedFd>, Errno> {
    let mut opened = Vec::new();
    for passed in passed {
        if let Passed::Memory(region, piece, write) = passed {
            let found = regions.iter().find(|r| r.name == *region);
            let found = found.ok_or(Errno::BADF)?;
            opened.push(found.memory.piece(*piece, *write)?);
        }
    }
    Ok(opened)
}

/// This process, as the protocol sees it.
struct Carrier<'a> {
    qemu: &'a mut portal_ivshmem_server::Server<Arc<EventFd>>,
    regions: &'a [Served],
    connections: &'a BTreeMap<Client, Connection>,
    uptime: Duration,
}

impl Carrier<'_> {
    /// Whether bells belong to ids in a region, and how many each has.
    fn id_vectors(&self, region: &Name) -> Option<u16> {
        let silent = self.qemu.departures(region) == Some(Departures::Silent);
        let vectors = self.compatible(region);
        vectors.filter(|_| silent)
    }

    fn id_bells(
        &mut self,
        region: &Name,
        peer: PeerId,
        vectors: u16,
    ) -> Result<Vec<Arc<EventFd>>, Refusal> {
        let made = self.qemu.id_bells(region, peer, || make_bells(vectors));
        made.map_err(|refused| match refused {
            Refused::Bells(errno) => no_descriptors(errno),
            other => Refusal::new(RefusalCode::Other, other.to_string()),
        })
    }
}

fn make_bells(count: u16) -> Result<Vec<Arc<EventFd>>, Errno> {
    (0..count).map(|_| bell()).collect()
}

fn no_descriptors(errno: Errno) -> Refusal {
    let text = match errno {
        Errno::MFILE => no_files(),
        errno => format!("its file descriptors cannot be made: {errno}"),
    };
    Refusal::new(RefusalCode::Resources, text)
}

/// An event fd and nothing else: what others write to when they ring.
fn all_events(bells: &[Arc<EventFd>]) -> Result<(), Refusal> {
    for bell in bells {
        let path = format!("/proc/self/fd/{}", bell.as_fd().as_raw_fd());
        let is_event = rustix::fs::readlink(path, Vec::new())
            .is_ok_and(|target| target.to_bytes() == b"anon_inode:[eventfd]");
        if !is_event {
            return Err(Refusal::new(
                RefusalCode::NotAnEvent,
                "a file descriptor that was given to hear on is no eventfd",
            ));
        }
    }
    Ok(())
}

impl Host<MappedMem, Arc<EventFd>> for Carrier<'_> {
    fn bells(
        &mut self,
        region: &Name,
        peer: PeerId,
        vectors: u16,
    ) -> Result<Vec<Arc<EventFd>>, Refusal> {
        match self.id_vectors(region) {
            // QEMU has one number of vectors for every peer of a region.
            Some(limit) if vectors > limit => Err(Refusal::new(
                RefusalCode::Vectors,
                format!(
                    "{vectors} vectors; in region {region}, which QEMU may join, a peer has {limit}"
                ),
            )),
            Some(all) => {
                let mut bells = self.id_bells(region, peer, all)?;
                bells.truncate(vectors.into());
                Ok(bells)
            }
            None => make_bells(vectors).map_err(no_descriptors),
        }
    }

    fn take(
        &mut self,
        region: &Name,
        peer: PeerId,
        bells: &[Arc<EventFd>],
    ) -> Result<Vec<Arc<EventFd>>, Refusal> {
        all_events(bells)?;
        match self.id_vectors(region) {
            Some(all) => self.id_bells(region, peer, all),
            None => Ok(Vec::new()),
        }
    }

    fn take_back(
        &mut self,
        region: &Name,
        peer: PeerId,
        bells: &[Arc<EventFd>],
        passed_on: Vec<Arc<EventFd>>,
    ) -> Result<(), Refusal> {
        all_events(bells)?;
        all_events(&passed_on)?;
        if let Some(all) = self.id_vectors(region) {
            let mut kept = if passed_on.is_empty() {
                bells.to_vec()
            } else {
                passed_on
            };
            kept.truncate(all.into());
            while kept.len() < usize::from(all) {
                kept.push(bell().map_err(no_descriptors)?);
            }
            self.qemu.set_id_bells(region, peer, kept);
        }
        Ok(())
    }

    fn pieces(&self, region: &Name) -> Result<Vec<Option<Part>>, Refusal> {
        let Some(found) = self.regions.iter().find(|r| r.name == *region) else {
            return Ok(Vec::new());
        };
        let pieces = found.memory.pieces();
        // Whether as many as go into one message can be opened at once.
        let first = pieces.iter().take(FDS_MAX);
        let opened = first.map(|piece| found.memory.piece(*piece, false));
        match opened.collect::<Result<Vec<_>, _>>() {
            Ok(_) => Ok(pieces),
            Err(errno) => Err(no_descriptors(errno)),
        }
    }

    fn compatible(&self, region: &Name) -> Option<u16> {
        let found = self.regions.iter().find(|r| r.name == *region);
        found.and_then(|r| r.compatible)
    }

    fn token(&mut self) -> Result<Token, Refusal> {
        let mut bytes = [0; 16];
        let flags = rustix::rand::GetRandomFlags::empty();
        // So few bytes come whole (getrandom(2)).
        match rustix::rand::getrandom(&mut bytes, flags) {
            Ok(_) => Ok(Token(bytes)),
            Err(errno) => Err(Refusal::new(
                RefusalCode::Resources,
                format!("the system has no random bytes: {errno}"),
            )),
        }
    }

    fn tree(&self, board: &Board, clients: Node) -> String {
        let mut tree = Node::new()
            .with("version", env!("CARGO_PKG_VERSION"))
            .with("pid", u64::from(std::process::id()))
            .with(
                "uptime_ms",
                u64::try_from(self.uptime.as_millis()).unwrap_or(u64::MAX),
            );
        for (name, value) in board.inspect().entries() {
            tree.push(name.to_owned(), value.clone());
        }
        for served in self.regions {
            let path = format!("regions/{}", served.name);
            if let Some(region) = tree.subtree(&path) {
                region.push("compatible", served.compatible.is_some());
                region.push("memory", served.memory.describe());
            }
        }
        for (client, connection) in self.connections {
            let Some(key) = connection.place else {
                continue;
            };
            let path = format!("regions/{}/peers/{}", key.region, key.peer);
            if let Some(peer) = tree.subtree(&path) {
                peer.push(
                    "by",
                    match client {
                        Client::Qemu(_) => "compatibility socket",
                        Client::Orphan(_) => "compatibility socket, before a restart",
                        Client::Portal(_) => "portal socket",
                    },
                );
                let pid = connection.pid.map(|pid| u64::from(pid.unsigned_abs()));
                peer.push("pid", pid);
            }
        }
        tree.push("compatibility_clients", self.qemu.inspect());
        tree.push("portal_clients", clients);
        // A tree of numbers and names always has a text.
        serde_json::to_string(&tree).unwrap_or_default()
    }
}
