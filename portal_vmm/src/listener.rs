//! One thread for the events that no kernel path delivers: it waits for all of
//! them and tells each one's device.
//!
//! Used for INTx, whose status register the device keeps, on hosts without irqfd,
//! and for partitions with a budget of interrupts. A vector with an interrupt
//! route never comes here. The thread starts with the first event that needs it
//! and stays; its fences are those of the partition that needed it first.
//!
//! Distrusted: whoever rings. An event counts up and is taken at once, however
//! often it rang. With a budget, it is not even looked at again before its time
//! has come: a flood costs this thread as little as it costs the partition.

use crate::Sandbox;
use crate::VmmError;
use crate::partition::Shared;
use crate::sandbox;
use crate::sandbox::ThreadKind;
use hv_shmem::doorbell::EventFd;
use portal_device::Input;
use rustix::event::Timespec;
use rustix::event::epoll;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::Weak;
use std::time::Duration;
use std::time::Instant;

/// Bytes of the thread's stack.
const STACK: usize = 128 << 10;
/// Events taken from the kernel at a time.
const BATCH: usize = 64;

/// The partition that an event's device is in; set once it is built.
pub(crate) type Owner = Arc<OnceLock<Weak<Shared>>>;

#[derive(Clone)]
struct Target {
    owner: Owner,
    device: usize,
    vector: u16,
    bell: Arc<EventFd>,
    /// Shortest time between two interrupts; zero is no limit.
    gap: Duration,
}

impl Target {
    /// With a limit, the event is switched off when it has rung, until it may
    /// ring again.
    fn flags(gap: Duration) -> epoll::EventFlags {
        let how = match gap.is_zero() {
            true => epoll::EventFlags::ET,
            false => epoll::EventFlags::ONESHOT,
        };
        epoll::EventFlags::IN | how
    }
}

struct Listener {
    epoll: OwnedFd,
    targets: Mutex<Targets>,
}

#[derive(Default)]
struct Targets {
    next: u64,
    by_token: BTreeMap<u64, Target>,
}

/// An event that is listened to. Dropping it ends that; the event keeps what it
/// holds.
pub(crate) struct Listening {
    token: u64,
    bell: Arc<EventFd>,
    gap: Duration,
}

fn failed(call: &'static str, errno: Errno) -> VmmError {
    VmmError::Hypervisor {
        call,
        source: errno.into(),
    }
}

/// The process's listener, started when it is not there yet.
fn listener(fences: Sandbox) -> Result<&'static Arc<Listener>, VmmError> {
    static LISTENER: OnceLock<Arc<Listener>> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    let _one = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(listener) = LISTENER.get() {
        return Ok(listener);
    }
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC);
    let listener = Arc::new(Listener {
        epoll: epoll.map_err(|errno| failed("epoll_create1", errno))?,
        targets: Mutex::default(),
    });
    let thread = listener.clone();
    std::thread::Builder::new()
        .name("portal-listen".to_owned())
        .stack_size(STACK)
        .spawn(move || match sandbox::enter(ThreadKind::Listener, fences) {
            Ok(()) => thread.run(),
            Err(error) => tracing::error!(%error, "INTx is not delivered"),
        })
        .map_err(|source| VmmError::Hypervisor {
            call: "starting the listener's thread",
            source,
        })?;
    Ok(LISTENER.get_or_init(|| listener))
}

/// From now on every ring of `bell` is an [`Input::Rung`] of that device, with
/// at least `gap` between two of them; rings in between are one.
///
/// # Errors
/// [`VmmError::Hypervisor`].
pub(crate) fn listen(
    owner: &Owner,
    fences: Sandbox,
    device: usize,
    vector: u16,
    bell: Arc<EventFd>,
    gap: Duration,
) -> Result<Listening, VmmError> {
    let listener = listener(fences)?;
    let mut targets = listener.targets();
    let token = targets.next;
    targets.next += 1;
    targets.by_token.insert(
        token,
        Target {
            owner: owner.clone(),
            device,
            vector,
            bell: bell.clone(),
            gap,
        },
    );
    drop(targets);
    let added = epoll::add(
        &listener.epoll,
        &*bell,
        epoll::EventData::new_u64(token),
        Target::flags(gap),
    );
    if let Err(errno) = added {
        listener.targets().by_token.remove(&token);
        return Err(failed("epoll_ctl", errno));
    }
    Ok(Listening { token, bell, gap })
}

impl Listening {
    /// Looks again: what rang while nobody could be told is told now.
    pub(crate) fn again(&self) {
        if let Ok(listener) = listener(Sandbox::default()) {
            let data = epoll::EventData::new_u64(self.token);
            let flags = Target::flags(self.gap);
            // An event that is gone has nothing to tell.
            let _ = epoll::modify(&listener.epoll, &*self.bell, data, flags);
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Ok(listener) = listener(Sandbox::default()) {
            listener.targets().by_token.remove(&self.token);
            // Fails only when the event is not there any more.
            let _ = epoll::delete(&listener.epoll, &*self.bell);
        }
    }
}

impl Listener {
    fn targets(&self) -> MutexGuard<'_, Targets> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut events = Vec::with_capacity(BATCH);
        // When which event may ring again: at most one entry for each.
        let mut resting = BTreeSet::new();
        loop {
            let left = self.wake_rested(&mut resting);
            events.clear();
            let space = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, space, left.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => {
                    tracing::error!(%errno, "INTx is not delivered any more");
                    return;
                }
            }
            for event in &events {
                let token = event.data.u64();
                let target = self.targets().by_token.get(&token).cloned();
                if let Some(target) = target {
                    target.tell();
                    if !target.gap.is_zero() {
                        resting.insert((Instant::now() + target.gap, token));
                    }
                }
            }
        }
    }

    /// Switches events on again whose time has come; how long until the next.
    fn wake_rested(&self, resting: &mut BTreeSet<(Instant, u64)>) -> Option<Timespec> {
        let now = Instant::now();
        while let Some(&(due, token)) = resting.first() {
            if due > now {
                let left = due - now;
                return Some(Timespec {
                    tv_sec: left.as_secs() as i64,
                    tv_nsec: left.subsec_nanos().into(),
                });
            }
            resting.pop_first();
            if let Some(target) = self.targets().by_token.get(&token) {
                let data = epoll::EventData::new_u64(token);
                // Fails only when the event is not there any more.
                let _ = epoll::modify(&self.epoll, &*target.bell, data, Target::flags(target.gap));
            }
        }
        None
    }
}

impl Target {
    fn tell(&self) {
        // Not built yet: what the event holds stays there (see `again`).
        let Some(owner) = self.owner.get() else {
            return;
        };
        if let Some(shared) = owner.upgrade()
            && matches!(self.bell.take(), Ok(true))
        {
            let vector = self.vector;
            if let Err(cause) = shared.platform.tell(self.device, Input::Rung { vector }) {
                shared.stopped_by(None, None, cause);
            }
        }
    }
}
