//! The CustomResourceDefinitions, brought from what the derive makes to the original's form.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResourceExt, Resource};
use serde_json::Value;

use super::rules::{self, Placed};
use super::{
    SpiderCoordinator, SpiderEndpoint, SpiderIPPool, SpiderIPShard, SpiderMultusConfig, SpiderReservedIP, SpiderSubnet,
};

/// The definitions of all kinds, in the order of their names.
pub fn all() -> Vec<CustomResourceDefinition> {
    let mut endpoint = definition::<SpiderEndpoint>(Vec::new);
    // The status of an endpoint is written by plain updates, so it must not be a subresource. The derive makes one
    // wherever there is a status.
    for version in &mut endpoint.spec.versions {
        version.subresources = None;
    }
    let mut all = vec![
        definition::<SpiderCoordinator>(rules::coordinator),
        endpoint,
        definition::<SpiderIPPool>(rules::pool),
        shard(),
        definition::<SpiderMultusConfig>(rules::network),
        definition::<SpiderReservedIP>(rules::reserved),
        definition::<SpiderSubnet>(rules::subnet),
    ];
    all.sort_by(|one, other| one.spec.names.plural.cmp(&other.spec.names.plural));
    all
}

/// A shard comes into being with all of its slots free: a create cannot set the status, and a patch that tests a slot needs
/// the slot to be there.
fn shard() -> CustomResourceDefinition {
    let mut definition = definition::<SpiderIPShard>(Vec::new);
    let free = serde_json::json!({"slots": vec![""; super::ip_shard::SLOTS]});
    for version in &mut definition.spec.versions {
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        let properties = schema.and_then(|schema| schema.properties.as_mut());
        if let Some(status) = properties.and_then(|properties| properties.get_mut("status")) {
            let default = k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSON(free.clone());
            status.default = Some(default);
            // An empty list is what reading forgives, and not what is valid.
            for slots in status.properties.iter_mut().filter_map(|properties| properties.get_mut("slots")) {
                slots.default = None;
            }
        }
    }
    definition
}

/// The definition as YAML, one document without separator. Equal definitions give equal bytes.
pub fn to_yaml(definition: &CustomResourceDefinition) -> String {
    let mut tree = serde_json::to_value(definition).expect("a definition has text keys only");
    write_whole_numbers(&mut tree);
    // Other crates of a build can make serde_json keep the order of insertion.
    tree.sort_all_objects();
    serde_saphyr::to_string(&tree).expect("a JSON value has a YAML form, and a String takes it")
}

/// The bounds of a schema are floating-point numbers to Kubernetes' types; 0 reads better than 0.0.
fn write_whole_numbers(tree: &mut Value) {
    match tree {
        Value::Number(number) => {
            // Beyond 2^53 a float does not name one whole number.
            let whole = number.as_f64().filter(|value| number.is_f64() && value.fract() == 0.0 && value.abs() < 9e15);
            if let Some(value) = whole {
                *tree = Value::from(value as i64);
            }
        }
        Value::Object(map) => map.values_mut().for_each(write_whole_numbers),
        Value::Array(list) => list.iter_mut().for_each(write_whole_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

fn definition<K: CustomResourceExt + Resource<DynamicType = ()>>(
    rules: fn() -> Vec<Placed>,
) -> CustomResourceDefinition {
    let mut definition = K::crd();
    definition.spec.names.list_kind = Some(format!("{}List", K::kind(&())));
    for version in &mut definition.spec.versions {
        let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) else {
            continue;
        };
        // The original requires no `spec`, and objects without one are stored in clusters.
        schema.required = None;
        schema.title = None;
        let mut tree = serde_json::to_value(&*schema).expect("a schema has text keys only");
        tidy(&mut tree);
        rules::place(&mut tree, rules());
        *schema = serde_json::from_value(tree).expect("a schema without `nullable` is a schema");
    }
    definition
}

/// Drops `nullable`, which the original has nowhere, so that the API server drops nulls and applies the defaults in their
/// place; and joins the lines of descriptions, which end where those of the source did.
fn tidy(tree: &mut Value) {
    match tree {
        Value::Object(map) => {
            // A property of one of these names would be an object.
            if map.get("nullable").is_some_and(Value::is_boolean) {
                map.remove("nullable");
            }
            // The API server knows no unsigned numbers, and warns; the bounds say it.
            if map.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
                map.remove("format");
            }
            if let Some(Value::String(text)) = map.get_mut("description") {
                let paragraphs = text.split("\n\n").map(|paragraph| paragraph.replace('\n', " "));
                *text = paragraphs.collect::<Vec<_>>().join("\n\n");
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn path(definition: &CustomResourceDefinition) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("crds").join(format!("{}.yaml", definition.spec.names.plural))
    }

    /// `UPDATE=1 cargo test -p schemas --features crd` writes the files anew.
    #[test]
    fn the_files_are_what_is_generated() {
        for definition in all() {
            let (path, text) = (path(&definition), to_yaml(&definition));
            if std::env::var_os("UPDATE").is_some() {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            let file = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(file == text, "{} is not what is generated; UPDATE=1 writes it anew", path.display());
        }
        let files = std::fs::read_dir(path(&all()[0]).parent().unwrap()).unwrap().count();
        assert_eq!(files, all().len(), "crds/ holds a file that nothing generates");
    }

    #[test]
    fn the_yaml_reads_back_as_the_definition() {
        for definition in all() {
            assert_eq!(serde_saphyr::from_str::<CustomResourceDefinition>(&to_yaml(&definition)).unwrap(), definition);
        }
    }

    #[test]
    fn names_scopes_and_subresources_are_the_originals() {
        let rows: Vec<String> = all()
            .iter()
            .map(|definition| {
                let (spec, version) = (&definition.spec, &definition.spec.versions[0]);
                let names = &spec.names;
                assert_eq!((spec.group.as_str(), version.name.as_str()), ("spiderpool.spidernet.io", "v2beta1"));
                assert!(version.served && version.storage && spec.versions.len() == 1);
                assert_eq!(names.categories, Some(vec!["spiderpool".to_owned()]));
                assert_eq!(names.singular, Some(names.kind.to_lowercase()));
                assert_eq!(names.list_kind, Some(format!("{}List", names.kind)));
                let short = names.short_names.clone().unwrap().join(",");
                let status = if version.subresources.is_some() { "status" } else { "-" };
                let columns = version.additional_printer_columns.as_ref().map_or(0, Vec::len);
                format!("{} {} {short} {} {status} {columns}", names.kind, names.plural, spec.scope)
            })
            .collect();
        assert_eq!(
            rows,
            [
                "SpiderCoordinator spidercoordinators scc Cluster status 0",
                "SpiderEndpoint spiderendpoints se Namespaced - 6",
                "SpiderIPPool spiderippools sp Cluster status 9",
                "SpiderIPShard spideripshards sis Cluster status 3",
                "SpiderMultusConfig spidermultusconfigs smc Namespaced - 0",
                "SpiderReservedIP spiderreservedips sr Cluster - 1",
                "SpiderSubnet spidersubnets ss Cluster status 4",
            ]
        );
    }

    /// Rules that the API server puts on every schema, and ours on every field.
    fn check(path: &str, schema: &Value) {
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            for (name, property) in properties {
                let path = format!("{path}.{name}");
                assert!(property.get("type").is_some(), "{path} has no type: {property}");
                let is_ours = !path.contains("Affinity.");
                assert!(
                    !is_ours || path == ".spec" || path == ".status" || property.get("description").is_some(),
                    "{path}"
                );
                assert!(property.get("nullable").is_none() && property.get("anyOf").is_none(), "{path}: {property}");
                assert!(property.get("oneOf").is_none(), "{path}: {property}");
                let choices = property.get("enum").and_then(Value::as_array);
                assert!(choices.is_none_or(|choices| !choices.contains(&Value::Null)), "{path}: {property}");
                check(&path, property);
            }
        }
        if let Some(items) = schema.get("items") {
            check(&format!("{path}[]"), items);
        }
    }

    #[test]
    fn schemas_are_structural_and_every_field_is_described() {
        for definition in all() {
            let schema = serde_json::to_value(&definition.spec.versions[0].schema).unwrap();
            let root = &schema["openAPIV3Schema"];
            assert!(root.get("required").is_none());
            check("", root);
        }
    }

    /// Every default, choice and bound, one a line: what the API server fills in and refuses.
    fn constraints(path: &str, schema: &Value, lines: &mut Vec<String>) {
        for key in ["default", "enum", "minimum", "maximum", "required"] {
            if let Some(value) = schema.get(key).filter(|_| !path.contains("Affinity")) {
                lines.push(format!("{path} {key} {value}"));
            }
        }
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            constraints(&format!("{path}.{name}"), property, lines);
        }
        if let Some(items) = schema.get("items") {
            constraints(&format!("{path}[]"), items, lines);
        }
    }

    fn constraints_of(plural: &str) -> Vec<String> {
        let definition = all().into_iter().find(|definition| definition.spec.names.plural == plural).unwrap();
        let mut schema = serde_json::to_value(&definition.spec.versions[0].schema).unwrap()["openAPIV3Schema"].take();
        write_whole_numbers(&mut schema);
        let mut lines = Vec::new();
        constraints("", &schema, &mut lines);
        lines
    }

    #[test]
    fn defaults_choices_and_bounds_are_the_originals() {
        assert_eq!(
            constraints_of("spiderippools"),
            [
                r#".spec required ["subnet"]"#,
                ".spec.default default false",
                ".spec.disable default false",
                ".spec.ipVersion enum [4,6]",
                r#".spec.routes[] required ["dst","gw"]"#,
                ".status.allocatedIPCount minimum 0",
                r#".status.conditions[] required ["lastTransitionTime","message","reason","status","type"]"#,
                ".status.fairShare minimum 0",
                ".status.leasedIPCount minimum 0",
                ".status.shardSize minimum 64",
                ".status.shardSize maximum 4096",
                ".status.totalIPCount minimum 0",
            ]
        );
        assert_eq!(
            constraints_of("spidercoordinators"),
            [
                ".spec.hostRuleTable default 500",
                r#".spec.mode default "auto""#,
                r#".spec.mode enum ["auto","underlay","overlay","disabled"]"#,
                r#".spec.podCIDRType enum ["auto","cluster","calico","cilium","none"]"#,
                ".spec.podRPFilter default 0",
                r#".spec.policyRoutes[] required ["dst","gw"]"#,
                r#".spec.tuneMode enum ["auto","underlay","overlay","disabled"]"#,
                ".spec.tunePodRoutes default true",
                ".spec.txQueueLen default 0",
                ".spec.vethMTU minimum 1",
                r#".status required ["phase"]"#,
            ]
        );
        assert_eq!(
            constraints_of("spiderendpoints"),
            [
                r#".status required ["current","ownerControllerName","ownerControllerType"]"#,
                r#".status.current required ["ips","node","uid"]"#,
                r#".status.current.ips[] required ["interface"]"#,
                r#".status.current.ips[].routes[] required ["dst","gw"]"#,
                ".status.current.ips[].vlan default 0",
                ".status.current.ips[].vlan minimum 0",
                ".status.current.ips[].vlan maximum 4094",
            ]
        );
        assert_eq!(constraints_of("spiderreservedips"), [".spec.ipVersion enum [4,6]"]);
        let networks = constraints_of("spidermultusconfigs");
        for line in [
            r#".spec.cniType default "custom""#,
            r#".spec.cniType enum ["macvlan","ipvlan","vlan","sriov","ovs","ib-sriov","ipoib","custom"]"#,
            ".spec.enableCoordinator default true",
            ".spec.disableIPAM default false",
            r#".spec.macvlan required ["master"]"#,
            r#".spec.macvlan.bond required ["mode","name"]"#,
            ".spec.macvlan.bond.mode maximum 6",
            ".spec.ipvlan.mtu default 0",
            ".spec.ipvlan.mtu minimum 0",
            ".spec.ipvlan.vlanID maximum 4094",
            ".spec.ipvlan.ippools.matchMasterSubnet default false",
            r#".spec.vlan.vlanMode default "manual""#,
            ".spec.sriov.rdmaIsolation default false",
            ".spec.ibsriov.rdmaIsolation default true",
            r#".spec.ibsriov.linkState default "enable""#,
            ".spec.ibsriov.enableIbKubernetes default false",
            r#".spec.ovs required ["bridge"]"#,
            ".spec.ovs.trunk[].maxID maximum 4094",
            ".spec.coordinator.tunePodRoutes default true",
        ] {
            assert!(networks.iter().any(|one| one == line), "{line} is not among {networks:#?}");
        }
        assert!(networks.iter().all(|line| !line.starts_with(".spec.coordinator default")));
    }

    fn columns_of(plural: &str) -> Vec<String> {
        let definition = all().into_iter().find(|definition| definition.spec.names.plural == plural).unwrap();
        let columns = definition.spec.versions[0].additional_printer_columns.iter().flatten();
        columns
            .map(|column| {
                format!("{} {} {} {}", column.name, column.type_, column.json_path, column.priority.unwrap_or(0))
            })
            .collect()
    }

    #[test]
    fn columns_are_the_originals() {
        assert_eq!(
            columns_of("spiderippools"),
            [
                "VERSION string .spec.ipVersion 0",
                "SUBNET string .spec.subnet 0",
                "ALLOCATED-IP-COUNT integer .status.allocatedIPCount 0",
                "TOTAL-IP-COUNT integer .status.totalIPCount 0",
                "DEFAULT boolean .spec.default 0",
                "DISABLE boolean .spec.disable 10",
                "NodeName string .spec.nodeName 10",
                "MultusName string .spec.multusName 10",
                r"APP-NAMESPACE string .spec.podAffinity.matchLabels['ipam\.spidernet\.io/app\-namespace'] 10",
            ]
        );
        assert_eq!(
            columns_of("spidersubnets"),
            [
                "VERSION string .spec.ipVersion 0",
                "SUBNET string .spec.subnet 0",
                "ALLOCATED-IP-COUNT integer .status.allocatedIPCount 0",
                "TOTAL-IP-COUNT integer .status.totalIPCount 0",
            ]
        );
        assert_eq!(
            columns_of("spiderendpoints"),
            [
                "INTERFACE string .status.current.ips[0].interface 0",
                "IPV4POOL string .status.current.ips[0].ipv4Pool 0",
                "IPV4 string .status.current.ips[0].ipv4 0",
                "IPV6POOL string .status.current.ips[0].ipv6Pool 0",
                "IPV6 string .status.current.ips[0].ipv6 0",
                "NODE string .status.current.node 0",
            ]
        );
        assert_eq!(columns_of("spiderreservedips"), ["VERSION string .spec.ipVersion 0"]);
    }

    #[test]
    fn what_cannot_be_changed_has_a_rule() {
        let rules = |plural: &str| -> Vec<String> {
            let definition = all().into_iter().find(|definition| definition.spec.names.plural == plural).unwrap();
            let schema = serde_json::to_value(&definition.spec.versions[0].schema).unwrap();
            let spec = &schema["openAPIV3Schema"]["properties"]["spec"];
            let of = |schema: &Value| schema["x-kubernetes-validations"][0]["message"].as_str().map(str::to_owned);
            of(spec).into_iter().chain(of(&spec["properties"]["subnet"])).collect()
        };
        assert_eq!(rules("spiderippools"), ["ipVersion is not changeable", "subnet is not changeable"]);
        assert_eq!(rules("spidersubnets"), ["ipVersion is not changeable", "subnet is not changeable"]);
        assert_eq!(rules("spiderreservedips"), ["ipVersion is not changeable"]);
    }
}
