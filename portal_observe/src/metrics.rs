//! A picture as the text that Prometheus fetches (OpenMetrics 1.0, the text
//! format).
//!
//! Counters are what regions and VMMs claim, as they stand: a peer that lies
//! shows up as a counter that jumps, and a reset is what Prometheus makes of one
//! that goes backwards. The number of time series is bounded by the number of
//! rings of a sample ([`hv_shmem::show::RINGS_GLANCED`] a region).

use crate::model::Picture;
use crate::model::RingRow;
use crate::model::RingState;
use portal_device::inspect::Plain;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::EncodeMetric as _;
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;

/// The type of the text, for an HTTP answer.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The picture's text.
///
/// # Errors
/// Never in practice: writing to a string does not fail.
pub fn text(picture: Picture) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("portal");
    registry.register_collector(Box::new(Shown(picture)));
    let mut out = String::new();
    prometheus_client::encoding::text::encode(&mut out, &registry)?;
    Ok(out)
}

#[derive(Debug)]
struct Shown(Picture);

type Labels = Vec<(&'static str, String)>;

fn plain(text: &str) -> String {
    Plain(text).to_string()
}

/// One metric: its samples, each with labels.
fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl Iterator<Item = (Labels, u64)>,
) -> fmt::Result {
    let mut samples = samples.peekable();
    if samples.peek().is_none() {
        return Ok(());
    }
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in samples {
        ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl Iterator<Item = (Labels, f64)>,
) -> fmt::Result {
    let mut samples = samples.peekable();
    if samples.peek().is_none() {
        return Ok(());
    }
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in samples {
        ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

/// A metric that is one number.
fn single(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: usize,
) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value as f64).encode(metric)
}

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        self.regions(encoder)?;
        self.peers(encoder)?;
        self.rings(encoder)?;
        self.partitions(encoder)?;
        let problems = self.0.problems.len();
        single(
            encoder,
            "problems",
            "Things that could not be looked at",
            problems,
        )
    }
}

impl Shown {
    fn regions(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let of = |row: &crate::model::RegionRow| vec![("region", plain(&row.name))];
        let sizes = self.0.regions.iter();
        let sizes = sizes.map(|row| (of(row), row.size as f64));
        gauge(encoder, "region_size_bytes", "Size of the region", sizes)?;
        let states = self.0.regions.iter().flat_map(|row| {
            let names = ["joining", "ready", "quiescing", "dead"];
            names
                .into_iter()
                .zip(row.states)
                .map(move |(state, count)| {
                    let mut labels = of(row);
                    labels.push(("state", state.to_owned()));
                    (labels, f64::from(count))
                })
        });
        gauge(
            encoder,
            "region_peers",
            "Peers of the region by state",
            states,
        )?;
        let stalls = self.0.regions.iter();
        let stalls = stalls.map(|row| (of(row), f64::from(row.stalls)));
        gauge(
            encoder,
            "region_stalled_rings",
            "Rings in which messages wait while their receiver stands still",
            stalls,
        )?;
        single(
            encoder,
            "rings_left_out",
            "Rings beyond those that are counted one by one",
            usize::try_from(self.0.rings_left_out).unwrap_or(usize::MAX),
        )
    }

    fn peers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let of = |row: &crate::model::PeerRow| {
            vec![("region", plain(&row.region)), ("peer", row.id.to_string())]
        };
        let info = self.0.peers.iter().map(|row| {
            let mut labels = of(row);
            labels.push(("name", plain(&row.name)));
            labels.push(("kind", plain(&row.kind)));
            labels.push(("state", plain(&row.state)));
            (labels, 1.0)
        });
        gauge(encoder, "peer_state", "1, with what the peer is", info)?;
        let epochs = self.0.peers.iter();
        let epochs = epochs.map(|row| (of(row), f64::from(row.epoch)));
        gauge(encoder, "peer_epoch", "Epoch of the peer", epochs)?;
        let bells = self.0.peers.iter();
        let bells = bells.filter_map(|row| Some((of(row), row.doorbells_seen?)));
        counter(
            encoder,
            "peer_doorbells_seen",
            "Doorbells of the peer that user space saw; those inside the kernel are not among them",
            bells,
        )
    }

    fn rings(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let of = |row: &RingRow| {
            vec![
                ("region", plain(&row.region)),
                ("from", row.from.to_string()),
                ("to", row.to.to_string()),
                ("ring", row.id.to_string()),
                ("kind", plain(&row.kind)),
            ]
        };
        // What is left over of earlier epochs says nothing about now.
        let rings = || {
            let rings = self.0.rings.iter();
            rings.filter(|row| row.state != RingState::LeftOver)
        };
        counter(
            encoder,
            "ring_messages_sent",
            "Messages sent, as the sender says",
            rings().map(|row| (of(row), row.sent_total)),
        )?;
        counter(
            encoder,
            "ring_messages_taken",
            "Messages taken out, as the receiver says",
            rings().filter_map(|row| Some((of(row), row.taken_total?))),
        )?;
        counter(
            encoder,
            "ring_events_lost",
            "Events lost for want of space, as the sender says",
            rings().map(|row| (of(row), row.lost_total)),
        )?;
        gauge(
            encoder,
            "ring_messages_waiting",
            "Messages in the ring",
            rings().map(|row| (of(row), row.waiting as f64)),
        )?;
        gauge(
            encoder,
            "ring_slots",
            "Messages that the ring takes",
            rings().map(|row| (of(row), f64::from(row.slots))),
        )?;
        let stalled = |row: &RingRow| matches!(row.state, RingState::Stalled(_));
        gauge(
            encoder,
            "ring_stalled",
            "1 while messages wait, the receiver stands still and the sender goes on or waits",
            rings().map(|row| (of(row), f64::from(u8::from(stalled(row))))),
        )?;
        gauge(
            encoder,
            "ring_broken",
            "1 while the ring's words cannot be meant",
            rings().map(|row| {
                let broken = row.state == RingState::Broken;
                (of(row), f64::from(u8::from(broken)))
            }),
        )
    }

    fn partitions(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let of = |row: &crate::model::PartitionRow| vec![("partition", plain(&row.name))];
        let rows = || self.0.partitions.iter();
        let info = rows().map(|row| {
            let mut labels = of(row);
            labels.push(("state", plain(&row.state)));
            (labels, 1.0)
        });
        gauge(
            encoder,
            "partition_state",
            "1, with what the partition does",
            info,
        )?;
        gauge(
            encoder,
            "partition_vcpus",
            "vCPUs",
            rows().map(|row| (of(row), row.vcpus as f64)),
        )?;
        counter(
            encoder,
            "partition_user_exits",
            "Exits of the partition's vCPUs to user space",
            rows().map(|row| (of(row), row.exits_total)),
        )?;
        counter(
            encoder,
            "partition_interrupts",
            "Interrupts that the kernel injected, those of kernel-direct doorbells among them",
            rows().filter_map(|row| Some((of(row), row.interrupts_total?))),
        )?;
        counter(
            encoder,
            "partition_doorbells_seen",
            "Doorbells that left the guest by an exit",
            rows().map(|row| (of(row), row.doorbells_total)),
        )?;
        counter(
            encoder,
            "partition_dropped_stores",
            "Stores to another peer's section that had no effect",
            rows().map(|row| (of(row), row.dropped_stores)),
        )
    }
}
