//! Some journeys of a trace as a file of their own.

use std::sync::Arc;

use super::{Scene, write::Pcapng};
use crate::output::{
    Hops, Tally,
    record::{Events, Journey, Start},
};

/// Longest packet that there is room for.
const SNAPLEN: u32 = 65_535;

/// A pcapng file of these journeys, with a summary of them; of each packet the bytes that there are. How many
/// events were received or lost is told of a whole trace only, and not in it.
pub fn excerpt(scene: Scene, start: &Start, journeys: &[Arc<Journey>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut pcapng = Pcapng::begin(&scene.begin(start), Hops::Main, SNAPLEN, &mut out);
    let mut tally = Tally::default();
    for journey in journeys {
        tally.add(&journey.outcome);
        pcapng.journey(journey, &mut out);
    }
    pcapng.summary(&tally.summary(0, Events::default()), &mut out);
    out
}
