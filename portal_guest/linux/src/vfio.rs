//! Doorbells as MSI-X messages through VFIO, where the machine has an IOMMU.
//!
//! Specification: `Documentation/driver-api/vfio.rst`, groups and containers. The
//! function does no DMA of its own; the IOMMU is what lets the kernel hand its
//! interrupts to user space. Memory and registers stay with sysfs: VFIO's own
//! mappings are uncached. Distrusted: peers may ring at any rate; an event fd counts.
#![expect(unsafe_code, reason = "VFIO's ioctls")]

use crate::GuestError;
use crate::pci::Function;
use hv_shmem::doorbell::Bell;
use hv_shmem::doorbell::DoorbellError;
use hv_shmem::doorbell::EventFd;
use hv_shmem::doorbell::Heard;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;
use vfio_bindings::bindings::vfio;

/// The driver.
pub(crate) const DRIVER: &str = "vfio-pci";

/// `VFIO_SET_IOMMU`, `VFIO_GROUP_*`, `VFIO_DEVICE_*` (`<linux/vfio.h>`): `_IO` of the
/// type and a number.
const fn request(number: u32) -> libc::c_ulong {
    (vfio::VFIO_TYPE << 8 | (vfio::VFIO_BASE + number)) as libc::c_ulong
}
const SET_IOMMU: libc::c_ulong = request(2);
const GROUP_GET_STATUS: libc::c_ulong = request(3);
const GROUP_SET_CONTAINER: libc::c_ulong = request(4);
const GROUP_GET_DEVICE_FD: libc::c_ulong = request(6);
const DEVICE_SET_IRQS: libc::c_ulong = request(10);

/// `struct vfio_irq_set` with one event fd.
#[repr(C)]
struct OneEvent {
    argsz: u32,
    flags: u32,
    index: u32,
    start: u32,
    count: u32,
    event: i32,
}

/// Hears doorbells on vector 0 by MSI-X.
#[derive(Debug)]
pub struct MsixBell {
    event: EventFd,
    // Closing any of these takes the interrupt away.
    _device: OwnedFd,
    _group: File,
    _container: File,
}

impl MsixBell {
    /// Gives the function to VFIO and has vector 0 delivered.
    ///
    /// # Errors
    /// [`GuestError::NoInterrupts`] without an IOMMU, or when VFIO does not take it.
    pub fn open(function: &Function) -> Result<Self, GuestError> {
        let failed = |why: String| GuestError::NoInterrupts {
            device: function.address(),
            driver: DRIVER,
            why,
        };
        let group = function.iommu_group().ok_or_else(|| {
            failed("this machine has no IOMMU (use uio_pci_generic or polling)".to_owned())
        })?;
        function.bind(DRIVER)?;
        let open = |path: &Path| {
            let file = File::options().read(true).write(true).open(path);
            file.map_err(|e| failed(format!("open {}: {e}", path.display())))
        };
        let container = open(Path::new("/dev/vfio/vfio"))?;
        let group = open(&Path::new("/dev/vfio").join(group))?;
        let device = attach(&container, &group, &function.address())
            .map_err(|(what, e)| failed(format!("{what}: {e}")))?;
        // Opening the device has taken this away.
        let config = function.config()?;
        config.decode_memory()?;
        config.master()?;
        let event = EventFd::new()?;
        let set = OneEvent {
            argsz: size_of::<OneEvent>() as u32,
            flags: vfio::VFIO_IRQ_SET_DATA_EVENTFD | vfio::VFIO_IRQ_SET_ACTION_TRIGGER,
            index: vfio::VFIO_PCI_MSIX_IRQ_INDEX,
            start: 0,
            count: 1,
            event: event.as_fd().as_raw_fd(),
        };
        // SAFETY: `set` is what the request reads, and as long as it says.
        unsafe { ioctl(&device, DEVICE_SET_IRQS, (&raw const set).cast()) }
            .map_err(|e| failed(format!("enable MSI-X: {e}")))?;
        Ok(Self {
            event,
            _device: device,
            _group: group,
            _container: container,
        })
    }
}

/// Puts the group into the container and opens the device.
fn attach(
    container: &File,
    group: &File,
    address: &str,
) -> Result<OwnedFd, (&'static str, io::Error)> {
    let mut status = vfio::vfio_group_status {
        argsz: size_of::<vfio::vfio_group_status>() as u32,
        flags: 0,
    };
    // SAFETY: `status` is what the request reads and writes, as long as it says.
    unsafe { ioctl(group, GROUP_GET_STATUS, (&raw mut status).cast()) }
        .map_err(|e| ("look at the IOMMU group", e))?;
    if status.flags & vfio::VFIO_GROUP_FLAGS_VIABLE == 0 {
        let other = "another function of its IOMMU group has a driver of its own";
        return Err(("use the IOMMU group", io::Error::other(other)));
    }
    let fd = container.as_raw_fd();
    // SAFETY: the request reads one i32.
    unsafe { ioctl(group, GROUP_SET_CONTAINER, (&raw const fd).cast()) }
        .map_err(|e| ("put the IOMMU group into a container", e))?;
    // SAFETY: this request takes its argument by value.
    unsafe { ioctl(container, SET_IOMMU, vfio::VFIO_TYPE1v2_IOMMU as *const u8) }
        .map_err(|e| ("use the IOMMU (modprobe vfio_iommu_type1)", e))?;
    let name = CString::new(address).map_err(|e| ("name the device", e.into()))?;
    // SAFETY: the request reads a NUL-terminated string.
    let device = unsafe { ioctl(group, GROUP_GET_DEVICE_FD, name.as_ptr().cast()) }
        .map_err(|e| ("open the device", e))?;
    // SAFETY: a new file descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(device) })
}

/// # Safety
/// `argument` is what `request` wants, for reading or writing as many bytes as it does.
unsafe fn ioctl(
    fd: &impl AsRawFd,
    request: libc::c_ulong,
    argument: *const u8,
) -> io::Result<libc::c_int> {
    // SAFETY: the caller's promise.
    match unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) } {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

impl Bell for MsixBell {
    fn wait(&self, timeout: Option<Duration>) -> Result<Heard, DoorbellError> {
        self.event.wait(timeout)
    }
}
