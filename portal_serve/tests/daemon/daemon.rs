//! A daemon in a child process: this test binary again, told by its environment.

use portal_serve::ClientLimits;
use portal_serve::Limits;
use portal_serve::Options;
use portal_serve::PortalSocket;
use portal_serve::RegionConfig;
#[cfg(feature = "negative_control")]
use portal_serve::guard::Guard;
use rustix::process::Pid;
use rustix::process::Signal;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

const REGIONS: &str = "PORTAL_SERVE_TEST_REGIONS";
const WELCOME: &str = "PORTAL_SERVE_TEST_WELCOME_MS";
const STALL: &str = "PORTAL_SERVE_TEST_STALL_MS";
const PORTAL: &str = "PORTAL_SERVE_TEST_PORTAL";
const STATE: &str = "PORTAL_SERVE_TEST_STATE";
const GRACE: &str = "PORTAL_SERVE_TEST_GRACE_MS";

/// Lines of a daemon's log that a test that fails shows.
const LOG_LINES: usize = 20;

/// Every wait of these tests ends here.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(feature = "negative_control")]
const WITHOUT: &str = "PORTAL_SERVE_TEST_WITHOUT";

#[cfg(feature = "negative_control")]
std::thread_local! {
    static OUT: std::cell::Cell<Option<Guard>> = const { std::cell::Cell::new(None) };
}

/// Daemons that `run` starts do without this guard.
#[cfg(feature = "negative_control")]
pub(crate) fn without<R>(guard: Guard, run: impl FnOnce() -> R) -> R {
    OUT.set(Some(guard));
    let result = run();
    OUT.set(None);
    result
}

/// In the child: serves until SIGTERM, as `portal serve` does.
pub(crate) fn serve_as_told() {
    #[cfg(feature = "negative_control")]
    if let Ok(told) = std::env::var(WITHOUT) {
        use Guard::*;
        let mut guards = [Broke, Displaced, Overdue, Spare, Spoke, Stall].into_iter();
        let guard = guards.find(|guard| format!("{guard:?}") == told);
        return portal_device::guard::without(guard.expect("the parent's"), serve);
    }
    serve();
}

fn serve() {
    let Ok(regions) = std::env::var(REGIONS) else {
        return;
    };
    let regions: Vec<_> = regions
        .split(';')
        .map(|text| RegionConfig::parse(text, |t| t.parse().ok()).expect("the parent's"))
        .collect();
    let millis = |key| Duration::from_millis(std::env::var(key).unwrap().parse().unwrap());
    let limits = Limits {
        welcome: millis(WELCOME),
        stall: millis(STALL),
        ..Limits::default()
    };
    let options = Options {
        limits,
        clients: ClientLimits {
            hello: limits.welcome,
            stall: limits.stall,
            grace: std::env::var(GRACE)
                .map_or(PATIENCE, |ms| Duration::from_millis(ms.parse().unwrap())),
            ..ClientLimits::default()
        },
        state: std::env::var_os(STATE).map(PathBuf::from),
        portal: std::env::var_os(PORTAL)
            .map_or(PortalSocket::None, |path| PortalSocket::At(path.into())),
    };
    // A test that is killed must not leave this behind.
    let with_parent = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    with_parent.expect("it may");
    let stop = portal_serve::stop::on_signals().expect("signals");
    let daemon = match portal_serve::Daemon::new(&regions, &options) {
        Ok(daemon) => daemon,
        Err(error) => {
            println!("error: {error}");
            std::process::exit(4);
        }
    };
    println!("serving");
    let ran = daemon.run(stop.as_fd(), &mut |notice| println!("{notice}"));
    ran.expect("runs to its end");
    println!("stopped");
}

/// The child.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    command: Command,
    folder: tempfile::TempDir,
}

impl Daemon {
    /// Serves one region, `lake`, at [`Self::socket`].
    pub(crate) fn lake(keys: &str) -> Self {
        Self::with_times(keys, Duration::from_secs(10), Duration::from_secs(60))
    }

    pub(crate) fn with_times(keys: &str, welcome: Duration, stall: Duration) -> Self {
        Self::start(keys, welcome, stall, None, None)
    }

    /// One that keeps its state, and gives peers so much time to come back.
    pub(crate) fn kept(keys: &str, grace: Duration) -> Self {
        let times = (Duration::from_secs(10), Duration::from_secs(60));
        Self::start(keys, times.0, times.1, Some(grace), None)
    }

    /// One that keeps its state, under a service manager that is told at `notify`
    /// and stores descriptors.
    pub(crate) fn stored(keys: &str, notify: &Path) -> Self {
        let times = (Duration::from_secs(10), Duration::from_secs(60));
        Self::start(keys, times.0, times.1, Some(PATIENCE), Some(notify))
    }

    /// Starts it again as a service manager does, with a descriptor that it kept.
    pub(crate) fn start_with(&mut self, stored: std::os::fd::OwnedFd, name: &str) {
        let mut outer = Command::new("sh");
        outer
            .args(["-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\" 3<&0"])
            .arg(self.command.get_program())
            .args(self.command.get_args())
            .envs(self.command.get_envs().filter_map(|(k, v)| Some((k, v?))))
            .env("LISTEN_FDNAMES", name)
            .stdin(stored);
        self.child = spawn(&mut outer, self.folder.path());
        self.await_start();
    }

    fn start(
        keys: &str,
        welcome: Duration,
        stall: Duration,
        grace: Option<Duration>,
        notify: Option<&Path>,
    ) -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").expect("a folder");
        let socket = folder.path().join("lake.sock");
        let socket = match keys.contains("sections=enforced") {
            true => String::new(),
            false => format!(",socket={}", socket.display()),
        };
        let mut command = command(&format!("lake,{keys}{socket}"), welcome, stall);
        command.env(PORTAL, folder.path().join("portal.sock"));
        if let Some(grace) = grace {
            command
                .env(STATE, folder.path().join("state"))
                .env(GRACE, grace.as_millis().to_string());
        }
        if let Some(notify) = notify {
            command.env("NOTIFY_SOCKET", notify).env("FDSTORE", "8");
        }
        let child = spawn(&mut command, folder.path());
        let mut this = Self {
            child,
            command,
            folder,
        };
        this.await_start();
        this
    }

    fn await_start(&mut self) {
        until("the daemon serves", || {
            let ended = self.child.try_wait().expect("a child");
            assert_eq!(ended, None, "the daemon ended: {}", self.log());
            self.log().contains("serving")
        });
    }

    /// Ends it with SIGKILL: it does nothing any more.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
    }

    /// Starts it again, by the same words.
    pub(crate) fn start_again(&mut self) {
        self.child = spawn(&mut self.command, self.folder.path());
        self.await_start();
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("lake.sock")
    }

    /// The Portal socket.
    pub(crate) fn portal(&self) -> PathBuf {
        self.folder.path().join("portal.sock")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Open fds.
    pub(crate) fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .expect("the daemon lives")
            .count()
    }

    /// Lets every id have a client once, so that its bells are there.
    pub(crate) fn warm(&self, peers: usize, vectors: usize) {
        let before = self.files();
        let clients: Vec<_> = (0..peers)
            .map(|_| crate::client::Client::join(&self.socket(), vectors).expect("room"))
            .collect();
        drop(clients);
        until("only the bells stay", || {
            self.files() == before + peers * vectors
        });
    }

    /// Resident memory in KiB.
    pub(crate) fn resident(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("the daemon lives");
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        let words = line.and_then(|l| l.split_whitespace().next());
        words.and_then(|w| w.parse().ok()).expect("a number")
    }

    /// Stops it in the middle of what it does, until a SIGCONT.
    pub(crate) fn freeze(&self) {
        rustix::process::kill_process(self.pid(), Signal::STOP).expect("lives");
        let path = format!("/proc/{}/stat", self.child.id());
        until("it stands still", || {
            let stat = std::fs::read_to_string(&path).expect("the daemon lives");
            stat.rsplit(") ").next().is_some_and(|s| s.starts_with('T'))
        });
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Ends it with SIGTERM.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let _ = rustix::process::kill_process(self.pid(), Signal::TERM);
        let mut status = None;
        until("the daemon stops", || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        status.expect("has ended")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().rev().take(LOG_LINES).collect();
            eprintln!(
                "the end of the daemon's log, backwards:\n{}",
                lines.join("\n")
            );
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(command: &mut Command, folder: &Path) -> Child {
    let log = std::fs::File::create(folder.join("log")).expect("a log");
    command.stdout(log).spawn().expect("the daemon starts")
}

/// The child's command, output piped.
pub(crate) fn command(regions: &str, welcome: Duration, stall: Duration) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args(["--ignored", "--exact", "daemon_process", "--nocapture"])
        .env(REGIONS, regions)
        .env(WELCOME, welcome.as_millis().to_string())
        .env(STALL, stall.as_millis().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    #[cfg(feature = "negative_control")]
    if let Some(guard) = OUT.get() {
        command.env(WITHOUT, format!("{guard:?}"));
    }
    command
}

/// A daemon that does not start: what it says.
pub(crate) fn refusal(socket: &Path) -> String {
    let regions = format!("lake,size=65536,peers=2,socket={}", socket.display());
    let second = Duration::from_secs(1);
    let mut child = command(&regions, second, second).spawn().expect("starts");
    let mut status = None;
    let end = Instant::now() + PATIENCE;
    while status.is_none() && Instant::now() < end {
        status = child.try_wait().ok().flatten();
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
    let mut text = String::new();
    if let Some(out) = child.stdout.as_mut() {
        out.read_to_string(&mut text).expect("text");
    }
    assert_eq!(status.and_then(|s| s.code()), Some(4), "{text}");
    text
}

/// How long what a test waits for may take. Little where it is not to come.
pub(crate) fn patience() -> Duration {
    #[cfg(feature = "negative_control")]
    if OUT.get().is_some() {
        return PATIENCE / 5;
    }
    PATIENCE
}

pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + patience();
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
