//! `dragline plan`.

use schemas::wire::{Answer, Call};

use super::ask::{Output, print, print_json, query, unexpected};
use super::{Ask, Failure, client};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The pod, its container ID, or namespace/pod; all when absent
    pod: Option<String>,
    /// The pod's namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// How it is shown
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    #[command(flatten)]
    ask: Ask,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let query = query(arguments.pod.as_deref(), arguments.namespace.as_deref());
    let plans = match client::ask(&arguments.ask.socket, Call::Plan(query))? {
        Answer::Plans(plans) => plans,
        other => return Err(unexpected(&other)),
    };
    if let (Some(pod), true) = (&arguments.pod, plans.is_empty()) {
        return Err(Failure::Failed(format!(
            "{pod:?} not found: `dragline get endpoints` lists the pods of this node"
        )));
    }
    if arguments.output == Output::Json {
        return print_json(&plans);
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
