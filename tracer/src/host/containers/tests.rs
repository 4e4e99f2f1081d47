//! Runtimes that answer, lie, refuse and keep silent, on real sockets, beside a `/proc` made by hand.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    thread,
    time::Duration,
};

use serde_json::json;
use tempfile::TempDir;

use super::{http::MOST_BYTES, storage::Storage, *};

const LXD: &str = include_str!("fixtures/lxd-5.0.2-instances.json");
const DOCKER: &str = include_str!("fixtures/docker-20.10-list.json");
const DOCKER_ONE: &str = include_str!("fixtures/docker-20.10-inspect.json");
const PODMAN: &str = include_str!("fixtures/podman-4.3-list.json");
const PODMAN_STORED: &str = include_str!("fixtures/podman-4.3-containers.json");
const WEB: &str = "c564d5c6d9a2d2819484a43b835c2165f5a85b2e68c01783784fd8bd9b4d9582";
const POD1: &str = "0b416c4d44985595d2d42cbea992ab15fe168235cb86c0214a0d03078c5503f5";

/// A host that is not there.
struct Host {
    directory: TempDir,
    sources: Sources,
}

impl Host {
    /// Process 1 and this one in the host's own namespace.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let proc = directory.path().join("proc");
        let sources = Sources {
            proc,
            apis: Vec::new(),
            storage: Storage::default(),
            addresses: false,
            patience: Duration::from_millis(300),
        };
        let host = Self { directory, sources };
        host.process("1", "systemd", "own", "/init.scope", "/sbin/init");
        host.process("self", "pathtrace", "own", "/", "pathtrace");
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file that stands for a network namespace; its inode.
    fn netns(&self, name: &str) -> u32 {
        let path = self.path(&format!("netns-{name}"));
        if !path.exists() {
            fs::write(&path, "").unwrap();
        }
        fs::metadata(path).unwrap().ino().try_into().unwrap()
    }

    /// A process, child of process 1.
    fn process(&self, pid: &str, comm: &str, netns: &str, cgroup: &str, line: &str) {
        self.child((pid, 1), comm, netns, cgroup, line);
    }

    fn child(&self, (pid, parent): (&str, u32), comm: &str, netns: &str, cgroup: &str, line: &str) {
        let directory = self.sources.proc.join(pid);
        fs::create_dir_all(directory.join("ns")).unwrap();
        let since = pid.parse::<u32>().unwrap_or(1);
        let stat = format!("{pid} ({comm}) S {parent} {} {since} 0\n", ["0"; 17].join(" "));
        fs::write(directory.join("stat"), stat).unwrap();
        fs::write(directory.join("cgroup"), format!("0::{cgroup}\n")).unwrap();
        fs::write(directory.join("cmdline"), line).unwrap();
        self.netns(netns);
        fs::hard_link(self.path(&format!("netns-{netns}")), directory.join("ns/net")).unwrap();
    }

    /// A runtime that answers a path so; `None` is an error 404.
    fn runtime(
        &mut self,
        runtime: Runtime,
        answer: impl Fn(&str) -> Option<String> + Send + 'static,
    ) {
        self.serve(runtime, move |stream, path| {
            let (status, body) = match answer(path) {
                Some(body) => ("200 OK", body),
                None => ("404 Not Found", "{}".to_owned()),
            };
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).is_ok()
        });
    }

    /// A runtime that does what it wants; whether it stays connected.
    fn serve(
        &mut self,
        runtime: Runtime,
        answer: impl Fn(&mut UnixStream, &str) -> bool + Send + 'static,
    ) {
        let socket = self.socket(runtime);
        let listener = UnixListener::bind(socket).unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while let Some(path) = request(&mut reader) {
                    if !answer(&mut stream, &path) {
                        break;
                    }
                }
            }
        });
    }

    fn socket(&mut self, runtime: Runtime) -> PathBuf {
        let socket = self.path(&format!("{runtime}.sock"));
        self.sources.apis.push(Api { runtime, socket: socket.clone() });
        socket
    }

    fn read(&self) -> Containers {
        self.read_with(&BTreeMap::new())
    }

    fn read_with(&self, behind: &BTreeMap<String, u32>) -> Containers {
        Containers::read(&self.sources, behind)
    }
}

/// The path of the next request.
fn request(reader: &mut impl std::io::BufRead) -> Option<String> {
    let mut lines = reader.lines().map_while(Result::ok);
    let first = lines.next()?;
    lines.find(|line| line.is_empty())?;
    first.split(' ').nth(1).map(str::to_owned)
}

fn lxd(path: &str, instances: &str) -> Option<String> {
    match path {
        "/1.0" => {
            Some(json!({"metadata": {"api_extensions": ["instance_all_projects"]}}).to_string())
        }
        "/1.0/instances?recursion=1&all-projects=true" => Some(instances.to_owned()),
        _ => None,
    }
}

fn docker(path: &str, list: &str) -> Option<String> {
    (path == "/containers/json?all=true").then(|| list.to_owned())
}

fn labels(containers: &Containers) -> Vec<(String, Option<u32>)> {
    containers.list.iter().map(|c| (c.label(), c.netns)).collect()
}

fn only_problem(containers: &Containers) -> &str {
    assert_eq!(containers.problems.len(), 1, "{:?}", containers.problems);
    &containers.problems[0].text
}

#[test]
fn lxd_tells_names_projects_and_the_links_that_lead_there() {
    let mut host = Host::new();
    let (c1, c9) = (host.netns("c1"), host.netns("c9"));
    host.process("451", "init", "c1", "/lxc.payload.c1", "init");
    host.process("758", "init", "c9", "/lxc.payload.p2_c9", "init");
    host.runtime(Runtime::Lxd, |path| lxd(path, LXD));
    let behind = BTreeMap::from([("vethf77f0f1b".to_owned(), c1)]);
    let containers = host.read_with(&behind);
    assert_eq!(
        labels(&containers),
        [("lxd:c1".to_owned(), Some(c1)), ("lxd:p2/c9".to_owned(), Some(c9))]
    );
    assert_eq!(containers.list[0].pid, Some(451));
    assert_eq!(containers.list[0].networks, ["lxdbr0"]);
    assert_eq!(containers.problems, []);
}

#[test]
fn an_older_lxd_is_asked_project_by_project() {
    let mut host = Host::new();
    host.runtime(Runtime::Lxd, |path| {
        let list = |project: &str, name: &str| {
            json!({"metadata": [{"name": name, "project": project, "status": "Stopped"}]})
        };
        Some(match path {
            "/1.0" => json!({"metadata": {"api_extensions": ["projects"]}}).to_string(),
            "/1.0/projects" => {
                json!({"metadata": ["/1.0/projects/default", "/1.0/projects/p2"]}).to_string()
            }
            "/1.0/instances?recursion=1&project=default" => list("default", "a").to_string(),
            "/1.0/instances?recursion=1&project=p2" => list("p2", "b").to_string(),
            _ => return None,
        })
    });
    let containers = host.read();
    assert_eq!(labels(&containers), [("lxd:a".to_owned(), None), ("lxd:p2/b".to_owned(), None)]);
    assert!(containers.list.iter().all(|container| !container.running));
}

#[test]
fn docker_and_podman_tell_names_and_published_ports() {
    let mut host = Host::new();
    let (web, pod1) = (host.netns("web"), host.netns("pod1"));
    host.process("684", "httpd", "web", &format!("/docker/{WEB}"), "httpd");
    host.process("920", "httpd", "pod1", &format!("/libpod_parent/libpod-{POD1}"), "httpd");
    host.runtime(Runtime::Docker, |path| docker(path, DOCKER));
    host.runtime(Runtime::Podman, |path| docker(path, PODMAN));
    let containers = host.read();
    assert_eq!(
        labels(&containers),
        [("docker:web".to_owned(), Some(web)), ("podman:pod1".to_owned(), Some(pod1))]
    );
    let address = |text: &str| Some(text.parse().unwrap());
    let published = |host_port, container| Published {
        proto: "tcp".into(),
        host: None,
        host_port,
        container,
        container_port: 80,
    };
    assert_eq!(containers.list[0].published, [published(8080, address("172.17.0.2"))]);
    assert_eq!(containers.list[1].published, [published(9090, address("10.88.0.2"))]);
}

#[test]
fn without_a_cgroup_docker_is_asked_for_the_file_of_the_namespace() {
    let mut host = Host::new();
    let netns = host.netns("web");
    let file = host.path("netns-web").to_str().unwrap().to_owned();
    host.runtime(Runtime::Docker, move |path| {
        let one = DOCKER_ONE.replace("/srv/docker/run/netns/e7d27e54fff5", &file);
        docker(path, DOCKER).or_else(|| path.starts_with("/containers/c564").then_some(one))
    });
    assert_eq!(labels(&host.read()), [("docker:web".to_owned(), Some(netns))]);
}

#[test]
fn a_socket_that_is_not_there_is_no_problem() {
    let mut host = Host::new();
    host.socket(Runtime::Docker);
    assert_eq!(host.read(), Containers::default());
}

#[test]
fn a_socket_that_nobody_listens_at_is_told() {
    let mut host = Host::new();
    let socket = host.socket(Runtime::Docker);
    drop(UnixListener::bind(&socket).unwrap());
    let containers = host.read();
    let problem = only_problem(&containers);
    assert!(problem.contains("refused") && problem.contains("start it"), "{problem}");
    assert!(problem.contains(socket.to_str().unwrap()), "{problem}");
}

#[test]
fn a_socket_that_may_not_be_used_is_told() {
    let mut host = Host::new();
    let socket = host.socket(Runtime::Lxd);
    let _listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).unwrap();
    for path in [host.directory.path(), &host.sources.proc] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let as_nobody = || {
        let nobody = rustix::process::Uid::from_raw(65_534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("this test needs root");
        host.read()
    };
    let containers = thread::scope(|scope| scope.spawn(as_nobody).join().unwrap());
    let problem = only_problem(&containers);
    assert!(problem.contains("Permission denied") && problem.contains("root"), "{problem}");
}

#[test]
fn garbage_for_an_answer_is_told() {
    for garbage in
        ["", "\0\0\0\0", "SSH-2.0-x\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nx=y"]
    {
        let mut host = Host::new();
        host.serve(Runtime::Docker, move |stream, _| {
            let _ = stream.write_all(garbage.as_bytes());
            false
        });
        let containers = host.read();
        only_problem(&containers);
        assert_eq!(containers.list, [], "{garbage:?}");
    }
}

#[test]
fn a_runtime_that_stops_in_the_midst_of_an_answer_stalls_nobody() {
    let mut host = Host::new();
    host.process("684", "httpd", "web", &format!("/docker/{WEB}"), "httpd");
    host.serve(Runtime::Lxd, |stream, _| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"meta");
        true
    });
    host.runtime(Runtime::Docker, |path| docker(path, DOCKER));
    let containers = host.read();
    assert!(only_problem(&containers).contains("did not answer all within 0.3 s"));
    assert_eq!(containers.problems[0].runtime, Runtime::Lxd);
    assert_eq!(containers.list[0].label(), "docker:web");
}

#[test]
fn what_was_told_before_a_runtime_fell_silent_counts() {
    let mut host = Host::new();
    host.serve(Runtime::Docker, |stream, path| {
        if path.starts_with("/containers/json") {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", DOCKER.len());
            let _ = stream.write_all(format!("{head}{DOCKER}").as_bytes());
        }
        true
    });
    let containers = host.read();
    assert_eq!(labels(&containers), [("docker:web".to_owned(), None)]);
    only_problem(&containers);
}

#[test]
fn an_answer_without_end_is_refused_with_the_limit() {
    let mut host = Host::new();
    host.sources.patience = Duration::from_secs(20);
    host.serve(Runtime::Docker, |stream, _| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x1_0000], b"\r\n"].concat();
        for _ in 0..=MOST_BYTES / 0x1_0000 {
            if stream.write_all(&chunk).is_err() {
                return false;
            }
        }
        false
    });
    let containers = host.read();
    assert!(only_problem(&containers).contains("longer than 16 MiB"));
}

#[test]
fn two_thousand_containers_are_named() {
    let mut host = Host::new();
    host.sources.patience = Duration::from_secs(20);
    let id = |n: u32| format!("{n:064x}");
    for n in 0..2000 {
        let pid = (1000 + n).to_string();
        host.process(&pid, "httpd", &format!("n{n}"), &format!("/docker/{}", id(n)), "httpd");
    }
    let list: Vec<_> = (0..2000)
        .map(|n| json!({"Id": id(n), "Names": [format!("/c{n}")], "State": "running"}))
        .collect();
    let list = serde_json::to_string(&list).unwrap();
    host.runtime(Runtime::Docker, move |path| docker(path, &list));
    let containers = host.read();
    assert_eq!(containers.problems, []);
    assert_eq!(containers.owners().len(), 2000);
    assert_eq!(containers.owners()[&host.netns("n7")].label(), "docker:c7");
}

#[test]
fn names_are_kept_as_they_are() {
    let mut host = Host::new();
    host.process("684", "httpd", "web", &format!("/docker/{WEB}"), "httpd");
    let hostile = "a b\n\x1b[31m";
    let list =
        json!([{"Id": WEB, "Names": [hostile], "State": "running", "Ports": null}]).to_string();
    host.runtime(Runtime::Docker, move |path| docker(path, &list));
    assert_eq!(host.read().list[0].name, hostile);
}

#[test]
fn one_name_in_two_runtimes_is_two_containers() {
    let mut host = Host::new();
    let list = json!({"metadata": [{"name": "web", "status": "Running"}]}).to_string();
    host.process("684", "httpd", "d", &format!("/docker/{WEB}"), "httpd");
    host.process("700", "init", "l", "/lxc.payload.web", "init");
    host.runtime(Runtime::Docker, |path| docker(path, DOCKER));
    host.runtime(Runtime::Lxd, move |path| lxd(path, &list));
    assert_eq!(
        labels(&host.read()),
        [
            ("lxd:web".to_owned(), Some(host.netns("l"))),
            ("docker:web".to_owned(), Some(host.netns("d")))
        ]
    );
}

#[test]
fn without_runtimes_monitors_and_cgroups_tell() {
    let host = Host::new();
    let kube = format!("/kubepods.slice/kubepods-pod7.slice/cri-containerd-{WEB}.scope");
    host.process("10", "lxc-start", "own", "/lxc.monitor.bb", "[lxc monitor] /var/lib/my lxc bb\0");
    host.child(("11", 10), "init", "bb", "/lxc.payload.bb-1", "init");
    host.process("20", "lxd", "own", "/", "[lxc monitor] /var/lib/lxd/containers p2_c9\0");
    host.child(("21", 20), "init", "c9", "/lxc.payload.p2_c9", "init");
    host.process("30", "conmon", "own", "/", &format!("conmon\0-c\0{POD1}\0-n\0pod1\0"));
    host.process("31", "httpd", "pod1", &format!("/libpod_parent/libpod-{POD1}"), "httpd");
    host.process("41", "pause", "k", &kube, "pause");
    host.process("51", "systemd", "box", r"/machine.slice/machine-my\x2dbox.scope", "systemd");
    host.process("60", "nginx", "own", "/docker/0123", "a process of the host");
    let containers = host.read();
    let known = |label: &str, netns: &str| (label.to_owned(), Some(host.netns(netns)));
    assert_eq!(
        labels(&containers),
        [
            known("lxd:p2/c9", "c9"),
            known("podman:pod1", "pod1"),
            known("lxc:bb", "bb"),
            known("k8s:c564d5c6d9a2", "k"),
            known("nspawn:my-box", "box"),
        ]
    );
}

#[test]
fn a_namespace_of_several_belongs_to_the_one_that_did_not_borrow_it() {
    let mut host = Host::new();
    let other = "b".repeat(64);
    host.process("100", "side", "pod", &format!("/docker/{other}"), "side");
    host.process("684", "httpd", "pod", &format!("/docker/{WEB}"), "httpd");
    let list = json!([
        {"Id": other, "Names": ["/a-side"], "State": "running",
         "HostConfig": {"NetworkMode": format!("container:{WEB}")}},
        {"Id": WEB, "Names": ["/web"], "State": "running"},
    ])
    .to_string();
    host.runtime(Runtime::Docker, move |path| docker(path, &list));
    let containers = host.read();
    assert_eq!(containers.list.len(), 2);
    assert_eq!(containers.owners()[&host.netns("pod")].label(), "docker:web");
}

#[test]
fn a_namespace_of_nobody_is_known_by_its_oldest_process() {
    let host = Host::new();
    host.process("300", "worker", "n", "/system.slice/nginx.service", "worker");
    host.process("299", "ngi) (nx", "n", "/system.slice/nginx.service", "nginx");
    let containers = host.read();
    let oldest = Process { pid: 299, comm: "ngi) (nx".into() };
    assert_eq!(containers.processes, BTreeMap::from([(host.netns("n"), oldest)]));
}

#[test]
fn a_process_that_has_gone_is_left_out() {
    let host = Host::new();
    fs::create_dir_all(host.sources.proc.join("77")).unwrap();
    host.process("78", "nginx", "n", "/", "nginx");
    fs::remove_file(host.sources.proc.join("78/stat")).unwrap();
    assert_eq!(host.read(), Containers::default());
}

#[test]
fn one_socket_of_several_names_is_asked_once() {
    let mut host = Host::new();
    host.runtime(Runtime::Docker, |path| docker(path, DOCKER));
    let other = host.path("other.sock");
    std::os::unix::fs::symlink(host.path("docker.sock"), &other).unwrap();
    host.sources.apis.push(Api { runtime: Runtime::Docker, socket: other });
    assert_eq!(host.sources.present().len(), 1);
    assert_eq!(host.read().list.len(), 1);
}

#[test]
fn a_tap_leads_to_its_virtual_machine() {
    let mut host = Host::new();
    let list = json!({"metadata": [{
        "name": "vm1", "status": "Running", "type": "virtual-machine",
        "config": {"volatile.eth0.host_name": "tap1234"},
    }]});
    host.runtime(Runtime::Incus, move |path| lxd(path, &list.to_string()));
    let containers = host.read();
    assert_eq!(containers.behind_tap("tap1234").map(Container::label), Some("incus:vm1".into()));
    assert_eq!(containers.behind_tap("tap1"), None);
}

#[test]
fn podmans_storage_tells_names_that_nothing_else_tells() {
    let mut host = Host::new();
    let pod1 = host.netns("pod1");
    host.process("920", "httpd", "pod1", &format!("/libpod_parent/libpod-{POD1}"), "httpd");
    let stored = host.path("storage/overlay-containers");
    fs::create_dir_all(&stored).unwrap();
    fs::write(stored.join("containers.json"), PODMAN_STORED).unwrap();
    host.sources.storage = Storage::new(vec![host.path("storage")], None);
    host.sources.patience = Duration::from_secs(20);
    assert_eq!(labels(&host.read()), [("podman:pod1".to_owned(), Some(pod1))]);
}

#[test]
fn virtual_machines_tell_their_addresses_when_they_are_asked_for() {
    let mut host = Host::new();
    let list = json!({"metadata": [
        {"name": "vm1", "status": "Running", "type": "virtual-machine"},
        {"name": "vm2", "project": "p2", "status": "Running", "type": "virtual-machine"},
        {"name": "vm3", "status": "Stopped", "type": "virtual-machine"},
    ]});
    let address = |family: &str, address: &str, netmask: &str, scope: &str| json!({"family": family, "address": address, "netmask": netmask, "scope": scope});
    // As LXD answers for a machine with an agent.
    let vm1 = json!({"metadata": {"status": "Running", "pid": 77, "network": {
        "enp5s0": {"type": "broadcast", "hwaddr": "00:16:3e:aa:bb:cc", "addresses": [
            address("inet", "10.0.100.20", "24", "global"),
            address("inet6", "fe80::216:3eff:feaa:bbcc", "64", "link"),
            address("inet6", "", "", "global"),
        ]},
        "enp6s0": {"type": "broadcast", "addresses": null},
        "lo": {"type": "loopback", "addresses": [address("inet", "127.0.0.1", "8", "local")]},
    }}});
    // And for one that starts.
    let vm2 = json!({"metadata": {"status": "Running", "pid": 78, "network": null}});
    host.runtime(Runtime::Lxd, move |path| match path {
        "/1.0/instances/vm1/state?project=default" => Some(vm1.to_string()),
        "/1.0/instances/vm2/state?project=p2" => Some(vm2.to_string()),
        other => lxd(other, &list.to_string()),
    });
    let addresses = |containers: Containers| -> Vec<Vec<IpAddr>> {
        assert_eq!(containers.problems, []);
        containers.list.into_iter().map(|c| c.addresses).collect()
    };
    assert_eq!(addresses(host.read()), vec![Vec::<IpAddr>::new(); 3]);
    host.sources.addresses = true;
    host.sources.patience = Duration::from_secs(20);
    let expected: [IpAddr; 2] =
        ["10.0.100.20", "fe80::216:3eff:feaa:bbcc"].map(|a| a.parse().unwrap());
    assert_eq!(addresses(host.read()), vec![expected.to_vec(), Vec::new(), Vec::new()]);
}
