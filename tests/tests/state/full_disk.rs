//! A state directory without room: nobody is promised anything, whoever is there is looked after, and it ends with the
//! cause.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use libtest_mimic::Trial;
use netlink::testbed::Netns;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use plan::tables::PROTOCOL;
use schemas::cni::error::CniError;
use serde_json::{Value, json};
use tests::runtime::{Attachment, RuntimeError};

use crate::bench::{Bench, Member, assert_ends};
use crate::node::{
    COORDINATOR, NETWORK, Node, POOL, POOL_NAME, assert_refused, attachment, eventually, holds, refusal, trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("full_disk::refused_looked_after_and_over", full_disk),
        trial("full_disk::a_del_is_recorded_or_spooled", del),
        trial("full_disk::an_agent_that_starts_there_says_why_it_cannot", start),
    ]
}

/// A disk of its own under a folder; gone with this.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(place: PathBuf) -> Self {
        mount(Some("tmpfs"), &place, Some("tmpfs"), MsFlags::empty(), Some("size=16m,mode=0700")).unwrap();
        Self(place)
    }

    /// Takes all room that is left.
    fn fill(&self) {
        let mut ballast = File::create(self.0.join("ballast")).unwrap();
        for size in [1 << 20, 4096, 1] {
            while ballast.write_all(&vec![1; size]).is_ok() {}
        }
    }

    /// Gives it room again.
    fn grow(&self) {
        mount(None::<&str>, &self.0, None::<&str>, MsFlags::MS_REMOUNT, Some("size=64m")).unwrap();
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The world's end takes it otherwise.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Deletes a rule in the pod, and waits for the agent to put it back.
fn is_repaired(bench: &Bench) {
    let mut in_pod = bench.members[0].pod.netns.scene().unwrap();
    let rules = in_pod.observe().unwrap().rules;
    let before = rules.iter().filter(|rule| rule.protocol == PROTOCOL).count();
    in_pod.delete_rule(rules.iter().find(|rule| rule.protocol == PROTOCOL).unwrap()).unwrap();
    eventually("a repair", || {
        let rules = in_pod.observe().unwrap().rules;
        holds(rules.iter().filter(|rule| rule.protocol == PROTOCOL).count() == before, rules)
    });
    eventually("no drift", || bench.node.has_no_drift());
}

/// A bench with two pods on a disk that is full, and has told so to somebody who asked for an address.
struct Filled {
    bench: Bench,
    disk: SmallDisk,
    asker: Attachment,
    _asker: Netns,
}

impl Filled {
    fn new(name: &str) -> Self {
        let manifests = [("pool.yaml", POOL), ("coordinator.yaml", COORDINATOR), ("network.yaml", NETWORK)];
        let node = Node::asleep(name, &manifests);
        let disk = SmallDisk::mount(node.agent.settings().state_dir.clone());
        let bench = Bench::on(node, 2);
        disk.fill();
        let netns = bench.node.netns("asker");
        let asker = Attachment::of_pod("default", "asker", "c-asker", netns.path(), "net1");
        let filled = Self { bench, disk, asker, _asker: netns };
        // Room that the store had taken before lasts for some changes.
        for _ in 0..2_000 {
            let answers = ["ADD", "DEL"].map(|verb| filled.ask(verb));
            if let Some(refused) = answers.into_iter().find(Result::is_err) {
                let code = refusal(refused).0;
                assert!([CniError::TRY_AGAIN, CniError::FAILED].contains(&code), "{code}");
                return filled;
            }
        }
        panic!("a full disk takes everything");
    }

    /// The asker's call of the IPAM plugin alone.
    fn ask(&self, verb: &str) -> Result<Option<Value>, RuntimeError> {
        let ipam = json!({"type": "spiderpool", "default_ipv4_ippool": [POOL_NAME]});
        let conf = json!({"cniVersion": "1.0.0", "name": "net", "type": "macvlan", "ipam": ipam}).to_string();
        self.bench.node.runtime().call("spiderpool", verb, Some(&self.asker), conf.as_bytes())
    }

    /// Gives the disk room, and the agent a restart if its store wants one.
    fn ends(&mut self) {
        self.disk.grow();
        let status = self.bench.node.status();
        if status["reasons"].to_string().contains("takes no changes") {
            self.bench.node.agent.restart().unwrap();
        }
    }
}

fn full_disk() {
    let mut filled = Filled::new("f1");
    let bench = &mut filled.bench;
    let next = bench.node.pod(120);
    let it = attachment(&next, "net1");
    let refused = bench.node.runtime().add(&bench.conflist, &it);
    assert_refused(refused, CniError::TRY_AGAIN, &["nothing was recorded", "no room", "free space on the disk"]);
    assert!(next.netns.scene().unwrap().observe().unwrap().link("net1").is_none());
    is_repaired(bench);
    is_repaired(bench);
    let holders = bench.holders();
    assert!(bench.expected().iter().all(|(container, addresses)| holders.get(container) == Some(addresses)));
    let gone = bench.members.remove(1);
    // It may be refused: then the runtime asks again.
    if let Err(refused) = bench.node.runtime().del(&bench.conflist, &gone.it, Some(&gone.result)) {
        assert_refused(Err::<(), _>(refused), CniError::TRY_AGAIN, &["disk", "spool"]);
    }
    filled.ends();
    filled.ask("DEL").unwrap();
    let bench = &mut filled.bench;
    bench.node.runtime().del(&bench.conflist, &gone.it, Some(&gone.result)).unwrap();
    eventually("what was asked without room", || {
        let holders = bench.holders();
        holds(holders == bench.expected(), (holders, bench.node.log()))
    });
    is_repaired(bench);
    let result = bench.node.runtime().add(&bench.conflist, &it).unwrap();
    bench.leave(Member { pod: next, it, result });
    bench.node.agent.kill().unwrap();
    bench.node.agent.restart().unwrap();
    bench.knows_its_pods_and_touches_nothing();
    assert_eq!(bench.node.warnings(), Vec::<String>::new());
    assert!(!bench.node.log().contains("panicked"), "{}", bench.node.log());
    bench.node.agent.terminate().unwrap();
}

fn del() {
    let mut filled = Filled::new("f2");
    let gone = filled.bench.members.remove(1);
    filled.bench.node.runtime().del(&filled.bench.conflist, &gone.it, Some(&gone.result)).unwrap();
    filled.ends();
    filled.bench.has_forgotten(&gone);
    filled.bench.node.agent.terminate().unwrap();
}

fn start() {
    let mut filled = Filled::new("f3");
    let bench = &mut filled.bench;
    bench.node.agent.kill().unwrap();
    assert_ends(&bench.agent_that_ends(), 1, &["cannot", "/state/store", "No space left on device"]);
    let gone = bench.members.remove(1);
    bench.node.runtime().del(&bench.conflist, &gone.it, Some(&gone.result)).unwrap();
    filled.disk.grow();
    filled.bench.node.agent.restart().unwrap();
    filled.ask("DEL").unwrap();
    let bench = &mut filled.bench;
    bench.has_forgotten(&gone);
    eventually("the rest", || {
        let holders = bench.holders();
        holds(holders == bench.expected(), holders)
    });
    assert_eq!(bench.node.warnings(), Vec::<String>::new());
    bench.leave(bench.attached(120));
    bench.node.agent.terminate().unwrap();
}
