//! The command line: pure parsing. What the commands open and do is elsewhere.

use crate::exit;
use clap::Args;
use clap::Parser;
use clap::Subcommand;
use clap::ValueEnum;
use hv_shmem::layout::PeerId;
use hv_shmem::name::Name;
use hv_shmem::wait::WaitMode;
use portal_guest_linux::BarAccess;
use portal_guest_linux::BellKind;
use portal_guest_linux::Target;
use std::path::PathBuf;
use std::time::Duration;

/// A Portal region from inside a Linux machine: find it, and talk to its other peers.
#[derive(Debug, Parser)]
#[command(
    name = "portal-guest",
    version,
    max_term_width = 96,
    arg_required_else_help = true,
    args_override_self = true,
    propagate_version = true,
    after_help = "\
Start here:
  portal-guest ls                    regions of this machine, and who is in them
  portal-guest pong                  in one machine, and in another one:
  portal-guest ping                  round trips
  portal-guest recv                  in one machine, and in another one:
  portal-guest send --bytes 64MiB    bytes through a ring, hashed on both ends

It takes the rights of root. --help says more.",
    after_long_help = exit::HELP
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) place: Place,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which region, and how to get at it.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The region, by name or UUID; not needed where there is only one.
    #[arg(long, global = true, value_name = "NAME|UUID")]
    pub(crate) region: Option<String>,

    /// Look only here: a PCI address, a DAX node, a file on a DAX mount.
    #[arg(long, global = true, value_name = "ADDRESS|PATH")]
    pub(crate) at: Option<String>,

    /// Not a guest: join as a process of the host, by the Portal socket of `portal
    /// serve`.
    #[arg(long, global = true, value_name = "SOCKET")]
    pub(crate) switchboard: Option<PathBuf>,

    /// The name to join by, at the switchboard; no two peers have the same. 1 to 32
    /// visible ASCII characters but /.
    #[arg(long, global = true, value_parser = name)]
    pub(crate) name: Option<String>,

    /// This machine's peer number, where the carrier does not tell it (pmem, files).
    #[arg(long, global = true, value_name = "N")]
    pub(crate) peer: Option<u16>,

    /// How to hear doorbells: auto takes MSI-X where there is an IOMMU, else INTx
    /// where the device has it, else polling.
    #[arg(long, global = true, value_enum, default_value_t = BellArg::Auto)]
    pub(crate) bell: BellArg,

    /// How to map a BAR: write-back through /dev/mem, or sysfs's uncached mapping.
    #[arg(long, global = true, value_enum, default_value_t = BarArg::Auto)]
    pub(crate) bar: BarArg,

    /// How long to wait for the other peer to come, in seconds.
    #[arg(long, global = true, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub(crate) patience: Duration,

    /// How long to wait for it to do something, later, in seconds.
    #[arg(long, global = true, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(crate) stall: Duration,

    /// One JSON object on standard output instead of text, also for errors.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Regions of this machine: where, which, this machine's number, and the peers.
    #[command(after_help = "\
Examples:
  portal-guest ls
  portal-guest ls --json
  portal-guest ls --switchboard /run/portal/portal.sock")]
    Ls,

    /// Round trips through rings to a peer that runs pong.
    #[command(after_help = "\
Examples:
  portal-guest ping --region lake --to 1
  portal-guest ping --wait sleep --count 1000     each one wakes by doorbells
  portal-guest ping --json | jq .ns.p50")]
    Ping(Ping),

    /// Answer ping and bench until the other side is done.
    #[command(after_help = "\
Examples:
  portal-guest pong
  portal-guest pong --forever --from b")]
    Pong(Pong),

    /// A file, or bytes of a pattern, to a peer that runs recv.
    #[command(after_help = "\
Examples:
  portal-guest send film.mkv --to 1
  portal-guest send --bytes 64MiB")]
    Send(Send),

    /// Take what a peer sends, compare hashes, and keep it if asked to.
    #[command(after_help = "\
Examples:
  portal-guest recv
  portal-guest recv --from 1 --out film.mkv")]
    Recv(Recv),

    /// Ring throughput, ring round trip, doorbell round trip with a peer that runs pong.
    #[command(after_help = "\
Examples:
  portal-guest bench --to b
  portal-guest bench --seconds 0.5 --json")]
    Bench(Bench),

    /// Misuse this machine's ivshmem functions: for tests of a VMM, in a machine that
    /// nobody needs.
    #[command(after_help = "\
Doorbells are rung flat out, registers, MSI-X table and configuration space get
random accesses, memory decoding goes off and on, and BARs are moved. The VMM and the
region's other peers should go on. Afterwards all is as it was before.")]
    Hostile(Hostile),
}

#[derive(Debug, Args)]
pub(crate) struct To {
    /// The other peer, by number or name; not needed where there is only one machine.
    #[arg(long, value_name = "PEER", value_parser = target)]
    pub(crate) to: Option<Target>,
}

#[derive(Debug, Args)]
pub(crate) struct From {
    /// Only from this peer, by number or name.
    #[arg(long, value_name = "PEER", value_parser = target)]
    pub(crate) from: Option<Target>,
}

#[derive(Debug, Args)]
pub(crate) struct Ping {
    #[command(flatten)]
    pub(crate) to: To,

    /// Round trips.
    #[arg(long, value_name = "N", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: u64,

    /// How both sides wait: spin, sleep until the doorbell, or spin and then sleep.
    #[arg(long, value_enum, default_value_t = WaitArg::Adaptive)]
    pub(crate) wait: WaitArg,
}

#[derive(Debug, Args)]
pub(crate) struct Pong {
    #[command(flatten)]
    pub(crate) from: From,

    /// Go on with the next one when a peer is done, until nobody comes.
    #[arg(long)]
    pub(crate) forever: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Send {
    #[command(flatten)]
    pub(crate) to: To,

    /// What to send; - is standard input.
    #[arg(
        value_name = "FILE",
        required_unless_present = "bytes",
        conflicts_with = "bytes"
    )]
    pub(crate) file: Option<PathBuf>,

    /// That many bytes of a pattern: 1048576, 64MiB, 2GiB.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) bytes: Option<u64>,

    /// Which pattern.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,

    /// How to wait.
    #[arg(long, value_enum, default_value_t = WaitArg::Adaptive)]
    pub(crate) wait: WaitArg,
}

#[derive(Debug, Args)]
pub(crate) struct Recv {
    #[command(flatten)]
    pub(crate) from: From,

    /// Where to put it; - is standard output. Nowhere, unless given.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,

    /// Refuse more than this: 1048576, 64MiB, 2GiB.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) limit: Option<u64>,

    /// How to wait.
    #[arg(long, value_enum, default_value_t = WaitArg::Adaptive)]
    pub(crate) wait: WaitArg,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    pub(crate) to: To,

    /// Seconds for each of the three.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pub(crate) seconds: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Hostile {
    /// For how long.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub(crate) seconds: Duration,

    /// What is done follows from this number.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,

    /// Store anywhere in the region, which does harm where the VMM does not divide it;
    /// without it, in this machine's own section.
    #[arg(long)]
    pub(crate) everywhere: bool,
}

/// How to hear doorbells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BellArg {
    /// The best that works here.
    Auto,
    /// INTx through uio_pci_generic.
    Uio,
    /// MSI-X through DPDK's igb_uio, which needs no IOMMU.
    IgbUio,
    /// MSI-X through vfio-pci.
    Vfio,
    /// Look ten thousand times a second.
    Poll,
}

impl BellArg {
    pub(crate) const fn kind(self) -> BellKind {
        match self {
            Self::Auto => BellKind::Auto,
            Self::Uio => BellKind::Uio,
            Self::IgbUio => BellKind::IgbUio,
            Self::Vfio => BellKind::Vfio,
            Self::Poll => BellKind::Poll,
        }
    }
}

/// How to map a BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BarArg {
    /// Write-back where it is allowed, else sysfs.
    Auto,
    /// Through /dev/mem.
    WriteBack,
    /// Through resource2: uncached.
    Sysfs,
}

impl BarArg {
    pub(crate) const fn access(self) -> BarAccess {
        match self {
            Self::Auto => BarAccess::Auto,
            Self::WriteBack => BarAccess::WriteBack,
            Self::Sysfs => BarAccess::Sysfs,
        }
    }
}

/// How to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WaitArg {
    /// A whole core, lowest latency.
    Spin,
    /// Spin for as long as that has paid, then sleep.
    Adaptive,
    /// Sleep until the doorbell.
    Sleep,
}

impl WaitArg {
    pub(crate) const fn mode(self) -> WaitMode {
        match self {
            Self::Spin => WaitMode::Spin,
            Self::Adaptive => WaitMode::Adaptive,
            Self::Sleep => WaitMode::Sleep,
        }
    }
}

fn name(text: &str) -> Result<String, String> {
    let name = Name::new(text).map_err(|e| e.to_string())?;
    Ok(name.as_str().to_owned())
}

fn target(text: &str) -> Result<Target, String> {
    Ok(match text.parse() {
        Ok(number) => Target::Peer(PeerId(number)),
        Err(_) => Target::Name(text.to_owned()),
    })
}

fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || "write seconds as a number, as 0.5 or 60".to_owned();
    let number: f64 = text.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number).map_err(|_| wrong())
}

fn size(text: &str) -> Result<u64, String> {
    let wrong = || "write bytes as a number, or a number with KiB, MiB or GiB".to_owned();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text.get(digits.len()..).map(str::trim) {
        Some("") => 0,
        Some("KiB") => 10,
        Some("MiB") => 20,
        Some("GiB") => 30,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
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
            "portal-guest ls",
            "portal-guest ping --region lake --to 1",
            "portal-guest ping --wait sleep --count 1000",
            "portal-guest send film.mkv --to 1",
            "portal-guest send --bytes 64MiB",
            "portal-guest recv --from 1 --out film.mkv",
            "portal-guest --json bench --to b --seconds 0.5",
            "portal-guest pong --forever --from b",
            "portal-guest ls --switchboard /run/portal/portal.sock",
            "portal-guest hostile --seconds 3 --seed 7 --everywhere",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
        for line in [
            "portal-guest send",
            "portal-guest send a --bytes 1",
            "portal-guest ping --count 0",
            "portal-guest ping --name a/b",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("2 GiB"), Ok(2 << 30));
        assert_eq!(size("7"), Ok(7));
        for wrong in [
            "",
            "MiB",
            "1.5MiB",
            "99999999999999999999",
            "18446744073709551615GiB",
        ] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
