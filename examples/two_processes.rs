//! Two host processes, one region in a file.
//!
//! The first process allocates a text in its own section and hands the other a
//! *span*: 32 bytes that say where. The other resolves it, reads the text where it
//! is, and answers with a span of its own. Nothing but the two spans is copied; each
//! process writes in its own section only.
//!
//!     cargo run --release --package portal_examples --example two_processes

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;
use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingConfig;
use hv_shmem::backing::MappedMem;
use hv_shmem::backing::OpenAs;
use hv_shmem::backing::Storage;
use hv_shmem::backing::View;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::name::Name;
use hv_shmem::own_section::OwnSection;
use hv_shmem::own_section::RingSpec;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use hv_shmem::ring::CompleteEntry;
use hv_shmem::ring::CompleteReceiver;
use hv_shmem::ring::CompleteSender;
use hv_shmem::ring::RingKind;
use hv_shmem::ring::RingLayout;
use hv_shmem::ring::RingPlace;
use hv_shmem::ring::SubmitEntry;
use hv_shmem::ring::SubmitReceiver;
use hv_shmem::ring::SubmitSender;
use hv_shmem::section::SectionConfig;
use hv_shmem::span::Access;
use hv_shmem::span::PortalSpan;
use std::env;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

const FIRST: PeerId = PeerId(0);
const SECOND: PeerId = PeerId(1);
const REQUESTS: u32 = 1;
const ANSWERS: u32 = 2;
const PATIENCE: Duration = Duration::from_secs(10);
const CONFIG: SectionConfig = SectionConfig {
    directory: 8,
    ring_bytes: 32 << 10,
};

fn main() -> anyhow::Result<()> {
    match env::args_os().nth(1) {
        None => first(),
        Some(path) => second(Path::new(&path)),
    }
}

/// Owns the region, and is its peer 0.
fn first() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("region");
    let spec = RegionSpec::new(Name::new("two-processes")?, 1 << 20, 2);
    let config = BackingConfig {
        storage: Storage::File(path.clone()),
        ..BackingConfig::default()
    };
    let mem = Backing::create(&spec, &config)?.map(View::OWNER)?.mem();
    let mut host = HostPages::format(mem.clone(), &spec, uuid::Uuid::from_u128(1))?;
    let process = PeerKind::HostProcess;
    let epoch = host.admit(FIRST, Name::new("first")?, process, Rights::ALL, 0)?;
    host.admit(SECOND, Name::new("second")?, process, Rights::ALL, 0)?;

    let region = PortalRegion::attach(mem, AttachOptions::default())?;
    let mut own = region.join(FIRST, epoch, CONFIG)?;
    let arena = own.arena()?;
    let mut requests = SubmitSender::new(create(&mut own, REQUESTS, SECOND, RingKind::Submit)?)?;
    let mut child = Command::new(env::current_exe()?).arg(&path).spawn()?;

    let text = "virtual machines that share memory";
    let span = arena.alloc(text.len() as u64)?;
    arena.view(&span)?.write(0, text.as_bytes())?;
    arena.grant(&span, SECOND)?;
    requests.try_send(&SubmitEntry {
        user_data: 1,
        span,
        ..SubmitEntry::default()
    })?;

    let mut answers = CompleteReceiver::new(accept(&mut own, SECOND, ANSWERS)?)?;
    let answer = wait(|| Ok(answers.try_recv()?))?;
    println!(
        "first:  the answer is {:?}",
        text_of(&mut own, &answer.span)?
    );
    // The request is answered: what was lent is ours again.
    arena.revoke(&span)?;
    ensure!(child.wait()?.success(), "the second process failed");
    Ok(())
}

/// Peer 1: turns what it is given into capitals.
fn second(path: &Path) -> anyhow::Result<()> {
    let mem = Backing::open_file(path, OpenAs::Peer)?
        .map(View::peer(SECOND))?
        .mem();
    let region = PortalRegion::attach(mem, AttachOptions::default())?;
    let epoch = region.peer(SECOND)?.epoch;
    let mut own = region.join(SECOND, epoch, CONFIG)?;
    let arena = own.arena()?;
    let mut answers = CompleteSender::new(create(&mut own, ANSWERS, FIRST, RingKind::Complete)?)?;
    let mut requests = SubmitReceiver::new(accept(&mut own, FIRST, REQUESTS)?)?;

    let request = wait(|| Ok(requests.try_recv()?))?;
    let text = text_of(&mut own, &request.span)?;
    println!("second: got {text:?}");
    let reply = text.to_uppercase();
    let span = arena.alloc(reply.len() as u64)?;
    arena.view(&span)?.write(0, reply.as_bytes())?;
    arena.grant(&span, FIRST)?;
    answers.try_send(&CompleteEntry {
        user_data: request.user_data,
        span,
        ..CompleteEntry::default()
    })?;
    Ok(())
}

/// The bytes behind a span, if it resolves: a span is a claim.
fn text_of(own: &mut OwnSection<MappedMem>, span: &PortalSpan) -> anyhow::Result<String> {
    let mut resolver = own.resolver()?;
    let view = resolver.resolve(span, Access::Read)?;
    let mut bytes = vec![0; usize::try_from(view.len())?];
    view.read(0, &mut bytes)?;
    Ok(String::from_utf8(bytes)?)
}

fn create(
    own: &mut OwnSection<MappedMem>,
    id: u32,
    to: PeerId,
    kind: RingKind,
) -> anyhow::Result<RingPlace<MappedMem>> {
    Ok(own.create_ring(RingSpec {
        id,
        to,
        kind,
        layout: RingLayout::Inline,
        slot_size: 64,
        slots: 16,
    })?)
}

fn accept(
    own: &mut OwnSection<MappedMem>,
    from: PeerId,
    id: u32,
) -> anyhow::Result<RingPlace<MappedMem>> {
    wait(|| Ok(own.accept_ring(from, id).ok())).context("the other process's ring")
}

fn wait<T>(mut look: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("nothing within {PATIENCE:?}");
        }
        std::thread::yield_now();
    }
}
