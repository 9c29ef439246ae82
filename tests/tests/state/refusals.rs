//! What is refused: exit code 1, one line that says what and what to do, and the store is as it was.

use libtest_mimic::Trial;
use tests::scene::WORKER;

use crate::bench::{Bench, assert_ends};
use crate::dump::Dump;
use crate::node::{stderr, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("refused::dumps_that_are_not_whole", not_whole),
        trial("refused::another_nodes_dump", another_nodes),
        trial("refused::a_store_in_use", in_use),
        trial("refused::what_cannot_be_meant", usage),
    ]
}

/// A bench whose agent is stopped, and its store's dump.
fn stopped(name: &str) -> (Bench, Dump) {
    let mut bench = Bench::new(name, 2);
    bench.node.agent.terminate().unwrap();
    let dump = bench.dump_of(&bench.state_dir());
    (bench, dump)
}

fn edited(dump: &Dump) -> Dump {
    let edited = dump.text().replace("10.6.212.201", "10.6.212.231");
    assert_ne!(edited, dump.text());
    Dump::new(edited)
}

fn not_whole() {
    let (mut bench, dump) = stopped("r1");
    let (state_dir, text) = (bench.state_dir(), dump.text());
    let lines: Vec<&str> = text.lines().collect();
    let without_end = format!("{}\n", lines[..lines.len() - 1].join("\n"));
    let swapped = {
        let mut lines = lines.clone();
        lines.swap(1, 2);
        format!("{}\n", lines.join("\n"))
    };
    let again = "dump again, or take another dump";
    let cases: [(&str, String, &[&str], &[&str]); 12] = [
        ("nothing", String::new(), &[], &["cut off after line 0", again]),
        ("half", text[..text.len() / 2].to_owned(), &[], &["cut off after line", again]),
        ("half, taken as edited", text[..text.len() / 2].to_owned(), &["--recompute-checksum"], &["cut off", again]),
        ("half, by force", text[..text.len() / 2].to_owned(), &["--force"], &["cut off", again]),
        ("without its last line", without_end, &[], &["cut off after line", again]),
        ("without its last newline", text.trim_end().to_owned(), &[], &["cut off after line", again]),
        ("edited", edited(&dump).text().to_owned(), &[], &["not as it was written", "--recompute-checksum"]),
        ("edited, by force", edited(&dump).text().to_owned(), &["--force"], &["--recompute-checksum"]),
        ("swapped lines", swapped, &["--recompute-checksum"], &["line 3", "order"]),
        ("twice", format!("{text}{text}"), &[], &["line", "follows the dump's end"]),
        ("garbage", "\u{1}\u{2}garbage\nand more\n".into(), &[], &["line 1", "no dump of dragline", again]),
        ("another text", "{\"kind\":\"List\",\"items\":[]}\n".into(), &["--force"], &["line 1", "no dump", again]),
    ];
    for (what, text, flags, words) in cases {
        let output = bench.try_restore(&state_dir, &text, flags);
        assert_ends(&output, 1, words);
        assert_eq!(bench.dump_of(&state_dir).content(), dump.content(), "{what}");
        let merged = bench.try_restore(&state_dir, &text, &[flags, &["--merge"]].concat());
        assert_ends(&merged, 1, words);
        assert_eq!(bench.dump_of(&state_dir).content(), dump.content(), "{what}, merged");
    }
    let output = bench.dragline_with(
        &["restore", "--state-dir", state_dir.to_str().unwrap(), "--node-name", WORKER],
        b"\xff\xfe\xfd\n",
    );
    assert_ends(&output, 1, &["line 1", "UTF-8"]);
    // Nothing is left of all these attempts, and the agent has its pods.
    bench.node.agent.restart().unwrap();
    bench.knows_its_pods_and_touches_nothing();
    assert_eq!(bench.node.warnings(), Vec::<String>::new());
    bench.node.agent.terminate().unwrap();
    // Edited on purpose.
    bench.restore(&state_dir, &edited(&dump), &["--recompute-checksum"]);
    assert_eq!(bench.dump_of(&state_dir).records(), edited(&dump).records());
}

fn another_nodes() {
    let (mut bench, dump) = stopped("r2");
    let state_dir = bench.state_dir();
    let other = bench.beside("other");
    let as_other = ["--node-name", "worker02"];
    let output = bench.try_restore(&other, dump.text(), &as_other);
    assert_ends(&output, 1, &["of node \"worker01\"", "this is node \"worker02\"", "--force"]);
    assert!(!other.join("store").exists(), "a store was made");
    bench.restore(&other, &dump, &[&as_other[..], &["--force"]].concat());
    let theirs = bench.dump_of(&other);
    assert_eq!((&theirs.header()["node"], theirs.records()), (&"worker02".into(), dump.records()));
    // And back: it is refused, and the store is as it was; by force it becomes this node's, whose agent takes it.
    let output = bench.try_restore(&state_dir, theirs.text(), &[]);
    assert_ends(&output, 1, &["of node \"worker02\"", "this is node \"worker01\"", "--force"]);
    assert_eq!(bench.dump_of(&state_dir).content(), dump.content());
    bench.restore(&state_dir, &theirs, &["--force"]);
    bench.node.agent.restart().unwrap();
    bench.knows_its_pods_and_touches_nothing();
}

fn in_use() {
    let bench = Bench::new("r3", 2);
    let state_dir = bench.state_dir();
    let holder = bench.node.agent.pid().unwrap().to_string();
    let words = ["is in use by process", holder.as_str(), "stop that"];
    let dump = bench.dump();
    for flags in [&[][..], &["--force"], &["--merge"], &["--recompute-checksum"]] {
        assert_ends(&bench.try_restore(&state_dir, dump.text(), flags), 1, &words);
    }
    let name = state_dir.to_str().unwrap();
    assert_ends(&bench.dragline(&["dump", "--state-dir", name]), 1, &words);
    assert_ends(&bench.dragline(&["check", "--store", "--state-dir", name]), 1, &words);
    assert_eq!(bench.dump().content(), dump.content());
    assert_eq!(bench.holders(), bench.expected());
    bench.leave(bench.attached(120));
}

fn usage() {
    let (bench, dump) = stopped("r4");
    let state_dir = bench.state_dir();
    let name = state_dir.to_str().unwrap();
    for (arguments, word) in [
        (&["restore", "--everything"][..], "--everything"),
        (&["restore", "--state-dir"], "--state-dir"),
        (&["dump", "somewhere"], "somewhere"),
        (&["check", "--state-dir", name], "--store"),
        (&["check", "--store", "pod"], "--store"),
    ] {
        let output = bench.dragline(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(word), "{arguments:?}: {}", stderr(&output));
    }
    assert_eq!(bench.dump_of(&state_dir).content(), dump.content());
    // Where there is no store, none is made by looking.
    let nowhere = bench.beside("nowhere");
    let name = nowhere.to_str().unwrap();
    assert_ends(&bench.dragline(&["dump", "--state-dir", name]), 1, &["nowhere"]);
    assert_ends(&bench.dragline(&["check", "--store", "--state-dir", name]), 1, &["nowhere"]);
    assert!(!nowhere.exists());
    for command in [&["dump"][..], &["check", "--store"]] {
        let named = [command, &["--socket", name]].concat();
        assert_ends(&bench.dragline(&named), 1, &["no agent answers at", name]);
    }
}
