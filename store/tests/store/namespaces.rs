//! This test binary, run again by unshare(1): as a user without any right over others' files, or with mounts of its
//! own.

use std::process::Command;

/// Runs one ignored test in new namespaces, requires that it passes, and prints the lines that it marks with `told:`.
pub(crate) fn run(namespaces: &[&str], test: &str, prepare: impl FnOnce(&mut Command) -> &mut Command) {
    let mut child = Command::new("unshare");
    child.args(namespaces).arg("--").arg(std::env::current_exe().unwrap());
    child.args([test, "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    let child = prepare(&mut child).output().expect("unshare (util-linux) is there");
    let told = String::from_utf8_lossy(&child.stderr);
    told.lines().filter_map(|line| line.strip_prefix("told: ")).for_each(|line| eprintln!("{line}"));
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && output.contains("1 passed"), "{}: {output}\n{told}", child.status);
}
