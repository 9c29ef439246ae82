//! `dragline-cni install` and what else a person calls.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::scene::{PROGRAM, Ran};

fn call(program: &str, arguments: &[&str]) -> (Option<i32>, Ran) {
    let output = Command::new(program).env_clear().args(arguments).output().unwrap();
    (output.status.code(), output.into())
}

fn install(folder: &Path, more: &[&str]) -> (Option<i32>, Ran) {
    call(PROGRAM, &[&["install", folder.to_str().unwrap()], more].concat())
}

#[test]
fn it_installs_itself_under_the_plugins_names() {
    let folder = tempfile::tempdir().unwrap();
    let bin = folder.path().join("opt/bin");
    let (code, ran) = install(&bin, &[]);
    assert_eq!(code, Some(0), "{}", ran.stderr);
    assert_eq!(ran.stdout.lines().filter(|line| line.ends_with(": installed")).count(), 5, "{}", ran.stdout);
    for name in ["spiderpool", "coordinator", "macvlan", "ipvlan", "ifacer"] {
        let file = bin.join(name);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o755);
        let version = Command::new(&file).env_clear().env("CNI_COMMAND", "VERSION").output().unwrap();
        assert!(version.status.success());
    }
    assert_eq!(fs::read_dir(&bin).unwrap().count(), 5, "nothing temporary is left");
}

#[test]
fn it_upgrades_another_version_of_itself() {
    let folder = tempfile::tempdir().unwrap();
    let mut other = fs::read(PROGRAM).unwrap();
    other.extend(b"another build");
    fs::write(folder.path().join("macvlan"), other).unwrap();
    let (code, ran) = install(folder.path(), &[]);
    assert_eq!(code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("macvlan: upgraded"), "{}", ran.stdout);
    assert_eq!(fs::read(folder.path().join("macvlan")).unwrap(), fs::read(PROGRAM).unwrap());
}

#[test]
fn it_leaves_another_programs_file_unless_forced() {
    let folder = tempfile::tempdir().unwrap();
    let reference = folder.path().join("macvlan");
    let theirs = "the reference plugin ".repeat(1000);
    fs::write(&reference, &theirs).unwrap();
    std::os::unix::fs::symlink("nowhere", folder.path().join("coordinator")).unwrap();
    let (code, ran) = install(folder.path(), &[]);
    assert_eq!(code, Some(1));
    assert!(ran.stderr.contains("macvlan is another program's") && ran.stderr.contains("--force"), "{}", ran.stderr);
    assert!(ran.stderr.contains("coordinator is another program's"), "{}", ran.stderr);
    assert!(ran.stdout.contains("spiderpool: installed"), "{}", ran.stdout);
    assert_eq!(fs::read_to_string(&reference).unwrap(), theirs);
    let (code, ran) = install(folder.path(), &["--force"]);
    assert_eq!(code, Some(0));
    assert!(ran.stdout.contains("macvlan: installed over another program's file"), "{}", ran.stdout);
    assert_eq!(fs::read(&reference).unwrap(), fs::read(PROGRAM).unwrap());
}

#[test]
fn a_folder_that_cannot_be_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let (code, ran) = install(&file, &[]);
    assert!(code == Some(1) && ran.stderr.contains("cannot make"), "{}", ran.stderr);
}

#[test]
fn a_person_is_told_how_to_call_it() {
    let (code, ran) = call(PROGRAM, &["--version"]);
    assert_eq!((code, ran.stdout), (Some(0), format!("dragline-cni {}\n", env!("CARGO_PKG_VERSION"))));
    let (code, ran) = call(PROGRAM, &["--help"]);
    assert!(code == Some(0) && ran.stdout.contains("install DIR"));
    for wrong in [&[][..], &["install"], &["install", "--force"], &["what"], &["install", "a", "b"]] {
        let (code, ran) = call(PROGRAM, wrong);
        assert!(code == Some(2) && ran.stderr.lines().count() == 1 && ran.stdout.is_empty(), "{wrong:?}");
    }
}
