//! Getting a vCPU thread out of `KVM_RUN` from another thread, without a race.
//!
//! A kick sets `immediate_exit` in the vCPU's shared page and then signals the
//! thread. Whichever of the two the thread meets first ends the entry: inside
//! the guest the signal does, before the entry the flag does. The flag is
//! written through a mapping of its own, so that no reference to the page that
//! `kvm-ioctls` holds is aliased.
#![expect(
    unsafe_code,
    reason = "an atomic byte in a page shared with the kernel, and tgkill"
)]

use crate::VmmError;
use crate::hv::Kick;
use kvm_bindings::kvm_run;
use rustix::mm::MapFlags;
use rustix::mm::ProtFlags;
use std::ffi::c_int;
use std::ffi::c_void;
use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::ptr::null_mut;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;
use vmm_sys_util::signal::register_signal_handler;

/// Bytes of `kvm_run` that are mapped here; its fixed part is shorter.
const PAGE: usize = 4096;

/// The signal that ends a guest entry; its handler does nothing.
fn kick_signal() -> c_int {
    libc::SIGRTMIN()
}

extern "C" fn ignore(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {}

pub(super) struct Kicker {
    page: *mut c_void,
    /// Thread that runs the vCPU, while one does.
    thread: Mutex<Option<libc::pid_t>>,
}

// SAFETY: the page is touched only through an atomic.
unsafe impl Send for Kicker {}
// SAFETY: as above.
unsafe impl Sync for Kicker {}

impl Kicker {
    pub(super) fn new(vcpu: &impl AsRawFd) -> Result<Self, VmmError> {
        static HANDLER: OnceLock<Result<(), vmm_sys_util::errno::Error>> = OnceLock::new();
        HANDLER
            .get_or_init(|| register_signal_handler(kick_signal(), ignore))
            .map_err(|errno| VmmError::kvm("sigaction", errno))?;
        // SAFETY: the descriptor is open for the duration of this call.
        let fd = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
        // SAFETY: a new shared mapping of the vCPU's page at an address of the
        // kernel's choice; it keeps the page alive by itself.
        let page = unsafe {
            rustix::mm::mmap(
                null_mut(),
                PAGE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                0,
            )
        }
        .map_err(|errno| VmmError::Hypervisor {
            call: "mmap of the vCPU",
            source: errno.into(),
        })?;
        Ok(Self {
            page,
            thread: Mutex::new(None),
        })
    }

    fn flag(&self) -> &AtomicU8 {
        let byte = self
            .page
            .wrapping_byte_add(offset_of!(kvm_run, immediate_exit));
        // SAFETY: inside the mapped page, which lives as long as `self`; in this
        // mapping the byte is only ever accessed atomically.
        unsafe { AtomicU8::from_ptr(byte.cast()) }
    }

    pub(super) fn clear(&self) {
        self.flag().store(0, Ordering::SeqCst);
    }

    pub(super) fn bind(&self) {
        let id = rustix::thread::gettid().as_raw_nonzero().get();
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
    }
}

impl Kick for Kicker {
    fn kick(&self) {
        self.flag().store(1, Ordering::SeqCst);
        // Held across the signal, so that the thread cannot end in between and
        // its number go to another one.
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = *thread {
            // SAFETY: a signal with a handler that does nothing, to a thread of
            // this process that is still there.
            unsafe {
                libc::syscall(libc::SYS_tgkill, libc::getpid(), id, kick_signal());
            }
        }
    }

    fn unbind(&self) {
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Drop for Kicker {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and the last user is gone.
        let _ = unsafe { rustix::mm::munmap(self.page, PAGE) };
    }
}
