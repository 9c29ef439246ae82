//! Every file of examples/ is read by the agent's own reader, and declares what the quick start says it does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dragline::document;

fn example_files(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            example_files(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

#[test]
fn every_example_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut files = Vec::new();
    example_files(&root, &mut files).unwrap();
    let (manifests, others): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    // What is neither a manifest nor a text for people would stand here untested.
    assert!(others.iter().all(|path| path.extension().is_some_and(|extension| extension == "md")), "{others:?}");
    let mut declared = BTreeMap::new();
    for path in manifests {
        let text = std::fs::read_to_string(&path).unwrap();
        for document in document::split(&text) {
            let parsed =
                document.parse().unwrap_or_else(|fault| panic!("{}:{}: {}", path.display(), fault.line, fault.text));
            let name = path.strip_prefix(&root).unwrap().display().to_string();
            declared.insert(name, parsed.map(|(key, _)| key));
        }
    }
    let key = |key: &str| Some(key.to_owned());
    let expected = [
        // What agent and controller may do is Kubernetes' affair; the cluster's tests run under it.
        ("cluster/agent.yaml", None),
        ("cluster/controller.yaml", None),
        ("quickstart/coordinator.yaml", key("SpiderCoordinator /default")),
        ("quickstart/ippool.yaml", key("SpiderIPPool /10-6-v4")),
        ("quickstart/multusconfig.yaml", key("SpiderMultusConfig /macvlan-ens192")),
        // A Deployment is Kubernetes' affair.
        ("quickstart/nginx.yaml", None),
        ("quickstart/pod-default-route-eth0.yaml", key("Pod default/nginx-4653bc4f24-rswak")),
        ("underlay/coordinator.yaml", key("SpiderCoordinator /default")),
        ("underlay/ippool.yaml", key("SpiderIPPool /vlan100-v4")),
        ("underlay/multusconfig.yaml", key("SpiderMultusConfig kube-system/vlan100")),
    ];
    assert_eq!(declared, expected.map(|(file, key)| (file.to_owned(), key)).into());
}

#[test]
fn the_deployment_asks_for_the_network() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart/nginx.yaml");
    let deployment: serde_json::Value = serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let annotations = &deployment["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["k8s.v1.cni.cncf.io/networks"], "macvlan-ens192");
    assert_eq!(deployment["spec"]["replicas"], 2);
}
