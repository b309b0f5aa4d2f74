//! The demo's two partitions.

use super::baseline;
use crate::exit::Failure;
use crate::exit::Kind;
use hv_shmem::layout::PeerId;
use portal_host::GuestSpec;
use portal_host::HostError;
use portal_host::Party;
use portal_resources::RegionHandle;
use portal_vmm::Kvm;
use portal_vmm::Outcome;
use portal_vmm::Sandbox;

/// Bytes of the region: room for a few spans of 1 MiB in each section.
const REGION: u64 = 64 << 20;
/// Peers: the host, A, B, and one to spare.
const PEERS: u16 = 4;
/// Bytes of the common section, for the calls that are answered in place.
const COMMON: u64 = 2 << 20;

/// Two partitions with their agents up, and the host.
pub(crate) struct Pair {
    /// Everything that runs.
    pub(crate) party: Party,
    /// The first partition's peer id.
    pub(crate) a: PeerId,
    /// The second's.
    pub(crate) b: PeerId,
}

impl Pair {
    /// Starts both, each on a core of its own.
    pub(crate) fn start(kvm: &Kvm, sandbox: Sandbox) -> Result<Self, Failure> {
        let region = RegionHandle {
            max_peers: PEERS,
            common: COMMON,
            ..RegionHandle::new("demo", REGION)
        };
        let [one, two] = baseline::cores();
        let guest = |name: &str, cpu| GuestSpec {
            sandbox,
            ..GuestSpec::new(name).on(cpu)
        };
        let specs = vec![guest("A", one), guest("B", two)];
        let party = Party::start(kvm, &region, specs).map_err(|e| failure(&e))?;
        let [a, b] = party.guests.as_slice() else {
            return Err(Failure::new(Kind::Failed, "the demo needs two partitions"));
        };
        let (a, b) = (a.peer, b.peer);
        Ok(Self { party, a, b })
    }

    /// The failure behind an error: a partition that has ended says more than the
    /// wait that it broke.
    pub(crate) fn explain(&self, error: &HostError) -> Failure {
        for (name, outcome) in self.party.ended() {
            if !outcome.is_success() {
                return stopped(&name, &outcome);
            }
        }
        failure(error)
    }

    /// Ends both.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        let names = ["A", "B"];
        let outcomes = self.party.finish().map_err(|e| failure(&e))?;
        for (name, outcome) in names.iter().zip(&outcomes) {
            if !matches!(outcome, Outcome::Exited(0) | Outcome::Stopped) {
                return Err(stopped(name, outcome));
            }
        }
        Ok(())
    }
}

fn stopped(name: &str, outcome: &Outcome) -> Failure {
    let kind = match outcome {
        Outcome::Deadline(_) => Kind::Deadline,
        _ => Kind::Guest,
    };
    Failure::new(kind, format!("partition {name:?} {outcome}"))
}

/// What kind of failure the host's side had.
pub(crate) fn failure(error: &HostError) -> Failure {
    let kind = match error {
        HostError::Vmm(_) => Kind::Host,
        HostError::TooSlow { .. } => Kind::Deadline,
        HostError::Ended { .. } | HostError::Stopped { .. } => Kind::Guest,
        HostError::Input(_) => Kind::Input,
        _ => Kind::Failed,
    };
    Failure::new(kind, error)
}
