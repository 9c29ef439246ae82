//! Pods with several interfaces.

use serde_json::{Value, json};

use super::{World, of};
use crate::selection::{Uplink, decide};
use schemas::crd::ip_version::IpVersion;

const IPPOOLS: &str = "ipam.spidernet.io/ippools";
const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
const DEFAULT: &str = "v1.multus-cni.io/default-network";

fn ippools(value: Value) -> World {
    World::with_pools(&["a", "b", "c"]).annotated(json!({IPPOOLS: value}))
}

#[test]
fn a00013_an_interface_that_ippools_does_not_name_fails() {
    let text = ippools(json!([{"interface": "eth0", "ipv4": ["a"]}])).configured(&["b"], &[]).refusal();
    assert!(text.starts_with(&format!("wrong input, invalid format of Pod annotation '{IPPOOLS}': ")), "{text}");
    assert!(text.contains("interface net1 must be specified"), "{text}");
    let world = ippools(json!([{"interface": "eth0", "ipv4": ["a"]}]));
    assert_eq!(world.all().unwrap_err(), world.select().unwrap_err());
}

#[test]
fn a00014_an_interface_that_ippools_names_twice_fails() {
    let text = ippools(json!([{"interface": "net1", "ipv4": ["a"]}, {"interface": "net1", "ipv4": ["b"]}])).refusal();
    assert!(text.contains("duplicate interface net1"), "{text}");
    let text = ippools(json!([{"interface": "net1", "ipv4": ["a"]}, {"ipv4": ["b"]}])).refusal();
    assert!(text.contains("NIC should be either all specified or all unspecified"), "{text}");
}

#[test]
fn nameless_items_go_by_the_place_of_the_network() {
    let items = json!([{"ipv4": ["a"]}, {"ipv4": ["b"]}, {"ipv4": ["c"]}]);
    let list = json!([{"name": "x", "interface": "fast"}, {"name": "y"}]).to_string();
    let pretty = "[\n  {\n    \"name\": \"x\", \"interface\": \"fast\"\n  },\n  {\"name\": \"y\"}\n]";
    for (networks, nic, expected) in [
        ("", "eth0", Some("a")),
        ("", "net1", Some("b")),
        ("", "net2", Some("c")),
        ("", "net3", None),
        ("x@fast, ns/y", "fast", Some("b")),
        ("x@fast, ns/y", "net2", Some("c")),
        ("x@fast, ns/y", "net1", None),
        (list.as_str(), "fast", Some("b")),
        (list.as_str(), "net2", Some("c")),
        (pretty, "fast", Some("b")),
    ] {
        let world = World::with_pools(&["a", "b", "c"]).nic(nic);
        let world = world.annotated(json!({IPPOOLS: items, NETWORKS: networks}));
        match expected {
            Some(pool) => assert_eq!(world.pools(), [pool], "{networks} {nic}"),
            None => assert!(world.refusal().contains(&format!("interface {nic} must be specified"))),
        }
    }
    // The name that is asked for is the one that the next has by its place.
    let world = World::with_pools(&["a", "b", "c"]).annotated(json!({IPPOOLS: items, NETWORKS: "x@net2,y"}));
    assert!(world.refusal().contains("duplicate interface net2"), "{}", world.refusal());
}

#[test]
fn a_pool_may_serve_several_interfaces() {
    let world = ippools(json!([{"ipv4": ["a"]}, {"ipv4": ["a"]}]));
    assert_eq!(world.pools(), ["a"]);
}

#[test]
fn all_interfaces_are_chosen_for_at_once() {
    let world = World::with_pools(&["a", "b", "c6"]).annotated(json!({
        IPPOOLS: [
            {"interface": "net1", "ipv4": ["b"], "ipv6": ["c6"], "cleangateway": true},
            {"interface": "net2"},
            {"interface": "eth0", "ipv4": ["a", "b"]},
        ],
    }));
    let all = world.all().unwrap().unwrap();
    let names: Vec<&str> = all.iter().map(|(ifname, _)| ifname.as_str()).collect();
    assert_eq!(names, ["net1", "eth0"]);
    assert_eq!(all[0].1, world.select().unwrap());
    assert!(all[0].1.clean_gateway && !all[1].1.clean_gateway);
    assert_eq!(of(&all[1].1, IpVersion::V4), ["a", "b"]);

    let other = World::with_pools(&["a"]).configured(&["a"], &[]);
    assert_eq!(other.all(), Ok(None));
    assert!(World::new().all().is_err());
    let wrong = ippools(json!([{"interface": "net1", "ipv4": ["a"]}, {"interface": "no/name", "ipv4": ["b"]}]));
    assert!(wrong.all().unwrap_err().to_string().contains("\"no/name\" is no name of an interface"));
    assert_eq!(wrong.pools(), ["a"]);
}

#[test]
fn another_interface_that_gets_nothing_fails_all() {
    let world = World::with_pools(&["a"]).pool("off", json!({"disable": true}));
    let world = world.annotated(json!({IPPOOLS: [{"ipv4": ["off"]}, {"ipv4": ["a"]}]}));
    assert!(world.all().unwrap_err().to_string().contains("of eth0 filtered out: [disabled IPPool off]"));
    assert_eq!(world.pools(), ["a"]);
}

#[test]
fn interfaces_that_the_pod_does_not_have_get_nothing() {
    let names = ["eth0", "net1", "fast", "net2"];
    let items: Vec<Value> = names.iter().map(|name| json!({"interface": name, "ipv4": ["a"]})).collect();
    let world = |networks: &str| World::with_pools(&["a"]).annotated(json!({IPPOOLS: items, NETWORKS: networks}));
    assert_eq!(world("x@fast,y").all().unwrap().unwrap().len(), 4);
    let error = world("x@fast").all().unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with(&format!("wrong input, invalid format of Pod annotation '{IPPOOLS}': ")), "{text}");
    assert!(text.contains("the pod has no interface net2: k8s.v1.cni.cncf.io/networks names no network"), "{text}");
    assert_eq!(error.code(), schemas::cni::error::CniError::INVALID_CONFIG);
    let told = decide(&world("x@fast").catalogue(), world("x@fast").request(), |_| None);
    assert_eq!(told.error, Some(text));
    let text = ippools(json!([{"ipv4": ["a"]}, {"ipv4": ["b"]}, {"ipv4": ["c"]}])).all().unwrap_err().to_string();
    assert!(text.contains("the pod has no interface net2"), "{text}");
}

/// Whether pool `a`, for networks of these names, fits interface `nic`.
fn is_of(multus_name: &[&str], nic: &str, annotations: Value, cluster_network: Option<&str>) -> Result<(), String> {
    let mut world = World::new().pool("a", json!({"multusName": multus_name})).configured(&["a"], &[]);
    world.site.cluster_network = cluster_network.map(str::to_owned);
    world.nic(nic).annotated(annotations).select().map(drop).map_err(|error| error.to_string())
}

#[test]
fn d00009_d00010_the_network_is_the_one_that_annotations_say() {
    let by_list = json!({NETWORKS: "first, far/second@fast"});
    let by_json = json!({NETWORKS: [{"name": "first"}, {"name": "second", "namespace": "far", "interface": "fast"}]});
    let default = json!({DEFAULT: "other/net"});
    let nothing = json!({});
    for (entry, nic, annotations, cluster_network, identity) in [
        // By the place, in the pod's namespace; the configuration's name has no say.
        ("app/first", "net1", &by_list, None, None),
        ("first", "net1", &by_list, None, None),
        ("conf", "net1", &by_list, None, Some("app/first")),
        ("kube-system/first", "net1", &by_json, None, Some("app/first")),
        // By the interface that is asked for.
        ("far/second", "fast", &by_json, None, None),
        ("second", "fast", &by_list, None, Some("far/second")),
        // One that no annotation tells of.
        ("conf", "net7", &by_list, None, None),
        ("first", "net7", &by_list, None, Some("conf")),
        // eth0: the annotation, the agent's setting, the configuration.
        ("other/net", "eth0", &default, Some("kube-system/calico"), None),
        ("calico", "eth0", &nothing, Some("kube-system/calico"), None),
        ("calico", "eth0", &nothing, Some("calico"), None),
        ("app/calico", "eth0", &nothing, Some("calico"), Some("kube-system/calico")),
        ("conf", "eth0", &nothing, Some("calico"), Some("kube-system/calico")),
        ("conf", "eth0", &by_list, None, None),
        // What cannot be read tells nothing.
        ("conf", "net1", &json!({NETWORKS: "[{"}), None, None),
    ] {
        let found = is_of(&[entry], nic, annotations.clone(), cluster_network);
        match identity {
            None => assert_eq!(found, Ok(()), "{entry} {nic} {annotations}"),
            Some(identity) => {
                let text = found.unwrap_err();
                let words = format!(
                    "the spec.multusName [{entry}] in the IPPool a used by the Pod interface {nic} is not matched with the \
                     multusCR {identity} specified by the Pod"
                );
                assert!(text.contains(&words), "{text}");
            }
        }
    }
}

#[test]
fn a_pool_for_all_networks_is_never_refused_for_the_network() {
    assert_eq!(is_of(&[], "eth0", json!({}), None), Ok(()));
    assert_eq!(is_of(&[], "net9", json!({NETWORKS: "[{"}), None), Ok(()));
}

#[test]
fn an_interface_whose_network_nobody_knows_is_of_none() {
    let mut world = World::new().pool("a", json!({"multusName": ["conf"]})).configured(&["a"], &[]);
    world.network = None;
    assert!(world.refusal().contains("no annotation of the Pod says of which network the interface is"));
}

#[test]
fn what_the_configuration_says_holds_for_its_own_interface_alone() {
    let items = json!([{"interface": "net1", "ipv4": ["own"]}, {"interface": "net2", "ipv4": ["open"]}]);
    let world = |open: Value| {
        let world = World::new().pool("own", json!({"multusName": ["conf"]})).pool("open", open);
        let mut world = world.annotated(json!({IPPOOLS: items, NETWORKS: "other@net2"}));
        world.uplink = Uplink::Unknown("nobody knows".into());
        world.all()
    };
    assert_eq!(world(json!({})).unwrap().unwrap().len(), 2, "the uplink of net2 is not looked at");
    let text = world(json!({"multusName": ["conf"]})).unwrap_err().to_string();
    let words = "IPPool open used by the Pod interface net2 is not matched with the multusCR app/other";
    assert!(text.contains(words), "{text}");
}
