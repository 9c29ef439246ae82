//! What all trials here lie on: one cluster for those that only use it, one each for those that harm it.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{self, exit};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tests::cluster::{Cluster, ClusterError, KUBECONFIG, Kubectl, Options, UNDER_VERIFY};

/// What must come to pass does so in this time; servers and tests share few cores.
const PATIENCE: Duration = Duration::from_secs(60);
/// Several questions a second to a server that has other things to do.
const ASKED_EVERY: Duration = Duration::from_millis(100);

/// Trials at a time, each with a cluster of its own as a rule: some 400 MB.
const TRIALS_AT_ONCE: usize = 4;

/// The cluster that trials share, once one has asked for it.
static SHARED: Mutex<Option<Result<Arc<Cluster>, Arc<ClusterError>>>> = Mutex::new(None);

/// The program of tests. In a world of its own, which the cluster of `KUBECONFIG` could not be reached from.
pub(crate) fn run(trials: impl FnOnce() -> Vec<Trial>) {
    let mut arguments = Arguments::from_args();
    // Most of them wait most of the time.
    arguments.test_threads.get_or_insert(TRIALS_AT_ONCE);
    // Before any thread is started.
    if foreign().is_none()
        && let Err(error) = netlink::testbed::enter_private_world()
    {
        eprintln!("there is nothing to test in: {error}");
        exit(1)
    }
    let conclusion = libtest_mimic::run(&arguments, trials());
    // Nothing drops what is static.
    drop(SHARED.lock().unwrap_or_else(PoisonError::into_inner).take());
    conclusion.exit();
}

/// A test that only uses a cluster, beside others: in namespaces, or under names, of its own.
pub(crate) fn sharing(name: &str, test: fn(&Cluster)) -> Trial {
    trial(name, move || {
        test(&*shared()?);
        Ok(())
    })
}

/// A test that harms its cluster, which it has alone.
pub(crate) fn alone(name: &'static str, test: fn(&mut Cluster)) -> Trial {
    starting(name, move |folder| {
        test(&mut Cluster::start(folder, &Options::default())?);
        Ok(())
    })
}

/// A test that starts its cluster itself, in that folder.
pub(crate) fn starting(
    name: &'static str,
    test: impl FnOnce(&Path) -> Result<(), ClusterError> + Send + 'static,
) -> Trial {
    trial(name, move || match foreign() {
        Some(_) => Err(Arc::new(ClusterError::NotOurs { what: "this trial" })),
        None => Ok(test(&folder(&name.replace("::", "-")))?),
    })
}

/// A panic is a failure; a server that is missing, or not ours, is none, unless `cargo verify` has promised it.
fn trial(name: &str, test: impl FnOnce() -> Result<(), Arc<ClusterError>> + Send + 'static) -> Trial {
    Trial::ignorable_test(name, move || {
        let ended = catch_unwind(AssertUnwindSafe(test)).map_err(|panic| Failed::from(text_of(&*panic)))?;
        match ended.as_ref().map_err(|error| &**error) {
            Ok(()) => Ok(Completion::Completed),
            Err(error @ ClusterError::NotOurs { .. }) => Ok(Completion::ignored_with(format!("skipped: {error}"))),
            Err(ClusterError::Missing(missing)) if env::var_os(UNDER_VERIFY).is_none() => {
                Ok(Completion::ignored_with(missing))
            }
            Err(error) => Err(Failed::from(error)),
        }
    })
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_else(|| "panicked".into())
}

fn shared() -> Result<Arc<Cluster>, Arc<ClusterError>> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let start = || match foreign() {
        Some(kubeconfig) => Cluster::foreign(&folder("shared"), &kubeconfig),
        None => Cluster::start(&folder("shared"), &Options::default()),
    };
    shared.get_or_insert_with(|| start().map(Arc::new).map_err(Arc::new)).clone()
}

fn foreign() -> Option<PathBuf> {
    env::var_os(KUBECONFIG).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// In the private world `/run` is memory that ends with it.
fn folder(name: &str) -> PathBuf {
    let parent = if foreign().is_some() { env::temp_dir() } else { "/run".into() };
    parent.join(format!("dragline-cluster-{}-{name}", process::id()))
}

/// A namespace of the trial's own. Its deletion is asked for when this is dropped.
pub(crate) struct Namespace<'a> {
    pub(crate) name: String,
    kubectl: &'a Kubectl,
}

impl<'a> Namespace<'a> {
    pub(crate) fn create(cluster: &'a Cluster, name: &str) -> Self {
        let name = format!("dragline-{name}-{}", process::id());
        cluster.kubectl().ask(&["create", "namespace", &name], "").unwrap();
        Self { name, kubectl: cluster.kubectl() }
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        // Most clusters end before it is gone.
        let _ = self.kubectl.run(&["delete", "namespace", &self.name, "--wait=false"], "");
    }
}

/// Asks again until it holds, for what kubectl cannot wait for.
pub(crate) fn eventually<T, E: std::fmt::Display>(what: &str, mut ask: impl FnMut() -> Result<T, E>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(found) => return found,
            Err(found) => assert!(Instant::now() < until, "{what} did not come to pass in {PATIENCE:?}: {found}"),
        }
        std::thread::sleep(ASKED_EVERY);
    }
}

/// Says no, in these words (small letters).
#[track_caller]
pub(crate) fn assert_refused(outcome: Result<String, ClusterError>, words: &str) {
    let refused = outcome.unwrap_err().to_string();
    assert!(refused.to_lowercase().contains(words), "{refused}");
}
