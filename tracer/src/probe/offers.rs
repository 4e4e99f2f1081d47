//! What this kernel offers, put together from what every program became: by point, and for what is
//! told with other points.

use tracer_common::point::{Layer, Point};

use super::{
    HOOKS, Mechanism,
    functions::{self, Subject},
    watches::Watched,
};

/// What this kernel offers for a point.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The point.
    pub point: Point,
    /// The mechanism, or why there is none.
    pub how: Result<Mechanism, String>,
    /// The kernel functions that are watched for it, or would be.
    pub functions: Vec<Function>,
}

/// What this kernel offers for what is told with other points: rules, tables.
#[derive(Clone, Debug)]
pub struct Aside {
    /// Its name.
    pub name: &'static str,
    /// Its layer.
    pub layer: Layer,
    /// The mechanism, or why there is none.
    pub how: Result<Mechanism, String>,
    /// The kernel functions that are watched for it, or would be.
    pub functions: Vec<Function>,
}

/// A kernel function that shows something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name in this kernel; where it is not watched, the name that it should have.
    pub name: &'static str,
    /// The mechanism, or why it is not watched.
    pub how: Result<Mechanism, String>,
    /// What is lost without it, one clause.
    pub without: &'static str,
    /// The module that it waits for: it is watched as soon as that is loaded.
    pub waits_for: Option<&'static str>,
}

impl From<&Watched> for Function {
    fn from(watched: &Watched) -> Self {
        let functions::Function { symbols, without, .. } = watched.function;
        let waits_for = watched.waits_for;
        let (name, how) = match &watched.how {
            Ok(attempt) => (attempt.symbol, Ok(attempt.mechanism)),
            Err(why) => (symbols.first().copied().unwrap_or_default(), Err(why.clone())),
        };
        Self { name, how, without, waits_for }
    }
}

/// The points that a netfilter link never shows.
const DEVICE_HOOKS: [Point; 2] = [Point::NfIngress, Point::NfEgress];

/// Point by point: what `programs` of tracepoints, tc and hooks became, and watched functions.
pub fn by_point(
    programs: &[(Point, Result<Mechanism, String>)],
    watched: impl Iterator<Item = Watched>,
) -> Vec<Offer> {
    let mut offers: Vec<Offer> = Vec::new();
    let mut add = |point, how: &Result<Mechanism, String>, function: Option<Function>| {
        let at = offers.iter().position(|known| known.point == point).unwrap_or_else(|| {
            offers.push(Offer { point, how: how.clone(), functions: Vec::new() });
            offers.len() - 1
        });
        let offer = &mut offers[at];
        if offer.how.is_err() && how.is_ok() {
            offer.how = how.clone();
        }
        offer.functions.extend(function);
    };
    for (point, how) in programs {
        add(*point, how, None);
    }
    let linked = |point| programs.iter().any(|(known, how)| *known == point && how.is_ok());
    for watched in watched {
        let function = Function::from(&watched);
        let points = match watched.function.subject {
            Subject::Point(point) => vec![point],
            Subject::Hooks => {
                HOOKS.into_iter().filter(|hook| !linked(*hook)).chain(DEVICE_HOOKS).collect()
            }
            Subject::Aside(..) => continue,
        };
        for point in points {
            add(point, &function.how, Some(function.clone()));
        }
    }
    offers
}

/// What is told with other points.
pub fn asides(watched: impl Iterator<Item = Watched>) -> Vec<Aside> {
    let mut asides: Vec<Aside> = Vec::new();
    for watched in watched {
        let Subject::Aside(name, layer) = watched.function.subject else { continue };
        let function = Function::from(&watched);
        match asides.iter_mut().find(|known| known.name == name) {
            None => {
                let how = function.how.clone();
                asides.push(Aside { name, layer, how, functions: vec![function] });
            }
            Some(known) => {
                if known.how.is_err() && function.how.is_ok() {
                    known.how = function.how.clone();
                }
                known.functions.push(function);
            }
        }
    }
    asides
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::functions::{Attempt, CATALOGUE};

    fn watched(symbol: &'static str, how: Result<Mechanism, &str>) -> Watched {
        let function = CATALOGUE.iter().find(|line| line.symbols == [symbol]).unwrap();
        let how = how.map(|mechanism| Attempt { symbol, mechanism }).map_err(str::to_owned);
        Watched { function, how, waits_for: None }
    }

    #[test]
    fn one_program_that_works_makes_a_point() {
        let programs =
            [(Point::Socket, Err("no".to_owned())), (Point::NfInput, Ok(Mechanism::Tcx))];
        let all = [
            watched("tcp_v4_do_rcv", Ok(Mechanism::Fentry)),
            watched("raw_rcv", Err("gone")),
            watched("nf_hook_slow", Ok(Mechanism::Kprobe)),
            watched("nft_do_chain", Err("module nf_tables is not loaded")),
        ];
        let offers = by_point(&programs, all.iter().cloned());
        let of = |point| offers.iter().find(|offer| offer.point == point).unwrap();
        assert_eq!(of(Point::Socket).how, Ok(Mechanism::Fentry));
        assert_eq!(of(Point::Socket).functions[1].how, Err("gone".into()));
        assert!(of(Point::NfInput).functions.is_empty(), "the link shows it");
        assert_eq!(of(Point::NfForward).how, Ok(Mechanism::Kprobe));
        assert_eq!(of(Point::NfEgress).functions[0].name, "nf_hook_slow");
        let asides = asides(all.into_iter());
        assert_eq!(asides.len(), 1);
        assert!(asides[0].how.is_err() && asides[0].name == "nft_chain");
    }
}
