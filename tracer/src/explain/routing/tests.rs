//! Rules written by hand, and look-ups that met them.

use super::*;
use crate::{
    event::{Hook, Place, What},
    explain::{DeviceName, NetnsName},
    journey::sample::*,
};

const MAIN: u32 = 254;

/// A namespace with these rules beside those that it began with.
struct Host {
    rules: Vec<RoutingRule>,
    in_vrf: bool,
}

impl Names for Host {
    fn netns(&self, _: u32) -> NetnsName {
        NetnsName::default()
    }

    fn device(&self, _: Place) -> DeviceName {
        DeviceName { name: Some("eth0".to_owned()), ..DeviceName::default() }
    }

    fn routing_rules(&self, _: u32, _: u64) -> &[RoutingRule] {
        &self.rules
    }

    fn is_in_vrf(&self, _: Place) -> bool {
        self.in_vrf
    }
}

fn host(rules: impl IntoIterator<Item = RoutingRule>) -> Host {
    let original = [(0, 255), (32_766, MAIN), (32_767, 253)].map(|(priority, table)| RoutingRule {
        priority,
        action: Action::Lookup(table),
        ..RoutingRule::default()
    });
    let mut rules: Vec<_> = rules.into_iter().chain(original).collect();
    rules.sort_by_key(|rule| rule.priority);
    Host { rules, in_vrf: false }
}

fn to_table(priority: u32, table: u32) -> RoutingRule {
    RoutingRule { priority, action: Action::Lookup(table), ..RoutingRule::default() }
}

/// The priorities of the rules behind look-ups of these tables, one after another.
fn told(host: &Host, tables: &[u32]) -> Vec<Option<u32>> {
    let looked_up =
        |table| What::Route { table, gateway: None, oif: 3, kind: 1, error: 0, reverse: false };
    let packet = packet(1, udp("10.0.0.2", 4000, "203.0.113.8", 53)).see(enter(Hook::Prerouting));
    let packet = tables.iter().fold(packet, |packet, table| packet.see(looked_up(*table)));
    let journey = journeys(packet.events()).remove(0);
    (1..=tables.len()).map(|hop| rule(&journey, hop, host).map(|rule| rule.priority)).collect()
}

#[test]
fn the_rule_that_selects_the_packet_is_told() {
    let from = |net: &str| Some(net.parse().unwrap());
    let other = RoutingRule { from: from("10.1.0.0/16"), ..to_table(10, 100) };
    let its = RoutingRule { from: from("10.0.0.0/16"), ..to_table(20, 100) };
    let later = RoutingRule { to: from("203.0.113.0/24"), ..to_table(30, 100) };
    assert_eq!(told(&host([other, its, later]), &[100]), [Some(20)]);
}

#[test]
fn each_selector_counts() {
    let rule = || to_table(10, 100);
    let chosen = [
        RoutingRule { iif: Some("eth0".into()), ..rule() },
        RoutingRule { proto: Some(17), dport: Some((50, 60)), ..rule() },
        RoutingRule { sport: Some((4000, 4000)), ..rule() },
        RoutingRule { inverted: true, iif: Some("eth1".into()), ..rule() },
    ];
    for rule in chosen {
        assert_eq!(told(&host([rule.clone()]), &[100]), [Some(10)], "{rule:?}");
    }
    let left_out = [
        RoutingRule { iif: Some("eth1".into()), ..rule() },
        RoutingRule { oif: Some("eth0".into()), ..rule() },
        RoutingRule { proto: Some(6), ..rule() },
        RoutingRule { dport: Some((54, 60)), ..rule() },
        RoutingRule { inverted: true, proto: Some(17), ..rule() },
        RoutingRule { is_v6: true, ..rule() },
    ];
    for rule in left_out {
        assert_eq!(told(&host([rule.clone()]), &[100]), [None], "{rule:?}");
    }
}

#[test]
fn the_table_proves_a_rule_whose_mark_is_not_known() {
    let marked = RoutingRule { mark: Some((1, u32::MAX)), ..to_table(10, 100) };
    assert_eq!(told(&host([marked.clone()]), &[100]), [Some(10)]);
    let two = host([marked, to_table(20, 100)]);
    assert_eq!(told(&two, &[100]), [None], "either may have led there");
}

#[test]
fn lookups_in_a_row_are_asked_for_by_one_rule_after_another() {
    let suppressing = RoutingRule { suppress_prefix: Some(0), ..to_table(10, MAIN) };
    let host = host([suppressing, to_table(20, 100)]);
    assert_eq!(told(&host, &[255, MAIN, 100, MAIN]), [Some(0), Some(10), Some(20), Some(32_766)]);
}

#[test]
fn no_rule_is_told_where_the_kernel_asks_none_or_one_jumps() {
    assert_eq!(told(&host([]), &[MAIN]), [None]);
    let jump = RoutingRule { action: Action::Goto(32_766), ..to_table(5, 0) };
    assert_eq!(told(&host([jump, to_table(10, 100)]), &[100]), [None]);
}

#[test]
fn the_table_of_a_vrf_is_that_of_its_interfaces_only() {
    let vrf = RoutingRule { action: Action::LookupVrf, ..to_table(1000, 0) };
    let outside = host([vrf]);
    assert_eq!(told(&outside, &[MAIN]), [Some(32_766)]);
    let inside = Host { in_vrf: true, ..outside };
    assert_eq!(told(&inside, &[7]), [Some(1000)]);
}
