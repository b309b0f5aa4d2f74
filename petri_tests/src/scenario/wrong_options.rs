//! Options that cannot be as asked for: each ends the VMM before there is a guest, with
//! an error that names the thing and the value, and says what to do.

use super::Place;
use super::Scenario;
use super::exchange::REGION;
use super::group::Group;
use super::host_process::host_process;
use super::host_process::host_report;
use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::ended::check;
use crate::guest::Console;
use crate::lab::Lab;
use crate::vmm::Vmm;
use crate::vmm::openvmm;
use crate::vmm::portal_vmm;
use rustix::net::AddressFamily;
use rustix::net::SocketAddrUnix;
use rustix::net::SocketType;
use std::fs::File;
use std::time::Duration;

pub(super) const WRONG_OPTIONS: Scenario = Scenario {
    name: "wrong_options",
    what: "each of a list of wrong options (a switchboard that is not there, a region, kind, \
           access, port or id that does not exist, too many doorbells, a file that does not \
           fit) ends the VMM with its code for that and an error that names the value and says \
           what is possible, before there is a guest; nobody is left in the region",
    limit: Duration::from_secs(150),
    place: |vmm| match vmm {
        Vmm::PortalVmm | Vmm::OpenVmm => Place::Inside,
        Vmm::Qemu => Place::Nowhere("stock QEMU's options are not this project's"),
    },
    run: wrong_options,
};

/// An option that is refused; `@` is the folder of the sockets and files.
struct Wrong {
    /// What it is about.
    name: &'static str,
    /// The option, or the device in `portal run`'s file.
    option: &'static str,
    /// The status that the VMM ends with.
    status: i32,
    /// What it says.
    says: &'static [&'static str],
}

const fn wrong(
    name: &'static str,
    option: &'static str,
    status: i32,
    says: &'static [&'static str],
) -> Wrong {
    Wrong {
        name,
        option,
        status,
        says,
    }
}

/// OpenVMM ends with 2 where a word has no meaning, and with 1 where a thing is not as
/// it has to be.
const OPENVMM: &[Wrong] = &[
    wrong(
        "no-socket",
        "region=lake,switchboard=@/none.sock",
        1,
        &["region lake", "/none.sock", "is portal serve running?"],
    ),
    wrong(
        "no-listener",
        "region=lake,switchboard=@/dead.sock",
        1,
        &["region lake", "/dead.sock", "is portal serve running?"],
    ),
    wrong(
        "socket-for-qemu",
        "region=lake,switchboard=@/lake.sock",
        1,
        &["region lake", "/lake.sock", "give the Portal socket"],
    ),
    wrong(
        "pmem-no-socket",
        "region=lake,switchboard=@/none.sock,kind=pmem",
        1,
        &["region lake", "/none.sock", "is portal serve running?"],
    ),
    wrong(
        "region",
        "region=sea,switchboard=@/lake.portal.sock",
        1,
        &["no region sea", "there are: lake"],
    ),
    wrong(
        "no-switchboard",
        "region=lake",
        1,
        &["region=lake", "switchboard=<path> is missing"],
    ),
    wrong(
        "port",
        "region=lake,switchboard=@/lake.portal.sock,pcie_port=nope",
        1,
        &["region=lake", "pcie_port=nope", "there are: rp0"],
    ),
    wrong(
        "kind",
        "region=lake,switchboard=@/lake.portal.sock,kind=disk",
        2,
        &["'disk'", "expected ivshmem, ivshmem2 or pmem"],
    ),
    wrong(
        "access",
        "region=lake,switchboard=@/lake.portal.sock,access=wo",
        2,
        &["'wo'", "expected ro or rw"],
    ),
    wrong(
        "key",
        "region=lake,switchboard=@/lake.portal.sock,colour=red",
        2,
        &["colour", "expected one of"],
    ),
    wrong(
        "vectors",
        "region=lake,switchboard=@/lake.portal.sock,vectors=65",
        1,
        &["region=lake", "vectors=65", "1 to 64"],
    ),
    wrong(
        "peer",
        "region=lake,switchboard=@/lake.portal.sock,peer=8",
        1,
        &["region lake", "peer id 8", "end at 7"],
    ),
    wrong(
        "peer-of-another",
        "region=lake,switchboard=@/lake.portal.sock,peer=0",
        1,
        &["region lake", "peer id 0", "in use by holder"],
    ),
    wrong("no-file", "file=@/none", 1, &["/none", "No such file"]),
    wrong(
        "odd-file",
        "file=@/odd",
        1,
        &["/odd has 5000 bytes", "a power of two", "truncate"],
    ),
    wrong(
        "odd-pmem",
        "file=@/odd,kind=pmem",
        1,
        &["/odd has 5000 bytes", "a multiple of 2097152", "truncate"],
    ),
    wrong(
        "file-of-peers",
        "file=@/even,kind=ivshmem2",
        1,
        &["/even", "kind=ivshmem2 needs a switchboard"],
    ),
    wrong(
        "file-with-doorbells",
        "file=@/even,vectors=2",
        1,
        &["/even", "vectors=2", "no doorbells"],
    ),
];

/// What `portal run` ends with when its file is wrong.
const INPUT: i32 = 3;

/// A region and a device of it, of `portal run`'s file; the first `;` stands between
/// them.
const PORTAL_VMM: &[Wrong] = &[
    wrong(
        "no-socket",
        "name='lake'\nswitchboard='@/none.sock';kind='ivshmem'\nregion='lake'",
        INPUT,
        &["region \"lake\"", "/none.sock", "is portal serve running?"],
    ),
    wrong(
        "no-listener",
        "name='lake'\nswitchboard='@/dead.sock';kind='ivshmem'\nregion='lake'",
        INPUT,
        &["region \"lake\"", "/dead.sock", "is portal serve running?"],
    ),
    wrong(
        "socket-for-qemu",
        "name='lake'\nswitchboard='@/lake.sock';kind='ivshmem'\nregion='lake'",
        INPUT,
        &["region \"lake\"", "/lake.sock", "give the Portal socket"],
    ),
    wrong(
        "region",
        "name='sea'\nswitchboard='@/lake.portal.sock';kind='ivshmem'\nregion='sea'",
        INPUT,
        &["no region sea", "there are: lake"],
    ),
    wrong(
        "no-region",
        "name='lake'\nswitchboard='@/lake.portal.sock';kind='ivshmem'\nregion='sea'",
        INPUT,
        &["partition.guest.device[0].region", "\"sea\"", "lake"],
    ),
    wrong(
        "kind",
        "name='lake'\nswitchboard='@/lake.portal.sock';kind='disk'\nregion='lake'",
        INPUT,
        &["partition.guest.device[0].kind", "\"disk\"", "\"ivshmem2\""],
    ),
    wrong(
        "access",
        "name='lake'\nswitchboard='@/lake.portal.sock';kind='ivshmem2'\nregion='lake'\n\
         access='wo'",
        INPUT,
        &["partition.guest.device[0].access", "\"wo\"", "\"ro\""],
    ),
    wrong(
        "vectors",
        "name='lake'\nswitchboard='@/lake.portal.sock';kind='ivshmem'\nregion='lake'\n\
         vectors=65",
        INPUT,
        &["partition.guest.device[0].vectors", "65", "2 and 64"],
    ),
    wrong(
        "vectors-of-region",
        "name='lake'\nswitchboard='@/lake.portal.sock';kind='ivshmem'\nregion='lake'\n\
         vectors=3",
        INPUT,
        &["partition \"guest\"", "3 vectors", "a peer has 2"],
    ),
    wrong(
        "size-of-served",
        "name='lake'\nswitchboard='@/lake.portal.sock'\nsize='1 MiB';kind='ivshmem'\n\
         region='lake'",
        INPUT,
        &["lake.portal.sock", "size", "leave size out"],
    ),
    wrong(
        "no-file",
        "name='lake'\nswitchboard='@/lake.portal.sock';kind='pmem'\npath='@/none'",
        INPUT,
        &["partition.guest.device[0].path", "/none", "truncate"],
    ),
    wrong(
        "odd-pmem",
        "name='lake'\nswitchboard='@/lake.portal.sock';kind='pmem'\npath='@/odd'",
        INPUT,
        &["/odd has 5000 bytes", "a multiple of 2 MiB", "truncate"],
    ),
    wrong(
        "file-of-ivshmem",
        "name='lake'\nswitchboard='@/lake.portal.sock';kind='ivshmem'\nregion='lake'\n\
         path='@/even'",
        INPUT,
        &["partition.guest.device[0].path", "is no key", "mapping"],
    ),
];

fn wrong_options(lab: &Lab, vmm: Vmm) -> Passed {
    let at = &lab.sockets;
    for (name, bytes) in [("odd", 5000), ("even", 2 << 20)] {
        let path = at.join(name);
        let file = File::create(&path).map_err(NotPassed::of_file(&path))?;
        file.set_len(bytes).map_err(NotPassed::of_file(&path))?;
    }
    let dead = at.join("dead.sock");
    let bound = SocketAddrUnix::new(&dead).and_then(|address| {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None)?;
        rustix::net::bind(&socket, &address)
    });
    bound.map_err(|e| NotPassed::failed(format!("{}: {e}", dead.display())))?;
    let mut group = Group::served(lab, REGION)?;
    let words = ["--patience", "600", "pong"];
    let _holder = host_process(lab, &group, "holder", &words)?;
    group.joined(0, lab)?;
    let list = match vmm {
        Vmm::OpenVmm => OPENVMM,
        Vmm::PortalVmm | Vmm::Qemu => PORTAL_VMM,
    };
    let failed: Vec<String> = list
        .iter()
        .filter_map(|wrong| refused(lab, vmm, wrong).err())
        .map(|why| why.to_string())
        .collect();
    check(failed.is_empty(), || failed.join("; "))?;
    let mut ls = host_process(lab, &group, "looker", &["ls"])?;
    let ls = host_report(&mut ls, lab)?;
    check(ls["regions"][0]["live"] == 1, || {
        format!("who was refused is still there: {ls}")
    })
}

/// One of them is refused as it has to be.
fn refused(lab: &Lab, vmm: Vmm, wrong: &Wrong) -> Passed {
    let option = wrong.option.replace('@', &lab.sockets.to_string_lossy());
    let name = format!("wrong-{}", wrong.name);
    let console = lab.folder.join(format!("{name}.console.log"));
    let mut process = match vmm {
        Vmm::OpenVmm => openvmm::bare(lab, &name, &console, &option)?,
        Vmm::PortalVmm | Vmm::Qemu => portal_vmm::bare(lab, &name, &console, &option)?,
    };
    let status = process.wait(lab.until)?;
    let said = process.output();
    let lacks = wrong.says.iter().find(|words| !said.contains(*words));
    check(
        status.code() == Some(wrong.status) && lacks.is_none(),
        || {
            let first: Vec<&str> = said.lines().take(8).collect();
            format!(
                "{}: ended with {status}, not {}, or lacks {lacks:?}: {}",
                wrong.name,
                wrong.status,
                first.join(" / ")
            )
        },
    )?;
    let guest = Console::new(console).everything();
    check(guest.is_empty(), || {
        format!("{}: a guest ran: {guest}", wrong.name)
    })
}
