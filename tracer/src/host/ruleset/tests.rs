//! Rules from recorded listings, from real namespaces, and from programs that misbehave.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use serde_json::Value;

use super::{
    super::testing::TestNetns,
    ways::{Packet, Way},
    *,
};

const JSON: &str = include_str!("../../../tests/fixtures/rules/nft.json");
const TEXT: &str = include_str!("../../../tests/fixtures/rules/nft.txt");
const LEGACY: &str = include_str!("../../../tests/fixtures/rules/iptables-legacy-save.txt");

/// What the kernel would tell of a listing: names and handles.
fn skeleton(json: &str) -> Ruleset {
    let listing: Value = serde_json::from_str(json).unwrap();
    let mut rules = Ruleset::default();
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    for item in listing["nftables"].as_array().unwrap() {
        let family = |value: &Value| match value["family"].as_str().unwrap() {
            "inet" => Family::Inet,
            "ip" => Family::Ip,
            "ip6" => Family::Ip6,
            "bridge" => Family::Bridge,
            _ => Family::Netdev,
        };
        if let Some(table) = item.get("table") {
            let handle = table["handle"].as_u64().unwrap();
            let (chains, maps) = (Vec::new(), BTreeMap::new());
            let (family, name) = (family(table), text(table, "name"));
            rules.tables.insert(handle, Table { family, name, handle, chains, maps, read: false });
        }
        let mut of = |value: &Value| {
            let (family, name) = (family(value), text(value, "table"));
            rules
                .tables
                .values_mut()
                .find(|t| t.family == family && t.name == name)
                .unwrap()
                .clone()
        };
        let changed = if let Some(chain) = item.get("chain") {
            let mut table = of(chain);
            let base = chain.get("hook").map(|hook| Base {
                kind: text(chain, "type"),
                hook: Hook::ALL.into_iter().find(|h| h.name() == hook),
                priority: i32::try_from(chain["prio"].as_i64().unwrap()).unwrap(),
                policy: if chain["policy"] == "drop" { Policy::Drop } else { Policy::Accept },
                packets: None,
                devices: Vec::new(),
            });
            let (name, handle) = (text(chain, "name"), chain["handle"].as_u64().unwrap());
            table.chains.push(Chain { name, handle, base, rules: Vec::new() });
            Some(table)
        } else if let Some(rule) = item.get("rule") {
            let mut table = of(rule);
            let name = text(rule, "chain");
            let chain = table.chains.iter_mut().find(|chain| chain.name == name).unwrap();
            let handle = rule["handle"].as_u64().unwrap();
            let (tests, end) = (Vec::new(), End::Unknown);
            chain.rules.push(Rule { handle, text: None, tests, end, packets: None });
            Some(table)
        } else {
            None
        };
        if let Some(table) = changed {
            rules.tables.insert(table.handle, table);
        }
    }
    rules
}

fn recorded() -> Ruleset {
    let mut rules = skeleton(JSON);
    structure::fill(&mut rules, JSON).unwrap();
    text::fill(&mut rules, TEXT);
    rules
}

fn udp(dst: &str, dport: u16) -> Packet {
    Packet {
        version: Some(4),
        proto: Some(17),
        src: vec!["10.0.100.252".parse().unwrap()],
        dst: vec![dst.parse().unwrap()],
        sport: vec![4000],
        dport: vec![dport],
        iif: Some("lxdbr0".into()),
        oif: Some("eth0".into()),
    }
}

/// The handles of the rules that can drop a packet; 0 is the policy.
fn ways(table: &Table, base: &str, packet: &Packet) -> Vec<u64> {
    let ways = ways::of(table, table.chain(base).unwrap(), packet).unwrap();
    ways.iter().map(|way| if let Way::Rule(_, rule) = way { rule.handle } else { 0 }).collect()
}

#[test]
fn every_rule_has_its_text_by_its_handle() {
    let rules = recorded();
    let lab = rules.table("inet", "lab").unwrap();
    let text = |handle| lab.rule(handle).unwrap().1.text.clone().unwrap();
    assert_eq!(&*text(5), "udp dport 9999 counter drop comment \"no 'quoted' x # handle 9\"");
    assert_eq!(&*text(10), "ip protocol vmap { tcp : jump sub, udp : drop }");
    assert_eq!(lab.rule(5).unwrap().0.name, "sub");
    for table in rules.tables.values() {
        for rule in table.chains.iter().flat_map(|chain| &chain.rules) {
            assert!(rule.text.is_some(), "{} {rule:?}", table.name);
        }
    }
    assert!(rules.len() > 20 && !rules.is_empty());
}

#[test]
fn a_text_over_several_lines_is_one() {
    let mut rules = recorded();
    let listing = "table inet lab { # handle 7\n\tchain sub { # handle 1\n\t\tcomment \"x\"\n\t\tudp dport { 1,\n\t\t\t     2 } drop # handle 5\n\t}\n}\n";
    text::fill(&mut rules, listing);
    let lab = rules.table("inet", "lab").unwrap();
    assert_eq!(lab.rule(5).unwrap().1.text.as_deref(), Some("udp dport { 1, 2 } drop"));
}

#[test]
fn a_rule_that_contradicts_the_packet_cannot_have_dropped_it() {
    let rules = recorded();
    let lab = rules.table("inet", "lab").unwrap();
    // udp is dropped by the map in any case; what stands behind is not reached.
    assert_eq!(ways(lab, "fwd.lxdbr0", &udp("192.0.2.1", 80)), [10]);
    assert_eq!(ways(lab, "fwd.lxdbr0", &udp("192.0.2.1", 9999)), [5]);
    let tcp = Packet { proto: Some(6), ..udp("192.0.2.1", 80) };
    let got = ways(lab, "fwd.lxdbr0", &tcp);
    // 11: an element of the map may be its port. 13: the set may have its address. 25: it is IPv4.
    assert_eq!(got, [11, 13, 16, 25], "{got:?}");
    let six = Packet { version: Some(6), proto: Some(58), ..Packet::default() };
    let got = ways(lab, "fwd.lxdbr0", &six);
    assert_eq!(got, [16, 23, 24], "{got:?}");
}

#[test]
fn what_is_not_known_of_a_packet_may_be_anything() {
    let rules = recorded();
    let lab = rules.table("inet", "lab").unwrap();
    let got = ways(lab, "fwd.lxdbr0", &Packet::default());
    assert_eq!(got, [5, 10, 11, 13, 15, 16, 20, 21, 22, 23, 24, 25, 26, 28]);
    let twice = Packet { dport: vec![9999, 53], ..udp("192.0.2.1", 0) };
    assert_eq!(ways(lab, "fwd.lxdbr0", &twice), [5, 10]);
}

#[test]
fn what_was_not_read_cannot_be_told() {
    let rules = skeleton(JSON);
    let lab = rules.table("inet", "lab").unwrap();
    let base = lab.chain("fwd.lxdbr0").unwrap();
    assert_eq!(ways::of(lab, base, &Packet::default()), None);
}

#[test]
fn a_policy_is_a_way_unless_a_rule_always_decides() {
    let table = |rules: &[(&[Test], End)]| {
        let rules = rules.iter().zip(1..).map(|((tests, end), handle)| Rule {
            handle,
            text: None,
            tests: tests.to_vec(),
            end: end.clone(),
            packets: None,
        });
        let mut recorded = recorded().table("inet", "lab").unwrap().clone();
        let chain = &mut recorded.chains[1];
        chain.base.as_mut().unwrap().policy = Policy::Drop;
        chain.rules = rules.collect();
        recorded
    };
    let packet = udp("192.0.2.1", 53);
    let of = |rules: &[(&[Test], End)]| ways(&table(rules), "fwd.lxdbr0", &packet);
    assert_eq!(of(&[]), [0]);
    assert_eq!(of(&[(&[Test::Version(4)], End::Accept)]), [0; 0]);
    assert_eq!(of(&[(&[Test::Unclear], End::Accept)]), [0]);
    assert_eq!(of(&[(&[], End::Return), (&[], End::Drop)]), [0]);
    assert_eq!(of(&[(&[], End::Goto("sub".into())), (&[], End::Drop)]), [0]);
    assert_eq!(of(&[(&[], End::Queue { bypass: false })]), [1]);
    assert_eq!(of(&[(&[], End::Unknown)]), [1, 0]);
    let to_nowhere = table(&[(&[], End::Jump("gone".into()))]);
    let base = to_nowhere.chain("fwd.lxdbr0").unwrap();
    assert_eq!(ways::of(&to_nowhere, base, &packet), None);
}

#[test]
fn chains_that_lead_to_each_other_end() {
    let mut table = recorded().table("inet", "lab").unwrap().clone();
    let jump = |to: &str| Rule {
        handle: 1,
        text: None,
        tests: vec![Test::Unclear],
        end: End::Jump(to.into()),
        packets: None,
    };
    table.chains[0].rules = vec![jump("fwd.lxdbr0"); 30];
    table.chains[1].rules = vec![jump("sub"); 30];
    let base = table.chain("fwd.lxdbr0").unwrap();
    assert_eq!(ways::of(&table, base, &Packet::default()), None);
}

#[test]
fn legacy_rules_have_numbers_counters_and_targets() {
    let tables = legacy::parse(LEGACY, Family::Ip);
    let filter = tables.iter().find(|table| table.name == "filter").unwrap();
    let forward = filter.chain("FORWARD").unwrap();
    let base = forward.base.as_ref().unwrap();
    assert_eq!(
        (base.hook, base.policy, base.packets),
        (Some(Hook::Forward), Policy::Drop, Some(0))
    );
    assert_eq!(
        forward.rules[1].text.as_deref().unwrap().split(" -m").next(),
        Some("-A FORWARD -p udp")
    );
    assert_eq!(forward.rules[1].packets, Some(0));
    // 1: tcp. 2: port 53. 4: it goes to USER, whose rule is of another address.
    assert_eq!(ways(filter, "FORWARD", &udp("192.0.2.1", 53)), [2]);
    assert_eq!(ways(filter, "FORWARD", &udp("192.0.2.1", 1500)), [0]);
    let own = Packet { src: vec!["10.1.1.1".parse().unwrap()], ..udp("192.0.2.1", 1500) };
    assert_eq!(ways(filter, "FORWARD", &own), [5]);
    let tcp = Packet { proto: Some(6), iif: Some("eth0".into()), ..udp("192.0.2.1", 22) };
    assert_eq!(ways(filter, "FORWARD", &tcp), [1, 0]);
}

#[test]
fn ebtables_rules_have_numbers_and_counters() {
    let text = "Bridge table: filter\n\nBridge chain: INPUT, entries: 0, policy: ACCEPT\n\n\
                Bridge chain: FORWARD, entries: 1, policy: DROP\n\
                -p IPv4 --ip-proto udp -j ACCEPT , pcnt = 2 -- bcnt = 84\n\
                -p IPv4 -j DROP , pcnt = 3 -- bcnt = 84\n";
    let table = legacy::parse_ebtables(text, "filter");
    let (chain, rule) = table.rule(2).unwrap();
    assert_eq!((chain.name.as_str(), rule.packets), ("FORWARD", Some(3)));
    assert_eq!(rule.text.as_deref(), Some("-A FORWARD -p IPv4 -j DROP"));
    assert_eq!(ways(&table, "FORWARD", &Packet::default()), [2, 0]);
}

#[test]
fn the_rules_of_every_family_are_read() {
    let test = TestNetns::new("rules");
    test.nft(
        "table inet t {
            chain f { type filter hook forward priority 10; policy drop; udp dport 53 drop; }
            chain plain { tcp dport 22 reject; }
        }
        table ip n { chain p { type nat hook postrouting priority 0; masquerade; }; }
        table ip6 s { chain i { type filter hook input priority 0; drop; }; }
        table bridge b { chain i { type filter hook input priority -200; drop; }; }
        table arp a { chain o { type filter hook output priority 0; drop; }; }
        table netdev d { chain g { type filter hook ingress device lo priority 1; drop; }; }
        table ip sleeps { flags dormant; chain i { type filter hook input priority 0; drop; }; }",
    );
    let rules = Ruleset::read(&test.netns(), &Tools::find()).unwrap();
    assert_eq!(rules.tables.len(), 7, "{rules:?}");
    for table in rules.tables.values() {
        assert!(table.read && table.handle != 0);
        assert!(table.chains.iter().all(|chain| chain.rules.iter().all(|r| r.text.is_some())));
    }
    let netdev = rules.table("netdev", "d").unwrap().chain("g").unwrap();
    let base = netdev.base.as_ref().unwrap();
    assert_eq!((base.hook, base.devices.as_slice()), (Some(Hook::Ingress), &["lo".to_owned()][..]));
    assert_eq!(rules.table("ip", "sleeps").unwrap().chain("i").unwrap().base, None);
    let table = rules.table("inet", "t").unwrap();
    let at = InHook { hook: Hook::Forward, family: HookFamily::Ipv6, passed: 0 };
    assert_eq!(table.at(at).map(|(chain, _)| chain.name.as_str()).collect::<Vec<_>>(), ["f"]);
    assert_eq!(table.chain("plain").unwrap().rules[0].end, End::Reject);
}

#[test]
fn without_a_program_names_and_handles_are_known() {
    let test = TestNetns::new("plain");
    test.nft("table inet t { chain f { udp dport 53 drop; }; }");
    let rules = Ruleset::read(&test.netns(), &Tools::default()).unwrap();
    let table = rules.table("inet", "t").unwrap();
    let rule = &table.chain("f").unwrap().rules[0];
    assert!(rule.handle != 0 && rule.text.is_none() && rule.end == End::Unknown);
    assert!(!table.read);
}

#[test]
fn ten_thousand_rules_are_read_in_time() {
    let test = TestNetns::new("many");
    let commands: String = (0..10_000)
        .map(|n| format!("add rule inet t f ip saddr 10.0.{}.{} drop\n", n >> 8, n & 255))
        .collect();
    let file = std::env::temp_dir().join(format!("pt-rules-{}-many", std::process::id()));
    fs::write(&file, format!("add table inet t\nadd chain inet t f\n{commands}")).unwrap();
    test.exec("nft", &["-f", file.to_str().unwrap()]);
    fs::remove_file(&file).unwrap();
    let start = Instant::now();
    let rules = Ruleset::read(&test.netns(), &Tools::find()).unwrap();
    let took = start.elapsed();
    println!("10,000 rules in {took:?}");
    assert_eq!(rules.len(), 10_000);
    assert!(rules.table("inet", "t").unwrap().rule(10_001).unwrap().1.text.is_some());
    assert!(took < Duration::from_secs(30), "{took:?}");
}

#[test]
fn a_namespace_that_is_gone_is_an_error() {
    let test = TestNetns::new("gone");
    let netns = test.netns();
    drop(test);
    assert!(Ruleset::read(&netns, &Tools::find()).unwrap_err().is_gone());
}

/// A program that does this instead of what nft does.
struct Fake(PathBuf);

impl Fake {
    fn new(name: &str, script: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pt-rules-{}-{name}", std::process::id()));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    fn tools(&self) -> Tools {
        let nft = tool::Tool::at(&self.0).within(Duration::from_millis(300));
        Tools { nft: Some(nft), ..Tools::default() }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn a_program_that_misbehaves_costs_its_text_only() {
    let test = TestNetns::new("fakes");
    test.nft("table inet t { chain f { udp dport 53 drop; }; }");
    for (name, script) in [
        ("hangs", "sleep 60"),
        ("hangs-closed", "exec >&-; sleep 60"),
        ("leaves", "sleep 60 & exit 0"),
        ("fails", "echo '{\"nftables\": []}'; exit 1"),
        ("garbage", "head -c 100000 /dev/urandom"),
        ("other", "echo '{\"nftables\": [{\"rule\": 7}, {\"rule\": {\"expr\": 3}}, null]}'"),
        ("silent", "exit 0"),
        ("endless", "exec yes 'table inet t { # handle'"),
    ] {
        let fake = Fake::new(name, script);
        let start = Instant::now();
        let rules = Ruleset::read(&test.netns(), &fake.tools()).unwrap();
        assert!(start.elapsed() < Duration::from_secs(3), "{name}: {:?}", start.elapsed());
        let rule = &rules.table("inet", "t").unwrap().chain("f").unwrap().rules[0];
        assert!(rule.text.is_none(), "{name}: {rule:?}");
    }
    let none = Tools { nft: Some(tool::Tool::at("/nowhere/nft")), ..Tools::default() };
    assert_eq!(Ruleset::read(&test.netns(), &none).unwrap().len(), 1);
}

proptest! {
    #[test]
    fn hostile_listings_do_not_panic(text in "(table|chain|\\*|:|-A|\\[1:2\\]| |\t|\n|\\{|\\}|# handle|[0-9a-z\"'\\\\;-]){0,80}") {
        let mut rules = recorded();
        text::fill(&mut rules, &text);
        let _ = structure::fill(&mut rules, &text);
        legacy::parse(&text, Family::Ip);
        legacy::parse_ebtables(&text, "filter");
    }

    #[test]
    fn hostile_json_does_not_panic(cut in 0..JSON.len(), with in "[\\[\\]{}\",:a-z0-9]{0,4}") {
        let mut rules = recorded();
        if JSON.is_char_boundary(cut) {
            let (before, after) = JSON.split_at(cut);
            let _ = structure::fill(&mut rules, &format!("{before}{with}{after}"));
            for table in rules.tables.values() {
                for chain in &table.chains {
                    ways::of(table, chain, &udp("192.0.2.1", 53));
                }
            }
        }
    }
}
