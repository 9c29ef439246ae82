use std::process::{Command, Stdio};

use libtest_mimic::Trial;
use netlink::testbed::Netns;
use netlink::{Kernel, NamespaceError};
use schemas::intent::NetnsIdentity;

use crate::fixture::Pod;
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("identity_is_stable", stable),
        trial("another_namespace_at_the_path_is_gone", path_reused),
        trial("a_namespace_of_another_boot_is_gone", another_boot),
        trial("nothing_at_the_path_is_gone", missing),
        trial("an_ordinary_file_is_refused", ordinary_file),
        trial("a_namespace_of_another_kind_is_refused", another_kind),
        trial("a_pipe_does_not_block", pipe),
        trial("passes_work_side_by_side", side_by_side),
        trial("the_node_has_no_number", node_number),
        trial("a_program_started_inside_is_inside", spawned),
    ]
}

fn stable() {
    let pod = Pod::new("stable");
    assert_eq!(pod.kernel.identify(pod.netns.path()).unwrap(), pod.identity);
    assert_eq!(Kernel::new().unwrap().identify(pod.netns.path()).unwrap(), pod.identity);
    assert_eq!(pod.kernel.nsid_of(&pod.identity).unwrap(), pod.kernel.nsid_of(&pod.identity).unwrap());
}

fn path_reused() {
    let pod = Pod::new("reused");
    let before = pod.identity.clone();
    pod.netns.delete();
    let _other = Netns::create("reused").unwrap();
    let error = pod.kernel.pass(&before).err().unwrap();
    assert!(error.is_gone(), "{error}");
    assert_eq!(error.to_string(), "network namespace /run/netns/reused is gone: the path holds another one");
    assert_ne!(pod.kernel.identify(&before.path).unwrap().cookie, before.cookie);
}

fn another_boot() {
    let pod = Pod::new("boot");
    let before = NetnsIdentity { boot_id: "00000000-0000-0000-0000-000000000000".into(), ..pod.identity.clone() };
    assert!(pod.kernel.pass(&before).err().unwrap().is_gone());
}

fn missing() {
    let pod = Pod::new("missing");
    let before = pod.identity.clone();
    pod.netns.delete();
    assert!(pod.kernel.pass(&before).err().unwrap().is_gone());
    assert!(pod.kernel.identify(&before.path).unwrap_err().is_gone());
    assert!(pod.kernel.identify("/proc/0/ns/net").unwrap_err().is_gone());
    assert!(pod.kernel.identify("").unwrap_err().is_gone());
}

fn ordinary_file() {
    let pod = Pod::new("file");
    std::fs::write("/run/netns/plain", "").unwrap();
    for path in ["/run/netns/plain", "/run/netns", "/proc/self/status"] {
        let error = pod.kernel.identify(path).unwrap_err();
        assert!(matches!(error, NamespaceError::NotANamespace { .. }), "{error}");
        assert!(error.to_string().starts_with(path), "{error}");
    }
    // A path that held one and is a leftover file by now: that one is gone.
    let leftover = NetnsIdentity { path: "/run/netns/plain".into(), ..pod.identity.clone() };
    assert!(pod.kernel.pass(&leftover).err().unwrap().is_gone());
}

fn another_kind() {
    let pod = Pod::new("otherkind");
    for path in ["/proc/self/ns/mnt", "/proc/self/ns/user", "/proc/self/ns/uts"] {
        let error = pod.kernel.identify(path).unwrap_err();
        assert!(matches!(error, NamespaceError::NotANamespace { .. }), "{path}: {error}");
    }
    // The thread is at home and of use afterwards.
    assert_eq!(pod.kernel.identify(pod.netns.path()).unwrap(), pod.identity);
}

fn pipe() {
    let kernel = Kernel::new().unwrap();
    nix::unistd::mkfifo("/run/netns/pipe", nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(matches!(kernel.identify("/run/netns/pipe"), Err(NamespaceError::NotANamespace { .. })));
}

fn side_by_side() {
    let kernel = Kernel::new().unwrap();
    let netns: Vec<Netns> = (0..8).map(|n| Netns::create(&format!("side{n}")).unwrap()).collect();
    std::thread::scope(|scope| {
        for (n, netns) in netns.iter().enumerate() {
            let kernel = &kernel;
            scope.spawn(move || {
                let name = format!("d{n}");
                netns.scene().unwrap().bridge(&name).unwrap();
                let identity = kernel.identify(netns.path()).unwrap();
                for _ in 0..50 {
                    let observed = kernel.pass(&identity).unwrap().observe(&[]).unwrap();
                    let names: Vec<&str> = observed.links.iter().map(|link| link.name.as_str()).collect();
                    assert_eq!(names, ["lo", &name]);
                }
            });
        }
    });
}

fn node_number() {
    assert!(Kernel::new().unwrap().node_pass().unwrap().nsid().is_err());
}

fn spawned() {
    let pod = Pod::new("spawned");
    let mut command = Command::new("cat");
    let child = pod.netns.spawn(command.arg("/proc/self/net/dev").stdout(Stdio::piped())).unwrap();
    let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert!(output.contains("eth0:") && !output.contains(&pod.peer), "{output}");
}
