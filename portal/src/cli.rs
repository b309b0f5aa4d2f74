//! The command line: pure parsing. What the commands open and do is elsewhere.

use crate::config::parse_number;
use crate::config::parse_size;
use crate::exit;
use clap::Args;
use clap::Parser;
use clap::Subcommand;
use portal_serve::RegionConfig;
use portal_vmm::Sandbox;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Virtual machines that share memory and ring each other.
#[derive(Debug, Parser)]
#[command(
    name = "portal",
    version,
    max_term_width = 96,
    arg_required_else_help = true,
    propagate_version = true,
    after_help = "\
Start here:
  portal demo                    two virtual machines, one region, what it costs
  portal demo --file film.mkv    the bytes of a file from one to the other, checked
  portal doctor                  what this host has and lacks",
    after_long_help = exit::HELP
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Two partitions, one region: latency, bandwidth and doorbells in a table.
    #[command(after_help = "\
Examples:
  portal demo
  portal demo --file /usr/lib/os-release
  portal demo --json | jq '.rows[] | {what, ratio}'")]
    Demo(Demo),

    /// Run the partitions of a TOML file until they end or Ctrl-C.
    #[command(after_help = "\
Examples:
  portal run examples/pair.toml
  portal run pair.toml --check          only look for mistakes in the file
  portal run pair.toml --until-done     end when every task is done

A smallest file:
  [[region]]
  name = \"shared\"
  size = \"64 MiB\"

  [[partition]]
  name = \"a\"
  guest = \"warp\"
  [[partition.device]]
  kind = \"ivshmem\"
  region = \"shared\"")]
    Run(Run),

    /// Serve regions to VMMs, host programs and stock QEMU, until Ctrl-C or SIGTERM.
    #[command(after_help = "\
Examples:
  portal serve --region lake,size=64MiB
  portal serve --region lake,size=1MiB,peers=4,vectors=2,socket=/tmp/lake.sock
  portal serve --region lake,size=64MiB --state /run/portal/state

Then, for each guest:
  qemu-system-x86_64 ... -chardev socket,path=/tmp/lake.sock,id=lake \\
      -device ivshmem-doorbell,chardev=lake,vectors=2")]
    Serve(Serve),

    /// What runs: switchboards and VMMs, their regions, peers and partitions.
    #[command(after_help = "\
Examples:
  portal ls
  portal ls --socket /tmp/pair.sock
  portal ls --json | jq '.[].regions[].name'")]
    Ls(Ls),

    /// Everything that can be told of a switchboard, a VMM or a region, as a tree.
    #[command(after_help = "\
Examples:
  portal inspect
  portal inspect regions/lake/peers/1
  portal inspect partitions/a/devices --socket /tmp/pair.sock
  portal inspect regions/lake/rings --file lake.region --json")]
    Inspect(Inspect),

    /// A live view: rings with fill and rates, peers, doorbells, stalls.
    #[command(after_help = "\
Examples:
  portal top
  portal top --socket /tmp/pair.sock --interval 0.5
  portal top --file lake.region
  portal top --once                     tables of one interval, and the end
  portal top --plain | tee watch.log    a few lines an interval

Keys: q quit, arrows row and table, s and S sort by another column, r reverse,
space hold.

A ring is STALLED when messages wait in it, its receiver has not moved for three
samples and two seconds, and its sender goes on or waits for space.")]
    Top(Top),

    /// Make, look at, check and repair file-backed regions.
    #[command(subcommand, arg_required_else_help = true)]
    Region(Region),

    /// Benchmarks, each as a ratio to a baseline of the same run.
    #[command(after_help = "\
Examples:
  portal bench                       all of them; some minutes
  portal bench latency doorbell
  portal bench --goals 5,6,7
  portal bench all --json > figures.json

Exit code 1 when a gate is missed.

Give them a quiet machine with two cores.")]
    Bench(Bench),

    /// What this host has, what each missing thing costs, what to do about it.
    Doctor {
        /// One JSON object instead of the list.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Send this file from partition A to partition B and compare hashes.
    #[arg(long, value_name = "PATH")]
    pub(crate) file: Option<PathBuf>,

    /// One JSON object instead of the table.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) confinement: Confinement,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The configuration.
    #[arg(value_name = "FILE.toml")]
    pub(crate) file: PathBuf,

    /// Check the file against this host and start nothing.
    #[arg(long)]
    pub(crate) check: bool,

    /// End when every task is done, instead of at Ctrl-C.
    #[arg(long)]
    pub(crate) until_done: bool,

    /// Make a socket for `portal ls`, `inspect` and `top` here; they find it by
    /// themselves in the runtime folder (`$XDG_RUNTIME_DIR/portal` or
    /// `/run/portal`).
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,

    /// Serve metrics for Prometheus on PORT of this host, or on IP:PORT.
    #[arg(long, value_name = "ADDR", value_parser = portal_observe::listener::address)]
    pub(crate) metrics: Option<SocketAddr>,

    #[command(flatten)]
    pub(crate) confinement: Confinement,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// A region: `NAME,size=SIZE[,peers=N][,vectors=N][,common=SIZE]`
    /// `[,sections=advisory|enforced][,partitions=all|read|none][,programs=all|read|none]`
    /// `[,leaves=silent|announced][,socket=PATH]`, in one word.
    #[arg(long = "region", value_name = "REGION", required = true, value_parser = served)]
    pub(crate) regions: Vec<RegionConfig>,

    /// Where VMMs and host programs join, all regions; else `portal.sock` in the
    /// folder of the default sockets.
    #[arg(long, value_name = "PATH")]
    pub(crate) portal_socket: Option<PathBuf>,

    /// Keep regions and peers here, on a file system in memory (/run, /dev/shm), so
    /// that they outlive this process, however it ends.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) state: Option<PathBuf>,

    /// How long a peer may take to come back after a restart, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, requires = "state",
          value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) grace: u32,

    /// Serve metrics for Prometheus on PORT of this host, or on IP:PORT.
    #[arg(long, value_name = "ADDR", value_parser = portal_observe::listener::address)]
    pub(crate) metrics: Option<SocketAddr>,
}

/// What to look at; else every Portal socket in the runtime folder.
#[derive(Debug, Args)]
pub(crate) struct Where {
    /// The Portal socket of a switchboard, or the control socket of a VMM.
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,

    /// A region file.
    #[arg(long, value_name = "PATH", conflicts_with = "socket")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    pub(crate) at: Where,

    /// One JSON list instead of the tables.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Names joined by `/`: only what is there.
    #[arg(value_name = "PATH")]
    pub(crate) path: Option<String>,

    #[command(flatten)]
    pub(crate) at: Where,

    /// One JSON value instead of lines.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Top {
    #[command(flatten)]
    pub(crate) at: Where,

    /// Seconds between two samples, 0.1 to 3600.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(crate) interval: f64,

    /// Print the tables of one interval and end.
    #[arg(long)]
    pub(crate) once: bool,

    /// Lines instead of the view, as where standard output is no terminal.
    #[arg(long, conflicts_with = "once")]
    pub(crate) plain: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Confinement {
    /// Run guests without seccomp and Landlock. For debugging only.
    #[arg(long)]
    pub(crate) no_sandbox: bool,
}

impl Confinement {
    /// The fences; says so aloud where there are none.
    pub(crate) fn sandbox(&self) -> Sandbox {
        if !self.no_sandbox {
            return Sandbox::default();
        }
        eprintln!(
            "WARNING: no sandbox. A guest that breaks out of its partition has every right \
             of this user."
        );
        Sandbox::OFF
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Region {
    /// Make a file with an empty region in it.
    #[command(after_help = "\
Examples:
  portal region create shared.region --size \"64 MiB\"
  portal region create /dev/shm/lab --size 1GiB --peers 16 --name lab")]
    Create(RegionCreate),

    /// Print header, peers, rings and arenas.
    Show {
        /// The region's file.
        #[arg(value_name = "PATH")]
        path: PathBuf,
        /// One JSON object instead of the tables.
        #[arg(long)]
        json: bool,
    },

    /// Check every invariant, as fsck does; exit code 6 when one is broken.
    #[command(after_help = "\
Examples:
  portal region check shared.region
  portal region check shared.region --repair

Repair nothing that a peer still uses: stop the region's users first.")]
    Check {
        /// The region's file.
        #[arg(value_name = "PATH")]
        path: PathBuf,
        /// Repair what can be repaired.
        #[arg(long)]
        repair: bool,
        /// One JSON object instead of lines.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RegionCreate {
    /// Where to put it; the file must not exist.
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,

    /// Its size, a power of two of at least 64 KiB: 1048576, 1MiB, "1 GiB".
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) size: u64,

    /// Peer slots, the host's slot 0 among them.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(2..=1024))]
    pub(crate) peers: u16,

    /// Bytes of a common section that every peer may write; 0 for none.
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = size)]
    pub(crate) common: u64,

    /// Its name, at most 31 letters, digits, - and _; else the file's name.
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// Replace an existing file.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Which: latency, throughput, bulk, doorbell, arena, partition, or all.
    #[arg(value_name = "SUITE", default_value = "all", value_parser = suites())]
    pub(crate) suites: Vec<String>,

    /// Only these goals, by their number.
    #[arg(long, value_name = "NUMBER", value_delimiter = ',')]
    pub(crate) goals: Vec<u32>,

    /// Rounds to keep for each goal; below 15 nothing counts as passed.
    #[arg(long, default_value_t = portal_bench::DEFAULT_ROUNDS)]
    pub(crate) rounds: u32,

    /// The two cores to measure on, as FIRST,SECOND; else the first two usable.
    #[arg(long, value_name = "CORES", value_parser = two_cores)]
    pub(crate) cores: Option<[usize; 2]>,

    /// One JSON object a goal instead of the table.
    #[arg(long, conflicts_with = "markdown")]
    pub(crate) json: bool,

    /// The Guide's page of benchmarks instead of the table.
    #[arg(long)]
    pub(crate) markdown: bool,
}

fn suites() -> Vec<&'static str> {
    let words = portal_bench::Suite::ALL.map(portal_bench::Suite::word);
    words.into_iter().chain(["all"]).collect()
}

fn two_cores(text: &str) -> Result<[usize; 2], String> {
    let wrong = || "write two numbers: 0,1".to_owned();
    let (first, second) = text.split_once(',').ok_or_else(wrong)?;
    let number = |t: &str| t.trim().parse().map_err(|_| wrong());
    Ok([number(first)?, number(second)?])
}

fn served(text: &str) -> Result<RegionConfig, String> {
    RegionConfig::parse(text, |bytes| size(bytes).ok())
}

fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|n| (0.1..=3600.0).contains(n));
    number.ok_or_else(|| "write a number of seconds from 0.1 to 3600".to_owned())
}

fn size(text: &str) -> Result<u64, String> {
    parse_number(text)
        .or_else(|| parse_size(text))
        .ok_or_else(|| "write bytes as a number, or a number with KiB, MiB or GiB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn examples_of_the_help_parse() {
        for line in [
            "portal demo --file /usr/lib/os-release",
            "portal demo --json",
            "portal run pair.toml --check",
            "portal run pair.toml --until-done",
            "portal serve --region lake,size=64MiB",
            "portal serve --region lake,size=1MiB,peers=4,vectors=2,socket=/tmp/lake.sock",
            "portal serve --region lake,size=1MiB --metrics 9187",
            "portal run pair.toml --control /tmp/pair.sock --metrics 127.0.0.1:0",
            "portal ls --socket /tmp/pair.sock --json",
            "portal inspect regions/lake/rings --file lake.region --json",
            "portal top --socket /tmp/pair.sock --interval 0.5",
            "portal top --file lake.region --once",
            "portal region create /dev/shm/lab --size 1GiB --peers 16 --name lab",
            "portal region check shared.region --repair",
            "portal bench latency doorbell",
            "portal bench all --json",
            "portal bench",
            "portal doctor --json",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn sizes_of_the_command_line() {
        assert_eq!(size("64 MiB"), Ok(64 << 20));
        assert_eq!(size("0x10000"), Ok(65536));
        assert!(size("lots").is_err());
    }
}
