//! A control socket and who looks through it: what they see, and what hostile
//! clients come to.

use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingConfig;
use hv_shmem::backing::View;
use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::name::Name;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use portal_client::Connection;
use portal_device::inspect::Node;
use portal_device::inspect::Value;
use portal_observe::control;
use portal_observe::control::CLIENTS;
use portal_observe::control::Observed;
use portal_observe::control::ObservedRegion;
use portal_observe::control::OwnSource;
use portal_observe::socket;
use portal_observe::socket::SocketSource;
use portal_observe::source::Source as _;
use portal_protocol::MESSAGE_MAX;
use portal_protocol::RegionInfo;
use portal_protocol::Reply;
use portal_protocol::Request;
use portal_protocol::packet;
use rustix::net::AddressFamily;
use rustix::net::RecvFlags;
use rustix::net::SendFlags;
use rustix::net::SocketAddrUnix;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use std::os::fd::AsFd as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(20);

/// A VMM with regions and one partition.
struct Vmm {
    regions: Mutex<Vec<ObservedRegion>>,
}

impl Observed for Vmm {
    fn tree(&self) -> Node {
        let vcpu = Node::new()
            .with("user_exits", 5u64)
            .with("kernel", Node::new().with("irq_injections", 9u64));
        let binding = Node::new()
            .with("region", "lake")
            .with("peer", 1u64)
            .with("doorbells_seen", 42u64);
        let device = Node::new().with("binding", binding);
        let a = Node::new()
            .with("state", "running")
            .with("vcpus", Node::new().with("0", vcpu))
            .with("devices", Node::new().with("ivshmem", device));
        // Larger than a message.
        let padding = "x".repeat(3 * MESSAGE_MAX);
        Node::new()
            .with("partitions", Node::new().with("a", a))
            .with(
                "regions",
                Node::new().with("lake", Node::new().with("note", padding)),
            )
    }

    fn regions(&self) -> Vec<ObservedRegion> {
        self.regions.lock().expect("not poisoned").clone()
    }
}

/// A region of this many peers, each with an fd of its own, peer 1 among them.
fn region(name: &str, peers: u16, uuid: u128) -> ObservedRegion {
    let name = Name::new(name).expect("a name");
    let spec = RegionSpec::new(name, 16 << 20, peers).sectioned(true);
    let backing = Backing::create(&spec, &BackingConfig::default()).expect("memory");
    let mem = backing.map(View::OWNER).expect("a mapping").mem();
    let uuid = Uuid::from_u128(uuid);
    let mut host = HostPages::format(mem, &spec, uuid).expect("a region");
    let who = Name::new("a").expect("a name");
    let admitted = host.admit(PeerId(1), who, PeerKind::Partition, Rights::ALL, 2);
    admitted.expect("room");
    // As a VMM does: nobody maps it writable any more.
    backing.seal_writers().expect("sealed");
    let layout = backing.layout().clone();
    ObservedRegion {
        info: RegionInfo {
            name,
            uuid,
            size: layout.size,
            common: 0,
            peers,
            live: 1,
            vectors: 0,
            sectioned: true,
            compatible: false,
        },
        backing: Arc::new(backing),
    }
}

fn packets() -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    let made = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
    made.expect("a socket")
}

fn serve(folder: &Path, regions: Vec<ObservedRegion>) -> (PathBuf, Arc<Vmm>) {
    let path = folder.join("vmm.sock");
    let address = SocketAddrUnix::new(&path).expect("an address");
    let listener = packets();
    rustix::net::bind(&listener, &address).expect("a path");
    rustix::net::listen(&listener, 64).expect("listens");
    let vmm = Arc::new(Vmm {
        regions: Mutex::new(regions),
    });
    control::serve(listener, vmm.clone()).expect("a thread");
    (path, vmm)
}

#[test]
fn what_a_vmm_shows_is_seen_through_its_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    // 200 sections: more descriptors than one message has.
    let (path, vmm) = serve(here, vec![region("lake", 200, 1)]);
    let mut source = SocketSource::open(&path).expect("listens");
    let mut own = OwnSource::new(vmm.clone());
    for sample in [source.sample(), own.sample()] {
        let sample = sample.expect("a sample");
        assert_eq!(sample.problems, Vec::<String>::new());
        assert_eq!(sample.regions[0].peers[0].name, "a");
        assert!(sample.regions[0].enforced);
        assert_eq!(sample.doorbells[&("lake".to_owned(), 1)], 42);
        let a = &sample.partitions[0];
        assert_eq!((a.exits, a.interrupts, a.doorbells), (5, Some(9), 42));
    }
    let tree = source.tree().expect("a tree");
    let text = |at: &str| tree.get(at).map(Value::to_string);
    assert_eq!(text("regions/lake/peers/1/name").as_deref(), Some("a"));
    assert_eq!(text("regions/lake/max_peers").as_deref(), Some("200"));
    assert_eq!(
        text("regions/lake/note").map(|n| n.len()),
        Some(3 * MESSAGE_MAX)
    );
    assert_eq!(text("partitions/a/state").as_deref(), Some("running"));

    // Made anew under its name, and another beside it: the next look sees both.
    let new = vec![region("lake", 4, 2), region("sea", 4, 3)];
    *vmm.regions.lock().expect("not poisoned") = new;
    for sample in [source.sample(), own.sample()] {
        let sample = sample.expect("a sample");
        let mut names: Vec<_> = sample
            .regions
            .iter()
            .map(|r| (&*r.name, r.max_peers))
            .collect();
        names.sort_unstable();
        assert_eq!(names, [("lake", 4), ("sea", 4)]);
    }
    vmm.regions.lock().expect("not poisoned").clear();
    assert_eq!(source.sample().expect("a sample").regions, []);
}

#[test]
fn sockets_are_found_by_their_type() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    let (path, _) = serve(here, Vec::new());
    // A compatibility socket, a dead one, a file, and a folder.
    let compatible = UnixListener::bind(here.join("lake.sock")).expect("a socket");
    compatible.set_nonblocking(true).expect("a flag");
    drop(UnixListener::bind(here.join("dead.sock")).expect("a socket"));
    std::fs::write(here.join("file.sock"), "").expect("written");
    std::fs::create_dir(here.join("folder.sock")).expect("a folder");
    let found = socket::find(here);
    let titles: Vec<_> = found.iter().map(|source| source.title()).collect();
    assert_eq!(titles, [path.display().to_string()]);
    assert!(compatible.accept().is_err(), "nobody came in there");
    assert!(socket::find(&here.join("nowhere")).is_empty());
}

fn client(path: &Path) -> OwnedFd {
    let socket = packets();
    let address = SocketAddrUnix::new(path).expect("an address");
    rustix::net::connect(&socket, &address).expect("listens");
    let timeout = rustix::net::sockopt::Timeout::Recv;
    let set = rustix::net::sockopt::set_socket_timeout(&socket, timeout, Some(PATIENCE));
    set.expect("a time");
    socket
}

/// The answer to some bytes; `None` when the connection ends.
fn ask(socket: &OwnedFd, bytes: &[u8]) -> Option<Reply> {
    let _ = packet::send(socket.as_fd(), bytes, &[], SendFlags::empty());
    let mut buffer = [0; MESSAGE_MAX + 1];
    let got = packet::receive(socket.as_fd(), &mut buffer, RecvFlags::empty());
    let got = got.ok().filter(|got| got.len > 0)?;
    Reply::decode(&buffer[..got.len], got.fds.len()).ok()
}

#[test]
fn clients_that_break_the_protocol_lose_their_place_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, _) = serve(folder.path(), vec![region("lake", 4, 1)]);
    let hello = |oldest, newest| Request::Hello { oldest, newest }.encode();
    // Before the hello, after it, and the hello of another time.
    for bytes in [
        vec![0; 8],
        vec![0xff; 4096],
        Request::List.encode(),
        vec![1],
    ] {
        assert_eq!(ask(&client(&path), &bytes), None, "{bytes:?}");
    }
    let late = client(&path);
    assert!(matches!(ask(&late, &hello(2, 9)), Some(Reply::Refused(_))));
    assert_eq!(ask(&late, &Request::List.encode()), None, "it is over");
    let twice = client(&path);
    assert_eq!(
        ask(&twice, &hello(1, 1)),
        Some(Reply::Welcome { version: 1 })
    );
    for request in [Request::Ready, Request::Leave, Request::Quiesce] {
        let answer = ask(&twice, &request.encode());
        assert!(matches!(answer, Some(Reply::Refused(_))), "{request:?}");
    }
    // Truncated and extended, each message.
    for request in [Request::List, Request::Inspect, Request::Leave] {
        let mut bytes = request.encode();
        bytes.push(0);
        let broken = client(&path);
        assert!(ask(&broken, &hello(1, 1)).is_some());
        assert_eq!(ask(&broken, &bytes), None, "{request:?}");
    }
    let mut after = Connection::open(&path).expect("it still listens");
    assert_eq!(after.regions().expect("a list").len(), 1);
    let sea = Name::new("sea").expect("a name");
    let error = after.watch(&sea).expect_err("there is none").to_string();
    assert!(error.contains("there are: lake"), "{error}");
}

#[test]
fn clients_beyond_the_limit_are_closed_and_others_go_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, _) = serve(folder.path(), Vec::new());
    let mut silent: Vec<_> = (0..CLIENTS).map(|_| client(&path)).collect();
    let hello = Request::Hello {
        oldest: 1,
        newest: 1,
    }
    .encode();
    let welcome = Some(Reply::Welcome { version: 1 });
    assert_eq!(ask(&silent[0], &hello), welcome, "it has its place");
    for _ in 0..CLIENTS {
        assert_eq!(ask(&client(&path), &hello), None, "one too many");
    }
    assert_eq!(ask(&silent[CLIENTS - 1], &hello), welcome);
    silent.truncate(1);
    let begin = Instant::now();
    while ask(&client(&path), &hello) != welcome {
        assert!(begin.elapsed() < PATIENCE, "there is no room again");
        std::thread::sleep(Duration::from_millis(5));
    }
}
