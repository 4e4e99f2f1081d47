//! Network namespaces for tests of the real thing. They need root.

use std::{
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use super::netns::Netns;

/// A network namespace made by `ip netns add`, removed when this is dropped.
pub struct TestNetns {
    pub name: String,
}

impl TestNetns {
    pub fn new(what: &str) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test makes namespaces: run it as root");
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pt-host-{}-{what}{n}", std::process::id());
        ip(&["netns", "add", &name]);
        Self { name }
    }

    /// `ip -n NAME ARGUMENTS`, which must succeed.
    pub fn ip(&self, arguments: &str) {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments.split_whitespace());
        ip(&all);
    }

    /// A command run inside, which must succeed.
    pub fn exec(&self, program: &str, arguments: &[&str]) {
        let mut all = vec!["netns", "exec", &self.name, program];
        all.extend(arguments);
        ip(&all);
    }

    /// Runs `nft -f -` inside with these commands.
    pub fn nft(&self, commands: &str) {
        self.exec("sh", &["-c", &format!("printf '%s' '{commands}' | nft -f -")]);
    }

    pub fn netns(&self) -> Netns {
        Netns::by_name(&self.name).unwrap()
    }
}

impl Drop for TestNetns {
    fn drop(&mut self) {
        let removed = Command::new("ip").args(["netns", "del", &self.name]).status();
        if !std::thread::panicking() {
            assert!(removed.unwrap().success(), "ip netns del {}", self.name);
        }
    }
}

pub fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip of iproute2 is needed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {errors}", arguments.join(" "));
}
