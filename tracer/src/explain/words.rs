//! Sentences and commands with the names of one packet filled in.

use super::facts::NetnsName;

/// What stands for each `{name}` of a template.
#[derive(Debug, Default)]
pub(super) struct Words(Vec<(&'static str, String)>);

impl Words {
    pub(super) fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.0.push((name, value.into()));
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// The template filled in; `None` when it names something that is not known. What is filled
    /// in is not looked at again.
    pub(super) fn fill(&self, template: &str) -> Option<String> {
        self.render(template, |name| self.get(name).map(str::to_owned))
    }

    /// The template filled in, with `unknown` words left as a general term.
    pub(super) fn sentence(&self, template: &str) -> String {
        let general = |name: &str| match name {
            "dev" | "oif" => "its device",
            "netns" => "its namespace",
            "dport" => "its port",
            "src" => "its source",
            "dst" => "its destination",
            _ => "",
        };
        self.render(template, |name| {
            Some(self.get(name).map_or_else(|| general(name).to_owned(), str::to_owned))
        })
        .unwrap_or_default()
    }

    fn render(&self, template: &str, word: impl Fn(&str) -> Option<String>) -> Option<String> {
        let mut out = String::with_capacity(template.len() + 32);
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, tail) = after.split_once('}')?;
            out.push_str(before);
            out.push_str(&word(name)?);
            rest = tail;
        }
        out.push_str(rest);
        Some(out)
    }
}

/// A namespace in a sentence.
pub(super) fn place_name(netns: &NetnsName, inode: u32) -> String {
    match netns {
        NetnsName { own: true, .. } => "the host".to_owned(),
        NetnsName { container: Some(container), .. } => container.clone(),
        NetnsName { name: Some(name), .. } => format!("namespace {name}"),
        NetnsName { process: Some(process), .. } => {
            format!("the namespace of {} (pid {})", process.comm, process.pid)
        }
        _ => format!("namespace {inode}"),
    }
}

/// What to put in front of a command so that it runs in a namespace; `None` when nothing is known
/// to get there.
pub(super) fn run_in(netns: &NetnsName) -> Option<String> {
    if netns.own {
        return Some(String::new());
    }
    if let Some(name) = &netns.name {
        return Some(format!("ip netns exec {} ", quoted(name)));
    }
    let Some((runtime, name)) = netns.container.as_deref().and_then(|c| c.split_once(':')) else {
        return netns.process.as_ref().map(|process| format!("nsenter -n -t {} ", process.pid));
    };
    let (project, name) = match name.rsplit_once('/') {
        Some((project, name)) => (format!("--project {} ", quoted(project)), quoted(name)),
        None => (String::new(), quoted(name)),
    };
    let pid = match runtime {
        "lxd" => return Some(format!("lxc exec {project}{name} -- ")),
        "incus" => return Some(format!("incus exec {project}{name} -- ")),
        "lxc" => return Some(format!("lxc-attach -n {name} -- ")),
        "docker" | "podman" => format!("{runtime} inspect -f '{{{{.State.Pid}}}}' {name}"),
        "nspawn" => format!("machinectl show -p Leader --value {name}"),
        _ => return None,
    };
    Some(format!("nsenter -n -t \"$({pid})\" "))
}

/// A word that a shell takes as one.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
