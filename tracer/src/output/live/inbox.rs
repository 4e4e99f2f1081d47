//! What the trace hands over to the view: it never waits for it. What comes faster than the view takes it
//! is refused and counted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::output::{
    Standing,
    record::{Journey, Start},
};

/// Journeys that wait at most: at 8 KB each, 64 MB.
const MOST: usize = 8_192;

/// The hand-over, shared by both sides.
#[derive(Clone, Debug, Default)]
pub(super) struct Inbox(Arc<Mutex<Content>>);

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Journeys, in order.
    pub journeys: Vec<Arc<Journey>>,
    /// Journeys that were refused so far.
    pub refused: u64,
    /// How the trace stands, where that is new.
    pub standing: Option<Standing>,
    /// A trace begins: what came before is another one's.
    pub anew: Option<Box<Start>>,
    /// Nothing comes any more, and the view is to end.
    pub closed: bool,
}

impl Inbox {
    /// Hands a journey over.
    pub fn put(&self, journey: &Arc<Journey>) {
        let mut content = self.lock();
        if content.journeys.len() < MOST {
            content.journeys.push(journey.clone());
        } else {
            content.refused += 1;
        }
    }

    /// Whether the next journey would be refused.
    pub fn is_full(&self) -> bool {
        self.lock().journeys.len() >= MOST
    }

    /// Hands over how the trace stands.
    pub fn stand(&self, standing: Standing) {
        self.lock().standing = Some(standing);
    }

    /// Another trace begins.
    pub fn begin(&self, start: Start) {
        let mut content = self.lock();
        content.journeys.clear();
        content.refused = 0;
        content.anew = Some(Box::new(start));
    }

    /// Tells the view to end.
    pub fn close(&self) {
        self.lock().closed = true;
    }

    /// Takes all; `room` is an empty vector that the next ones go into.
    pub fn take(&self, room: Vec<Arc<Journey>>) -> Content {
        let mut content = self.lock();
        Content {
            journeys: std::mem::replace(&mut content.journeys, room),
            refused: content.refused,
            standing: content.standing.take(),
            anew: content.anew.take(),
            closed: content.closed,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        // Each of these leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
