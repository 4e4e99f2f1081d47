//! The text of rules, from what `nft -s -t -a list ruleset` prints:
//!
//! ```text
//! table inet lab { # handle 7
//!     chain fwd.lxdbr0 { # handle 2
//!         type filter hook forward priority filter; policy accept;
//!         udp dport 9999 drop # handle 16
//!     }
//! }
//! ```

use std::{collections::HashMap, sync::Arc};

use super::Ruleset;

/// What stands before a handle.
const HANDLE: &str = " # handle ";

/// Gives the rules their text. Text of a rule that is not where the kernel has it is left out.
pub(super) fn fill(rules: &mut Ruleset, listing: &str) {
    let mut texts: HashMap<(&str, &str, &str), HashMap<u64, String>> = HashMap::new();
    let (mut table, mut chain) = (None, None);
    let mut begun = String::new();
    for line in listing.lines().filter(|line| !line.trim().is_empty()) {
        let depth = line.len() - line.trim_start_matches('\t').len();
        let line = line.trim();
        match depth {
            0 => {
                chain = None;
                table = opened(line, "table").and_then(|name| name.split_once(' '));
            }
            1 => chain = opened(line, "chain"),
            _ => {
                let (Some((family, table)), Some(chain)) = (table, chain) else { continue };
                // A rule may be printed over several lines; its handle ends the last.
                if !begun.is_empty() {
                    begun.push(' ');
                }
                match with_handle(line) {
                    Some((text, handle)) => {
                        begun.push_str(text);
                        let rule = std::mem::take(&mut begun);
                        texts.entry((family, table, chain)).or_default().insert(handle, rule);
                    }
                    None if is_head(line) => begun.clear(),
                    None => begun.push_str(line),
                }
                continue;
            }
        }
        begun.clear();
    }
    for table in rules.tables.values_mut() {
        for chain in &mut table.chains {
            let key = (table.family.name(), table.name.as_str(), chain.name.as_str());
            let Some(texts) = texts.get_mut(&key) else { continue };
            for rule in &mut chain.rules {
                rule.text = texts.remove(&rule.handle).map(Arc::from);
            }
        }
    }
}

/// What is opened: `inet lab` of `table inet lab { # handle 7`, or of a line without a handle.
fn opened<'a>(line: &'a str, what: &str) -> Option<&'a str> {
    let rest = line.strip_prefix(what)?.strip_prefix(' ')?;
    let rest = with_handle(rest).map_or(rest, |(rest, _)| rest);
    rest.strip_suffix('{').map(str::trim_end)
}

/// The handle at the end of a line, and what stands before it.
fn with_handle(line: &str) -> Option<(&str, u64)> {
    let (text, handle) = line.rsplit_once(HANDLE)?;
    Some((text.trim_end(), handle.parse().ok()?))
}

/// The line of a base chain that says where it sits, or a chain's comment: they have no handle.
fn is_head(line: &str) -> bool {
    (line.starts_with("type ") && line.contains(" hook ") && line.ends_with(';'))
        || line.starts_with("comment ")
        || line.starts_with("policy ")
}
