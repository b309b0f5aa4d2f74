//! What has to be there before the daemon listens: the default folder, passed sockets
//! in their places, room for file descriptors.

use crate::Notice;
use crate::RegionConfig;
use crate::ServeError;
use rustix::fs::Mode;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Fds of the process beside those of regions: standard streams, epoll, stop,
/// the spare one, visitors of the Portal socket, and room for libraries.
const OTHER_FILES: u64 = 128;

/// The default folder, for this user alone.
pub(crate) fn make_folder(socket: &Path) -> Result<(), ServeError> {
    let Some(folder) = socket.parent() else {
        return Ok(());
    };
    match rustix::fs::mkdir(folder, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(ServeError::Socket {
            path: socket.to_owned(),
            what: "make its folder",
            errno,
        }),
    }
}

/// Which region takes which passed socket.
pub(crate) fn assign(
    regions: &[RegionConfig],
    passed: Vec<(String, OwnedFd)>,
) -> Result<BTreeMap<usize, OwnedFd>, ServeError> {
    let mut taken = BTreeMap::new();
    let mut unnamed = Vec::new();
    for (name, fd) in passed {
        let wanted = regions.iter().position(|r| r.name.as_str() == name);
        match wanted.filter(|index| !taken.contains_key(index)) {
            Some(index) => {
                taken.insert(index, fd);
            }
            None => unnamed.push((name, fd)),
        }
    }
    for (name, fd) in unnamed {
        let takes = |r: &RegionConfig| r.socket.is_none() && !r.sectioned;
        let free = regions
            .iter()
            .enumerate()
            .position(|(index, r)| takes(r) && !taken.contains_key(&index));
        let Some(index) = free else {
            return Err(ServeError::Activation {
                reason: format!("no region is left for the passed socket {name:?}"),
            });
        };
        taken.insert(index, fd);
    }
    Ok(taken)
}

/// Raises the soft limit of open files to what all peers take.
pub(crate) fn make_room(regions: &[RegionConfig], notices: &mut Vec<Notice>) {
    use rustix::process::Resource;
    let need = regions.iter().map(RegionConfig::files).sum::<u64>() + OTHER_FILES;
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|soft| soft >= need) {
        return;
    }
    let soft = limit.maximum.map_or(need, |hard| hard.min(need));
    let before = limit.current;
    limit.current = Some(soft);
    let raised = rustix::process::setrlimit(Resource::Nofile, limit).is_ok();
    let have = if raised { soft } else { before.unwrap_or(soft) };
    if have < need {
        notices.push(Notice::FewFiles { need, limit: have });
    }
}
