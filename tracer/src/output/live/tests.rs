//! The picture, from hand-made journeys, at several sizes; and what keys and clicks do to it.

use std::{fs, path::Path, sync::Arc};

use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{
        Event, KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
    },
};

use super::{
    draw::draw,
    health::Health,
    model::Model,
    prompt::Asked,
    screen::{Effect, Over, Pane, Screen},
    theme::Theme,
    view::selected,
};
use crate::output::{
    Phase, Standing,
    fact::Facts,
    record::{Direction, Events, Journey},
    tests,
};

/// A journey that a test changes.
pub(super) struct Sample(pub Journey);

impl Sample {
    pub fn arc(self) -> Arc<Journey> {
        Arc::new(self.0)
    }

    pub fn reply(mut self) -> Self {
        self.0.direction = Direction::Reply;
        let packet = &mut self.0.packet;
        std::mem::swap(&mut packet.src, &mut packet.dst);
        std::mem::swap(&mut packet.sport, &mut packet.dport);
        std::mem::swap(&mut packet.src_name, &mut packet.dst_name);
        self
    }

    pub fn named(mut self, src: &str, dst: &str) -> Self {
        self.0.packet.src_name = Some(src.to_owned());
        self.0.packet.dst_name = Some(dst.to_owned());
        self
    }

    pub fn proto(mut self, proto: &str) -> Self {
        self.0.flow.proto = proto.to_owned();
        self
    }

    pub fn because(mut self, reason: &str) -> Self {
        self.0.outcome.reason = Some(reason.to_owned());
        self.0.outcome.rule = None;
        self
    }

    fn ports(mut self, sport: u16, dport: u16) -> Self {
        let Journey { flow, packet, .. } = &mut self.0;
        (flow.sport, flow.dport) = (Some(sport), Some(dport));
        (packet.sport, packet.dport) = (Some(sport), Some(dport));
        self
    }
}

/// Journeys to begin with.
pub(super) mod samples {
    use super::*;
    use crate::output::record::OutcomeKind;

    fn of(mut journey: Journey, flow: u64) -> Sample {
        journey.flow.id = flow;
        Sample(journey)
    }

    /// From c1, dropped by a rule in the host's forward hook.
    pub fn dropped(flow: u64) -> Sample {
        of(tests::dropped(), flow).proto("udp").ports(41133, 9999)
    }

    /// From c1 out of the host's eth0, behind another address.
    pub fn translated(flow: u64) -> Sample {
        of(tests::translated(), flow)
    }

    /// Five steps of 1 µs.
    pub fn delivered(flow: u64) -> Sample {
        let mut sample = dropped(flow);
        let journey = &mut sample.0;
        journey.hops.truncate(6);
        journey.hops.iter_mut().zip(0..).for_each(|(hop, n)| hop.t_ns = n * 1_000);
        journey.outcome.kind = OutcomeKind::Delivered;
        journey.outcome.hop = 5;
        (journey.outcome.reason, journey.outcome.rule) = (None, None);
        sample
    }

    /// Past these points of the host's bridge device, ended at the last.
    pub fn walked(flow: u64, points: &[&'static str], kind: OutcomeKind) -> Sample {
        let mut sample = dropped(flow);
        let journey = &mut sample.0;
        let hop = journey.hops[5].clone();
        journey.hops = points
            .iter()
            .zip(0..)
            .map(|(point, n)| {
                let mut hop = hop.clone();
                hop.point = (*point).into();
                let layer = tracer_common::point::Point::ALL
                    .iter()
                    .find(|known| known.name() == *point)
                    .unwrap()
                    .layer();
                (hop.layer, hop.t_ns) = (layer.name().into(), n * 1_000);
                hop.detail = Facts::default();
                hop
            })
            .collect();
        journey.outcome.kind = kind;
        journey.outcome.hop = points.len() - 1;
        sample
    }
}

const SECOND: u64 = 1_000_000_000;
const PLAIN: Theme = Theme { ascii: false, colour: true };

/// A view without a terminal and a thread.
struct Bench {
    model: Model,
    screen: Screen,
    health: Health,
    now: u64,
}

impl Bench {
    fn new() -> Self {
        let mut health = Health::default();
        let events = Events { received: 12_345, ..Events::default() };
        health.standing = Some(Standing {
            selection: "--ip 10.0.100.252".to_owned(),
            phase: Phase::Tracing,
            points: 34,
            points_known: 34,
            interfaces: 5,
            namespaces: 3,
            events,
            thinned: None,
        });
        health.events_a_second = Some(1_234);
        health.process.memory = Some(38 << 20);
        health.process.processor = Some(3.4);
        let mut screen = Screen::new(PLAIN);
        screen.selection = Some("--ip 10.0.100.252".to_owned());
        Self { model: Model::default(), screen, health, now: 0 }
    }

    /// With some traffic: a flow that is dropped, one behind NAT, and one that is answered.
    fn busy() -> Self {
        let mut bench = Self::new();
        for second in 0..10 {
            bench.now = second * SECOND;
            bench.add(samples::dropped(1).named("c1", "world"));
            bench.add(samples::translated(2).named("c1", "world"));
            for _ in 0..second {
                bench.add(samples::delivered(3).ports(40053, 53).named("c1", "dns"));
                bench.add(samples::delivered(3).ports(40053, 53).named("c1", "dns").reply());
            }
        }
        bench.add(samples::dropped(4).ports(41134, 7777).named("c2", "world").because("NO_SOCKET"));
        bench.now = 12 * SECOND;
        bench.screen.arrange(&bench.model, bench.now);
        bench
    }

    fn add(&mut self, sample: Sample) {
        self.model.add(sample.arc(), self.now);
    }

    fn draw(&mut self, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let Self { model, screen, health, now } = self;
        terminal.draw(|frame| draw(frame, screen, model, health, *now)).unwrap();
        let picture = terminal.backend().buffer();
        let mut text = String::new();
        for row in picture.content.chunks(width.into()) {
            let row: String = row.iter().map(|cell| cell.symbol()).collect();
            text.push_str(row.trim_end());
            text.push('\n');
        }
        text
    }

    fn take(&mut self, event: &Event) -> Option<Effect> {
        self.screen.take(event, &mut self.model, self.now)
    }

    fn press(&mut self, code: KeyCode) -> Option<Effect> {
        self.take(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
    }

    fn type_in(&mut self, text: &str) {
        for c in text.chars() {
            assert_eq!(self.press(KeyCode::Char(c)), None);
        }
    }

    fn click(&mut self, column: u16, row: u16) {
        let kind = MouseEventKind::Down(MouseButton::Left);
        let mouse = MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE };
        assert_eq!(self.take(&Event::Mouse(mouse)), None);
    }

    fn shown(&self) -> &[u64] {
        &self.screen.flows.order
    }
}

/// Compares with `snapshots/NAME.txt`; `UPDATE_EXPECT=1` writes it.
fn expect(name: &str, picture: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/output/live/snapshots")
        .join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, picture).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == picture,
        "{name} is not as it was; it is now:\n{picture}\nit was:\n{expected}"
    );
}

#[test]
fn all_panes_have_room_in_80_columns_and_24_lines() {
    expect("80x24", &Bench::busy().draw(80, 24));
}

#[test]
fn more_columns_appear_in_120_columns() {
    expect("120x30", &Bench::busy().draw(120, 30));
}

#[test]
fn all_of_it_is_seen_in_200_columns_and_50_lines() {
    expect("200x50", &Bench::busy().draw(200, 50));
}

#[test]
fn below_that_one_pane_is_shown_and_that_is_said() {
    let picture = Bench::busy().draw(60, 20);
    expect("60x20", &picture);
    assert!(picture.contains("80×24 has all"));
}

#[test]
fn what_is_too_small_says_how_much_is_needed() {
    let picture = Bench::busy().draw(30, 5);
    assert!(picture.contains("too small"), "{picture}");
    assert!(picture.contains("40×8"), "{picture}");
    // Nothing can make it fail.
    for (width, height) in [(1, 1), (2, 30), (200, 1), (40, 8), (79, 24), (80, 23)] {
        Bench::busy().draw(width, height);
    }
}

#[test]
fn ascii_is_all_there_is_when_it_is_asked_for() {
    let mut bench = Bench::busy();
    bench.screen.theme.ascii = true;
    let picture = bench.draw(120, 30);
    assert!(picture.is_ascii(), "{picture}");
    expect("ascii", &picture);
}

#[test]
fn marks_say_what_colours_do() {
    let mut bench = Bench::busy();
    bench.health.standing.as_mut().unwrap().events.lost.ring_full = 3;
    let picture = bench.draw(120, 30);
    assert!(picture.contains("✗ lost 3"), "{picture}");
    assert!(picture.contains("✗ c1:41133 → world:9999"), "{picture}");
    assert!(picture.contains("✓ c1:40053 ↔ dns:53"), "{picture}");
}

#[test]
fn nothing_from_outside_moves_the_cursor() {
    let mut bench = Bench::new();
    let mut sample = samples::dropped(1).named("ev\x1b[31mil", "a\u{202e}b").because("R\x07");
    sample.0.packet.info = "x\x1b]0;t\x07".to_owned();
    bench.add(sample);
    bench.screen.arrange(&bench.model, 0);
    let mut pictures = vec![bench.draw(200, 50)];
    bench.press(KeyCode::Char('p'));
    pictures.push(bench.draw(200, 50));
    bench.press(KeyCode::Enter);
    pictures.push(bench.draw(200, 50));
    for picture in pictures {
        assert!(picture.chars().all(|c| c == '\n' || !c.is_control()), "{picture:?}");
        assert!(!picture.contains('\u{202e}'), "{picture}");
        assert!(picture.contains("u{1b}"), "{picture}");
    }
}

#[test]
fn flows_are_filtered_as_one_types() {
    let mut bench = Bench::busy();
    assert_eq!(bench.shown().len(), 4);
    bench.type_in("/dns");
    assert_eq!(bench.shown(), [3]);
    assert!(bench.draw(120, 30).contains("find: dns"));
    bench.type_in(" nowhere");
    assert!(bench.shown().is_empty());
    assert!(bench.draw(120, 30).contains("none has all these words"));
    bench.press(KeyCode::Esc);
    assert_eq!(bench.shown().len(), 4);
    bench.type_in("/c1 UDP");
    bench.press(KeyCode::Enter);
    assert!(bench.screen.prompt.is_none());
    assert_eq!(bench.shown(), [3, 1]);
}

#[test]
fn flows_with_drops_come_first_on_a_key() {
    let mut bench = Bench::busy();
    assert_eq!(bench.shown(), [3, 1, 2, 4]);
    bench.type_in("d");
    assert_eq!(bench.shown(), [1, 4, 3, 2]);
    assert_eq!(bench.screen.flows.selected, Some(1));
    bench.type_in("s");
    assert!(bench.draw(120, 30).contains("by drops, drops first"));
}

#[test]
fn a_click_selects_and_one_on_a_head_sorts() {
    let mut bench = Bench::busy();
    bench.draw(120, 30);
    let flows = bench.screen.areas.flows;
    bench.click(flows.x + 3, flows.y + 2);
    assert_eq!(bench.screen.flows.selected, Some(1));
    bench.click(flows.x + 3, flows.y);
    assert_eq!(bench.screen.flows.sort.name(), "name");
    let drops = bench.screen.areas.drops;
    bench.click(drops.x + 3, drops.y);
    assert_eq!(bench.screen.pane, Pane::Drops);
    assert_eq!(bench.screen.flows.selected, Some(4));
}

#[test]
fn a_drop_that_is_selected_selects_its_flow_even_where_it_was_filtered_away() {
    let mut bench = Bench::busy();
    bench.type_in("/dns");
    bench.press(KeyCode::Enter);
    bench.draw(80, 24);
    bench.press(KeyCode::Tab);
    bench.press(KeyCode::Tab);
    assert_eq!(bench.screen.pane, Pane::Drops);
    assert_eq!(bench.screen.flows.selected, Some(4));
    bench.press(KeyCode::Down);
    assert_eq!(bench.screen.flows.selected, Some(1));
    bench.press(KeyCode::Enter);
    assert_eq!(bench.screen.pane, Pane::Journey);
    assert!(bench.draw(120, 30).contains("✗ 10 dropped: NETFILTER_DROP"));
}

#[test]
fn where_packets_died_is_in_sight_by_itself() {
    let mut bench = Bench::busy();
    bench.type_in("d");
    let picture = bench.draw(80, 24);
    assert!(picture.contains("✗ 10 dropped: NETFILTER_DROP"), "{picture}");
    bench.press(KeyCode::Tab);
    bench.press(KeyCode::Home);
    assert!(bench.draw(80, 24).contains("→ original: 10 packets, 10 dropped"));
}

#[test]
fn it_stands_still_while_counting_goes_on() {
    let mut bench = Bench::busy();
    bench.type_in(" ");
    let before = bench.draw(120, 30);
    assert!(before.contains("PAUSED"), "{before}");
    bench.add(samples::dropped(1));
    bench.now += 5 * SECOND;
    bench.screen.arrange(&bench.model, bench.now);
    assert_eq!(bench.draw(120, 30), before);
    bench.type_in(" ");
    let after = bench.draw(120, 30);
    assert!(after.contains("11 packets, 11 dropped") || after.contains("   11"), "{after}");
    assert!(!after.contains("PAUSED"));
}

#[test]
fn what_was_counted_is_forgotten_on_a_key() {
    let mut bench = Bench::busy();
    bench.type_in("c");
    bench.screen.arrange(&bench.model, bench.now);
    let picture = bench.draw(80, 24);
    assert!(picture.contains("no packet yet") && picture.contains("Drops: none"), "{picture}");
}

#[test]
fn packets_of_a_flow_and_the_bytes_of_one_are_shown() {
    let mut bench = Bench::new();
    let mut sample = samples::dropped(1).named("c1", "world");
    sample.0.hops[1].data = Some("4500002a68656c6c6f".to_owned());
    bench.add(sample);
    bench.screen.arrange(&bench.model, bench.now);
    bench.type_in("p");
    expect("packets", &bench.draw(100, 24));
    bench.press(KeyCode::Enter);
    assert!(bench.draw(100, 30).contains("no bytes were captured"));
    bench.press(KeyCode::Down);
    let picture = bench.draw(100, 30);
    assert!(picture.contains("0000   45 00 00 2a 68 65 6c 6c  6f"), "{picture}");
    assert!(picture.contains("E..*hello"), "{picture}");
    expect("packet", &picture);
    bench.press(KeyCode::Esc);
    assert!(matches!(bench.screen.over, Some(Over::Packets(_))));
    bench.press(KeyCode::Esc);
    assert!(bench.screen.over.is_none());
}

#[test]
fn the_help_lists_every_key() {
    let mut bench = Bench::busy();
    bench.type_in("?");
    let picture = bench.draw(100, 60);
    for binding in super::keys::BINDINGS {
        assert!(picture.contains(binding.shown), "{}", binding.shown);
    }
    bench.type_in("?");
    assert!(bench.screen.over.is_none());
}

#[test]
fn another_selection_is_asked_for_as_on_the_command_line() {
    let mut bench = Bench::busy();
    bench.type_in("f");
    let asked = bench.screen.prompt.as_ref().unwrap();
    assert_eq!(asked.asked, Asked::Select);
    assert_eq!(asked.input.value(), "--ip 10.0.100.252");
    bench.type_in(" --proto udp");
    let wanted = Some(Effect::Select("--ip 10.0.100.252 --proto udp".to_owned()));
    assert_eq!(bench.press(KeyCode::Enter), wanted);
}

#[test]
fn what_selects_nothing_is_said_in_a_line() {
    for (typed, said) in [
        ("--ip 10.0.0", "10.0.0"),
        ("--nonsense", "--nonsense"),
        ("--proto icmp --port 80", "ports"),
        ("--iface 'eth0", "quotation mark"),
    ] {
        let why = selected(typed).unwrap_err();
        assert!(why.contains(said) && !why.contains('\n'), "{why:?}");
    }
    let select = selected("--ip 10.0.0.7 --proto tcp").unwrap();
    assert_eq!(crate::select::words(&select), "--ip 10.0.0.7 --proto tcp");
    assert!(selected("").is_ok());
}

#[test]
fn a_flow_is_written_where_one_says_and_not_over_another_file() {
    use std::os::unix::fs::PermissionsExt as _;

    use super::export::{Error, write};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flow.jsonl");
    let journeys = [samples::dropped(1).arc(), samples::dropped(1).arc()];
    write(&path, &journeys, false, || None).unwrap();
    let written = fs::read_to_string(&path).unwrap();
    assert_eq!(written.lines().count(), 2);
    let line: serde_json::Value = serde_json::from_str(written.lines().next().unwrap()).unwrap();
    assert_eq!(line["type"], "journey");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    assert!(matches!(write(&path, &journeys[..1], false, || None), Err(Error::Exists)));
    assert_eq!(fs::read_to_string(&path).unwrap(), written);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    write(&path, &journeys[..1], true, || None).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_flow_is_written_as_a_capture_once_the_trace_has_begun() {
    use super::export::{Error, write};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flow.pcapng");
    let journeys = [samples::dropped(1).arc()];

    assert!(matches!(write(&path, &journeys, false, || None), Err(Error::TooEarly)));
    assert!(!path.exists());
    write(&path, &journeys, false, || Some(b"capture".to_vec())).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"capture");
    let other = folder.path().join("flow.txt");
    assert!(matches!(write(&other, &journeys, false, || None), Err(Error::Format)));
}

#[test]
fn keys_that_are_typed_into_a_line_do_nothing_else() {
    let mut bench = Bench::busy();
    bench.type_in("w");
    bench.type_in("q?");
    let Some(Effect::Export { flow, path, over }) = bench.press(KeyCode::Enter) else {
        panic!("nothing is written");
    };
    assert_eq!((flow, path.to_str(), over), (3, Some("flow-3.pcapngq?"), false));
}

#[test]
fn fifty_thousand_flows_are_drawn_by_what_is_in_sight() {
    let mut bench = Bench::new();
    for flow in 0..50_000 {
        bench.add(samples::walked(
            flow,
            &["dev_receive"],
            crate::output::record::OutcomeKind::Consumed,
        ));
    }
    bench.screen.arrange(&bench.model, bench.now);
    assert_eq!(bench.shown().len(), 50_000);
    bench.draw(200, 50);
    bench.press(KeyCode::End);
    let picture = bench.draw(200, 50);
    assert!(picture.contains("Flows 50000"), "{picture}");
    assert_eq!(bench.screen.flows.position, 49_999);
    assert_eq!(bench.screen.flows.top + bench.screen.flows.height, 50_000);
}
