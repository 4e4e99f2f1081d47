//! What a trace may cost the host, and what it tells less of when that is not enough: first the middle
//! of each journey, then whole journeys, never a drop.

use std::time::{Duration, Instant};

use tracer_common::track::telling;

/// How often it is looked at what the trace costs.
const LOOK: Duration = Duration::from_millis(500);
/// Less than this part of what there may be is little: more may be told again.
const LITTLE: f64 = 0.7;
/// For so many looks in a row.
const LITTLE_FOR: u32 = 4;
/// Processor time is too much when it was for so many looks in a row.
const MUCH_FOR: u32 = 2;
/// At most one packet of so many is told: 2 to the power of it.
const LEAST: u32 = 10;

/// What a trace may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Most {
    /// Events a second that are received.
    pub events: f64,
    /// Of one processor, in percent.
    pub processor: f64,
}

/// How much is told of packets that begin: a rung of the ladder from everything downwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(u32);

impl Level {
    /// One of [`telling`].
    pub fn telling(self) -> u8 {
        if self.0 == 0 { telling::ALL } else { telling::ENDS }
    }

    /// Of so many packets one is told, the others when they are dropped.
    pub fn one_of(self) -> u32 {
        1 << self.0.saturating_sub(1).min(LEAST)
    }

    /// Whether everything is told.
    pub fn is_all(self) -> bool {
        self == Self::default()
    }

    fn lower(self, rungs: u32) -> Self {
        Self((self.0 + rungs).min(1 + LEAST))
    }

    fn higher(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.telling(), self.one_of()) {
            (telling::ALL, _) => f.write_str("everything is told"),
            (_, 1) => f.write_str("of each journey only begin, end, and what changed it is told"),
            (_, n) => write!(
                f,
                "one packet of {n} is told, without the middle of its journey; drops are told all"
            ),
        }
    }
}

/// What has been so far, since the trace began.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// When this was seen.
    pub at: Instant,
    /// Events that were received.
    pub received: u64,
    /// Events that were left out.
    pub left_out: u64,
    /// Processor time.
    pub processor: Duration,
}

/// Keeps a trace within its bounds.
#[derive(Debug)]
pub struct Budget {
    most: Most,
    level: Level,
    /// The lowest that there was.
    least: Level,
    before: Option<Spent>,
    /// How many looks in a row there was little.
    little: u32,
    /// How many looks in a row there was too much.
    much: u32,
}

impl Budget {
    /// Everything is told at first.
    pub fn new(most: Most) -> Self {
        let level = Level::default();
        Self { most, level, least: level, before: None, little: 0, much: 0 }
    }

    /// When the least was told.
    pub fn least(&self) -> Level {
        self.least
    }

    /// Of so many packets one is told now; `None`: everything is.
    pub fn thinned(&self) -> Option<u32> {
        (!self.level.is_all()).then(|| self.level.one_of())
    }

    /// Whether it is time to look again.
    pub fn is_due(&self, now: Instant) -> bool {
        self.before.is_none_or(|before| now.duration_since(before.at) >= LOOK)
    }

    /// Looks at what was spent since the last look: what is to be told from now on, where that changes.
    pub fn look(&mut self, spent: Spent) -> Option<Level> {
        let before = self.before.replace(spent)?;
        let seconds = spent.at.duration_since(before.at).as_secs_f64();
        if seconds <= 0.0 {
            return None;
        }
        let received = spent.received.saturating_sub(before.received) as f64;
        let left_out = spent.left_out.saturating_sub(before.left_out) as f64;
        let processor = spent.processor.saturating_sub(before.processor).as_secs_f64();
        // What is spent, in parts of what may be.
        let now = (received / seconds / self.most.events)
            .max(100.0 * processor / seconds / self.most.processor);
        // Of what is told there would be so much more one rung higher.
        let more = match self.level.one_of() {
            1 if received > 0.0 => (received + left_out) / received,
            _ => 2.0,
        };
        let next = if now > 1.0 {
            self.little = 0;
            self.much += 1;
            // A look at the machine, too, takes a processor for a moment.
            if self.much < MUCH_FOR && received / seconds <= self.most.events {
                return None;
            }
            // Each rung below the second halves it.
            self.level.lower(now.log2().ceil().clamp(1.0, f64::from(LEAST)) as u32)
        } else if !self.level.is_all() && now * more < LITTLE {
            self.much = 0;
            self.little += 1;
            if self.little < LITTLE_FOR {
                return None;
            }
            self.little = 0;
            self.level.higher()
        } else {
            (self.little, self.much) = (0, 0);
            self.level
        };
        let is_other = next != self.level;
        self.level = next;
        self.least = self.least.max(next);
        is_other.then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Most = Most { events: 1000.0, processor: 50.0 };

    /// A trace that is looked at every half second, under a load.
    struct Load {
        budget: Budget,
        spent: Spent,
    }

    impl Load {
        fn new() -> Self {
            let spent =
                Spent { at: Instant::now(), received: 0, left_out: 0, processor: Duration::ZERO };
            let mut budget = Budget::new(MOST);
            assert_eq!(budget.look(spent), None);
            Self { budget, spent }
        }

        /// Half a second in which so many events were received and left out, and this part of a processor
        /// was used.
        fn half_a_second(&mut self, received: u64, left_out: u64, processor: f64) -> Option<Level> {
            self.spent.at += LOOK;
            self.spent.received += received;
            self.spent.left_out += left_out;
            self.spent.processor += LOOK.mul_f64(processor);
            self.budget.look(self.spent)
        }
    }

    #[test]
    fn within_its_bounds_everything_is_told() {
        let mut load = Load::new();
        for _ in 0..10 {
            assert_eq!(load.half_a_second(499, 0, 0.49), None);
        }
        assert_eq!(load.budget.level.telling(), telling::ALL);
    }

    #[test]
    fn more_events_cost_first_the_middle_then_whole_journeys() {
        let mut load = Load::new();
        let level = load.half_a_second(501, 0, 0.1).unwrap();
        assert_eq!((level.telling(), level.one_of()), (telling::ENDS, 1));
        let level = load.half_a_second(600, 900, 0.1).unwrap();
        assert_eq!((level.telling(), level.one_of()), (telling::ENDS, 2));
        // Twelve times too many.
        let level = load.half_a_second(6000, 9000, 0.1).unwrap();
        assert_eq!((level.telling(), level.one_of()), (telling::ENDS, 32));
        // There is an end to it.
        for _ in 0..10 {
            load.half_a_second(1_000_000, 0, 0.1);
        }
        assert_eq!(load.budget.level.one_of(), 1024);
    }

    #[test]
    fn too_much_processor_time_costs_as_much() {
        let mut load = Load::new();
        assert_eq!(load.half_a_second(10, 0, 0.9), None, "a look at the machine, perhaps");
        let level = load.half_a_second(10, 0, 0.9).unwrap();
        assert_eq!(level.telling(), telling::ENDS);
    }

    #[test]
    fn more_is_told_again_after_a_quiet_time_if_it_will_fit() {
        let mut load = Load::new();
        load.half_a_second(1100, 0, 0.1);
        load.half_a_second(600, 400, 0.1);
        assert_eq!(load.budget.level.one_of(), 4);
        // Half of what there may be: twice that would be too near.
        for _ in 0..10 {
            assert_eq!(load.half_a_second(250, 800, 0.1), None);
        }
        let quiet = |load: &mut Load| {
            (0..LITTLE_FOR).filter_map(|_| load.half_a_second(10, 20, 0.01)).collect::<Vec<_>>()
        };
        assert_eq!(quiet(&mut load).len(), 1);
        assert_eq!(load.budget.level.one_of(), 2);
        quiet(&mut load);
        quiet(&mut load);
        assert_eq!(load.budget.level.telling(), telling::ALL);
        assert_eq!(load.budget.least().one_of(), 4, "what was is not forgotten");
        assert_eq!(quiet(&mut load), []);
    }
}
