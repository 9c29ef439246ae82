//! Dumps: the same from the agent and from its files, the same again after a restore, and nobody waits for one.

use std::fs;
use std::io::Read;

use libtest_mimic::Trial;
use serde_json::json;

use crate::bench::{Bench, dumped};
use crate::dump::Dump;
use crate::node::{address, eventually, holds, stderr, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("dump::of_the_agent_and_of_its_files_are_one", alike),
        trial("dump::the_named_store_is_dumped", named),
        trial("dump::nobody_waits_for_a_slow_reader", slow_reader),
        trial("dump::a_reader_that_goes_away", gone_reader),
    ]
}

fn alike() {
    let mut bench = Bench::new("u1", 2);
    // What a pass has found out is written down after its ADD was answered.
    bench.node.has_no_drift().unwrap();
    let mut running = bench.dump();
    eventually("a dump that stays", || {
        let before = std::mem::replace(&mut running, bench.dump());
        holds(before.content() == running.content(), &running)
    });
    assert_eq!(running.header()["node"], "worker01");
    assert_eq!(running.header()["counts"]["attachments"], 2);
    assert_eq!(running.of_tree("sandboxes").len(), 2);
    let old = bench.state_dir();
    let new = bench.beside("restored");
    bench.move_to(&new);
    let offline = bench.dump_of(&old);
    assert_eq!(offline.content(), running.content());
    // The dump of a dump is that dump, to the last byte.
    let said = bench.restore(&new, &running, &[]);
    assert!(said.contains("node worker01") && said.contains("2 sandboxes, 2 attachments, 2 allocations"), "{said}");
    assert_eq!(bench.dump_of(&new).text(), running.text());
    assert_eq!(bench.dump_of(&new).text(), running.text());
    fs::remove_dir_all(&old).unwrap();
    bench.node.agent.restart().unwrap();
    bench.knows_its_pods_and_touches_nothing();
    assert_eq!(bench.node.warnings(), Vec::<String>::new());
    // The runtime asks again.
    for member in &bench.members {
        let again = bench.node.runtime().add(&bench.conflist, &member.it).unwrap();
        assert_eq!(again, member.result);
    }
    assert_eq!(bench.metric("netlink_changes"), 0);
    let first = bench.members.remove(0);
    let freed = first.address();
    bench.leave(first);
    assert_eq!(bench.holders(), bench.expected());
    let next = bench.attached(130);
    assert_eq!(next.address(), freed);
}

/// What is named on the command line counts more than where the environment says the agent is.
fn named() {
    let bench = Bench::new("u2", 1);
    let other = bench.beside("other");
    let dump = bench.dump();
    bench.restore(&other, &dump.without(&bench.members[0].it.container), &["--recompute-checksum"]);
    assert_eq!(bench.dump_of(&other).of_tree("sandboxes"), Vec::<&str>::new());
    assert_eq!(bench.dump().of_tree("sandboxes").len(), 1);
    let state_dir = bench.state_dir();
    let socket = bench.node.agent.settings().socket.clone();
    // Where both are named, the agent is asked if there is one.
    let both = ["dump", "--state-dir", state_dir.to_str().unwrap(), "--socket", socket.to_str().unwrap()];
    assert_eq!(dumped(bench.dragline(&both)).of_tree("sandboxes").len(), 1);
    let mut bench = bench;
    bench.node.agent.terminate().unwrap();
    assert_eq!(dumped(bench.dragline(&both)).of_tree("sandboxes").len(), 1);
    // By the environment alone: the agent that it names is away.
    let output = bench.command(&["dump"]).env("DRAGLINE_STATE_DIR", &other).output().unwrap();
    assert_eq!(dumped(output).of_tree("sandboxes"), Vec::<&str>::new());
}

/// A dump of some megabytes: what is told of sandboxes that have ended long ago.
fn with_much_history(dump: &Dump) -> Dump {
    let mut records: Vec<String> = dump.records().into_iter().map(ToOwned::to_owned).collect();
    let (journal, steps) = (records.len() - dump.of_tree("journal").len(), "x".repeat(700));
    let sample: serde_json::Value = serde_json::from_str(dump.of_tree("journal")[0]).unwrap();
    let mut history = Vec::new();
    for sandbox in 0..200 {
        for number in 1..=32_u64 {
            let container = format!("a-{sandbox:04}");
            let mut record = sample["record"].clone();
            record["container"] = json!(container);
            record["number"] = json!(number);
            record["event"] = json!({"failed": {"error": steps}});
            let key = format!("{container}/{number}");
            history.push(format!(r#"{{"tree":"journal","key":{},"record":{record}}}"#, json!(key)));
        }
    }
    records.splice(journal..journal, history);
    dump.with_records(records)
}

fn slow_reader() {
    let mut bench = Bench::new("u3", 1);
    bench.node.agent.terminate().unwrap();
    let state_dir = bench.state_dir();
    let large = with_much_history(&bench.dump_of(&state_dir));
    bench.restore(&state_dir, &large, &["--recompute-checksum"]);
    bench.node.agent.restart().unwrap();
    let mut reader = bench.command(&["dump"]).spawn().unwrap();
    let mut pipe = reader.stdout.take().unwrap();
    let mut text = vec![0; 1024];
    pipe.read_exact(&mut text).unwrap();
    // The reader does not go on before it has been told that others were served.
    for number in [120, 121] {
        let member = bench.attached(number);
        assert!(bench.holders().contains_key(&member.it.container));
        bench.leave(member);
    }
    let stays = bench.attached(122);
    assert!(reader.try_wait().unwrap().is_none(), "the dump is so small that nobody can be slow with it");
    let before = bench.dump();
    assert!(before.of_tree("sandboxes").len() == 2, "another dump waits for the slow one");
    pipe.read_to_end(&mut text).unwrap();
    let ended = reader.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", stderr(&ended));
    assert!(text.len() > 4 << 20, "{}", text.len());
    // It is the store of one instant, before any of it, and whole.
    let dump = Dump::new(String::from_utf8(text).unwrap());
    assert_eq!(dump.of_tree("sandboxes").len(), 1);
    assert!(!dump.text().contains(&stays.it.container));
    let other = bench.beside("other");
    bench.restore(&other, &dump, &[]);
    assert_eq!(bench.dump_of(&other).text(), dump.text());
    assert!(address(&stays.result).starts_with("10.6.212."));
}

fn gone_reader() {
    let mut bench = Bench::new("u4", 1);
    bench.node.agent.terminate().unwrap();
    let state_dir = bench.state_dir();
    let large = with_much_history(&bench.dump_of(&state_dir));
    bench.restore(&state_dir, &large, &["--recompute-checksum"]);
    let part = |bench: &Bench, arguments: &[&str]| {
        let mut reader = bench.command(arguments).spawn().unwrap();
        let mut pipe = reader.stdout.take().unwrap();
        pipe.read_exact(&mut [0; 1024]).unwrap();
        drop(pipe);
        let ended = reader.wait_with_output().unwrap();
        assert_eq!((ended.status.code(), stderr(&ended)), (Some(1), String::new()));
    };
    part(&bench, &["dump", "--state-dir", state_dir.to_str().unwrap()]);
    bench.node.agent.restart().unwrap();
    part(&bench, &["dump"]);
    bench.knows_its_pods_and_touches_nothing();
    assert!(!bench.node.log().contains("panicked"));
}
