//! LXD and Incus. The list of instances costs the daemon little; their state would make it enter each
//! one, so that is asked only of those that nothing else leads to, and of virtual machines where their addresses
//! are wanted, last of all.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::Deserialize;

use super::{
    Container, Published, Told,
    http::{Client, Failure, quoted},
    join::Asking,
};

#[derive(Deserialize)]
struct Answer<T> {
    metadata: T,
}

#[derive(Default, Deserialize)]
struct Server {
    #[serde(default)]
    api_extensions: Vec<String>,
}

#[derive(Deserialize)]
struct Instance {
    name: String,
    #[serde(default)]
    project: String,
    #[serde(default)]
    status: String,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    config: BTreeMap<String, String>,
    #[serde(default)]
    expanded_devices: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct State {
    #[serde(default)]
    pid: i64,
    /// By interface; `null` where nothing is known of them.
    #[serde(default)]
    network: Option<BTreeMap<String, Network>>,
}

#[derive(Deserialize)]
struct Network {
    #[serde(default)]
    addresses: Option<Vec<Address>>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(default)]
    address: String,
}

/// Asks for all containers of all projects.
pub(super) async fn ask(
    client: &mut Client,
    asking: &Asking<'_>,
    list: &mut Vec<Container>,
) -> Result<(), Failure> {
    let server: Answer<Server> = client.get("/1.0").await?;
    let can = |name: &str| server.metadata.api_extensions.iter().any(|own| own == name);
    let lists = if can("instance_all_projects") {
        vec!["/1.0/instances?recursion=1&all-projects=true".to_owned()]
    } else if can("projects") {
        let projects: Answer<Vec<String>> = client.get("/1.0/projects").await?;
        let names = projects.metadata.iter().filter_map(|url| Some(url.rsplit_once('/')?.1));
        names.map(|name| format!("/1.0/instances?recursion=1&project={name}")).collect()
    } else {
        vec!["/1.0/instances?recursion=1".to_owned()]
    };
    let (mut alone, mut machines) = (Vec::<usize>::new(), Vec::<usize>::new());
    for path in lists {
        let instances: Answer<Vec<Instance>> = client.get(&path).await?;
        for instance in instances.metadata {
            let container = instance.container(asking);
            let is_machine = instance.kind == "virtual-machine";
            if container.running && is_machine && asking.wants_addresses() {
                machines.push(list.len());
            } else if container.running && container.netns.is_none() && !is_machine {
                alone.push(list.len());
            }
            list.push(container);
        }
    }
    for index in alone {
        let Some(container) = list.get_mut(index) else { continue };
        if let Some(state) = state(client, container).await? {
            container.netns = asking.netns_of(client, state.pid);
        }
    }
    for index in machines {
        let Some(container) = list.get_mut(index) else { continue };
        if let Some(state) = state(client, container).await? {
            container.addresses = state.addresses();
        }
    }
    Ok(())
}

/// `None`: it has gone meanwhile.
async fn state(client: &mut Client, of: &Container) -> Result<Option<State>, Failure> {
    let project = of.project.as_deref().unwrap_or("default");
    let (name, project) = (quoted(&of.name), quoted(project));
    let path = format!("/1.0/instances/{name}/state?project={project}");
    match client.get::<Answer<State>>(&path).await {
        Ok(state) => Ok(Some(state.metadata)),
        Err(Failure::Refused(_)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

impl State {
    /// All but those of loopback, each once.
    fn addresses(self) -> Vec<IpAddr> {
        let all = self.network.into_iter().flatten().flat_map(|(_, network)| network.addresses);
        let all = all.flatten().filter_map(|address| address.address.parse::<IpAddr>().ok());
        let all: BTreeSet<_> = all.filter(|address| !address.is_loopback()).collect();
        all.into_iter().collect()
    }
}

impl Instance {
    fn container(&self, asking: &Asking<'_>) -> Container {
        let mut container = Container::new(asking.runtime, self.name.as_str(), Told::Api);
        let is_default = self.project.is_empty() || self.project == "default";
        container.project = (!is_default).then(|| self.project.clone());
        container.running = !matches!(self.status.as_str(), "Stopped" | "Error");
        let nics = || {
            let is_nic = |(_, device): &(&String, &BTreeMap<String, String>)| {
                device.get("type").is_some_and(|kind| kind == "nic")
            };
            self.expanded_devices.iter().filter(is_nic)
        };
        container.networks = nics()
            .filter_map(|(_, device)| device.get("network").or_else(|| device.get("parent")))
            .cloned()
            .collect();
        container.networks.dedup();
        container.host_interfaces = self
            .config
            .iter()
            .filter(|(key, name)| {
                key.starts_with("volatile.") && key.ends_with(".host_name") && !name.is_empty()
            })
            .map(|(_, name)| name.clone())
            .collect();
        container.published = self.expanded_devices.values().filter_map(proxied).collect();
        if container.running && self.kind != "virtual-machine" {
            // liblxc knows those of other projects as `PROJECT_NAME`.
            let name = container.short().replace('/', "_");
            container.netns = asking
                .behind(&container.host_interfaces)
                .or_else(|| asking.processes.by_lxc_name(asking.runtime, &name));
        }
        container
    }
}

/// A port of the host that a proxy device listens at: `tcp:0.0.0.0:80`. Ranges and lists are left out.
fn proxied(device: &BTreeMap<String, String>) -> Option<Published> {
    if device.get("type")? != "proxy" || device.get("bind").is_some_and(|at| at != "host") {
        return None;
    }
    let end = |key: &str| {
        let (proto, rest) = device.get(key)?.split_once(':')?;
        let (address, port) = rest.rsplit_once(':')?;
        let address = address.trim_matches(['[', ']']).parse::<std::net::IpAddr>().ok()?;
        let address = Some(address).filter(|address| !address.is_unspecified());
        Some((proto, address, port.parse().ok()?))
    };
    let (proto, host, host_port) = end("listen")?;
    let (_, container, container_port) = end("connect")?;
    Some(Published { proto: proto.into(), host, host_port, container, container_port })
}
