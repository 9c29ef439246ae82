use proptest::prelude::*;

use super::*;

const KUBEADM: &str = "networking:
  dnsDomain: cluster.local
  podSubnet: 10.233.64.0/18,bad,fd00::/48
  serviceSubnet: \"10.233.0.0/18\"
";

/// kubeadm's cluster with Cilium's seed, all read, nothing else served.
fn inputs() -> Inputs {
    let seed: BTreeMap<String, String> =
        [("cluster-pool-ipv4-cidr", "10.244.64.0/18"), ("cluster-pool-ipv4-mask-size", "24"), ("ipam", "cluster-pool")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
    Inputs {
        cni: Some(Ok(Some(conf("cilium", "cilium-cni")))),
        kubeadm: Some(Some(KUBEADM.into())),
        controller_manager: Some(None),
        cilium_config_name: "kube-system/cilium-config".into(),
        cilium_config: Some(Some(seed)),
        cilium_pools: Some(None),
        calico_pools: Some(None),
        service_cidrs: Some(None),
    }
}

fn conf(name: &str, main: &str) -> CniConf {
    CniConf { name: name.into(), types: vec![main.into(), "portmap".into()] }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[track_caller]
fn synced(kind: PodCidrType, inputs: &Inputs, overlay: &[&str], services: &[&str]) {
    let decision = decide(Some(kind), inputs).unwrap();
    let status = SpiderCoordinatorStatus {
        phase: "Synced".into(),
        reason: None,
        overlay_pod_cidr: texts(overlay),
        service_cidr: texts(services),
    };
    assert_eq!(decision, Decision { status, fault: None });
}

#[track_caller]
fn not_ready(kind: PodCidrType, inputs: &Inputs, reason: &str, services: &[&str]) {
    let status = decide(Some(kind), inputs).unwrap().status;
    assert_eq!(status.phase, "NotReady");
    assert_eq!(status.reason.as_deref(), Some(reason));
    assert_eq!((status.overlay_pod_cidr, status.service_cidr), (vec![], texts(services)));
}

const SERVICES: &[&str] = &["10.233.0.0/18"];

#[test]
fn the_seeds_cluster() {
    synced(PodCidrType::Cilium, &inputs(), &["10.244.64.0/18"], SERVICES);
    synced(PodCidrType::Auto, &inputs(), &["10.244.64.0/18"], SERVICES);
    assert_eq!(decide(None, &inputs()), decide(Some(PodCidrType::Auto), &inputs()));
}

#[test]
fn auto_goes_by_the_first_configuration() {
    let mut inputs = inputs();
    inputs.calico_pools = Some(Some(texts(&["10.1.0.0/16"])));
    for (name, main, overlay) in [
        ("calico", "x", &["10.1.0.0/16"][..]),
        ("k8s-pod-network", "calico", &["10.1.0.0/16"]),
        ("mine", "calico", &["10.1.0.0/16"]),
        ("cilium", "x", &["10.244.64.0/18"]),
        ("flannel", "x", &["10.233.64.0/18", "fd00::/48"]),
        ("cbr0", "flannel", &["10.233.64.0/18", "fd00::/48"]),
        ("calico", "cilium-cni", &["10.1.0.0/16"]),
        ("bridge", "bridge", &[]),
    ] {
        inputs.cni = Some(Ok(Some(conf(name, main))));
        synced(PodCidrType::Auto, &inputs, overlay, SERVICES);
    }
    inputs.cni = Some(Ok(None));
    synced(PodCidrType::Auto, &inputs, &[], SERVICES);
    inputs.cni = Some(Err("no such folder".into()));
    not_ready(PodCidrType::Auto, &inputs, "no such folder", SERVICES);
}

#[test]
fn the_cluster_says_it_by_kubeadm_or_by_flags() {
    let mut inputs = inputs();
    synced(PodCidrType::Cluster, &inputs, &["10.233.64.0/18", "fd00::/48"], SERVICES);
    let none = "No kube-controller-manager pod found, unable to get clusterCIDR";
    inputs.kubeadm = Some(None);
    for kind in [PodCidrType::Cluster, PodCidrType::None, PodCidrType::Cilium] {
        not_ready(kind, &inputs, none, &[]);
    }
    let flags = [
        "kube-controller-manager",
        "--cluster-cidr=10.2.0.0/16,fd01::/48",
        "--service-cluster-ip-range",
        "10.3.0.0/16",
    ];
    inputs.controller_manager = Some(Some(texts(&flags)));
    synced(PodCidrType::Cluster, &inputs, &["10.2.0.0/16", "fd01::/48"], &["10.3.0.0/16"]);
    synced(PodCidrType::None, &inputs, &[], &["10.3.0.0/16"]);
    // What kubeadm says counts first, each by itself.
    inputs.kubeadm = Some(Some("podSubnet: 10.9.0.0/16\n".into()));
    synced(PodCidrType::Cluster, &inputs, &["10.9.0.0/16"], &["10.3.0.0/16"]);
    inputs.controller_manager = Some(Some(texts(&["kube-controller-manager"])));
    synced(PodCidrType::Cluster, &inputs, &["10.9.0.0/16"], &[]);
}

#[test]
fn service_cidr_objects_count_first_and_make_kubeadm_unnecessary() {
    let mut inputs = inputs();
    inputs.service_cidrs = Some(Some(texts(&["10.96.0.0/16", "fd02::/112"])));
    let services = &["10.96.0.0/16", "fd02::/112"];
    synced(PodCidrType::Cilium, &inputs, &["10.244.64.0/18"], services);
    (inputs.kubeadm, inputs.controller_manager) = (None, None);
    for (kind, overlay) in [(PodCidrType::Cilium, &["10.244.64.0/18"][..]), (PodCidrType::None, &[])] {
        synced(kind, &inputs, overlay, services);
    }
    assert_eq!(decide(Some(PodCidrType::Cluster), &inputs), Err(Unread("ConfigMaps of kubeadm")));
    (inputs.kubeadm, inputs.controller_manager) = (Some(None), Some(None));
    not_ready(
        PodCidrType::Cluster,
        &inputs,
        "No kube-controller-manager pod found, unable to get clusterCIDR",
        services,
    );
    inputs.service_cidrs = Some(Some(vec![]));
    inputs.kubeadm = self::inputs().kubeadm;
    synced(PodCidrType::None, &inputs, &[], SERVICES);
}

#[test]
fn calico() {
    let mut inputs = inputs();
    not_ready(
        PodCidrType::Calico,
        &inputs,
        "Calico's IPPools (crd.projectcalico.org) are not served: is Calico installed?",
        SERVICES,
    );
    inputs.calico_pools = Some(Some(texts(&["10.1.0.0/16", "fd03::/48"])));
    synced(PodCidrType::Calico, &inputs, &["10.1.0.0/16", "fd03::/48"], SERVICES);
    inputs.calico_pools = Some(Some(vec![]));
    synced(PodCidrType::Calico, &inputs, &[], SERVICES);
}

#[test]
fn every_mode_of_cilium() {
    let mut inputs = inputs();
    let set = |inputs: &mut Inputs, pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        inputs.cilium_config = Some(Some(pairs.collect()));
    };
    // Lists, which the original refuses; and no CRD is needed for them.
    for list in ["10.4.1.2/16 10.5.0.0/16", "10.4.0.0/16,10.5.0.0/16", "10.4.0.0/16, 10.5.0.0/16"] {
        set(
            &mut inputs,
            &[
                ("ipam", "cluster-pool-v2beta"),
                ("cluster-pool-ipv6-cidr", "fd04::/104"),
                ("cluster-pool-ipv4-cidr", list),
            ],
        );
        synced(PodCidrType::Cilium, &inputs, &["10.4.0.0/16", "10.5.0.0/16", "fd04::/104"], SERVICES);
    }
    set(&mut inputs, &[("ipam", "cluster-pool"), ("cluster-pool-ipv4-cidr", "10.4.0.0")]);
    not_ready(
        PodCidrType::Cilium,
        &inputs,
        "\"10.4.0.0\" in cluster-pool-ipv4-cidr of Cilium's ConfigMap kube-system/cilium-config is not a CIDR",
        SERVICES,
    );
    set(&mut inputs, &[("ipam", "cluster-pool")]);
    let fault = decide(Some(PodCidrType::Cilium), &inputs).unwrap().fault;
    assert!(matches!(fault, Some(Fault::NoCiliumCidr { .. })));
    set(&mut inputs, &[("ipam", "multi-pool")]);
    not_ready(
        PodCidrType::Cilium,
        &inputs,
        "the cilium multi-pool feature is unavailable: CiliumPodIPPools are not served",
        SERVICES,
    );
    inputs.cilium_pools = Some(Some(texts(&["10.6.0.0/16", "fd05::/48"])));
    synced(PodCidrType::Cilium, &inputs, &["10.6.0.0/16", "fd05::/48"], SERVICES);
    set(&mut inputs, &[("ipam", "kubernetes")]);
    synced(PodCidrType::Cilium, &inputs, &["10.233.64.0/18", "fd00::/48"], SERVICES);
    set(&mut inputs, &[("ipam", "eni")]);
    not_ready(PodCidrType::Cilium, &inputs, "unsupported Cilium IPAM mode: eni", SERVICES);
    inputs.cilium_config = Some(None);
    not_ready(
        PodCidrType::Cilium,
        &inputs,
        "Cilium's ConfigMap kube-system/cilium-config is not found: is Cilium installed?",
        SERVICES,
    );
}

#[test]
fn nothing_is_decided_from_what_has_not_been_read() {
    let all = inputs();
    for (inputs, waits) in [
        (Inputs { service_cidrs: None, ..all.clone() }, "ServiceCIDRs"),
        (Inputs { kubeadm: None, ..all.clone() }, "ConfigMaps of kubeadm"),
        (Inputs { kubeadm: Some(None), controller_manager: None, ..all.clone() }, "pods of kube-controller-manager"),
        (Inputs { cilium_config: None, ..all.clone() }, "ConfigMaps of Cilium"),
        (Inputs { cni: None, ..all.clone() }, "CNI configurations"),
    ] {
        assert_eq!(decide(None, &inputs), Err(Unread(waits)));
    }
    // And what is not asked need not be.
    let unasked = Inputs { cni: None, cilium_pools: None, calico_pools: None, controller_manager: None, ..all };
    synced(PodCidrType::Cilium, &unasked, &["10.244.64.0/18"], SERVICES);
}

proptest! {
    #[test]
    fn no_text_panics_and_what_comes_out_are_cidrs(text in ".*|[0-9a-f./:, ]{0,40}", key in ".*", flag in ".*") {
        let inputs = Inputs {
            kubeadm: Some(Some(format!("podSubnet: {text}\n{key}: {flag}"))),
            controller_manager: Some(Some(vec![format!("--cluster-cidr={text}"), flag])),
            cilium_config: Some(Some([("ipam".to_owned(), "cluster-pool".to_owned()), ("cluster-pool-ipv4-cidr".to_owned(), text)].into())),
            ..inputs()
        };
        for kind in [PodCidrType::Cluster, PodCidrType::Cilium] {
            let decision = decide(Some(kind), &inputs).unwrap();
            for cidr in &decision.status.overlay_pod_cidr {
                prop_assert!(cidr.parse::<IpNetwork>().is_ok() && cidr.contains('/'));
            }
        }
    }
}
