//! `portal-guest ping`: round trips, and how long they take.

use crate::Outcome;
use crate::Report;
use crate::cli;
use crate::cli::Place;
use crate::exit::Failure;
use crate::exit::Kind;
use crate::place::describe;
use crate::protocol::ECHO;
use crate::protocol::Word;
use crate::protocol::unexpected;
use hdrhistogram::Histogram;
use hv_shmem::wait::WaitMode;
use portal_guest_linux::Link;
use portal_guest_linux::Target;
use serde_json::Value;
use serde_json::json;
use std::time::Duration;
use std::time::Instant;

/// Longest round trip that the histogram tells from others, in nanoseconds: longer
/// ones than a minute are errors before.
const LONGEST: u64 = 60_000_000_000;

/// Round trips of one way of waiting.
pub(crate) struct Trips {
    histogram: Histogram<u64>,
    slept: u64,
    /// Sleeps that no doorbell ended: the program looked by itself.
    unheard: u64,
}

pub(crate) fn run(place: &Place, args: &cli::Ping) -> Outcome {
    let mut at = place.join()?;
    let about = describe(&at);
    let to = args.to.to.clone().unwrap_or(Target::Any);
    let mode = args.wait.mode();
    let mut link = Link::connect(&mut at, &to, &place.link(ECHO, mode))?;
    let peer = link.peer();
    let trips = trips(&mut link, mode, args.count, None)?;
    link.close();
    let mut json = json!({
        "command": "ping",
        "place": about,
        "to": peer.0,
        "wait": format!("{:?}", args.wait).to_lowercase(),
    });
    json["trips"] = trips.json(true);
    Ok(Report {
        text: format!("peer {peer}: {}", trips.text()),
        json,
    })
}

/// Makes `count` round trips, fewer when `limit` has passed, both sides waiting in
/// `mode`.
pub(crate) fn trips(
    link: &mut Link<'_>,
    mode: WaitMode,
    count: u64,
    limit: Option<Duration>,
) -> Result<Trips, Failure> {
    let asked = Word::Mode(mode);
    link.send(&asked.encode())?;
    let answer = link.recv("how the other side waits")?;
    if Word::decode(&answer) != Some(asked) {
        return Err(unexpected(link.peer(), &answer, "the same mode"));
    }
    link.set_mode(mode);
    let histogram = Histogram::new_with_bounds(1, LONGEST, 3);
    let mut histogram = histogram.map_err(|e| Failure::new(Kind::Usage, e))?;
    let start = Instant::now();
    for number in 0..count {
        let sent = Instant::now();
        link.send(&Word::Ping(number).encode())?;
        let answer = link.recv("the answer to a ping")?;
        let took = sent.elapsed();
        if Word::decode(&answer) != Some(Word::Pong(number)) {
            return Err(unexpected(link.peer(), &answer, "the pong of that ping"));
        }
        histogram.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        if limit.is_some_and(|limit| start.elapsed() >= limit) {
            break;
        }
    }
    Ok(Trips {
        histogram,
        slept: link.waits().slept,
        unheard: link.waits().timed_out,
    })
}

impl Trips {
    pub(crate) fn text(&self) -> String {
        let h = &self.histogram;
        let at = |quantile| Duration::from_nanos(h.value_at_quantile(quantile));
        format!(
            "{} round trips: min {:?}  p50 {:?}  p90 {:?}  p99 {:?}  p99.9 {:?}  max {:?}  ({} sleeps, {} of them ended by no doorbell)",
            h.len(),
            Duration::from_nanos(h.min()),
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999),
            Duration::from_nanos(h.max()),
            self.slept,
            self.unheard,
        )
    }

    pub(crate) fn json(&self, with_buckets: bool) -> Value {
        let h = &self.histogram;
        let mut json = json!({
            "count": h.len(),
            "slept": self.slept,
            "unheard": self.unheard,
            "ns": {
                "min": h.min(),
                "mean": h.mean(),
                "p50": h.value_at_quantile(0.5),
                "p90": h.value_at_quantile(0.9),
                "p99": h.value_at_quantile(0.99),
                "p999": h.value_at_quantile(0.999),
                "max": h.max(),
            },
        });
        if with_buckets {
            let buckets = h.iter_recorded();
            let buckets = buckets.map(|b| [b.value_iterated_to(), b.count_since_last_iteration()]);
            json["histogram"] = buckets.collect::<Vec<_>>().into();
        }
        json
    }
}
