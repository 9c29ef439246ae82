//! `dragline explain-pools`.

use schemas::name::IfName;
use schemas::wire::{Answer, Call, ExplainPoolsCall};

use super::ask::{Output, print, print_json, query, unexpected};
use super::{Ask, Failure, client};
use crate::selection::{Decision, Judged};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The pod, or namespace/pod; one that has failed to start too
    pod: String,
    /// The pod's namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// Only this interface; all that the pod has or asks for when absent
    #[arg(long, value_name = "NIC")]
    ifname: Option<IfName>,
    /// The SpiderMultusConfig of the interface, where the pod's annotations do not tell it: NAME or NAMESPACE/NAME
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// How it is shown
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    #[command(flatten)]
    ask: Ask,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let call = ExplainPoolsCall {
        pod: query(Some(&arguments.pod), arguments.namespace.as_deref()),
        ifname: arguments.ifname.clone(),
        network: arguments.network.clone(),
    };
    let objects = match client::ask(&arguments.ask.socket, Call::ExplainPools(call))? {
        Answer::Objects(objects) => objects,
        other => return Err(unexpected(&other)),
    };
    if arguments.output == Output::Json {
        return print_json(&objects);
    }
    let read = |object| serde_json::from_value::<Decision>(object);
    let decisions: Vec<Decision> = objects.into_iter().map(read).collect::<Result<_, _>>().map_err(|error| {
        Failure::Failed(format!("explain-pools: the agent's answer is not understood ({error}): install one release"))
    })?;
    print(&decisions.iter().map(text).collect::<Vec<_>>().join("\n\n"))
}

/// A decision as people read it.
fn text(decision: &Decision) -> String {
    let network = decision.network.as_ref().map(|network| format!(" (network {network})")).unwrap_or_default();
    let mut lines = vec![format!("{} {}{network}", decision.pod, decision.interface)];
    lines.push(match &decision.rule {
        Some(rule) => format!("  decided by  {rule}"),
        None => "  decided by  nothing: no rule names a pool".to_owned(),
    });
    lines.extend(decision.beats.iter().map(|rule| format!("  which beats {rule}")));
    if decision.clean_gateway {
        lines.push("  without a default route by the pool's gateway (clean gateway)".into());
    }
    for family in &decision.families {
        lines.push(format!("  IPv{} pools, in order", family.version));
        let width = family.pools.iter().map(|pool| pool.name.chars().count()).max().unwrap_or(0);
        lines.extend(family.pools.iter().map(|pool| line(pool, width)));
    }
    lines.extend(decision.addresses.iter().map(|address| format!("  it has      {address}")));
    lines.extend(decision.error.iter().map(|error| format!("  ADD fails   {error}")));
    lines.extend(decision.remarks.iter().map(|remark| format!("  note        {remark}")));
    lines.join("\n")
}

fn line(pool: &Judged, width: usize) -> String {
    let mark = if pool.is_next { '>' } else { ' ' };
    let Judged { name, free, used, total, .. } = pool;
    match &pool.unfit {
        None => format!("  {mark} {name:width$}  fits: {free} free and {used} used on this node, of {total}"),
        Some(why) => format!("  {mark} {name:width$}  does not fit: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selection::Family;

    #[test]
    fn a_decision_is_read_line_by_line() {
        let pool = |name: &str, unfit: Option<&str>, free, is_next| Judged {
            name: name.into(),
            unfit: unfit.map(Into::into),
            free,
            used: 2,
            total: 41,
            is_next,
        };
        let pools = vec![
            pool("a", Some("disabled IPPool a"), 0, false),
            pool("full", None, 0, false),
            pool("b", None, 3, true),
        ];
        let decision = Decision {
            pod: "default/web".into(),
            interface: "net1".into(),
            network: Some("kube-system/vlan".into()),
            rule: Some("the pod's annotation x".into()),
            beats: vec!["the namespace's annotations".into()],
            clean_gateway: false,
            families: vec![Family { version: 4, pools }],
            error: None,
            addresses: vec!["10.6.0.1/16 of b".into()],
            remarks: Vec::new(),
        };
        let expected = "default/web net1 (network kube-system/vlan)\n  \
                        decided by  the pod's annotation x\n  \
                        which beats the namespace's annotations\n  \
                        IPv4 pools, in order\n    \
                        a     does not fit: disabled IPPool a\n    \
                        full  fits: 0 free and 2 used on this node, of 41\n  \
                        > b     fits: 3 free and 2 used on this node, of 41\n  \
                        it has      10.6.0.1/16 of b";
        assert_eq!(text(&decision), expected);
    }
}
