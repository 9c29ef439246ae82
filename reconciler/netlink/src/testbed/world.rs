//! A world of one's own, and network namespaces in it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::{env, thread};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{getegid, geteuid};

use super::{Scene, TestbedError};

const NETNS_DIR: &str = "/run/netns";
const NONE: Option<&str> = None;

/// Takes the process into a user, mount and network namespace of its own, in which it is root: with an empty `/run`, a
/// `/sys` of its own where the kernel permits, and `lo` up. Nothing done afterwards is seen outside, and all of it is
/// gone when the last process of it ends.
///
/// With `DRAGLINE_NO_USERNS` in the environment no user namespace is made, which needs root.
///
/// # Errors
/// The kernel refuses when the process has more than one thread (call it first in `main`), or where unprivileged user
/// namespaces are switched off (`kernel.unprivileged_userns_clone`, `user.max_user_namespaces`, AppArmor).
pub fn enter_private_world() -> Result<(), TestbedError> {
    let (user, group) = (geteuid(), getegid());
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
    let own_users = env::var_os("DRAGLINE_NO_USERNS").is_none();
    if own_users {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags).map_err(|errno| TestbedError::system("making a user, mount and network namespace", errno))?;
    if own_users {
        // Without this the kernel lets nobody map groups (user_namespaces(7)).
        write("/proc/self/setgroups", "deny")?;
        write("/proc/self/uid_map", &format!("0 {user} 1"))?;
        write("/proc/self/gid_map", &format!("0 {group} 1"))?;
    }
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NONE, "/", NONE, private, NONE).map_err(|errno| TestbedError::system("making mounts private", errno))?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))
        .map_err(|errno| TestbedError::system("mounting a tmpfs on /run", errno))?;
    fs::create_dir(NETNS_DIR).map_err(|error| TestbedError::system(format!("making {NETNS_DIR}"), error))?;
    // /sys shows the links of the namespace it was mounted in. Where it is partly covered the kernel refuses a fresh
    // one, and nothing here needs it.
    let _ = mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), NONE);
    Scene::here()?.up("lo")
}

fn write(path: &str, content: &str) -> Result<(), TestbedError> {
    fs::write(path, content).map_err(|error| TestbedError::system(format!("writing {path}"), error))
}

/// A network namespace at `/run/netns/NAME`. It is deleted when this is dropped.
#[derive(Debug)]
pub struct Netns {
    path: PathBuf,
}

impl Netns {
    /// Makes one, with `lo` up.
    pub fn create(name: &str) -> Result<Self, TestbedError> {
        let path = Path::new(NETNS_DIR).join(name);
        let failed = |source| TestbedError::System { what: format!("making network namespace {name}"), source };
        File::create_new(&path).map_err(failed)?;
        let netns = Self { path };
        // Threads have network namespaces of their own; this one ends at once and leaves the mount.
        let made = thread::scope(|scope| {
            let maker = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                mount(Some("/proc/thread-self/ns/net"), &netns.path, NONE, MsFlags::MS_BIND, NONE)
            });
            maker.join()
        });
        match made {
            Ok(Ok(())) => {}
            Ok(Err(errno)) => return Err(failed(errno.into())),
            Err(panic) => std::panic::resume_unwind(panic),
        }
        netns.scene()?.up("lo")?;
        Ok(netns)
    }

    /// Its path.
    pub fn path(&self) -> &str {
        // Made from a &str.
        self.path.to_str().unwrap_or_default()
    }

    /// Runs a closure in a thread that is inside.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T, TestbedError> {
        let door = self.open()?;
        let ran = thread::scope(|scope| {
            let visitor = scope.spawn(move || {
                setns(&door, CloneFlags::CLONE_NEWNET)?;
                drop(door);
                Ok(inside())
            });
            visitor.join()
        });
        match ran {
            Ok(result) => {
                result.map_err(|errno: nix::Error| TestbedError::system(format!("entering {}", self.path()), errno))
            }
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Starts a program inside. It keeps the namespace alive.
    pub fn spawn(&self, command: &mut Command) -> Result<Child, TestbedError> {
        let what = format!("starting {:?} in {}", command.get_program(), self.path.display());
        self.run(|| command.spawn())?.map_err(|source| TestbedError::System { what, source })
    }

    /// Builds inside.
    pub fn scene(&self) -> Result<Scene, TestbedError> {
        self.run(Scene::here)?
    }

    /// An open descriptor of it, which keeps it alive.
    pub fn open(&self) -> Result<File, TestbedError> {
        File::open(&self.path).map_err(|error| TestbedError::system(format!("opening {}", self.path()), error))
    }

    /// Deletes it now: the kernel takes it down as soon as nothing else holds it.
    pub fn delete(self) {}
}

impl Drop for Netns {
    fn drop(&mut self) {
        // A scene that is half gone is no reason to fail, and the world ends with its processes.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&self.path);
    }
}
