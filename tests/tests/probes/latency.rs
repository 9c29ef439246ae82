//! What probes cost an ADD: measured and printed, not judged.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::bed::{CONFLICT, GATEWAY, Main, probing, with_both};
use crate::node::attachment;

const ROUNDS: u8 = 12;

pub(crate) fn trials() -> Vec<Trial> {
    with_both("latency", measure)
}

fn measure(main: Main) {
    let settings: [(&str, &[(&str, &str)]); 5] = [
        ("off", &[]),
        ("conflict on", &[(CONFLICT, "on")]),
        ("gateway on", &[(GATEWAY, "on")]),
        ("both on", &[(CONFLICT, "on"), (GATEWAY, "on")]),
        ("both in the background", &[(CONFLICT, "background"), (GATEWAY, "background")]),
    ];
    for (number, (what, variables)) in settings.into_iter().enumerate() {
        let node = probing(&main.name(&format!("lat{number}")), variables);
        let (conflist, runtime) = (node.conflist(), main.runtime(&node));
        let mut taken: Vec<Duration> = Vec::new();
        let pods: Vec<_> = (0..ROUNDS).map(|round| node.pod(101 + round)).collect();
        for pod in &pods {
            let begun = Instant::now();
            runtime.add(&conflist, &attachment(pod, "net1")).unwrap();
            taken.push(begun.elapsed());
        }
        taken.sort();
        let (median, most) = (taken[taken.len() / 2], taken[taken.len() - 1]);
        println!("{main:?} macvlan, whole chain, {what}: ADD p50 {median:.1?}, most {most:.1?}");
        node.has_no_drift().unwrap();
    }
}
