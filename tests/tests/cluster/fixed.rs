//! Pods that keep their addresses, with real agents and a real controller. StatefulSets, virtual machines and pods are
//! objects made by hand: there is no kube-controller-manager and no KubeVirt that would make the next pod.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use serde_json::{Value, json};
use tests::fleet::{Book, Controller, Fleet, Ground, Node, Options, Pod};

use crate::bed::eventually;
use crate::leases::{PATIENCE, alone, assert_right, pool, refusal};
use crate::resident::definition;

const SETS: &str = "/apis/apps/v1/namespaces/fixed/statefulsets";
const ENDPOINT: &str = "/apis/spiderpool.spidernet.io/v2beta1";
const ENDPOINTS: &str = "/apis/spiderpool.spidernet.io/v2beta1/namespaces/fixed/spiderendpoints";
const POOL: u32 = 8;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        alone("fixed::e00003_f00001_g00011_pods_take_their_addresses_along", "fixed", along),
        alone("fixed::a_dead_nodes_pods_find_their_addresses_elsewhere", "buried", buried),
    ]
}

/// A fleet with a controller, and what has been given to whom.
struct Stage<'a> {
    ground: &'a Ground,
    fleet: Fleet<'a>,
    book: Book,
}

impl Stage<'_> {
    /// A pod of that name and controller on a node, with an address of the pool.
    fn begin(&self, name: &str, node: &Node, controller: &Value, pool: &str) -> (Pod, IpAddr) {
        let pod = self.bind(name, node, controller, pool);
        let (address, took) = node.start(&pod, &self.book, PATIENCE).unwrap();
        println!("{name} on {}: {address} after {took:?}", node.name);
        // It lives for longer than its endpoint takes to be written.
        let path = format!("{ENDPOINT}/namespaces/{}/spiderendpoints", self.fleet.name);
        eventually("the endpoint is written", || {
            let found = self.ground.objects.list(&path).map_err(|error| error.to_string())?;
            let is_its_own = |one: &&Value| one["status"]["current"]["uid"] == json!(pod.uid);
            found.iter().find(is_its_own).map(drop).ok_or_else(|| format!("{found:?}"))
        });
        (pod, address)
    }

    fn bind(&self, name: &str, node: &Node, controller: &Value, pool: &str) -> Pod {
        let application = self.fleet.application("app");
        let application = tests::fleet::Application { pool, ..application };
        application.bind_owned(&self.ground.objects, name, &node.name, controller).unwrap()
    }

    fn end(&self, pod: &Pod) {
        self.fleet.node_of(pod).stop(pod, &self.book, PATIENCE).unwrap();
        pod.delete(&self.ground.objects).unwrap();
    }

    fn holder(&self, address: IpAddr) -> Result<String, String> {
        let census = self.fleet.census().map_err(|error| error.to_string())?;
        Ok(census.holder(address).map_or_else(|| "nobody".to_owned(), ToString::to_string))
    }

    fn wait_holder(&self, address: IpAddr, is_right: impl Fn(&str) -> bool) {
        eventually("an address has the right holder", || {
            let holder = self.holder(address)?;
            if is_right(&holder) { Ok(()) } else { Err(format!("{address}: {holder}")) }
        });
    }

    /// What was kept is anybody's: a node may have claimed it since.
    fn wait_free(&self, address: IpAddr) {
        self.wait_holder(address, |holder| !holder.starts_with('='));
    }

    fn wait_kept(&self, pod: &Pod, address: IpAddr) {
        let owner = format!("={}/{}/net1", self.fleet.name, pod.name);
        self.wait_holder(address, |holder| holder == owner);
    }

    fn endpoint_of(&self, name: &str) -> Option<Value> {
        self.ground.objects.get(ENDPOINTS, name).ok()
    }
}

pub(crate) fn set(ground: &Ground, namespace: &str, name: &str, replicas: u32) -> Value {
    let labels = json!({"set": name});
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "app", "image": "app"}]}});
    let object = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name, "namespace": namespace},
        "spec": {"replicas": replicas, "serviceName": name, "selector": {"matchLabels": labels}, "template": template},
    });
    let mut made =
        ground.objects.create(&format!("/apis/apps/v1/namespaces/{namespace}/statefulsets"), &object).unwrap();
    (made["apiVersion"], made["kind"]) = (json!("apps/v1"), json!("StatefulSet"));
    made
}

fn along(ground: &Ground) {
    let _controller = Controller::start(ground, "fixed").unwrap();
    let fleet = Fleet::start(ground, "fixed", &pool(61, POOL, 2)).unwrap();
    fleet.declare_pool("other", "10.62.0.0/16", &["10.62.1.0-10.62.1.7".to_owned()]).unwrap();
    let stage = Stage { ground, fleet, book: Book::default() };
    moves(&stage);
    is_waited_for(&stage);
    outlives_its_pod(&stage);
    takes_another_pool(&stage);
    machines(&stage);
    assert_right(&stage.fleet, &stage.book);
}

/// E00003, G00010, G00011: all of a set move; nobody else gets theirs; what is scaled down and deleted comes back.
fn moves(stage: &Stage<'_>) {
    let Stage { ground, fleet, book } = stage;
    let [one, two] = &fleet.nodes[..] else { unreachable!("two nodes were asked for") };
    let set = set(ground, "fixed", "db", 4);
    let mut pods: Vec<(Pod, IpAddr)> = (0..4).map(|n| stage.begin(&format!("db-{n}"), one, &set, "fixed")).collect();
    for (pod, address) in &mut pods {
        stage.end(pod);
        stage.wait_kept(pod, *address);
        let began = Instant::now();
        let (next, again) = stage.begin(&pod.name, two, &set, "fixed");
        assert_eq!(again, *address, "{} has its own", pod.name);
        println!("{} has moved after {:?}", next.name, began.elapsed());
        *pod = next;
    }
    assert_right(fleet, book);
    // All at once, and the other half of the pool is others'.
    pods.iter().for_each(|(pod, _)| stage.end(pod));
    let others = fleet.bind_to(one, "others", POOL as usize).unwrap();
    let got: Vec<IpAddr> = others[..4].iter().map(|pod| one.start(pod, book, PATIENCE).unwrap().0).collect();
    assert!(got.iter().all(|address| pods.iter().all(|(_, kept)| kept != address)), "{got:?}");
    let said = refusal(one.add(&others[4], book));
    println!("with the rest kept: {said}");
    others.iter().for_each(|pod| stage.end(pod));
    let mut back: Vec<(Pod, IpAddr)> = Vec::new();
    for (pod, address) in &pods {
        let node = if back.len().is_multiple_of(2) { one } else { two };
        let (next, again) = stage.begin(&pod.name, node, &set, "fixed");
        assert_eq!(again, *address);
        back.push((next, again));
    }
    eventually("the endpoint follows", || {
        let endpoint = stage.endpoint_of("db-0").unwrap_or_default();
        let node = &endpoint["status"]["current"]["node"];
        if *node == json!(one.name) { Ok(()) } else { Err(endpoint.to_string()) }
    });

    let fewer = json!({"spec": {"replicas": 2}}).to_string();
    ground.kubectl().ask(&["-n", "fixed", "patch", "statefulset", "db", "--type=merge", "-p", &fewer], "").unwrap();
    back.iter().for_each(|(pod, _)| stage.end(pod));
    back.iter().for_each(|(pod, address)| stage.wait_kept(pod, *address));
    let began = Instant::now();
    back[2..].iter().for_each(|(_, address)| stage.wait_free(*address));
    println!("scaled down: free after {:?}", began.elapsed());
    back[..2].iter().for_each(|(pod, address)| stage.wait_kept(pod, *address));
    ground.objects.delete(SETS, "db").unwrap();
    back.iter().for_each(|(_, address)| stage.wait_free(*address));
    assert!((0..4).all(|number| stage.endpoint_of(&format!("db-{number}")).is_none()));
}

/// The API server has another pod of that name by now; the old one's sandbox is there still.
fn is_waited_for(stage: &Stage<'_>) {
    let Stage { ground, fleet, book } = stage;
    let [one, two] = &fleet.nodes[..] else { unreachable!("two nodes were asked for") };
    let set = set(ground, "fixed", "late", 1);
    let (old, address) = stage.begin("late-0", one, &set, "fixed");
    old.delete(&ground.objects).unwrap();
    let new = stage.bind("late-0", two, &set, "fixed");
    let said = refusal(two.add(&new, book));
    println!("while it is in use: {said}");
    assert!(said.contains(&one.name) && said.contains(&address.to_string()), "{said}");
    two.stop(&new, book, PATIENCE).unwrap();
    one.stop(&old, book, PATIENCE).unwrap();
    let (again, took) = two.start(&new, book, PATIENCE).unwrap();
    println!("given back: taken up after {took:?}");
    assert_eq!(again, address);
    stage.end(&new);
    stage.wait_kept(&new, address);
    ground.objects.delete(SETS, "late").unwrap();
    stage.wait_free(address);
}

/// Deleted by force: the API server has known no such pod for a while when its controller makes the next one.
fn outlives_its_pod(stage: &Stage<'_>) {
    let Stage { ground, fleet, book } = stage;
    let [one, two] = &fleet.nodes[..] else { unreachable!("two nodes were asked for") };
    let set = set(ground, "fixed", "left", 1);
    let (old, address) = stage.begin("left-0", one, &set, "fixed");
    let before = stage.endpoint_of("left-0").unwrap();
    old.delete(&ground.objects).unwrap();
    // For longer than an agent takes to see it and to write something.
    std::thread::sleep(Duration::from_secs(2));
    let after = stage.endpoint_of("left-0").unwrap();
    assert_eq!((&after["status"], &after["metadata"]["ownerReferences"]), (&before["status"], &Value::Null));
    let new = stage.bind("left-0", two, &set, "fixed");
    let said = refusal(two.add(&new, book));
    assert!(said.contains(&one.name) && said.contains(&address.to_string()), "{said}");
    two.stop(&new, book, PATIENCE).unwrap();
    one.stop(&old, book, PATIENCE).unwrap();
    let (again, _) = two.start(&new, book, PATIENCE).unwrap();
    assert_eq!(again, address);
    stage.end(&new);
    stage.wait_kept(&new, address);
    ground.objects.delete(SETS, "left").unwrap();
    stage.wait_free(address);
}

/// A00009: its annotation names another pool.
fn takes_another_pool(stage: &Stage<'_>) {
    let Stage { ground, fleet, .. } = stage;
    let [one, two] = &fleet.nodes[..] else { unreachable!("two nodes were asked for") };
    let set = set(ground, "fixed", "web", 1);
    let (pod, before) = stage.begin("web-0", one, &set, "fixed");
    stage.end(&pod);
    stage.wait_kept(&pod, before);
    let (pod, after) = stage.begin("web-0", two, &set, "other");
    assert_ne!(before, after);
    assert!(after.to_string().starts_with("10.62."), "{after}");
    stage.wait_free(before);
    eventually("the endpoint has the new one", || {
        let endpoint = stage.endpoint_of("web-0").unwrap_or_default();
        let is_new =
            endpoint["status"]["current"]["uid"] == json!(pod.uid) && endpoint.to_string().contains(&after.to_string());
        if is_new { Ok(()) } else { Err(endpoint.to_string()) }
    });
    stage.end(&pod);
    ground.objects.delete(SETS, "web").unwrap();
    eventually("the endpoint goes", || stage.endpoint_of("web-0").map_or(Ok(()), |found| Err(found.to_string())));
}

/// F00001: a virtual machine that starts again has another pod of another name.
fn machines(stage: &Stage<'_>) {
    let Stage { ground, fleet, .. } = stage;
    let [one, two] = &fleet.nodes[..] else { unreachable!("two nodes were asked for") };
    let kinds = [("VirtualMachine", "virtualmachines"), ("VirtualMachineInstance", "virtualmachineinstances")];
    for (kind, plural) in kinds {
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        ground.objects.create(path, &definition("kubevirt.io", "v1", kind, plural)).unwrap();
    }
    let make = |kind: &str, plural: &str| {
        let object =
            json!({"apiVersion": "kubevirt.io/v1", "kind": kind, "metadata": {"name": "vm1", "namespace": "fixed"}});
        let path = format!("/apis/kubevirt.io/v1/namespaces/fixed/{plural}");
        eventually("KubeVirt's kinds", || ground.objects.create(&path, &object).map_err(|error| error.to_string()))
    };
    make(kinds[0].0, kinds[0].1);
    let instance = make(kinds[1].0, kinds[1].1);
    let (pod, address) = stage.begin("virt-launcher-vm1-abcde", one, &instance, "fixed");
    assert!(stage.endpoint_of("vm1").is_some(), "it is the machine's");
    stage.end(&pod);
    let path = "/apis/kubevirt.io/v1/namespaces/fixed/virtualmachineinstances";
    ground.objects.delete(path, "vm1").unwrap();
    // Off for longer than its controller is waited for.
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(stage.holder(address).unwrap(), "=fixed/vm1/net1");
    let instance = make(kinds[1].0, kinds[1].1);
    let (pod, again) = stage.begin("virt-launcher-vm1-fghij", two, &instance, "fixed");
    assert_eq!(again, address);
    stage.end(&pod);
    stage.wait_holder(address, |holder| holder == "=fixed/vm1/net1");
    ground.objects.delete(path, "vm1").unwrap();
    ground.objects.delete("/apis/kubevirt.io/v1/namespaces/fixed/virtualmachines", "vm1").unwrap();
    stage.wait_free(address);
}

/// A node is gone with its pods; its agent is silent.
fn buried(ground: &Ground) {
    let _controller = Controller::start(ground, "buried").unwrap();
    let options = Options { lease_ttl: Duration::from_secs(12), ..pool(63, POOL, 2) };
    let fleet = Fleet::start(ground, "buried", &options).unwrap();
    let stage = Stage { ground, fleet, book: Book::default() };
    let [dead, living] = &stage.fleet.nodes[..] else { unreachable!("two nodes were asked for") };
    let set = set(ground, "buried", "db", 1);
    let (old, address) = stage.begin("db-0", dead, &set, "buried");
    dead.agent().kill().unwrap();
    old.delete(&ground.objects).unwrap();
    let new = stage.bind("db-0", living, &set, "buried");
    let said = refusal(living.add(&new, &stage.book));
    println!("before the node is known to be gone: {said}");
    assert!(said.contains(&dead.name), "{said}");
    living.stop(&new, &stage.book, PATIENCE).unwrap();
    ground.objects.delete("/api/v1/nodes", &dead.name).unwrap();
    let began = Instant::now();
    stage.book.taken_back(&old);
    let (again, _) = living.start(&new, &stage.book, PATIENCE).unwrap();
    println!("taken up {:?} after the node was deleted", began.elapsed());
    assert_eq!(again, address);
    assert_right(&stage.fleet, &stage.book);
}
