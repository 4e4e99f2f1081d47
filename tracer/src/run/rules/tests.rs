//! By readings made up, in the order in which they come.

use std::collections::BTreeMap;

use super::*;
use crate::{
    event::HookFamily,
    host::{
        chains::Policy,
        ruleset::{End, Test},
    },
};

const S: u64 = 1_000_000_000;

fn rule(handle: u64, text: &str, tests: Vec<Test>, end: End, packets: u64) -> Rule {
    Rule { handle, text: Some(text.into()), tests, end, packets: Some(packets) }
}

fn base(policy: Policy) -> Base {
    Base {
        kind: "filter".into(),
        hook: Some(Hook::Forward),
        priority: 0,
        policy,
        packets: Some(0),
        devices: Vec::new(),
    }
}

fn table(family: Family, name: &str, handle: u64, rules: Vec<Rule>) -> Table {
    let forward =
        Chain { name: "FORWARD".into(), handle: 1, base: Some(base(Policy::Accept)), rules };
    let (chains, maps) = (vec![forward], BTreeMap::new());
    Table { family, name: name.into(), handle, chains, maps, read: true }
}

fn nftables(text: &str) -> Ruleset {
    let rules = vec![rule(5, text, Vec::new(), End::Drop, 0)];
    let table = table(Family::Inet, "t", 7, rules);
    Ruleset { tables: BTreeMap::from([(7, table)]), ..Ruleset::default() }
}

fn read(rules: &mut Rules, at: u64, what: Ruleset) {
    rules.known.entry(1).or_default().tried = Some(at);
    take(rules, at, false, what);
}

fn take(rules: &mut Rules, at: u64, brief: bool, what: Ruleset) {
    rules.take(Some(Read { netns: 1, began: at, ended: at + S / 10, brief, rules: Ok(what) }));
}

fn forward() -> InHook {
    InHook { hook: Hook::Forward, family: HookFamily::Ipv4, passed: 0 }
}

fn text_at(rules: &Rules, time: u64) -> Option<String> {
    let rule = RuleOrPolicy::Rule(5);
    let by = Decider::Nftables { table: 7, chain: 1, rule };
    rules.decided(1, time, forward(), &by).unwrap().text
}

fn suspect(backend: &str) -> BaseChain {
    BaseChain {
        backend: backend.into(),
        family: if backend == "nftables" { "inet" } else { "ip" }.into(),
        table: if backend == "nftables" { "t" } else { "filter" }.into(),
        chain: "FORWARD".into(),
        hook: "forward".into(),
        priority: Some(0),
        policy_drops: None,
    }
}

#[test]
fn a_replaced_rule_has_its_text_though_the_handle_stays() {
    let mut rules = Rules::new(Tools::default());
    rules.follow([1].into_iter());
    read(&mut rules, S, nftables("first"));
    rules.changed(1, 5 * S, 5 * S);
    assert_eq!(text_at(&rules, 3 * S).as_deref(), Some("first"));
    let by = Decider::Nftables { table: 7, chain: 1, rule: RuleOrPolicy::Rule(5) };
    assert!(rules.could_tell(1, 6 * S, Some(&by), false), "it has changed");
    assert!(!rules.could_tell(1, 3 * S, Some(&by), false));
    read(&mut rules, 7 * S, nftables("second"));
    assert!(!rules.could_tell(1, 6 * S, Some(&by), false));
    assert_eq!(text_at(&rules, 3 * S).as_deref(), Some("first"));
    assert_eq!(text_at(&rules, 6 * S).as_deref(), Some("second"));
    // Whether it was before or behind the change cannot be told.
    assert_eq!(text_at(&rules, 5 * S - NOTICED / 2), None);
    let ways = |time| rules.ways(1, time, &Packet::default(), &[suspect("nftables")]).unwrap();
    assert_eq!(ways(3 * S)[0].text.as_deref(), Some("first"));
    assert_eq!(ways(6 * S)[0].text.as_deref(), Some("second"));
    assert_eq!(ways(5 * S - NOTICED / 2).len(), 2);
}

#[test]
fn a_rule_that_is_gone_keeps_its_text() {
    let mut rules = Rules::new(Tools::default());
    rules.follow([1].into_iter());
    read(&mut rules, S, nftables("gone"));
    rules.changed(1, 2 * S, 2 * S);
    read(&mut rules, 3 * S, Ruleset::default());
    assert_eq!(text_at(&rules, S + S / 2).as_deref(), Some("gone"));
}

#[test]
fn a_table_that_is_loaded_again_had_other_handles_before() {
    let mut rules = Rules::new(Tools::default());
    read(&mut rules, 10 * S, nftables("x"));
    rules.changed(1, 20 * S, 20 * S);
    let again = table(Family::Inet, "t", 8, Vec::new());
    read(
        &mut rules,
        21 * S,
        Ruleset { tables: BTreeMap::from([(8, again)]), ..Ruleset::default() },
    );
    let base = |time, name| rules.base(1, time, Family::Inet, ("t", name));
    assert_eq!(base(15 * S, "FORWARD"), Some((7, 1, Hook::Forward)));
    assert_eq!(base(25 * S, "FORWARD"), Some((8, 1, Hook::Forward)));
    assert_eq!(base(25 * S, "other"), None);
}

#[test]
fn what_is_not_known_is_asked_for_once_and_not_again_for_the_same_packet() {
    let mut rules = Rules::new(Tools::default());
    let by = Decider::Nftables { table: 7, chain: 1, rule: RuleOrPolicy::Rule(9) };
    assert!(rules.could_tell(1, S, Some(&by), false));
    rules.follow([1].into_iter());
    read(&mut rules, S, nftables("first"));
    assert!(rules.could_tell(1, 2 * S, Some(&by), false), "it may have been added since");
    assert!(!rules.could_tell(1, S / 2, Some(&by), false), "it was read since");
    let unknown = rules.decided(1, 2 * S, forward(), &by).unwrap();
    assert_eq!((unknown.handle, unknown.text), (Some(9), None));
    let elsewhere = Decider::Nftables { table: 8, chain: 1, rule: RuleOrPolicy::Policy };
    assert_eq!(rules.decided(1, S, forward(), &elsewhere), None);
    assert!(!rules.could_tell(1, 9 * S, Some(&Decider::Conntrack), false));
}

#[test]
fn what_could_not_be_listed_is_tried_again_a_few_times() {
    let mut rules = Rules::new(Tools::default());
    rules.follow([1].into_iter());
    for second in 1..=3 {
        read(&mut rules, second * S, Ruleset { incomplete: true, ..nftables("x") });
        let again = rules.could_tell(1, second * S + 1, None, false);
        assert_eq!(again, second < 3, "{second}");
    }
}

#[test]
fn of_legacy_rules_the_one_that_counted_decided() {
    let with = |first, second| {
        let tests = || vec![Test::Unclear];
        let all = vec![
            rule(1, "-A FORWARD -m a -j DROP", tests(), End::Drop, first),
            rule(2, "-A FORWARD -m b -j DROP", tests(), End::Drop, second),
        ];
        let legacy = vec![table(Family::Ip, "filter", 0, all)];
        Ruleset { legacy, ..Ruleset::default() }
    };
    let mut rules = Rules::new(Tools::default());
    rules.follow([1].into_iter());
    read(&mut rules, S, with(3, 3));
    let ways = |rules: &Rules| {
        let ways = rules.ways(1, 2 * S, &Packet::default(), &[suspect("iptables-legacy")]);
        ways.unwrap().iter().map(|way| way.number.unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(ways(&rules), [1, 2]);
    assert!(rules.could_tell(1, 2 * S, None, true));
    read(&mut rules, 3 * S, with(3, 4));
    assert!(!rules.could_tell(1, 2 * S, None, true));
    assert_eq!(ways(&rules), [2]);
    let by = Decider::Legacy { family: HookFamily::Ipv4, table: "filter".into(), rule: Some(2) };
    let decided = rules.decided(1, 2 * S, forward(), &by).unwrap();
    assert_eq!((decided.number, decided.handle, decided.inferred), (Some(2), None, false));
}

#[test]
fn a_legacy_rule_that_never_counted_did_not_decide() {
    let rule = |number, packets| {
        rule(number, &format!("-A FORWARD -j {number}"), vec![Test::Unclear], End::Drop, packets)
    };
    let legacy = vec![table(Family::Ip, "filter", 0, vec![rule(1, 0), rule(2, 2)])];
    let mut rules = Rules::new(Tools::default());
    read(&mut rules, 3 * S, Ruleset { legacy, ..Ruleset::default() });
    let ways = |time| rules.ways(1, time, &Packet::default(), &[suspect("iptables-legacy")]);
    let numbers = |time| ways(time).unwrap().iter().map(|w| w.number.unwrap()).collect::<Vec<_>>();
    assert_eq!(numbers(2 * S), [2]);
    assert_eq!(numbers(4 * S), [1, 2], "the first may have counted since");
    let mut before = Rules::new(Tools::default());
    before.follow([1].into_iter());
    read(&mut before, S, Ruleset::default());
    let ways = |rules: &Rules| rules.ways(1, 2 * S, &Packet::default(), &[suspect("legacy")]);
    assert_eq!(ways(&before), None, "the table was not known to be in use");
    read(&mut before, 3 * S, rules.known.remove(&1).unwrap().readings.remove(0).unwrap().rules);
    assert_eq!(ways(&before).unwrap()[0].number, Some(2));
}

#[test]
fn the_base_chain_is_found_where_the_kernel_does_not_tell_it() {
    let mut all = nftables("x");
    let table = all.tables.get_mut(&7).unwrap();
    let jump = End::Jump("sub".into());
    table.chains[0].rules = vec![rule(6, "jump sub", Vec::new(), jump, 0)];
    let rules = vec![rule(5, "drop", Vec::new(), End::Drop, 0)];
    table.chains.push(Chain { name: "sub".into(), handle: 2, base: None, rules });
    let mut rules = Rules::new(Tools::default());
    read(&mut rules, S, all);
    let by = Decider::Nftables { table: 7, chain: 0, rule: RuleOrPolicy::Rule(5) };
    let decided = rules.decided(1, 2 * S, forward(), &by).unwrap();
    assert_eq!((decided.chain.chain.as_str(), decided.within.as_deref()), ("FORWARD", Some("sub")));
    assert_eq!(decided.chain.priority, Some(0));
    let by = Decider::Nftables { table: 7, chain: 0, rule: RuleOrPolicy::Policy };
    let decided = rules.decided(1, 2 * S, forward(), &by).unwrap();
    assert_eq!((decided.policy, decided.chain.chain.as_str()), (Some(true), "FORWARD"));
}

fn only_names() -> Ruleset {
    let mut names = nftables("x");
    names.tables.values_mut().for_each(|table| table.chains[0].rules[0].text = None);
    names
}

#[test]
fn names_are_known_before_what_the_rules_say() {
    let mut rules = Rules::new(Tools::default());
    rules.follow([1].into_iter());
    rules.known.entry(1).or_default().tried = Some(S);
    let by = Decider::Nftables { table: 7, chain: 1, rule: RuleOrPolicy::Rule(5) };
    let (_results, reading) = mpsc::unbounded_channel();
    rules.reading = Some((1, reading));
    take(&mut rules, S, true, only_names());
    let decided = rules.decided(1, S / 2, forward(), &by).unwrap();
    assert_eq!((decided.chain.table.as_str(), decided.text), ("t", None));
    assert!(rules.could_tell(1, S / 2, Some(&by), false), "the rest is still being read");
    rules.reading = None;
    take(&mut rules, 2 * S, false, nftables("x"));
    assert_eq!(text_at(&rules, S / 2).as_deref(), Some("x"));
    assert!(!rules.could_tell(1, S / 2, Some(&by), false));
}

#[test]
fn names_that_changed_meanwhile_leave_the_text_open() {
    let mut rules = Rules::new(Tools::default());
    rules.follow([1].into_iter());
    take(&mut rules, S, true, only_names());
    rules.changed(1, 2 * S, 2 * S);
    take(&mut rules, 3 * S, false, nftables("x"));
    assert_eq!(text_at(&rules, S), None);
    assert_eq!(text_at(&rules, 4 * S).as_deref(), Some("x"));
}
