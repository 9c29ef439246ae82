//! What one step of the reconciler costs, in this process: plan, diff, observe, apply.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use ipnetwork::IpNetwork;
use netlink::{Kernel, Pass};
use plan::step::Placement;
use plan::tables::PROTOCOL;
use plan::{Neighbour, NodeFacts, Observed, PlanInput, Prune, Route, RouteKind, Rule, Scope, Step, diff, plan};
use schemas::intent::{Attachment, Sandbox};
use schemas::name::Mac;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Failure;
use super::report::Row;
use super::sample::Samples;

const ROUNDS: usize = 400;

/// Of the quick start's pod, as the golden cases of `plan` have it.
pub(super) fn deciding() -> Result<Vec<Row>, Failure> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../reconciler/plan/tests/golden/quickstart/input.json");
    let input: Value = serde_json::from_str(&fs::read_to_string(path)?)?;
    let sandbox: Sandbox = part(&input, "sandbox")?;
    let attachments: Vec<Attachment> = part(&input, "attachments")?;
    let (node, observed): (NodeFacts, Observed) = (part(&input, "node")?, part(&input, "observed")?);
    let input = PlanInput { sandbox: &sandbox, attachments: &attachments, node: &node, cluster: None };
    let desired = plan(input).pod;
    Ok(vec![
        Row::time("plan of a pod", &timed(|| plan(input))),
        Row::time("diff of a new pod", &timed(|| diff(&desired, &observed, Prune::Yes))),
    ])
}

fn part<T: DeserializeOwned>(input: &Value, name: &str) -> Result<T, Failure> {
    Ok(serde_json::from_value(input[name].clone())?)
}

/// In the namespace at the path; also the samples of one batch of 17 operations.
pub(super) fn in_kernel(netns: &str) -> Result<(Vec<Row>, Samples), Failure> {
    let kernel = Kernel::new()?;
    let identity = kernel.identify(netns)?;
    let whole = timed(|| kernel.pass(&identity).map(|mut pass| pass.observe(&[]).map(drop)));
    let mut pass = kernel.pass(&identity)?;
    let (additions, deletions) = steps();
    let mut batch = Samples::default();
    for _ in 0..ROUNDS {
        let started = Instant::now();
        apply(&mut pass, &additions)?;
        batch.push(started.elapsed());
        apply(&mut pass, &deletions)?;
    }
    let rows = vec![
        Row::time("observe a pod whole, its namespace opened and closed", &whole),
        Row::time("apply 17 steps (8 routes, 8 rules, 1 neighbour)", &batch),
    ];
    Ok((rows, batch))
}

fn apply(pass: &mut Pass, steps: &[Step]) -> Result<(), Failure> {
    Ok(pass.apply(steps).into_iter().collect::<Result<_, _>>()?)
}

fn timed<T>(mut act: impl FnMut() -> T) -> Samples {
    let mut samples = Samples::default();
    for _ in 0..ROUNDS {
        let started = Instant::now();
        std::hint::black_box(act());
        samples.push(started.elapsed());
    }
    samples
}

/// As many as a pod's plan has, in a table that nothing points at.
fn steps() -> (Vec<Step>, Vec<Step>) {
    let (mut additions, mut deletions) = (Vec::new(), Vec::new());
    for n in 0..8 {
        let route = route(IpNetwork::V4(ipnetwork::Ipv4Network::from(std::net::Ipv4Addr::new(10, 250, n, 1))));
        let rule = Rule {
            priority: 30000 - u32::from(n),
            v6: false,
            from: None,
            to: Some(route.dst),
            table: route.table,
            mark: None,
            other: None,
            protocol: PROTOCOL,
        };
        additions.extend([Step::AddRoute(route.clone(), Placement::Alone), Step::AddRule(rule.clone())]);
        deletions.extend([Step::DeleteRule(rule), Step::DeleteRoute(route)]);
    }
    let neighbour = Neighbour {
        dev: "eth0".into(),
        address: IpAddr::from([10, 250, 9, 7]),
        mac: Some(Mac([2, 0, 0, 0, 0, 7])),
        permanent: true,
        protocol: PROTOCOL,
    };
    additions.push(Step::SetNeighbour(neighbour.clone()));
    deletions.push(Step::DeleteNeighbour(neighbour));
    (additions, deletions)
}

fn route(dst: IpNetwork) -> Route {
    Route {
        table: 4242,
        dst,
        metric: 0,
        dev: Some("eth0".into()),
        gateway: None,
        src: None,
        scope: Scope::LINK,
        onlink: false,
        kind: RouteKind::Unicast,
        protocol: PROTOCOL,
    }
}
