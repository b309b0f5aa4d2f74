//! `portal-guest ls`: the regions of this machine.

use crate::Outcome;
use crate::Report;
use crate::cli::Place;
use crate::exit::Failure;
use crate::exit::Kind;
use hv_shmem::header::Header;
use hv_shmem::region::RegionError;
use portal_guest_linux::BarAccess;
use portal_guest_linux::Carrier;
use portal_guest_linux::Found;
use portal_guest_linux::Wanted;
use portal_guest_linux::find;
use portal_guest_linux::observe;
use portal_guest_linux::served_regions;
use serde_json::Value;
use serde_json::json;
use std::fmt::Write as _;
use std::path::Path;

pub(crate) fn run(place: &Place) -> Outcome {
    if let Some(socket) = &place.switchboard {
        return served(socket, place.wanted());
    }
    let found = place.look()?;
    // With a name, that region or an error; without, everything.
    let found = match place.region {
        Some(_) => vec![find(found, place.wanted())?],
        None => found,
    };
    if found.is_empty() {
        return Err(Failure::new(
            Kind::Machine,
            "this machine has no ivshmem function, DAX device or persistent memory",
        ));
    }
    let mut text = String::new();
    let mut carriers = Vec::new();
    for found in &found {
        let row = match &found.header {
            Ok(header) => region(found, header, place.bar.access(), &mut text),
            Err(error) => {
                let (kind, at) = (found.carrier.kind(), &found.carrier);
                let _ = writeln!(text, "{kind:<11} {at}  no region: {error}");
                json!({ "error": error.to_string() })
            }
        };
        carriers.push(with_place(row, &found.carrier));
    }
    Ok(Report {
        text: text.trim_end().to_owned(),
        json: json!({ "command": "ls", "carriers": carriers }),
    })
}

/// What a switchboard serves; who is in the regions `portal ls` tells.
fn served(socket: &Path, wanted: Wanted<'_>) -> Outcome {
    let mut text = String::new();
    let mut regions = Vec::new();
    for region in served_regions(socket)? {
        if !wanted.matches(&region.name, region.uuid) {
            continue;
        }
        let name = region.name.as_str();
        let _ = writeln!(
            text,
            "{name}  {}  {} bytes  {} of {} peers",
            region.uuid, region.size, region.live, region.peers
        );
        regions.push(json!({
            "name": name,
            "uuid": region.uuid.to_string(),
            "size": region.size,
            "max_peers": region.peers,
            "live": region.live,
        }));
    }
    Ok(Report {
        text: text.trim_end().to_owned(),
        json: json!({ "command": "ls", "regions": regions }),
    })
}

fn with_place(mut row: Value, carrier: &Carrier) -> Value {
    row["carrier"] = carrier.kind().into();
    row["at"] = carrier.to_string().into();
    row
}

fn region(found: &Found, header: &Header, access: BarAccess, text: &mut String) -> Value {
    let (kind, at) = (found.carrier.kind(), &found.carrier);
    let own = found.peer.map_or("-".to_owned(), |p| p.to_string());
    let _ = writeln!(
        text,
        "{kind:<11} {at}  {}  {}  {} bytes  {} peers  own number {own}",
        header.name.as_str(),
        header.uuid,
        header.layout.size,
        header.layout.max_peers,
    );
    let mut peers = Vec::new();
    match observe(&found.carrier, access) {
        Ok(region) => {
            for peer in region.layout().peers() {
                let Ok(record) = region.peer(peer) else {
                    continue;
                };
                let Some(who) = record.who else {
                    continue;
                };
                let state = format!("{:?}", record.state).to_lowercase();
                let section = match region.section(peer) {
                    Ok(_) => "in use".to_owned(),
                    Err(RegionError::NotReady { state, .. }) => format!("{state:?}").to_lowercase(),
                    Err(error) => error.to_string(),
                };
                let (name, epoch) = (who.name.as_str(), record.epoch);
                let _ = writeln!(
                    text,
                    "  peer {peer:<4} {name:<16} {state:<9} epoch {epoch:<4} section: {section}"
                );
                peers.push(json!({
                    "peer": peer.0,
                    "name": name,
                    "kind": format!("{:?}", who.kind),
                    "state": state,
                    "epoch": epoch,
                    "vectors": who.vectors,
                    "section": section,
                }));
            }
        }
        Err(error) => {
            let _ = writeln!(text, "  cannot be mapped: {error}");
        }
    }
    json!({
        "name": header.name.as_str(),
        "uuid": header.uuid.to_string(),
        "size": header.layout.size,
        "section_bytes": header.layout.section_size,
        "max_peers": header.layout.max_peers,
        "generation": header.generation,
        "own": found.peer.map(|p| p.0),
        "peers": peers,
    })
}
