//! The agent on what was adopted: pods that Spiderpool has attached keep what they have, and leave nothing when they go.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use ipnetwork::IpNetwork;
use libtest_mimic::Trial;
use netlink::testbed::{End, Netns};
use plan::object::{Neighbour, Observed, Route, RouteKind, Rule, Scope};
use plan::tables::{NODE_PRIORITY, NODE_TABLE};
use serde_json::{Value, json};
use tests::binaries::Binaries;
use tests::fleet::{Book, Fleet, Ground, Node, Pod};
use tests::runtime::{Attachment, Conflist, Runtime, reference_plugins};

use crate::bed::eventually;
use crate::leases::{PATIENCE, alone, assert_right, assert_shown, pool, refusal};

const SPIDERPOOL: &str = "/apis/spiderpool.spidernet.io/v2beta1";
/// Of the pool there are four addresses, of which the old pods have two.
const NET: u8 = 62;
const ADDRESSES: u32 = 4;
/// `RTPROT_BOOT`, which the original's routes and rules have.
const BOOT: u8 = 3;
/// Of a pod's own table.
const TABLE: u32 = 101;

pub(super) fn trials() -> Vec<Trial> {
    vec![alone("adopt::what_was_adopted_stays_and_goes_with_its_pod", "taken", afterwards)]
}

/// How Spiderpool has attached a pod (../spec/coordinator.md 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The cluster's own network is eth0, and the pool's address is on net1.
    Overlay,
    /// The pool's address is on eth0, and veth0 leads to the node.
    Underlay,
}

/// A pod that Spiderpool has attached.
struct Old {
    pod: Pod,
    netns: Netns,
    attachment: Attachment,
    address: IpAddr,
    /// The node's end of the link to it.
    peer: &'static str,
}

impl Old {
    fn attach(node: &Node, pod: Pod, mode: Mode, last: u8) -> Self {
        let (ifname, inner, peer) = match mode {
            Mode::Overlay => ("net1", "eth0", "lxc61a"),
            Mode::Underlay => ("eth0", "veth0", "vethc0ffee00"),
        };
        let netns = Netns::create(&format!("taken-{}", pod.name)).unwrap();
        symlink(netns.path(), node.namespaces().join(&pod.name)).unwrap();
        let mut outside = node.netns.scene().unwrap();
        outside.veth(End::here(peer), End::inside(&netns, inner)).unwrap();
        outside.up(peer).unwrap();
        let mut inside = netns.scene().unwrap();
        inside.up(inner).unwrap();
        if mode == Mode::Overlay {
            let own: IpNetwork = "10.233.64.5/32".parse().unwrap();
            inside.address(inner, own).unwrap();
            outside.route(own, None, peer).unwrap();
        }

        let address: IpAddr = format!("10.{NET}.1.{last}").parse().unwrap();
        let subnet: IpNetwork = format!("{address}/16").parse().unwrap();
        let attachment =
            Attachment::of_pod(&pod.namespace, &pod.name, &format!("c-{}", pod.name), netns.path(), ifname);
        let ipam = json!({"type": "static", "addresses": [{"address": subnet}]});
        let reference = reference_plugins().expect("package containernetworking-plugins, which Spiderpool works with");
        let made_by = Runtime::new(&node.netns, vec![reference]);
        made_by.add(&conflist(&[macvlan(ipam)]), &attachment).unwrap();

        // The pod's own table, and what leads to the pod on the node.
        let subnet = IpNetwork::new(subnet.network(), subnet.prefix()).unwrap();
        inside.add_route(&route(TABLE, subnet, ifname)).unwrap();
        inside.add_rule(&rule(999, Some(address.into()), TABLE)).unwrap();
        outside.add_route(&route(NODE_TABLE, address.into(), peer)).unwrap();
        let mac = inside.link(inner).unwrap().mac;
        let neighbour = Neighbour { dev: peer.into(), address, mac, permanent: true, protocol: 0 };
        outside.set_neighbour(&neighbour).unwrap();
        Self { pod, netns, attachment, address, peer }
    }

    fn container(&self) -> &str {
        &self.attachment.container
    }

    fn observe(&self) -> Observed {
        self.netns.scene().unwrap().observe().unwrap()
    }

    /// What Spiderpool shows of it.
    fn endpoint(&self, pool: &str) -> Value {
        let nic = json!({
            "interface": self.attachment.ifname, "ipv4": format!("{}/16", self.address), "ipv4Pool": pool, "vlan": 0,
            "cleanGateway": false,
        });
        let Pod { namespace, name, uid, node, .. } = &self.pod;
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid, "controller": true});
        json!({
            "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderEndpoint",
            "metadata": {
                "name": name, "namespace": namespace, "finalizers": ["spiderpool.spidernet.io"],
                "ownerReferences": [owner],
            },
            "status": {
                "current": {"uid": uid, "node": node, "ips": [nic]},
                "ownerControllerType": "Pod", "ownerControllerName": name,
            },
        })
    }

    /// What the runtime remembers of it.
    fn cached(&self) -> Value {
        let (container, ifname) = (self.container(), &self.attachment.ifname);
        json!({
            "kind": "cniCacheV1", "containerId": container, "ifName": ifname, "networkName": "old",
            "netns": format!("/var{}", self.netns.path()), "cniArgs": [["K8S_POD_UID", self.pod.uid]],
        })
    }
}

fn route(table: u32, dst: IpNetwork, dev: &str) -> Route {
    Route {
        table,
        dst,
        metric: 0,
        dev: Some(dev.into()),
        gateway: None,
        src: None,
        scope: Scope::LINK,
        onlink: false,
        kind: RouteKind::Unicast,
        protocol: BOOT,
    }
}

fn rule(priority: u32, from: Option<IpNetwork>, table: u32) -> Rule {
    Rule { priority, v6: false, from, to: None, table, mark: None, other: None, protocol: BOOT }
}

fn macvlan(ipam: Value) -> Value {
    json!({"type": "macvlan", "master": "eth0", "mode": "bridge", "ipam": ipam})
}

fn conflist(plugins: &[Value]) -> Conflist {
    Conflist::parse(&json!({"cniVersion": "1.0.0", "name": "old", "plugins": plugins}).to_string()).unwrap()
}

/// `dragline adopt FLAGS` on the node, with the rights of its agent. It leaves nothing.
fn adopt(node: &Node, flags: &[&str]) -> String {
    let settings = node.agent().settings().clone();
    let mut command = Command::new(&Binaries::build().unwrap().dragline);
    command.arg("adopt").args(flags).args(["--node-name", &node.name, "--netns-dir", "/run/netns"]);
    command.arg("--kubeconfig").arg(settings.source.path());
    command.arg("--state-dir").arg(settings.state_dir);
    command.arg("--cni-cache-dir").arg(results(node));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = node.netns.spawn(&mut command).unwrap().wait_with_output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{table}\n{}", String::from_utf8_lossy(&output.stderr));
    table
}

fn results(node: &Node) -> PathBuf {
    node.folder().join("results")
}

fn afterwards(ground: &Ground) {
    let mut fleet = Fleet::start(ground, "taken", &pool(NET, ADDRESSES, 0)).unwrap();
    let node = fleet.node("taken-0", "taken-0").unwrap();
    fleet.nodes.push(node);
    let fleet = fleet;
    let node = &fleet.nodes[0];
    node.netns.scene().unwrap().add_rule(&rule(NODE_PRIORITY, None, NODE_TABLE)).unwrap();
    let modes = [(Mode::Overlay, 0), (Mode::Underlay, 1)];
    let pods = fleet.bind_to(node, "old", modes.len()).unwrap();
    let old: Vec<Old> =
        pods.into_iter().zip(modes).map(|(pod, (mode, last))| Old::attach(node, pod, mode, last)).collect();
    left_by_spiderpool(&fleet, &old);
    let book = Book::default();
    old.iter().for_each(|old| book.given(&old.pod, old.address));

    let table = adopt(node, &["--cluster"]);
    assert_eq!(table.matches("kept").count(), old.len(), "{table}");
    let table = adopt(node, &[]);
    assert_eq!(table.matches("adopted").count(), old.len(), "{table}");
    let before: Vec<Observed> = old.iter().map(Old::observe).collect();
    let outside = || node.netns.scene().unwrap().observe().unwrap();
    let outside_before = outside();

    // The agent gives what is left, and nothing else.
    node.launch().unwrap();
    node.wait_ready().unwrap();
    assert_shown(&fleet, &book);
    let new = fleet.bind_to(node, "new", ADDRESSES as usize).unwrap();
    for pod in &new[..2] {
        node.start(pod, &book, PATIENCE).unwrap();
    }
    assert_right(&fleet, &book);
    let said = refusal(node.add(&new[2], &book));
    assert!(said.contains("pool taken"), "{said}");
    node.delete(&new[2], &book).unwrap();
    node.crash().unwrap();
    node.wait_ready().unwrap();
    node.agent().ask(&["check"]).unwrap();
    assert_eq!(old.iter().map(Old::observe).collect::<Vec<_>>(), before, "pods are not touched");
    assert_eq!(outside(), outside_before, "the node is not touched");

    // They go, one by dragline's macvlan plugin and one by the one that made it.
    let plugins = node.folder().join("bin");
    Binaries::build().unwrap().install_plugins(&plugins).unwrap();
    let mut paths = vec![vec![plugins.clone()], vec![reference_plugins().unwrap(), plugins]].into_iter();
    for (old, waiting) in old.into_iter().zip(&new[2..]) {
        let path = paths.next().unwrap();
        let settings = node.agent().settings().clone();
        let runtime = Runtime::new(&node.netns, path)
            .with_env("DRAGLINE_SOCKET", settings.socket)
            .with_env("DRAGLINE_STATE_DIR", settings.state_dir);
        let ipam = json!({"type": "spiderpool", "default_ipv4_ippool": [&fleet.name]});
        let conflist = conflist(&[macvlan(ipam), json!({"type": "coordinator"})]);
        book.taken_back(&old.pod);
        runtime.del(&conflist, &old.attachment, None).unwrap();
        let Old { pod, netns, attachment, address, peer } = old;
        let remains = remains(&outside(), peer, address);
        println!("{} after DEL, before its namespace goes: {remains:?}; in it {:?}", pod.name, {
            let links = netns.scene().unwrap().observe().unwrap().links;
            links.into_iter().map(|link| link.name).collect::<Vec<_>>()
        });
        netns.delete();
        eventually("the end of all that led to it", || {
            let found = self::remains(&outside(), peer, address);
            if found.is_empty() { Ok(()) } else { Err(format!("{found:?}")) }
        });
        pod.delete(&ground.objects).unwrap();
        let (given, _) = node.start(waiting, &book, PATIENCE).unwrap();
        assert_eq!(given, address, "it was the only one that was free");
        let records = node.agent().list("attachments").unwrap();
        assert!(!records.iter().any(|record| record.to_string().contains(&attachment.container)), "{records:?}");
    }
    assert_right(&fleet, &book);
    assert_shown(&fleet, &book);
    let own_routes = |observed: &Observed| observed.routes.iter().filter(|route| route.table == NODE_TABLE).count();
    assert_eq!((own_routes(&outside_before), own_routes(&outside())), (2, 0));
    assert!(outside().rules.iter().any(|rule| rule.priority == NODE_PRIORITY), "it is not only theirs");
}

/// Pool, endpoints and the runtime's memory.
fn left_by_spiderpool(fleet: &Fleet<'_>, old: &[Old]) {
    let objects = &fleet.ground().objects;
    let user = |old: &Old| {
        let user = json!({"pod": format!("{}/{}", old.pod.namespace, old.pod.name), "podUid": old.pod.uid});
        (old.address.to_string(), user)
    };
    let users: serde_json::Map<String, Value> = old.iter().map(user).collect();
    let status = json!({"allocatedIPs": Value::Object(users).to_string(), "allocatedIPCount": old.len()});
    objects.patch_status(&format!("{SPIDERPOOL}/spiderippools"), &fleet.name, &json!({"status": status})).unwrap();
    let kind = format!("{SPIDERPOOL}/namespaces/{}/spiderendpoints", fleet.name);
    fs::create_dir_all(results(&fleet.nodes[0])).unwrap();
    for old in old {
        objects.create(&kind, &old.endpoint(&fleet.name)).unwrap();
        let file = format!("old-{}-{}", old.container(), old.attachment.ifname);
        fs::write(results(&fleet.nodes[0]).join(file), old.cached().to_string()).unwrap();
    }
}

/// What on the node leads to a pod: its link, and routes and neighbours of its address on any link.
fn remains(node: &Observed, peer: &str, address: IpAddr) -> Vec<String> {
    let routes = node.routes.iter().filter(|route| route.dst == IpNetwork::from(address)).map(|it| format!("{it:?}"));
    let neighbours = node.neighbours.iter().filter(|it| it.address == address).map(|it| format!("{it:?}"));
    let rules = node.rules.iter().filter(|rule| [rule.from, rule.to].contains(&Some(IpNetwork::from(address))));
    let links = node.links.iter().filter(|link| link.name == peer).map(|it| it.name.clone());
    routes.chain(neighbours).chain(rules.map(|it| format!("{it:?}"))).chain(links).collect()
}
