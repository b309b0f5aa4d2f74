//! A region with two peers in a file that goes away with it: for goals in which
//! somebody else opens the region too.

use super::place::failed;
use crate::BenchError;
use crate::harness::clock;
use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingConfig;
use hv_shmem::backing::MappedMem;
use hv_shmem::backing::Mapping;
use hv_shmem::backing::Storage;
use hv_shmem::backing::View;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::name::Name;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

/// A file that is gone when this is dropped.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Nothing to do about a file that somebody else removed.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The region, kept for as long as anybody uses it.
#[derive(Debug)]
pub(super) struct TwoPeers {
    file: Temporary,
    mapping: Mapping,
    _backing: Backing,
    _host: HostPages<MappedMem>,
}

impl TwoPeers {
    /// Who is in it.
    pub(super) const PEERS: [PeerId; 2] = [PeerId(0), PeerId(1)];

    /// A region of `bytes` bytes whose peers, two host processes, have these names.
    pub(super) fn create(bytes: u64, names: [&str; 2]) -> Result<Self, BenchError> {
        static CREATED: AtomicU32 = AtomicU32::new(0);
        let number = CREATED.fetch_add(1, Ordering::Relaxed);
        let name = format!("portal_bench.{}.{number}", std::process::id());
        let folders = ["/dev/shm", "/tmp"].map(Path::new);
        let folder = folders.into_iter().find(|it| it.is_dir());
        let folder =
            folder.ok_or_else(|| BenchError::Unavailable("no /dev/shm and no /tmp".into()))?;
        let file = Temporary(folder.join(&name));
        let spec = RegionSpec::new(Name::new(&name).map_err(failed)?, bytes, 2);
        let config = BackingConfig {
            storage: Storage::File(file.0.clone()),
            numa_node: None,
            populate: true,
        };
        let backing = Backing::create(&spec, &config).map_err(failed)?;
        let mapping = backing.map(View::OWNER).map_err(failed)?;
        let uuid = uuid::Uuid::from_u64_pair(std::process::id().into(), clock::ticks());
        let mut host = HostPages::format(mapping.mem(), &spec, uuid).map_err(failed)?;
        for (peer, name) in Self::PEERS.into_iter().zip(names) {
            let name = Name::new(name).map_err(failed)?;
            host.admit(peer, name, PeerKind::HostProcess, Rights::ALL, 1)
                .map_err(failed)?;
        }
        Ok(Self {
            file,
            mapping,
            _backing: backing,
            _host: host,
        })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.file.0
    }

    /// The region, for a peer of this process.
    pub(super) fn attach(&self) -> Result<PortalRegion<MappedMem>, BenchError> {
        PortalRegion::attach(self.mapping.mem(), AttachOptions::default()).map_err(failed)
    }
}
