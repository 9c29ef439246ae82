//! The API server that the cluster tests start: built by Go, once, while cargo builds everything else.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ::tests::cluster::{Build, Missing, Programs};

use super::Outcome;
use super::setup;

/// From here on Go fetches the newer Go that go.mod asks for by itself.
const OLDEST: Version = Version(1, 21);
/// From here on the API server's OpenAPI documents are wrong with the JSON that Go has by default.
const WITH_OTHER_JSON: Version = Version(1, 27);
/// Debian's.
const PACKAGE: &str = "golang-go";
const KUBERNETES: &str = "k8s.io/kubernetes";

/// The programs, or what is done for them.
#[derive(Debug)]
pub(super) struct ApiServer(Option<Building>);

#[derive(Debug)]
struct Building {
    go: Child,
    build: Build,
    /// Of which sources.
    recipe: String,
}

/// Go's version: 1.26.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

impl ApiServer {
    /// Begins to build it where it is not there, or is of other sources.
    ///
    /// # Errors
    /// There is no Go, or it cannot be started: what to do.
    pub(super) fn begin(target: &Path) -> Result<Self, String> {
        match Programs::find() {
            Ok(_) => return Ok(Self(None)),
            Err(missing @ (Missing::Asset { .. } | Missing::Unknown(_))) => return Err(missing.to_string()),
            Err(Missing::NotBuilt | Missing::Outdated) => {}
        }
        let version = go()?;
        let build = Build::of(target);
        println!("building an API server into {} (once; 6 to 15 minutes, beside the rest)", build.folder.display());
        let recipe = Build::recipe().map_err(|error| format!("reading {}: {error}", Build::sources().display()))?;
        let started = fs::create_dir_all(&build.folder).and_then(|()| start(&build, version, &recipe));
        let go = started.map_err(|error| format!("go cannot be started: {error}"))?;
        Ok(Self(Some(Building { go, build, recipe })))
    }

    /// Waits until it is there.
    pub(super) fn finish(&mut self) -> Outcome {
        let Some(Building { go, build, recipe }) = &mut self.0 else { return Outcome::Passed };
        let status = match go.wait() {
            Ok(status) => status,
            Err(error) => return Outcome::Failed(format!("go build: {error}")),
        };
        if !status.success() {
            println!("{}", fs::read_to_string(build.folder.join("log")).unwrap_or_default());
            return Outcome::Failed(format!("go build: {status}"));
        }
        match install(build, recipe) {
            Ok(()) => Outcome::Passed,
            Err(error) => Outcome::Failed(format!("installing into {}: {error}", build.folder.display())),
        }
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        // It has ended, or nobody waits for it any more.
        let _ = self.go.kill();
        let _ = self.go.wait();
    }
}

fn start(build: &Build, version: Version, recipe: &str) -> io::Result<Child> {
    let log = File::create(build.folder.join("log"))?;
    let mut go = Command::new("go");
    go.current_dir(Build::sources())
        .args(["build", "-trimpath", "-buildvcs=false", "-tags=providerless,grpcnotrace", "-ldflags"])
        .arg(linker_flags(recipe))
        .arg("-o")
        .arg(build.folder.join("new"))
        .arg(".")
        .env("CGO_ENABLED", "0")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    if std::env::var_os("GOTOOLCHAIN").is_none() {
        // Distributions have Go keep to itself.
        go.env("GOTOOLCHAIN", "auto");
    }
    if version >= WITH_OTHER_JSON {
        go.env("GOEXPERIMENT", "nojsonv2");
    }
    go.spawn()
}

/// No symbols; and what the servers say of their version, which Kubernetes' own build sets in the same way.
fn linker_flags(recipe: &str) -> String {
    let required = recipe.lines().find_map(|line| line.trim().strip_prefix(KUBERNETES)?.strip_prefix(' '));
    let version = required.unwrap_or("v0.0.0");
    let mut parts = version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let set = |name: &str, value: &str| format!(" -X k8s.io/component-base/version.{name}={value}");
    format!("-s -w{}{}{}", set("gitVersion", version), set("gitMajor", major), set("gitMinor", minor))
}

/// One program under all its names; the stamp last.
fn install(build: &Build, recipe: &str) -> io::Result<()> {
    fs::rename(build.folder.join("new"), build.folder.join("kubernetes"))?;
    for program in Build::PROGRAMS {
        match symlink("kubernetes", build.folder.join(program)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    fs::write(build.stamp(), recipe)
}

/// A Go that will do, installed where that is ours to do.
fn go() -> Result<Version, String> {
    if let Some(version) = installed().filter(|version| *version >= OLDEST) {
        return Ok(version);
    }
    if setup::can_install() && offered().is_some_and(|version| version >= OLDEST) {
        setup::apt_install(&[PACKAGE])?;
        if let Some(version) = installed().filter(|version| *version >= OLDEST) {
            return Ok(version);
        }
    }
    let found = installed().map_or("there is none".into(), |Version(major, minor)| format!("go is {major}.{minor}"));
    Err(format!(
        "Go {}.{} or newer is needed, and {found}: it builds the API server that the cluster tests start.\n\
         install it, or set KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver, kube-controller-manager and \
         kubectl",
        OLDEST.0, OLDEST.1
    ))
}

/// The one in PATH, without the newer one that it would fetch.
fn installed() -> Option<Version> {
    let asked = Command::new("go").args(["env", "GOVERSION"]).current_dir("/").env("GOTOOLCHAIN", "local").output();
    let output = asked.ok().filter(|output| output.status.success())?;
    version_of(String::from_utf8_lossy(&output.stdout).split_once("go")?.1)
}

/// The one that apt would install.
fn offered() -> Option<Version> {
    let asked = Command::new("apt-cache").args(["show", "--no-all-versions", PACKAGE]).output();
    let output = asked.ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.lines().find_map(|line| line.strip_prefix("Version: "))?;
    version_of(version.split_once(':').map_or(version, |(_epoch, version)| version))
}

/// `1.26.8`, `1.19~1`, `1.27-devel`.
fn version_of(text: &str) -> Option<Version> {
    let mut numbers = text.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
    Some(Version(numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(version_of("1.26.8\n"), Some(Version(1, 26)));
        assert_eq!(version_of("1.19~1"), Some(Version(1, 19)));
        assert_eq!(version_of("1.27-devel_0a1b"), Some(Version(1, 27)));
        assert_eq!(version_of("none"), None);
        assert!(Version(1, 9) < OLDEST && Version(2, 0) > WITH_OTHER_JSON);
    }

    #[test]
    fn the_servers_say_the_version_of_go_mod() {
        let flags = linker_flags(&Build::recipe().expect("the sources are in the repository"));
        assert!(flags.contains("gitVersion=v1.") && flags.contains("gitMajor=1 "), "{flags}");
        assert!(!flags.contains("gitMinor=0"), "{flags}");
    }
}
