//! Clocks are set, by hours, while addresses come and go: nothing that matters goes by them.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use tests::cluster::{ClusterError, Missing};
use tests::fleet::{Clock, Controller, Fleet, Ground, Options};

use super::traffic::dice::Dice;
use super::traffic::{Load, Traffic};
use super::{pool, prepare};
use crate::bed::{eventually, starting};

const NODES: usize = 3;
/// As many pods as addresses: addresses go from node to node, and who waits says since when.
const LOAD: Load = Load { lanes: 2, pods: 3 };
const ADDRESSES: usize = NODES * LOAD.lanes * LOAD.pods;
const TTL: Duration = Duration::from_secs(24);
/// Seconds. The API server's certificate is valid from an hour ago on: who lives before that does not believe it.
const BEHIND: i64 = -45 * 60;
const AHEAD: i64 = 2 * 3600;
const JUMPS: [i64; 3] = [AHEAD, BEHIND, 0];
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";

pub(super) fn trials() -> Vec<Trial> {
    vec![starting("leases::clocks_that_jump_change_nothing", |folder| {
        let ground = prepare("clocks", folder)?;
        let missing = || ClusterError::Missing(Missing::Unknown("libfaketime is not installed".to_owned()));
        let clock = |name: &str| {
            let folder = folder.join(name);
            std::fs::create_dir_all(&folder).unwrap();
            Clock::right(&folder).unwrap().ok_or_else(missing)
        };
        jump(&ground, &clock("agents")?, &clock("controllers")?);
        Ok(())
    })]
}

fn jump(ground: &Ground, agents: &Clock, controllers: &Clock) {
    let one = Controller::stopped(ground, "one").unwrap();
    let variables = controllers.variables();
    one.set_environment(&variables.map(|(name, value)| format!("{name}={value}")));
    one.launch().unwrap();
    eventually("a controller that leads", || if one.leads() { Ok(()) } else { Err(one.log()) });
    let two = Controller::start(ground, "two").unwrap();
    let options = Options { lease_ttl: TTL, ..pool(17, u32::try_from(ADDRESSES).unwrap(), NODES) };
    let fleet = Fleet::start(ground, "clocks", &options).unwrap();
    let node = &fleet.nodes[1];
    for (name, value) in agents.variables() {
        node.agent().set_variable(name, &value);
    }
    node.crash().unwrap();
    node.wait_ready().unwrap();
    let traffic = Traffic::of(&fleet);
    traffic.during(&fleet.nodes, LOAD, &mut Dice::new(Dice::seed()), |_| {
        for ahead in JUMPS {
            agents.set(ahead).unwrap();
            wait_written(ground, &format!("dragline-node-{}", node.name), ahead);
            traffic.wait_served(&fleet.nodes, 3);
            // What it wrote down by the other clock it reads now.
            node.crash().unwrap();
            traffic.wait_served(&fleet.nodes, 2);
        }
        // One whose clock is behind loses its place to one whose is not; in the end one leads, whoever it is.
        controllers.set(BEHIND).unwrap();
        eventually("one that leads", || match (one.leads(), two.leads()) {
            (false, true) => Ok(()),
            leads => Err(format!("{leads:?}\n{}\n{}", one.log(), two.log())),
        });
        // One whose clock is ahead says that its place is taken for hours to come: it is not, once it is gone.
        controllers.set(AHEAD).unwrap();
        two.kill().unwrap();
        eventually("the one whose clock is ahead leads", || if one.leads() { Ok(()) } else { Err(one.log()) });
        wait_written(ground, "dragline-controller", AHEAD);
        two.launch().unwrap();
        eventually("one that stands by", || {
            let answer = two.ask("/readyz").map_err(|error| error.to_string())?;
            if answer.contains("standing by") { Ok(()) } else { Err(answer) }
        });
        one.kill().unwrap();
        let since = Instant::now();
        eventually("the other one leads", || if two.leads() { Ok(()) } else { Err(two.log()) });
        println!("after {:?} another one leads", since.elapsed());
        traffic.wait_served(&fleet.nodes, 2);
    });
    println!("{} addresses given, {} looks", traffic.book.given_so_far(), traffic.looks());
    traffic.assert_clean("");
    traffic.assert_all_come_back(&fleet.nodes[1], ADDRESSES);
}

/// Whoever holds that Lease writes what his clock says: it is set.
fn wait_written(ground: &Ground, lease: &str, ahead: i64) {
    eventually("a Lease by a clock that was set", || {
        let lease = ground.objects.get(LEASES, lease).map_err(|error| error.to_string())?;
        let found = lease["spec"]["renewTime"].clone();
        let text = found.as_str().unwrap_or_default();
        let differs = seconds_ahead(text).ok_or_else(|| found.to_string())?;
        if (differs - ahead).abs() < 60 { Ok(()) } else { Err(format!("{found}: {differs} s ahead, not {ahead} s")) }
    });
}

/// How far such a time is ahead of this program's clock.
fn seconds_ahead(text: &str) -> Option<i64> {
    let time: k8s_openapi::jiff::Timestamp = text.parse().ok()?;
    Some(time.as_second() - k8s_openapi::jiff::Timestamp::now().as_second())
}
