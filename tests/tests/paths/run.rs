//! How a case is played: attached, looked at, walked, taken apart.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use netlink::testbed::Netns;
use tests::picture::Picture;
use tests::probe::Responder;
use tests::runtime::Attachment;
use tests::scene::{PORT, Pod, dual};
use tests::stage;
use tests::witness::Witness;

use crate::case::{By, Case, Families, Mode, Nic, Order};
use crate::lane::{Lane, conflist};
use crate::tables::{self, Names};
use crate::ways::Stand;

/// What takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(20);

/// The pod of a case.
enum Body {
    Overlay(Pod),
    Bare(Netns, Option<Responder>),
}

impl Body {
    fn make(lane: &Lane, case: &Case, name: &str) -> Self {
        let Mode::Overlay(families) = case.mode else {
            let netns = lane.scene.bare_pod(name).unwrap();
            let responder = Responder::start(&netns, PORT).unwrap();
            return Self::Bare(netns, Some(responder));
        };
        let pod = lane.scene.pod(name, Ipv4Addr::new(10, 233, 120, number())).unwrap();
        if families != Families::V4 {
            dual::give(&pod, &lane.scene.worker).unwrap();
        } else {
            // An IPv6 NIC in a pod whose eth0 has none.
            for of in ["all", "default"] {
                pod.netns.set_sysctl(&format!("net/ipv6/conf/{of}/accept_dad"), "0").unwrap();
            }
        }
        if families == Families::V6 {
            pod.netns.scene().unwrap().delete_address("eth0", pod.address.to_string().parse().unwrap()).unwrap();
        }
        Self::Overlay(pod)
    }

    fn netns(&self) -> &Netns {
        match self {
            Self::Overlay(pod) => &pod.netns,
            Self::Bare(netns, _) => netns,
        }
    }

    fn end(self, lane: &Lane) {
        match self {
            Self::Overlay(pod) => pod.delete(&lane.scene.worker).unwrap(),
            Self::Bare(netns, responder) => {
                drop(responder);
                netns.delete();
            }
        }
    }
}

/// The last part of a pod's eth0 address: none that a pod had just before.
fn number() -> u8 {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed) % 100 + 101
}

pub(crate) fn play(lane: &Lane, case: &Case) {
    let node_before = Picture::take(&lane.scene.worker).unwrap();
    let name = case.name;
    let body = Body::make(lane, case, &format!("case-{name}"));
    let pod = body.netns();
    let node_with_pod = Picture::take(&lane.scene.worker).unwrap();
    let before = Picture::take(pod).unwrap();
    let inside = addresses(pod, "eth0");

    let mut attached: Vec<(&Nic, Attachment, serde_json::Value)> = Vec::new();
    for nic in &case.nics {
        let container = format!("{}{name}", lane.number());
        let attachment = Attachment::of_pod("default", name, &container, pod.path(), nic.name);
        let result = lane.runtime(nic.by).add(&conflist(nic), &attachment).unwrap();
        attached.push((nic, attachment, result));
    }
    stage::check(&lane.agent).unwrap();
    let stand = |attached: &[(&'static str, &Nic)]| -> Stand<'_> {
        let nics = attached.iter().map(|(_, nic)| {
            (*case.nics.iter().find(|it| it.name == nic.name).as_ref().unwrap(), addresses(pod, nic.name))
        });
        Stand {
            case,
            lane,
            pod,
            inside: if case.inside() == "eth0" { inside.clone() } else { Vec::new() },
            nics: nics.collect(),
        }
    };
    let all: Vec<(&'static str, &Nic)> = attached.iter().map(|(nic, ..)| (nic.name, *nic)).collect();
    let standing = stand(&all);
    let own: Vec<IpAddr> = standing.nics.iter().flat_map(|(_, own)| own.clone()).collect();
    golden(case, &tables::text(pod, &lane.scene.worker, &own, &names(&standing, pod, lane)));
    let (count, wrong) = standing.walk();
    assert!(wrong.is_empty(), "{} of {count} ways are wrong:\n{}", wrong.len(), wrong.join("\n"));
    // Nothing of that was a change.
    stage::check(&lane.agent).unwrap();
    torn_and_mended(lane, case, pod);
    let (count, wrong) = stand(&all).walk();
    assert!(wrong.is_empty(), "mended, {} of {count} ways are wrong:\n{}", wrong.len(), wrong.join("\n"));

    if case.order == Order::NamespaceFirst {
        body.end(lane);
        for (nic, attachment, result) in &attached {
            lane.runtime(nic.by).del(&conflist(nic), attachment, Some(result)).unwrap();
        }
        settle(lane, &node_before);
        return;
    }
    if case.order == Order::Backwards {
        attached.reverse();
    }
    while !attached.is_empty() {
        let (nic, attachment, result) = attached.remove(0);
        lane.runtime(nic.by).del(&conflist(nic), &attachment, Some(&result)).unwrap();
        if attached.is_empty() {
            break;
        }
        stage_settled(lane);
        let mut left: Vec<(&'static str, &Nic)> = attached.iter().map(|(nic, ..)| (nic.name, *nic)).collect();
        left.sort_by_key(|(name, _)| case.nics.iter().position(|nic| nic.name == *name));
        let (count, wrong) = stand(&left).walk();
        assert!(
            wrong.is_empty(),
            "without {}, {} of {count} ways are wrong:\n{}",
            nic.name,
            wrong.len(),
            wrong.join("\n")
        );
    }
    // Of a foreign link the addresses have gone with it; what is left is the default CNI's.
    Witness::open(pod).unwrap().until_like(&before, PATIENCE).unwrap();
    Witness::open(&lane.scene.worker).unwrap().until_like(&node_with_pod, PATIENCE).unwrap();
    body.end(lane);
    settle(lane, &node_before);
}

/// Everything of dragline's is taken away: rules, routes of all tables, the nftables table, the links that it made.
fn torn_and_mended(lane: &Lane, case: &Case, pod: &Netns) {
    let whole = Picture::take(pod).unwrap().without("index ");
    let kernel = netlink::Kernel::new().unwrap();
    let identity = kernel.identify(pod.path()).unwrap();
    let mut scene = pod.scene().unwrap();
    let observed = scene.observe().unwrap();
    let ours = |protocol: u8| protocol == plan::tables::PROTOCOL;
    // By then the agent may have begun to mend.
    for rule in observed.rules.iter().filter(|rule| ours(rule.protocol)) {
        let _ = scene.delete_rule(rule);
    }
    for route in observed.routes.iter().filter(|route| ours(route.protocol)) {
        let _ = scene.delete_route(route);
    }
    if case.mode == Mode::Underlay {
        for outcome in kernel.pass(&identity).unwrap().apply(&[plan::Step::DeleteFilter]) {
            outcome.unwrap();
        }
        let _ = scene.delete_link("veth0");
    }
    for nic in case.nics.iter().filter(|nic| nic.by == By::Own) {
        let _ = scene.delete_link(nic.name);
    }
    let is_whole = |found: &Picture| whole.difference(&found.clone().without("index "));
    Witness::open(pod).unwrap().until("whole again", PATIENCE, is_whole).unwrap();
    stage_settled(lane);
}

/// What DEL left to be done is done.
fn stage_settled(lane: &Lane) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while let Err(error) = stage::check(&lane.agent) {
        assert!(std::time::Instant::now() < deadline, "{error}");
    }
}

fn settle(lane: &Lane, node_before: &Picture) {
    Witness::open(&lane.scene.worker).unwrap().until_like(node_before, PATIENCE).unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let left = lane.agent.list("attachments").unwrap();
        if left.is_empty() {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "records are left: {left:?}");
    }
}

fn addresses(pod: &Netns, dev: &str) -> Vec<IpAddr> {
    let observed = pod.scene().unwrap().observe().unwrap();
    let is_own = |ip: &IpAddr| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let mut found: Vec<IpAddr> =
        observed.addresses.iter().filter(|it| it.dev == dev).map(|it| it.address.ip()).collect();
    found.retain(is_own);
    found
}

fn names(stand: &Stand<'_>, pod: &Netns, lane: &Lane) -> Names {
    let name = |dev: &str, ip: &IpAddr| {
        let family = if ip.is_ipv4() { "" } else { "-v6" };
        (ip.to_string(), format!("{{{dev}{family}}}"))
    };
    let mut names: Vec<(String, String)> = stand.inside.iter().map(|ip| name("eth0", ip)).collect();
    for (nic, own) in &stand.nics {
        names.extend(own.iter().map(|ip| name(nic.name, ip)));
    }
    let inside = pod.scene().unwrap().observe().unwrap();
    let index = inside.link(stand.case.inside()).unwrap().lower.unwrap();
    let node = lane.scene.worker.scene().unwrap().observe().unwrap();
    let host_end = node.links.iter().find(|link| link.index == index).unwrap();
    names.push((host_end.name.clone(), "{host}".into()));
    Names::new(names)
}

fn golden(case: &Case, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/paths/golden").join(format!("{}.txt", case.name));
    for line in &case.must_have {
        assert!(text.lines().any(|it| it == *line), "no line {line:?} in:\n{text}");
    }
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, text).unwrap();
        return;
    }
    let expected =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}: run with UPDATE=1", path.display()));
    let differing: Vec<String> = diff_lines(&expected, text);
    assert!(differing.is_empty(), "not as {}:\n{}", path.display(), differing.join("\n"));
}

fn diff_lines(expected: &str, found: &str) -> Vec<String> {
    if expected == found {
        return Vec::new();
    }
    let lacking = |from: &str, other: &str, sign: char| -> Vec<String> {
        let others: Vec<&str> = other.lines().collect();
        from.lines().filter(|line| !others.contains(line)).map(|line| format!("{sign} {line}")).collect()
    };
    let mut lines = [lacking(expected, found, '-'), lacking(found, expected, '+')].concat();
    if lines.is_empty() {
        lines.push(format!("the order of:\n{found}"));
    }
    lines
}
