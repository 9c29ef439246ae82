//! A node with a chain of plugins that a trial makes up, and what is asked of the links it leads to.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};

use netlink::testbed::{End, Netns, Scene};
use plan::Link;
use schemas::intent::{IpvlanMode, MacvlanMode};
use schemas::name::Mac;
use serde_json::{Value, json};
use tests::metrics::Metrics;
use tests::probe::{Protocol, Responder, Tap, ask};
use tests::runtime::{Attachment, Conflist, Runtime, reference_plugins};
use tests::scene::{PORT, Pod};

use crate::node::{COORDINATOR, Node, POOL, attachment, eventually, holds};

/// A pool of a subnet that the scene does not use otherwise.
pub(crate) const FAR_POOL: &str = "172-30-v4";
/// The node's further uplink, and what is at its other end.
pub(crate) const UPLINK: &str = "ens224";
pub(crate) const PEER: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 9);

/// The trial's node and pods.
pub(crate) struct Bench {
    pub(crate) node: Node,
    name: String,
}

/// A pod with its attachment.
pub(crate) struct Member {
    pub(crate) pod: Pod,
    pub(crate) attachment: Attachment,
    pub(crate) conflist: Conflist,
    pub(crate) result: Value,
}

impl Bench {
    pub(crate) fn new(name: &str) -> Self {
        Self::with_coordinator(name, COORDINATOR)
    }

    pub(crate) fn with_coordinator(name: &str, coordinator: &str) -> Self {
        let spec = json!({"ipVersion": 4, "subnet": "172.30.0.0/24", "ips": ["172.30.0.20-172.30.0.40"]});
        let far = crate::node::object("SpiderIPPool", FAR_POOL, &json!({ "spec": spec }));
        let manifests = [("pool.yaml", POOL), ("far.yaml", far.as_str()), ("coordinator.yaml", coordinator)];
        Self { node: Node::with(name, &manifests), name: name.to_owned() }
    }

    /// The further uplink, with a machine at its other end that answers.
    pub(crate) fn uplink(&self) -> (Netns, Responder) {
        let peer = self.node.netns("peer");
        let mut worker = self.worker();
        worker.veth(End::here(UPLINK), End::inside(&peer, "eth0")).unwrap();
        worker.up(UPLINK).unwrap();
        let mut far = peer.scene().unwrap();
        far.address("eth0", "172.30.0.9/24".parse().unwrap()).unwrap();
        far.up("eth0").unwrap();
        let responder = Responder::start(&peer, PORT).unwrap();
        (peer, responder)
    }

    pub(crate) fn worker(&self) -> Scene {
        self.node.scene.worker.scene().unwrap()
    }

    /// Our plugins, then the reference ones.
    pub(crate) fn runtime(&self) -> Runtime<'_> {
        let reference = reference_plugins().unwrap_or_default();
        let settings = self.node.scene.agent_settings();
        Runtime::new(&self.node.scene.worker, vec![self.node.scene.plugins(), reference])
            .with_env("DRAGLINE_SOCKET", settings.socket)
            .with_env("DRAGLINE_STATE_DIR", settings.state_dir)
    }

    /// The same with the reference plugins first.
    pub(crate) fn runtime_with_reference(&self) -> Runtime<'_> {
        self.node.runtime_with_reference()
    }

    /// Makes a pod and attaches it.
    pub(crate) fn join(&self, number: u8, conflist: &Conflist) -> Member {
        self.join_by(&self.runtime(), number, conflist)
    }

    pub(crate) fn join_by(&self, runtime: &Runtime<'_>, number: u8, conflist: &Conflist) -> Member {
        let pod = self.node.pod(number);
        let attachment = attachment(&pod, "net1");
        let result = runtime.add(conflist, &attachment).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        Member { pod, attachment, conflist: conflist.clone(), result }
    }

    pub(crate) fn leave(&self, member: &Member) {
        self.runtime().del(&member.conflist, &member.attachment, Some(&member.result)).unwrap();
    }

    /// Waits until everything is as wanted.
    pub(crate) fn settles(&self) {
        eventually("no drift", || self.node.has_no_drift());
    }

    /// How often the agent has put something back.
    fn repairs(&self) -> u64 {
        Metrics::fetch(&self.node.scene.worker).unwrap().of("repairs").unwrap()
    }

    /// Damages a link of a pod in every way that it can be damaged in, and sees the same link each time afterwards.
    pub(crate) fn keeps(&self, member: &Member, further: &[Damage<'_>]) {
        let kept = Kept::of(member);
        let usual: [Damage<'_>; 4] = [
            ("deleted", &|scene| scene.delete_link("net1").unwrap()),
            ("renamed", &|scene| {
                scene.down("net1").unwrap();
                scene.rename("net1", "stolen").unwrap();
            }),
            ("down", &|scene| scene.down("net1").unwrap()),
            ("without address", &|scene| {
                let address = member.result["ips"][0]["address"].as_str().unwrap().parse().unwrap();
                scene.delete_address("net1", address).unwrap();
            }),
        ];
        for (what, damage) in usual.iter().chain(further) {
            let before = self.repairs();
            damage(&mut member.pod.netns.scene().unwrap());
            // It may be repaired before anybody has looked.
            eventually("a repair", || holds(self.repairs() > before, format!("{}: {what} is no damage", self.name)));
            eventually(&format!("{}: repair of a link that was {what}", self.name), || {
                let found = Kept::seen(member)?;
                holds(found == kept, format!("{found:?}, not {kept:?}"))
            });
            self.settles();
        }
    }

    /// All attachments leave, and nothing is left.
    pub(crate) fn ends(&self, members: Vec<Member>) {
        for member in &members {
            self.leave(member);
        }
        self.node.forgets_all();
        for member in &members {
            eventually("net1 gone", || {
                let observed = member.pod.netns.scene().unwrap().observe().unwrap();
                let left: Vec<&str> = observed.links.iter().map(|link| link.name.as_str()).collect();
                holds(left == ["lo", "eth0"], left)
            });
        }
    }
}

/// What of a link has to come back.
#[derive(Debug, PartialEq)]
struct Kept {
    link: Link,
    addresses: Vec<String>,
}

impl Kept {
    fn of(member: &Member) -> Self {
        Self::seen(member).unwrap()
    }

    fn seen(member: &Member) -> Result<Self, String> {
        let observed = member.pod.netns.scene().unwrap().observe().unwrap();
        let link = observed.link("net1").cloned().ok_or("there is no net1")?;
        let addresses = observed.addresses.iter().filter(|address| address.dev == "net1" && address.address.is_ipv4());
        let addresses = addresses.map(|address| format!("{address:?}")).collect();
        // One that is made again has another index.
        Ok(Self { link: Link { index: 0, ..link }, addresses })
    }
}

/// Something that goes wrong with links, and what it is called.
pub(crate) type Damage<'a> = (&'a str, &'a dyn Fn(&mut Scene));

/// A chain of these plugins with the coordinator behind them.
pub(crate) fn chain(plugins: Vec<Value>) -> Conflist {
    let mut plugins = plugins;
    plugins.push(json!({"type": "coordinator"}));
    bare(&plugins)
}

/// A chain without coordinator.
pub(crate) fn bare(plugins: &[Value]) -> Conflist {
    Conflist::parse(&json!({"cniVersion": "1.0.0", "name": "links", "plugins": plugins}).to_string()).unwrap()
}

/// Our addresses from a pool.
pub(crate) fn ipam(pool: &str) -> Value {
    json!({"type": "spiderpool", "default_ipv4_ippool": [pool]})
}

/// The pod's net1.
pub(crate) fn link(member: &Member) -> Link {
    member.pod.netns.scene().unwrap().link("net1").unwrap()
}

/// The address that a member was given.
pub(crate) fn address(member: &Member) -> Ipv4Addr {
    let text = crate::node::address(&member.result);
    text.split('/').next().unwrap().parse().unwrap()
}

/// Asks, and the question leaves by that link.
pub(crate) fn reaches(from: &Netns, by: &str, to: Ipv4Addr) -> Result<(), String> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let token = format!("links-{}-{:08}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let tap = Tap::open(from).map_err(|error| error.to_string())?;
    ask(from, Protocol::Tcp, SocketAddrV4::new(to, PORT), &token).map_err(|error| error.to_string())?;
    let frames = tap.frames(&token).map_err(|error| error.to_string())?;
    let left = frames.iter().find(|frame| frame.destination == to).map(|frame| frame.interface.clone());
    holds(left.as_deref() == Some(by), format!("the question left by {left:?}, not {by}"))
}

/// The same in both directions, each as soon as the other end is found.
pub(crate) fn reach_each_other(one: &Member, other: &Member) {
    for (from, to) in [(one, other), (other, one)] {
        eventually("reaching the other pod", || reaches(&from.pod.netns, "net1", address(to)));
    }
}

/// What this kernel can make.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kinds {
    pub(crate) ipvlan: bool,
    pub(crate) vlan: bool,
    pub(crate) bond: bool,
}

impl Kinds {
    /// Found by making each.
    pub(crate) fn of_kernel() -> Self {
        let netns = Netns::create("links-kinds").unwrap();
        let mut scene = netns.scene().unwrap();
        scene.veth(End::here("one"), End::here("two")).unwrap();
        let one = "one".parse().unwrap();
        Self {
            ipvlan: scene.ipvlan("ip", &one, IpvlanMode::L2).is_ok(),
            vlan: scene.vlan("vlan", "two", 5).is_ok(),
            bond: scene.bond("bond", 1).is_ok(),
        }
    }
}

/// A hardware address of a trial's choice.
pub(crate) const MAC: Mac = Mac([0x02, 0x11, 0x22, 0x33, 0x44, 0x55]);

/// The modes by their names.
pub(crate) const MACVLAN_MODES: [(&str, MacvlanMode); 4] = [
    ("bridge", MacvlanMode::Bridge),
    ("private", MacvlanMode::Private),
    ("vepa", MacvlanMode::Vepa),
    ("passthru", MacvlanMode::Passthru),
];
