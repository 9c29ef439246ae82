//! `dragline explain`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use plan::NodeFacts;
use plan::explain::{Basis, Explanation, wanted};
use plan::object::{Address, Scope};
use schemas::wire::{Answer, Call, ExplainCall, Explained, ExplainedFlow, PodQuery};

use super::ask::{Output, print, print_json, query, unexpected};
use super::{Ask, Failure, client};
use crate::call::explain::{Known, explained, flow_of, only};
use crate::recorded::Recorded;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The pod, its container ID, or namespace/pod
    pod: String,
    /// The packet's destination
    #[arg(long, value_name = "IP")]
    to: IpAddr,
    /// The packet's source; without it, the one that the kernel would choose
    #[arg(long, value_name = "IP")]
    from: Option<IpAddr>,
    /// The packet arrives by this NIC of the pod, instead of being made there
    #[arg(long, value_name = "NIC")]
    iif: Option<String>,
    /// The pod's namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// How it is shown
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    /// Write a drawing of the pod and the packet's way to this file too
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Explain by a dump (`dragline dump`) instead of a running agent: what is wanted, not what the kernel holds
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
    /// With --dump, which does not have them: the node's addresses
    #[arg(long, value_name = "ADDRESS/PREFIX", requires = "dump")]
    node_address: Vec<IpNetwork>,
    #[command(flatten)]
    ask: Ask,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let flow = ExplainedFlow { to: arguments.to, from: arguments.from, iif: arguments.iif.clone() };
    // Before anybody is asked.
    flow_of(&flow).check().map_err(|error| Failure::Usage(format!("explain: {error}")))?;
    let call = ExplainCall {
        pod: query(Some(&arguments.pod), arguments.namespace.as_deref()),
        flow: Some(flow),
        drawing: arguments.svg.is_some(),
    };
    let answer = match &arguments.dump {
        Some(file) => offline(file, &arguments.node_address, &call)?,
        None => ask(&arguments.ask.socket, call)?,
    };
    if let (Some(file), Some(drawing)) = (&arguments.svg, &answer.drawing) {
        std::fs::write(file, drawing)
            .map_err(|error| Failure::Failed(format!("explain: cannot write {}: {error}", file.display())))?;
    }
    let Some(explanation) = answer.explanation else {
        return Err(Failure::Failed("explain: the agent answered without an explanation".into()));
    };
    if arguments.output == Output::Json {
        return print_json(&explanation);
    }
    let explanation: Explanation = serde_json::from_value(explanation).map_err(|error| {
        Failure::Failed(format!("explain: the agent's answer is not understood ({error}): install one release"))
    })?;
    print(&explanation.to_text())
}

/// The drawing of a pod without a packet, for `dragline plan -o svg`.
pub(super) fn drawing(socket: &Path, pod: PodQuery) -> Result<String, Failure> {
    let answer = ask(socket, ExplainCall { pod, flow: None, drawing: true })?;
    answer.drawing.ok_or_else(|| Failure::Failed("plan: the agent answered without a drawing".into()))
}

fn ask(socket: &Path, call: ExplainCall) -> Result<Explained, Failure> {
    match client::ask(socket, Call::Explain(call))? {
        Answer::Explained(explained) => Ok(explained),
        other => Err(unexpected(&other)),
    }
}

fn offline(file: &Path, node: &[IpNetwork], call: &ExplainCall) -> Result<Explained, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(format!("explain: {}: {error}", file.display()));
    let open = std::fs::File::open(file).map_err(|error| failed(&error))?;
    let recorded = Recorded::read(std::io::BufReader::new(open)).map_err(|error| failed(&error))?;
    let records = only(recorded.selected(&call.pod), call).map_err(|error| failed(&error))?;
    if node.is_empty() {
        eprintln!(
            "dragline: explain: a dump has no addresses of its node: what goes by the node is missing, name them with --node-address"
        );
    }
    let node = NodeFacts { addresses: node.iter().map(|address| uplink(*address)).collect(), routes: Vec::new() };
    let known = Known { records: &Arc::clone(&records), node: &node, catalogue: &recorded.catalogue };
    let plan = known.plan();
    let seen = wanted(&records.sandbox, &plan.pod);
    explained(&known, &plan, &seen, Basis::Wanted, call).map_err(|error| failed(&error))
}

fn uplink(address: IpNetwork) -> Address {
    Address { dev: "uplink".into(), address, scope: Scope::GLOBAL, protocol: 0 }
}
