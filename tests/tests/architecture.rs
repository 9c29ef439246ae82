//! The workspace is built as its README says: who uses whom, who may talk to the kernel, where `unsafe` stands.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The ordinary dependencies of every crate of the workspace.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(tests::binaries::cargo())
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(WORKSPACE)
        .output()
        .expect("cargo runs, as it runs this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let ordinary = |package: &Value| {
        let all = list(&package["dependencies"]);
        all.iter()
            .filter(|dependency| dependency["kind"].is_null())
            .map(|dependency| text(&dependency["name"]))
            .collect()
    };
    list(&metadata["packages"]).iter().map(|package| (text(&package["name"]), ordinary(package))).collect()
}

#[test]
fn crates_use_only_whom_they_may() {
    let dependencies = dependencies();
    let ours: BTreeSet<&String> = dependencies.keys().collect();
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("schemas", &[] as &[&str]),
        ("store", &["schemas"]),
        ("plan", &["schemas"]),
        ("netlink", &["plan", "schemas"]),
        ("cni", &["schemas"]),
        ("dragline", &["netlink", "plan", "schemas", "store"]),
    ]);
    for (name, allowed) in &allowed {
        let used: BTreeSet<&str> =
            dependencies[*name].iter().filter(|used| ours.contains(used)).map(String::as_str).collect();
        let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
        assert!(used.is_subset(&allowed), "{name} uses {used:?}, and may use {allowed:?}");
    }
    assert_eq!(ours.len(), allowed.len() + 1, "a crate is missing here: {ours:?}");
}

#[test]
fn only_netlink_talks_to_the_kernel() {
    let talks = |name: &String| name.contains("netlink") && name != "netlink";
    for (name, used) in dependencies().iter().filter(|(name, _)| !matches!(name.as_str(), "netlink" | "tests")) {
        let talking: Vec<&String> = used.iter().filter(|used| talks(used)).collect();
        assert!(talking.is_empty(), "{name} uses {talking:?}");
    }
}

#[test]
fn the_plugin_carries_no_runtime() {
    let dependencies = dependencies();
    let used = &dependencies["cni"];
    let expected: BTreeSet<String> =
        ["schemas", "serde", "serde_json", "serde_path_to_error", "socket2", "thiserror"].map(ToOwned::to_owned).into();
    assert!(used.is_subset(&expected), "{used:?}");
}

#[test]
fn unsafe_code_stands_in_the_namespace_module_alone() {
    let mut sources = Vec::new();
    for folder in ["schemas", "store", "reconciler", "cni", "tests"] {
        find(&Path::new(WORKSPACE).join(folder), &mut sources);
    }
    assert!(sources.len() > 100, "{} sources are too few to be all", sources.len());
    // The words are put together here so that this file is not found by itself.
    let marks = [["allow(", "unsafe_code)"].concat(), ["unsafe", " {"].concat(), ["unsafe", " impl"].concat()];
    let found: Vec<&PathBuf> = sources
        .iter()
        .filter(|path| {
            let text = std::fs::read_to_string(path).expect("a source is readable");
            marks.iter().any(|mark| text.contains(mark))
        })
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].ends_with("reconciler/netlink/src/namespace.rs"), "{found:?}");
}

fn find(folder: &Path, sources: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the workspace is readable") {
        let path = entry.expect("its entries too").path();
        if path.is_dir() {
            if !path.ends_with("target") {
                find(&path, sources);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(path);
        }
    }
}
