//! The metrics: their text, and the endpoint in front of hostile clients.

mod scene;

use portal_device::inspect::Node;
use portal_observe::listener::CONNECTIONS;
use portal_observe::listener::Endpoint;
use portal_observe::listener::REQUEST_MAX;
use portal_observe::listener::REQUEST_TIME;
use portal_observe::listener::address;
use portal_observe::metrics;
use portal_observe::model::Model;
use portal_observe::sample::Sample;
use portal_observe::source::Source;
use portal_observe::source::SourceError;
use scene::at;
use scene::partition;
use scene::peer;
use scene::region;
use scene::ring;
use std::io::Read as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

struct Still;

impl Source for Still {
    fn title(&self) -> String {
        "still".to_owned()
    }

    fn sample(&mut self) -> Result<Sample, SourceError> {
        let peers = vec![peer(0, "host", "ready"), peer(1, "a\"b\\c", "joining")];
        let mut waits = ring(0, 1, 7, 84, Some(20));
        (waits.sender_waits, waits.lost) = (true, 3);
        let mut sample = at(1, vec![region("lake", peers, vec![waits])]);
        sample.doorbells.insert(("lake".to_owned(), 1), 42);
        sample.partitions.push(partition("a", 11, 12));
        Ok(sample)
    }

    fn tree(&mut self) -> Result<Node, SourceError> {
        Ok(Node::new())
    }
}

#[test]
fn the_text_has_every_metric_with_its_labels() {
    let mut model = Model::new();
    let mut still = Still;
    for second in 0..4 {
        let mut sample = still.sample().expect("a sample");
        sample.at = Duration::from_secs(second);
        model.take(sample);
    }
    let picture = model.take(Sample {
        at: Duration::from_secs(4),
        ..still.sample().expect("a sample")
    });
    let text = metrics::text(picture).expect("a string");
    for line in [
        r#"portal_region_size_bytes{region="lake"} 67108864.0"#,
        r#"portal_region_peers{region="lake",state="ready"} 1.0"#,
        r#"portal_region_peers{region="lake",state="dead"} 0.0"#,
        r#"portal_region_stalled_rings{region="lake"} 1.0"#,
        r#"portal_peer_state{region="lake",peer="1",name="a\"b\\c",kind="partition",state="joining"} 1.0"#,
        r#"portal_peer_doorbells_seen_total{region="lake",peer="1"} 42"#,
        r#"portal_ring_messages_sent_total{region="lake",from="0",to="1",ring="7",kind="stream"} 84"#,
        r#"portal_ring_messages_taken_total{region="lake",from="0",to="1",ring="7",kind="stream"} 20"#,
        r#"portal_ring_events_lost_total{region="lake",from="0",to="1",ring="7",kind="stream"} 3"#,
        r#"portal_ring_messages_waiting{region="lake",from="0",to="1",ring="7",kind="stream"} 64.0"#,
        r#"portal_ring_stalled{region="lake",from="0",to="1",ring="7",kind="stream"} 1.0"#,
        r#"portal_partition_user_exits_total{partition="a"} 11"#,
        r#"portal_partition_interrupts_total{partition="a"} 12"#,
        "portal_problems 0.0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    let empty = metrics::text(Model::new().take(Sample::default())).expect("a string");
    assert!(empty.contains("portal_problems 0.0") && !empty.contains("ring_messages"));
}

#[test]
fn the_guide_lists_every_metric() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../Guide/src/operations.md");
    let page = std::fs::read_to_string(page).expect("a page");
    let picture = Model::new().take(Still.sample().expect("a sample"));
    let text = metrics::text(picture).expect("a string");
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names: Vec<_> = types.filter_map(|line| line.split_once(' ')).collect();
    assert!(names.len() > 15, "{names:?}");
    for (name, kind) in names {
        let end = if kind == "counter" { "_total" } else { "" };
        assert!(page.contains(&format!("`{name}{end}`")), "{name}{end}");
    }
}

fn endpoint() -> SocketAddr {
    let endpoint = Endpoint::bind(address("0").expect("an address")).expect("a port");
    let at = endpoint.address();
    endpoint.serve(Box::new(Still)).expect("a thread");
    at
}

fn ask(at: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(at).expect("it listens");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a time");
    // The other end may close before it has read everything.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

const SCRAPE: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn it_answers_a_scrape() {
    let at = endpoint();
    let answer = ask(at, SCRAPE);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("Content-Type: application/openmetrics-text; version=1.0.0"));
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains(&format!("Content-Length: {}", body.len())));
    assert!(body.ends_with("# EOF\n"));
}

#[test]
fn what_is_no_request_is_told_and_closed() {
    let at = endpoint();
    let long = [
        b"GET /metrics HTTP/1.1\r\nX: ".to_vec(),
        vec![b'x'; REQUEST_MAX],
    ]
    .concat();
    let headers = "a: b\r\n".repeat(100);
    let many = format!("GET /metrics HTTP/1.1\r\n{headers}\r\n");
    for (request, status) in [
        (b"\x00\x01\x02\r\n\r\n".as_slice(), "400"),
        (b"GET\r\n\r\n", "400"),
        (b"DELETE /metrics HTTP/1.1\r\n\r\n", "405"),
        (b"GET /nothing HTTP/1.1\r\n\r\n", "404"),
        (many.as_bytes(), "431"),
        (&long, "431"),
    ] {
        let answer = ask(at, request);
        let shown = String::from_utf8_lossy(request)
            .chars()
            .take(40)
            .collect::<String>();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{shown}: {answer}"
        );
    }
    assert!(ask(at, SCRAPE).starts_with("HTTP/1.1 200"));
}

/// Clients that send half a request and wait take every place for two seconds
/// and no longer; more of them are closed at once.
#[test]
fn half_open_clients_do_not_keep_it() {
    let at = endpoint();
    let begin = Instant::now();
    let mut half: Vec<TcpStream> = Vec::new();
    for _ in 0..CONNECTIONS * 3 {
        let mut stream = TcpStream::connect(at).expect("it listens");
        let _ = stream.write_all(b"GET /metrics HTT");
        half.push(stream);
    }
    let (served, beyond) = half.split_at_mut(CONNECTIONS);
    for stream in beyond {
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        let waits = matches!(
            stream.read(&mut [0; 1]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock
        );
        assert!(!waits, "those beyond the limit are closed");
    }
    let waiting = served.iter_mut().filter_map(|stream| {
        stream.set_nonblocking(true).expect("a socket");
        stream.read(&mut [0; 1]).err()
    });
    let waiting = waiting.filter(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    let waiting = waiting.count();
    let in_time = begin.elapsed() < REQUEST_TIME;
    assert!(waiting == CONNECTIONS || !in_time, "at once: {waiting}");
    let answered = loop {
        if ask(at, SCRAPE).starts_with("HTTP/1.1 200") {
            break begin.elapsed();
        }
        assert!(begin.elapsed() < PATIENCE, "it never answers again");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(answered >= REQUEST_TIME / 2, "the places were taken");
}
