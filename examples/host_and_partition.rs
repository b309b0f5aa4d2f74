//! A host process and a partition that call each other through rings.
//!
//! The host submits numbers. The agent in the partition (`agents/caller`) serves each
//! request by calling the host back for the factor, and answers with the product. No
//! call leaves the guest and none enters the kernel: all of it is cache lines.
//!
//!     cargo run --release --package portal_examples --example host_and_partition

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use hv_shmem::backing::MappedMem;
use hv_shmem::layout::PeerId;
use hv_shmem::own_section::OwnSection;
use hv_shmem::own_section::RingSpec;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use hv_shmem::ring::CompleteEntry;
use hv_shmem::ring::CompleteReceiver;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::RingPlace;
use hv_shmem::ring::SubmitEntry;
use hv_shmem::ring::SubmitSender;
use hv_shmem::ring::UpcallServer;
use hv_shmem::section::SectionConfig;
use portal_resources::FixedRegionHandle;
use portal_resources::RegionHandle;
use portal_vmm::Console;
use portal_vmm::Image;
use portal_vmm::Join;
use portal_vmm::Kvm;
use portal_vmm::Outcome;
use portal_vmm::PartitionBuilder;
use portal_vmm::RegionHost;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

const AGENT: PeerId = PeerId(1);
/// Ring ids, as in the agent's half of this example.
const REQUESTS: u32 = 1;
const ANSWERS: u32 = 2;
const CALLS: u32 = 3;
const CALL_ANSWERS: u32 = 4;
/// Where the partition sees the region: 64 GiB, the start of the window for that.
const REGION_GPA: u64 = 0x10_0000_0000;
const FACTOR: u64 = 7;
const ROUNDS: u64 = 1000;
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<ExitCode> {
    let kvm = match Kvm::open() {
        Ok(kvm) => kvm,
        Err(error) => {
            eprintln!("{error}");
            return Ok(ExitCode::from(4));
        }
    };

    // A region, the host as its peer 0, a partition as its peer 1.
    let regions = RegionHost::new();
    let region = regions.create(&RegionHandle::new("calls", 1 << 20))?;
    let host = regions.join("calls", &Join::host("host", Some(0), 1))?;
    let mut partition =
        PartitionBuilder::new("caller", Image::Flat(portal_examples::CALLER.into()))
            .ram(16 << 20)
            .console(Console::stdout("caller: "))
            .deadline(Duration::from_secs(30))
            .fixed_region(&FixedRegionHandle::new("calls", REGION_GPA), &regions)?
            .build(&kvm)?;

    // The host's section: its rings to the agent.
    let mem = region.mapping().mem();
    let attached = PortalRegion::attach(mem, AttachOptions::default())?;
    let config = SectionConfig {
        directory: 8,
        ring_bytes: 32 << 10,
    };
    let mut own = attached.join(host.peer(), host.epoch(), config)?;
    host.ready()?;
    let requests = create(&mut own, REQUESTS, RingKind::Submit)?;
    let call_answers = create(&mut own, CALL_ANSWERS, RingKind::Complete)?;

    partition.start()?;
    let mut answers = CompleteReceiver::new(accept(&mut own, ANSWERS)?)?;
    let calls = accept(&mut own, CALLS)?;
    let mut requests = SubmitSender::new(requests)?;
    let mut calls = UpcallServer::pair(calls, call_answers)?;
    requests.set_cursor(cursor(&own, REQUESTS)?)?;
    calls.set_cursor(cursor(&own, CALL_ANSWERS)?)?;

    let started = Instant::now();
    for number in 1..=ROUNDS {
        requests.try_send(&SubmitEntry {
            opcode: 1,
            user_data: number,
            arg: number,
            ..SubmitEntry::default()
        })?;
        let deadline = Instant::now() + PATIENCE;
        let answer = loop {
            if let Some(call) = calls.try_recv()? {
                calls.answer(&CompleteEntry {
                    user_data: call.user_data,
                    result: FACTOR,
                    ..CompleteEntry::default()
                })?;
            }
            if let Some(answer) = answers.try_recv()? {
                break answer;
            }
            ensure!(Instant::now() < deadline, "the agent does not answer");
        };
        ensure!(answer.result == number * FACTOR, "{answer:?}");
    }
    let each = started.elapsed() / ROUNDS as u32;
    println!("{ROUNDS} requests, each with a call back: {each:?} a round");

    // Opcode 0 ends the agent.
    requests.try_send(&SubmitEntry::default())?;
    match partition.wait(PATIENCE) {
        Some(Outcome::Exited(0)) => Ok(ExitCode::SUCCESS),
        Some(other) => bail!("the partition {other}"),
        None => bail!("the agent does not stop"),
    }
}

fn create(
    own: &mut OwnSection<MappedMem>,
    id: u32,
    kind: RingKind,
) -> anyhow::Result<RingPlace<MappedMem>> {
    Ok(own.create_ring(RingSpec {
        id,
        to: AGENT,
        kind,
        layout: RingLayout::Inline,
        slot_size: 64,
        slots: 64,
    })?)
}

/// The agent makes its rings when it has booted.
fn accept(own: &mut OwnSection<MappedMem>, id: u32) -> anyhow::Result<RingPlace<MappedMem>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match own.accept_ring(AGENT, id) {
            Ok(place) => return Ok(place),
            Err(e) if Instant::now() > deadline => return Err(e).context("the agent's rings"),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// How far the agent has read, once it has accepted the ring.
fn cursor(own: &OwnSection<MappedMem>, id: u32) -> anyhow::Result<MappedMem> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match own.cursor(AGENT, id)? {
            Some(line) => return Ok(line),
            None if Instant::now() > deadline => bail!("the agent has not accepted ring {id}"),
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}
