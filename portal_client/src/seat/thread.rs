//! The thread: waits for what there is to hear, and for what is to be passed on.

use super::changes::Standing;
use super::shared::Bell;
use super::shared::Shared;
use super::shared::locked;
use crate::ClientError;
use hv_shmem::doorbell::Doorbell as _;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of the thread's stack.
const STACK: usize = 128 << 10;
/// How often a switchboard that is gone is looked for; it pauses longer by itself.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 25_000_000,
};
/// Events that are taken in before whoever wants the peer gets it: peers may come and
/// go as fast as they can.
const AT_ONCE: usize = 256;

pub(super) fn start(shared: Arc<Shared>) -> Result<(), ClientError> {
    std::thread::Builder::new()
        .name("portal-seat".to_owned())
        .stack_size(STACK)
        .spawn(move || shared.run())
        .map_err(ClientError::NoThread)?;
    Ok(())
}

impl Shared {
    fn run(&self) {
        while !self.tables(|tables| tables.left) {
            self.wait();
            if self.tables(|tables| tables.anew) {
                self.begin_anew_now();
            }
            if self.hear() {
                self.tell();
            }
        }
    }

    /// Until there is something to hear, or it is time to look for the switchboard.
    fn wait(&self) {
        let socket = locked(&self.peer).as_ref().and_then(|peer| {
            let fd = peer.fd()?;
            fd.try_clone_to_owned().ok()
        });
        let (standing, anew, passed_on) =
            self.tables(|tables| (tables.standing, tables.anew, tables.passed_on.clone()));
        let looks = socket.is_none() && (anew || standing != Standing::Lost);
        let mut fds = vec![PollFd::new(&self.wake, PollFlags::IN)];
        fds.extend(socket.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let bells = passed_on.iter();
        fds.extend(bells.map(|bell| PollFd::from_borrowed_fd(bell.as_fd(), PollFlags::IN)));
        // An interrupted wait is a look too many.
        let _ = rustix::event::poll(&mut fds, looks.then_some(&LOOK));
        let _ = self.wake.take();
        self.pass_on(&passed_on);
    }

    /// What peers of QEMU's protocol ring goes on to the own events.
    fn pass_on(&self, passed_on: &[Bell]) {
        for (vector, from) in passed_on.iter().enumerate() {
            if matches!(from.take(), Ok(true)) {
                let own = self.change(|tables| {
                    tables.rung_by_hop.bump();
                    tables.own.get(vector).cloned()
                });
                let _ = own.map(|own| own.ring());
            }
        }
    }

    /// Takes in what there is; true when somebody may want to know.
    pub(super) fn hear(&self) -> bool {
        let mut place = locked(&self.peer);
        let Some(peer) = place.as_mut() else {
            return self.tables(|tables| tables.standing == Standing::Lost);
        };
        let mut news = self.change(|tables| std::mem::take(&mut tables.sat_down));
        for turn in 0..AT_ONCE {
            match peer.wait(Some(Duration::ZERO)) {
                Ok(Some(_)) => news = true,
                Ok(None) => break,
                // Then it may be for the next life.
                Err(_) if self.tables(|tables| tables.anew) => break,
                Err(error) => {
                    *place = None;
                    self.lose(&error);
                    return true;
                }
            }
            if turn + 1 == AT_ONCE {
                let _ = self.wake.ring();
            }
        }
        let standing = match peer.is_attached() {
            true => Standing::Attached,
            false => Standing::Away,
        };
        if news {
            self.change(|tables| {
                tables.standing = standing;
                tables.others = peer.neighbours().clone();
                tables.version += 1;
            });
        }
        news
    }
}
