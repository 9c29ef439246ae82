//! `cargo benchmarks`: whole processes against the reference plugins, in one run, turn by turn; what the parts cost; and the
//! same in a cluster.

mod bed;
mod call;
mod cluster;
mod drift;
mod inside;
mod many;
mod outside;
mod populous;
mod report;
mod sample;
mod side;
mod weight;

use std::fs::File;
use std::process::ExitCode;
use std::time::Instant;

use nix::sched::{CloneFlags, setns};

use bed::{Bed, Programs};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Which of it is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    All,
    Cluster,
    Drift,
    Records,
}

/// Runs all, or with `--cluster` what needs an API server, with `--drift` what is about 250 running pods, or with
/// `--records` what is about the records of 100,000; `-o json` prints JSON instead of Markdown.
pub(crate) fn run(arguments: &[&str]) -> ExitCode {
    let (part, rest) = match arguments {
        ["--cluster", rest @ ..] => (Part::Cluster, rest),
        ["--drift", rest @ ..] => (Part::Drift, rest),
        ["--records", rest @ ..] => (Part::Records, rest),
        rest => (Part::All, rest),
    };
    let as_json = match rest {
        [] => false,
        ["-o", "json"] => true,
        _ => {
            eprintln!(
                "runner: benchmarks takes --cluster, --drift or --records, -o json, both in this order, or nothing"
            );
            return ExitCode::from(2);
        }
    };
    match measure(part) {
        Ok((rows, conditions)) => {
            if as_json {
                println!("{}", report::json(&rows, &conditions));
            } else {
                println!("{}", report::markdown(&rows, &conditions));
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("runner: benchmarks: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(part: Part) -> Result<(Vec<report::Row>, String), Failure> {
    if matches!(part, Part::All | Part::Cluster) {
        // Before anything is built for it.
        ::tests::cluster::Programs::find()?;
    }
    let programs = Programs::build()?;
    // Before any thread is started.
    netlink::testbed::enter_private_world()?;
    let started = Instant::now();
    let mut bed = Bed::make(&programs)?;
    // Everything runs where a runtime would run: in the node's namespace, by one thread that stays there.
    let node: File = bed.scene.worker.open()?;
    let mut rows = Vec::new();
    if part == Part::All {
        rows = std::thread::scope(|scope| {
            let inside = scope.spawn(|| -> Result<Vec<report::Row>, Failure> {
                setns(&node, CloneFlags::CLONE_NEWNET)?;
                on_node(&bed)
            });
            inside.join().unwrap_or_else(|_| Err("a measurement panicked; see above".into()))
        })?;
    }
    if matches!(part, Part::All | Part::Drift) {
        rows.extend(drift::rows(&programs, &bed)?);
    }
    if matches!(part, Part::All | Part::Cluster) {
        rows.extend(cluster::rows(&programs, &bed)?);
    }
    if matches!(part, Part::All | Part::Records) {
        rows.extend(populous::rows(&programs, &mut bed)?);
    }
    let size = std::fs::metadata(&programs.plugins)?.len() / 1024;
    let conditions = format!(
        "{} processors, {}, store on {}, plugin binary {size} KiB; {:.0} s for all.",
        std::thread::available_parallelism()?,
        std::fs::read_to_string("/proc/sys/kernel/osrelease").map(|text| format!("Linux {}", text.trim()))?,
        bed.file_system(),
        started.elapsed().as_secs_f64(),
    );
    Ok((rows, conditions))
}

fn on_node(bed: &Bed) -> Result<Vec<report::Row>, Failure> {
    let pod = bed.scene.pod("bench-inside", std::net::Ipv4Addr::new(10, 233, 90, 1))?;
    let (kernel_rows, batch) = inside::in_kernel(pod.netns.path())?;
    let mut rows = outside::calls(bed, &batch)?;
    rows.extend(many::at_once(bed)?);
    rows.extend(outside::repairs(bed)?);
    rows.extend(inside::deciding()?);
    rows.extend(kernel_rows);
    Ok(rows)
}
