//! The terminal view: its state, what keys do to it, and its frame. Opens
//! nothing.

use crate::model::Picture;
use crate::model::RingState;
use crate::table;
use crate::table::Column;
use crate::table::Row;
use crate::table::Tone;
use crate::table::Which;
use portal_device::inspect::Plain;
use ratatui::Frame;
use ratatui::crossterm::event::KeyCode;
use ratatui::crossterm::event::KeyEvent;
use ratatui::crossterm::event::KeyEventKind;
use ratatui::crossterm::event::KeyModifiers;
use ratatui::layout::Constraint;
use ratatui::layout::Layout;
use ratatui::layout::Rect;
use ratatui::style::Color;
use ratatui::style::Modifier;
use ratatui::style::Style;
use ratatui::text::Line;
use ratatui::text::Span;
use ratatui::text::Text;
use ratatui::widgets::Block;
use ratatui::widgets::Borders;
use ratatui::widgets::Cell;
use ratatui::widgets::Paragraph;
use ratatui::widgets::Table;
use ratatui::widgets::TableState;

/// Rows of a table that leaves room for the others: title, heading, eight rows.
const SMALL: u16 = 10;

/// Lines of the rings that are always there: title, heading, two rows.
const LEAST: u16 = 4;

/// Lines of a table with one row.
const ROW: u16 = 3;

/// Problems that are shown; the newest samples' first ones.
const PROBLEMS: usize = 3;

/// What the loop has to do after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Do {
    /// Nothing but show the frame again.
    Show,
    /// End.
    Quit,
}

/// One table's view.
#[derive(Clone, Debug, Default)]
struct View {
    sort: usize,
    reverse: bool,
    row: TableState,
}

/// The state of the view.
#[derive(Clone, Debug)]
pub struct Top {
    title: String,
    picture: Picture,
    /// The table that the keys are about.
    focus: Which,
    views: [View; Which::ALL.len()],
    paused: bool,
}

impl Top {
    /// Nothing to show yet. `title` says what is looked at.
    pub fn new(title: impl Into<String>) -> Self {
        let mut views = [const { None }; Which::ALL.len()].map(|_: Option<View>| View::default());
        // Rings: the worst first.
        if let Some(rings) = views.last_mut() {
            rings.sort = Which::Rings.columns().len() - 1;
        }
        Self {
            title: title.into(),
            picture: Picture::default(),
            focus: Which::default(),
            views,
            paused: false,
        }
    }

    /// Shows what the newest sample means, unless the view is held.
    pub fn update(&mut self, picture: Picture) {
        if self.paused {
            return;
        }
        self.picture = picture;
        if !self.shown().contains(&self.focus) {
            self.focus = Which::default();
        }
    }

    /// Nothing can be looked at now: what was seen last stays, with the reason.
    pub fn lose(&mut self, reason: &str) {
        self.picture.problems = vec![reason.to_owned()];
    }

    /// Tables that have something in them; always peers and rings.
    fn shown(&self) -> Vec<Which> {
        let wanted = |which: &Which| match which {
            Which::Regions => !self.picture.regions.is_empty(),
            Which::Partitions => !self.picture.partitions.is_empty(),
            Which::Peers | Which::Rings => true,
        };
        Which::ALL.into_iter().filter(wanted).collect()
    }

    fn view(&mut self, which: Which) -> &mut View {
        &mut self.views[which as usize]
    }

    /// What a key does.
    pub fn key(&mut self, key: KeyEvent) -> Do {
        if key.kind == KeyEventKind::Release {
            return Do::Show;
        }
        let columns = self.focus.columns().len();
        let focus = self.focus;
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Do::Quit,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return Do::Quit;
            }
            KeyCode::Down => self.view(focus).row.select_next(),
            KeyCode::Up => self.view(focus).row.select_previous(),
            KeyCode::PageDown => self.view(focus).row.scroll_down_by(SMALL),
            KeyCode::PageUp => self.view(focus).row.scroll_up_by(SMALL),
            KeyCode::Home => self.view(focus).row.select_first(),
            KeyCode::End => self.view(focus).row.select_last(),
            KeyCode::Left | KeyCode::BackTab => self.turn(false),
            KeyCode::Right | KeyCode::Tab => self.turn(true),
            KeyCode::Char('s') => {
                let view = self.view(focus);
                view.sort = (view.sort + 1) % columns.max(1);
            }
            KeyCode::Char('S') => {
                let view = self.view(focus);
                view.sort = view.sort.checked_sub(1).unwrap_or(columns.max(1) - 1);
            }
            KeyCode::Char('r') => {
                let view = self.view(focus);
                view.reverse = !view.reverse;
            }
            KeyCode::Char(' ') => self.paused = !self.paused,
            _ => {}
        }
        Do::Show
    }

    /// The next table, or the one before.
    fn turn(&mut self, forward: bool) {
        let shown = self.shown();
        let at = shown.iter().position(|which| *which == self.focus);
        let step = if forward { 1 } else { shown.len() - 1 };
        let next = (at.unwrap_or(0) + step) % shown.len();
        self.focus = shown.get(next).copied().unwrap_or_default();
    }

    /// Draws the frame.
    pub fn draw(&mut self, frame: &mut Frame<'_>) {
        let problems = self.picture.problems.len().min(PROBLEMS);
        let room = usize::from(frame.area().height).saturating_sub(problems + 2);
        let shown = self.that_fit(room);
        let rest = u16::try_from(room)
            .unwrap_or(u16::MAX)
            .saturating_sub(LEAST);
        let heights = shown.iter().map(|which| match which {
            Which::Rings => Constraint::Min(LEAST),
            _ if shown.len() == 1 => Constraint::Min(0),
            which => Constraint::Length(self.height(*which).min(rest)),
        });
        let mut constraints = vec![Constraint::Length(1)];
        constraints.extend(heights);
        // At most PROBLEMS.
        constraints.push(Constraint::Length(problems as u16));
        constraints.push(Constraint::Length(1));
        let areas = Layout::vertical(constraints).split(frame.area());
        let mut areas = areas.iter().copied();
        let mut next = || areas.next().unwrap_or_default();
        frame.render_widget(Paragraph::new(self.head()), next());
        for which in shown {
            self.draw_table(which, frame, next());
        }
        let lines = self.picture.problems.iter().take(PROBLEMS);
        let lines = lines.map(|p| Line::from(Plain(p).to_string()).style(Color::Yellow));
        frame.render_widget(Text::from_iter(lines), next());
        frame.render_widget(Paragraph::new(KEYS).style(DIM), next());
    }

    /// The tables that `room` lines are enough for. Where they are not, those at the
    /// top make way for rings and for the table that the keys are about.
    fn that_fit(&self, room: usize) -> Vec<Which> {
        let mut shown = self.shown();
        let wanted = |shown: &[Which]| shown.iter().map(|it| usize::from(self.height(*it))).sum();
        while room < wanted(&shown) {
            let spare = |which: &Which| *which != self.focus && *which != Which::Rings;
            let Some(first) = shown.iter().position(spare) else {
                // Both, the other one cut short, while it shows a row.
                if room < usize::from(LEAST + ROW) {
                    shown.retain(|which| *which == self.focus);
                }
                break;
            };
            shown.remove(first);
        }
        shown
    }

    /// Lines of a table: title, heading and rows; of rings, the fewest.
    fn height(&self, which: Which) -> u16 {
        match which {
            Which::Rings => LEAST,
            which => {
                let wanted = u16::try_from(self.count(which) + 2).unwrap_or(u16::MAX);
                wanted.clamp(ROW, SMALL)
            }
        }
    }

    fn count(&self, which: Which) -> usize {
        match which {
            Which::Regions => self.picture.regions.len(),
            Which::Partitions => self.picture.partitions.len(),
            Which::Peers => self.picture.peers.len(),
            Which::Rings => self.picture.rings.len(),
        }
    }

    fn head(&self) -> Line<'static> {
        let stalls = self.picture.rings.iter();
        let stalls = stalls.filter(|ring| matches!(ring.state, RingState::Stalled(_)));
        let stalls = stalls.count();
        let mut spans = vec![
            Span::styled("portal top  ", Modifier::BOLD),
            Span::raw(Plain(&self.title).to_string()),
        ];
        if let Some(interval) = self.picture.interval {
            let seconds = interval.as_secs_f64();
            spans.push(Span::raw(format!("  every {seconds:.1} s")));
        }
        if stalls > 0 {
            let style = Style::new().fg(Color::White).bg(Color::Red);
            let s = if stalls == 1 { "" } else { "s" };
            spans.push(Span::raw("  "));
            spans.push(Span::styled(format!(" {stalls} stall{s} "), style));
        }
        if self.paused {
            spans.push(Span::styled("  held (space goes on)", Color::Yellow));
        }
        Line::from(spans)
    }

    fn draw_table(&mut self, which: Which, frame: &mut Frame<'_>, area: Rect) {
        let focused = which == self.focus;
        let (sort, reverse) = (self.view(which).sort, self.view(which).reverse);
        let rows = which.rows(&self.picture, sort, reverse);
        let columns = which.columns();
        let widths = table::widths(columns, &rows);
        let shown = table::fitting(columns, &widths, area.width.into());
        let constraints = shown.iter().map(|&index| {
            // A heading gets one column for its mark.
            let width = widths.get(index).map_or(0, |width| width.saturating_add(1));
            Constraint::Length(u16::try_from(width).unwrap_or(u16::MAX))
        });
        let header = shown.iter().filter_map(|&index| {
            let column = columns.get(index)?;
            let mark = match (focused && index == sort, reverse) {
                (false, _) => " ",
                (true, false) => "▾",
                (true, true) => "▴",
            };
            Some(cell(column, format!("{}{mark}", column.name)))
        });
        let header = ratatui::widgets::Row::new(header).style(Modifier::BOLD);
        let mut title = format!(" {} ({})", which.title(), rows.len());
        if which == Which::Rings && self.picture.rings_left_out > 0 {
            title = format!("{title}, {} more left out", self.picture.rings_left_out);
        }
        let border = if focused { Style::new() } else { DIM };
        let block = Block::new()
            .borders(Borders::TOP)
            .border_style(border)
            .title(format!("{title} "));
        let body = rows.iter().map(|row| line(columns, &shown, row));
        let mut table = Table::new(body, constraints)
            .header(header)
            .column_spacing(1)
            .block(block);
        if focused {
            table = table.row_highlight_style(Modifier::REVERSED);
        }
        frame.render_stateful_widget(table, area, &mut self.view(which).row);
    }
}

const KEYS: &str = "q quit   ↑↓ row   ←→ table   s S sort by   r reverse   space hold";

const DIM: Style = Style::new().fg(Color::DarkGray);

fn line(columns: &[Column], shown: &[usize], row: &Row) -> ratatui::widgets::Row<'static> {
    let cells = shown.iter().filter_map(|&index| {
        let text = &row.cells.get(index)?.text;
        Some(cell(columns.get(index)?, format!("{text} ")))
    });
    let style = match row.tone {
        Tone::Quiet => DIM,
        Tone::Busy => Style::new(),
        Tone::Odd => Style::new().fg(Color::Yellow),
        Tone::Bad => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
    };
    ratatui::widgets::Row::new(cells).style(style)
}

fn cell(column: &Column, text: String) -> Cell<'static> {
    let text = Text::raw(text);
    Cell::from(match column.number {
        true => text.right_aligned(),
        false => text,
    })
}
