//! One thread's traffic: what a runtime does with one pod, or an IPAM caller with several.

use std::net::Ipv4Addr;

use netlink::testbed::Netns;
use serde_json::{Value, json};
use tests::runtime::{Attachment, Conflist, Runtime, RuntimeError};
use tests::scene::{Pod, Scene};

use crate::book::{Book, Claim};
use crate::dice::Dice;

/// The pool of the chain's pods.
pub(crate) const CHAIN_POOL: &str = "10-6-v4";
/// The pool of the IPAM callers; few enough that addresses go round.
pub(crate) const IPAM_POOL: &str = "ipam-v4";
/// How many attachments an IPAM lane has at most.
const IPAM_AT_ONCE: usize = 6;
/// `CniError::TRY_AGAIN`.
const TRY_AGAIN: u32 = 11;

/// What a call needs.
pub(crate) struct Caller<'a> {
    pub(crate) scene: &'a Scene,
    pub(crate) runtime: Runtime<'a>,
    pub(crate) book: &'a Book,
}

/// A lane.
pub(crate) enum Lane {
    /// A pod, its links and routes made by our chain.
    Chain(ChainLane),
    /// Addresses alone.
    Ipam(IpamLane),
}

impl Lane {
    /// Does one thing; false when the agent seems to be away.
    pub(crate) fn step(&mut self, caller: &Caller<'_>, dice: &mut Dice) -> bool {
        match self {
            Self::Chain(lane) => lane.step(caller, dice),
            Self::Ipam(lane) => lane.step(caller, dice),
        }
    }

    /// Withdraws all that may be there.
    pub(crate) fn withdraw(&mut self, caller: &Caller<'_>) {
        match self {
            Self::Chain(lane) => lane.del(caller),
            Self::Ipam(lane) => (0..lane.containers.len()).for_each(|at| lane.del(caller, at)),
        }
    }
}

/// One pod at a time.
pub(crate) struct ChainLane {
    pub(crate) number: u8,
    pub(crate) pod: Option<Pod>,
    generation: u16,
}

impl ChainLane {
    pub(crate) fn new(number: u8, scene: &Scene) -> Self {
        let mut lane = Self { number, pod: None, generation: 0 };
        lane.replace(scene);
        lane
    }

    fn replace(&mut self, scene: &Scene) {
        if let Some(old) = self.pod.take() {
            old.delete(&scene.worker).unwrap();
        }
        self.generation = self.generation.wrapping_add(1);
        let address = Ipv4Addr::new(10, 233, 80 + self.number, self.generation as u8);
        let name = format!("pod-{}-{}", self.number, self.generation as u8);
        self.pod = Some(scene.pod(&name, address).unwrap());
    }

    /// The attachment as `dragline get` calls it.
    pub(crate) fn key(&self) -> String {
        format!("{}/net1", self.container())
    }

    fn container(&self) -> String {
        format!("chain-{}-{}", self.number, self.generation)
    }

    fn attachment(&self) -> Attachment {
        let pod = self.pod.as_ref().unwrap();
        Attachment::of_pod("default", &pod.name, &self.container(), pod.netns.path(), "net1")
    }

    fn step(&mut self, caller: &Caller<'_>, dice: &mut Dice) -> bool {
        match caller.book.claim(&self.key()) {
            Some(Claim::Held { .. }) if dice.one_in(6) => self.add(caller),
            Some(Claim::Held { .. }) if dice.one_in(6) => {
                // The runtime takes the namespace away first and asks for DEL afterwards.
                let attachment = self.attachment();
                let key = self.key();
                caller.book.begin_del(&key);
                self.pod.take().unwrap().delete(&caller.scene.worker).unwrap();
                let deleted = caller.runtime.del(&conflist(), &attachment, None);
                caller.book.deleted(&key, deleted.map_err(|error| error.to_string()));
                self.replace(caller.scene);
                true
            }
            Some(Claim::Uncertain) if dice.one_in(2) => {
                self.del(caller);
                true
            }
            Some(Claim::Uncertain | Claim::Withdrawn) | None => self.add(caller),
            Some(Claim::Held { .. }) => {
                self.del(caller);
                true
            }
        }
    }

    pub(crate) fn add(&self, caller: &Caller<'_>) -> bool {
        let key = self.key();
        caller.book.begin_add(&key);
        let added = caller.runtime.add(&conflist(), &self.attachment());
        record(caller.book, &key, added, true)
    }

    pub(crate) fn del(&self, caller: &Caller<'_>) {
        let key = self.key();
        caller.book.begin_del(&key);
        let deleted = caller.runtime.del(&conflist(), &self.attachment(), None);
        caller.book.deleted(&key, deleted.map_err(|error| error.to_string()));
    }
}

/// Several attachments in one namespace, which IPAM does not touch.
pub(crate) struct IpamLane {
    number: u8,
    netns: Netns,
    containers: Vec<String>,
    made: usize,
}

impl IpamLane {
    pub(crate) fn new(number: u8, scene: &str) -> Self {
        let netns = Netns::create(&format!("{scene}-ipam-{number}")).unwrap();
        Self { number, netns, containers: Vec::new(), made: 0 }
    }

    fn step(&mut self, caller: &Caller<'_>, dice: &mut Dice) -> bool {
        let is_full = self.containers.len() >= IPAM_AT_ONCE;
        if self.containers.is_empty() || (!is_full && dice.one_in(2)) {
            return self.add_new(caller);
        }
        let at = dice.below(self.containers.len());
        if dice.one_in(4) {
            return self.add(caller, at);
        }
        self.del(caller, at);
        if caller.book.claim(&self.key(at)) == Some(Claim::Withdrawn) {
            self.containers.swap_remove(at);
        }
        true
    }

    pub(crate) fn add_new(&mut self, caller: &Caller<'_>) -> bool {
        self.made += 1;
        self.containers.push(format!("ipam-{}-{}", self.number, self.made));
        self.add(caller, self.containers.len() - 1)
    }

    fn key(&self, at: usize) -> String {
        format!("{}/net1", self.containers[at])
    }

    fn attachment(&self, at: usize) -> Attachment {
        let container = &self.containers[at];
        Attachment::of_pod("default", container, container, self.netns.path(), "net1")
    }

    fn add(&self, caller: &Caller<'_>, at: usize) -> bool {
        let key = self.key(at);
        caller.book.begin_add(&key);
        let stdin = ipam_conf();
        let added = caller.runtime.call("spiderpool", "ADD", Some(&self.attachment(at)), stdin.as_bytes());
        record(caller.book, &key, added.map(Option::unwrap_or_default), false)
    }

    fn del(&self, caller: &Caller<'_>, at: usize) {
        let key = self.key(at);
        caller.book.begin_del(&key);
        let deleted = caller.runtime.call("spiderpool", "DEL", Some(&self.attachment(at)), ipam_conf().as_bytes());
        caller.book.deleted(&key, deleted.map(drop).map_err(|error| error.to_string()));
    }
}

/// Writes down what came of an ADD; false when the agent is away.
fn record(book: &Book, key: &str, added: Result<Value, RuntimeError>, by_chain: bool) -> bool {
    match added {
        Ok(result) => {
            let address = result["ips"][0]["address"].as_str().unwrap_or_default();
            book.added(key, address.split('/').next().unwrap_or_default(), by_chain);
            true
        }
        Err(error) => {
            let is_retryable = error.cni().is_some_and(|error| error.code == TRY_AGAIN);
            book.not_added(key, is_retryable, &error.to_string());
            !is_retryable
        }
    }
}

/// Our chain, as the SpiderMultusConfig of the quick start gives it.
fn conflist() -> Conflist {
    let conf = json!({
        "cniVersion": "1.0.0",
        "name": "macvlan-ens192",
        "plugins": [
            {"type": "macvlan", "master": "ens192", "mode": "bridge",
             "ipam": {"type": "spiderpool", "default_ipv4_ippool": [CHAIN_POOL]}},
            {"type": "coordinator", "mode": "auto"},
        ],
    });
    Conflist::parse(&conf.to_string()).unwrap()
}

fn ipam_conf() -> String {
    let ipam = json!({"type": "spiderpool", "default_ipv4_ippool": [IPAM_POOL]});
    json!({"cniVersion": "1.0.0", "name": "ipam-only", "type": "macvlan", "ipam": ipam}).to_string()
}
