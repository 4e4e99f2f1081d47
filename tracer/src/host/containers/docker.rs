//! Docker, and Podman, which answers the same questions.

use std::{collections::BTreeMap, net::IpAddr, os::unix::fs::MetadataExt as _};

use serde::{Deserialize, Deserializer};

use super::{
    Container, Published, Told,
    http::{Client, Failure, quoted},
    join::{Asking, short_id},
};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    #[serde(default, deserialize_with = "or_default")]
    names: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    state: String,
    #[serde(default, deserialize_with = "or_default")]
    ports: Vec<Port>,
    #[serde(default, deserialize_with = "or_default")]
    host_config: HostConfig,
    #[serde(default, deserialize_with = "or_default")]
    network_settings: NetworkSettings,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Port {
    #[serde(default, rename = "IP", deserialize_with = "or_default")]
    ip: String,
    private_port: u16,
    #[serde(default, deserialize_with = "or_default")]
    public_port: u16,
    #[serde(default, deserialize_with = "or_default")]
    r#type: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    #[serde(default, deserialize_with = "or_default")]
    network_mode: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    #[serde(default, deserialize_with = "or_default")]
    networks: BTreeMap<String, Network>,
    #[serde(default, deserialize_with = "or_default")]
    sandbox_key: String,
}

#[derive(Default, Deserialize)]
struct Network {
    #[serde(default, rename = "IPAddress", deserialize_with = "or_default")]
    ip_address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    #[serde(default, deserialize_with = "or_default")]
    state: State,
    #[serde(default, deserialize_with = "or_default")]
    network_settings: NetworkSettings,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    #[serde(default)]
    pid: i64,
}

/// Both write `null` where something is empty.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Asks for all containers.
pub(super) async fn ask(
    client: &mut Client,
    asking: &Asking<'_>,
    list: &mut Vec<Container>,
) -> Result<(), Failure> {
    let listed: Vec<Listed> = client.get("/containers/json?all=true").await?;
    let mut alone = Vec::new();
    for listed in listed {
        let container = listed.container(asking);
        if container.running && container.netns.is_none() {
            alone.push((list.len(), listed.id));
        }
        list.push(container);
    }
    for (index, id) in alone {
        let Some(container) = list.get_mut(index) else { continue };
        let path = format!("/containers/{}/json", quoted(&id));
        match client.get::<Inspected>(&path).await {
            Ok(inspected) => container.netns = inspected.netns(client, asking),
            // It has gone meanwhile.
            Err(Failure::Refused(_)) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

impl Listed {
    fn container(&self, asking: &Asking<'_>) -> Container {
        // A name with another slash is what a linked container calls it.
        let names = self.names.iter().map(|name| name.strip_prefix('/').unwrap_or(name));
        let name = names.filter(|name| !name.contains('/')).find(|name| !name.is_empty());
        let name = name.unwrap_or_else(|| short_id(&self.id));
        let mut container = Container::new(asking.runtime, name, Told::Api);
        container.id = Some(self.id.clone());
        container.running = matches!(self.state.as_str(), "running" | "paused" | "restarting");
        let networks = &self.network_settings.networks;
        container.networks = networks.keys().cloned().collect();
        let address = networks.values().find_map(|network| network.ip_address.parse().ok());
        container.published =
            self.ports.iter().filter_map(|port| port.published(address)).collect();
        container.published.sort();
        container.published.dedup();
        container.borrows = self.host_config.network_mode.starts_with("container:");
        if container.running {
            container.netns = asking.processes.by_id(&self.id);
        }
        container
    }
}

impl Port {
    fn published(&self, container: Option<IpAddr>) -> Option<Published> {
        let host = self.ip.parse().ok().filter(|address: &IpAddr| !address.is_unspecified());
        (self.public_port != 0).then(|| Published {
            proto: self.r#type.clone(),
            host,
            host_port: self.public_port,
            container,
            container_port: self.private_port,
        })
    }
}

impl Inspected {
    fn netns(&self, client: &Client, asking: &Asking<'_>) -> Option<u32> {
        let key = &self.network_settings.sandbox_key;
        let of_file = (!key.is_empty()).then(|| std::fs::metadata(key).ok()).flatten();
        let known = of_file.and_then(|file| u32::try_from(file.ino()).ok());
        known.or_else(|| asking.netns_of(client, self.state.pid))
    }
}
