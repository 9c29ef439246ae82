//! All cases.

use serde_json::json;

use crate::case::{By, Case, Families, Mode, Network, Nic, Order, case, nic};

use Families::{Both, V4, V6};
use Network::{First, Second};

const OVERLAY: Mode = Mode::Overlay(V4);
const DUAL: Mode = Mode::Overlay(Both);

pub(crate) fn all() -> Vec<Case> {
    [overlay(), overlay_families(), overlay_options(), underlay(), underlay_families(), underlay_options()].concat()
}

fn net1() -> Nic {
    nic("net1", First)
}

fn net2() -> Nic {
    nic("net2", Second)
}

fn net3() -> Nic {
    nic("net3", First)
}

fn eth0() -> Nic {
    nic("eth0", First)
}

fn second1() -> Nic {
    nic("net1", Second)
}

fn overlay() -> Vec<Case> {
    vec![
        case("overlay", OVERLAY, [net1()]),
        case("overlay-reference", OVERLAY, [net1().by(By::Reference)]).order(Order::Forwards),
        case("overlay-annotated-eth0", OVERLAY, [net1()]).annotated("eth0"),
        case("overlay-annotated-eth0-reference", OVERLAY, [net1().by(By::Reference)]).annotated("eth0"),
        case("overlay-no-gateway", OVERLAY, [net1().without_gateway()]),
        case("overlay-two", OVERLAY, [net1(), net2()]),
        case("overlay-two-forwards", OVERLAY, [net1(), net2()]).order(Order::Forwards),
        case("overlay-two-gone", OVERLAY, [net1(), net2()]).order(Order::NamespaceFirst),
        case("overlay-two-annotated-net2", OVERLAY, [net1(), net2()]).annotated("net2"),
        case("overlay-two-annotated-eth0", OVERLAY, [net1(), net2()]).annotated("eth0"),
        case("overlay-two-mixed-plugins", OVERLAY, [net1().by(By::Reference), net2()]).order(Order::Forwards),
        case("overlay-two-one-subnet", OVERLAY, [net1(), nic("net2", First)]),
        case("overlay-two-first-without-gateway", OVERLAY, [net1().without_gateway(), net2()]),
        case("overlay-two-second-without-gateway", OVERLAY, [net1(), net2().without_gateway()]),
        case("overlay-three", OVERLAY, [net1(), net2(), net3()]),
        case("overlay-three-forwards-annotated-net3", OVERLAY, [net1(), net2(), net3()])
            .annotated("net3")
            .order(Order::Forwards),
        case("overlay-attached-in-another-order", OVERLAY, [nic("net2", Second), net1()]),
        case("overlay-odd-names", OVERLAY, [nic("sto-rage.1", First), nic("a", Second)]),
    ]
}

fn overlay_families() -> Vec<Case> {
    vec![
        case("dual", DUAL, [net1().families(Both)]),
        case("dual-reference", DUAL, [net1().families(Both).by(By::Reference)]).order(Order::Forwards),
        case("dual-annotated-eth0", DUAL, [net1().families(Both)]).annotated("eth0"),
        case("dual-no-gateway", DUAL, [net1().families(Both).without_gateway()]),
        case("dual-nic-v4", DUAL, [net1()]),
        case("dual-nic-v6", DUAL, [net1().families(V6)]),
        case("dual-two", DUAL, [net1().families(Both), net2().families(Both)]),
        case("dual-two-annotated-net2", DUAL, [net1().families(Both), net2().families(Both)])
            .annotated("net2")
            .order(Order::Forwards),
        case("dual-two-unlike", DUAL, [net1().families(V4), net2().families(V6)]),
        case("dual-two-unlike-annotated-net2", DUAL, [net1().families(V4), net2().families(V6)]).annotated("net2"),
        case("dual-three-gone", DUAL, [net1().families(Both), net2().families(V6), net3().families(V4)])
            .order(Order::NamespaceFirst),
        case("v4-overlay-dual-nic", OVERLAY, [net1().families(Both)]),
        case("v4-overlay-v6-nic", OVERLAY, [net1().families(V6)]),
        case("v6-overlay", Mode::Overlay(V6), [net1().families(V6)]),
        case("v6-overlay-annotated-eth0", Mode::Overlay(V6), [net1().families(V6)]).annotated("eth0"),
        case("v6-overlay-two", Mode::Overlay(V6), [net1().families(V6), net2().families(V6)]),
        case("v6-overlay-dual-nic", Mode::Overlay(V6), [net1().families(Both)]),
    ]
}

fn overlay_options() -> Vec<Case> {
    vec![
        case("overlay-untuned", OVERLAY, [net1().key("tunePodRoutes", false)]),
        case("overlay-untuned-reference", OVERLAY, [net1().key("tunePodRoutes", false).by(By::Reference)]),
        case("overlay-second-untuned", OVERLAY, [net1(), net2().key("tunePodRoutes", false)]),
        case("overlay-conf-names-net1", OVERLAY, [net1().key("podDefaultRouteNic", "net1")]).annotated("eth0"),
        case("overlay-conf-names-eth0", OVERLAY, [net1().key("podDefaultRouteNic", "eth0")]),
        case("overlay-conf-names-a-later-nic", OVERLAY, [net1().key("podDefaultRouteNic", "net2"), net2()]),
        case("overlay-rule-table", OVERLAY, [net1().key("hostRuleTable", 600)])
            .must_have(["1000:   from all lookup 600"]),
        case("overlay-two-rule-tables", OVERLAY, [net1().key("hostRuleTable", 600), net2()])
            .must_have(["1000:   from all lookup 500", "1000:   from all lookup 600"]),
        case("overlay-strict-rp-filter", OVERLAY, [net1().key("podRPFilter", 1), net2().key("podRPFilter", 1), net3()])
            .must_have(["net/ipv4/conf/all/rp_filter = 1"]),
        case("overlay-policy-routes-default-nic", OVERLAY, [net1().key("policyRoutes", policy("10.6.0.1"))])
            .must_have(["172.30.0.0/16 via 10.6.0.1 dev net1"]),
        case("overlay-policy-routes", OVERLAY, [net1().key("policyRoutes", policy("10.6.0.1"))])
            .annotated("eth0")
            .must_have(["172.30.0.0/16 via 10.6.0.1 dev net1"]),
        case("overlay-hijack-more", OVERLAY, [net1().key("hijackCIDR", json!(["172.31.0.0/16", "fd31::/64"]))])
            .must_have(["172.31.0.0/16 via 10.6.212.131 dev eth0"]),
    ]
}

fn policy(gateway: &str) -> serde_json::Value {
    json!([{"dst": "172.30.0.0/16", "gw": gateway}])
}

fn underlay() -> Vec<Case> {
    vec![
        case("underlay", Mode::Underlay, [eth0()]).must_have([
            "1000:   from all fwmark 0x1 lookup 100",
            "default via 10.6.212.131 dev veth0",
            "10.233.64.0/18 via 10.6.212.131 dev veth0",
        ]),
        case("underlay-reference", Mode::Underlay, [eth0().by(By::Reference)]),
        case("underlay-gone", Mode::Underlay, [eth0(), second1()]).order(Order::NamespaceFirst),
        case("underlay-no-gateway", Mode::Underlay, [eth0().without_gateway()]),
        case("underlay-two", Mode::Underlay, [eth0(), second1()]),
        case("underlay-two-forwards", Mode::Underlay, [eth0(), second1()]).order(Order::Forwards),
        case("underlay-two-reference", Mode::Underlay, [eth0().by(By::Reference), second1().by(By::Reference)])
            .order(Order::Forwards),
        case("underlay-two-annotated-net1", Mode::Underlay, [eth0(), second1()]).annotated("net1"),
        case("underlay-two-annotated-eth0", Mode::Underlay, [eth0(), second1()]).annotated("eth0"),
        case("underlay-two-one-subnet", Mode::Underlay, [eth0(), net1()]),
        case("underlay-three", Mode::Underlay, [eth0(), second1(), nic("net2", First)]),
        case("underlay-three-annotated-net2-forwards", Mode::Underlay, [eth0(), second1(), nic("net2", First)])
            .annotated("net2")
            .order(Order::Forwards),
        case("underlay-first-without-gateway", Mode::Underlay, [eth0().without_gateway(), second1()]),
    ]
}

fn underlay_families() -> Vec<Case> {
    vec![
        case("underlay-dual", Mode::Underlay, [eth0().families(Both)]),
        case("underlay-dual-reference", Mode::Underlay, [eth0().families(Both).by(By::Reference)]),
        case("underlay-v6", Mode::Underlay, [eth0().families(V6)]),
        case("underlay-dual-two", Mode::Underlay, [eth0().families(Both), second1().families(Both)])
            .order(Order::Forwards),
        case("underlay-dual-two-annotated-net1", Mode::Underlay, [eth0().families(Both), second1().families(Both)])
            .annotated("net1"),
        case("underlay-two-unlike", Mode::Underlay, [eth0().families(V4), second1().families(V6)]),
        case("underlay-v6-then-v4", Mode::Underlay, [eth0().families(V6), second1().families(V4)]),
    ]
}

fn underlay_options() -> Vec<Case> {
    vec![
        case("underlay-untuned", Mode::Underlay, [eth0().key("tunePodRoutes", false)]),
        case("underlay-first-untuned", Mode::Underlay, [eth0().key("tunePodRoutes", false), second1()]),
        case("underlay-said-so", Mode::Underlay, [eth0().key("mode", "underlay"), second1().key("mode", "underlay")]),
        case("underlay-veth-mtu", Mode::Underlay, [eth0().key("vethMTU", 1400)]).must_have(["veth0 mtu 1400 UP"]),
        case("underlay-veth-address", Mode::Underlay, [eth0().key("vethLinkAddress", "169.254.200.1")])
            .must_have(["veth0 mtu 1500 UP 169.254.200.1/32"]),
        case(
            "underlay-strict-rp-filter",
            Mode::Underlay,
            [eth0().key("podRPFilter", 1), second1().key("podRPFilter", 1)],
        )
        .must_have(["net/ipv4/conf/all/rp_filter = 1"]),
        case("underlay-policy-routes", Mode::Underlay, [eth0().key("policyRoutes", policy("10.6.0.1"))])
            .must_have(["172.30.0.0/16 via 10.6.0.1 dev eth0"]),
        case("underlay-rule-table", Mode::Underlay, [eth0().key("hostRuleTable", 600)])
            .must_have(["1000:   from all lookup 600"]),
    ]
}
