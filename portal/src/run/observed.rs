//! What `portal run` shows of itself: on its control socket, and as metrics.

use crate::cli;
use crate::exit::Failure;
use crate::exit::Kind;
use crate::observe;
use crate::print;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use portal_device::inspect::Node;
use portal_device::inspect::Value;
use portal_observe::control;
use portal_observe::control::Observed;
use portal_observe::control::ObservedRegion;
use portal_observe::control::OwnSource;
use portal_protocol::RegionInfo;
use portal_serve::Listener;
use portal_vmm::PartitionObserver;
use portal_vmm::RegionHost;
use portal_vmm::SharedRegion;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Instant;

/// The regions and partitions of this process. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    began: Instant,
    regions: RegionHost,
    partitions: Mutex<Vec<PartitionObserver>>,
}

impl Watched {
    pub(super) fn new(regions: RegionHost) -> Self {
        Self {
            inner: Arc::new(Inner {
                began: Instant::now(),
                regions,
                partitions: Mutex::default(),
            }),
        }
    }

    /// A partition that was built; one that is gone leaves the list by itself.
    pub(super) fn add(&self, partition: PartitionObserver) {
        let partitions = self.inner.partitions.lock();
        partitions
            .unwrap_or_else(PoisonError::into_inner)
            .push(partition);
    }

    /// Makes the control socket and serves the metrics, as asked for. What is
    /// returned takes the socket's path away when it is dropped.
    ///
    /// # Errors
    /// [`Kind::Host`] when nothing can listen there.
    pub(super) fn serve(&self, args: &cli::Run) -> Result<Option<Listener>, Failure> {
        let host = |error: &dyn std::fmt::Display| Failure::new(Kind::Host, error);
        let listener = match &args.control {
            Some(path) => {
                let listener = Listener::packets(path).map_err(|e| host(&e))?;
                let fd = listener.as_fd().try_clone_to_owned();
                let fd = fd.map_err(|e| host(&e))?;
                control::serve(fd, self.inner.clone()).map_err(|e| host(&e))?;
                print::line(format!("control socket {}", path.display()));
                Some(listener)
            }
            None => None,
        };
        if let Some(address) = args.metrics {
            let source = OwnSource::new(self.inner.clone());
            observe::metrics::serve(address, Box::new(source))?;
        }
        Ok(listener)
    }
}

impl Observed for Inner {
    fn tree(&self) -> Node {
        let mut partitions = Node::new();
        let mut held = self
            .partitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        held.retain(|partition| match partition.inspect() {
            Some((name, tree)) => {
                partitions.push(name, tree);
                true
            }
            None => false,
        });
        drop(held);
        let uptime = u64::try_from(self.began.elapsed().as_millis());
        let mut tree = Node::new()
            .with("version", env!("CARGO_PKG_VERSION"))
            .with("pid", u64::from(std::process::id()))
            .with("uptime_ms", uptime.unwrap_or(u64::MAX))
            .with("partitions", partitions);
        for (name, value) in self.regions.inspect().entries() {
            tree.push(name.to_owned(), value.clone());
        }
        tree
    }

    fn regions(&self) -> Vec<ObservedRegion> {
        let tree = self.regions.inspect();
        let live = |name: &str| match tree.get(&format!("regions/{name}/peers")) {
            Some(Value::Node(peers)) => peers.entries().count(),
            _ => 0,
        };
        let regions = self.regions.regions();
        let regions = regions.iter();
        let observed = regions.filter_map(|region| observed(region, live(region.name())));
        observed.collect()
    }
}

/// `None` for a region without storage of its own, or that cannot be read.
fn observed(region: &SharedRegion, live: usize) -> Option<ObservedRegion> {
    let backing = region.backing()?.clone();
    let options = AttachOptions {
        read_only: true,
        ..AttachOptions::default()
    };
    let attached = PortalRegion::attach(region.mapping().mem(), options).ok()?;
    let header = attached.header();
    let layout = &header.layout;
    Some(ObservedRegion {
        info: RegionInfo {
            name: header.name,
            uuid: header.uuid,
            size: layout.size,
            common: layout.common.end - layout.common.start,
            peers: layout.max_peers,
            live: u16::try_from(live).unwrap_or(u16::MAX),
            vectors: 0,
            sectioned: region.enforced(),
            compatible: false,
        },
        backing,
    })
}
