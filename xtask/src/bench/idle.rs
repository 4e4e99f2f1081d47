//! What being attached costs where there is nothing to trace, and that it is the same with many
//! rules.

use std::path::Path;

use anyhow::Result;
use lab::Lab;

use super::{load, mode::Mode, rates::Rates, workload::WORKLOADS};

/// Rules of a large host.
const RULES: usize = 10_000;

/// Rules that are there and that the load does not pass: what they themselves cost a packet would
/// hide everything else.
fn many_rules() -> String {
    let mut rules = String::from(
        "table inet many {
             chain many {}
             chain forward {
                 type filter hook forward priority 10;
                 ip saddr 192.0.2.99 jump many;
             }
         }
",
    );
    for number in 0..RULES {
        let (high, low) = (number / 250, number % 250);
        rules.push_str(&format!("add rule inet many many ip daddr 10.9.{high}.{low} drop\n"));
    }
    rules
}

/// Measures both and prints the ratios.
pub fn measure(lab: &Lab, binary: &Path, rounds: usize) -> Result<()> {
    let few = ratio(lab, binary, rounds)?;
    let host = lab.netns("host")?;
    host.nft(&many_rules())?;
    let many = ratio(lab, binary, rounds)?;
    host.nft("delete table inet many")?;
    println!(
        "attached and matching nothing, of nothing attached: {:.1} % with few rules, {:.1} % with \
         {RULES} more",
        100.0 * few,
        100.0 * many
    );
    Ok(())
}

/// What remains of the rate with pathtrace attached.
fn ratio(lab: &Lab, binary: &Path, rounds: usize) -> Result<f64> {
    let names = ["nothing", "matching nothing"].map(str::to_owned);
    let mut rates = Rates::new(WORKLOADS[0], names);
    load(lab)?;
    for _ in 0..rounds {
        rates.add(0, &load(lab)?, None, None);
        let attached = Mode::matching_nothing().attach(lab, binary)?;
        // Rules are listed once at the beginning, which is not what is measured.
        attached.settle()?;
        let speed = load(lab)?;
        rates.add(1, &speed, attached.end()?.cost, None);
    }
    Ok(rates.ratio(1).unwrap_or_default())
}
