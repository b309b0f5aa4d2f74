//! iceoryx2: the round trip of a published sample and its answer, as its own
//! publish-subscribe benchmark measures it: inter-process service, one-sample
//! buffers with safe overflow, samples loaned and filled in place, both ends
//! polling.

use crate::BenchError;
use crate::harness::contest::Contender;
use crate::harness::contest::Sample;
use crate::harness::pair::Pair;
use crate::harness::pair::Patience;
use crate::harness::rtt;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use std::fmt::Debug;

type Service = ipc::Service;
type Sends = Publisher<Service, u64, ()>;
type Receives = Subscriber<Service, u64, ()>;

fn failed(e: impl Debug) -> BenchError {
    BenchError::Broken(format!("iceoryx2: {e:?}"))
}

/// The two ends of one side: what it publishes on and what it listens to.
fn ends(out: &str, back: &str) -> Result<(Sends, Receives), BenchError> {
    let node = NodeBuilder::new().create::<Service>().map_err(failed)?;
    let open = |name: &str| {
        node.service_builder(&name.try_into().map_err(failed)?)
            .publish_subscribe::<u64>()
            .max_publishers(1)
            .max_subscribers(1)
            .history_size(0)
            .subscriber_max_buffer_size(1)
            .enable_safe_overflow(true)
            .open_or_create()
            .map_err(failed)
    };
    let publisher = open(out)?.publisher_builder().create().map_err(failed)?;
    let subscriber = open(back)?.subscriber_builder().create().map_err(failed)?;
    Ok((publisher, subscriber))
}

#[inline]
fn send(publisher: &Sends, value: u64) -> Result<(), BenchError> {
    let sample = publisher.loan_uninit().map_err(failed)?;
    sample.write_payload(value).send().map_err(failed)?;
    Ok(())
}

#[inline]
fn receive(subscriber: &Receives, patience: &mut Patience) -> Result<u64, BenchError> {
    loop {
        if let Some(sample) = subscriber.receive().map_err(failed)? {
            return Ok(*sample.payload());
        }
        patience.spin()?;
    }
}

/// One-way latency in nanoseconds: half the median round trip.
pub(crate) fn one_way(pair: Pair, batches: usize, singles: usize) -> Contender<'static> {
    let there = format!("portal_bench/{}/there", std::process::id());
    let back = format!("portal_bench/{}/back", std::process::id());
    Contender::new("iceoryx2", move || {
        let (there, back) = (&there, &back);
        let (mut trips, (), preempted) = pair.run(
            move |start| {
                let mut patience = Patience::of("an iceoryx2 answer");
                let (publisher, subscriber) = ends(there, back)?;
                start.wait()?;
                rtt::time(batches, singles, || {
                    send(&publisher, 1)?;
                    receive(&subscriber, &mut patience).map(|_| ())
                })
            },
            move |start| {
                let mut patience = Patience::of("an iceoryx2 request");
                let (publisher, subscriber) = ends(back, there)?;
                start.wait()?;
                for _ in 0..rtt::total(batches, singles) {
                    let value = receive(&subscriber, &mut patience)?;
                    send(&publisher, value)?;
                }
                Ok(())
            },
        )?;
        trips.ns /= 2.0;
        Ok(Sample::trips(trips, preempted))
    })
}
