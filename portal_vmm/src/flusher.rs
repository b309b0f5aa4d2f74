//! Makes storage durable beside the vCPUs: one thread a device, so that a guest
//! that flushes waits for its own disk alone and no vCPU does.
//!
//! The thread starts with the device, takes one job at a time and ends with the
//! device. A flush is `fdatasync` of the whole file: stores of every partition that
//! maps it, and more than the range that was asked for.

use crate::Sandbox;
use crate::VmmError;
use crate::listener::Owner;
use crate::sandbox;
use crate::sandbox::ThreadKind;
use crate::storage::Storage;
use portal_device::Input;
use std::os::fd::OwnedFd;
use std::sync::mpsc;

/// Bytes of the thread's stack.
const STACK: usize = 128 << 10;

/// A device's flusher. Dropping it ends the thread after the job that it is at.
pub(crate) struct Flusher {
    jobs: mpsc::Sender<u32>,
}

impl Flusher {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`VmmError::Storage`] without a descriptor to spare, [`VmmError::Hypervisor`]
    /// without a thread.
    pub(crate) fn start(
        storage: &Storage,
        owner: Owner,
        device: usize,
        fences: Sandbox,
    ) -> Result<Self, VmmError> {
        let file = storage.file().map_err(|error| VmmError::Storage {
            storage: storage.name().to_owned(),
            reason: format!("cannot copy its descriptor: {error}"),
        })?;
        let name = storage.name().to_owned();
        // One flush of a device runs at a time: there is never more than one job.
        let (jobs, waiting) = mpsc::channel();
        std::thread::Builder::new()
            .name("portal-flush".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                let fenced = sandbox::enter(ThreadKind::Flusher, fences);
                if let Err(error) = &fenced {
                    tracing::error!(storage = name, %error, "flushes fail");
                }
                for token in waiting {
                    let ok = fenced.is_ok() && flush(&name, &file);
                    let Some(shared) = owner.get().and_then(std::sync::Weak::upgrade) else {
                        return;
                    };
                    let input = Input::Flushed { token, ok };
                    if let Err(cause) = shared.platform.tell(device, input) {
                        shared.stopped_by(None, None, cause);
                    }
                }
            })
            .map_err(|source| VmmError::Hypervisor {
                call: "starting a flusher's thread",
                source,
            })?;
        Ok(Self { jobs })
    }

    /// Asks for a flush; [`Input::Flushed`] answers. False when the thread is gone.
    pub(crate) fn flush(&self, token: u32) -> bool {
        self.jobs.send(token).is_ok()
    }
}

fn flush(storage: &str, file: &OwnedFd) -> bool {
    match rustix::fs::fdatasync(file) {
        Ok(()) => true,
        Err(errno) => {
            tracing::error!(storage, %errno, "cannot make it durable; the guest is told");
            false
        }
    }
}
