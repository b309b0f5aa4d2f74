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
  portal demo --json | jq '.rows[] | {what, ratio}'

Other work on the machine shows in the figures: both sides of a comparison want a
core each.

Exit codes: 0 ok, 1 the hashes differ, 3 the file cannot be sent, 4 no usable
/dev/kvm, 5 a partition stopped with a fault, 7 a measurement took too long.")]
    Demo(Demo),

    /// Run the partitions of a TOML file until they end or Ctrl-C.
    #[command(after_help = "\
Examples:
  portal run examples/pair.toml
  portal run pair.toml --check          only look for mistakes in the file
  portal run pair.toml --until-done     end when every task is done
  portal run pair.toml --control /run/portal/pair.sock --metrics 9187

A smallest file; all keys are on the Guide's page \"Configuration file\":
  [[region]]
  name = \"shared\"
  size = \"64 MiB\"

  [[partition]]
  name = \"a\"
  guest = \"warp\"
  [[partition.device]]
  kind = \"ivshmem\"
  region = \"shared\"

Exit codes: 0 all ended or Ctrl-C, 1 a guest ended with a code of its own or a task
failed, 3 the file is wrong, 4 this host lacks something, 5 a partition stopped with
a fault, 6 a region is damaged, 7 a step took too long, 130 a second Ctrl-C.")]
    Run(Run),

    /// Serve regions to VMMs, host programs and stock QEMU, until Ctrl-C or SIGTERM.
    #[command(after_help = "\
Examples:
  portal serve --region lake,size=64MiB
  portal serve --region lake,size=1MiB,peers=4,vectors=2,socket=/tmp/lake.sock
  portal serve --region lake,size=64MiB --state /run/portal/state

Keys of --region; size has to be there:
  size=SIZE                      a power of two, 64 KiB or more
  peers=N                        1 to 1024 ids; 8
  vectors=N                      1 to 64 doorbells of each peer; 1
  common=SIZE                    a section that every peer may write; 0
  sections=advisory|enforced     one file descriptor for all, which QEMU needs, or
                                 one a section; advisory
  partitions=all|read|none       the most that a virtual machine may do; all
  programs=all|read|none         the same for programs of this host; all
  leaves=silent|announced        whether QEMU's clients hear who left; silent
  socket=PATH                    where QEMU joins; the last key, commas may be in it

Then, for each guest:
  qemu-system-x86_64 ... -chardev socket,path=/tmp/lake.sock,id=lake \\
      -device ivshmem-doorbell,chardev=lake,vectors=2

Exit codes: 0 stopped by a signal, 2 or 3 a region that cannot be as asked for, 4 a
socket, a folder or memory that this host has not.")]
    Serve(Serve),

    /// What runs: switchboards and VMMs, their regions, peers and partitions.
    #[command(after_help = "\
Examples:
  portal ls
  portal ls --socket /tmp/pair.sock
  portal ls --file lake.region
  portal ls --json | jq '.[].regions[].name'

Exit codes: 0 ok, also where nothing runs, 3 no such file, 4 nobody answers at the
socket, 6 no region in the file.")]
    Ls(Ls),

    /// Everything that can be told of a switchboard, a VMM or a region, as a tree.
    #[command(after_help = "\
Examples:
  portal inspect
  portal inspect regions/lake/peers/1
  portal inspect partitions/a/devices --socket /tmp/pair.sock
  portal inspect regions/lake/rings --file lake.region --json

Exit codes: 0 ok, 2 nothing has that path, 3 no such file, 4 nothing runs or nobody
answers, 6 no region in the file.")]
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
samples and two seconds, and its sender goes on or waits for space.

Exit codes: 0 ended by q, Ctrl-C or --once, 3 no such file, 4 nothing runs or nobody
answers, 6 no region in the file.")]
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

Give them a quiet machine with two cores.

Exit codes: 0 every gate that was measured is reached, 1 one is missed, 2 no such
goal, 4 nothing can be measured on this host.")]
    Bench(Bench),

    /// What this host has, what each missing thing costs, what to do about it.
    #[command(after_help = "\
Examples:
  portal doctor
  portal doctor --json | jq '.rows[] | select(.state != \"have\")'

Exit codes: 0 partitions can run here, 4 they cannot.")]
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
    /// A region, as NAME,size=SIZE and more keys in the same word; see below.
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
  portal region create /dev/shm/lab --size 1GiB --peers 16 --name lab

Exit codes: 0 made, 2 size, peers or name cannot be, 3 the path cannot be written or
is taken, 4 no room.")]
    Create(RegionCreate),

    /// Print header, peers, rings and arenas.
    #[command(after_help = "\
Examples:
  portal region show shared.region
  portal region show shared.region --json | jq .peers

Exit codes: 0 ok, 3 no such file, 6 no region in it.")]
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

Repair nothing that a peer still uses: stop the region's users first.

Exit codes: 0 sound, or sound after the repair, 3 no such file, or in use and to be
repaired, 6 an invariant is broken.")]
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

    /// Its name, 1 to 32 visible ASCII characters but /; else the file's name.
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// Replace an existing file.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Which: latency, throughput, bulk, doorbell, arena, partition, switchboard, or all.
    #[arg(value_name = "SUITE", default_value = "all", value_parser = suites())]
    pub(crate) suites: Vec<String>,

    /// Only these goals, by their number.
    #[arg(long, value_name = "NUMBER", value_delimiter = ',', value_parser = goal)]
    pub(crate) goals: Vec<u32>,

    /// Rounds to keep for each goal, 1 to 1000; below 15 nothing counts as passed.
    #[arg(long, value_name = "N", default_value_t = portal_bench::DEFAULT_ROUNDS,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
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

fn goal(text: &str) -> Result<u32, String> {
    let wrong = |_| "write the numbers of goals: 5,6,7".to_owned();
    text.trim().parse().map_err(wrong)
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

    /// Commands that do something, with the words that lead to them.
    fn leaves(command: &clap::Command) -> Vec<&clap::Command> {
        if !command.has_subcommands() {
            return vec![command];
        }
        command.get_subcommands().flat_map(leaves).collect()
    }

    #[test]
    fn every_command_has_examples_that_parse_and_exit_codes() {
        let cli = Cli::command();
        for command in leaves(&cli) {
            let name = command.get_name();
            let help = command.get_after_help().map(ToString::to_string);
            let help = help.unwrap_or_else(|| panic!("{name} has no examples"));
            assert!(help.contains("Exit codes: 0 "), "{name}");
            let examples = help.lines().filter_map(|l| l.strip_prefix("  portal "));
            let mut count = 0;
            for example in examples {
                // What a shell would see: up to a pipe, a redirection, a remark.
                let line = example.split(['|', '>']).next().unwrap_or_default();
                let line = line.split("     ").next().unwrap_or_default().trim();
                let words = line.split(' ').filter(|word| !word.is_empty());
                let words = ["portal"].into_iter().chain(words);
                if !line.contains('"') {
                    Cli::try_parse_from(words).unwrap_or_else(|e| panic!("{line}: {e}"));
                }
                count += 1;
            }
            assert!(help.starts_with("Examples:") && count > 0, "{name}");
        }
    }

    #[test]
    fn wrong_values_are_told_with_what_to_write() {
        for (line, words) in [
            ("portal bench --goals five", "write the numbers of goals"),
            ("portal bench --rounds 0", "1..=1000"),
            ("portal bench --cores 0", "write two numbers"),
            ("portal top --interval 0", "0.1 to 3600"),
            ("portal region create a --size lots", "KiB, MiB or GiB"),
            ("portal run a.toml --metrics 70000", "IP:PORT"),
            (
                "portal serve --region lake,size=1MiB,size=2MiB",
                "given twice",
            ),
        ] {
            let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
            assert!(error.to_string().contains(words), "{line}: {error}");
        }
    }

    #[test]
    fn sizes_of_the_command_line() {
        assert_eq!(size("64 MiB"), Ok(64 << 20));
        assert_eq!(size("0x10000"), Ok(65536));
        assert!(size("lots").is_err());
    }
}
