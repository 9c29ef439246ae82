//! `dragline check --store`: the records against each other.

use libtest_mimic::Trial;
use serde_json::Value;

use crate::bench::{Bench, assert_ends};
use crate::node::{holds, stderr, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("check::a_sound_store", sound),
        trial("check::an_address_of_two", contradiction),
        trial("check::a_damaged_store", damaged),
    ]
}

fn sound() {
    let mut bench = Bench::new("c1", 2);
    let state_dir = bench.state_dir();
    let offline = ["check", "--store", "--state-dir", state_dir.to_str().unwrap()];
    let is_sound = |bench: &Bench, arguments: &[&str]| {
        let text = bench.dragline(arguments);
        assert!(text.status.success(), "{}", stderr(&text));
        assert_eq!((text.stdout.len(), stderr(&text)), (0, String::new()));
        let json = bench.dragline(&[arguments, &["-o", "json"]].concat());
        assert!(json.status.success(), "{}", stderr(&json));
        assert_eq!(serde_json::from_slice::<Value>(&json.stdout).unwrap(), Value::Array(Vec::new()));
    };
    is_sound(&bench, &["check", "--store"]);
    bench.node.agent.terminate().unwrap();
    is_sound(&bench, &offline);
}

fn contradiction() {
    let mut bench = Bench::new("c2", 2);
    bench.node.agent.terminate().unwrap();
    let state_dir = bench.state_dir();
    let dump = bench.dump_of(&state_dir);
    let (own, other) = (bench.members[0].address(), bench.members[1].address());
    let thief = format!("{}/net1", bench.members[1].it.container);
    // The second one's attachment says that it has the first one's address, and its own is nobody's.
    let (attachments, allocations) = (dump.of_tree("attachments"), dump.of_tree("allocations"));
    let kept = dump.records().into_iter().filter(|line| !allocations.contains(line) || !line.contains(&other));
    let records = kept.map(|line| {
        let is_thief = attachments.contains(&line) && line.contains(&thief);
        if is_thief { line.replace(&other, &own) } else { line.to_owned() }
    });
    let contradicting = dump.with_records(records);
    let words = [own.as_str(), thief.as_str(), "has it as well"];
    let refused = bench.try_restore(&state_dir, contradicting.text(), &["--recompute-checksum"]);
    assert_ends(&refused, 1, &[&words[..], &["contradicts itself", "--force"]].concat());
    assert_eq!(bench.dump_of(&state_dir).content(), dump.content());
    let said = bench.restore(&state_dir, &contradicting, &["--recompute-checksum", "--force"]);
    assert!(said.contains("taken by force") && words.iter().all(|word| said.contains(word)), "{said}");
    let is_told = |bench: &Bench, arguments: &[&str]| {
        let text = bench.dragline(arguments);
        assert_eq!(text.status.code(), Some(1), "{}", stderr(&text));
        let told = String::from_utf8(text.stdout).unwrap();
        assert!(told.lines().count() == 1 && told.starts_with("store: "), "{told}");
        assert!(words.iter().all(|word| told.contains(word)), "{told}");
        let json = bench.dragline(&[arguments, &["-o", "json"]].concat());
        assert_eq!(json.status.code(), Some(1), "{}", stderr(&json));
        let differences: Value = serde_json::from_slice(&json.stdout).unwrap();
        let one = &differences[0];
        assert!(differences.as_array().unwrap().len() == 1 && one["place"] == "store", "{differences}");
        assert!(words.iter().all(|word| one["step"].as_str().unwrap().contains(word)), "{differences}");
    };
    is_told(&bench, &["check", "--store", "--state-dir", state_dir.to_str().unwrap()]);
    bench.node.agent.restart().unwrap();
    is_told(&bench, &["check", "--store"]);
    let warnings = bench.node.warnings().join("\n");
    assert!(warnings.contains("the store contradicts itself") && words.iter().all(|word| warnings.contains(word)));
    // Who has come to have it by mistake is detached: the other one keeps it.
    let thief = bench.members.remove(1);
    bench.leave(thief);
    assert_eq!(bench.holders(), bench.expected());
    let output = bench.dragline(&["check", "--store"]);
    holds(output.status.success(), &output).unwrap();
    assert_ne!(bench.attached(120).address(), own);
}

/// One that has to be mended is mended by looking at it, and that is said.
fn damaged() {
    let mut bench = Bench::new("c3", 2);
    bench.node.agent.terminate().unwrap();
    let state_dir = bench.state_dir();
    let dump = bench.dump_of(&state_dir);
    std::fs::remove_dir_all(crate::ruin::store(&state_dir)).unwrap();
    let offline = ["check", "--store", "--state-dir", state_dir.to_str().unwrap()];
    let output = bench.dragline(&offline);
    assert!(output.status.success() && stderr(&output).contains("the store was mended"), "{}", stderr(&output));
    let output = bench.dragline(&offline);
    assert!(output.status.success() && stderr(&output).is_empty(), "{}", stderr(&output));
    assert_eq!(bench.dump_of(&state_dir).content(), dump.content());
}
