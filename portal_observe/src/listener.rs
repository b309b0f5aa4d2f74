//! Who may fetch the metrics: a small HTTP listener.
//!
//! Specification: HTTP/1.1 (RFC 9112), as much of it as `GET /metrics` takes. One
//! request a connection, answered and closed.
//!
//! Distrusted: whoever connects. A request has [`REQUEST_MAX`] bytes and
//! [`REQUEST_TIME`], an answer [`ANSWER_TIME`]; [`CONNECTIONS`] are served at
//! once, and those beyond are closed. None of that stops or slows what is
//! observed: the listener has threads of its own. Left out: TLS and
//! authentication; it listens on this host only unless it is told otherwise.

use crate::metrics;
use crate::model::Model;
use crate::source::Source;
use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

/// Most bytes of a request's head; Prometheus sends some 300.
pub const REQUEST_MAX: usize = 8 << 10;
/// Most headers of a request.
const HEADERS: usize = 64;
/// Longest time for a request to arrive.
pub const REQUEST_TIME: Duration = Duration::from_secs(2);
/// Longest time for an answer to be taken.
pub const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Connections that are served at once.
pub const CONNECTIONS: usize = 8;
/// Pause after an accept that failed: what it lacks does not come back sooner by
/// asking again.
const RETRY: Duration = Duration::from_millis(100);

/// Reads an address: `PORT`, `:PORT`, `IP:PORT`. Without an IP it is this host's
/// own, 127.0.0.1.
///
/// # Errors
/// One sentence that names the value.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port.parse() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse()
        .map_err(|_| format!("{text:?} is no address; write PORT or IP:PORT, as 127.0.0.1:9187"))
}

/// The endpoint, listening.
#[derive(Debug)]
pub struct Endpoint {
    socket: TcpListener,
    address: SocketAddr,
}

/// Looked at by each scrape; the model remembers the one before.
struct Scraped {
    source: Box<dyn Source>,
    model: Model,
}

impl Endpoint {
    /// Listens.
    ///
    /// # Errors
    /// What the kernel says: the address is in use, or not this host's.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpListener::bind(address)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// Where it listens; a port of 0 was replaced by a free one.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers from now on, on a thread of its own, until the process ends.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn serve(self, source: Box<dyn Source>) -> io::Result<()> {
        let scraped = Arc::new(Mutex::new(Scraped {
            source,
            model: Model::new(),
        }));
        let open = Arc::new(AtomicUsize::new(0));
        let accept = move || {
            loop {
                match self.socket.accept() {
                    Ok((stream, _)) => admit(stream, &scraped, &open),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => std::thread::sleep(RETRY),
                }
            }
        };
        let name = "metrics".to_owned();
        std::thread::Builder::new().name(name).spawn(accept)?;
        Ok(())
    }
}

/// Gives a connection a thread, or closes it when there are too many.
fn admit(stream: TcpStream, scraped: &Arc<Mutex<Scraped>>, open: &Arc<AtomicUsize>) {
    if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
        open.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    let place = Place(Arc::clone(open));
    let scraped = Arc::clone(scraped);
    let work = move || {
        let _place = place;
        // Whoever does not wait for the answer gets none.
        let _ = converse(&stream, || scrape(&scraped));
    };
    let name = "metrics-client".to_owned();
    // Without a thread, the connection is closed and its place free again.
    let _ = std::thread::Builder::new().name(name).spawn(work);
}

struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn scrape(scraped: &Mutex<Scraped>) -> Result<String, String> {
    let mut scraped = scraped.lock().unwrap_or_else(PoisonError::into_inner);
    let sample = scraped.source.sample().map_err(|e| e.to_string())?;
    let picture = scraped.model.take(sample);
    metrics::text(picture).map_err(|e| e.to_string())
}

struct Answer {
    status: &'static str,
    kind: &'static str,
    body: String,
}

impl Answer {
    fn says(status: &'static str, body: impl Into<String>) -> Self {
        Self {
            status,
            kind: "text/plain; charset=utf-8",
            body: body.into(),
        }
    }
}

fn converse(
    mut stream: &TcpStream,
    metrics: impl FnOnce() -> Result<String, String>,
) -> io::Result<()> {
    let answer = match request(stream)? {
        Some(request) => answer(&request, metrics),
        None => return Ok(()),
    };
    let head = format!(
        "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        answer.status,
        answer.kind,
        answer.body.len()
    );
    let bytes = [head.as_bytes(), answer.body.as_bytes()].concat();
    let end = Instant::now() + ANSWER_TIME;
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        stream.set_write_timeout(Some(left(end)?))?;
        let sent = stream.write(rest)?;
        if sent == 0 {
            return Ok(());
        }
        rest = rest.get(sent..).unwrap_or_default();
    }
    Ok(())
}

/// Time left until `end`.
fn left(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    // A timeout of zero is none at all.
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

/// What arrived of a request's head: method and path, or what is wrong with it.
enum Request {
    Asks { method: String, path: String },
    TooLong,
    Malformed,
}

/// Reads a request's head; `None` when the client went away.
fn request(mut stream: &TcpStream) -> io::Result<Option<Request>> {
    let end = Instant::now() + REQUEST_TIME;
    let mut bytes = vec![0; REQUEST_MAX];
    let mut have = 0;
    loop {
        let Some(room) = bytes.get_mut(have..).filter(|room| !room.is_empty()) else {
            return Ok(Some(Request::TooLong));
        };
        stream.set_read_timeout(Some(left(end)?))?;
        let got = stream.read(room)?;
        if got == 0 {
            return Ok(None);
        }
        have += got;
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut parsed = httparse::Request::new(&mut headers);
        match parsed.parse(bytes.get(..have).unwrap_or_default()) {
            Ok(httparse::Status::Partial) => {}
            Ok(httparse::Status::Complete(_)) => {
                return Ok(Some(Request::Asks {
                    method: parsed.method.unwrap_or_default().to_owned(),
                    path: parsed.path.unwrap_or_default().to_owned(),
                }));
            }
            Err(httparse::Error::TooManyHeaders) => return Ok(Some(Request::TooLong)),
            Err(_) => return Ok(Some(Request::Malformed)),
        }
    }
}

fn answer(request: &Request, metrics: impl FnOnce() -> Result<String, String>) -> Answer {
    let (method, path) = match request {
        Request::Asks { method, path } => (method.as_str(), path.as_str()),
        Request::TooLong => {
            return Answer::says("431 Request Header Fields Too Large", "too long\n");
        }
        Request::Malformed => return Answer::says("400 Bad Request", "no HTTP request\n"),
    };
    if method != "GET" {
        return Answer::says("405 Method Not Allowed", "only GET\n");
    }
    match path.split('?').next() {
        Some("/metrics") => match metrics() {
            Ok(body) => Answer {
                status: "200 OK",
                kind: metrics::CONTENT_TYPE,
                body,
            },
            Err(error) => Answer::says("503 Service Unavailable", format!("{error}\n")),
        },
        Some("/") => Answer::says("200 OK", "Portal. The metrics are at /metrics.\n"),
        _ => Answer::says("404 Not Found", "there is only /metrics\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_host_is_this_host_only() {
        for (text, address) in [
            ("9187", "127.0.0.1:9187"),
            (":9187", "127.0.0.1:9187"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("0.0.0.0:9187", "0.0.0.0:9187"),
            ("[::1]:9187", "[::1]:9187"),
        ] {
            let parsed = super::address(text).map(|a| a.to_string());
            assert_eq!(parsed.as_deref(), Ok(address), "{text}");
        }
        for wrong in ["", ":", "here:9187", "99999", "1.2.3.4"] {
            let error = super::address(wrong).expect_err(wrong);
            assert!(error.contains("IP:PORT"), "{wrong}: {error}");
        }
    }

    #[test]
    fn requests_are_answered_by_method_and_path() {
        let asks = |method: &str, path: &str| Request::Asks {
            method: method.to_owned(),
            path: path.to_owned(),
        };
        for (request, status) in [
            (asks("GET", "/metrics"), "200 OK"),
            (asks("GET", "/metrics?a=b"), "200 OK"),
            (asks("GET", "/"), "200 OK"),
            (asks("GET", "/../metrics"), "404 Not Found"),
            (asks("POST", "/metrics"), "405 Method Not Allowed"),
            (Request::Malformed, "400 Bad Request"),
            (Request::TooLong, "431 Request Header Fields Too Large"),
        ] {
            assert_eq!(answer(&request, || Ok(String::new())).status, status);
        }
        let failed = answer(&asks("GET", "/metrics"), || Err("gone".to_owned()));
        assert_eq!(failed.status, "503 Service Unavailable");
    }
}
