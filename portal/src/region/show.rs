//! `portal region show`: header, peers, rings and arenas of a region file.

use super::failure;
use crate::exit::Failure;
use crate::exit::Kind;
use crate::exit::Outcome;
use crate::print;
use bytesize::ByteSize;
use comfy_table::CellAlignment;
use comfy_table::Table;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use hv_shmem::backing::Backing;
use hv_shmem::backing::OpenAs;
use hv_shmem::backing::View;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use hv_shmem::show::PeerView;
use hv_shmem::show::RegionView;
use hv_shmem::show::RingView;
use std::path::Path;

/// Reads the region and prints what stands in it.
///
/// # Errors
/// [`Kind::Input`] for what is no file, [`Kind::Region`] for a file whose header
/// cannot be used.
pub(super) fn run(path: &Path, json: bool) -> Outcome {
    let region = |e: &dyn std::fmt::Display| {
        Failure::new(Kind::Region, format!("{}: {e}", path.display())).hint(format!(
            "see what is wrong: portal region check {}",
            path.display()
        ))
    };
    let backing = Backing::open_file(path, OpenAs::Observer).map_err(|e| failure(&e))?;
    let mapping = backing.map(View::OBSERVER).map_err(|e| failure(&e))?;
    let mem = mapping.mem();
    let options = AttachOptions {
        read_only: true,
        ..AttachOptions::default()
    };
    let attached = PortalRegion::attach(mem.clone(), options).map_err(|e| region(&e))?;
    let view = RegionView::read(&mem, attached.header(), &backing).map_err(|e| region(&e))?;
    // Pages that went away under the reader read as zeros.
    mapping.check().map_err(|e| failure(&e))?;
    if json {
        return print::json(&view);
    }
    print::line(text(&view));
    Ok(())
}

fn text(view: &RegionView) -> String {
    let size = |n: u64| ByteSize(n).display().iec().to_string();
    let RegionView {
        name,
        uuid,
        generation,
        max_peers,
        storage,
        ..
    } = view;
    let mode = match view.enforced {
        true => "enforced by mapping",
        false => "kept apart by checks",
    };
    let durable = if view.durable { ", durable" } else { "" };
    let [compat, ro_compat, incompat] = view.features;
    let mut out = format!(
        "region {name}, {} in a {storage}{durable}\n\
         uuid {uuid}, generation {generation}\n\
         host pages {}, common {}, {max_peers} sections of {}, {mode}\n\
         features: compatible {compat:#x}, read-only-compatible {ro_compat:#x}, \
         incompatible {incompat:#x}\n",
        size(view.size),
        size(view.host_bytes),
        size(view.common_bytes),
        size(view.section_bytes),
    );
    out.push_str(&peers(&view.peers));
    out.push_str(&rings(&view.rings));
    out
}

fn peers(peers: &[PeerView]) -> String {
    if peers.is_empty() {
        return "\nno peer has ever joined\n".to_owned();
    }
    let mut table = table(&[
        "peer", "name", "kind", "state", "epoch", "section", "rings", "arena", "spans", "lent",
    ]);
    for peer in peers {
        let mut row = vec![
            peer.id.to_string(),
            peer.name.clone(),
            peer.kind.clone(),
            peer.state.clone(),
            peer.epoch.to_string(),
        ];
        if let Some(section) = &peer.section {
            row.push(section.state.clone());
            row.push(format!("{} of {}", section.entries_used, section.entries));
            if let Some(arena) = &section.arena {
                let used = arena.pages.saturating_sub(arena.free_pages);
                row.push(format!("{used} of {} pages", arena.pages));
                row.push(arena.live_spans.to_string());
                row.push(arena.lent_spans.to_string());
            }
        }
        table.add_row(row);
    }
    let mut out = format!("\n{table}\n");
    for peer in peers {
        for problem in &peer.problems {
            out.push_str(&format!("peer {}: {problem}\n", peer.id));
        }
    }
    out
}

fn rings(rings: &[RingView]) -> String {
    if rings.is_empty() {
        return "\nno rings\n".to_owned();
    }
    let mut table = table(&[
        "from", "to", "ring", "kind", "layout", "slots", "bytes", "sent", "taken", "state",
    ]);
    for ring in rings {
        table.add_row([
            ring.from.to_string(),
            ring.to.to_string(),
            ring.id.to_string(),
            ring.kind.clone(),
            ring.layout.clone(),
            ring.slots.to_string(),
            ring.slot_size.to_string(),
            ring.sent.to_string(),
            ring.taken.map_or("-".to_owned(), |n| n.to_string()),
            match (&ring.problem, ring.current) {
                (Some(problem), _) => problem.clone(),
                (None, true) => "in use".to_owned(),
                (None, false) => "left over".to_owned(),
            },
        ]);
    }
    for index in [0, 1, 2, 5, 6, 7, 8] {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("\n{table}\n")
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_header(header);
    table
}
