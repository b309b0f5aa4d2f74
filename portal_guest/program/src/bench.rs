//! `portal-guest bench`: what a region costs from user space to user space.
//!
//! | figure | what |
//! |---|---|
//! | ring round trip | 56 bytes there and back, both sides spinning |
//! | doorbell round trip | the same, both sides asleep until their doorbell |
//! | ring throughput | 4 KiB slots of a bulk ring, one way |

use crate::Outcome;
use crate::Report;
use crate::cli;
use crate::cli::Place;
use crate::ping::trips;
use crate::place::describe;
use crate::protocol::ECHO;
use crate::stream;
use hv_shmem::wait::WaitMode;
use portal_guest_linux::Link;
use portal_guest_linux::Target;
use serde_json::json;
use std::time::Instant;

/// Round trips before the ones that count.
const WARM_UP: u64 = 1000;

pub(crate) fn run(place: &Place, args: &cli::Bench) -> Outcome {
    let mut at = place.join()?;
    let about = describe(&at);
    let bell = at.bell.to_string();
    let to = args.to.to.clone().unwrap_or(Target::Any);
    let mut link = Link::connect(&mut at, &to, &place.link(ECHO, WaitMode::Adaptive))?;
    let peer = link.peer();
    let limit = Some(args.seconds);
    trips(&mut link, WaitMode::Spin, WARM_UP, limit)?;
    let ring = trips(&mut link, WaitMode::Spin, u64::MAX, limit)?;
    trips(&mut link, WaitMode::Sleep, WARM_UP / 10, limit)?;
    let doorbell = trips(&mut link, WaitMode::Sleep, u64::MAX, limit)?;

    trips(&mut link, WaitMode::Adaptive, WARM_UP / 10, limit)?;
    let start = Instant::now();
    let sum = stream::give(&mut link, false, &mut |buffer| {
        Ok(if start.elapsed() < args.seconds {
            buffer.len()
        } else {
            0
        })
    })?;
    let seconds = start.elapsed().as_secs_f64();
    link.close();
    let rate = sum.bytes as f64 / seconds;
    Ok(Report {
        text: format!(
            "peer {peer}, doorbells by {bell}\n\
             ring:       {}\n\
             doorbell:   {}\n\
             throughput: {:.1} MiB/s",
            ring.text(),
            doorbell.text(),
            rate / f64::from(1 << 20),
        ),
        json: json!({
            "command": "bench",
            "place": about,
            "to": peer.0,
            "ring_round_trip": ring.json(false),
            "doorbell_round_trip": doorbell.json(false),
            "throughput": { "bytes": sum.bytes, "seconds": seconds, "bytes_per_second": rate },
        }),
    })
}
