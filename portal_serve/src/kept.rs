//! Peers across a restart: who is expected back, whose process is watched instead, and
//! what is kept of each change.

use crate::Notice;
use crate::daemon::Client;
use crate::daemon::Daemon;
use crate::state::Origin;
use crate::state::Process;
use crate::state::Record;
use portal_switchboard::PeerKey;

impl Daemon {
    /// A peer that lived when the last daemon ended.
    pub(crate) fn restore(&mut self, key: PeerKey, origin: Option<Origin>) {
        let process = match origin {
            Some(Origin::Portal(token)) => {
                self.portal.expect(key, token, self.now());
                return self.note(Notice::Expected {
                    region: key.region,
                    peer: key.peer,
                });
            }
            Some(Origin::Qemu(process)) => process,
            None => None,
        };
        let pidfd = process.filter(Process::lives).and_then(|process| {
            let pid = rustix::process::Pid::from_raw(i32::try_from(process.pid).ok()?)?;
            let fd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()?;
            // It may have ended, and its number may be another's, before the open.
            process.lives().then_some((fd, pid))
        });
        let orphan = Client::Orphan(self.orphans);
        self.orphans += 1;
        let kept = pidfd.is_some_and(|(fd, pid)| {
            let connected = self.connect(orphan, fd).is_ok();
            if let Some(connection) = self.connections.get_mut(&orphan) {
                connection.place = Some(key);
                connection.pid = Some(pid.as_raw_nonzero().get());
            }
            connected
        });
        if kept {
            return;
        }
        let _ = self.board.gone(&key);
        self.keep(key, None);
        self.note(Notice::Left {
            region: key.region,
            peer: key.peer,
            why: "its process ended while the switchboard was away".to_owned(),
        });
    }

    /// A process that could not come back has ended.
    pub(crate) fn lose_orphan(&mut self, orphan: Client) {
        let key = self.connections.get(&orphan).and_then(|c| c.place);
        self.disconnect(orphan);
        if let Some(key) = key {
            let _ = self.board.gone(&key);
            self.keep(key, None);
            self.dirty_region(&key.region);
            self.note(Notice::Left {
                region: key.region,
                peer: key.peer,
                why: "its process ended".to_owned(),
            });
        }
    }

    /// Keeps what has become of a peer, before anybody is told of it.
    pub(crate) fn keep(&mut self, key: PeerKey, origin: Option<Origin>) {
        let served = self.regions.iter().find(|r| r.name == key.region);
        let records = served.and_then(|r| r.records.as_ref());
        let peer = self.board.record(&key.region, key.peer);
        let (Some(records), Some(peer)) = (records, peer) else {
            return;
        };
        if let Err(errno) = records.write(&Record { peer, origin }) {
            let region = key.region;
            self.note(Notice::NotKept { region, errno });
        }
    }
}
