//! TRUST.md, T10: peer death in the middle of an operation. "A fail point at each
//! step, then random SIGKILLs: survivor told within 1 s, every span reclaimed, no
//! committed message lost."
//!
//! The victim is a process of its own that joins, sends, receives, lends and
//! returns spans. Its memory kills it with SIGKILL at the n-th store, whatever
//! that store is for, so that every state that a death can leave in the region
//! is reached; or it is killed from outside at a random time. The survivor is
//! peer 0 here. Each victim is the successor of the one before. A message is
//! committed when its sending returned and the receiver has accepted the ring.
#![expect(unsafe_code, reason = "a memory forwards unchecked accesses")]

mod harness;
#[path = "harness/child.rs"]
mod process;
#[path = "harness/random.rs"]
mod random;

use hv_shmem::arena::BoxedArena;
use hv_shmem::arena::ReturnReceiver;
use hv_shmem::arena::ReturnSender;
use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingConfig;
use hv_shmem::backing::MappedMem;
use hv_shmem::backing::OpenAs;
use hv_shmem::backing::Storage;
use hv_shmem::backing::View;
use hv_shmem::check::CheckOptions;
use hv_shmem::check::check;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::mem::Ordering;
use hv_shmem::mem::OutOfBounds;
use hv_shmem::mem::SharedMem;
use hv_shmem::name::Name;
use hv_shmem::own_section::OwnSection;
use hv_shmem::own_section::RingSpec;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use hv_shmem::region::RingError;
use hv_shmem::resolve::SpanResolver;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::SubmitEntry;
use hv_shmem::ring::SubmitReceiver;
use hv_shmem::ring::SubmitSender;
use hv_shmem::section::SectionConfig;
use hv_shmem::span::Access;
use hv_shmem::span::PortalSpan;
use random::Random;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;
use uuid::Uuid;

const SURVIVOR: PeerId = PeerId(0);
const VICTIM: PeerId = PeerId(1);
/// From the victim, and to it.
const RING: u32 = 1;
const CONFIG: SectionConfig = SectionConfig {
    directory: 8,
    ring_bytes: 16 << 10,
};

/// Memory that kills its process at the n-th store.
#[derive(Clone)]
struct Deadly {
    mem: MappedMem,
    left: &'static AtomicU64,
}

impl Deadly {
    fn step(&self) {
        if self.left.fetch_sub(1, Relaxed) == 1 {
            let me = rustix::process::getpid();
            let _ = rustix::process::kill_process(me, rustix::process::Signal::KILL);
        }
    }
}

impl SharedMem for Deadly {
    fn len(&self) -> u64 {
        self.mem.len()
    }
    fn window(&self, at: u64, len: u64) -> Result<Self, OutOfBounds> {
        Ok(Self {
            mem: self.mem.window(at, len)?,
            left: self.left,
        })
    }
    fn load_u32(&self, at: u64, order: Ordering) -> u32 {
        self.mem.load_u32(at, order)
    }
    fn load_u64(&self, at: u64, order: Ordering) -> u64 {
        self.mem.load_u64(at, order)
    }
    fn store_u32(&self, at: u64, value: u32, order: Ordering) {
        self.step();
        self.mem.store_u32(at, value, order);
    }
    fn store_u64(&self, at: u64, value: u64, order: Ordering) {
        self.step();
        self.mem.store_u64(at, value, order);
    }
    fn fetch_add_u64(&self, at: u64, value: u64, order: Ordering) -> u64 {
        self.step();
        self.mem.fetch_add_u64(at, value, order)
    }
    fn compare_exchange_u64(
        &self,
        at: u64,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.step();
        self.mem
            .compare_exchange_u64(at, current, new, success, failure)
    }
    fn read(&self, at: u64, to: &mut [u8]) {
        self.mem.read(at, to);
    }
    fn write(&self, at: u64, from: &[u8]) {
        // A death may fall between any two halves of a copy.
        let half = from.len() / 2;
        self.step();
        self.mem.write(at, &from[..half]);
        self.step();
        self.mem.write(at + half as u64, &from[half..]);
    }
    fn zero(&self, at: u64, len: u64) {
        self.step();
        self.mem.zero(at, len / 2);
        self.step();
        self.mem.zero(at + len / 2, len - len / 2);
    }
    unsafe fn load_u64_unchecked(&self, at: u64, order: Ordering) -> u64 {
        self.load_u64(at, order)
    }
}

/// What both sides do: everything that a peer has, and its counts.
struct Party<M: SharedMem> {
    own: OwnSection<M>,
    other: PeerId,
    arena: BoxedArena<M>,
    resolver: SpanResolver<M>,
    sender: SubmitSender<M>,
    has_cursor: bool,
    receiver: Option<SubmitReceiver<M>>,
    giver: ReturnSender<M>,
    taker: Option<ReturnReceiver<M>>,
    sent: u64,
    received: u64,
}

fn text<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> String {
    let what = what.to_owned();
    move |e| format!("{what}: {e}")
}

/// Not there yet is no error.
fn yet<T>(found: Result<T, RingError>) -> Result<Option<T>, String> {
    match found {
        Ok(there) => Ok(Some(there)),
        Err(e) if e.is_misbehaviour() => Err(e.to_string()),
        Err(RingError::NotThere { .. } | RingError::Region(_)) => Ok(None),
        Err(e) => Err(e.to_string()),
    }
}

fn pattern(number: u64) -> [u8; 200] {
    std::array::from_fn(|i| (number as u8).wrapping_mul(3).wrapping_add(i as u8))
}

impl<M: SharedMem> Party<M> {
    fn new(mut own: OwnSection<M>, other: PeerId) -> Result<Self, String> {
        let arena = own.arena().map_err(text("arena"))?;
        Self::over(own, arena, other)
    }

    /// Rings for a new partner (or for a new life of the same one).
    fn over(mut own: OwnSection<M>, arena: BoxedArena<M>, other: PeerId) -> Result<Self, String> {
        own.leave_ring(other, RING);
        own.leave_ring(other, hv_shmem::arena::RETURN_RING);
        let place = own.create_ring(RingSpec {
            id: RING,
            to: other,
            kind: RingKind::Submit,
            layout: RingLayout::Inline,
            slot_size: 64,
            slots: 16,
        });
        let place = place.map_err(text("ring"))?;
        Ok(Self {
            sender: SubmitSender::new(place).map_err(text("sender"))?,
            has_cursor: false,
            receiver: None,
            giver: own
                .create_return_ring(other, 64)
                .map_err(text("return ring"))?,
            taker: None,
            resolver: own.resolver().map_err(text("resolver"))?,
            arena,
            own,
            other,
            sent: 0,
            received: 0,
        })
    }

    /// One round of everything; an error is a promise broken.
    fn round(&mut self) -> Result<(), String> {
        self.connect()?;
        self.take_home()?;
        self.send()?;
        self.receive()
    }

    fn connect(&mut self) -> Result<(), String> {
        if self.receiver.is_none()
            && let Some(place) = yet(self.own.accept_ring(self.other, RING))?
        {
            self.receiver = Some(SubmitReceiver::new(place).map_err(text("receiver"))?);
        }
        if self.taker.is_none() {
            self.taker = yet(self.own.accept_return_ring(self.other))?;
        }
        if !self.has_cursor
            && let Some(line) = yet(self.own.cursor(self.other, RING))?.flatten()
            && let Some(home) =
                yet(self.own.cursor(self.other, hv_shmem::arena::RETURN_RING))?.flatten()
        {
            self.sender.set_cursor(line).map_err(text("cursor"))?;
            self.giver.ring().set_cursor(home).map_err(text("cursor"))?;
            self.has_cursor = true;
        }
        Ok(())
    }

    fn take_home(&mut self) -> Result<(), String> {
        if let Some(taker) = &mut self.taker {
            let taken = self.arena.take_returns(taker).map_err(text("returns"))?;
            let _ = taker.ring().flush();
            if taken.refused > 0 {
                return Err(format!("refused returns: {taken:?}"));
            }
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), String> {
        if !self.sender.inner().has_space().map_err(text("space"))? {
            return Ok(());
        }
        let bytes = pattern(self.sent);
        let span = self
            .arena
            .alloc(bytes.len() as u64)
            .map_err(text("alloc"))?;
        let view = self.arena.view(&span).map_err(text("view"))?;
        view.write(0, &bytes).map_err(text("write"))?;
        self.arena.grant(&span, self.other).map_err(text("grant"))?;
        let entry = SubmitEntry {
            opcode: 1,
            flags: 0,
            user_data: self.sent,
            span,
            arg: !self.sent,
        };
        self.sender.try_send(&entry).map_err(text("send"))?;
        let _ = self.sender.flush();
        self.sent += 1;
        // The heartbeat counts committed messages.
        self.own.beat();
        Ok(())
    }

    fn receive(&mut self) -> Result<(), String> {
        while let Some(entry) = self.next()? {
            let view = match self.resolver.resolve(&entry.span, Access::Read) {
                Ok(view) => view,
                // Its owner died since: the span went with it.
                Err(_) if self.own.region().live_epoch(self.other).is_none() => continue,
                Err(e) => return Err(format!("span of message {}: {e}", entry.user_data)),
            };
            let mut got = [0; 200];
            view.read(0, &mut got).map_err(text("read"))?;
            if got != pattern(entry.user_data) {
                return Err(format!("message {} holds other bytes", entry.user_data));
            }
            self.giver
                .give_back(&entry.span)
                .map_err(text("give back"))?;
            let _ = self.giver.flush();
        }
        Ok(())
    }

    /// The next message, which has to be the next in order.
    fn next(&mut self) -> Result<Option<SubmitEntry>, String> {
        let Some(receiver) = &mut self.receiver else {
            return Ok(None);
        };
        let Some(entry) = receiver.try_recv().map_err(text("receive"))? else {
            return Ok(None);
        };
        let _ = receiver.flush();
        if entry.user_data != self.received || entry.arg != !entry.user_data {
            return Err(format!(
                "message {} came where {} was next",
                entry.user_data, self.received
            ));
        }
        self.received += 1;
        Ok(Some(entry))
    }
}

#[test]
#[ignore = "the victim: runs as a child of the tests below"]
fn child() {
    let Some(job) = process::job() else { return };
    let (path, numbers) = job.split_once('|').unwrap();
    let (epoch, stores) = numbers.split_once(' ').unwrap();
    let left: &'static AtomicU64 = Box::leak(Box::new(AtomicU64::new(stores.parse().unwrap())));
    let backing = Backing::open_file(Path::new(path), OpenAs::Peer).unwrap();
    let mem = Deadly {
        mem: backing.map(View::peer(VICTIM)).unwrap().mem(),
        left,
    };
    let region = PortalRegion::attach(mem, AttachOptions::default()).unwrap();
    let own = region.join(VICTIM, epoch.parse().unwrap(), CONFIG).unwrap();
    let mut party = Party::new(own, SURVIVOR).unwrap();
    loop {
        party.round().unwrap();
        if rustix::process::getppid().is_none_or(|p| p == rustix::process::Pid::INIT) {
            return;
        }
    }
}

/// The region, its host, and the survivor's lasting parts.
struct Stage {
    _folder: tempfile::TempDir,
    path: std::path::PathBuf,
    mem: MappedMem,
    host: Mutex<HostPages<MappedMem>>,
    survivor: Option<(OwnSection<MappedMem>, BoxedArena<MappedMem>)>,
}

fn stage() -> Stage {
    // On a memory file system, where there is one.
    let shm = Path::new("/dev/shm");
    let folder = if shm.is_dir() {
        tempfile::tempdir_in(shm).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    };
    let path = folder.path().join("region");
    let spec = RegionSpec::new(Name::new("t10").unwrap(), 512 << 10, 2);
    let config = BackingConfig {
        storage: Storage::File(path.clone()),
        ..BackingConfig::default()
    };
    let backing = Backing::create(&spec, &config).unwrap();
    let mem = backing.map(View::OWNER).unwrap().mem();
    let mut host = HostPages::format(mem.clone(), &spec, Uuid::from_u128(10)).unwrap();
    let name = Name::new("survivor").unwrap();
    let epoch = host
        .admit(SURVIVOR, name, PeerKind::HostProcess, Rights::ALL, 0)
        .unwrap();
    let region = PortalRegion::attach(mem.clone(), AttachOptions::default()).unwrap();
    let mut own = region.join(SURVIVOR, epoch, CONFIG).unwrap();
    let arena = own.arena().unwrap();
    Stage {
        _folder: folder,
        path,
        mem,
        host: Mutex::new(host),
        survivor: Some((own, arena)),
    }
}

/// How a victim dies.
#[derive(Debug, Clone, Copy)]
enum Death {
    AtStore(u64),
    After(Duration),
}

/// Which promise is not kept, for the controls.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Without {
    Nothing,
    Reclaim,
    EpochMove,
}

/// One life and death of a victim.
fn one_death(stage: &mut Stage, death: Death, without: Without) -> Result<(), String> {
    let name = Name::new("victim").unwrap();
    let epoch = stage
        .host
        .lock()
        .unwrap()
        .admit(VICTIM, name, PeerKind::HostProcess, Rights::ALL, 0)
        .map_err(text("admit"))?;
    let (own, arena) = stage.survivor.take().ok_or("the survivor is gone")?;
    let region = own.region().clone();
    let mut party = Party::over(own, arena, VICTIM)?;
    let stores = match death {
        Death::AtStore(n) => n,
        Death::After(_) => u64::MAX,
    };
    let job = format!("{}|{epoch} {stores}", stage.path.display());
    let mut spans: Vec<PortalSpan> = Vec::new();
    let host = &stage.host;
    let (end, told) = std::thread::scope(|s| {
        let watcher = s.spawn(move || {
            let mut child = process::spawn(&job);
            if let Death::After(time) = death {
                std::thread::sleep(time);
                let _ = child.kill();
            }
            let status = child.wait().unwrap();
            let died = Instant::now();
            if without != Without::EpochMove {
                host.lock().unwrap().retire(VICTIM).unwrap();
            }
            (status, died)
        });
        let mut end = Ok(());
        while end.is_ok() && region.live_epoch(VICTIM) == Some(epoch) {
            end = party.round();
            if without == Without::EpochMove && watcher.is_finished() {
                break;
            }
            std::thread::yield_now();
        }
        let told = Instant::now();
        let (status, died) = watcher.join().unwrap();
        let end = end.and_then(|()| match status.signal() {
            Some(libc::SIGKILL) => Ok(()),
            _ => Err(format!("the victim ended by itself: {status}")),
        });
        (end, told.saturating_duration_since(died))
    });
    end?;
    if told > Duration::from_secs(1) {
        return Err(format!("told after {told:?}"));
    }
    // What was committed before the death is still there, in order.
    while let Some(entry) = party.next()? {
        spans.push(entry.span);
    }
    let committed = region.heartbeat(VICTIM).map_err(text("heartbeat"))?;
    // A ring that was never accepted has committed nothing to anybody: its
    // sender and the survivor had not met.
    if party.receiver.is_some() && party.received < committed {
        return Err(format!(
            "{committed} committed, {} received",
            party.received
        ));
    }
    // Every span into its section is stale.
    for span in spans {
        if party.resolver.resolve(&span, Access::Read).is_ok() {
            return Err("a dead peer's span resolves".into());
        }
    }
    // What it held comes home.
    let _ = party.take_home();
    if without != Without::Reclaim {
        party.arena.reclaim(VICTIM);
    }
    let mut live = 0;
    party.arena.for_each_live(|_, _| live += 1);
    if live > 0 {
        return Err(format!("{live} spans were not reclaimed"));
    }
    // Nothing but the dead peer's own section may be left half-written.
    let report =
        check(&stage.mem, region.header(), CheckOptions::default()).map_err(text("check"))?;
    let own = [
        hv_shmem::check::Place::Section(VICTIM),
        hv_shmem::check::Place::Arena(VICTIM),
    ];
    let other = report.findings.iter().find(|f| {
        let in_directory = matches!(f.place, hv_shmem::check::Place::Directory(VICTIM, _));
        !own.contains(&f.place) && !in_directory
    });
    if let Some(finding) = other {
        return Err(finding.to_string());
    }
    let Party { own, arena, .. } = party;
    stage.survivor = Some((own, arena));
    Ok(())
}

fn deaths(cases: u64, without: Without, death: impl Fn(u64, &mut Random) -> Death) -> u64 {
    let mut random = Random(harness::seed());
    let mut now = stage();
    let mut failures = 0;
    for case in 0..cases {
        let death = death(case, &mut random);
        if let Err(e) = one_death(&mut now, death, without) {
            failures += 1;
            if without == Without::Nothing {
                println!("{death:?}: {e}");
            }
            now = stage();
        }
    }
    failures
}

const AT_STORES: &str = "a peer killed at a store to the region";
const AT_RANDOM: &str = "a peer killed at a random time";

fn at_store(case: u64, random: &mut Random) -> Death {
    // The first stores are the join; later ones the traffic.
    Death::AtStore(match case % 2 {
        0 => 1 + case / 2 * 7 % 400,
        _ => 1 + random.below(6000),
    })
}

fn at_random(_: u64, random: &mut Random) -> Death {
    Death::After(Duration::from_micros(500 + random.below(15_000)))
}

#[test]
fn t10_killed_at_a_store() {
    let cases = harness::cases(40);
    let failures = deaths(cases, Without::Nothing, at_store);
    harness::report("T10", AT_STORES, None, cases, failures);
}

#[test]
fn t10_killed_at_random() {
    let cases = harness::cases(20);
    let failures = deaths(cases, Without::Nothing, at_random);
    harness::report("T10", AT_RANDOM, None, cases, failures);
}

#[test]
fn control_t10_killed_at_a_store() {
    let cases = harness::cases(20).min(20);
    let failures = deaths(cases, Without::Reclaim, at_store);
    let guard = Some("taking back what the dead peer held");
    harness::report("T10", AT_STORES, guard, cases, failures);
}

#[test]
fn control_t10_killed_at_random() {
    let cases = harness::cases(10).min(20);
    let failures = deaths(cases, Without::EpochMove, at_random);
    harness::report("T10", AT_RANDOM, Some("the epoch's move"), cases, failures);
}
