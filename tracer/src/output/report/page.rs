//! The page itself.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{
    drops::Drops,
    flows::{Flows, Step, Told, Way},
    plot,
    timeline::Timeline,
};
use crate::output::{
    Hops, Sink as _, Text,
    escape::escape,
    path::{duration, end, ended, named},
    record::{Direction, Journey, OutcomeKind, Start, Summary},
    text,
};

/// What the page shows.
pub(super) struct Content<'a> {
    /// Of the trace; `None` where the file begins without it.
    pub start: Option<&'a Start>,
    /// Of the trace.
    pub summary: &'a Summary,
    /// Flows.
    pub flows: &'a Flows,
    /// Drops.
    pub drops: &'a Drops,
    /// Packets in time.
    pub timeline: &'a Timeline,
}

/// The page.
pub(super) fn page(content: Content<'_>) -> Markup {
    let Content { start, summary, flows, drops, timeline } = content;
    let flows_shown = flows.by_worth();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                // It may come from anywhere: nothing in it loads or sends anything.
                meta http-equiv="Content-Security-Policy"
                    content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "pathtrace report" @if let Some(start) = start { " of " (escape(&start.time)) } }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                h1 { "pathtrace report" }
                (head(start, summary))
                @if !drops.by_count().is_empty() {
                    h2 #drops { "Drops" }
                    (causes(drops))
                }
                h2 #flows { "Flows" }
                input #search type="search" placeholder="Filter flows: name, address, port, reason"
                    aria-label="Filter flows";
                @for flow in &flows_shown { (story(flow)) }
                (left_out(flows.others, "packets of more flows than a report shows"))
                h2 #latency { "Latency" }
                (latency(summary, timeline))
                script { (PreEscaped(include_str!("filter.js"))) }
            }
        }
    }
}

fn head(start: Option<&Start>, summary: &Summary) -> Markup {
    let o = &summary.outcomes;
    html! {
        p .facts {
            @if let Some(start) = start {
                "Traced from " b { (escape(&start.time)) } " for " b { (duration(summary.duration_ns)) }
                " on Linux " (escape(&start.kernel)) ", pathtrace " (escape(&start.version)) ", at "
                (start.points.len()) " of " (start.points.len() + start.missing.len()) " points."
            } @else {
                "Traced for " b { (duration(summary.duration_ns)) } "."
            }
        }
        ul .counts {
            li { b { (summary.journeys) } " packets" }
            @for (count, what, class) in [
                (o.delivered, "✓ delivered", "good"), (o.transmitted, "✓ transmitted", "good"),
                (o.consumed, "✓ consumed", "good"), (o.dropped, "✗ dropped", "bad"), (o.lost, "? lost", "doubt"),
            ] {
                @if count != 0 { li class=(class) { b { (count) } " " (what) } }
            }
        }
        @let lost = text::losses(&summary.events.lost);
        @if lost.iter().any(|(count, _)| *count != 0) {
            ul .losses {
                @for (count, what) in lost.iter().filter(|(count, _)| *count != 0) {
                    li { (count) " " (what) }
                }
            }
        }
        ul .losses {
            @for (count, what) in text::left_out(&summary.events.left_out) {
                li { (count) " " (what) }
            }
        }
    }
}

fn causes(drops: &Drops) -> Markup {
    html! {
        table {
            thead { tr { th .number { "Packets" } th { "Reason" } th { "At" } th { "By" } th { "Why, and what to try" } th { "Flow" } } }
            tbody {
                @for cause in drops.by_count() {
                    tr {
                        td .number .bad { "✗ " (cause.count) }
                        td { code { (escape(&cause.reason)) } }
                        td { (cause.place) }
                        td { @if let Some(rule) = &cause.rule { code { (escape(rule)) } } }
                        td {
                            @if let Some(why) = &cause.why { (escape(why)) }
                            @for advice in &cause.advice { div .advice { code { (escape(advice)) } } }
                        }
                        td { a href=(format!("#flow-{}", cause.flow)) { (cause.flow) } }
                    }
                }
            }
        }
        (left_out(drops.others, "drops of more causes than a report tells apart"))
    }
}

fn story(told: &Told) -> Markup {
    let flow = &told.flow;
    let src = named(end(flow.src.as_deref(), flow.sport), told.src_name.as_deref());
    let dst = named(end(flow.dst.as_deref(), flow.dport), told.dst_name.as_deref());
    let dropped = told.dropped();
    html! {
        details .flow #(format!("flow-{}", flow.id)) open[dropped != 0] {
            summary {
                span .number { (flow.id) } " "
                @if dropped != 0 { span .bad { "✗ " (dropped) " dropped" } " " }
                b { (escape(&flow.proto)) " " (src) " → " (dst) }
                span .faint {
                    " → " (told.packets[0]) ", ← " (told.packets[1]) " packets, "
                    (told.bytes[0] + told.bytes[1]) " bytes"
                    @if let (Some(p50), Some(p99)) = (told.times.at(0.5), told.times.at(0.99)) {
                        ", p50 " (duration(p50)) ", p99 " (duration(p99))
                    }
                }
            }
            @for way in &told.ways { (drawn(way)) }
            (left_out(told.other_ways, "packets took more ways than a report shows"))
        }
    }
}

fn drawn(way: &Way) -> Markup {
    let arrow = match way.direction {
        Direction::Original => "→",
        Direction::Reply => "←",
    };
    let (mark, word) = ended(way.kind);
    html! {
        div .way {
            p {
                b { (arrow) " " (way.count) } " " (way.direction.name()) " "
                span class=(class(way.kind)) { (mark) " " (word) }
                @if let Some((reason, rule)) = &way.cause {
                    " " code { (escape(reason)) } @if let Some(rule) = rule { " by " code { (escape(rule)) } }
                }
            }
            ol .path {
                @for namespace in way.steps.chunk_by(|a, b| a.netns == b.netns) {
                    li .netns {
                        div .name { (namespace.first().map_or("", |step| step.netns.as_str())) }
                        @for device in namespace.chunk_by(|a, b| a.device == b.device) {
                            div .device {
                                div .name { (device.first().map_or("", |step| step.device.as_str())) }
                                @for step in device { (drawn_step(step, way.kind)) }
                            }
                        }
                    }
                }
            }
            @for journey in &way.examples {
                details .example { summary { "packet " (journey.id) } pre { (whole(journey)) } }
            }
        }
    }
}

fn drawn_step(step: &Step, kind: OutcomeKind) -> Markup {
    let ends = step.is_end && matches!(kind, OutcomeKind::Dropped | OutcomeKind::Lost);
    html! {
        div .step .end[ends] {
            @if ends { (if kind == OutcomeKind::Dropped { "✗ " } else { "? " }) }
            (step.point)
            @if !step.detail.is_empty() { " " span .detail { (step.detail) } }
            @if let Some(p50) = step.times.median().filter(|p50| *p50 != 0) {
                span .faint title="median time since the step before" { " +" (duration(p50)) }
            }
        }
    }
}

/// The class of how a packet ended.
fn class(kind: OutcomeKind) -> &'static str {
    match kind {
        OutcomeKind::Delivered | OutcomeKind::Transmitted | OutcomeKind::Consumed => "good",
        OutcomeKind::Dropped => "bad",
        OutcomeKind::Lost => "doubt",
    }
}

/// As text shows it, every point.
fn whole(journey: &Journey) -> String {
    let mut text = Text::new(Vec::new(), Hops::All, false);
    // Writing to memory cannot fail.
    let _ = text.journey(journey);
    String::from_utf8_lossy(&text.into_inner()).into_owned()
}

fn latency(summary: &Summary, timeline: &Timeline) -> Markup {
    let segments = &summary.latency.host;
    html! {
        @if segments.is_empty() {
            p { "Nothing to tell." }
        } @else {
            h3 { "By segment: from the median to the longest, the bar to 99 of 100" }
            (plot::segments(segments.iter()))
            table {
                thead { tr { th { "Segment" } @for head in ["Packets", "p50", "p90", "p99", "max"] { th .number { (head) } } } }
                tbody {
                    @for (segment, times) in segments {
                        tr {
                            td { (segment.title()) }
                            td .number { (times.count) }
                            @for ns in [times.p50_ns, times.p90_ns, times.p99_ns, times.max_ns] {
                                td .number { (duration(ns)) }
                            }
                        }
                    }
                }
            }
        }
        @if !timeline.0.items().is_empty() {
            h3 { "Packets in time, by how long each took; ✗ was dropped" }
            (plot::timeline(timeline.0.items()))
            @if timeline.0.every() > 1 { p .faint { "One of " (timeline.0.every()) " packets is drawn." } }
        }
    }
}

/// Says what is not shown.
fn left_out(count: u64, what: &str) -> Markup {
    html! { @if count != 0 { p .losses { "Not shown: " (count) " " (what) "." } } }
}
