use super::*;
use crate::output::{
    live::tests::{Sample, samples},
    record::{Dev, OutcomeKind},
    shared::Shared,
};

const FEW: Limits = Limits {
    flows: NonZeroUsize::new(2).unwrap(),
    nodes: 1_000,
    causes: NonZeroUsize::new(2).unwrap(),
    journeys_of_a_flow: 3,
    journeys: 5,
};

fn points(line: &Line) -> Vec<&str> {
    line.nodes.iter().map(Node::point).collect()
}

fn counts(line: &Line) -> Vec<u64> {
    line.nodes.iter().map(|node| node.packets).collect()
}

#[test]
fn packets_of_both_sides_are_counted_in_their_flow() {
    let mut model = Model::default();
    model.add(samples::delivered(1).arc(), 0);
    model.add(samples::delivered(1).arc(), 1);
    model.add(samples::delivered(1).reply().arc(), 2);
    model.add(samples::dropped(2).arc(), 3);

    let flow = model.flow(1).unwrap();
    assert_eq!((flow.out, flow.back, flow.drops), (2, 1, 0));
    assert_eq!(flow.state(), State::Answered);
    assert_eq!(model.flow(2).unwrap().state(), State::Dropped);
    assert_eq!(model.counts(), Counts { journeys: 4, dropped: 1, ..Counts::default() });
}

#[test]
fn sides_are_called_as_the_one_that_began_and_the_other() {
    let mut model = Model::default();
    // The answer is seen first, with the addresses that it has behind NAT.
    let mut answer = samples::delivered(1).reply().named("world", "host");
    answer.0.packet.dst = Some("198.51.100.1".to_owned());
    model.add(answer.arc(), 0);
    model.add(samples::delivered(1).named("c1", "world").arc(), 1);

    let flow = model.flow(1).unwrap();
    assert_eq!(flow.src.short(), "c1:41133");
    assert_eq!(flow.dst.short(), "world:9999");
    assert!(flow.matches(&["c1".to_owned(), "9999".to_owned(), "answered".to_owned()]));
    assert!(!flow.matches(&["c1".to_owned(), "host".to_owned()]));
}

#[test]
fn a_connection_of_tcp_opens_and_closes() {
    let mut model = Model::default();
    let mut state = |sample: Sample, info: &str| {
        let mut sample = sample.proto("tcp");
        sample.0.packet.info = info.to_owned();
        model.add(sample.arc(), 0);
        model.flow(1).unwrap().state()
    };
    let there = || samples::delivered(1);
    assert_eq!(state(there(), "SYN seq 1"), State::Opening);
    assert_eq!(state(there().reply(), "SYN+ACK seq 7 ack 2"), State::Open);
    assert_eq!(state(there(), "FIN+ACK seq 2 ack 8"), State::Closing);
    assert_eq!(state(there().reply(), "FIN+ACK seq 8 ack 3"), State::Closed);
    assert_eq!(state(there(), "SYN seq 100"), State::Opening);
    assert_eq!(state(there().reply(), "RST+ACK seq 0 ack 101"), State::Reset);
}

#[test]
fn times_are_those_of_packets_that_arrived() {
    let mut model = Model::default();
    model.add(samples::dropped(1).arc(), 0);
    assert_eq!(model.flow(1).unwrap().times.percentile(50), None);
    model.add(samples::delivered(1).arc(), 0);
    assert_eq!(model.flow(1).unwrap().times.percentile(50), Some(5_000));
}

#[test]
fn a_path_has_a_node_for_each_step_and_tells_where_packets_died() {
    let mut model = Model::default();
    (0..3).for_each(|_| model.add(samples::dropped(1).arc(), 0));

    let paths = model.paths(1).unwrap();
    let [line] = &paths.original.starts[..] else { panic!("{paths:?}") };
    assert_eq!(
        points(line),
        ["dev_xmit", "dev_receive", "dev_receive", "nf_prerouting", "route", "nf_forward"]
    );
    assert_eq!(counts(line), [3; 6]);
    let last = line.nodes.last().unwrap();
    assert_eq!(last.ends.drops(), 3);
    assert_eq!(last.ends.dropped[0].0.rule.as_deref(), Some("inet lxd fwd.lxdbr0"));
    assert_eq!(last.times.percentile(50), Some(1_000));
    assert!(line.nodes[0].times.percentile(50).is_none());
}

#[test]
fn one_that_goes_on_where_another_died_makes_the_line_longer() {
    let mut model = Model::default();
    model.add(samples::walked(1, &["dev_receive", "nf_forward"], OutcomeKind::Dropped).arc(), 0);
    let whole = ["dev_receive", "nf_forward", "neigh"];
    model.add(samples::walked(1, &whole, OutcomeKind::Transmitted).arc(), 0);

    let line = &model.paths(1).unwrap().original.starts[0];
    assert_eq!(points(line), whole);
    assert_eq!(counts(line), [2, 2, 1]);
    assert_eq!(line.nodes[1].ends.drops(), 1);
    assert!(line.nodes.iter().all(|node| node.branches.is_empty()));
}

#[test]
fn a_step_that_only_some_take_stands_in_the_line() {
    let mut model = Model::default();
    let without = ["dev_receive", "nf_forward", "nf_postrouting", "bridge_local"];
    let with = ["dev_receive", "nf_forward", "neigh", "nf_postrouting", "bridge_local"];
    for way in [&without[..], &with, &without] {
        model.add(samples::walked(1, way, OutcomeKind::Transmitted).arc(), 0);
    }

    let paths = &model.paths(1).unwrap().original;
    assert_eq!(paths.starts.len(), 1);
    assert_eq!(points(&paths.starts[0]), with);
    assert_eq!(counts(&paths.starts[0]), [3, 3, 1, 3, 3]);
}

#[test]
fn another_way_is_a_branch_where_it_leaves_the_line() {
    let mut model = Model::default();
    let forwarded = ["dev_receive", "nf_prerouting", "nf_forward", "nf_postrouting"];
    let taken = ["dev_receive", "nf_prerouting", "nf_input", "socket"];
    for way in [&forwarded, &taken, &taken] {
        model.add(samples::walked(1, way, OutcomeKind::Delivered).arc(), 0);
    }

    let line = &model.paths(1).unwrap().original.starts[0];
    assert_eq!(points(line), forwarded);
    assert_eq!(counts(line), [3, 3, 1, 1]);
    let [branch] = &line.nodes[1].branches[..] else { panic!("{line:?}") };
    assert_eq!(points(branch), ["nf_input"]);
    assert_eq!(counts(branch), [2]);
}

#[test]
fn what_was_made_of_a_packet_leaves_the_line_in_its_namespace() {
    let mut model = Model::default();
    model.add(samples::walked(1, &["dev_receive", "nf_input"], OutcomeKind::Delivered).arc(), 0);
    let mut copy = samples::walked(1, &["clone", "dev_xmit"], OutcomeKind::Transmitted);
    copy.0.packet.parent = Some("1".to_owned());
    model.add(copy.arc(), 0);

    let paths = &model.paths(1).unwrap().original;
    assert_eq!(paths.starts.len(), 1);
    let branches: Vec<_> = paths.starts[0].nodes.iter().flat_map(|node| &node.branches).collect();
    assert_eq!(branches.len(), 1);
    assert!(branches[0].made);
    assert_eq!(points(branches[0]), ["clone", "dev_xmit"]);
}

#[test]
fn paths_are_bounded_and_what_does_not_fit_is_counted() {
    let mut model = Model::default();
    for device in 1..300 {
        let mut sample = samples::walked(1, &["dev_receive"], OutcomeKind::Consumed);
        let dev = &mut sample.0.hops[0].dev;
        *dev = dev.as_deref().map(|dev| Shared::new(Dev { ifindex: device, ..dev.clone() }));
        model.add(sample.arc(), 0);
    }
    let paths = &model.paths(1).unwrap().original;
    assert!(paths.nodes < 100, "{}", paths.nodes);
    assert_eq!(paths.packets, 299);
    assert_eq!(paths.unfit, 299 - paths.nodes as u64);
}

#[test]
fn paths_of_silent_flows_are_given_up_and_made_again_when_looked_at() {
    let mut model = Model::new(Limits { nodes: 8, ..Limits::default() }, false);
    model.add(samples::dropped(1).arc(), 0);
    model.add(samples::dropped(2).arc(), 1);
    assert!(model.paths(1).is_none());
    assert!(model.paths(2).is_some());
    model.look_at(1);
    assert_eq!(model.paths(1).unwrap().packets(), 1);
    assert!(model.paths(2).is_none());
}

#[test]
fn every_hop_is_a_node_when_it_is_asked_for() {
    let mut model = Model::default();
    model.add(samples::dropped(1).arc(), 0);
    model.show_all_hops(true);
    assert!(model.paths(1).is_none());
    model.look_at(1);
    let line = &model.paths(1).unwrap().original.starts[0];
    assert_eq!(line.nodes.len(), samples::dropped(1).0.hops.len());
}

#[test]
fn the_flow_that_was_silent_for_longest_is_forgotten_and_counted() {
    let mut model = Model::new(FEW, false);
    for flow in [1, 2, 1, 3] {
        model.add(samples::delivered(flow).arc(), 0);
    }
    assert!(model.flow(2).is_none());
    assert!(model.flow(1).is_some() && model.flow(3).is_some());
    assert_eq!(model.counts().flows_forgotten, 1);
    assert_eq!(model.counts().journeys, 4);
}

#[test]
fn the_last_journeys_are_kept_of_each_flow_and_of_all() {
    let mut model = Model::new(FEW, false);
    let kept = |model: &Model, flow| model.flow(flow).map_or(0, |flow| flow.journeys().len());
    for _ in 0..4 {
        model.add(samples::delivered(1).arc(), 0);
    }
    assert_eq!(kept(&model, 1), 3);
    for _ in 0..3 {
        model.add(samples::delivered(2).arc(), 0);
    }
    assert_eq!((kept(&model, 1), kept(&model, 2)), (2, 3));
    // Another flow takes the place of one, with what was kept of it.
    model.add(samples::delivered(3).arc(), 0);
    assert_eq!((kept(&model, 1), kept(&model, 2), kept(&model, 3)), (0, 3, 1));
    for _ in 0..1_000 {
        model.add(samples::delivered(3).arc(), 0);
    }
    assert_eq!((kept(&model, 2), kept(&model, 3)), (2, 3));
    assert!(model.kept.len() <= 4 * FEW.journeys + 1, "{}", model.kept.len());
}

#[test]
fn drops_of_one_cause_are_counted_together_the_newest_first() {
    let mut model = Model::new(FEW, false);
    model.add(samples::dropped(1).arc(), 10);
    model.add(samples::dropped(2).because("NO_SOCKET").arc(), 20);
    model.add(samples::dropped(2).arc(), 30);
    let told = |model: &Model| -> Vec<(String, u64, u64)> {
        let of = |(cause, drops): (&Cause, &Drops)| {
            (cause.reason.clone(), drops.count, drops.newest.flow.id)
        };
        model.drops().map(of).collect()
    };
    assert_eq!(told(&model), [("NETFILTER_DROP".to_owned(), 2, 2), ("NO_SOCKET".to_owned(), 1, 2)]);
    model.add(samples::dropped(2).because("IP_CSUM").arc(), 40);
    assert_eq!(told(&model).len(), 2);
    assert_eq!(model.counts().causes_forgotten, 1);
}

#[test]
fn nothing_is_left_after_clearing() {
    let mut model = Model::default();
    model.add(samples::dropped(1).arc(), 0);
    model.clear();
    assert!(model.is_empty());
    assert_eq!(model.drops().len(), 0);
    assert_eq!(model.counts(), Counts::default());
}
