//! Explanations and drawings of the golden plans, as people read them. `UPDATE=1 cargo test -p plan --test explain`
//! rewrites the expected texts in `tests/explain`. That lookups are the kernel's own is tested against a real one, in the
//! netlink crate.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by panicking")]

mod kernel;
#[allow(dead_code, reason = "each test binary uses its part")]
mod world;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use plan::explain::{Basis, Context, Explanation, Fate, Flow, FlowError, Question, explain, wanted};
use plan::object::Observed;
use plan::{NodeFacts, Picture, Plan, PlanInput, draw, plan};
use proptest::prelude::*;
use schemas::intent::{Attachment, CoordinatorSettings, Sandbox};
use serde::Deserialize;

#[derive(Deserialize)]
struct Input {
    sandbox: Sandbox,
    attachments: Vec<Attachment>,
    node: NodeFacts,
    cluster: Option<CoordinatorSettings>,
}

/// A golden plan as it is explained.
struct Pod {
    input: Input,
    plan: Plan,
    seen: Observed,
}

impl Pod {
    fn golden(name: &str) -> Self {
        let path = folder("golden").join(name).join("input.json");
        Self::of(serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
    }

    fn of(input: Input) -> Self {
        let plan = plan(planned(&input));
        let seen = wanted(&input.sandbox, &plan.pod);
        Self { input, plan, seen }
    }

    fn context(&self) -> Context<'_> {
        Context { input: planned(&self.input), plan: &self.plan, coordinator: "default" }
    }

    fn explain(&self, flow: &Flow) -> Result<Explanation, FlowError> {
        let (seen, context) = (&self.seen, self.context());
        explain(Question { pod: "default/nginx", seen, basis: Basis::Wanted, context, flow })
    }

    fn draw(&self, explanation: Option<&Explanation>) -> String {
        let (seen, context) = (&self.seen, self.context());
        draw(&Picture { pod: "default/nginx", seen, basis: Basis::Wanted, context, explanation })
    }
}

fn planned(input: &Input) -> PlanInput<'_> {
    PlanInput {
        sandbox: &input.sandbox,
        attachments: &input.attachments,
        node: &input.node,
        cluster: input.cluster.as_ref(),
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn flow(to: &str, from: Option<&str>, iif: Option<&str>) -> Flow {
    let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
    Flow { to: ip(to), from: from.map(ip), iif: iif.map(Into::into) }
}

/// What is asked of which golden plan.
fn cases() -> Vec<(&'static str, &'static str, Flow)> {
    vec![
        ("service", "quickstart", flow("10.233.0.3", None, None)),
        ("outside", "quickstart", flow("8.8.8.8", None, None)),
        ("outside-from-eth0", "quickstart", flow("8.8.8.8", Some("10.233.120.101"), None)),
        ("underlay-peer-arrives", "quickstart", flow("10.6.212.200", Some("10.6.7.7"), Some("net1"))),
        ("node-to-the-wrong-nic", "quickstart", flow("10.6.212.200", Some("10.6.212.131"), Some("net1"))),
        ("own-address", "quickstart", flow("10.6.212.200", None, None)),
        ("foreign-source", "quickstart", flow("8.8.8.8", Some("1.2.3.4"), None)),
        ("no-ipv6", "quickstart", flow("2001:db8::1", None, None)),
        ("default-at-eth0", "default-route-nic-eth0", flow("8.8.8.8", None, None)),
        ("second-nic", "two-nics", flow("10.7.3.3", None, None)),
        ("dual-stack-pod", "dual-stack", flow("fd85:ee78:d8a6:8607::1:f2d4", None, None)),
        ("absent-default-nic", "net2-named-but-absent", flow("8.8.8.8", None, None)),
    ]
}

#[test]
fn explanations_read_as_expected() {
    let is_update = std::env::var_os("UPDATE").is_some();
    let mut wrong = Vec::new();
    for (name, golden, flow) in cases() {
        let text = format!("{}\n", Pod::golden(golden).explain(&flow).unwrap().to_text());
        let path = folder("explain").join(format!("{name}.txt"));
        if is_update {
            std::fs::write(&path, &text).unwrap();
        } else if std::fs::read_to_string(&path).unwrap_or_default() != text {
            wrong.push(format!("{}:\n{text}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "UPDATE=1 rewrites\n{}", wrong.join("\n"));
}

#[test]
fn an_explanation_comes_back_from_json() {
    for (_, golden, flow) in cases() {
        let explanation = Pod::golden(golden).explain(&flow).unwrap();
        let json = serde_json::to_string(&explanation).unwrap();
        assert_eq!(serde_json::from_str::<Explanation>(&json).unwrap(), explanation);
    }
}

#[test]
fn every_rule_and_route_of_ours_has_a_reason() {
    let mut checked = 0;
    for entry in std::fs::read_dir(folder("golden")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let pod = Pod::golden(&name);
        let context = pod.context();
        let rules = pod.plan.pod.rules.iter().map(plan::explain::Thing::Rule);
        let routes = pod.plan.pod.routes.iter().map(|wanted| plan::explain::Thing::Route(&wanted.route));
        let neighbours = pod.plan.pod.neighbours.iter().map(plan::explain::Thing::Neighbour);
        for thing in rules.chain(routes).chain(neighbours) {
            let reason = context.reason(thing).unwrap_or_default();
            let is_told = !reason.is_empty() && !reason.contains("do not tell") && !reason.contains("another program");
            assert!(is_told, "{name}: {thing:?}: {reason:?}");
            checked += 1;
        }
    }
    assert!(checked > 200, "{checked}");
}

#[test]
fn impossible_packets_are_refused_with_what_to_do() {
    let pod = Pod::golden("quickstart");
    for (flow, wanted) in [
        (flow("0.0.0.0", None, None), "--to 0.0.0.0 is the unspecified address: name one host"),
        (flow("ff02::1", None, None), "--to ff02::1 is a multicast or broadcast address: name one host"),
        (
            flow("8.8.8.8", Some("fd00::1"), None),
            "--from fd00::1 and --to 8.8.8.8 are not of one family: a packet is IPv4 or IPv6",
        ),
        (
            flow("8.8.8.8", None, Some("net1")),
            "--iif net1 is for a packet that arrives, which has a source: name it with --from",
        ),
        (flow("8.8.8.8", Some("9.9.9.9"), Some("net7")), "--iif net7: the pod has no such NIC; it has lo, eth0, net1"),
    ] {
        assert_eq!(pod.explain(&flow).unwrap_err().to_string(), wanted);
    }
}

/// The quick start with ten NICs of 16 routes each.
fn ten_nics() -> Pod {
    let mut input = Pod::golden("quickstart-own-macvlan").input;
    let first = input.attachments[0].clone();
    for number in 1..10u8 {
        let mut more = first.clone();
        more.key.ifname = format!("net{}", number + 1).parse().unwrap();
        more.ordinal = u32::from(number);
        more.addresses[0].address = format!("10.{}.212.200/16", 20 + number).parse().unwrap();
        more.addresses[0].gateway = Some(format!("10.{}.0.1", 20 + number).parse().unwrap());
        more.routes = (0..16)
            .map(|n| schemas::intent::RouteIntent {
                dst: format!("10.{}.{n}.0/24", 100 + number).parse().unwrap(),
                gateway: more.addresses[0].gateway,
            })
            .collect();
        input.attachments.push(more);
    }
    Pod::of(input)
}

#[test]
fn drawings_are_xml_and_show_everything() {
    let mut drawn = Vec::new();
    for (name, golden, flow) in cases() {
        let pod = Pod::golden(golden);
        let explanation = pod.explain(&flow).unwrap();
        drawn.push((name.to_owned(), pod.draw(Some(&explanation)), pod));
    }
    let pod = ten_nics();
    let explanation = pod.explain(&flow("10.103.7.7", None, None)).unwrap();
    drawn.push(("ten-nics".into(), pod.draw(Some(&explanation)), pod));
    let pod = Pod::golden("dual-stack");
    drawn.push(("whole".into(), pod.draw(None), pod));
    let out = std::env::var_os("DRAWINGS").map(PathBuf::from);
    for (name, drawing, pod) in &drawn {
        if let Some(out) = &out {
            std::fs::write(out.join(format!("{name}.svg")), drawing).unwrap();
        }
        let document = roxmltree::Document::parse(drawing).unwrap_or_else(|error| panic!("{name}: {error}"));
        let texts: Vec<&str> = document.descendants().filter_map(|node| node.text()).collect();
        for link in pod.seen.links.iter().filter(|link| link.name != "lo") {
            assert!(texts.contains(&link.name.as_str()), "{name}: {}", link.name);
        }
        // Nothing leaves the page.
        let height: f64 = document.root_element().attribute("height").unwrap().parse().unwrap();
        for text in document.descendants().filter(|node| node.has_tag_name("text")) {
            let y: f64 = text.attribute("y").unwrap().parse().unwrap();
            assert!(y < height, "{name}: {text:?}");
        }
    }
    let (_, service, _) = &drawn[0];
    assert!(service.contains(r#"class="path""#) && service.contains(r#"class="code chosen""#));
}

#[test]
fn whatever_a_name_holds_the_drawing_is_xml() {
    let pod = Pod::golden("quickstart");
    let (seen, context) = (&pod.seen, pod.context());
    for name in ["<&>\"'", "\u{1}\u{ffff}\n", "]]>", "é…"] {
        let mut odd = seen.clone();
        odd.links[1].name = name.to_owned();
        odd.rules[1].other = Some(name.to_owned());
        let picture = Picture { pod: name, seen: &odd, basis: Basis::Kernel, context, explanation: None };
        roxmltree::Document::parse(&draw(&picture)).unwrap_or_else(|error| panic!("{name:?}: {error}"));
    }
}

proptest! {
    #[test]
    fn random_pods_are_explained_and_drawn_the_same_twice(
        world in world::world(true),
        foreign: u8,
        to in prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)],
        near in 0usize..40,
        iif in prop_oneof![Just(None), Just(Some("net1".to_owned())), Just(Some("eth0".to_owned()))],
        other in prop_oneof![Just(None), ".*".prop_map(Some)],
    ) {
        let mut kernel = world.start();
        world::Foreign::pick(foreign).put(&mut kernel);
        let plan = world.plan();
        for step in plan::diff(&plan.pod, &kernel.observe(), plan::Prune::No).steps {
            let _ = kernel.apply(&step);
        }
        let mut seen = kernel.observe();
        if let (Some(other), Some(rule)) = (other, seen.rules.last_mut()) {
            rule.other = Some(other);
        }
        let known: Vec<IpAddr> = seen.routes.iter().map(|route| route.dst.ip()).filter(|ip| !ip.is_unspecified()).collect();
        let to = known.get(near).copied().unwrap_or(to);
        let from = seen.addresses.iter().map(|it| it.address.ip()).find(|ip| ip.is_ipv4() == to.is_ipv4());
        // Of another pod: reasons must stand that too.
        let golden = Pod::golden("two-nics");
        let context = Context { plan: &plan, ..golden.context() };
        let flow = Flow { to, from: from.filter(|_| iif.is_some() || near % 2 == 0), iif };
        let question = Question { pod: "p", seen: &seen, basis: Basis::Kernel, context, flow: &flow };
        let explained = explain(question);
        prop_assert_eq!(&explained, &explain(question));
        if let Ok(explanation) = explained {
            let _ = explanation.to_text();
            prop_assert!(explanation.request.fate == Fate::Refused || explanation.request.route.is_some());
            let picture = Picture { pod: "p", seen: &seen, basis: Basis::Kernel, context, explanation: Some(&explanation) };
            prop_assert_eq!(draw(&picture), draw(&picture));
        }
    }
}
