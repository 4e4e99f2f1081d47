//! What this machine calls its routing tables: `rt_tables` of iproute2.

use std::{collections::BTreeMap, fs, path::Path};

use serde::{Deserialize, Serialize};

/// Where names are read, later ones before earlier ones.
const DIRECTORIES: [&str; 2] = ["/usr/share/iproute2", "/etc/iproute2"];

/// Names of tables by number; that of a table without one is its number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RouteTables(BTreeMap<u32, String>);

impl RouteTables {
    /// Reads them; files that are not there or not readable name nothing.
    pub fn read() -> Self {
        let mut tables = Self::default();
        for directory in DIRECTORIES.map(Path::new) {
            tables.add(&fs::read_to_string(directory.join("rt_tables")).unwrap_or_default());
            let more = fs::read_dir(directory.join("rt_tables.d")).into_iter().flatten().flatten();
            let mut more: Vec<_> = more.map(|entry| entry.path()).collect();
            more.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
            more.sort();
            for path in more {
                tables.add(&fs::read_to_string(path).unwrap_or_default());
            }
        }
        tables
    }

    /// A table, as `ip route` names it.
    pub fn name(&self, table: u32) -> String {
        match self.0.get(&table) {
            Some(name) => name.clone(),
            None => match table {
                253 => "default".to_owned(),
                254 => "main".to_owned(),
                255 => "local".to_owned(),
                other => other.to_string(),
            },
        }
    }

    /// `100 uplink2`, one a line; the number may be hexadecimal.
    fn add(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let (Some(number), Some(name)) = (words.next(), words.next()) else { continue };
            let number = match number.strip_prefix("0x") {
                Some(digits) => u32::from_str_radix(digits, 16),
                None => number.parse(),
            };
            if let Ok(number) = number {
                self.0.insert(number, name.to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_the_names_that_files_give_them() {
        let mut tables = RouteTables::default();
        tables.add("# comment\n254\tmain\n100 uplink2 # DSL\n0x200 vpn\nnonsense\n7\n-1 x\n");
        assert_eq!(
            [100, 512, 254, 255, 7].map(|t| tables.name(t)),
            ["uplink2", "vpn", "main", "local", "7"]
        );
    }
}
