//! Properties of the envelope, over every kind of record.

use std::fmt::Debug;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use schemas::intent::*;
use schemas::name::{AttachmentKey, ContainerId, IfName, Mac, MacPrefix, NetworkName};
use schemas::uplink::{BondIntent, BondOption, BondSetting, BondValue, UplinkIntent};

use super::*;

fn container() -> impl Strategy<Value = ContainerId> {
    "[a-z0-9]{1,64}".prop_map(|text| text.parse().unwrap())
}

fn ifname() -> impl Strategy<Value = IfName> {
    "[a-z0-9]{1,15}".prop_map(|text| text.parse().unwrap())
}

fn key() -> impl Strategy<Value = AttachmentKey> {
    (container(), ifname()).prop_map(|(container, ifname)| AttachmentKey { container, ifname })
}

fn network() -> impl Strategy<Value = IpNetwork> {
    (any::<IpAddr>(), 0u8..=128).prop_map(|(address, prefix)| {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        IpNetwork::new(address, prefix.min(longest)).unwrap()
    })
}

fn mac() -> impl Strategy<Value = Mac> {
    any::<[u8; 6]>().prop_map(Mac)
}

fn pod() -> impl Strategy<Value = PodRef> {
    (".{0,20}", ".{0,20}", ".{0,36}").prop_map(|(namespace, name, uid)| PodRef { namespace, name, uid })
}

fn link() -> impl Strategy<Value = LinkIntent> {
    use MacvlanMode::*;
    let macvlan =
        prop_oneof![Just(Bridge), Just(Private), Just(Vepa), Just(Passthru)].prop_map(LinkKindIntent::Macvlan);
    let ipvlan = prop_oneof![Just(IpvlanMode::L2), Just(IpvlanMode::L3), Just(IpvlanMode::L3s)];
    let kind = prop_oneof![macvlan, ipvlan.prop_map(LinkKindIntent::Ipvlan)];
    (kind, ifname(), any::<bool>(), any::<Option<u32>>(), option::of(mac())).prop_map(
        |(kind, master, master_in_container, mtu, mac)| LinkIntent { kind, master, master_in_container, mtu, mac },
    )
}

fn uplink() -> impl Strategy<Value = UplinkIntent> {
    let value = prop_oneof![
        any::<u32>().prop_map(BondValue::Number),
        ifname().prop_map(BondValue::Link),
        mac().prop_map(BondValue::Mac),
        vec(any::<std::net::Ipv4Addr>(), 0..3).prop_map(BondValue::Addresses),
    ];
    let option = (0..BondOption::ALL.len()).prop_map(|place| BondOption::ALL[place]);
    let setting = (option, value).prop_map(|(option, value)| BondSetting { option, value });
    let bond =
        (ifname(), 0..7_u8, vec(setting, 0..4)).prop_map(|(name, mode, options)| BondIntent { name, mode, options });
    (vec(ifname(), 0..3), option::of(bond), any::<Option<u16>>()).prop_map(|(interfaces, bond, vlan)| UplinkIntent {
        interfaces,
        bond,
        vlan,
    })
}

fn mode() -> impl Strategy<Value = CoordinatorMode> {
    use CoordinatorMode::*;
    prop_oneof![Just(Auto), Just(Underlay), Just(Overlay), Just(Disabled)]
}

type Veth = (Vec<RouteIntent>, Option<MacPrefix>, (Option<IpAddr>, Option<u32>, Option<i32>));

fn veth() -> impl Strategy<Value = Veth> {
    let route = (network(), any::<Option<IpAddr>>()).prop_map(|(dst, gateway)| RouteIntent { dst, gateway });
    let prefix = any::<[u8; 2]>().prop_map(|[first, second]| MacPrefix([first & 0xfe, second]));
    (vec(route, 0..3), option::of(prefix), any::<(Option<IpAddr>, Option<u32>, Option<i32>)>())
}

fn coordinate() -> impl Strategy<Value = CoordinateIntent> {
    let conf = (
        (option::of(mode()), any::<Option<bool>>(), option::of(".{0,15}"), option::of(ifname())),
        (vec(network(), 0..3), vec(network(), 0..3), vec(network(), 0..3)),
        any::<(Option<u32>, Option<i32>, Option<u32>)>(),
        veth(),
    )
        .prop_map(|((mode, tune_pod_routes, default_route_nic, default_cni_nic), cidrs, numbers, veth)| {
            CoordinatorOverrides {
                mode,
                tune_pod_routes,
                default_route_nic,
                default_cni_nic,
                overlay_pod_cidr: cidrs.0,
                service_cidr: cidrs.1,
                hijack_cidr: cidrs.2,
                host_rule_table: numbers.0,
                pod_rp_filter: numbers.1,
                tx_queue_len: numbers.2,
                policy_routes: veth.0,
                mac_prefix: veth.1,
                veth_link_address: veth.2.0,
                veth_mtu: veth.2.1,
                host_rp_filter: veth.2.2,
            }
        });
    let cluster = (
        (mode(), any::<bool>(), option::of(".{0,15}")),
        (vec(network(), 0..3), vec(network(), 0..3), vec(network(), 0..3)),
        any::<(u32, i32, u32)>(),
        veth(),
    )
        .prop_map(|((mode, tune_pod_routes, default_route_nic), cidrs, numbers, veth)| CoordinatorSettings {
            mode,
            tune_pod_routes,
            default_route_nic,
            overlay_pod_cidr: cidrs.0,
            service_cidr: cidrs.1,
            hijack_cidr: cidrs.2,
            host_rule_table: numbers.0,
            pod_rp_filter: numbers.1,
            tx_queue_len: numbers.2,
            policy_routes: veth.0,
            mac_prefix: veth.1,
            veth_link_address: veth.2.0,
            veth_mtu: veth.2.1,
            host_rp_filter: veth.2.2,
        });
    (conf, option::of(".{0,15}"), cluster, option::of(mac())).prop_map(|(conf, annotated_default_nic, cluster, mac)| {
        CoordinateIntent { conf, annotated_default_nic, cluster, mac }
    })
}

fn attachment() -> impl Strategy<Value = Attachment> {
    let address = (network(), any::<Option<IpAddr>>(), ".{0,20}")
        .prop_map(|(address, gateway, pool)| AssignedAddress { address, gateway, pool });
    let route = (network(), any::<Option<IpAddr>>()).prop_map(|(dst, gateway)| RouteIntent { dst, gateway });
    let learned =
        (vec(network(), 0..3), any::<Option<IpAddr>>()).prop_map(|(addresses, gateway)| Learned { addresses, gateway });
    let foreign = (any::<u32>(), mac()).prop_map(|(index, mac)| LinkIdentity { index, mac });
    let network_name = "[a-z0-9]{1,30}".prop_map(|text| text.parse::<NetworkName>().unwrap());
    (
        (key(), network_name, pod(), any::<(u32, u64, bool, bool, bool, bool)>()),
        (
            vec(address, 0..3),
            vec(route, 0..5),
            option::of(link()),
            option::of(foreign),
            option::of(coordinate()),
            option::of(uplink()),
            learned,
        ),
    )
        .prop_map(
            |((key, network, pod, (ordinal, generation, allocated, link_wanted, closing, prepared)), parts)| {
                Attachment {
                    key,
                    network,
                    pod,
                    ordinal,
                    generation,
                    addresses: parts.0,
                    routes: parts.1,
                    allocated,
                    link: parts.2,
                    link_wanted,
                    learned: parts.6,
                    foreign_link: parts.3,
                    coordinate: parts.4.map(Box::new),
                    uplink: parts.5.map(Box::new),
                    closing,
                    prepared,
                }
            },
        )
}

fn allocation() -> impl Strategy<Value = Allocation> {
    let state = prop_oneof![Just(AllocationState::Held), Just(AllocationState::Releasing)];
    (any::<IpAddr>(), ".{0,20}", key(), state).prop_map(|(address, pool, owner, state)| Allocation {
        address,
        pool,
        owner,
        state,
    })
}

fn sandbox() -> impl Strategy<Value = Sandbox> {
    let netns = (".{0,40}", any::<u64>(), ".{0,36}").prop_map(|(path, cookie, boot_id)| NetnsIdentity {
        path,
        cookie,
        boot_id,
    });
    let route = (network(), any::<(Option<IpAddr>, Option<IpAddr>, u8, u32, bool, u8)>()).prop_map(|(dst, rest)| {
        BaselineRoute {
            dst,
            gateway: rest.0,
            src: rest.1,
            scope: rest.2,
            metric: rest.3,
            onlink: rest.4,
            protocol: rest.5,
        }
    });
    let peer = (ifname(), any::<u32>(), mac()).prop_map(|(name, index, mac)| HostPeer { name, index, mac });
    let baseline = (ifname(), any::<u32>(), mac(), vec(network(), 0..3), vec(route, 0..4), option::of(peer))
        .prop_map(|(nic, index, mac, addresses, routes, peer)| Baseline { nic, index, mac, addresses, routes, peer });
    let auxiliary = (ifname(), mac(), mac()).prop_map(|(host_name, pod_mac, host_mac)| AuxiliaryLink {
        host_name,
        pod_mac,
        host_mac,
    });
    let sysctls = vec((".{0,40}", ".{0,8}").prop_map(|(path, value)| SysctlValue { path, value }), 0..3);
    (
        container(),
        option::of(netns),
        (option::of(baseline), option::of(auxiliary), sysctls),
        any::<(u64, u64)>(),
        ".{0,60}",
    )
        .prop_map(|(container, netns, (baseline, auxiliary, sysctls_before), (generation, reached), error)| {
            Sandbox {
                container,
                netns,
                baseline,
                auxiliary,
                sysctls_before,
                generation,
                outcome: Outcome { generation: reached, error },
            }
        })
}

fn comes_back<R: Record + PartialEq + Debug>(record: &R) -> Result<(), TestCaseError> {
    let bytes = encode(record).unwrap();
    prop_assert_eq!(&decode::<R>(&bytes).unwrap(), record);
    prop_assert_eq!(encode(record).unwrap(), bytes);
    Ok(())
}

fn no_flip_passes<R: Record + Debug>(record: &R) -> Result<(), TestCaseError> {
    let mut bytes = encode(record).unwrap();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(matches!(decode::<R>(&bytes), Err(DecodeError::Checksum { .. })), "bit {}", bit);
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    for len in 0..bytes.len() {
        prop_assert!(decode::<R>(&bytes[..len]).is_err(), "cut to {} bytes", len);
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_record_comes_back(attachment in attachment(), allocation in allocation(), sandbox in sandbox(), text in ".*") {
        comes_back(&attachment)?;
        comes_back(&allocation)?;
        comes_back(&sandbox)?;
        comes_back(&CatalogueText(text.clone()))?;
        comes_back(&MetaText(text))?;
    }

    #[test]
    fn random_bytes_never_panic(bytes: Vec<u8>) {
        prop_assert!(decode::<Attachment>(&bytes).is_err());
        prop_assert!(decode::<Allocation>(&bytes).is_err());
        prop_assert!(decode::<Sandbox>(&bytes).is_err());
    }

    /// The payload's own decoder sees arbitrary bytes only behind a right checksum.
    #[test]
    fn random_payloads_never_panic(payload: Vec<u8>) {
        let _ = decode::<Attachment>(&sealed(1, 1, &payload));
        let _ = decode::<Allocation>(&sealed(2, 1, &payload));
        let _ = decode::<Sandbox>(&sealed(3, 1, &payload));
        let _ = decode::<CatalogueText>(&sealed(5, 1, &payload));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_single_flipped_bit_is_refused(attachment in attachment(), allocation in allocation(), sandbox in sandbox()) {
        no_flip_passes(&attachment)?;
        no_flip_passes(&allocation)?;
        no_flip_passes(&sandbox)?;
    }
}

fn sealed(kind: u8, version: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, version];
    bytes.extend_from_slice(&checksum(kind, version, payload).to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn text(error: DecodeError) -> String {
    error.to_string()
}

#[test]
fn a_newer_version_is_refused_naming_both() {
    let error = decode::<Sandbox>(&sealed(3, 7, b"")).unwrap_err();
    assert_eq!(error, DecodeError::NewerVersion { kind: RecordKind::Sandbox, found: 7, known: 1 });
    assert_eq!(
        text(error),
        "the sandbox has record version 7, and this dragline knows versions up to 1: run a newer one"
    );
    assert!(matches!(decode::<Sandbox>(&sealed(3, 0, b"")), Err(DecodeError::Malformed { .. })));
}

#[test]
fn another_kind_is_refused() {
    let bytes = encode(&CatalogueText("x".into())).unwrap();
    let error = decode::<MetaText>(&bytes).unwrap_err();
    assert_eq!(error, DecodeError::WrongKind { found: 5, expected: RecordKind::Meta });
    assert_eq!(text(error), "record kind 5 stands where kind 8 (meta entry) should");
}

#[test]
fn trailing_bytes_are_refused() {
    let error = decode::<MetaText>(&sealed(8, 1, b"\x01ab")).unwrap_err();
    assert_eq!(text(error), "malformed: 1 bytes follow the content");
}

#[test]
fn a_claimed_length_beyond_the_limit_is_refused_before_memory_is_taken() {
    // A string of 2^32 bytes, says the payload.
    let error = decode::<MetaText>(&sealed(8, 1, &[252, 255, 255, 255, 255])).unwrap_err();
    assert!(matches!(error, DecodeError::Malformed { .. }), "{error}");
}

#[test]
fn a_record_above_the_limit_is_not_written() {
    assert!(encode(&CatalogueText("x".repeat(RECORD_LIMIT - 16))).is_ok());
    let error = encode(&CatalogueText("x".repeat(RECORD_LIMIT))).unwrap_err();
    assert!(matches!(error, EncodeError::TooLarge { kind: RecordKind::Catalogue, .. }), "{error}");
}

/// Bytes that version 1 has written on real disks: they may never read otherwise.
#[test]
fn version_1_stays_readable() {
    let allocation = Allocation {
        address: "10.6.168.101".parse().unwrap(),
        pool: "p".into(),
        owner: AttachmentKey { container: "c".parse().unwrap(), ifname: "net1".parse().unwrap() },
        state: AllocationState::Releasing,
    };
    let payload = b"\x00\x0a\x06\xa8\x65\x01p\x01c\x04net1\x01";
    assert_eq!(decode::<Allocation>(&sealed(2, 1, payload)).unwrap(), allocation);
    assert_eq!(encode(&allocation).unwrap(), sealed(2, 1, payload));
}
