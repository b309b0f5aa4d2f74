//! What the machine does without partitions: two threads of this process on two
//! cores. Each figure of the demo is a ratio to one of these, taken in the same
//! run.

use rustix::event::EventfdFlags;
use rustix::thread::CpuSet;
use rustix::thread::sched_getaffinity;
use rustix::thread::sched_setaffinity;
use std::hint::spin_loop;
use std::io::Read as _;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

/// Rounds of one sample of the ping-pong over cache lines, about 10 ms.
const LINE_ROUNDS: u64 = 30_000;
/// Rounds of one sample of anything that blocks, about 50 ms.
const BLOCKING_ROUNDS: u64 = 500;
/// Bytes of one buffer of the stream: the demo's span.
const BUFFER: usize = 1 << 20;
/// Buffers under way in the stream.
const BUFFERS: usize = 4;
/// Buffers of one sample of the stream, about 30 ms.
const STREAM_BUFFERS: usize = 256;

/// A number on a cache line of its own; two of them never share the pair of
/// lines that a core prefetches together.
#[repr(align(128))]
#[derive(Default)]
struct Line(AtomicU64);

/// The first two cores that this process may use, or the same one twice.
pub(crate) fn cores() -> [usize; 2] {
    let allowed = sched_getaffinity(None).unwrap_or_default();
    let mut found = (0..CpuSet::MAX_CPU).filter(|&c| allowed.is_set(c));
    let first = found.next().unwrap_or(0);
    [first, found.next().unwrap_or(first)]
}

/// Keeps the calling thread on `core`; a host that refuses only costs accuracy.
fn stay_on(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    let _ = sched_setaffinity(None, &set);
}

/// Runs both on a core each and returns what the first returned.
fn on_two_cores<T: Send>(first: impl FnOnce() -> T + Send, second: impl FnOnce() + Send) -> T {
    let [one, two] = cores();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            stay_on(two);
            second();
        });
        let ran = scope.spawn(move || {
            stay_on(one);
            first()
        });
        match ran.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Round trip over two cache lines, one a direction: the floor for anything that
/// two cores tell each other ("C2").
pub(crate) fn two_lines() -> Duration {
    let (there, back) = (Line::default(), Line::default());
    let took = on_two_cores(
        || {
            let started = Instant::now();
            for round in 1..=LINE_ROUNDS {
                there.0.store(round, Ordering::Release);
                while back.0.load(Ordering::Acquire) != round {
                    spin_loop();
                }
            }
            started.elapsed()
        },
        || {
            for round in 1..=LINE_ROUNDS {
                while there.0.load(Ordering::Acquire) != round {
                    spin_loop();
                }
                back.0.store(round, Ordering::Release);
            }
        },
    );
    took / LINE_ROUNDS as u32
}

/// Round trip over a pair of eventfds, both sides blocking.
///
/// # Errors
/// When the host gives no eventfds.
pub(crate) fn eventfd() -> std::io::Result<Duration> {
    let make = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC);
    let (there, back) = (make()?, make()?);
    let pass = |wait: &OwnedFd, ring: &OwnedFd, ring_first: bool| -> std::io::Result<()> {
        for _ in 0..BLOCKING_ROUNDS {
            if ring_first {
                rustix::io::write(ring, &1u64.to_ne_bytes())?;
            }
            rustix::io::read(wait, &mut [0u8; 8])?;
            if !ring_first {
                rustix::io::write(ring, &1u64.to_ne_bytes())?;
            }
        }
        Ok(())
    };
    blocking(|| pass(&back, &there, true), || pass(&there, &back, false))
}

/// Round trip of 56 bytes over a Unix socket, both sides blocking.
///
/// # Errors
/// When the host gives no socket pair.
pub(crate) fn unix_socket() -> std::io::Result<Duration> {
    let (mut one, mut two) = UnixStream::pair()?;
    blocking(
        move || {
            let mut message = [7u8; 56];
            for _ in 0..BLOCKING_ROUNDS {
                one.write_all(&message)?;
                one.read_exact(&mut message)?;
            }
            Ok(())
        },
        move || {
            let mut message = [0u8; 56];
            for _ in 0..BLOCKING_ROUNDS {
                two.read_exact(&mut message)?;
                two.write_all(&message)?;
            }
            Ok(())
        },
    )
}

fn blocking(
    first: impl FnOnce() -> std::io::Result<()> + Send,
    second: impl FnOnce() -> std::io::Result<()> + Send,
) -> std::io::Result<Duration> {
    let failed = AtomicBool::new(false);
    let took = on_two_cores(
        || {
            let started = Instant::now();
            first().map(|()| started.elapsed())
        },
        || {
            if second().is_err() {
                failed.store(true, Ordering::Relaxed);
            }
        },
    )?;
    if failed.load(Ordering::Relaxed) {
        return Err(std::io::Error::other(
            "the other side of the baseline failed",
        ));
    }
    Ok(took / BLOCKING_ROUNDS as u32)
}

/// Bytes a second that one core writes and the other reads, in buffers of 1 MiB.
pub(crate) fn stream() -> f64 {
    let (full, to_read) = mpsc::sync_channel::<Vec<u64>>(BUFFERS);
    let (empty, to_write) = mpsc::sync_channel::<Vec<u64>>(BUFFERS);
    for _ in 0..BUFFERS {
        // There is room for as many; the channel cannot be closed here.
        let _ = empty.try_send(vec![0; BUFFER / 8]);
    }
    let took = on_two_cores(
        move || {
            let mut seen = 0u64;
            let started = Instant::now();
            for _ in 0..STREAM_BUFFERS {
                let Ok(buffer) = spin_receive(&to_read) else {
                    break;
                };
                seen = buffer
                    .iter()
                    .fold(seen, |sum, word| sum.wrapping_add(*word));
                let _ = empty.try_send(buffer);
            }
            std::hint::black_box(seen);
            started.elapsed()
        },
        move || {
            for round in 0..STREAM_BUFFERS as u64 {
                let Ok(mut buffer) = spin_receive(&to_write) else {
                    break;
                };
                buffer.fill(round);
                let _ = full.try_send(buffer);
            }
        },
    );
    (BUFFER * STREAM_BUFFERS) as f64 / took.as_secs_f64()
}

/// Blocking would measure the scheduler's wake-up.
fn spin_receive<T>(from: &mpsc::Receiver<T>) -> Result<T, mpsc::TryRecvError> {
    loop {
        match from.try_recv() {
            Err(mpsc::TryRecvError::Empty) => spin_loop(),
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn baselines_give_figures() {
        if cores()[0] == cores()[1] {
            eprintln!("skipped: one core");
            return;
        }
        assert!(two_lines() > Duration::ZERO);
        assert!(eventfd().unwrap() > Duration::ZERO);
        assert!(unix_socket().unwrap() > Duration::ZERO);
        assert!(stream() > 0.0);
    }
}
