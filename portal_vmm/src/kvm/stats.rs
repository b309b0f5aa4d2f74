//! KVM's binary statistics (kernel documentation, `virt/kvm/api.rst`, 4.133
//! `KVM_GET_STATS_FD`): named counters of one vCPU, read without stopping it.
//!
//! The file's layout is described by the kernel at run time; every offset in it
//! is checked all the same, so that a kernel of another version is an error
//! and not a wrong number.
#![expect(unsafe_code, reason = "KVM_GET_STATS_FD has no binding")]

use kvm_bindings::KVMIO;
use rustix::io::pread;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);

/// Bytes of `struct kvm_stats_header` and of the fixed part of a descriptor.
const HEADER: usize = 24;
const DESCRIPTOR: usize = 16;
/// More descriptors or longer names than this are not believed.
const MAX_DESCRIPTORS: u32 = 1024;
const MAX_NAME: u32 = 256;

/// Why statistics cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// The descriptor cannot be read.
    #[error("reading KVM statistics: {0}")]
    Io(#[from] io::Error),
    /// The kernel's description of its own file is not plausible.
    #[error("KVM statistics: {field} is {value}, the limit is {limit}")]
    Layout {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u32,
        /// What is believed at most.
        limit: u32,
    },
}

pub(super) fn open(vcpu: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: no argument; returns a new descriptor or -1.
    let fd = unsafe { ioctl(vcpu, KVM_GET_STATS_FD()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Reads the scalar counters of one vCPU by name.
#[derive(Debug)]
pub struct StatsReader {
    fd: OwnedFd,
    /// Name and file offset of each one-word counter.
    counters: Vec<(String, u64)>,
}

impl StatsReader {
    /// Takes a statistics descriptor and reads its description.
    ///
    /// # Errors
    /// [`StatsError`].
    pub fn new(fd: OwnedFd) -> Result<Self, StatsError> {
        let mut header = [0; HEADER];
        read_exact(&fd, &mut header, 0)?;
        let word = |at: usize| {
            let bytes = header.get(at..at + 4).and_then(|b| b.try_into().ok());
            bytes.map_or(0, u32::from_ne_bytes)
        };
        let (name_size, count) = (word(4), word(8));
        let (descriptors_at, data_at) = (u64::from(word(16)), u64::from(word(20)));
        for (field, value, limit) in [
            ("name_size", name_size, MAX_NAME),
            ("num_desc", count, MAX_DESCRIPTORS),
        ] {
            if value > limit {
                return Err(StatsError::Layout {
                    field,
                    value,
                    limit,
                });
            }
        }
        let stride = DESCRIPTOR + name_size as usize;
        let mut table = vec![0; stride * count as usize];
        read_exact(&fd, &mut table, descriptors_at)?;
        let mut counters = Vec::new();
        for entry in table.chunks_exact(stride) {
            let (fixed, name) = entry.split_at(DESCRIPTOR);
            let words = fixed.get(6..8).and_then(|b| b.try_into().ok());
            let offset = fixed.get(8..12).and_then(|b| b.try_into().ok());
            let (Some(words), Some(offset)) = (words, offset) else {
                continue;
            };
            if u16::from_ne_bytes(words) != 1 {
                continue;
            }
            let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
            let name = String::from_utf8_lossy(name.get(..end).unwrap_or_default());
            let at = data_at + u64::from(u32::from_ne_bytes(offset));
            counters.push((name.into_owned(), at));
        }
        Ok(Self { fd, counters })
    }

    /// Every counter's value now.
    ///
    /// # Errors
    /// [`StatsError::Io`].
    pub fn read(&self) -> Result<BTreeMap<String, u64>, StatsError> {
        let mut values = BTreeMap::new();
        for (name, at) in &self.counters {
            let mut value = [0; 8];
            read_exact(&self.fd, &mut value, *at)?;
            values.insert(name.clone(), u64::from_ne_bytes(value));
        }
        Ok(values)
    }
}

fn read_exact(fd: &OwnedFd, mut to: &mut [u8], mut at: u64) -> Result<(), StatsError> {
    while !to.is_empty() {
        let n = match pread(fd, &mut *to, at) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(n) => n,
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(io::Error::from(errno).into()),
        };
        to = to.get_mut(n..).unwrap_or_default();
        at += n as u64;
    }
    Ok(())
}
