//! Asks all runtimes at once, and joins what they say with what processes tell. A process id of a
//! runtime may mean another process here, or none: what counts is the namespace.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    os::unix::fs::MetadataExt as _,
    thread,
};

use tokio::time::timeout;

use super::{
    Api, Container, Containers, Problem, Runtime, Sources, Told,
    cgroup::Called,
    docker,
    http::{Client, Failure},
    lxd,
    processes::{Mark, Processes},
};

/// One runtime being asked, and what is known from elsewhere.
pub(super) struct Asking<'a> {
    pub runtime: Runtime,
    pub processes: &'a Processes,
    sources: &'a Sources,
    behind: &'a BTreeMap<String, u32>,
}

impl Asking<'_> {
    /// The namespace that one of these links of this namespace leads to.
    pub(super) fn behind(&self, interfaces: &[String]) -> Option<u32> {
        interfaces.iter().find_map(|name| self.behind.get(name).copied())
    }

    /// Whether addresses are wanted that no namespace here has.
    pub(super) fn wants_addresses(&self) -> bool {
        self.sources.addresses
    }

    /// The namespace of a process that a runtime named.
    pub(super) fn netns_of(&self, client: &Client, pid: i64) -> Option<u32> {
        let pid = u32::try_from(pid).ok().filter(|pid| *pid != 0 && client.shares_pids)?;
        let file = std::fs::metadata(self.sources.of_process(pid, "ns/net")).ok()?;
        u32::try_from(file.ino()).ok()
    }
}

/// The first digits of an id, as people use them.
pub(super) fn short_id(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

pub(super) fn read<'a>(sources: &'a Sources, behind: &BTreeMap<String, u32>) -> Containers {
    let processes = Processes::scan(sources);
    let answers: Vec<_> = thread::scope(|scope| {
        let start = |api: &'a Api| {
            let asking = Asking { runtime: api.runtime, processes: &processes, sources, behind };
            thread::Builder::new()
                .name("runtime".into())
                .spawn_scoped(scope, move || ask(api, &asking))
        };
        let threads: Vec<_> = sources.present().into_iter().map(start).collect();
        threads.into_iter().filter_map(|thread| thread.ok()?.join().ok()).collect()
    });
    let mut list = Vec::new();
    let mut problems = Vec::new();
    for (containers, problem) in answers {
        list.extend(containers);
        problems.extend(problem);
    }
    list.extend(unknown(&list, &processes));
    let unnamed = |c: &Container| {
        c.runtime == Runtime::Podman && c.id.as_deref().is_some_and(|id| c.name == short_id(id))
    };
    if list.iter().any(unnamed) {
        let names = sources.storage.names(sources.patience);
        for container in list.iter_mut().filter(|container| unnamed(container)) {
            let name = container.id.as_ref().and_then(|id| names.by_id.get(id));
            container.name = name.cloned().unwrap_or_else(|| container.name.clone());
        }
        problems.extend(names.problems);
    }
    for container in &mut list {
        let oldest = container.netns.and_then(|netns| processes.oldest.get(&netns));
        container.pid = container.pid.or_else(|| oldest.map(|process| process.pid));
    }
    list.sort_by(|a, b| {
        (a.runtime, &a.project, &a.name, a.told).cmp(&(b.runtime, &b.project, &b.name, b.told))
    });
    Containers { list, processes: processes.oldest, problems }
}

/// Asks one runtime; what it told until it failed counts.
fn ask(api: &Api, asking: &Asking<'_>) -> (Vec<Container>, Option<Problem>) {
    let mut list = Vec::new();
    let problem = |why: &str, advice: &str| {
        let Api { runtime, socket } = api;
        let text = format!("cannot ask {runtime} at {}: {why}; {advice}", socket.display());
        Some(Problem { runtime: *runtime, text })
    };
    let question = async {
        let mut client = Client::connect(&api.socket).await?;
        match api.runtime {
            Runtime::Docker | Runtime::Podman => docker::ask(&mut client, asking, &mut list).await,
            _ => lxd::ask(&mut client, asking, &mut list).await,
        }
    };
    let patience = asking.sources.patience;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let problem = match runtime
        .map(|runtime| runtime.block_on(async { timeout(patience, question).await }))
    {
        Ok(Ok(Ok(()))) => None,
        Ok(Ok(Err(failure @ Failure::Refused(_)))) => {
            problem(&failure.to_string(), "see whether it is that runtime's socket")
        }
        Ok(Ok(Err(failure))) => problem(&failure.to_string(), failure.advice()),
        Ok(Err(_)) => {
            let why = format!("it did not answer all within {:.1} s", patience.as_secs_f32());
            problem(&why, "names may be missing; look at its log")
        }
        Err(error) => problem(&error.to_string(), "raise the limit of open files (ulimit -n)"),
    };
    (list, problem)
}

/// The containers that no runtime told of.
fn unknown(known: &[Container], processes: &Processes) -> Vec<Container> {
    let kind = |runtime: Runtime| if runtime.is_lxc() { Runtime::Lxc } else { runtime };
    let mut taken: BTreeSet<(Runtime, u32)> = known
        .iter()
        .filter_map(|container| Some((kind(container.runtime), container.netns?)))
        .collect();
    let ids: HashSet<&str> = known.iter().filter_map(|c| c.id.as_deref()).collect();
    let mut found = Vec::new();
    for told in [Told::Monitor, Told::Cgroup] {
        for mark in processes.marks.iter().filter(|mark| mark.told == told) {
            // Several containers of a pod are each their own.
            let is_alone = kind(mark.runtime) == Runtime::Lxc;
            let is_known = matches!(&mark.called, Called::Id(id) if ids.contains(id.as_str()));
            if is_known || (is_alone && !taken.insert((Runtime::Lxc, mark.netns))) {
                continue;
            }
            found.push(container(mark, processes));
        }
    }
    found
}

fn container(mark: &Mark, processes: &Processes) -> Container {
    let mut container = match &mark.called {
        Called::Id(id) => {
            let name = processes.podman.get(id).map_or_else(|| short_id(id), String::as_str);
            let mut container = Container::new(mark.runtime, name, mark.told);
            container.id = Some(id.clone());
            container
        }
        Called::Name(name) => match name.rsplit_once('_') {
            // The name of an instance has no `_`; that of a project may.
            Some((project, name)) if matches!(mark.runtime, Runtime::Lxd | Runtime::Incus) => {
                let mut container = Container::new(mark.runtime, name, mark.told);
                container.project = Some(project.to_owned());
                container
            }
            _ => Container::new(mark.runtime, name.as_str(), mark.told),
        },
    };
    container.pid = Some(mark.pid);
    container.netns = Some(mark.netns);
    container
}
