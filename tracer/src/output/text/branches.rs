//! What left a packet's path, a line each: `clone → host:veth-c2 (c2)  ✓ delivered at c2:eth0`. Those of one
//! kind that went the same way, as the pieces of a large segment do, are one line.

use crate::output::{
    path::{ended, place_of},
    record::{Branch, Journey, OutcomeKind},
};

/// Some branches that left at the same hop.
pub(super) struct Line {
    /// Index of that hop.
    pub(super) hop: usize,
    /// What they are, where they went and how they ended.
    pub(super) text: String,
}

/// The lines of all branches of a journey.
pub(super) fn lines(journey: &Journey) -> Vec<Line> {
    let mut alike: Vec<(Way<'_>, Vec<&Branch>)> = Vec::new();
    for branch in &journey.branches {
        let way = Way::of(branch);
        match alike.iter_mut().find(|(other, _)| *other == way) {
            Some((_, branches)) => branches.push(branch),
            None => alike.push((way, vec![branch])),
        }
    }
    alike.iter().map(|(way, branches)| way.line(branches)).collect()
}

/// What makes two branches alike.
#[derive(PartialEq)]
struct Way<'a> {
    hop: usize,
    origin: &'a str,
    first: String,
    ended: Option<(OutcomeKind, String)>,
}

impl<'a> Way<'a> {
    fn of(branch: &'a Branch) -> Self {
        let ended = branch.outcome.as_ref();
        Self {
            hop: branch.hop,
            origin: &branch.origin,
            first: place_of(&branch.netns, branch.dev.as_deref()),
            ended: ended.map(|end| (end.kind, place_of(&end.netns, end.dev.as_deref()))),
        }
    }

    fn line(&self, branches: &[&Branch]) -> Line {
        let Self { hop, origin, first, ended: end } = self;
        let mut what = match branches.len() {
            1 => (*origin).to_owned(),
            count => format!("{count} {}", plural(origin)),
        };
        let mut numbers = branches.iter().filter_map(|branch| branch.journey);
        if let Some(number) = numbers.next() {
            what += &format!(" #{number}");
        }
        if let Some(number) = numbers.next_back() {
            what += &format!("…#{number}");
        }
        let end = match end {
            Some((kind, at)) => {
                let (mark, word) = ended(*kind);
                format!("{mark} {word} at {at}")
            }
            None => "still on its way".to_owned(),
        };
        Line { hop: *hop, text: format!("{what} → {first}  {end}") }
    }
}

fn plural(origin: &str) -> &str {
    match origin {
        "copy" => "copies",
        "segment" => "segments",
        "fragment" => "fragments",
        _ => "clones",
    }
}
