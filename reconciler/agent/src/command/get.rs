//! `dragline get`.

use schemas::wire::{Answer, Call, GetCall, Kind};
use serde_json::json;

use super::ask::{print, print_json, unexpected};
use super::table::{self, Column};
use super::{Ask, Failure, client};

/// The kinds, with kubectl's short names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    #[value(alias = "ippool", alias = "sp", alias = "spiderippools")]
    Ippools,
    #[value(alias = "endpoint", alias = "se", alias = "spiderendpoints")]
    Endpoints,
    #[value(alias = "attachment")]
    Attachments,
    #[value(alias = "lease")]
    Leases,
    #[value(alias = "scc", alias = "coordinators", alias = "spidercoordinators")]
    Coordinator,
    Journal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    Table,
    Wide,
    Json,
    Yaml,
}

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Of what
    #[arg(value_enum)]
    what: What,
    /// Only the one of this name
    name: Option<String>,
    /// Only of this Kubernetes namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// How it is shown
    #[arg(short, long, value_enum, default_value = "table")]
    output: Form,
    #[command(flatten)]
    ask: Ask,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let kind = match arguments.what {
        What::Ippools => Kind::Ippools,
        What::Endpoints => Kind::Endpoints,
        What::Attachments => Kind::Attachments,
        What::Leases => Kind::Leases,
        What::Coordinator => Kind::Coordinator,
        What::Journal => Kind::Journal,
    };
    let call = GetCall { kind, name: arguments.name.clone(), namespace: arguments.namespace.clone() };
    let objects = match client::ask(&arguments.ask.socket, Call::Get(call))? {
        Answer::Objects(objects) => objects,
        other => return Err(unexpected(&other)),
    };
    if let (Some(name), true) = (&arguments.name, objects.is_empty()) {
        return Err(Failure::Failed(format!("{name:?} not found: `dragline get` without a name lists all")));
    }
    // One that is named is shown alone, as kubectl does.
    let whole = match (&arguments.name, objects.as_slice()) {
        (Some(_), [one]) => one.clone(),
        _ => json!({"apiVersion": "v1", "kind": "List", "items": objects}),
    };
    match arguments.output {
        Form::Json => print_json(&whole),
        Form::Yaml => {
            let text = serde_saphyr::to_string(&whole).map_err(|error| Failure::Failed(error.to_string()))?;
            print(text.trim_end())
        }
        Form::Table | Form::Wide if objects.is_empty() => {
            eprintln!("No resources found");
            Ok(())
        }
        Form::Table | Form::Wide => {
            let is_wide = arguments.output == Form::Wide;
            print(&table::text(&columns(kind, is_wide), &objects))
        }
    }
}

/// Headers and where their values stand in an object.
type Listed = &'static [(&'static str, &'static str)];

fn columns(kind: Kind, is_wide: bool) -> Vec<Column> {
    let mut columns = vec![Column::path("NAME", "/metadata/name")];
    let (narrow, wide): (Listed, Listed) = match kind {
        Kind::Ippools => (
            &[
                ("VERSION", "/spec/ipVersion"),
                ("SUBNET", "/spec/subnet"),
                ("ALLOCATED-IP-COUNT", "/status/allocatedIPCount"),
                ("TOTAL-IP-COUNT", "/status/totalIPCount"),
                ("DEFAULT", "/spec/default"),
            ],
            &[("DISABLE", "/spec/disable"), ("NODENAME", "/spec/nodeName"), ("MULTUSNAME", "/spec/multusName")],
        ),
        Kind::Endpoints => (
            &[
                ("INTERFACE", "/status/current/ips/0/interface"),
                ("IPV4POOL", "/status/current/ips/0/ipv4Pool"),
                ("IPV4", "/status/current/ips/0/ipv4"),
                ("IPV6POOL", "/status/current/ips/0/ipv6Pool"),
                ("IPV6", "/status/current/ips/0/ipv6"),
                ("NODE", "/status/current/node"),
            ],
            &[("NAMESPACE", "/metadata/namespace"), ("UID", "/status/current/uid")],
        ),
        Kind::Attachments => (
            &[
                ("NETWORK", "/attachment/network"),
                ("NAMESPACE", "/attachment/pod/namespace"),
                ("POD", "/attachment/pod/name"),
                ("ADDRESS", "/attachment/addresses/0/address"),
                ("STATE", "/state"),
            ],
            &[("NETNS", "/netns/path"), ("ORDINAL", "/attachment/ordinal"), ("ERROR", "/outcome/error")],
        ),
        Kind::Leases => (
            &[
                ("NODE", "/node"),
                ("HELD", "/held"),
                ("USED", "/used"),
                ("RELEASING", "/releasing"),
                ("QUARANTINED", "/quarantined"),
            ],
            &[("RANGES", "/ranges"), ("OCCUPIED-IP", "/occupied/0/address"), ("BY", "/occupied/0/mac")],
        ),
        Kind::Coordinator => (
            &[
                ("MODE", "/spec/mode"),
                ("PHASE", "/status/phase"),
                ("OVERLAYPODCIDR", "/status/overlayPodCIDR"),
                ("SERVICECIDR", "/status/serviceCIDR"),
            ],
            &[
                ("TUNEPODROUTES", "/spec/tunePodRoutes"),
                ("DEFAULTROUTENIC", "/spec/podDefaultRouteNIC"),
                ("HIJACKCIDR", "/spec/hijackCIDR"),
            ],
        ),
        Kind::Journal => (
            &[
                ("NAMESPACE", "/metadata/namespace"),
                ("TIME", "/time"),
                ("GENERATION", "/generation"),
                ("EVENT", "/event"),
                ("INTERFACE", "/interface"),
            ],
            &[("CONTAINER", "/container"), ("DETAIL", "/detail")],
        ),
    };
    columns.extend(narrow.iter().map(|(name, path)| Column::path(name, path)));
    if is_wide {
        columns.extend(wide.iter().map(|(name, path)| Column::path(name, path)));
    }
    columns
}
