//! Plans are decided without I/O: nothing that could do any may come in, however deep.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::process::Command;

/// Parsing, formatting and macros; all without a way to the outside.
const PURE: [&str; 16] = [
    "plan",
    "schemas",
    "ipnetwork",
    "serde",
    "serde_core",
    "serde_derive",
    "serde_json",
    "itoa",
    "memchr",
    "zmij",
    "thiserror",
    "thiserror-impl",
    "proc-macro2",
    "quote",
    "syn",
    "unicode-ident",
];

#[test]
fn no_io_crate_can_be_reached() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "-p", "plan", "-e", "normal", "--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let reached: BTreeSet<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(reached.contains("plan") && reached.contains("ipnetwork"), "not a dependency tree: {text}");
    let foreign: Vec<&&str> = reached.iter().filter(|name| !PURE.contains(name)).collect();
    assert!(foreign.is_empty(), "plan reaches {foreign:?}; see `cargo tree -p plan -e normal -i NAME`");
}

/// The standard library can do I/O as well.
#[test]
fn no_source_uses_the_outside() {
    let mut folders = vec![std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            for word in [
                "std::fs",
                "std::process",
                "std::env",
                "std::time",
                "std::thread",
                "TcpStream",
                "UdpSocket",
                "HashMap",
                "println!",
            ] {
                assert!(!text.contains(word), "{} uses {word}", path.display());
            }
        }
    }
    assert!(files > 10, "sources not found");
}
