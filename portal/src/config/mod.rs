//! What `portal run` reads: partitions, regions and devices from a TOML file.
//!
//! [`parse`] is pure: text in, [`Config`] or every flaw of it out, each with
//! file, line, column and key. Opening and measuring what the file names is in
//! [`host`]. The file comes from the user who runs the command; it is distrusted
//! as far as mistakes go.
//!
//! The schema is documented for users in the Guide (`configuration.md`).

mod device;
pub(crate) mod host;
mod reader;
mod rules;
mod schema;
mod source;

pub(crate) use reader::parse_number;
pub(crate) use reader::parse_size;
pub(crate) use source::Flaws;
pub(crate) use source::Located;

use portal_resources::DeniedWrites;
use portal_resources::GuestAccess;
use portal_resources::Mapping;
use std::path::PathBuf;

/// A whole configuration file. Every name in it is known to exist, every size
/// and address to fit.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// The regions, in the file's order.
    pub regions: Vec<Region>,
    /// The partitions, in the file's order.
    pub partitions: Vec<Partition>,
}

/// `[[region]]`: memory that partitions share.
#[derive(Debug, Clone)]
pub(crate) struct Region {
    /// Its name, unique among regions.
    pub name: Located<String>,
    /// Bytes, a power of two.
    pub size: Located<u64>,
    /// Peer slots, the host's slot 0 among them.
    pub peers: Located<u64>,
    /// Bytes of the common read-write section; 0 for none.
    pub common: Located<u64>,
    /// Where the memory comes from.
    pub backing: Backing,
}

/// Where a region's memory comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Backing {
    /// Anonymous memory with seals, freed with the last user.
    Memfd,
    /// The same of 2 MiB pages from the host's pool.
    HugePages(Located<()>),
    /// A file, made by `portal region create`, that outlives the run.
    File(Located<PathBuf>),
    /// `portal serve` has it, at this Portal socket; its size is known when it is
    /// joined, and is 0 here.
    Served(Located<PathBuf>),
}

/// `[[partition]]`: one virtual machine.
#[derive(Debug, Clone)]
pub(crate) struct Partition {
    /// Its name, unique among partitions.
    pub name: Located<String>,
    /// Virtual processors.
    pub vcpus: Located<u64>,
    /// Bytes of guest RAM.
    pub ram: Located<u64>,
    /// Most interrupts a second that a vector may bring.
    pub interrupt_budget: Option<Located<u64>>,
    /// Whether a Linux guest has an IOMMU.
    pub iommu: bool,
    /// What it runs.
    pub guest: Guest,
    /// Where its console's output goes.
    pub console: Output,
    /// What happens when it resets itself.
    pub on_reset: OnReset,
    /// Its devices, in the order in which they get their places on the bus.
    pub devices: Vec<Device>,
}

impl Partition {
    /// The region that the built-in agent joins: the one behind the first ivshmem
    /// v1 device, else the first at a fixed address.
    pub(crate) fn agent_region(&self) -> Option<&str> {
        let behind = |d: &&Device| matches!(d.place, Place::Ivshmem { .. });
        let fixed = |d: &&Device| matches!(d.place, Place::Fixed { .. });
        let mut devices = self.devices.iter();
        let first = devices.clone().find(behind).or_else(|| devices.find(fixed));
        first?.region.as_ref().map(|region| region.value.as_str())
    }
}

/// What a partition runs.
#[derive(Debug, Clone)]
pub(crate) enum Guest {
    /// The built-in WARP kernel with its agent, which carries out tasks.
    Warp {
        /// In order; none: the agent joins and answers the other agents.
        tasks: Vec<Task>,
    },
    /// A flat 64-bit image of the user's own.
    Image {
        /// The file.
        path: Located<PathBuf>,
        /// Its command line.
        cmdline: Option<Located<String>>,
    },
    /// A Linux kernel.
    Linux {
        /// A bzImage or an ELF file.
        kernel: Located<PathBuf>,
        /// Its initial RAM file system.
        initrd: Option<Located<PathBuf>>,
        /// Its command line.
        cmdline: Option<Located<String>>,
    },
}

/// What a reset of a partition by itself comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnReset {
    /// It starts again from its files, as the same peers.
    Restart,
    /// It has ended.
    Stop,
}

/// Where a partition's console output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    /// To the terminal, each line with the partition's name in front.
    Prefix,
    /// The terminal is the console: bytes as they are, both ways.
    Terminal,
    /// Into a file, which is emptied first.
    File(Located<PathBuf>),
}

/// `[[partition.task]]`: one thing that a built-in agent is asked to do.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    /// What.
    pub what: TaskKind,
    /// The partition at the other end.
    pub peer: Located<String>,
}

/// What an agent can be asked to do with the agent at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TaskKind {
    /// Round trips through a ring each way.
    Ping {
        /// How many.
        rounds: u32,
    },
    /// Round trips by doorbell and interrupt.
    Doorbell {
        /// How many.
        rounds: u32,
    },
    /// Bytes as 1 MiB spans.
    Stream {
        /// How many bytes.
        bytes: u64,
    },
}

/// `[[partition.device]]`: a way in which a partition gets at a region or a file.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    /// The region's name; `None` for a file.
    pub region: Option<Located<String>>,
    /// How it appears to the guest.
    pub place: Place,
}

/// How a region appears to a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// As BAR2 of an ivshmem v1 device on the PCI bus, with doorbells.
    Ivshmem {
        /// MSI-X vectors.
        vectors: Located<u64>,
        /// What of it the guest may write.
        mapping: Mapping,
        /// What any other store of the guest comes to.
        denied_writes: DeniedWrites,
    },
    /// As BAR2 of an ivshmem v2 device, its sections enforced.
    Ivshmem2 {
        /// MSI-X vectors.
        vectors: Located<u64>,
        /// Whether the guest may write its own and the common section.
        access: GuestAccess,
        /// One-shot interrupts always.
        one_shot: bool,
        /// What any other store of the guest comes to.
        denied_writes: DeniedWrites,
    },
    /// As a virtio-pmem device, whole.
    Pmem {
        /// A file of the user's own instead of a region.
        path: Option<Located<PathBuf>>,
        /// Whether the guest may write.
        access: GuestAccess,
    },
    /// At a guest physical address, told by the boot information.
    Fixed {
        /// The address.
        gpa: Located<u64>,
        /// What of it the guest may write.
        mapping: Mapping,
        /// What any other store of the guest comes to.
        denied_writes: DeniedWrites,
    },
}

/// Reads and checks a configuration file's text; `file` is its name in errors.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub(crate) fn parse(file: &str, text: &str) -> Result<Config, Flaws> {
    let mut flaws = Vec::new();
    let config = schema::read(text, &mut flaws);
    // Rules about several values speak only of a file whose values were read.
    if flaws.is_empty() {
        rules::check(&config, &mut flaws);
    }
    if flaws.is_empty() {
        Ok(config)
    } else {
        Err(Flaws::new(file, text, flaws))
    }
}
