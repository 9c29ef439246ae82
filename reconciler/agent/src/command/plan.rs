//! `dragline plan`.

use std::path::{Path, PathBuf};

use schemas::wire::{Answer, Call, PlanCall, PodPlan};
use serde_json::Value;

use super::ask::{print, print_json, query, unexpected};
use super::{Ask, Failure, client};

/// Text for people, JSON for programs, a drawing for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// As `ip` commands.
    Text,
    /// For programs.
    Json,
    /// What the pod holds now, drawn on a page.
    Svg,
}

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The pod, its container ID, or namespace/pod; all when absent
    pod: Option<String>,
    /// The pod's namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// All pods, said so
    #[arg(long, conflicts_with = "pod")]
    all: bool,
    /// Only what would be changed
    #[arg(long)]
    diff: bool,
    /// As if this SpiderCoordinator were declared (a file with one, YAML or JSON)
    #[arg(long, value_name = "FILE")]
    coordinator: Option<PathBuf>,
    /// How it is shown
    #[arg(short, long, value_enum, default_value = "text")]
    output: Form,
    #[command(flatten)]
    ask: Ask,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let query = query(arguments.pod.as_deref(), arguments.namespace.as_deref());
    if arguments.output == Form::Svg {
        if arguments.pod.is_none() {
            return Err(Failure::Usage("plan: -o svg draws one pod: name it".into()));
        }
        return print(super::explain::drawing(&arguments.ask.socket, query)?.trim_end());
    }
    let coordinator = arguments.coordinator.as_deref().map(read).transpose()?;
    let plans = match client::ask(&arguments.ask.socket, Call::Plan(PlanCall { query, coordinator }))? {
        Answer::Plans(plans) => plans,
        other => return Err(unexpected(&other)),
    };
    if let (Some(pod), true) = (&arguments.pod, plans.is_empty()) {
        return Err(Failure::Failed(format!(
            "{pod:?} not found: `dragline get endpoints` lists the pods of this node"
        )));
    }
    if arguments.output == Form::Json {
        return print_json(&plans);
    }
    if arguments.diff {
        return print(&differences(&plans).join("\n"));
    }
    let mut lines = Vec::new();
    for plan in &plans {
        lines.push(format!("# {} (container {}, {})", plan.pod, plan.container, plan.netns));
        lines.push("# wanted in the pod".into());
        lines.extend(plan.wanted.iter().cloned());
        lines.push("# wanted on the node".into());
        lines.extend(plan.wanted_on_node.iter().cloned());
        lines.push(if plan.changes.is_empty() {
            "# nothing to change".into()
        } else {
            "# would be changed now".into()
        });
        lines.extend(plan.changes.iter().cloned());
    }
    print(&lines.join("\n"))
}

fn read(path: &Path) -> Result<Value, Failure> {
    let failed = |error: String| Failure::Failed(format!("{}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let object: Value = serde_saphyr::from_str(&text).map_err(|error| failed(error.to_string()))?;
    match object["kind"].as_str() {
        Some("SpiderCoordinator") => Ok(object),
        kind => Err(failed(format!("it is a {}, not a SpiderCoordinator", kind.unwrap_or("document without kind")))),
    }
}

/// What would be changed, pod by pod, and how many pods it would not touch.
fn differences(plans: &[PodPlan]) -> Vec<String> {
    let mut lines = Vec::new();
    let (changed, same): (Vec<_>, Vec<_>) = plans.iter().partition(|plan| !plan.changes.is_empty());
    for plan in changed {
        lines.push(format!("# {} (container {})", plan.pod, plan.container));
        lines.extend(plan.changes.iter().cloned());
    }
    lines.push(format!("# {} of {} pods would be changed", plans.len() - same.len(), plans.len()));
    lines
}
