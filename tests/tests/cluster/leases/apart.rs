//! The API server is away.

use libtest_mimic::Trial;
use netlink::testbed::Netns;
use serde_json::json;
use tests::binaries::Binaries;
use tests::fleet::{Book, Fleet, Ground, Options};
use tests::runtime::{Attachment, Conflist, Runtime};

use super::{alone, assert_right, assert_shown, pool, start_all};
use crate::bed::eventually;

pub(super) fn trials() -> Vec<Trial> {
    vec![alone("leases::without_the_api_server_a_node_works_on", "apart", works_on)]
}

fn works_on(ground: &Ground) {
    let options = Options { fair_share: Some(8), ..pool(7, 1000, 2) };
    let fleet = Fleet::start(ground, "apart", &options).unwrap();
    let book = Book::default();
    let node = &fleet.nodes[0];
    let pods = fleet.bind("web", 8, &fleet.nodes).unwrap();
    start_all(&fleet, &book, &pods);
    // Bound while the API server is there, started when it is away.
    let late = fleet.bind("late", 8, &fleet.nodes).unwrap();
    let linked = Linked::attach(&fleet, &late[6].name);
    for node in &fleet.nodes {
        let wanted = 8 + late.iter().filter(|pod| pod.node == node.name).count() / 2;
        eventually("what its pods want is leased", || {
            let census = fleet.census().map_err(|error| error.to_string())?;
            let has = census.counts().get(&node.name).copied().unwrap_or(0);
            if has >= wanted { Ok(()) } else { Err(format!("{} holds {has} addresses, not {wanted}", node.name)) }
        });
    }
    assert_shown_besides(&fleet, &book, 1);

    ground.cluster().kill().unwrap();
    start_all(&fleet, &book, &late[..6]);
    for pod in &pods[..4] {
        fleet.node_of(pod).delete(pod, &book).unwrap();
    }
    linked.is_repaired();
    for node in &fleet.nodes {
        node.crash().unwrap();
    }
    for node in &fleet.nodes {
        node.wait_ready().unwrap();
    }
    // Who had one has it still, by the same ADD again.
    let kept = book.held();
    for pod in pods[4..].iter().chain(&late[..6]) {
        let address = fleet.node_of(pod).add(pod, &book).unwrap();
        assert_eq!(kept.get(&address).map(|tenure| &tenure.uid), Some(&pod.uid), "{}", pod.name);
    }
    linked.is_repaired();
    assert!(node.agent().pid().is_some());

    ground.cluster().restart().unwrap();
    // Their kubelets say so now.
    pods[..4].iter().for_each(|pod| pod.delete(&ground.objects).unwrap());
    start_all(&fleet, &book, &late[7..]);
    assert_right(&fleet, &book);
    assert_shown_besides(&fleet, &book, 1);
    linked.detach();
    assert_shown(&fleet, &book);
}

/// The endpoints of the book's pods are there, and so many more.
fn assert_shown_besides(fleet: &Fleet<'_>, book: &Book, more: usize) {
    let held = book.held();
    eventually("the SpiderEndpoints", || {
        let shown = fleet.endpoints().map_err(|error| error.to_string())?;
        let known = shown.iter().filter(|(_, address)| held.keys().any(|held| held.to_string() == *address)).count();
        if known == held.len() && shown.len() == held.len() + more {
            Ok(())
        } else {
            Err(format!("{} are shown, {known} of the {} that are wanted", shown.len(), held.len()))
        }
    });
}

/// A pod with a macvlan of the plugins' making.
struct Linked<'a> {
    runtime: Runtime<'a>,
    conflist: Conflist,
    attachment: Attachment,
    result: serde_json::Value,
    pod: Netns,
    address: String,
}

impl<'a> Linked<'a> {
    /// By the plugins, in a namespace of its own: the pod of that name on the first node.
    fn attach(fleet: &'a Fleet<'_>, pod: &str) -> Self {
        let node = &fleet.nodes[0];
        let plugins = node.folder().join("bin");
        Binaries::build().unwrap().install_plugins(&plugins).unwrap();
        let netns = Netns::create("apart-linked").unwrap();
        // Without the coordinator, for which the cluster's own network would have to be there.
        let ipam = json!({"type": "spiderpool", "default_ipv4_ippool": [&fleet.name]});
        let macvlan = json!({"type": "macvlan", "master": "eth0", "mode": "bridge", "ipam": ipam});
        let conflist = json!({"cniVersion": "1.0.0", "name": &fleet.name, "plugins": [macvlan]});
        let conflist = Conflist::parse(&conflist.to_string()).unwrap();
        let settings = node.agent().settings().clone();
        let runtime = Runtime::new(&node.netns, vec![plugins])
            .with_env("DRAGLINE_SOCKET", settings.socket)
            .with_env("DRAGLINE_STATE_DIR", settings.state_dir);
        let attachment = Attachment::of_pod(&fleet.name, pod, "linked", netns.path(), "net1");
        let result = runtime.add(&conflist, &attachment).unwrap();
        let address = result["ips"][0]["address"].as_str().unwrap().to_owned();
        Self { runtime, conflist, attachment, result, pod: netns, address }
    }

    /// What is taken away comes back.
    fn is_repaired(&self) {
        let mut scene = self.pod.scene().unwrap();
        scene.delete_address("net1", self.address.parse().unwrap()).unwrap();
        eventually("its address comes back", || {
            let observed = scene.observe().map_err(|error| error.to_string())?;
            let found = observed.addresses.iter().any(|address| address.address.to_string() == self.address);
            if found { Ok(()) } else { Err(format!("{} is not there", self.address)) }
        });
    }

    fn detach(self) {
        self.runtime.del(&self.conflist, &self.attachment, Some(&self.result)).unwrap();
    }
}
