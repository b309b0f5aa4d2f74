//! Multiplies: the host submits a number, the agent calls the host for the factor
//! and answers with the product. Either side calls the other through rings.
#![no_std]

use hv_shmem::layout::PeerId;
use hv_shmem::mem::RawMem;
use hv_shmem::own_section::OwnSection;
use hv_shmem::own_section::RingSpec;
use hv_shmem::ring::CompleteEntry;
use hv_shmem::ring::CompleteSender;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::RingPlace;
use hv_shmem::ring::SubmitReceiver;
use hv_shmem::ring::UpcallCaller;
use hv_shmem::ring::UpcallEntry;
use hv_shmem::section::SectionConfig;
use portal_warp::ExitCode;
use portal_warp::Machine;
use portal_warp::println;
use portal_warp::region::Attached;

portal_warp::entry!(main);

const HOST: PeerId = PeerId(0);
/// Ring ids, as in the host's half of this example.
const REQUESTS: u32 = 1;
const ANSWERS: u32 = 2;
const CALLS: u32 = 3;
const CALL_ANSWERS: u32 = 4;
/// Opcode of the request that ends the agent.
const STOP: u32 = 0;
/// The longest that the agent waits for the host, in microseconds.
const PATIENCE_US: u64 = 5_000_000;

fn main(machine: Machine) -> ExitCode {
    match serve(&machine) {
        Ok(()) => ExitCode(0),
        Err(what) => {
            println!("{what}");
            ExitCode(1)
        }
    }
}

fn serve(machine: &Machine) -> Result<(), &'static str> {
    let attached = Attached::fixed(machine, 0).map_err(|_| "no region")?;
    let config = SectionConfig {
        directory: 8,
        ring_bytes: 32 << 10,
    };
    let mut own = attached
        .region
        .join(attached.me, attached.epoch, config)
        .map_err(|_| "cannot join")?;
    let answers = create(&mut own, ANSWERS, RingKind::Complete)?;
    let calls = create(&mut own, CALLS, RingKind::Upcall)?;
    let requests = accept(machine, &mut own, REQUESTS)?;
    let call_answers = accept(machine, &mut own, CALL_ANSWERS)?;

    let mut requests = SubmitReceiver::new(requests).map_err(|_| "requests")?;
    let mut answers = CompleteSender::new(answers).map_err(|_| "answers")?;
    let mut host = UpcallCaller::pair(calls, call_answers).map_err(|_| "calls")?;
    answers
        .set_cursor(cursor(machine, &own, ANSWERS)?)
        .map_err(|_| "answers")?;
    host.set_cursor(cursor(machine, &own, CALLS)?)
        .map_err(|_| "calls")?;
    let clock = machine.clock();
    let mut deadline = clock.after(PATIENCE_US);
    loop {
        let Some(request) = requests.try_recv().map_err(|_| "bad requests")? else {
            if deadline.passed() {
                return Err("the host has gone quiet");
            }
            core::hint::spin_loop();
            continue;
        };
        deadline = clock.after(PATIENCE_US);
        if request.opcode == STOP {
            return Ok(());
        }
        // In the middle of serving a request, a call in the other direction.
        let factor = host
            .call(
                &UpcallEntry {
                    function: 1,
                    user_data: request.user_data,
                    budget_ns: 1_000_000_000,
                    ..UpcallEntry::default()
                },
                &clock,
            )
            .map_err(|_| "the host does not answer")?;
        let answer = CompleteEntry {
            user_data: request.user_data,
            result: request.arg.wrapping_mul(factor.result),
            ..CompleteEntry::default()
        };
        answers.try_send(&answer).map_err(|_| "no room to answer")?;
    }
}

fn create(
    own: &mut OwnSection<RawMem>,
    id: u32,
    kind: RingKind,
) -> Result<RingPlace<RawMem>, &'static str> {
    own.create_ring(RingSpec {
        id,
        to: HOST,
        kind,
        layout: RingLayout::Inline,
        slot_size: 64,
        slots: 64,
    })
    .map_err(|_| "no room for a ring")
}

fn accept(
    machine: &Machine,
    own: &mut OwnSection<RawMem>,
    id: u32,
) -> Result<RingPlace<RawMem>, &'static str> {
    let deadline = machine.clock().after(PATIENCE_US);
    loop {
        match own.accept_ring(HOST, id) {
            Ok(place) => return Ok(place),
            Err(_) if deadline.passed() => return Err("the host has not made its rings"),
            Err(_) => core::hint::spin_loop(),
        }
    }
}

/// How far the host has read, once it has accepted the ring.
fn cursor(machine: &Machine, own: &OwnSection<RawMem>, id: u32) -> Result<RawMem, &'static str> {
    let deadline = machine.clock().after(PATIENCE_US);
    loop {
        match own.cursor(HOST, id) {
            Ok(Some(line)) => return Ok(line),
            _ if deadline.passed() => return Err("the host has not accepted a ring"),
            _ => core::hint::spin_loop(),
        }
    }
}
