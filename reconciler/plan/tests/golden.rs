//! A directory per case: `input.json` is what a plan depends on and what the kernel holds; `expected.txt` is what the
//! kernel holds afterwards, as iproute2 prints it, and the steps that lead there. `UPDATE=1 cargo test -p plan` rewrites.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by panicking")]

mod kernel;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use kernel::Kernel;
use plan::tables::MAIN;
use plan::{NodeFacts, Observed, Plan, PlanInput, Prune, Route, Rule, diff, plan};
use schemas::intent::{Attachment, CoordinatorSettings, Sandbox};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    sandbox: Sandbox,
    attachments: Vec<Attachment>,
    node: NodeFacts,
    cluster: Option<CoordinatorSettings>,
    observed: Observed,
}

impl Input {
    fn read(folder: &Path) -> Self {
        let path = folder.join("input.json");
        let text = std::fs::read_to_string(&path).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn plan(&self) -> Plan {
        plan(PlanInput {
            sandbox: &self.sandbox,
            attachments: &self.attachments,
            node: &self.node,
            cluster: self.cluster.as_ref(),
        })
    }
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// A section for each family, as `ip` and `ip -6` have it.
fn by_family(text: &mut String, of: &str, title: &str, lines: impl Fn(bool) -> Vec<String>) {
    for v6 in [false, true] {
        section(text, &format!("{of}ip {}{title}", if v6 { "-6 " } else { "" }), lines(v6));
    }
}

fn section(text: &mut String, title: &str, lines: impl IntoIterator<Item = String>) {
    let lines: Vec<String> = lines.into_iter().collect();
    if !lines.is_empty() {
        writeln!(text, "# {title}\n{}\n", lines.join("\n")).unwrap();
    }
}

/// `ip route` in the kernel's order: by destination, of one destination the longest prefix first.
fn routes<'a>(all: impl Iterator<Item = &'a Route>, table: u32, v6: bool) -> Vec<String> {
    let mut routes: Vec<&Route> = all.filter(|route| route.table == table && route.dst.is_ipv6() == v6).collect();
    routes.sort_by_key(|route| (route.dst.ip(), std::cmp::Reverse(route.dst.prefix()), route.metric));
    routes.into_iter().map(|route| route.to_string().trim_end().to_owned()).collect()
}

fn rules(all: &[Rule], v6: bool) -> Vec<String> {
    let mut rules: Vec<&Rule> = all.iter().filter(|rule| rule.v6 == v6).collect();
    rules.sort_by_key(|rule| rule.priority);
    rules.into_iter().map(ToString::to_string).collect()
}

fn tables<'a>(all: impl Iterator<Item = &'a Route>) -> BTreeSet<u32> {
    all.map(|route| route.table).filter(|table| *table != MAIN).collect()
}

fn render(input: &Input) -> String {
    let plan = input.plan();
    let changes = diff(&plan.pod, &input.observed, Prune::Yes);
    let mut pod = Kernel::of(&input.observed);
    for step in &changes.steps {
        pod.apply(step).unwrap_or_else(|error| panic!("{step}: {error}"));
    }
    let again = diff(&plan.pod, &pod.observe(), Prune::Yes);
    assert_eq!(again.steps, [], "a second diff");
    let mut text = String::new();
    by_family(&mut text, "", "rule", |v6| rules(&pod.rules, v6));
    by_family(&mut text, "", "route", |v6| routes(pod.routes.iter(), MAIN, v6));
    for table in tables(pod.routes.iter()) {
        by_family(&mut text, "", &format!("route show table {table}"), |v6| routes(pod.routes.iter(), table, v6));
    }
    section(
        &mut text,
        "ip neigh show nud permanent",
        pod.neighbours.iter().map(|it| format!("{} dev {} lladdr {} PERMANENT", it.address, it.dev, it.mac.unwrap())),
    );
    by_family(&mut text, "node: ", "rule", |v6| rules(&plan.node.rules, v6));
    let on_node = || plan.node.routes.iter().map(|wanted| &wanted.route);
    for table in tables(on_node()) {
        by_family(&mut text, "node: ", &format!("route show table {table}"), |v6| routes(on_node(), table, v6));
    }
    section(
        &mut text,
        "node: ip neigh show nud permanent",
        (plan.node.neighbours.iter())
            .map(|it| format!("{} dev {} lladdr {} PERMANENT", it.address, it.dev, it.mac.unwrap())),
    );
    section(&mut text, "notes", plan.notes);
    section(&mut text, "steps", changes.steps.iter().map(ToString::to_string));
    section(&mut text, "blocked", changes.blocked);
    section(&mut text, "node: steps", plan.node.commands());
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

#[test]
fn every_case_is_as_expected() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut cases: Vec<PathBuf> = std::fs::read_dir(golden()).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 12, "cases are missing from {}", golden().display());
    for folder in cases {
        let got = render(&Input::read(&folder));
        let path = folder.join("expected.txt");
        if update {
            std::fs::write(&path, &got).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(got, expected, "{}; UPDATE=1 rewrites", path.display());
    }
}

/// Word for word what the quick start promises; not rewritten by UPDATE.
#[test]
fn the_quick_start_is_as_promised() {
    let promised = "\
# ip rule
0:      from all lookup local
32760:  from 10.233.120.101 lookup 100
32761:  from all to 169.254.0.0/16 lookup 100
32762:  from all to 10.233.65.96 lookup 100
32763:  from all to 10.233.64.0/18 lookup 100
32764:  from all to 10.233.0.0/18 lookup 100
32765:  from all to 10.6.212.131 lookup 100
32766:  from all lookup main
32767:  from all lookup default

# ip route
default via 10.6.0.1 dev net1
10.6.0.0/16 dev net1 scope link src 10.6.212.200

# ip route show table 100
default via 10.233.65.96 dev eth0
10.6.212.131 dev eth0 scope link
10.233.0.0/18 via 10.6.212.131 dev eth0
10.233.64.0/18 via 10.6.212.131 dev eth0
10.233.65.96 dev eth0 scope link
169.254.0.0/16 via 10.6.212.131 dev eth0

";
    for case in ["quickstart", "quickstart-own-macvlan"] {
        let got = render(&Input::read(&golden().join(case)));
        let until = got.find("# ip neigh").unwrap();
        assert_eq!(&got[..until], promised, "{case}");
        assert!(got.contains("\n1000:   from all lookup 500\n"), "{case}: {got}");
        assert!(got.contains("\n10.6.212.200 dev lxc4f8d0b7a1c2e scope link\n"), "{case}: {got}");
    }
}

#[test]
fn the_quick_start_with_eth0_as_default_is_as_promised() {
    let promised = "\
# ip rule
0:      from all lookup local
32763:  from 10.233.120.101 lookup 100
32764:  from 10.6.212.200 lookup 101
32765:  from all to 10.6.0.0/16 lookup 101
32766:  from all lookup main
32767:  from all lookup default

# ip route
default via 10.233.65.96 dev eth0
10.6.212.131 dev eth0 scope link
10.233.0.0/18 via 10.6.212.131 dev eth0
10.233.64.0/18 via 10.6.212.131 dev eth0
10.233.65.96 dev eth0 scope link
169.254.0.0/16 via 10.6.212.131 dev eth0

# ip route show table 100
default via 10.233.65.96 dev eth0
10.6.212.131 dev eth0 scope link
10.233.0.0/18 via 10.6.212.131 dev eth0
10.233.64.0/18 via 10.6.212.131 dev eth0
10.233.65.96 dev eth0 scope link
169.254.0.0/16 via 10.6.212.131 dev eth0

# ip route show table 101
default via 10.6.0.1 dev net1
10.6.0.0/16 dev net1 scope link src 10.6.212.200
10.6.212.131 dev eth0 scope link
";
    for case in ["default-route-nic-eth0", "default-route-nic-eth0-own-macvlan"] {
        let got = render(&Input::read(&golden().join(case)));
        assert!(got.starts_with(promised), "{case}: {got}");
    }
}
