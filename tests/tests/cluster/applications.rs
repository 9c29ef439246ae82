//! Applications of every kind, with agents that give their pods addresses and a controller that makes their pools:
//! Kubernetes' own, and those of a program that nobody here knows. All objects are made by hand.

use std::collections::BTreeSet;
use std::net::IpAddr;

use libtest_mimic::Trial;
use serde_json::{Value, json};
use tests::fleet::{Controller, Fleet, Ground};

use crate::bed::eventually;
use crate::leases::{alone, pool, refusal};
use crate::resident::{Form, annotations, definition, endpoints, make, reference, wait_no_endpoint, wait_unused};

const POOLS: &str = "/apis/spiderpool.spidernet.io/v2beta1/spiderippools";
const SUBNETS: &str = "/apis/spiderpool.spidernet.io/v2beta1/spidersubnets";
const KRUISE: &str = "apps.kruise.io";
const FLEET: &str = "apps";
const SECOND: &str = "second";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        alone("applications::e00004_e00005_pods_of_daemon_sets_and_jobs", "kinds", kinds),
        alone("applications::i00021_same_names_and_several_nics", "names", same_names),
        alone("applications::t00001_t00003_t00005_of_a_third_party", "third", third_party),
    ]
}

fn template(labels: &Value, short: &Value) -> Value {
    json!({"metadata": {"labels": labels, "annotations": annotations(short)},
        "spec": {"restartPolicy": "Always", "containers": [{"name": "app", "image": "app"}]}})
}

/// One of the apps group, whose pods have these annotations.
fn workload(fleet: &Fleet<'_>, kind: &str, namespace: &str, name: &str, short: &Value) -> Value {
    let labels = json!({"app": name});
    let mut spec = json!({"selector": {"matchLabels": labels}, "template": template(&labels, short)});
    if kind == "StatefulSet" {
        spec["serviceName"] = json!(name);
    }
    let object = json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec});
    make(fleet, "apps/v1", kind, &format!("{}s", kind.to_lowercase()), &object)
}

/// The ReplicaSet that a Deployment's controller would make.
fn replica_set(fleet: &Fleet<'_>, deployment: &Value) -> Value {
    let metadata = &deployment["metadata"];
    let name = format!("{}-5d4f", metadata["name"].as_str().unwrap());
    let object = json!({
        "metadata": {"name": name, "namespace": metadata["namespace"], "ownerReferences": [reference(deployment)]},
        "spec": {"selector": deployment["spec"]["selector"], "template": deployment["spec"]["template"]},
    });
    make(fleet, "apps/v1", "ReplicaSet", "replicasets", &object)
}

/// E00004, E00005: pods of these kinds get addresses of either family and of both, and all of them come back.
fn kinds(ground: &Ground) {
    let _controller = Controller::start(ground, "kinds").unwrap();
    let fleet = Fleet::start(ground, "kinds", &pool(81, 16, 2)).unwrap();
    fleet.declare_pool("six", "fd00:81::/64", &["fd00:81::10-fd00:81::1f".to_owned()]).unwrap();
    let [one, two] = &fleet.nodes[..] else { unreachable!("two nodes were asked for") };
    let job_template = |labels: Value| {
        let mut template = template(&labels, &json!({}));
        template["spec"]["restartPolicy"] = json!("Never");
        json!({ "template": template })
    };
    let object = |name: &str, spec: Value, owner: Option<&Value>| {
        let owners: Vec<Value> = owner.map(reference).into_iter().collect();
        json!({"metadata": {"name": name, "namespace": "kinds", "ownerReferences": owners}, "spec": spec})
    };
    let daemons = workload(&fleet, "DaemonSet", "kinds", "daemons", &json!({}));
    let job = make(&fleet, "batch/v1", "Job", "jobs", &object("once", job_template(json!({})), None));
    let spec = json!({"schedule": "0 0 1 1 *", "jobTemplate": {"spec": job_template(json!({}))}});
    let cron = make(&fleet, "batch/v1", "CronJob", "cronjobs", &object("often", spec, None));
    let of_cron = make(&fleet, "batch/v1", "Job", "jobs", &object("often-29", job_template(json!({})), Some(&cron)));
    let owners = [(&daemons, "DaemonSet", "daemons"), (&job, "Job", "once"), (&of_cron, "CronJob", "often")];
    let families = [
        ("v4", json!({"ipv4": ["kinds"]}), [true, false]),
        ("v6", json!({"ipv6": ["six"]}), [false, true]),
        ("dual", json!({"ipv4": ["kinds"], "ipv6": ["six"]}), [true, true]),
    ];
    let mut residents = Vec::new();
    let mut given: BTreeSet<IpAddr> = BTreeSet::new();
    for (controller, kind, top) in owners {
        for (family, pools, [v4, v6]) in &families {
            for (number, node) in [one, two].into_iter().enumerate() {
                let name = format!("{}-{family}-{number}", controller["metadata"]["name"].as_str().unwrap());
                let form = Form {
                    namespace: "kinds",
                    name: &name,
                    controller: Some(controller),
                    interfaces: &["net1"],
                    annotations: json!({ "ippool": pools }),
                };
                let (resident, addresses) = form.start(&fleet, node);
                let found = (addresses.iter().any(IpAddr::is_ipv4), addresses.iter().any(IpAddr::is_ipv6));
                assert_eq!((found, addresses.len()), ((*v4, *v6), usize::from(*v4) + usize::from(*v6)), "{name}");
                assert!(addresses.iter().all(|address| given.insert(*address)), "{addresses:?} of {given:?}");
                let endpoint = resident.endpoint().unwrap();
                let owner = [&endpoint["status"]["ownerControllerType"], &endpoint["status"]["ownerControllerName"]];
                assert_eq!(owner, [kind, top], "{endpoint}");
                residents.push(resident);
            }
        }
    }
    // All addresses of the IPv4 pool but four, all of the IPv6 one but four.
    assert_eq!(given.len(), 24);
    // A Job's pod stays when it has ended; what it had does not.
    let succeeded = json!({"status": {"phase": "Succeeded"}});
    for mut resident in residents {
        if resident.pod.name.starts_with("once") {
            ground.objects.patch_status("/api/v1/namespaces/kinds/pods", &resident.pod.name, &succeeded).unwrap();
            resident.stop();
        } else {
            resident.end();
        }
    }
    wait_unused(&fleet, &["kinds", "six"]);
    eventually("no endpoint", || {
        let left = endpoints(&fleet, "kinds");
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

/// A controller, a fleet, and SpiderSubnets `s` of 10.82.0.1-9 and `t` of 10.83.0.1-9.
fn with_subnets<'a>(ground: &'a Ground, net: u8) -> (Controller, Fleet<'a>) {
    let controller = Controller::start(ground, FLEET).unwrap();
    let fleet = Fleet::start(ground, FLEET, &pool(net, 8, 2)).unwrap();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SECOND}});
    ground.objects.create("/api/v1/namespaces", &namespace).unwrap();
    for (name, net) in [("s", 82), ("t", 83)] {
        let spec = json!({"subnet": format!("10.{net}.0.0/16"), "ips": [format!("10.{net}.0.1-10.{net}.0.9")]});
        let subnet = json!({"apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderSubnet",
            "metadata": {"name": name}, "spec": spec});
        ground.objects.create(SUBNETS, &subnet).unwrap();
    }
    (controller, fleet)
}

/// Name and one address of the pool that was made for an application's interface.
#[track_caller]
fn own_pool(fleet: &Fleet<'_>, application: &Value, ifname: &str) -> (String, IpAddr) {
    let metadata = &application["metadata"];
    let wanted = [
        ("owner-application-kind", &application["kind"]),
        ("owner-application-namespace", &metadata["namespace"]),
        ("owner-application-name", &metadata["name"]),
    ];
    eventually("an application's own pool", || {
        let pools = fleet.ground().objects.list(POOLS).map_err(|error| error.to_string())?;
        let mut own = pools.iter().filter(|pool| {
            let labels = &pool["metadata"]["labels"];
            let has = |(key, value): &(&str, &Value)| labels[format!("ipam.spidernet.io/{key}")] == **value;
            wanted.iter().all(has) && labels["ipam.spidernet.io/interface"] == ifname
        });
        let pool = own.next().ok_or_else(|| format!("none of {ifname}"))?;
        assert!(own.next().is_none(), "two for {ifname} of {application}");
        let name = pool["metadata"]["name"].as_str().unwrap().to_owned();
        // One address each.
        let address = pool["spec"]["ips"][0].as_str().and_then(|text| text.parse().ok());
        address.map(|address| (name, address)).ok_or_else(|| pool.to_string())
    })
}

/// I00021: three applications of one name, with two interfaces each.
fn same_names(ground: &Ground) {
    let (_controller, fleet) = with_subnets(ground, 84);
    let [one, two] = &fleet.nodes[..] else { unreachable!("two nodes were asked for") };
    let short = json!({"subnets": [{"interface": "net1", "ipv4": ["s"]}, {"interface": "net2", "ipv4": ["t"]}]});
    let deployment = workload(&fleet, "Deployment", FLEET, "web", &short);
    let set = workload(&fleet, "StatefulSet", FLEET, "web", &short);
    let elsewhere = workload(&fleet, "Deployment", SECOND, "web", &short);
    let (replicas, replicas_elsewhere) = (replica_set(&fleet, &deployment), replica_set(&fleet, &elsewhere));
    let all = [
        (&deployment, &replicas, FLEET, "web-5d4f-1", one),
        (&set, &set, FLEET, "web-0", two),
        (&elsewhere, &replicas_elsewhere, SECOND, "web-5d4f-1", two),
    ];
    let (mut names, mut given, mut residents) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for (application, controller, namespace, name, node) in all {
        let form = Form {
            namespace,
            name,
            controller: Some(controller),
            interfaces: &["net1", "net2"],
            annotations: short.clone(),
        };
        let (resident, addresses) = form.start(&fleet, node);
        let pools = ["net1", "net2"].map(|ifname| own_pool(&fleet, application, ifname));
        assert_eq!(addresses, pools.each_ref().map(|(_, address)| *address), "its own pools'");
        assert!(addresses[0].to_string().starts_with("10.82.") && addresses[1].to_string().starts_with("10.83."));
        assert!(addresses.iter().all(|address| given.insert(*address)), "{addresses:?} of {given:?}");
        assert!(pools.into_iter().all(|(name, _)| names.insert(name)), "{names:?}");
        residents.push(resident);
    }
    // A further pod of one of them finds its own pool used up, and the others' none of its business: they are freed.
    let residents_of_others = residents.split_off(1);
    residents_of_others.into_iter().for_each(|resident| resident.end());
    let form = Form {
        namespace: FLEET,
        name: "web-5d4f-2",
        controller: Some(&replicas),
        interfaces: &["net1", "net2"],
        annotations: short.clone(),
    };
    let mut further = form.bind(&fleet, one);
    let said = refusal(further.add());
    let (own, _) = own_pool(&fleet, &deployment, "net1");
    assert!(said.contains("all IP addresses used out") && said.contains(&own), "{said}");
    further.end();
    residents.into_iter().for_each(|resident| resident.end());

    // What is made for one goes with that one.
    for (path, gone, left) in [
        ("namespaces/apps/statefulsets", &set, vec![&deployment, &elsewhere]),
        ("namespaces/second/deployments", &elsewhere, vec![&deployment]),
    ] {
        fleet.ground().objects.delete(&format!("/apis/apps/v1/{path}"), "web").unwrap();
        wait_no_pool(&fleet, gone);
        for application in left {
            let _still = ["net1", "net2"].map(|ifname| own_pool(&fleet, application, ifname));
        }
    }
}

fn uid(object: &Value) -> &Value {
    &object["metadata"]["uid"]
}

#[track_caller]
fn wait_no_pool(fleet: &Fleet<'_>, application: &Value) {
    eventually("no pool of an application that is gone", || {
        let pools = fleet.ground().objects.list(POOLS).map_err(|error| error.to_string())?;
        let label = |pool: &Value| pool["metadata"]["labels"]["ipam.spidernet.io/owner-application-uid"].clone();
        let left = pools.iter().find(|pool| label(pool) == *uid(application));
        left.map_or(Ok(()), |pool| Err(pool.to_string()))
    });
}

fn third_party(ground: &Ground) {
    let (_controller, fleet) = with_subnets(ground, 85);
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let kinds = [("CloneSet", "clonesets", "v1alpha1"), ("StatefulSet", "statefulsets", "v1beta1")];
    for (kind, plural, version) in kinds {
        ground.objects.create(path, &definition(KRUISE, version, kind, plural)).unwrap();
    }
    named_pools(&fleet);
    own_pools(&fleet);
}

fn foreign(fleet: &Fleet<'_>, kind: &str, name: &str) -> Value {
    let version = if kind == "CloneSet" { "v1alpha1" } else { "v1beta1" };
    let object = json!({"metadata": {"name": name, "namespace": FLEET}, "spec": {"replicas": 1}});
    make(fleet, &format!("{KRUISE}/{version}"), kind, &format!("{}s", kind.to_lowercase()), &object)
}

fn delete_foreign(fleet: &Fleet<'_>, object: &Value) {
    let (api, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap().to_lowercase());
    let path = format!("/apis/{api}/namespaces/{FLEET}/{kind}s");
    fleet.ground().objects.delete(&path, object["metadata"]["name"].as_str().unwrap()).unwrap();
}

/// A pod of the fleet's namespace with one interface.
fn form<'a>(name: &'a str, controller: &'a Value, annotations: Value) -> Form<'a> {
    Form { namespace: FLEET, name, controller: Some(controller), interfaces: &["net1"], annotations }
}

/// T00001, T00003: its pods get addresses of the pools that they name, which come back when it is gone.
fn named_pools(fleet: &Fleet<'_>) {
    let [one, two] = &fleet.nodes[..] else { unreachable!("two nodes were asked for") };
    fleet.declare_pool("six", "fd00:85::/64", &["fd00:85::10-fd00:85::13".to_owned()]).unwrap();
    for (kind, name) in [("CloneSet", "shop"), ("StatefulSet", "shop")] {
        let application = foreign(fleet, kind, name);
        let short = json!({"ippool": {"ipv4": [FLEET], "ipv6": ["six"]}});
        let mut residents = Vec::new();
        for (pod, node) in [("shop-0", one), ("shop-1", two)] {
            let (resident, addresses) = form(pod, &application, short.clone()).start(fleet, node);
            let is_of = |address: &IpAddr, begin: &str| address.to_string().starts_with(begin);
            assert!(is_of(&addresses[0], "10.85.1.") && is_of(&addresses[1], "fd00:85::1"), "{addresses:?}");
            let status = resident.endpoint().unwrap()["status"].clone();
            assert_eq!([&status["ownerControllerType"], &status["ownerControllerName"]], [kind, name]);
            residents.push(resident);
        }
        delete_foreign(fleet, &application);
        residents.into_iter().for_each(|resident| resident.end());
        ["shop-0", "shop-1"].iter().for_each(|pod| wait_no_endpoint(fleet, FLEET, pod));
        wait_unused(fleet, &[FLEET, "six"]);
    }
}

/// T00003, T00005: a pool that is kept is for the next one of the same kind alone; one that is not goes with its
/// application.
fn own_pools(fleet: &Fleet<'_>) {
    let [one, two] = &fleet.nodes[..] else { unreachable!("two nodes were asked for") };
    let short = |is_reclaimed: bool| {
        json!({"subnet": {"interface": "net1", "ipv4": ["s"]}, "ippool-ip-number": "1",
            "ippool-reclaim": is_reclaimed.to_string()})
    };
    let first = foreign(fleet, "CloneSet", "game");
    let (pod, before) = form("game-a", &first, short(false)).start(fleet, one);
    let (kept, address) = own_pool(fleet, &first, "net1");
    assert_eq!(before, [address]);
    delete_foreign(fleet, &first);
    pod.end();
    wait_no_endpoint(fleet, FLEET, "game-a");
    wait_unused(fleet, &[&kept]);

    // Another kind, of the same group and of Kubernetes itself.
    for (kind, is_foreign) in [("StatefulSet", true), ("StatefulSet", false)] {
        let other =
            if is_foreign { foreign(fleet, kind, "game") } else { workload(fleet, kind, FLEET, "game", &short(true)) };
        let (pod, given) = form("game-0", &other, short(true)).start(fleet, two);
        assert_ne!(given, before, "{kind}: it has the other kind's address");
        let found = fleet.ground().objects.get(POOLS, &kept).unwrap();
        assert_eq!(found["spec"]["ips"], json!([address.to_string()]), "it is kept still");
        if is_foreign {
            delete_foreign(fleet, &other);
        } else {
            fleet.ground().objects.delete(&format!("/apis/apps/v1/namespaces/{FLEET}/statefulsets"), "game").unwrap();
        }
        pod.end();
        wait_no_endpoint(fleet, FLEET, "game-0");
        wait_no_pool(fleet, &other);
    }

    // T00004, and that the pool was usable all the time.
    let next = foreign(fleet, "CloneSet", "game");
    assert_ne!(uid(&next), uid(&first));
    let (pod, again) = form("game-b", &next, short(false)).start(fleet, two);
    assert_eq!(again, before);
    assert_eq!(own_pool(fleet, &next, "net1").0, kept);
    delete_foreign(fleet, &next);
    pod.end();
    wait_unused(fleet, &[&kept]);
}
