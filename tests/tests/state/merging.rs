//! `dragline restore --merge`: what of a dump still lives is added to what the store has.

use libtest_mimic::Trial;

use crate::bench::Bench;
use crate::node::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("merge::who_lives_comes_back_and_who_is_gone_does_not", merge)]
}

fn merge() {
    let mut bench = Bench::new("g1", 2);
    bench.node.agent.terminate().unwrap();
    let state_dir = bench.state_dir();
    let whole = bench.dump_of(&state_dir);
    let second = bench.members[1].it.container.clone();
    let first_alone = whole.without(&second);
    bench.restore(&state_dir, &first_alone, &["--recompute-checksum"]);
    assert_eq!(bench.dump_of(&state_dir).records(), first_alone.records());
    // It lives.
    let said = bench.restore(&state_dir, &whole, &["--merge"]);
    assert!(said.contains("1 sandboxes added"), "{said}");
    assert_eq!(bench.dump_of(&state_dir).records(), whole.records());
    bench.node.agent.restart().unwrap();
    bench.knows_its_pods_and_touches_nothing();
    assert_eq!(bench.node.warnings(), Vec::<String>::new());
    bench.node.agent.terminate().unwrap();
    // What the store has counts more, and a merge of what it has adds nothing.
    let before = bench.dump_of(&state_dir);
    let said = bench.restore(&state_dir, &whole, &["--merge"]);
    assert!(said.contains("0 sandboxes added"), "{said}");
    assert_eq!(bench.dump_of(&state_dir).content(), before.content());
    // Its address has become another's.
    let theirs = whole.text().replace(&format!("{second}\""), "c-other\"").replace(&format!("{second}/"), "c-other/");
    let theirs = crate::dump::Dump::new(theirs);
    bench.restore(&state_dir, &theirs, &["--recompute-checksum"]);
    let said = bench.restore(&state_dir, &whole, &["--merge"]);
    let taken = format!("its address {} is c-other/net1's in the store", bench.members[1].address());
    assert!(said.contains(&format!("sandbox {second} is left out")) && said.contains(&taken), "{said}");
    assert_eq!(bench.dump_of(&state_dir).records(), theirs.records());
    // It is gone.
    let gone = bench.members.remove(1);
    let path = gone.pod.netns.path().to_owned();
    gone.pod.delete(&bench.node.scene.worker).unwrap();
    bench.restore(&state_dir, &first_alone, &["--recompute-checksum"]);
    let said = bench.restore(&state_dir, &whole, &["--merge"]);
    assert!(said.contains(&format!("sandbox {second} is left out: its namespace {path} is gone")), "{said}");
    assert!(said.contains("0 sandboxes added"), "{said}");
    assert_eq!(bench.dump_of(&state_dir).records(), first_alone.records());
    bench.node.agent.restart().unwrap();
    bench.knows_its_pods_and_touches_nothing();
}
