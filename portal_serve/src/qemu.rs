//! The clients of the compatibility sockets: stock QEMU, and programs that speak
//! its protocol.

use crate::Notice;
use crate::daemon::Client;
use crate::daemon::Daemon;
use crate::daemon::Sent;
use crate::daemon::bell;
use crate::daemon::no_files;
use crate::guard::Guard;
use crate::region::Memory;
use crate::state::Origin;
use crate::state::Process;
use crate::wire;
use portal_device::guard::stands;
use portal_ivshmem_server::ClientId;
use portal_ivshmem_server::Departure;
use portal_ivshmem_server::Lost;
use portal_ivshmem_server::Passed;
use portal_ivshmem_server::Refused;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::os::fd::AsFd as _;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Messages sent to one client in a row, before the others get their turn.
const SEND_BATCH: u32 = 256;

impl Daemon {
    /// Makes a peer of a connection, or closes it and says why.
    pub(crate) fn admit_qemu(&mut self, index: usize, socket: OwnedFd) -> Result<(), String> {
        let now = self.now();
        let Some(served) = self.regions.get(index) else {
            return Ok(());
        };
        let (name, vectors) = (served.name, served.compatible.unwrap_or_default());
        let make = || (0..vectors).map(|_| bell()).collect::<Result<Vec<_>, _>>();
        let id = match self.qemu.connect(&mut self.board, &name, now, make) {
            Ok(id) => id,
            Err(Refused::Bells(Errno::MFILE)) => return Err(no_files()),
            Err(error) => return Err(error.to_string()),
        };
        if let Err(errno) = self.connect(Client::Qemu(id), socket) {
            self.qemu.closed(&mut self.board, id);
            return Err(format!("cannot watch its socket: {errno}"));
        }
        let key = self.qemu.place(id);
        self.place(Client::Qemu(id), key);
        self.dirty_region(&name);
        if let Some(key) = key {
            let connection = self.connections.get(&Client::Qemu(id));
            let process = connection.and_then(|c| c.pid).and_then(Process::of);
            self.keep(key, Some(Origin::Qemu(process)));
            let (region, peer) = (key.region, key.peer);
            self.note(Notice::Joined { region, peer });
        }
        Ok(())
    }

    /// The protocol has no word from a client: whatever comes ends it.
    pub(crate) fn hear_qemu(&mut self, id: ClientId) {
        let Some(connection) = self.connections.get(&Client::Qemu(id)) else {
            return;
        };
        // No room for fds: the kernel closes what a client passes.
        let mut bytes = [0; 8];
        match rustix::net::recv(&connection.socket, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((0, _)) => self.lose_qemu(id, Lost::Closed),
            Ok(_) if !stands(Guard::Spoke) => {}
            Ok(_) => self.lose_qemu(id, Lost::Spoke),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.lose_qemu(id, Lost::Closed),
        }
    }

    pub(crate) fn lose_qemu(&mut self, id: ClientId, why: Lost) {
        let departure = match why {
            Lost::Spoke => self.qemu.spoke(&mut self.board, id),
            _ => self.qemu.closed(&mut self.board, id),
        };
        if let Some(departure) = departure {
            self.forget_qemu(id, departure);
        }
    }

    fn forget_qemu(&mut self, id: ClientId, departure: Departure) {
        let Departure { key, why } = departure;
        self.disconnect(Client::Qemu(id));
        self.keep(key, None);
        self.dirty_region(&key.region);
        self.note(Notice::Left {
            region: key.region,
            peer: key.peer,
            why: why.to_string(),
        });
    }

    pub(crate) fn keep_time_of_qemu(&mut self, now: Duration) {
        if !stands(Guard::Overdue) {
            return;
        }
        let running: Vec<_> = self.qemu.running_out().collect();
        for id in running {
            if let Some(connection) = self.connections.get(&Client::Qemu(id))
                && wire::is_read(&connection.socket)
            {
                self.qemu.caught_up(id);
            }
        }
        while let Some((id, departure)) = self.qemu.overdue(&mut self.board, now) {
            self.forget_qemu(id, departure);
        }
    }

    pub(crate) fn send_qemu(&mut self, id: ClientId) -> Result<Sent, Errno> {
        let Some(connection) = self.connections.get(&Client::Qemu(id)) else {
            return Ok(Sent::All);
        };
        let region = self.qemu.place(id).map(|key| key.region);
        let memory = self.regions.iter().find(|r| Some(r.name) == region);
        let memory = memory.map(|r| &r.memory);
        for _ in 0..SEND_BATCH {
            let Some(message) = self.qemu.next(&mut self.board, id) else {
                return Ok(Sent::All);
            };
            let fd = match &message.passed {
                Passed::Nothing => None,
                Passed::Memory => Some(memory.and_then(Memory::fd).ok_or(Errno::BADF)?),
                Passed::Bell(bell) => Some(bell.as_fd()),
            };
            wire::send(connection.socket.as_fd(), message.bytes(), fd)?;
            self.qemu.sent(id);
        }
        Ok(Sent::Batch)
    }
}
