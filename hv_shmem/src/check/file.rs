//! Checking a region file, which may be too damaged to be mapped.

use super::CheckOptions;
use super::Code;
use super::Finding;
use super::Place;
use super::Remedy;
use super::Report;
use super::Severity;
use super::check;
use super::header::Mended;
use super::header::is_damage;
use super::header::mend;
use crate::backing::Backing;
use crate::backing::BackingError;
use crate::backing::OpenAs;
use crate::backing::View;
use crate::backing::file;
use crate::header::Header;
use crate::layout::HEADER_AT;
use std::fmt::Display;
use std::format;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Passes of a repair: what one pass gives up may uncover something, and a third
/// level of that has not been seen. A pass that repairs nothing is the last.
const PASSES: usize = 4;

/// Checks the region in a file; with `repair`, repairs it, for which nobody else
/// may host or check it. A region in use is checked without holding words
/// against each other that move.
///
/// # Errors
/// [`BackingError::Busy`] when repair is asked for and the region is in use;
/// [`BackingError::Io`]. Damage is a finding, not an error.
pub fn check_file(path: &Path, repair: bool) -> Result<Report, BackingError> {
    let (fd, still) = match file::open(path, OpenAs::Host) {
        Ok(fd) => (fd, true),
        Err(BackingError::Busy { .. }) if !repair => (file::open(path, OpenAs::Observer)?, false),
        // A file that may only be read can still be looked at.
        Err(BackingError::Io { source, .. })
            if !repair && source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            (file::open(path, OpenAs::Observer)?, false)
        }
        Err(e) => return Err(e),
    };
    let mut report = Report::default();
    let Some(header) = header(&fd, path, repair, &mut report)? else {
        return Ok(report);
    };
    if !whole(&fd, &header, repair, &mut report)? {
        return Ok(report);
    }
    let as_whom = if repair {
        OpenAs::Host
    } else {
        OpenAs::Observer
    };
    let backing = Backing::over_file(path, fd, header.layout.clone(), as_whom);
    let view = if repair { View::OWNER } else { View::OBSERVER };
    let mapping = backing.map(view)?;
    let options = CheckOptions { still, repair };
    for _ in 0..PASSES {
        let found = check(&mapping.mem(), &header, options).map_err(|e| BackingError::Region {
            path: Some(path.into()),
            source: e.into(),
        })?;
        mapping.check()?;
        report.looked_at = found.looked_at;
        report.more += found.more;
        let repaired = found.repaired() > 0;
        for finding in found.findings {
            // What has no remedy is found in every pass.
            if !report.findings.contains(&finding) {
                report.push(finding);
            }
        }
        if !repaired {
            break;
        }
    }
    if repair {
        backing.sync()?;
    }
    Ok(report)
}

/// The header, mended where that is possible; `None` when the rest cannot be
/// looked at.
fn header(
    fd: &OwnedFd,
    path: &Path,
    repair: bool,
    report: &mut Report,
) -> Result<Option<Header>, BackingError> {
    let bytes = match file::header_bytes(fd, path) {
        Ok(bytes) => bytes,
        Err(e @ BackingError::Truncated { .. }) => {
            report.push(fatal(Code::FileTruncated, Place::File, &e));
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    let error = match Header::from_bytes(&bytes) {
        Ok(header) => return Ok(Some(header)),
        Err(e) => e,
    };
    let mended = if is_damage(&error) || bytes[..8] == *b"PORTALRG" {
        mend(&bytes)
    } else {
        None
    };
    let Some(Mended { header, certain }) = mended else {
        report.push(fatal(Code::HeaderUnreadable, Place::Header, &error));
        return Ok(None);
    };
    let what = if certain {
        "rewritten as its checksum says it was"
    } else {
        "checksum computed anew; UUID, name, generation and features cannot be verified"
    };
    let mut remedy = Remedy::Possible(what);
    if repair {
        let written = rustix::io::pwrite(fd, &header.to_bytes(), HEADER_AT)
            .map_err(|e| BackingError::io("write the header", e))?;
        if written == crate::header::HEADER_BYTES {
            remedy = Remedy::Done(what);
        }
    }
    report.push(Finding {
        code: Code::HeaderDamaged,
        severity: Severity::Fatal,
        place: Place::Header,
        what: format!("{error}"),
        remedy,
    });
    Ok(Some(header))
}

/// Whether the file has all bytes of the region (now).
fn whole(
    fd: &OwnedFd,
    header: &Header,
    repair: bool,
    report: &mut Report,
) -> Result<bool, BackingError> {
    let stat = rustix::fs::fstat(fd).map_err(|e| BackingError::io("fstat", e))?;
    let (have, need) = (stat.st_size.max(0) as u64, header.layout.size);
    if have >= need {
        return Ok(true);
    }
    let what = "filled up with zeros; what was there is lost";
    let mut remedy = Remedy::Possible(what);
    if repair {
        rustix::fs::ftruncate(fd, need).map_err(|e| BackingError::io("extend the file", e))?;
        remedy = Remedy::Done(what);
    }
    report.push(Finding {
        code: Code::FileTruncated,
        severity: Severity::Fatal,
        place: Place::File,
        what: format!("the file has {have} bytes, the region takes {need}"),
        remedy,
    });
    Ok(repair)
}

fn fatal(code: Code, place: Place, what: &dyn Display) -> Finding {
    Finding {
        code,
        severity: Severity::Fatal,
        place,
        what: format!("{what}"),
        remedy: Remedy::None,
    }
}
