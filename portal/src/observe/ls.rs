//! `portal ls`: what runs, in a few lines.

use super::failure;
use super::nothing;
use super::sources;
use crate::cli;
use crate::exit::Outcome;
use crate::print;
use portal_device::inspect::Plain;
use portal_observe::lines;
use portal_observe::model::Model;
use portal_observe::model::Picture;
use portal_observe::source::Source;
use serde::Serialize;

/// One place, for programs.
#[derive(Serialize)]
struct Place {
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    regions: Vec<Region>,
    partitions: Vec<Partition>,
}

#[derive(Serialize)]
struct Region {
    name: String,
    size: u64,
    max_peers: u16,
    peers: Vec<Peer>,
}

#[derive(Serialize)]
struct Peer {
    id: u16,
    name: String,
    kind: String,
    state: String,
    epoch: u32,
}

#[derive(Serialize)]
struct Partition {
    name: String,
    state: String,
    vcpus: u64,
}

pub(super) fn run(args: &cli::Ls) -> Outcome {
    let sources = sources(&args.at)?;
    let asked = args.at.file.is_some() || args.at.socket.is_some();
    if sources.is_empty() && !args.json {
        print::line(nothing());
    }
    let mut places = Vec::new();
    for (index, mut source) in sources.into_iter().enumerate() {
        let picture = match source.sample() {
            Ok(sample) => Ok(Model::new().take(sample)),
            // With many to look at, one that does not answer keeps nobody out.
            Err(error) if !asked => Err(error.to_string()),
            Err(error) => return Err(failure(&error)),
        };
        if args.json {
            places.push(place(&*source, picture));
            continue;
        }
        if index > 0 {
            print::line("");
        }
        print::line(Plain(&source.title()).to_string());
        let shown = match picture {
            Ok(picture) => lines::listing(&picture),
            Err(error) => vec![Plain(&error).to_string()],
        };
        for line in shown {
            print::line(format!("  {line}").trim_end());
        }
    }
    if args.json {
        print::plain_json(&places)?;
    }
    Ok(())
}

fn place(source: &dyn Source, picture: Result<Picture, String>) -> Place {
    let (picture, problem) = match picture {
        Ok(picture) => (picture, None),
        Err(error) => (Picture::default(), Some(error)),
    };
    let peers = |region: &str| {
        let of = picture.peers.iter().filter(|peer| peer.region == region);
        let peer = of.map(|peer| Peer {
            id: peer.id,
            name: peer.name.clone(),
            kind: peer.kind.clone(),
            state: peer.state.clone(),
            epoch: peer.epoch,
        });
        peer.collect()
    };
    let regions = picture.regions.iter().map(|region| Region {
        name: region.name.clone(),
        size: region.size,
        max_peers: region.max_peers,
        peers: peers(&region.name),
    });
    let partitions = picture.partitions.iter().map(|partition| Partition {
        name: partition.name.clone(),
        state: partition.state.clone(),
        vcpus: partition.vcpus,
    });
    Place {
        at: source.title(),
        problem,
        regions: regions.collect(),
        partitions: partitions.collect(),
    }
}
