//! Goals 106 to 108: what one peer more costs a switchboard.
//!
//! The switchboard is a second process that keeps records of its peers, as a daemon
//! does. One peer attaches (connects, joins, gets the memory, every other peer and its
//! events) among N others and leaves again. All have two vectors. The others do not
//! ring, and so hold no events of each other: 512 peers in one process would need half
//! a million descriptors. What they are told they read between two samples.

use super::Bench;
use super::Measured;
use super::place::failed;
use crate::BenchError;
use crate::goal::GoalSpec;
use crate::harness::child::Child;
use crate::harness::child::Job;
use crate::harness::contest::Against;
use crate::harness::contest::Contender;
use crate::harness::contest::Sample;
use hv_shmem::peers::Rights;
use portal_client::Connection;
use portal_client::JoinOptions;
use portal_client::Peer;
use portal_serve::Daemon;
use portal_serve::Options;
use portal_serve::PortalSocket;
use portal_serve::RegionConfig;
use rustix::process::Resource;
use std::os::fd::AsFd;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

/// Vectors of a peer.
const VECTORS: u16 = 2;
/// Others that goal 106 attaches among, and goal 107 as its baseline.
const FEW: u16 = 64;
/// Others that goal 107 attaches among.
const MANY: u16 = 512;
/// Attaches a sample, of which the median counts.
const ATTACHES: usize = 9;
/// Goal 106: longest time, in milliseconds.
const LONGEST_MS: f64 = 5.0;
/// Goal 108: most resident memory a peer, in KiB.
const MOST_KIB: f64 = 64.0;

/// In the child: one flat region, its records kept, until standard input ends.
pub(crate) fn serve(folder: &Path, began: impl FnOnce()) -> Result<(), BenchError> {
    let region = format!(
        "lake,size=16777216,peers=600,vectors={VECTORS},leaves=announced,socket={}",
        folder.join("lake.sock").display()
    );
    let region = RegionConfig::parse(&region, |text| text.parse().ok()).map_err(failed)?;
    let options = Options {
        portal: PortalSocket::At(folder.join("portal.sock")),
        state: Some(folder.join("state")),
        ..Options::default()
    };
    let daemon = Daemon::new(&[region], &options).map_err(failed)?;
    began();
    let stop = std::io::stdin();
    daemon.run(stop.as_fd(), &mut |_| ()).map_err(failed)
}

/// A folder in memory that is gone when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, BenchError> {
        let name = format!(
            "portal_bench.{}.{}",
            std::process::id(),
            crate::harness::clock::ticks()
        );
        let path = Path::new("/dev/shm").join(name);
        std::fs::create_dir(&path).map_err(BenchError::os("making a folder in /dev/shm"))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing to do about what somebody else removed.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A switchboard and peers that are there.
struct Crowd {
    others: Vec<Peer>,
    /// Resident memory of the switchboard with one peer, and with all, in KiB.
    resident: [f64; 2],
    switchboard: Child,
    folder: Folder,
}

impl Crowd {
    fn new(count: u16) -> Result<Self, BenchError> {
        let most = rustix::process::getrlimit(Resource::Nofile);
        let raised = rustix::process::Rlimit {
            current: most.maximum,
            ..most
        };
        // Where this is refused, joining says so.
        let _ = rustix::process::setrlimit(Resource::Nofile, raised);
        let folder = Folder::new()?;
        let switchboard = Child::start(&Job::Switchboard {
            folder: folder.0.clone(),
        })?;
        let mut this = Self {
            others: Vec::new(),
            resident: [0.0; 2],
            switchboard,
            folder,
        };
        let quiet = Rights::READ.and(Rights::WRITE_OWN);
        for number in 0..count {
            let peer = this.join(&format!("other-{number}"), quiet)?;
            this.others.push(peer);
            this.resident[usize::from(number > 0)] = this.switchboard.resident_kib()?;
            this.read()?;
        }
        Ok(this)
    }

    fn join(&self, name: &str, rights: Rights) -> Result<Peer, BenchError> {
        let options = JoinOptions::host_process("lake", name).map_err(failed)?;
        let options = options.vectors(VECTORS).rights(rights);
        let connection = Connection::open(self.folder.0.join("portal.sock")).map_err(failed)?;
        connection.join(&options).map_err(failed)
    }

    /// Everybody reads what there is.
    fn read(&mut self) -> Result<(), BenchError> {
        for peer in &mut self.others {
            while peer.wait(Some(Duration::ZERO)).map_err(failed)?.is_some() {}
        }
        Ok(())
    }

    /// The median time of some attaches.
    fn attach(&mut self) -> Result<Duration, BenchError> {
        let mut times = [Duration::ZERO; ATTACHES];
        for time in &mut times {
            let begin = Instant::now();
            let peer = self.join("measured", Rights::ALL)?;
            *time = begin.elapsed();
            if peer.neighbours().len() != self.others.len() {
                let (found, all) = (peer.neighbours().len(), self.others.len());
                return Err(BenchError::Broken(format!(
                    "told of {found} of {all} peers"
                )));
            }
            peer.leave().map_err(failed)?;
            self.read()?;
        }
        times.sort();
        Ok(times[ATTACHES / 2])
    }

    fn kib_a_peer(&self) -> f64 {
        (self.resident[1] - self.resident[0]) / (self.others.len() as f64 - 1.0)
    }
}

fn attaching(name: String, count: u16, unit: f64) -> Result<Contender<'static>, BenchError> {
    let mut crowd = Crowd::new(count)?;
    Ok(Contender::new(name, move || {
        Ok(Sample::of(crowd.attach()?.as_secs_f64() / unit, 0))
    }))
}

/// Goal 106, with other numbers of peers beside it.
pub(super) fn time(bench: &Bench, spec: &GoalSpec) -> Result<Measured, BenchError> {
    let among = |count| attaching(format!("attach among {count}"), count, 1e-3);
    let all = vec![among(FEW)?, among(1)?, among(8)?, among(256)?, among(MANY)?];
    bench.few(spec, Against::Limit(LONGEST_MS), 1, all)
}

/// Goal 107: microseconds for each of the others.
pub(super) fn growth(bench: &Bench, spec: &GoalSpec) -> Result<Measured, BenchError> {
    let each = |count: u16| {
        let name = format!("attach among {count}, each");
        attaching(name, count, 1e-6 * f64::from(count))
    };
    let both = vec![each(MANY)?, each(FEW)?];
    bench.few(spec, Against::Contender(1), 2, both)
}

/// Goal 108.
pub(super) fn memory(bench: &Bench, spec: &GoalSpec) -> Result<Measured, BenchError> {
    let each = Contender::new("switchboard, a peer", || {
        Ok(Sample::of(Crowd::new(MANY)?.kib_a_peer(), 0))
    });
    bench.few(spec, Against::Limit(MOST_KIB), 1, vec![each])
}
