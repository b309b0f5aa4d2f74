//! Pictures as tables of text: columns, sorted rows, and what a row means. Both
//! the terminal view and the plain one show these.

use crate::model::PartitionRow;
use crate::model::PeerRow;
use crate::model::Picture;
use crate::model::RegionRow;
use crate::model::RingRow;
use crate::model::RingState;
use portal_device::inspect::Plain;
use std::cmp::Ordering;
use std::fmt::Write as _;
use std::time::Duration;

/// Characters of a text in a table; longer ones are cut.
const TEXT_MAX: usize = 40;

/// Which table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Which {
    /// Regions.
    Regions,
    /// Partitions.
    Partitions,
    /// Peers.
    Peers,
    /// Rings.
    #[default]
    Rings,
}

impl Which {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::Regions, Self::Partitions, Self::Peers, Self::Rings];

    /// Its title.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Regions => "regions",
            Self::Partitions => "partitions",
            Self::Peers => "peers",
            Self::Rings => "rings",
        }
    }

    /// Its columns.
    pub const fn columns(self) -> &'static [Column] {
        match self {
            Self::Regions => REGIONS,
            Self::Partitions => PARTITIONS,
            Self::Peers => PEERS,
            Self::Rings => RINGS,
        }
    }

    /// Its rows, sorted by a column of it; `reverse` puts the largest last.
    /// Numbers are sorted from the largest down, text from A to Z.
    pub fn rows(self, picture: &Picture, sort: usize, reverse: bool) -> Vec<Row> {
        let mut rows: Vec<Row> = match self {
            Self::Regions => picture.regions.iter().map(region).collect(),
            Self::Partitions => picture.partitions.iter().map(partition).collect(),
            Self::Peers => picture.peers.iter().map(peer).collect(),
            Self::Rings => picture.rings.iter().map(ring).collect(),
        };
        rows.sort_by(|a, b| {
            let key = |row: &Row| row.cells.get(sort).map(|cell| cell.key.clone());
            let order = match (key(a), key(b)) {
                (Some(a), Some(b)) => a.order(&b),
                _ => Ordering::Equal,
            };
            if reverse { order.reverse() } else { order }
        });
        rows
    }
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its heading.
    pub name: &'static str,
    /// Whether its cells are numbers.
    pub number: bool,
    /// Where the width does not suffice, columns go from the highest down.
    spare: u8,
}

const fn text(name: &'static str) -> Column {
    Column {
        name,
        number: false,
        spare: 0,
    }
}

const fn number(name: &'static str) -> Column {
    Column {
        number: true,
        ..text(name)
    }
}

impl Column {
    const fn spare(self, spare: u8) -> Self {
        Self { spare, ..self }
    }
}

const REGIONS: &[Column] = &[
    text("region"),
    number("size").spare(5),
    number("ready"),
    number("joining").spare(6),
    number("quiescing").spare(8),
    number("dead").spare(3),
    number("max").spare(9),
    number("rings").spare(2),
    number("sent/s"),
    number("taken/s").spare(1),
    number("bytes/s").spare(7),
    number("hops/s").spare(4),
    number("stalls"),
];

const PARTITIONS: &[Column] = &[
    text("partition"),
    text("state"),
    number("vcpus").spare(2),
    number("exits/s"),
    number("irqs/s"),
    number("hops/s").spare(1),
    number("dropped").spare(3),
];

const PEERS: &[Column] = &[
    text("region").spare(2),
    number("peer"),
    text("name"),
    text("kind").spare(8),
    text("state"),
    number("epoch").spare(5),
    number("vectors").spare(9),
    number("out").spare(7),
    number("in").spare(6),
    number("sent/s").spare(1),
    number("taken/s").spare(3),
    number("waiting"),
    number("hops/s").spare(4),
];

const RINGS: &[Column] = &[
    text("region").spare(3),
    number("from"),
    number("to"),
    number("ring"),
    text("kind").spare(5),
    text("layout").spare(9),
    number("waiting"),
    number("slots").spare(6),
    number("fill").spare(2),
    number("sent/s").spare(1),
    number("taken/s").spare(4),
    number("bytes/s").spare(7),
    number("lost").spare(8),
    text("state"),
];

/// A row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// A cell a column.
    pub cells: Vec<Cell>,
    /// How much an operator has to care.
    pub tone: Tone,
}

/// How much an operator has to care about a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Nothing to see.
    Quiet,
    /// It works.
    Busy,
    /// Worth a look.
    Odd,
    /// Something is wrong.
    Bad,
}

/// A cell: what is shown, and what it is sorted by.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// What is shown: nothing that a terminal obeys.
    pub text: String,
    key: Key,
}

#[derive(Clone, Debug, PartialEq)]
enum Key {
    Number(f64),
    Text(String),
}

impl Key {
    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => b.total_cmp(a),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Number(_), Self::Text(_)) => Ordering::Less,
            (Self::Text(_), Self::Number(_)) => Ordering::Greater,
        }
    }
}

impl Cell {
    fn text(claimed: &str) -> Self {
        let mut text = Plain(claimed).to_string();
        if text.chars().count() > TEXT_MAX {
            text = text.chars().take(TEXT_MAX - 1).collect();
            text.push('…');
        }
        Self {
            key: Key::Text(text.clone()),
            text,
        }
    }

    fn number(number: u64) -> Self {
        Self {
            text: number.to_string(),
            key: Key::Number(number as f64),
        }
    }

    /// A count a second; a dash where it is not known.
    fn rate(rate: Option<f64>) -> Self {
        Self {
            text: rate.map_or_else(|| "-".to_owned(), |rate| short(rate, 1000.0)),
            key: Key::Number(rate.unwrap_or(-1.0)),
        }
    }

    fn bytes(bytes: Option<f64>) -> Self {
        Self {
            text: bytes.map_or_else(|| "-".to_owned(), |bytes| short(bytes, 1024.0)),
            key: Key::Number(bytes.unwrap_or(-1.0)),
        }
    }
}

/// A number in at most six characters: `0`, `999`, `1.2k`, `34.5M`; with 1024 as
/// its base `1.0Ki`, `64Mi`.
pub fn short(number: f64, base: f64) -> String {
    const UNITS: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    let mut left = number;
    let mut unit = 0;
    // What would be rounded up to the base belongs to the next unit.
    while left >= base - 0.5 && unit + 1 < UNITS.len() {
        left /= base;
        unit += 1;
    }
    let suffix = match (UNITS[unit], base == 1024.0) {
        ("k", true) => "Ki".to_owned(),
        (unit, true) if !unit.is_empty() => format!("{unit}i"),
        (unit, _) => unit.to_owned(),
    };
    let whole = unit == 0 && (left == 0.0 || left >= 9.95);
    let decimals = usize::from(!whole && left < 99.95 && left.fract() != 0.0);
    format!("{left:.decimals$}{suffix}")
}

/// A time in whole seconds, minutes or hours.
pub fn age(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

fn region(row: &RegionRow) -> Row {
    let [joining, ready, quiescing, dead] = row.states;
    Row {
        cells: vec![
            Cell::text(&row.name),
            Cell::bytes(Some(row.size as f64)),
            Cell::number(ready.into()),
            Cell::number(joining.into()),
            Cell::number(quiescing.into()),
            Cell::number(dead.into()),
            Cell::number(row.max_peers.into()),
            Cell::number(row.rings.into()),
            Cell::rate(row.sent),
            Cell::rate(row.taken),
            Cell::bytes(row.bytes),
            Cell::rate(row.doorbells),
            Cell::number(row.stalls.into()),
        ],
        tone: match (row.stalls, ready) {
            (1.., _) => Tone::Bad,
            (0, 0) => Tone::Quiet,
            _ => Tone::Busy,
        },
    }
}

fn partition(row: &PartitionRow) -> Row {
    Row {
        cells: vec![
            Cell::text(&row.name),
            Cell::text(&row.state),
            Cell::number(row.vcpus),
            Cell::rate(row.exits),
            Cell::rate(row.interrupts),
            Cell::rate(row.doorbells),
            Cell::number(row.dropped_stores),
        ],
        tone: match row.state.as_str() {
            "running" if row.dropped_stores > 0 => Tone::Odd,
            "running" => Tone::Busy,
            "paused" | "stopped" => Tone::Quiet,
            _ => Tone::Odd,
        },
    }
}

fn peer(row: &PeerRow) -> Row {
    Row {
        cells: vec![
            Cell::text(&row.region),
            Cell::number(row.id.into()),
            Cell::text(&row.name),
            Cell::text(&row.kind),
            Cell::text(&row.state),
            Cell::number(row.epoch.into()),
            Cell::number(row.vectors.into()),
            Cell::number(row.outgoing.into()),
            Cell::number(row.incoming.into()),
            Cell::rate(row.sent),
            Cell::rate(row.taken),
            Cell::number(row.waiting),
            Cell::rate(row.doorbells),
        ],
        tone: match row.state.as_str() {
            _ if row.problems > 0 => Tone::Bad,
            "ready" => Tone::Busy,
            "joining" | "quiescing" => Tone::Odd,
            _ => Tone::Quiet,
        },
    }
}

fn ring(row: &RingRow) -> Row {
    let slots = f64::from(row.slots).max(1.0);
    let fill = row.waiting as f64 / slots * 100.0;
    let state = match (row.state, &row.problem) {
        (RingState::Broken, Some(problem)) => format!("BROKEN: {problem}"),
        (RingState::Broken, None) => "BROKEN".to_owned(),
        (RingState::LeftOver, _) => "left over".to_owned(),
        (RingState::Idle, _) => "idle".to_owned(),
        (RingState::Unaccepted, _) => "not accepted".to_owned(),
        (RingState::Moving, _) => "moving".to_owned(),
        (RingState::Held(time), _) => format!("held {}", age(time)),
        (RingState::Stalled(time), _) => format!("STALLED {}", age(time)),
    };
    let mut state = Cell::text(&state);
    // The worst first.
    let rank = match row.state {
        RingState::Broken => 7,
        RingState::Stalled(_) => 6,
        RingState::Held(_) => 5,
        RingState::Moving => 4,
        RingState::Unaccepted => 3,
        RingState::Idle => 2,
        RingState::LeftOver => 1,
    };
    state.key = Key::Number(f64::from(rank));
    Row {
        cells: vec![
            Cell::text(&row.region),
            Cell::number(row.from.into()),
            Cell::number(row.to.into()),
            Cell::number(row.id.into()),
            Cell::text(&row.kind),
            Cell::text(&row.layout),
            Cell::number(row.waiting),
            Cell::number(row.slots.into()),
            Cell {
                text: format!("{fill:.0}%"),
                key: Key::Number(fill),
            },
            Cell::rate(row.sent),
            Cell::rate(row.taken),
            Cell::bytes(row.bytes),
            Cell::number(row.lost_total),
            state,
        ],
        tone: match row.state {
            RingState::Broken | RingState::Stalled(_) => Tone::Bad,
            RingState::Held(_) => Tone::Odd,
            RingState::Moving => Tone::Busy,
            _ => Tone::Quiet,
        },
    }
}

/// The width of each column: that of its widest cell or its heading.
pub fn widths(columns: &[Column], rows: &[Row]) -> Vec<usize> {
    let cell = |row: &Row, index| {
        let cell: Option<&Cell> = row.cells.get(index);
        cell.map_or(0, |cell| cell.text.chars().count())
    };
    let of = |(index, column): (usize, &Column)| {
        let widest = rows.iter().map(|row| cell(row, index)).max();
        widest.unwrap_or(0).max(column.name.len())
    };
    columns.iter().enumerate().map(of).collect()
}

/// Which columns fit into `room`, with a gap of two behind each: all, or those
/// that matter most.
pub fn fitting(columns: &[Column], widths: &[usize], room: usize) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    let width = |shown: &[usize]| -> usize {
        let of = |index: &usize| {
            widths
                .get(*index)
                .map_or(0, |width| width.saturating_add(2))
        };
        shown.iter().map(of).sum()
    };
    let spare = |index: usize| columns.get(index).map_or(0, |column| column.spare);
    while width(&shown) > room {
        let least = shown.iter().copied().max_by_key(|index| spare(*index));
        match least.filter(|index| spare(*index) > 0) {
            Some(least) => shown.retain(|index| *index != least),
            None => break,
        }
    }
    shown
}

/// A table as lines of text, for output that is no terminal: the columns that are
/// wanted.
pub fn lines(columns: &[Column], rows: &[Row], wanted: fn(&Column) -> bool) -> Vec<String> {
    let widths = widths(columns, rows);
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut out = String::new();
        for ((text, column), width) in cells.zip(columns).zip(&widths) {
            if !wanted(column) {
                continue;
            }
            let gap = if out.is_empty() { "" } else { "  " };
            // Writing to a string cannot fail.
            let _ = match column.number {
                true => write!(out, "{gap}{text:>width$}"),
                false => write!(out, "{gap}{text:<width$}"),
            };
        }
        out.trim_end().to_owned()
    };
    let mut out = vec![line(&mut columns.iter().map(|column| column.name))];
    let body = rows.iter();
    out.extend(body.map(|row| line(&mut row.cells.iter().map(|cell| cell.text.as_str()))));
    out
}
