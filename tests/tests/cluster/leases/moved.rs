//! Addresses that go from one pool to another while pods use them. Spiderpool's webhook refuses such edits; here they are
//! taken, and nobody is given what a pod has.

use std::net::IpAddr;
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::{Value, json};
use tests::fleet::{Application, Book, Fleet, Ground, Node, Pod};

use super::{PATIENCE, assert_right, beside_others, pool, refusal};
use crate::bed::eventually;

const SHARDS: &str = "/apis/spiderpool.spidernet.io/v2beta1/spideripshards";
/// Long enough for several ADDs.
const A_WHILE: Duration = Duration::from_secs(8);

pub(super) fn trials() -> Vec<Trial> {
    vec![
        beside_others("leases::s00003_what_pods_have_of_one_pool_no_other_pool_gives", moved),
        beside_others("leases::s00003_nor_does_their_own_node_until_they_are_gone", at_home),
    ]
}

fn moved(ground: &Ground) {
    let fleet = Fleet::start(ground, "moved", &pool(20, 2, 2)).unwrap();
    let (older, younger) = ("moved", "moved-later");
    fleet.declare_pool(younger, "10.20.0.0/16", &["10.20.2.0".to_owned()]).unwrap();
    let [one, two] = &fleet.nodes[..] else { panic!("two nodes") };
    let book = Book::default();
    let bind = |name: &str, node: &Node, pool: &str| -> Pod {
        let application = Application { pool, ..fleet.application(name) };
        application.bind(&ground.objects, [node.name.as_str()]).unwrap().remove(0)
    };

    // The older one shrinks by what its pod has, and the younger one gets that.
    let pods = [bind("a", one, older), bind("b", one, older)];
    let given: Vec<IpAddr> = pods.iter().map(|pod| one.start(pod, &book, PATIENCE).unwrap().0).collect();
    edit(ground, older, &[&given[1]]);
    edit(ground, younger, &[&given[0]]);
    let late = bind("c", two, younger);
    assert_kept_back(ground, two, &late, &book, younger, given[0]);

    // What the pod gives back may be given then, by the pool that has it now; meanwhile another address will do.
    let spare: IpAddr = "10.20.2.7".parse().unwrap();
    edit(ground, younger, &[&given[0], &spare]);
    assert_eq!(two.start(&late, &book, PATIENCE).unwrap().0, spare);

    // The older one grows over what the younger one's pod has: it comes first from now on.
    one.stop(&pods[1], &book, PATIENCE).unwrap();
    edit(ground, older, &[&spare]);
    let another = bind("d", one, older);
    assert_kept_back(ground, one, &another, &book, older, spare);
    // As soon as the pod is gone, the younger one's shard says that nobody has it.
    two.stop(&late, &book, PATIENCE).unwrap();
    eventually("the release", || {
        let shards = ground.objects.list(SHARDS).map_err(|error| error.to_string())?;
        let own = shards.iter().filter(|shard| shard["spec"]["pool"] == younger);
        let held: Vec<String> = own.map(|shard| shard["status"]["slots"].to_string()).collect();
        if held.iter().any(|slots| slots.contains(&two.name)) { Err(held.join("; ")) } else { Ok(()) }
    });
    one.stop(&pods[0], &book, PATIENCE).unwrap();
    assert_right(&fleet, &book);
}

/// The node that has it of the one pool claims it of the other.
fn at_home(ground: &Ground) {
    let fleet = Fleet::start(ground, "home", &pool(22, 2, 1)).unwrap();
    let (older, younger) = ("home", "home-later");
    fleet.declare_pool(younger, "10.22.0.0/16", &["10.22.2.0".to_owned()]).unwrap();
    let [node] = &fleet.nodes[..] else { panic!("one node") };
    let book = Book::default();
    let bind = |name: &str, pool: &str| -> Pod {
        let application = Application { pool, ..fleet.application(name) };
        application.bind(&ground.objects, [node.name.as_str()]).unwrap().remove(0)
    };
    let pods = [bind("a", older), bind("b", older)];
    let given: Vec<IpAddr> = pods.iter().map(|pod| node.start(pod, &book, PATIENCE).unwrap().0).collect();
    edit(ground, older, &[&given[1]]);
    edit(ground, younger, &[&given[0]]);
    let late = bind("c", younger);
    let refused = refusal(node.start(&late, &book, A_WHILE));
    assert!(refused.contains("all IP addresses used out"), "{refused}");
    node.stop(&pods[0], &book, PATIENCE).unwrap();
    assert_eq!(node.start(&late, &book, PATIENCE).unwrap().0, given[0]);
    for pod in [&late, &pods[1]] {
        node.stop(pod, &book, PATIENCE).unwrap();
    }
    assert_right(&fleet, &book);
}

/// The pod does not get it, and people are told of the address.
fn assert_kept_back(ground: &Ground, node: &Node, pod: &Pod, book: &Book, pool: &str, address: IpAddr) {
    let refused = refusal(node.start(pod, book, A_WHILE));
    assert!(refused.contains("all IP addresses used out"), "{refused}");
    eventually("the Event", || {
        let events = ground.objects.list("/api/v1/namespaces/default/events").map_err(|error| error.to_string())?;
        let tells = |event: &&Value| {
            let note = event["message"].as_str().unwrap_or_default();
            event["reason"] == "AddressOccupied"
                && event["involvedObject"]["name"] == pool
                && note.contains(&format!("address {address} of this pool is another's"))
        };
        events.iter().find(tells).map(drop).ok_or_else(|| format!("{} events", events.len()))
    });
}

fn edit(ground: &Ground, pool: &str, ips: &[&IpAddr]) {
    let change = json!({"spec": {"ips": ips}}).to_string();
    ground.kubectl().ask(&["patch", "spiderippool", pool, "--type=merge", "--patch", &change], "").unwrap();
}
