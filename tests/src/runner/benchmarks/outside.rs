//! One call at a time: ours and the reference's in turn, so that a noisy machine is noisy for both.

use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;
use tests::repair;
use tests::scene::Pod;

use super::Failure;
use super::bed::{Bed, conf};
use super::call::{Call, Taken, bare, call};
use super::report::{Aim, Row};
use super::sample::Samples;

const CALLS: usize = 200;
const CHAINS: usize = 100;
const FLUSHES: usize = 40;

/// What no plugin can be quicker than; sampled in turn with the calls.
struct Floor {
    file: File,
    nothing: Samples,
    version: Samples,
    cpu: Samples,
    sync: Samples,
}

impl Floor {
    fn new(bed: &Bed) -> Result<Self, Failure> {
        let file = File::create(bed.disk.join("append"))?;
        let none = Samples::default;
        Ok(Self { file, nothing: none(), version: none(), cpu: none(), sync: none() })
    }

    fn sample(&mut self, bed: &Bed) -> Result<(), Failure> {
        self.nothing.push(bare(Path::new("/bin/true"))?.time);
        let ours = bed.ours.join("spiderpool");
        let asked = plugin(&ours, "VERSION", "x", "/x", r#"{"cniVersion":"1.0.0"}"#.into());
        let taken = call(&asked, &environment(bed))?;
        self.version.push(taken.time);
        self.cpu.push(taken.cpu);
        let started = Instant::now();
        self.file.write_all(&[0x5a; 1024])?;
        self.file.sync_data()?;
        self.sync.push(started.elapsed());
        Ok(())
    }

    fn rows(&self) -> Vec<Row> {
        vec![
            Row::time("plugin VERSION, whole process", &self.version).against("/bin/true", self.nothing.p50()),
            Row::time("plugin VERSION, CPU of the process", &self.cpu).aim(Aim::Below(1200.0)),
            Row::time("append of 1 KiB and fdatasync", &self.sync),
        ]
    }

    /// Starting our plugin and having its VERSION, and one sync on the store's disk.
    fn start_and_sync(&self) -> f64 {
        self.version.p50() + self.sync.p50()
    }
}

/// The environment that finds our agent.
fn environment(bed: &Bed) -> Vec<(&'static str, &Path)> {
    let settings = bed.agent.settings();
    vec![
        ("DRAGLINE_SOCKET", &settings.socket),
        ("DRAGLINE_STATE_DIR", &settings.state_dir),
        ("CNI_PATH", &bed.reference),
    ]
}

fn plugin<'a>(program: &'a Path, verb: &'a str, container: &'a str, netns: &'a str, stdin: String) -> Call<'a> {
    Call { program, verb, container, netns, stdin }
}

/// IPAM alone and the whole chain, against the reference's and against the floor.
pub(super) fn calls(bed: &Bed, batch: &Samples) -> Result<Vec<Row>, Failure> {
    let mut floor = Floor::new(bed)?;
    let ipam = ipam(bed, &mut floor)?;
    let mut rows = floor.rows();
    let spawn_and_sync = "start + fdatasync";
    rows.extend([
        Row::time("IPAM ADD, durable", &ipam.add).against("host-local", ipam.peer_add.p50()).aim(Aim::Ratio(0.7)),
        Row::time("IPAM DEL, durable", &ipam.del).against("host-local", ipam.peer_del.p50()),
        Row::time("IPAM ADD, CPU of the plugin", &ipam.cpu)
            .against("host-local", ipam.peer_cpu.p50())
            .aim(Aim::Below(1200.0)),
        Row::time("IPAM ADD over the floor", &ipam.add).against(spawn_and_sync, floor.start_and_sync()),
    ]);
    let chain = chain(bed)?;
    rows.extend([
        Row::time("chain ADD (macvlan, IPAM, coordinator)", &chain.add)
            .against("macvlan + host-local", chain.peer_add.p50()),
        Row::time("chain DEL", &chain.del).against("macvlan + host-local", chain.peer_del.p50()),
        Row::time("of it macvlan with IPAM ADD", &chain.link).against("macvlan + host-local", chain.peer_add.p50()),
        Row::time("of it coordinator ADD", &chain.coordinator).aim(Aim::Below(3000.0)),
        Row::time("coordinator ADD, CPU of the plugin", &chain.cpu).aim(Aim::Below(1200.0)),
        Row::time("coordinator ADD over the floor", &chain.coordinator)
            .against("start + fdatasync + batch of 17", floor.start_and_sync() + batch.p50()),
    ]);
    Ok(rows)
}

#[derive(Default)]
struct Ipam {
    add: Samples,
    del: Samples,
    cpu: Samples,
    peer_add: Samples,
    peer_del: Samples,
    peer_cpu: Samples,
}

fn ipam(bed: &Bed, floor: &mut Floor) -> Result<Ipam, Failure> {
    let pod = bed.scene.pod("bench-ipam", Ipv4Addr::new(10, 233, 90, 2))?;
    let (ours, theirs) = (bed.ours.join("spiderpool"), bed.reference.join("host-local"));
    let environment = environment(bed);
    let mut taken = Ipam::default();
    for round in 0..CALLS {
        let container = format!("ipam-{round}");
        let one = |program: &Path, verb: &str, stdin: String| -> Result<Taken, Failure> {
            Ok(call(&plugin(program, verb, &container, pod.netns.path(), stdin), &environment)?)
        };
        let mut ours = || -> Result<(), Failure> {
            let added = one(&ours, "ADD", conf::ours())?;
            taken.add.push(added.time);
            taken.cpu.push(added.cpu);
            bed.quiet(1)?;
            taken.del.push(one(&ours, "DEL", conf::ours())?.time);
            bed.quiet(0)
        };
        let mut theirs = || -> Result<(), Failure> {
            let added = one(&theirs, "ADD", conf::reference(&bed.disk))?;
            taken.peer_add.push(added.time);
            taken.peer_cpu.push(added.cpu);
            bed.quiet(0)?;
            taken.peer_del.push(one(&theirs, "DEL", conf::reference(&bed.disk))?.time);
            bed.quiet(0)
        };
        in_turn(round, &mut ours, &mut theirs)?;
        floor.sample(bed)?;
    }
    Ok(taken)
}

/// Who is first changes from round to round.
fn in_turn(
    round: usize,
    ours: &mut dyn FnMut() -> Result<(), Failure>,
    theirs: &mut dyn FnMut() -> Result<(), Failure>,
) -> Result<(), Failure> {
    if round.is_multiple_of(2) {
        ours()?;
        theirs()
    } else {
        theirs()?;
        ours()
    }
}

#[derive(Default)]
struct Chain {
    add: Samples,
    link: Samples,
    coordinator: Samples,
    cpu: Samples,
    del: Samples,
    peer_add: Samples,
    peer_del: Samples,
}

fn chain(bed: &Bed) -> Result<Chain, Failure> {
    let (own, other) = (
        bed.scene.pod("bench-chain", Ipv4Addr::new(10, 233, 90, 3))?,
        bed.scene.pod("bench-peer", Ipv4Addr::new(10, 233, 90, 4))?,
    );
    let mut taken = Chain::default();
    for round in 0..CHAINS {
        let container = format!("chain-{round}");
        let mut ours = || own_chain(bed, &own, &container, &mut taken);
        let mut peer = (Samples::default(), Samples::default());
        let mut theirs = || -> Result<(), Failure> {
            let one = |verb: &str| {
                let stdin = conf::reference(&bed.disk);
                let macvlan = bed.reference.join("macvlan");
                call(&plugin(&macvlan, verb, &container, other.netns.path(), stdin), &environment(bed))
            };
            peer.0.push(one("ADD")?.time);
            bed.quiet(0)?;
            peer.1.push(one("DEL")?.time);
            bed.quiet(0)
        };
        in_turn(round, &mut ours, &mut theirs)?;
        taken.peer_add.extend(&peer.0);
        taken.peer_del.extend(&peer.1);
    }
    Ok(taken)
}

fn own_chain(bed: &Bed, pod: &Pod, container: &str, taken: &mut Chain) -> Result<(), Failure> {
    let one = |name: &str, verb: &str, stdin: String| {
        let program = bed.ours.join(name);
        call(&plugin(&program, verb, container, pod.netns.path(), stdin), &environment(bed))
    };
    let link = one("macvlan", "ADD", conf::ours())?;
    let result: Value = link.json();
    let coordinator = one("coordinator", "ADD", conf::coordinator(&result))?;
    taken.link.push(link.time);
    taken.coordinator.push(coordinator.time);
    taken.cpu.push(coordinator.cpu);
    taken.add.push(link.time + coordinator.time);
    bed.quiet(1)?;
    let routes = one("coordinator", "DEL", conf::coordinator(&result))?;
    taken.del.push(routes.time + one("macvlan", "DEL", conf::ours())?.time);
    bed.quiet(0)
}

/// How long rules stay away after `ip rule flush`.
pub(super) fn repairs(bed: &Bed) -> Result<Vec<Row>, Failure> {
    let pod = bed.scene.pod("bench-repair", Ipv4Addr::new(10, 233, 90, 5))?;
    let one = |name: &str, stdin: String| {
        let program = bed.ours.join(name);
        call(&plugin(&program, "ADD", "repair", pod.netns.path(), stdin), &environment(bed))
    };
    let result = one("macvlan", conf::ours())?.json();
    one("coordinator", conf::coordinator(&result))?;
    bed.quiet(1)?;
    let mut times = Samples::default();
    for _ in 0..FLUSHES {
        times.push(repair::flush_rules(&pod.netns)?);
        bed.quiet(1)?;
    }
    Ok(vec![Row::time("repair after `ip rule flush`, damage included (p99: the longest)", &times).up_to_max(&times)])
}
