//! The definitions in a real API server: what they refuse and accept, and how their objects are shown.
//!
//! The tables and manifests are in `crds/`. The rules' own crate reads the same tables: what is refused here, the agent
//! refuses too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Output};

use libtest_mimic::Trial;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tests::cluster::Cluster;

use crate::bed::{Namespace, alone, eventually, sharing};

/// The tables and the exported objects.
const TABLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/crds");
const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
/// Creates nothing, and says what the server would.
const TRY: [&str; 4] = ["create", "--dry-run=server", "--filename", "-"];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        sharing("crds::they_apply_without_a_warning", applied),
        sharing("crds::what_is_wrong_is_refused_in_helpful_words", refused),
        sharing("crds::what_is_odd_is_accepted", accepted),
        sharing("crds::manifests_and_exported_objects_are_accepted_as_they_are", manifests),
        sharing("crds::what_is_kept_cannot_be_changed", changed),
        sharing("crds::lists_may_be_as_long_as_they_may", long),
        sharing("crds::tables_and_selectors", shown),
        sharing("crds::every_field_is_explained", explained),
        alone("crds::what_is_stored_outlives_new_rules", stored),
    ]
}

/// A row of `refused.yaml` or `accepted.yaml`.
#[derive(Debug, Deserialize)]
struct Case {
    kind: String,
    spec: Option<Value>,
    /// Words of the refusal.
    server: Option<String>,
}

/// A row of `changed.yaml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    kind: String,
    from: Value,
    to: Value,
    /// Words of the refusal; without, it is none.
    server: Option<String>,
}

fn table<T: DeserializeOwned>(name: &str) -> Vec<T> {
    let text = fs::read_to_string(Path::new(TABLES).join(name)).unwrap();
    let rows: Vec<T> = serde_saphyr::from_str(&text).unwrap();
    assert!(!rows.is_empty(), "{name} is empty");
    rows
}

fn object(kind: &str, name: &str, spec: Option<&Value>) -> String {
    let mut object = json!({"apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": kind, "metadata": {"name": name}});
    if let Some(spec) = spec {
        object["spec"] = spec.clone();
    }
    object.to_string()
}

/// A name that no other run uses at the same time.
fn name(of: &str) -> String {
    format!("dragline-{of}-{}", process::id())
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// As `dragline crds` prints them.
fn definitions(change: impl Fn(&mut Value)) -> String {
    let definitions = schemas::crd::all();
    let documents = definitions.iter().map(|definition| {
        let mut tree: Value = serde_saphyr::from_str(&schemas::crd::to_yaml(definition)).unwrap();
        change(&mut tree);
        serde_saphyr::to_string(&tree).unwrap()
    });
    documents.collect::<Vec<_>>().join("---\n")
}

fn applied(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let output =
        kubectl.run(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &definitions(|_| ())).unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", errors(&output));
    kubectl.apply_crds().unwrap();
    // What the server has doubts about, and serves all the same, is said there.
    let kinds: Vec<String> =
        schemas::crd::all().into_iter().filter_map(|definition| definition.metadata.name).collect();
    for kind in kinds {
        let definition = kubectl.json(&["get", "crd", &kind]).unwrap();
        let conditions = definition["status"]["conditions"].as_array().unwrap();
        let doubtful = |one: &&Value| one["type"] == "NonStructuralSchema" && one["status"] == "True";
        assert!(conditions.iter().find(doubtful).is_none(), "{kind}: {conditions:?}");
    }
}

fn refused(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.apply_crds().unwrap();
    let cases: Vec<Case> = table("refused.yaml");
    assert!(cases.len() >= 60, "{}", cases.len());
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let output = kubectl.run(&TRY, &object(&case.kind, &name("refused"), case.spec.as_ref())).unwrap();
            let right = match &case.server {
                Some(words) => !output.status.success() && errors(&output).contains(words.as_str()),
                None => output.status.success(),
            };
            (!right).then(|| format!("{case:?}: {} {}", output.status, errors(&output)))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn accepted(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.apply_crds().unwrap();
    for case in table::<Case>("accepted.yaml") {
        let output = kubectl.run(&TRY, &object(&case.kind, &name("accepted"), case.spec.as_ref())).unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{case:?}: {}", errors(&output));
    }
}

/// All YAML files below a folder, however deep.
fn yaml_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<PathBuf>, Vec<PathBuf>) = entries.partition(|path| path.is_dir());
    let mut found: Vec<PathBuf> =
        files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect();
    found.extend(folders.iter().flat_map(|folder| yaml_below(folder)));
    found.sort();
    found
}

fn manifests(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.apply_crds().unwrap();
    for folder in [format!("{TABLES}/exported"), EXAMPLES.to_owned()] {
        let files = yaml_below(Path::new(&folder));
        assert!(!files.is_empty(), "there is nothing in {folder}");
        for file in files {
            let path = file.display().to_string();
            let output = kubectl.run(&["apply", "--dry-run=server", "--filename", &path], "").unwrap();
            assert!(output.status.success(), "{path}: {}", errors(&output));
            // The name of the original's finalizer is not ours to choose.
            let warned: Vec<String> = errors(&output)
                .lines()
                .filter(|line| !line.contains("metadata.finalizers"))
                .map(str::to_owned)
                .collect();
            assert!(warned.is_empty(), "{path}: {warned:?}");
        }
    }
}

fn changed(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.apply_crds().unwrap();
    let namespace = Namespace::create(cluster, "changed");
    let at = ["--namespace", &namespace.name];
    let name = name("changed");
    for change in table::<Change>("changed.yaml") {
        let kind = change.kind.as_str();
        kubectl.ask(&["create", "-f", "-", at[0], at[1]], &object(kind, &name, Some(&change.from))).unwrap();
        let output =
            kubectl.run(&["replace", "-f", "-", at[0], at[1]], &object(kind, &name, Some(&change.to))).unwrap();
        kubectl.ask(&["delete", kind, &name, at[0], at[1]], "").unwrap();
        match &change.server {
            Some(words) => assert!(
                !output.status.success() && errors(&output).contains(words.as_str()),
                "{change:?}: {}",
                errors(&output)
            ),
            None => assert!(output.status.success(), "{change:?}: {}", errors(&output)),
        }
    }
}

/// The dearest objects that the bounds allow cost less than the server pays for one.
fn long(cluster: &Cluster) {
    const ENTRIES: u32 = 1024;
    let kubectl = cluster.kubectl();
    kubectl.apply_crds().unwrap();
    let ipv4 = |offset: u32| -> Vec<String> {
        let entry = |i: u32| format!("10.{0}.{1}.2-10.{0}.{1}.250", offset + i / 256, i % 256);
        (0..ENTRIES).map(entry).collect()
    };
    let ipv6 = |part: u32| -> Vec<String> {
        let entry = |i: u32| format!("fd00:{part}:0:{i:x}:1111:2222:3333:4444-fd00:{part}:0:{i:x}:ffff:2222:3333:5555");
        (0..ENTRIES).map(entry).collect()
    };
    let routes: Vec<Value> = (0..128)
        .map(|i| json!({"dst": format!("fd01:1111:2222:3333:4444:5555:6666:{i:x}/128"), "gw": "fd00:1111:2222:3333:4444:5555:6666:7777"}))
        .collect();
    for (kind, spec) in [
        (
            "SpiderIPPool",
            json!({"subnet": "10.0.0.0/8", "gateway": "10.0.0.1", "ips": ipv4(0), "excludeIPs": ipv4(100)}),
        ),
        (
            "SpiderSubnet",
            json!({"subnet": "fd00::/16", "gateway": "fd00::1", "ips": ipv6(1), "excludeIPs": ipv6(2), "routes": routes}),
        ),
        (
            "SpiderIPPool",
            json!({"subnet": "fd00::/16", "gateway": "fd00::1", "ips": ipv6(1), "excludeIPs": ipv6(2)[..32]}),
        ),
        ("SpiderReservedIP", json!({"ips": ipv6(1)})),
    ] {
        let output = kubectl.run(&TRY, &object(kind, &name("long"), Some(&spec))).unwrap();
        assert!(output.status.success(), "{kind}: {:.2000}", errors(&output));
    }
    // The gateway is found in the last of many entries.
    let spec = json!({"subnet": "10.0.0.0/8", "gateway": "10.3.255.9", "ips": ipv4(0), "excludeIPs": ipv4(100)});
    let output = kubectl.run(&TRY, &object("SpiderIPPool", &name("long"), Some(&spec))).unwrap();
    assert!(errors(&output).contains("conflicts with 'spec.gateway' 10.3.255.9"), "{:.2000}", errors(&output));
}

fn shown(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.apply_crds().unwrap();
    let namespace = Namespace::create(cluster, "shown");
    let at = ["--namespace", &namespace.name];
    let endpoints = Path::new(TABLES).join("exported/spiderendpoints.yaml");
    // In a namespace of ours, without the owner, which is not there.
    let manifest =
        fs::read_to_string(endpoints).unwrap().replace("namespace: default", &format!("namespace: {}", namespace.name));
    let manifest = manifest.replace("  finalizers:\n  - spiderpool.spidernet.io\n", "");
    kubectl.apply(&manifest).unwrap();
    let table = kubectl.ask(&["get", "se", at[0], at[1]], "").unwrap();
    assert_eq!(columns(&table), ["NAME", "INTERFACE", "IPV4POOL", "IPV4", "IPV6POOL", "IPV6", "NODE"]);
    let row = table.lines().find(|line| line.starts_with("nginx-")).unwrap();
    let row: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(row, ["nginx-4653bc4f24-xngkm", "net1", "10-6-v4", "10.6.212.202/16", "worker01"]);
    let of_node = |node: &str| {
        let selector = format!("--field-selector=status.current.node={node}");
        kubectl.ask(&["get", "se", at[0], at[1], &selector, "-o", "name"], "").unwrap()
    };
    assert_eq!(of_node("worker01"), "spiderendpoint.spiderpool.spidernet.io/nginx-4653bc4f24-xngkm\n");
    assert_eq!(of_node("nowhere"), "");

    let (pool, shard) = (name("shown"), name("shown-shard"));
    let spec = json!({"subnet": "10.6.0.0/16", "ipVersion": 4, "ips": ["10.6.0.1"]});
    kubectl.ask(&["create", "-f", "-"], &object("SpiderIPPool", &pool, Some(&spec))).unwrap();
    let window = json!({"pool": pool, "poolUID": "u", "first": "10.6.0.0", "size": 64});
    kubectl.ask(&["create", "-f", "-"], &object("SpiderIPShard", &shard, Some(&window))).unwrap();
    let pools = kubectl.ask(&["get", "sp", &pool, "-o", "wide"], "").unwrap();
    let shards = kubectl.ask(&["get", "sis", "--field-selector", &format!("spec.pool={pool}")], "").unwrap();
    kubectl.ask(&["delete", "sp", &pool], "").unwrap();
    kubectl.ask(&["delete", "sis", &shard], "").unwrap();
    let always = ["NAME", "VERSION", "SUBNET", "ALLOCATED-IP-COUNT", "TOTAL-IP-COUNT", "DEFAULT"];
    let wide = ["DISABLE", "NODENAME", "MULTUSNAME", "APP-NAMESPACE"];
    assert_eq!(columns(&pools), [&always[..], &wide[..]].concat());
    assert_eq!(columns(&shards), ["NAME", "POOL", "FIRST", "SIZE"]);
    let row: Vec<&str> = shards.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, [shard.as_str(), pool.as_str(), "10.6.0.0", "64"]);
}

fn columns(table: &str) -> Vec<&str> {
    table.lines().next().unwrap_or_default().split_whitespace().collect()
}

fn explained(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.apply_crds().unwrap();
    // The server publishes a schema some time after it serves the kind.
    let explain = |field: &str, words: &str| {
        eventually(&format!("an explanation of {field}"), || {
            let text = kubectl.ask(&["explain", field, "--recursive=false"], "").map_err(|error| error.to_string())?;
            let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
            if one_line.contains(words) { Ok(()) } else { Err(text) }
        });
    };
    for (field, words) in [
        ("sp.spec.subnet", "The subnet as a CIDR without host bits, 10.6.0.0/16. It cannot be changed."),
        ("sp.spec", "ipVersion <integer> enum: 4, 6"),
        ("ss.spec.gateway", "The default gateway of pools that name none."),
        ("se.status.current.ips", "interface <string> -required-"),
        ("sr.spec.ips", "The reserved addresses, each entry one address A or a range A-B."),
        ("scc.spec.mode", "ENUM: auto underlay overlay disabled"),
        ("smc.spec.macvlan.master", "two or more are put into the bond"),
        ("sis.spec.first", "The first address of the window."),
    ] {
        explain(field, words);
    }
}

/// Objects that were stored when there were no rules can be labelled, finished and given a status, and changed where they are
/// not wrong.
fn stored(cluster: &mut Cluster) {
    let kubectl = cluster.kubectl();
    // As users do, and without a word of warning.
    let apply = |definitions: &str| {
        let output = kubectl.run(&["apply", "-f", "-"], definitions).unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", errors(&output));
    };
    apply(&definitions(without_rules));
    kubectl.ask(&["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"], "").unwrap();
    let wrong =
        json!({"subnet": "10.6.0.0/16", "ips": ["10.6.0.9-10.6.0.1"], "routes": [{"dst": "0.0.0.0/0", "gw": "x"}]});
    let object = object("SpiderIPPool", "older", Some(&wrong));
    eventually("the kind", || kubectl.ask(&["create", "-f", "-"], &object));
    apply(&definitions(|_| ()));
    let patch = |patch: Value, more: &[&str]| {
        let text = patch.to_string();
        kubectl.ask(&[&["patch", "sp", "older", "--type=merge", "--patch", text.as_str()], more].concat(), "")
    };
    // The server takes a moment to use the new definition.
    eventually("a refusal", || match patch(json!({"spec": {"ips": ["10.6.0.8-10.6.0.1"]}}), &["--dry-run=server"]) {
        Err(error) if error.to_string().contains("is reversed") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    patch(json!({"metadata": {"labels": {"a": "b"}, "finalizers": ["spiderpool.spidernet.io"]}}), &[]).unwrap();
    patch(json!({"status": {"totalIPCount": 9, "allocatedIPCount": 0}}), &["--subresource=status"]).unwrap();
    patch(json!({"spec": {"disable": true}}), &[]).unwrap();
    patch(json!({"metadata": {"finalizers": null}}), &[]).unwrap();
    patch(json!({"spec": {"ips": ["10.6.0.1-10.6.0.9"], "routes": []}}), &[]).unwrap();
    kubectl.ask(&["delete", "sp", "older", "--timeout=60s"], "").unwrap();
}

fn without_rules(tree: &mut Value) {
    match tree {
        Value::Object(map) => {
            map.remove("x-kubernetes-validations");
            map.values_mut().for_each(without_rules);
        }
        Value::Array(list) => list.iter_mut().for_each(without_rules),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
