//! The page of hand-made journeys.

use super::*;
use crate::output::{
    Tally,
    record::{Dev, Events, Netns},
    shared::Shared,
    tests::{dropped, start, translated},
};

fn report(journeys: &[Journey]) -> String {
    let mut report = Report::new(Vec::new());
    let mut tally = Tally::default();
    report.start(&start()).unwrap();
    for journey in journeys {
        tally.add(&journey.outcome);
        report.journey(journey).unwrap();
    }
    report.summary(&tally.summary(5_000_000_000, Events::default())).unwrap();
    String::from_utf8(report.into_inner()).unwrap()
}

/// What is between this and the next tag.
fn after<'a>(page: &'a str, mark: &str) -> &'a str {
    let rest = page.split_once(mark).unwrap_or_else(|| panic!("no {mark:?} in {page}")).1;
    rest.split('<').next().unwrap_or_default()
}

#[test]
fn a_drop_is_told_with_its_cause_and_at_the_step_where_it_was() {
    let page = report(&[dropped(), dropped()]);

    assert_eq!(after(&page, "<td class=\"number bad\">"), "✗ 2");
    assert_eq!(after(&page, "<div class=\"step end\">"), "✗ nf_forward ");
    assert!(page.contains("a rule of chain inet lxd fwd.lxdbr0 at forward in the host dropped it"));
    assert!(page.contains("nft -a list chain inet lxd fwd.lxdbr0"));
}

#[test]
fn packets_that_went_alike_are_one_way() {
    let page = report(&[translated(), translated(), dropped()]);

    assert_eq!(page.matches("<div class=\"way\">").count(), 2);
    assert!(page.contains("<b>→ 2</b>"), "{page}");
}

#[test]
fn the_page_needs_nothing_but_itself() {
    let page = report(&[dropped(), translated()]);

    for reference in ["http://", "https://", " src=", "url(", "@import", "<link"] {
        assert!(!page.contains(reference), "{reference}");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn names_are_text_and_not_markup() {
    let mut journey = dropped();
    let evil = "<script>alert(1)</script>\u{202e}".to_owned();
    for hop in &mut journey.hops {
        let (netns, dev) = ((*hop.netns).clone(), (**hop.dev.as_ref().unwrap()).clone());
        hop.netns = Shared::new(Netns { label: Some(evil.clone()), ..netns });
        hop.dev = Some(Shared::new(Dev { name: Some(evil.clone()), ..dev }));
    }
    journey.packet.src_name = Some(evil.clone());
    journey.outcome.why = Some(evil.clone());
    journey.outcome.advice = vec![evil.clone()];
    journey.outcome.reason = Some(evil.clone());
    journey.outcome.rule.as_mut().unwrap().text = Some(evil);

    let page = report(&[journey]);

    assert!(!page.contains("<script>alert"), "{page}");
    assert!(!page.contains('\u{202e}'));
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;\\u{202e}"));
}

#[test]
fn what_is_too_much_for_a_page_is_counted_on_it() {
    let flows: Vec<Journey> = (1..=1_003)
        .map(|id| {
            let mut journey = translated();
            journey.flow.id = id;
            journey
        })
        .collect();

    let page = report(&flows);

    assert_eq!(page.matches("class=\"flow\"").count(), 1_000);
    assert!(page.contains("Not shown: 3 packets of more flows"), "not counted");
}

#[test]
fn a_file_without_a_packet_is_a_page_too() {
    assert!(report(&[]).contains("Nothing to tell."));
}

#[test]
fn of_many_items_an_even_sample_is_kept() {
    let mut sample = sample::Sample::of(100);

    (0..1_000_u64).for_each(|n| sample.add(n));

    assert_eq!(sample.every(), 16);
    assert!(sample.items().iter().enumerate().all(|(at, n)| *n == 16 * at as u64));
    assert_eq!(sample.median(), Some(496));
}
