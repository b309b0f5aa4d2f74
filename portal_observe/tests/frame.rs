//! The terminal view's frames, as `frames/*.txt` keep them, and what keys do.

mod scene;

use portal_observe::lines;
use portal_observe::model::Model;
use portal_observe::model::Picture;
use portal_observe::top::Do;
use portal_observe::top::Top;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::KeyCode;
use ratatui::crossterm::event::KeyEvent;
use ratatui::crossterm::event::KeyModifiers;
use scene::at;
use scene::partition;
use scene::peer;
use scene::region;
use scene::ring;

/// A lake with a stalled, a moving, a held and a left-over ring, after four
/// seconds.
fn picture() -> Picture {
    let mut model = Model::new();
    let mut last = Picture::default();
    for second in 0..5 {
        let peers = vec![
            peer(0, "host", "ready"),
            peer(1, "a", "ready"),
            peer(2, "b", "quiescing"),
        ];
        let mut old = ring(2, 1, 3, 17, Some(17));
        old.current = false;
        let rings = vec![
            ring(0, 1, 1, 1_500_000 * second, Some(1_500_000 * second)),
            ring(1, 0, 2, 100 + second, Some(70)),
            ring(1, 2, 9, 64, Some(61)),
            old,
        ];
        let mut sample = at(second, vec![region("lake", peers, rings)]);
        let bells = ("lake".to_owned(), 1);
        sample.doorbells.insert(bells, 2500 * second);
        sample.partitions = vec![
            partition("a", 1000 * second, 25_000 * second),
            partition("b", 0, 0),
        ];
        last = model.take(sample);
    }
    last
}

fn frame(top: &mut Top, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| top.draw(frame)).expect("a frame");
    let shown = terminal.backend().to_string();
    let lines = shown.lines().map(|line| line.trim_matches('"').trim_end());
    lines.map(|line| format!("{line}\n")).collect()
}

/// Compares with the kept frame. To keep a new one: run with PORTAL_KEEP_FRAMES=1
/// and read the difference.
fn same(name: &str, shown: &str) {
    let path = format!("{}/tests/frames/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("PORTAL_KEEP_FRAMES").is_some() {
        std::fs::write(&path, shown).expect("the frame is kept");
    }
    let kept = std::fs::read_to_string(&path).expect("a kept frame");
    assert!(shown == kept, "{name}:\n{shown}\nkept:\n{kept}");
}

fn press(top: &mut Top, code: KeyCode) -> Do {
    top.key(KeyEvent::new(code, KeyModifiers::NONE))
}

#[test]
fn the_whole_view() {
    let mut top = Top::new("/run/portal/portal.sock");
    same("empty", &frame(&mut top, 100, 12));
    top.update(picture());
    same("whole", &frame(&mut top, 120, 26));
}

#[test]
fn a_small_terminal_still_shows_something() {
    let mut top = Top::new("a place with a long name, longer than the line is wide");
    top.update(picture());
    for (width, height) in [(1, 1), (10, 3), (40, 10), (500, 4)] {
        let shown = frame(&mut top, width, height);
        assert_eq!(shown.lines().count(), usize::from(height));
    }
    same("small", &frame(&mut top, 60, 14));
    // Rings and the table that the keys are about stay, and so does the line of keys.
    let smallest = frame(&mut top, 40, 10);
    assert!(
        smallest.contains("rings (4)") && smallest.contains("q quit"),
        "{smallest}"
    );
    assert!(smallest.contains("STALLED"), "{smallest}");
    press(&mut top, KeyCode::Left);
    let smallest = frame(&mut top, 40, 10);
    assert!(
        smallest.contains("peers (3)") && smallest.contains("rings (4)"),
        "{smallest}"
    );
}

#[test]
fn keys_choose_table_row_order_and_hold() {
    let mut top = Top::new("lake");
    top.update(picture());
    press(&mut top, KeyCode::Left);
    press(&mut top, KeyCode::Down);
    press(&mut top, KeyCode::Down);
    // Peers, by number downwards; then the other way; then by name.
    press(&mut top, KeyCode::Char('s'));
    same("peers", &frame(&mut top, 120, 26));
    press(&mut top, KeyCode::Char('r'));
    assert!(frame(&mut top, 120, 26).contains("peer▴"));
    press(&mut top, KeyCode::Char('s'));
    assert!(frame(&mut top, 120, 26).contains("name▴"));
    press(&mut top, KeyCode::Char('S'));
    press(&mut top, KeyCode::Char('r'));
    assert!(frame(&mut top, 120, 26).contains("peer▾"));
    // All the way round.
    for _ in 0..4 {
        press(&mut top, KeyCode::Tab);
    }
    assert!(frame(&mut top, 120, 26).contains("peer▾"));
    // Held: later samples are not shown.
    press(&mut top, KeyCode::Char(' '));
    top.update(Picture::default());
    assert!(frame(&mut top, 120, 26).contains("held (space goes on)"));
    assert!(frame(&mut top, 120, 26).contains("quiescing"));
    press(&mut top, KeyCode::Char(' '));
    top.update(Picture::default());
    assert!(!frame(&mut top, 120, 26).contains("quiescing"));
    for code in [KeyCode::Up, KeyCode::PageDown, KeyCode::End, KeyCode::Home] {
        assert_eq!(press(&mut top, code), Do::Show);
    }
    assert_eq!(press(&mut top, KeyCode::Char('q')), Do::Quit);
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(top.key(control_c), Do::Quit);
}

#[test]
fn a_source_that_went_away_is_told() {
    let mut top = Top::new("lake");
    top.update(picture());
    top.lose("connection refused\x1b[2J");
    let shown = frame(&mut top, 120, 26);
    assert!(shown.contains("connection refused\\u{1b}[2J"), "{shown}");
    assert!(shown.contains("lake"), "what was seen last stays");
}

#[test]
fn plain_output() {
    same("brief", &lines::brief(&picture()).join("\n"));
    same("full", &lines::full(&picture()).join("\n"));
}

/// Names and texts with everything in them that a terminal obeys.
#[test]
fn nothing_hostile_reaches_the_terminal() {
    let bad = "x\x1b]0;owned\x07\x1b[31m\r\n\u{9b}2J\u{202e}\u{200b}\u{feff}".repeat(20);
    let mut hostile_peer = peer(0, &bad, &bad);
    hostile_peer.kind.clone_from(&bad);
    let mut hostile_ring = ring(0, 0, 1, 5, Some(1));
    hostile_ring.kind.clone_from(&bad);
    hostile_ring.layout.clone_from(&bad);
    hostile_ring.problem = Some(bad.clone());
    let mut sample = at(
        0,
        vec![region(&bad, vec![hostile_peer], vec![hostile_ring])],
    );
    let mut hostile_partition = partition(&bad, 1, 1);
    hostile_partition.state.clone_from(&bad);
    sample.partitions.push(hostile_partition);
    sample.problems.push(bad.clone());
    let picture = Model::new().take(sample);
    let mut top = Top::new(bad);
    top.update(picture.clone());
    let shown = [
        frame(&mut top, 200, 40),
        lines::full(&picture).join("\n"),
        lines::brief(&picture).join("\n"),
        portal_observe::metrics::text(picture).expect("a string"),
    ];
    for text in shown {
        assert!(text.contains('x'), "something is shown");
        let obeyed = text
            .chars()
            .find(|c| *c != '\n' && !portal_device::inspect::is_plain(*c));
        assert_eq!(obeyed, None, "{text}");
    }
}
