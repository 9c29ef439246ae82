//! `dragline get journal`: what has happened to a pod, and when.

use libtest_mimic::Trial;
use plan::tables::PROTOCOL;
use serde_json::Value;

use crate::bench::Bench;
use crate::node::{eventually, holds, stderr, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("journal::a_pods_life", life)]
}

fn journal(bench: &Bench, arguments: &[&str]) -> Vec<Value> {
    let output = bench.dragline(&[&["get", "journal", "-o", "json"], arguments].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    list["items"].as_array().unwrap().clone()
}

fn events(entries: &[Value]) -> Vec<&str> {
    entries.iter().map(|entry| entry["event"].as_str().unwrap()).collect()
}

/// Whether these events are among those, in this order.
fn in_order(found: &[&str], wanted: &[&str]) -> bool {
    let mut found = found.iter();
    wanted.iter().all(|wanted| found.any(|event| event == wanted))
}

fn life() {
    let mut bench = Bench::new("h1", 2);
    let it = bench.members.remove(0);
    let (name, container) = (it.pod.name.clone(), it.it.container.clone());
    let applied = eventually("an ADD that is told", || {
        let found = journal(&bench, &[&name]);
        holds(in_order(&events(&found), &["Intended", "Applied"]), &found)?;
        Ok(found)
    });
    assert!(applied[0]["detail"].as_str().unwrap().contains(&it.address()), "{applied:?}");
    let repaired_before = bench.metric("repairs");
    let mut in_pod = it.pod.netns.scene().unwrap();
    let rules = in_pod.observe().unwrap().rules;
    let ours = rules.iter().filter(|rule| rule.protocol == PROTOCOL);
    let flushed = ours.map(|rule| in_pod.delete_rule(rule).unwrap()).count();
    assert!(flushed > 0, "{rules:?}");
    drop(in_pod);
    let repaired = eventually("a repair that is told", || {
        let found = journal(&bench, &[&name]);
        holds(in_order(&events(&found), &["Intended", "Applied", "Repaired"]), &found)?;
        Ok(found)
    });
    assert!(bench.metric("repairs") > repaired_before);
    let steps = repaired.iter().find(|entry| entry["event"] == "Repaired").unwrap()["detail"].as_str().unwrap();
    assert!(steps.contains("rule"), "{steps}");
    bench.leave(it);
    let whole = journal(&bench, &[&name]);
    assert!(in_order(&events(&whole), &["Intended", "Applied", "Repaired", "Withdrawn", "Ended"]), "{whole:?}");
    assert_eq!(events(&whole).last(), Some(&"Ended"));
    for (number, entry) in (1_u64..).zip(&whole) {
        assert_eq!(entry["metadata"]["name"], name.as_str(), "{entry}");
        assert_eq!(entry["metadata"]["namespace"], "default", "{entry}");
        assert_eq!((&entry["container"], &entry["number"]), (&Value::from(container.as_str()), &number.into()));
    }
    let times: Vec<&str> = whole.iter().map(|entry| entry["time"].as_str().unwrap()).collect();
    assert!(times.is_sorted() && times.iter().all(|time| time.ends_with('Z')), "{times:?}");
    // By container, by namespace, and among those of others.
    assert_eq!(journal(&bench, &[&container]), whole);
    assert_eq!(journal(&bench, &[&name, "-n", "default"]), whole);
    let all = journal(&bench, &[]);
    assert!(all.len() > whole.len() && whole.iter().all(|entry| all.contains(entry)));
    let nobody = bench.dragline(&["get", "journal", "nobody"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(stderr(&nobody).contains("\"nobody\" not found"));
    tables(&bench, &name, &whole);
    bench.node.agent.kill().unwrap();
    bench.node.agent.restart().unwrap();
    assert_eq!(journal(&bench, &[&name]), whole);
    bench.node.agent.terminate().unwrap();
    bench.node.agent.restart().unwrap();
    assert_eq!(journal(&bench, &[&name]), whole);
}

fn tables(bench: &Bench, name: &str, whole: &[Value]) {
    let text = |form: &str| {
        let output = bench.dragline(&["get", "journal", name, "-o", form]);
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let (table, wide) = (text("table"), text("wide"));
    let words = |line: &str| line.split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>();
    let narrow = ["NAME", "NAMESPACE", "TIME", "GENERATION", "EVENT", "INTERFACE"];
    assert_eq!(words(table.lines().next().unwrap()), narrow);
    assert_eq!(words(wide.lines().next().unwrap()), [&narrow[..], &["CONTAINER", "DETAIL"]].concat());
    for form in [&table, &wide] {
        assert_eq!(form.lines().count(), whole.len() + 1, "{form}");
        for (line, entry) in form.lines().skip(1).zip(whole) {
            let words = words(line);
            assert_eq!(words[..2], [name, "default"], "{line}");
            assert_eq!(words[2], entry["time"].as_str().unwrap());
            assert_eq!(words[4], entry["event"].as_str().unwrap());
        }
    }
    let repaired = wide.lines().find(|line| line.contains("Repaired")).unwrap();
    assert!(repaired.contains("rule"), "{repaired}");
}
