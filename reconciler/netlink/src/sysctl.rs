//! Sysctls below /proc/sys/net: the file shows the namespace of the thread that opens it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

/// The file of a sysctl, when the path is one of the network and goes nowhere else.
fn file(path: &str) -> io::Result<PathBuf> {
    let plain = path.starts_with("net/") && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if plain {
        Ok(PathBuf::from("/proc/sys").join(path))
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "a sysctl path is one below net/, such as net/ipv4/ip_forward"))
    }
}

/// The value in the calling thread's namespace, trimmed; None when there is no such sysctl.
pub(crate) fn read(path: &str) -> io::Result<Option<String>> {
    match fs::read_to_string(file(path)?) {
        Ok(value) => Ok(Some(value.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets it in the calling thread's namespace.
pub(crate) fn write(path: &str, value: &str) -> io::Result<()> {
    // Never created: proc refuses, and anything else mounted there is not meant.
    OpenOptions::new().write(true).open(file(path)?)?.write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_networks_sysctls_are_touched() {
        for path in ["kernel/hostname", "net/../kernel/hostname", "/net/ipv4/ip_forward", "net//ipv4", "", "net/."] {
            assert!(file(path).is_err(), "{path}");
        }
        assert_eq!(file("net/ipv4/ip_forward").unwrap(), PathBuf::from("/proc/sys/net/ipv4/ip_forward"));
    }
}
