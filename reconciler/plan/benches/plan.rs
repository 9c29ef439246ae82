//! What deciding costs: plan, diff of a converged pod, diff of a new one.

#![allow(missing_docs, reason = "criterion's macro makes a public function")]

use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use plan::{NodeFacts, Observed, PlanInput, Prune, diff, plan};
use schemas::intent::{Attachment, Sandbox};
use serde::Deserialize;

#[derive(Deserialize)]
struct Input {
    sandbox: Sandbox,
    attachments: Vec<Attachment>,
    node: NodeFacts,
    observed: Observed,
}

fn read(case: &str) -> Input {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case).join("input.json");
    let text = std::fs::read_to_string(path).expect("the golden case is part of the sources");
    serde_json::from_str(&text).expect("a test holds every golden case readable")
}

fn decide(criterion: &mut Criterion) {
    for case in ["quickstart", "two-nics"] {
        let Input { sandbox, attachments, node, observed } = read(case);
        let input = PlanInput { sandbox: &sandbox, attachments: &attachments, node: &node, cluster: None };
        let desired = plan(input).pod;
        // Converged: exactly what is wanted, besides what was there.
        let mut converged = observed.clone();
        converged.routes.retain(|route| !plan::ownership::is_displaced(route, &desired));
        converged.routes.extend(desired.routes.iter().map(|wanted| wanted.route.clone()));
        converged.rules.extend(desired.rules.iter().cloned());
        converged.neighbours.extend(desired.neighbours.iter().cloned());
        converged.sysctls.clone_from(&desired.sysctls);
        assert!(diff(&desired, &converged, Prune::Yes).is_converged(), "{case} is not converged");
        assert!(diff(&desired, &observed, Prune::Yes).steps.len() > 10, "{case} has nothing to do");

        let mut group = criterion.benchmark_group(case);
        group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(30);
        group.bench_function("plan", |bencher| bencher.iter(|| plan(input)));
        group.bench_function("diff converged", |bencher| bencher.iter(|| diff(&desired, &converged, Prune::Yes)));
        group.bench_function("diff new", |bencher| bencher.iter(|| diff(&desired, &observed, Prune::Yes)));
        group.finish();
    }
}

criterion_group!(benches, decide);
criterion_main!(benches);
