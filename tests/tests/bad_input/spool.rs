//! Files in the spool that no plugin wrote.

use std::fs;
use std::os::unix::fs::symlink;

use libtest_mimic::Trial;

use crate::node::{eventually, holds, trial};
use crate::witness::Witness;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("spool::garbage_is_set_aside", set_aside), trial("spool::garbage_is_met_at_start", at_start)]
}

const GARBAGE: [(&str, &str); 6] = [
    ("empty", ""),
    ("text", "not json"),
    ("list", "[]"),
    ("keyless", r#"{"part":"link"}"#),
    ("bad-name", r#"{"key":{"container":"../x","ifname":"net1"},"part":"link"}"#),
    ("bad-part", r#"{"key":{"container":"x","ifname":"net1"},"part":"everything"}"#),
];

fn put_garbage(witness: &Witness) {
    let spool = witness.node.agent.settings().state_dir.join("spool");
    for (name, text) in GARBAGE {
        fs::write(spool.join(format!(".{name}")), text).unwrap();
        fs::rename(spool.join(format!(".{name}")), spool.join(format!("{name}.json"))).unwrap();
    }
    let large = format!(r#"{{"key":{{"container":"x","ifname":"net1"}},"part":"link"{}}}"#, " ".repeat(100_000));
    fs::write(spool.join(".large"), large).unwrap();
    fs::rename(spool.join(".large"), spool.join("large.json")).unwrap();
    fs::create_dir(spool.join("folder.json")).unwrap();
    symlink("/etc/passwd", spool.join("link.json")).unwrap();
}

/// All of it is out of the way, kept for a person, and told in the log.
fn is_set_aside(witness: &Witness) {
    let spool = witness.node.agent.settings().state_dir.join("spool");
    let aside = |name: &str| spool.join(format!("{name}.unreadable"));
    let names = GARBAGE.map(|(name, _)| name).into_iter().chain(["large", "folder", "link"]);
    for name in names {
        eventually(&format!("{name} set aside"), || {
            let is_moved = fs::symlink_metadata(aside(name)).is_ok() && !spool.join(format!("{name}.json")).exists();
            let is_told = witness.node.log().contains(&format!("{name}.json"));
            holds(is_moved && is_told, fs::read_dir(&spool).unwrap().collect::<Vec<_>>())
        });
    }
    for (name, text) in GARBAGE {
        assert_eq!(fs::read_to_string(aside(name)).unwrap(), text);
    }
}

/// A withdrawal that came after the garbage is taken.
fn goes_on(witness: &Witness) {
    let spool = witness.node.agent.settings().state_dir.join("spool");
    let text = format!(r#"{{"key":{{"container":"{}","ifname":"net1"}},"part":"link"}}"#, witness.it.container);
    fs::write(spool.join(".good"), text).unwrap();
    fs::rename(spool.join(".good"), spool.join("zz.json")).unwrap();
    witness.node.forgets_all();
    eventually("the file's end", || holds(!spool.join("zz.json").exists(), "it is there"));
}

fn set_aside() {
    let witness = Witness::new("l1");
    put_garbage(&witness);
    is_set_aside(&witness);
    witness.is_unharmed();
    goes_on(&witness);
    witness.agent_lives();
}

fn at_start() {
    let mut witness = Witness::new("l2");
    witness.node.agent.kill().unwrap();
    put_garbage(&witness);
    witness.node.agent.restart().unwrap();
    is_set_aside(&witness);
    assert_eq!(witness.node.agent.list("attachments").unwrap().len(), 1);
    witness.node.has_no_drift().unwrap();
    goes_on(&witness);
}
