//! `dragline controller` beside the API server.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use netlink::testbed::Netns;

use super::FleetError;
use crate::binaries::Binaries;

/// A controller. It is killed when this is dropped.
pub struct Controller {
    child: Child,
    log: PathBuf,
}

impl Controller {
    pub(super) fn start(server: &Netns, kubeconfig: &Path, folder: &Path) -> Result<Self, FleetError> {
        let (log, cni) = (folder.join("controller.log"), folder.join("cni"));
        fs::create_dir_all(&cni).map_err(|error| FleetError::system(format!("making {}", cni.display()), error))?;
        let stderr = OpenOptions::new().create(true).append(true).open(&log);
        let stderr = stderr.map_err(|error| FleetError::system(format!("opening {}", log.display()), error))?;
        let mut command = Command::new(&Binaries::build()?.dragline);
        command
            .args(["controller", "--http", "127.0.0.1:0", "--identity", "one", "--kubeconfig"])
            .arg(kubeconfig)
            .arg("--cni-conf-dir")
            .arg(cni)
            .env_remove("POD_NAMESPACE")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        Ok(Self { child: server.spawn(&mut command)?, log })
    }

    /// What it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // It may have gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
