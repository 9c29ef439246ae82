//! Controllers are killed, stand still and lead at once, while a pool is at its limit and a node goes and comes back.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use serde_json::json;
use tests::cluster;
use tests::fleet::{Controller, Fleet, Ground, Node, Options, Pod};

use super::audit::{Audit, Write, without_lease};
use super::traffic::dice::Dice;
use super::traffic::{Load, Traffic};
use super::{assert_right, assert_shown, pool, refusal, start_all, stop_all};
use crate::bed::{eventually, starting};

const NODES: usize = 3;
/// On two of the nodes.
const LOAD: Load = Load { lanes: 4, pods: 3 };
/// On the third one.
const PODS: usize = 6;
/// As many as there are pods: whoever needs one needs the one that another has just given back.
const ADDRESSES: usize = 2 * LOAD.lanes * LOAD.pods + PODS;
const TTL: Duration = Duration::from_secs(12);
const POOLS: &str = "/apis/spiderpool.spidernet.io/v2beta1/spiderippools";
const SHARDS: &str = "/apis/spiderpool.spidernet.io/v2beta1/spideripshards";

pub(super) fn trials() -> Vec<Trial> {
    vec![starting("leases::controllers_come_and_go_and_one_acts", |folder| {
        let (audit, api_server) = Audit::prepare(folder);
        let options = cluster::Options { api_server, ..cluster::Options::default() };
        let ground = super::prepare_with("controllers", folder, options)?;
        come_and_go(&ground, &audit);
        Ok(())
    })]
}

fn come_and_go(ground: &Ground, audit: &Audit) {
    let controllers = ["one", "two"].map(|name| Controller::start(ground, name).unwrap());
    let options = Options { lease_ttl: TTL, ..pool(14, u32::try_from(ADDRESSES).unwrap(), NODES) };
    let fleet = Fleet::start(ground, "controllers", &options).unwrap();
    let traffic = Traffic::of(&fleet);
    let (busy, leaving) = (&fleet.nodes[..2], &fleet.nodes[2]);
    let lost = fleet.bind_to(leaving, "lost", PODS).unwrap();
    start_all(&fleet, &traffic.book, &lost);
    let mut late = 0;
    traffic.during(busy, LOAD, &mut Dice::new(Dice::seed()), |_| {
        let first = leader(&controllers);
        puts_right(&fleet, &controllers);

        eventually("nobody keeps anything while somebody waits", || {
            let counts = fleet.census().map_err(|error| error.to_string())?.counts();
            if counts.get(&leaving.name) == Some(&PODS) { Ok(()) } else { Err(format!("{counts:?}")) }
        });
        // The leader is killed when there is something to be cleared away.
        leaving.agent().kill().unwrap();
        lost.iter().for_each(|pod| traffic.book.taken_back(pod));
        lost.iter().for_each(|pod| pod.delete(&ground.objects).unwrap());
        ground.objects.delete("/api/v1/nodes", &leaving.name).unwrap();
        controllers[first].kill().unwrap();
        let since = Instant::now();
        let second = wait_leads(&controllers, 1 - first);
        println!(
            "{} leads {:?} after the end of {}",
            controllers[second].name,
            since.elapsed(),
            controllers[first].name
        );
        puts_right(&fleet, &controllers);
        wait_quarantined(&fleet, leaving);
        println!("what a gone node held is in quarantine {:?} after its end", since.elapsed());
        traffic.wait_served(busy, 2);
        let wrong = audit.writes(&controllers);
        let wrong = without_lease(&wrong);
        assert!(wrong.is_empty(), "without being the leader: {}", lines(&wrong));

        // It stands still while the other one takes its place, and then knows nothing of it.
        controllers[first].launch().unwrap();
        controllers[second].pause().unwrap();
        let third = wait_leads(&controllers, first);
        puts_right(&fleet, &controllers);
        let noticed = Instant::now();
        controllers[second].resume().unwrap();
        eventually("who does not lead any more knows it", || {
            let leads = controllers.each_ref().map(Controller::leads);
            if leads[third] && !leads[second] { Ok(()) } else { Err(format!("{leads:?}")) }
        });
        println!("{} knows after {:?}", controllers[second].name, noticed.elapsed());
        puts_right(&fleet, &controllers);
        let writes = audit.writes(&controllers);
        // What it was about to do when time stopped for it: each names the state that it rests on.
        late = without_lease(&writes).len();
        println!("{} writes, without being the leader: {}", writes.len(), lines(&without_lease(&writes)));
        assert!(without_lease(&writes).iter().all(|write| write.by == controllers[second].name));

        // One that ends in order leaves nobody waiting.
        controllers[third].terminate().unwrap();
        wait_leads(&controllers, second);
        puts_right(&fleet, &controllers);
        traffic.wait_served(busy, 2);
    });
    traffic.assert_clean("");
    let writes = audit.writes(&controllers);
    assert_eq!(without_lease(&writes).len(), late, "without being the leader: {}", lines(&without_lease(&writes)));
    comes_back(&fleet, &traffic, leaving, &lost);
    println!("{} addresses given, {} looks", traffic.book.given_so_far(), traffic.looks());
}

fn lines(writes: &[&Write]) -> String {
    writes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn leader(controllers: &[Controller]) -> usize {
    eventually("one that leads", || {
        let leading: Vec<usize> = (0..controllers.len()).filter(|number| controllers[*number].leads()).collect();
        if let [leader] = leading[..] { Ok(leader) } else { Err(format!("{leading:?}")) }
    })
}

fn wait_leads(controllers: &[Controller], number: usize) -> usize {
    eventually("the other one leads", || {
        if controllers[number].leads() { Ok(()) } else { Err(controllers[number].log()) }
    });
    number
}

/// What nobody else would put right: a wrong count, somebody waiting who is nobody, and a share that nobody could have.
fn puts_right(fleet: &Fleet<'_>, controllers: &[Controller]) {
    const WRONG: u64 = 999;
    const TOO_MUCH: u64 = 20;
    let objects = &fleet.ground().objects;
    let wrong = json!({"status": {
        "allocatedIPCount": WRONG, "fairShare": TOO_MUCH, "waiting": {"nobody": "for ever"},
    }});
    objects.patch_status(POOLS, &fleet.name, &wrong).unwrap();
    eventually("a pool's status is put right", || {
        let status = objects.get(POOLS, &fleet.name).map_err(|error| error.to_string())?["status"].clone();
        let is_right = status["allocatedIPCount"] != WRONG
            && status["fairShare"].as_u64().is_some_and(|share| share < TOO_MUCH)
            && status["waiting"].get("nobody").is_none();
        let logs = || controllers.iter().map(Controller::log).collect::<String>();
        if is_right { Ok(()) } else { Err(format!("{status:#}\n{}", logs())) }
    });
}

fn wait_quarantined(fleet: &Fleet<'_>, node: &Node) {
    eventually("quarantine", || {
        let counts = fleet.census().map_err(|error| error.to_string())?.counts();
        let waiting: usize =
            counts.iter().filter(|(subject, _)| subject.starts_with('!')).map(|(_, count)| count).sum();
        let is_done = waiting == PODS && !counts.contains_key(&node.name);
        if is_done { Ok(()) } else { Err(format!("{counts:?}")) }
    });
}

/// Its addresses are others' by then; its disk says that they are its own.
fn comes_back(fleet: &Fleet<'_>, traffic: &Traffic<'_>, node: &Node, lost: &[Pod]) {
    let objects = &fleet.ground().objects;
    end_quarantine(fleet);
    let all = fleet.bind_to(&fleet.nodes[0], "all", ADDRESSES).unwrap();
    start_all(fleet, &traffic.book, &all);
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name}});
    objects.create("/api/v1/nodes", &object).unwrap();
    node.launch().unwrap();
    let found = fleet.bind_to(node, "found", 2).unwrap();
    node.wait_ready().unwrap();
    // Its kubelet finds pods that are gone.
    stop_all(fleet, &traffic.book, lost);
    let said = refusal(node.add(&found[0], &traffic.book));
    println!("the node that has come back says: {said}");
    assert_right(fleet, &traffic.book);
    stop_all(fleet, &traffic.book, &all);
    all.iter().for_each(|pod| pod.delete(objects).unwrap());
    node.delete(&found[0], &traffic.book).unwrap();
    start_all(fleet, &traffic.book, &found);
    assert_right(fleet, &traffic.book);
    assert_shown(fleet, &traffic.book);
    stop_all(fleet, &traffic.book, &found);
    traffic.assert_all_come_back(node, ADDRESSES);
}

/// Nobody waits for a minute here.
fn end_quarantine(fleet: &Fleet<'_>) {
    let ground = fleet.ground();
    for shard in ground.objects.list_where(SHARDS, &format!("spec.pool={}", fleet.name)).unwrap() {
        let slots = shard["status"]["slots"].as_array().unwrap().iter().enumerate();
        let resting = slots.filter(|(_, slot)| slot.as_str().is_some_and(|slot| slot.starts_with('!')));
        // A quarantine until the first second of 1970.
        let edits = resting
            .map(|(number, _)| json!({"op": "replace", "path": format!("/status/slots/{number}"), "value": "!1"}));
        let patch = edits.collect::<Vec<_>>();
        let name = shard["metadata"]["name"].as_str().unwrap();
        let target = ["patch", "spideripshard", name, "--subresource=status", "--type=json", "-p"];
        ground.kubectl().ask(&[&target[..], &[&json!(patch).to_string()]].concat(), "").unwrap();
    }
}
