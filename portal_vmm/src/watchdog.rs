//! One thread for all deadlines of a process: it sleeps until the next one and
//! then ends that partition's run. Its fences are those of the first partition
//! that has a deadline.

use crate::Sandbox;
use crate::partition::Shared;
use crate::sandbox;
use crate::sandbox::ThreadKind;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::Weak;
use std::time::Instant;

/// Bytes of the thread's stack.
const STACK: usize = 128 << 10;

struct Watchdog {
    /// By time, then by a number that keeps equal times apart.
    due: Mutex<BTreeMap<(Instant, u64), Weak<Shared>>>,
    sooner: Condvar,
}

/// Ends `shared`'s run at `when`, unless it has ended by then.
///
/// # Errors
/// When the thread cannot be started; nothing watches the partition then.
pub(crate) fn watch(shared: &Arc<Shared>, when: Instant, fences: Sandbox) -> io::Result<()> {
    static WATCHDOG: OnceLock<Arc<Watchdog>> = OnceLock::new();
    static STARTED: Mutex<(bool, u64)> = Mutex::new((false, 0));
    let watchdog = WATCHDOG.get_or_init(|| {
        Arc::new(Watchdog {
            due: Mutex::default(),
            sooner: Condvar::new(),
        })
    });
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    if !started.0 {
        let watchdog = watchdog.clone();
        std::thread::Builder::new()
            .name("portal-deadline".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                if let Err(error) = sandbox::enter(ThreadKind::Deadline, fences) {
                    // It never meets a guest's bytes; deadlines matter more.
                    tracing::error!(%error, "the deadline thread runs without its fences");
                }
                watchdog.run();
            })?;
        started.0 = true;
    }
    started.1 += 1;
    let key = (when, started.1);
    drop(started);
    let mut due = watchdog.due.lock().unwrap_or_else(PoisonError::into_inner);
    // Partitions that are gone need no deadline any more.
    due.retain(|_, shared| shared.strong_count() > 0);
    due.insert(key, Arc::downgrade(shared));
    watchdog.sooner.notify_one();
    Ok(())
}

impl Watchdog {
    fn run(&self) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            let next = due.first_key_value().map(|(key, _)| *key);
            match next {
                Some(key) if key.0 <= now => {
                    let shared = due.remove(&key).and_then(|shared| shared.upgrade());
                    drop(due);
                    if let Some(shared) = shared {
                        shared.overrun();
                    }
                    due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
                }
                Some((when, _)) => {
                    due = self
                        .sooner
                        .wait_timeout(due, when - now)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0;
                }
                None => {
                    due = self
                        .sooner
                        .wait(due)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}
