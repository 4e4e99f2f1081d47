//! Plots, as SVG: times on a logarithmic axis.

use maud::{Markup, html};

use super::timeline::Dot;
use crate::output::{
    path::duration,
    record::{OutcomeKind, Segment, Times},
};

const WIDTH: f64 = 900.0;
/// Room for what stands left of a plot, and right of it.
const LEFT: f64 = 170.0;
const RIGHT: f64 = 20.0;
const ROW: f64 = 26.0;
const AXIS: f64 = 24.0;

/// A logarithmic axis of ns, in whole decades.
struct Axis {
    from: i32,
    to: i32,
}

impl Axis {
    fn of(times: impl Iterator<Item = u64> + Clone) -> Self {
        let log = |ns: u64| (ns.max(1) as f64).log10();
        let from = times.clone().map(log).fold(f64::INFINITY, f64::min);
        let to = times.map(log).fold(0.0, f64::max);
        let from = if from.is_finite() { from.floor() as i32 } else { 0 };
        Self { from, to: (to.ceil() as i32).max(from + 1) }
    }

    /// Where a time stands, 0 to 1.
    fn at(&self, ns: u64) -> f64 {
        let log = (ns.max(1) as f64).log10();
        ((log - f64::from(self.from)) / f64::from(self.to - self.from)).clamp(0.0, 1.0)
    }

    fn ticks(&self) -> impl Iterator<Item = u64> {
        (self.from..=self.to).filter_map(|power| 10_u64.checked_pow(u32::try_from(power).ok()?))
    }
}

/// A row a segment: a bar from the median to 99 of 100, with marks at the median, at 90, at 99 and at the
/// longest.
pub(super) fn segments<'a>(rows: impl Iterator<Item = (&'a Segment, &'a Times)> + Clone) -> Markup {
    let all = rows.clone().flat_map(|(_, times)| [times.p50_ns, times.max_ns]);
    let axis = Axis::of(all);
    let x = |ns: u64| LEFT + axis.at(ns) * (WIDTH - LEFT - RIGHT);
    let height = ROW * rows.clone().count() as f64 + AXIS;
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label="Times by segment" {
            @for tick in axis.ticks() {
                line .grid x1=(x(tick)) x2=(x(tick)) y1="0" y2=(height - AXIS) {}
                text .tick x=(x(tick)) y=(height - 6.0) text-anchor="middle" { (short(tick)) }
            }
            @for (row, (segment, times)) in rows.enumerate() {
                @let y = ROW * row as f64 + ROW / 2.0;
                text x=(LEFT - 10.0) y=(y + 4.0) text-anchor="end" { (segment.title()) }
                line .whisker x1=(x(times.p50_ns)) x2=(x(times.max_ns)) y1=(y) y2=(y) {}
                rect .bar x=(x(times.p50_ns)) y=(y - 6.0) height="12"
                    width=((x(times.p99_ns) - x(times.p50_ns)).max(2.0)) {
                    title { (format!(
                        "{}: {} packets, p50 {}, p90 {}, p99 {}, max {}", segment.title(), times.count,
                        duration(times.p50_ns), duration(times.p90_ns), duration(times.p99_ns),
                        duration(times.max_ns)
                    )) }
                }
                line .p90 x1=(x(times.p90_ns)) x2=(x(times.p90_ns)) y1=(y - 6.0) y2=(y + 6.0) {}
                line .max x1=(x(times.max_ns)) x2=(x(times.max_ns)) y1=(y - 5.0) y2=(y + 5.0) {}
            }
        }
    }
}

/// A dot a packet, by when it began and how long it took; dropped ones are crosses.
pub(super) fn timeline(dots: &[Dot]) -> Markup {
    const HEIGHT: f64 = 220.0;
    let axis = Axis::of(dots.iter().map(|dot| dot.took));
    let first = dots.iter().map(|dot| dot.at).min().unwrap_or(0);
    let span = dots.iter().map(|dot| dot.at - first).max().unwrap_or(0).max(1);
    let left = 70.0;
    let x = |dot: &Dot| left + (dot.at - first) as f64 / span as f64 * (WIDTH - left - RIGHT);
    let y = |ns: u64| 10.0 + (1.0 - axis.at(ns)) * (HEIGHT - 10.0 - AXIS);
    let end = u64::try_from(span).unwrap_or(u64::MAX);
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label="Packets in time" {
            @for tick in axis.ticks() {
                line .grid x1=(left) x2=(WIDTH - RIGHT) y1=(y(tick)) y2=(y(tick)) {}
                text .tick x=(left - 8.0) y=(y(tick) + 4.0) text-anchor="end" { (short(tick)) }
            }
            text .tick x=(left) y=(HEIGHT - 6.0) { "0" }
            text .tick x=(WIDTH - RIGHT) y=(HEIGHT - 6.0) text-anchor="end" { "+" (duration(end)) }
            @for dot in dots {
                @let (x, y) = (x(dot), y(dot.took));
                @if dot.kind == OutcomeKind::Dropped {
                    path .cross d=(format!("M{:.1} {:.1}l6 6m0-6l-6 6", x - 3.0, y - 3.0)) {}
                } @else {
                    circle .dot cx=(format!("{x:.1}")) cy=(format!("{y:.1}")) r="2" {}
                }
            }
        }
    }
}

/// A power of ten of ns.
fn short(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{} µs", ns / 1_000),
        1_000_000..1_000_000_000 => format!("{} ms", ns / 1_000_000),
        _ => format!("{} s", ns / 1_000_000_000),
    }
}
