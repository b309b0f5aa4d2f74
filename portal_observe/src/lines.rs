//! What `portal top` prints where standard output is no terminal.

use crate::model::Picture;
use crate::model::RingState;
use crate::table;
use crate::table::Column;
use crate::table::Which;
use portal_device::inspect::Plain;

/// Stalled rings that one picture tells one by one.
const STALLS: usize = 8;

/// One picture as a few lines: one a region, one a stalled or broken ring.
pub fn brief(picture: &Picture) -> Vec<String> {
    let mut out = Vec::new();
    let rate = |rate: Option<f64>| rate.map_or("-".to_owned(), |rate| table::short(rate, 1000.0));
    for region in &picture.regions {
        let [joining, ready, quiescing, dead] = region.states;
        let others: String = [
            (joining, "joining"),
            (quiescing, "quiescing"),
            (dead, "dead"),
        ]
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, state)| format!(", {count} {state}"))
        .collect();
        let bytes = region
            .bytes
            .map_or("-".to_owned(), |n| table::short(n, 1024.0));
        out.push(format!(
            "{:.1} s  {}: peers {ready} ready{others}; rings {}; sent/s {}, taken/s {}, \
             bytes/s {bytes}, hops/s {}; stalls {}",
            picture.at.as_secs_f64(),
            Plain(&region.name),
            region.rings,
            rate(region.sent),
            rate(region.taken),
            rate(region.doorbells),
            region.stalls,
        ));
    }
    for partition in &picture.partitions {
        out.push(format!(
            "{:.1} s  partition {}: {}; exits/s {}, irqs/s {}, hops/s {}",
            picture.at.as_secs_f64(),
            Plain(&partition.name),
            Plain(&partition.state),
            rate(partition.exits),
            rate(partition.interrupts),
            rate(partition.doorbells),
        ));
    }
    let wrong = |state| matches!(state, RingState::Stalled(_) | RingState::Broken);
    let mut wrong = picture.rings.iter().filter(|ring| wrong(ring.state));
    for ring in wrong.by_ref().take(STALLS) {
        let what = match (ring.state, &ring.problem) {
            (RingState::Stalled(time), _) => format!(
                "{} of {} wait, taken out: none for {}",
                ring.waiting,
                ring.slots,
                table::age(time)
            ),
            (_, problem) => Plain(problem.as_deref().unwrap_or("broken")).to_string(),
        };
        out.push(format!(
            "  STALL {} ring {} from {} to {}: {what}",
            Plain(&ring.region),
            ring.id,
            ring.from,
            ring.to
        ));
    }
    let more = wrong.count();
    if more > 0 {
        out.push(format!("  and {more} more stalled or broken rings"));
    }
    out.extend(problems(picture));
    out
}

/// One picture as whole tables.
pub fn full(picture: &Picture) -> Vec<String> {
    tables(picture, &Which::ALL, |_| true)
}

/// What there is, without what needs two samples: regions, partitions, peers.
pub fn listing(picture: &Picture) -> Vec<String> {
    let shown = [Which::Regions, Which::Partitions, Which::Peers];
    tables(picture, &shown, |column| {
        !column.name.ends_with("/s") && column.name != "stalls"
    })
}

fn tables(picture: &Picture, which: &[Which], wanted: fn(&Column) -> bool) -> Vec<String> {
    let mut out = Vec::new();
    for &which in which {
        // The worst ring first; everything else by name, and then as it comes.
        let sort = match which {
            Which::Rings => which.columns().len() - 1,
            _ => 0,
        };
        let rows = which.rows(picture, sort, false);
        if rows.is_empty() {
            continue;
        }
        if !out.is_empty() {
            out.push(String::new());
        }
        out.extend(table::lines(which.columns(), &rows, wanted));
    }
    if which.contains(&Which::Rings) && picture.rings_left_out > 0 {
        out.push(format!("and {} more rings", picture.rings_left_out));
    }
    out.extend(problems(picture));
    out
}

fn problems(picture: &Picture) -> impl Iterator<Item = String> + '_ {
    let problems = picture.problems.iter();
    problems.map(|problem| format!("  {}", Plain(problem)))
}
