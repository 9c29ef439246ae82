//! Pods with any controller, any annotations and several interfaces, made by hand, and their sandboxes.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netlink::testbed::Netns;
use schemas::cni::netconf::SpiderpoolIpam;
use schemas::intent::PodRef;
use schemas::name::AttachmentKey;
use schemas::wire::{AllocateCall, Answer, Call, Part, Place, Withdrawal};
use serde_json::{Value, json};
use tests::fleet::{CallError, Fleet, Node};

use crate::bed::eventually;
use crate::leases::PATIENCE;

const SPIDERPOOL: &str = "/apis/spiderpool.spidernet.io/v2beta1";
/// The cluster's own interface, which no annotation lists.
const ETH0: &str = "eth0";

/// After an ADD that failed a kubelet waits before it makes another sandbox; it waits longer than this.
const PAUSE: Duration = Duration::from_millis(200);

/// Sandboxes have names that no other one of the process has.
static SANDBOXES: AtomicU64 = AtomicU64::new(0);

/// What a pod is to be.
#[derive(Debug, Clone)]
pub(crate) struct Form<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) controller: Option<&'a Value>,
    /// In the order in which they are added. All are of the fleet's network.
    pub(crate) interfaces: &'a [&'a str],
    /// By their keys without `ipam.spidernet.io/`; of values that are no texts the JSON.
    pub(crate) annotations: Value,
}

/// A pod that is bound to a node.
pub(crate) struct Resident<'a> {
    pub(crate) pod: PodRef,
    fleet: &'a Fleet<'a>,
    node: &'a Node,
    interfaces: Vec<String>,
    sandbox: Option<(String, Netns)>,
}

impl Form<'_> {
    /// Makes the pod, on that node.
    pub(crate) fn bind<'f>(&self, fleet: &'f Fleet<'f>, node: &'f Node) -> Resident<'f> {
        let network = format!("{0}/{0}", fleet.name);
        let listed = self.interfaces.iter().filter(|ifname| **ifname != ETH0);
        let listed: Vec<String> = listed.map(|ifname| format!("{network}@{ifname}")).collect();
        let mut metadata = json!({"name": self.name, "labels": {"app": "resident"}});
        metadata["annotations"] = annotations(&self.annotations);
        metadata["annotations"]["k8s.v1.cni.cncf.io/networks"] = json!(listed.join(","));
        metadata["ownerReferences"] = self.controller.map(reference).into_iter().collect();
        let spec = json!({"nodeName": node.name, "automountServiceAccountToken": false,
            "containers": [{"name": "app", "image": "app"}]});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        let made = fleet.ground().objects.create(&pods(self.namespace), &pod).unwrap();
        let uid = made["metadata"]["uid"].as_str().unwrap().to_owned();
        Resident {
            pod: PodRef { namespace: self.namespace.to_owned(), name: self.name.to_owned(), uid },
            fleet,
            node,
            interfaces: self.interfaces.iter().map(ToString::to_string).collect(),
            sandbox: None,
        }
    }

    /// The same, with its addresses.
    #[track_caller]
    pub(crate) fn start<'f>(&self, fleet: &'f Fleet<'f>, node: &'f Node) -> (Resident<'f>, Vec<IpAddr>) {
        let mut resident = self.bind(fleet, node);
        let addresses = resident.start();
        (resident, addresses)
    }
}

impl Resident<'_> {
    /// One ADD for each interface, in a sandbox that is made if there is none: the addresses in that order, IPv4 before
    /// IPv6.
    ///
    /// # Errors
    /// That of the first ADD that fails; the sandbox stays.
    pub(crate) fn add(&mut self) -> Result<Vec<IpAddr>, CallError> {
        if self.sandbox.is_none() {
            let container = format!("{}-{}", self.pod.name, SANDBOXES.fetch_add(1, Ordering::Relaxed));
            let netns = Netns::create(&format!("{}-{container}", self.node.name))?;
            self.sandbox = Some((container, netns));
        }
        let Some((container, netns)) = &self.sandbox else { unreachable!("it was made") };
        let mut addresses = Vec::new();
        for ifname in &self.interfaces {
            let key = AttachmentKey { container: container.parse()?, ifname: ifname.parse()? };
            let place = Place {
                key,
                network: self.fleet.name.parse()?,
                netns: Some(netns.path().to_owned()),
                pod: self.pod.clone(),
            };
            let ipam = SpiderpoolIpam { plugin: "spiderpool".into(), ..SpiderpoolIpam::default() };
            match self.node.call(Call::Allocate(AllocateCall { place, ipam }))? {
                Answer::Result(result) => addresses.extend(result.ips.iter().map(|ip| ip.address.ip())),
                other => return Err(CallError::Otherwise(format!("{other:?}"))),
            }
        }
        Ok(addresses)
    }

    /// What a kubelet does until all interfaces have their addresses, and the endpoint tells of them.
    #[track_caller]
    pub(crate) fn start(&mut self) -> Vec<IpAddr> {
        let begun = Instant::now();
        let addresses = loop {
            match self.add() {
                Ok(addresses) => break addresses,
                Err(error) => {
                    self.stop();
                    assert!(begun.elapsed() < PATIENCE, "{} on {}: {error}", self.pod.name, self.node.name);
                    thread::sleep(PAUSE);
                }
            }
        };
        println!("{} on {}: {addresses:?} after {:?}", self.pod.name, self.node.name, begun.elapsed());
        eventually("the endpoint tells of all addresses", || {
            let endpoint = self.endpoint().ok_or("none")?;
            let told = endpoint["status"]["current"]["ips"].to_string();
            let is_told = |address: &IpAddr| told.contains(&format!("\"{address}/"));
            if addresses.iter().all(is_told) { Ok(()) } else { Err(told) }
        });
        addresses
    }

    /// DEL of all interfaces, the last one first. The sandbox is gone then.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        self.stop_with(|_| ());
    }

    /// The same, with something to do after the DEL of each interface.
    #[track_caller]
    pub(crate) fn stop_with(&mut self, after: impl Fn(&str)) {
        let Some((container, _netns)) = self.sandbox.take() else { return };
        for ifname in self.interfaces.iter().rev() {
            let key = AttachmentKey { container: container.parse().unwrap(), ifname: ifname.parse().unwrap() };
            self.node.call(Call::Withdraw(Withdrawal { key, part: Part::Addresses })).unwrap();
            after(ifname);
        }
    }

    /// The same, and the pod is deleted.
    #[track_caller]
    pub(crate) fn end(mut self) {
        self.stop();
        self.fleet.ground().objects.delete(&pods(&self.pod.namespace), &self.pod.name).unwrap();
    }

    /// The endpoint that is about this very pod, however it is called.
    pub(crate) fn endpoint(&self) -> Option<Value> {
        let found = endpoints(self.fleet, &self.pod.namespace);
        found.into_iter().find(|endpoint| endpoint["status"]["current"]["uid"] == json!(self.pod.uid))
    }
}

fn pods(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

/// The endpoints of a namespace.
pub(crate) fn endpoints(fleet: &Fleet<'_>, namespace: &str) -> Vec<Value> {
    fleet.ground().objects.list(&format!("{SPIDERPOOL}/namespaces/{namespace}/spiderendpoints")).unwrap_or_default()
}

/// Waits until a namespace has no endpoint of that name.
#[track_caller]
pub(crate) fn wait_no_endpoint(fleet: &Fleet<'_>, namespace: &str, name: &str) {
    eventually(&format!("no endpoint {name}"), || {
        let found = endpoints(fleet, namespace);
        let found = found.iter().find(|endpoint| endpoint["metadata"]["name"] == name);
        found.map_or(Ok(()), |found| Err(found.to_string()))
    });
}

/// Waits until nobody has or keeps anything of these pools, by the controller's count.
#[track_caller]
pub(crate) fn wait_unused(fleet: &Fleet<'_>, pools: &[&str]) {
    for pool in pools {
        eventually(&format!("nothing of {pool} is used"), || {
            let found = fleet.ground().objects.get(&format!("{SPIDERPOOL}/spiderippools"), pool);
            let status = found.map_err(|error| error.to_string())?["status"].clone();
            if status["allocatedIPCount"] == 0 { Ok(()) } else { Err(status.to_string()) }
        });
    }
}

/// Who has an address of a pool, as its slot says.
pub(crate) fn holder(fleet: &Fleet<'_>, pool: &str, address: IpAddr) -> Result<String, String> {
    let census = fleet.census_of(pool).map_err(|error| error.to_string())?;
    Ok(census.holder(address).map_or_else(|| "nobody".to_owned(), ToString::to_string))
}

#[track_caller]
pub(crate) fn wait_holder(fleet: &Fleet<'_>, pool: &str, address: IpAddr, is_right: impl Fn(&str) -> bool) {
    eventually("an address has the right holder", || {
        let holder = holder(fleet, pool, address)?;
        if is_right(&holder) { Ok(()) } else { Err(format!("{address}: {holder}")) }
    });
}

/// By annotations' whole keys, all values texts.
pub(crate) fn annotations(short: &Value) -> Value {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let all = short.as_object().into_iter().flatten();
    all.map(|(key, value)| (format!("ipam.spidernet.io/{key}"), json!(text(value)))).collect()
}

/// By which an object says that another one controls it.
pub(crate) fn reference(controller: &Value) -> Value {
    json!({"apiVersion": controller["apiVersion"], "kind": controller["kind"], "name": controller["metadata"]["name"],
        "uid": controller["metadata"]["uid"], "controller": true})
}

/// Makes an object of a group's kind: with `apiVersion` and `kind`, which lists and answers leave out at times.
#[track_caller]
pub(crate) fn make(fleet: &Fleet<'_>, api_version: &str, kind: &str, plural: &str, object: &Value) -> Value {
    let mut object = object.clone();
    (object["apiVersion"], object["kind"]) = (json!(api_version), json!(kind));
    let namespace = object["metadata"]["namespace"].as_str().unwrap().to_owned();
    let path = format!("/apis/{api_version}/namespaces/{namespace}/{plural}");
    let create = || fleet.ground().objects.create(&path, &object).map_err(|error| error.to_string());
    // A kind that has just been defined is not served at once.
    let mut made = eventually(&format!("a {kind}"), create);
    (made["apiVersion"], made["kind"]) = (json!(api_version), json!(kind));
    made
}

/// The definition of a kind of which the API server knows nothing but its name.
pub(crate) fn definition(group: &str, version: &str, kind: &str, plural: &str) -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced", "names": {"kind": kind, "plural": plural},
            "versions": [{"name": version, "served": true, "storage": true, "schema": schema}],
        },
    })
}
