//! TRUST.md, T14: huge-page exhaustion. "Pool from N-1 down to 0: attach fails
//! before the guest sees memory."
#![expect(unsafe_code, reason = "the control maps without reservation")]

mod harness;
#[path = "harness/child.rs"]
mod process;

use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingConfig;
use hv_shmem::backing::BackingError;
use hv_shmem::backing::PoolState;
use hv_shmem::backing::Storage;
use hv_shmem::backing::View;
use hv_shmem::layout::RegionSpec;
use hv_shmem::mem::SharedMem;
use hv_shmem::name::Name;
use rustix::fs::FlockOperation;
use rustix::fs::MemfdFlags;
use std::fs::File;

const POOL: &str = "/proc/sys/vm/nr_hugepages";
const SIZE: u64 = 32 << 20;
const PAGES: u64 = SIZE / (2 << 20);
/// Pages of a sectioned region: its tail takes none.
const SECTIONED: u64 = 1 + 4 * 3;

fn spec(sectioned: bool) -> RegionSpec {
    RegionSpec::new(Name::new("huge").unwrap(), SIZE, 4).sectioned(sectioned)
}

fn config() -> BackingConfig {
    BackingConfig {
        storage: Storage::HugePages,
        ..BackingConfig::default()
    }
}

/// The pool, ours alone among the tests of this host, as it was when dropped.
struct Pool {
    before: u64,
    _lock: File,
}

impl Pool {
    /// `None` (after a line that says why) where the pool cannot be set.
    fn take() -> Option<Self> {
        let lock = File::create(std::env::temp_dir().join("portal-huge-pages.lock")).ok()?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).ok()?;
        let before = PoolState::read().total;
        let pool = Self {
            before,
            _lock: lock,
        };
        if !pool.set(before + PAGES) {
            println!("skipped: the pool of huge pages cannot be set (not root, or no memory)");
            return None;
        }
        Some(pool)
    }

    /// Leaves `available` pages for us. Other processes of the host may take or
    /// give back pages meanwhile: tried again for a second.
    fn leave(&self, available: u64) -> bool {
        for _ in 0..50 {
            let now = PoolState::read();
            let in_use = now.total - now.available();
            if self.set(in_use + available) && PoolState::read().available() == available {
                return true;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        false
    }

    fn set(&self, total: u64) -> bool {
        std::fs::write(POOL, total.to_string()).is_ok() && PoolState::read().total == total
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = std::fs::write(POOL, self.before.to_string());
    }
}

const WHAT: &str = "a region attached while the pool of huge pages is short";

#[test]
fn t14_huge_page_exhaustion() {
    let Some(pool) = Pool::take() else { return };
    let rounds = harness::cases(1).div_ceil(PAGES + SECTIONED);
    let (mut cases, mut failures) = (0, 0);
    for _ in 0..rounds {
        for sectioned in [false, true] {
            let need = if sectioned { SECTIONED } else { PAGES };
            for left in (0..need).rev() {
                assert!(pool.leave(PAGES), "the pool is ours");
                let made = Backing::create(&spec(sectioned), &config()).unwrap();
                assert!(pool.leave(left), "the pool is ours");
                // Made in time, mapped too late: the kernel says no.
                let late = made.map(View::OWNER);
                let early = Backing::create(&spec(sectioned), &config());
                let clear = |e: &BackingError| {
                    let text = e.to_string();
                    matches!(e, BackingError::HugePages { .. }) && text.contains("nr_hugepages")
                };
                failures += u64::from(!late.is_err_and(|e| clear(&e)));
                failures += u64::from(!early.is_err_and(|e| clear(&e)));
                // What was promised before the failure is given back.
                drop(made);
                failures += u64::from(PoolState::read().available() != left);
                cases += 1;
            }
        }
    }
    harness::report("T14", WHAT, None, cases, failures);
}

#[test]
fn a_full_pool_carries_a_region_to_its_last_page() {
    let Some(pool) = Pool::take() else { return };
    assert!(pool.leave(PAGES));
    for sectioned in [false, true] {
        let backing = Backing::create(&spec(sectioned), &config()).unwrap();
        let mapping = backing.map(View::OWNER).unwrap();
        let mem = mapping.mem();
        for part in backing.parts() {
            let range = backing.range(part);
            if View::OWNER.writes(part) && backing.part_fd(part).is_ok() {
                mem.write(range.end - 8, b"last one");
            }
        }
        assert_eq!(mapping.as_ptr() as usize % (2 << 20), 0);
        backing.seal_writers().unwrap();
        assert!(backing.map(View::OWNER).is_err());
        backing.map(View::OBSERVER).unwrap();
        drop((mem, mapping, backing));
        assert_eq!(PoolState::read().available(), PAGES);
    }
    let small = RegionSpec::new(Name::new("s").unwrap(), 1 << 20, 2);
    assert!(matches!(
        Backing::create(&small, &config()),
        Err(BackingError::HugeAlign { .. })
    ));
}

#[test]
fn control_t14_huge_page_exhaustion() {
    let Some(pool) = Pool::take() else { return };
    let cases = harness::cases(2).min(4);
    assert!(pool.leave(PAGES - 1));
    let failures = (0..cases)
        .filter(|_| !process::spawn("no reservation").wait().unwrap().success())
        .count() as u64;
    harness::report("T14", WHAT, Some("the reservation"), cases, failures);
}

#[test]
#[ignore = "runs as a child of the test above"]
fn child() {
    if process::job().is_none() {
        return;
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let fd = rustix::fs::memfd_create("control", flags).unwrap();
    rustix::fs::ftruncate(&fd, SIZE).unwrap();
    // SAFETY: a new mapping, touched inside its length only.
    unsafe {
        use rustix::mm::MapFlags;
        use rustix::mm::ProtFlags;
        let base = rustix::mm::mmap(
            std::ptr::null_mut(),
            SIZE as usize,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED | MapFlags::NORESERVE,
            &fd,
            0,
        );
        // Refused early is what the control must not see.
        let Ok(base) = base else { return };
        for page in 0..PAGES {
            base.cast::<u8>()
                .add((page * (2 << 20)) as usize)
                .write_volatile(1);
        }
    }
}
