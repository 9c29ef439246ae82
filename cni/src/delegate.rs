//! Another IPAM plugin, run as the specification delegates (1.1.0, section 4): the same environment and standard input,
//! found by its type in `CNI_PATH`.

use std::env;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

use schemas::cni::error::CniError;
use schemas::cni::result::CniResult;
use schemas::wire::MAX_MESSAGE;
use serde_json::Value;

use crate::environment::Verb;

/// What another plugin is run with.
#[derive(Debug, Clone, Copy)]
pub struct Delegate<'a> {
    /// `CNI_PATH`.
    pub path: Option<&'a OsStr>,
    /// The network configuration as it came.
    pub stdin: &'a [u8],
}

impl Delegate<'_> {
    /// ADD: the other plugin's result.
    ///
    /// # Errors
    /// Its own, with its name before it; or that it cannot be run or understood.
    pub fn add(&self, plugin: &str) -> Result<CniResult, CniError> {
        let result: Value = serde_json::from_slice(&self.run(plugin, Verb::Add)?)
            .map_err(|error| failed(plugin, &format!("its result is not JSON: {error}")))?;
        let result = CniResult::from_json(&result)
            .map_err(|error| failed(plugin, &error.msg.replacen("prevResult", "its result", 1)))?;
        if result.ips.is_empty() { Err(failed(plugin, "its result has no address")) } else { Ok(result) }
    }

    /// Any verb without result.
    ///
    /// # Errors
    /// As [`Delegate::add`].
    pub fn call(&self, plugin: &str, verb: Verb) -> Result<(), CniError> {
        self.run(plugin, verb).map(|_| ())
    }

    /// DEL. A plugin that is not there any more cannot be asked, today or later: the pod must be able to go.
    ///
    /// # Errors
    /// The other plugin's own: its addresses would be lost if the runtime were told that all is well.
    pub fn delete(&self, plugin: &str) -> Result<(), CniError> {
        match self.find(plugin) {
            Ok(_) => self.call(plugin, Verb::Del),
            Err(error) => {
                eprintln!("dragline-cni: DEL goes on without it: {error}");
                Ok(())
            }
        }
    }

    fn find(&self, plugin: &str) -> Result<PathBuf, CniError> {
        let path = self.path.ok_or_else(|| {
            let text = format!("required env variables [CNI_PATH] missing: it tells where IPAM plugin {plugin:?} is");
            CniError::new(CniError::INVALID_ENVIRONMENT, text)
        })?;
        let is_program = |file: &PathBuf| {
            file.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        };
        env::split_paths(path).map(|folder| folder.join(plugin)).find(is_program).ok_or_else(|| {
            let text = format!("IPAM plugin {plugin:?} is not in {}; install it or correct ipam.type", path.display());
            CniError::new(CniError::INVALID_CONFIG, text)
        })
    }

    fn run(&self, plugin: &str, verb: Verb) -> Result<Vec<u8>, CniError> {
        let mut child = Command::new(self.find(plugin)?)
            .env("CNI_COMMAND", verb.as_str())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed(plugin, &format!("it cannot be run: {error}")))?;
        let output = self.talk(&mut child);
        let status = child.wait().map_err(|error| failed(plugin, &format!("it cannot be waited for: {error}")))?;
        let output = output.map_err(|error| failed(plugin, &error))?;
        if status.success() {
            return Ok(output);
        }
        match serde_json::from_slice::<CniError>(&output) {
            Ok(error) => Err(CniError { msg: format!("IPAM plugin {plugin}: {}", error.msg), ..error }),
            Err(_) => Err(failed(plugin, &format!("it failed without a CNI error: {status}"))
                .with_details(String::from_utf8_lossy(&output).trim().chars().take(500).collect::<String>())),
        }
    }

    /// Writes and reads at once, so that neither side waits for the other's full pipe.
    fn talk(&self, child: &mut Child) -> Result<Vec<u8>, String> {
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("it has no standard input and output".into());
        };
        let limit = u64::try_from(MAX_MESSAGE).unwrap_or(u64::MAX);
        let mut answer = Vec::new();
        let read = thread::scope(|scope| {
            // One that needs no configuration may close its input before it has all.
            scope.spawn(move || drop(input.write_all(self.stdin)));
            let read = output.take(limit.saturating_add(1)).read_to_end(&mut answer);
            if read.is_err() || answer.len() > MAX_MESSAGE {
                let _ = child.kill();
            }
            read
        });
        read.map_err(|error| format!("its result cannot be read: {error}"))?;
        if answer.len() > MAX_MESSAGE {
            return Err(format!("its result is longer than the {MAX_MESSAGE} bytes allowed"));
        }
        Ok(answer)
    }
}

fn failed(plugin: &str, text: &str) -> CniError {
    CniError::new(CniError::FAILED, format!("IPAM plugin {plugin}: {text}"))
}
