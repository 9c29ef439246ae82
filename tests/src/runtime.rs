//! A container runtime's part of the CNI specification: plugins in order, results handed on, DEL backwards.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use netlink::testbed::{Netns, TestbedError};
use schemas::cni::error::CniError;
use serde_json::{Map, Value, json};

/// Where distributions put the reference plugins.
const REFERENCE_PLUGINS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The plugin said so.
    #[error("{plugin} {verb}: code {}: {error}", error.code)]
    Plugin {
        /// Which plugin.
        plugin: String,
        /// What it was asked.
        verb: String,
        /// What it said.
        error: CniError,
    },
    /// The plugin failed without a CNI error on standard output, or succeeded with something else than JSON.
    #[error("{plugin} {verb} broke the protocol ({status}): stdout {stdout:?}, stderr {stderr:?}")]
    Protocol {
        /// Which plugin.
        plugin: String,
        /// What it was asked.
        verb: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it printed.
        stdout: String,
        /// What it said.
        stderr: String,
    },
    /// No such plugin.
    #[error("no plugin {plugin} in {path}")]
    NoPlugin {
        /// Which.
        plugin: String,
        /// `CNI_PATH`.
        path: String,
    },
    /// The configuration is none.
    #[error("conflist: {0}")]
    Conflist(String),
    /// The node's namespace.
    #[error(transparent)]
    Netns(#[from] TestbedError),
    /// The system.
    #[error("running {plugin}: {source}")]
    System {
        /// Which plugin.
        plugin: String,
        /// Why not.
        source: io::Error,
    },
}

impl RuntimeError {
    /// The plugin's own error, if that is what it is.
    pub fn cni(&self) -> Option<&CniError> {
        match self {
            Self::Plugin { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// A network configuration list.
#[derive(Debug, Clone)]
pub struct Conflist {
    /// Its name.
    pub name: String,
    /// Its `cniVersion`.
    pub version: String,
    /// Its plugins.
    pub plugins: Vec<Map<String, Value>>,
}

impl Conflist {
    /// Reads one.
    pub fn parse(text: &str) -> Result<Self, RuntimeError> {
        let broken = |what: String| RuntimeError::Conflist(what);
        let whole: Value = serde_json::from_str(text).map_err(|error| broken(error.to_string()))?;
        let text_at = |key: &str| whole[key].as_str().map(ToOwned::to_owned).ok_or_else(|| broken(format!("no {key}")));
        let plugins = whole["plugins"].as_array().ok_or_else(|| broken("no plugins".into()))?;
        let objects: Option<Vec<_>> = plugins.iter().map(|plugin| plugin.as_object().cloned()).collect();
        Ok(Self {
            name: text_at("name")?,
            version: text_at("cniVersion")?,
            plugins: objects.ok_or_else(|| broken("a plugin that is no object".into()))?,
        })
    }

    /// Reads one from a file.
    pub fn read(path: &Path) -> Result<Self, RuntimeError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| RuntimeError::Conflist(format!("{}: {error}", path.display())))?;
        Self::parse(&text)
    }

    /// The same in another version of the specification.
    pub fn with_version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.version);
        self
    }

    /// The same with a key of the plugin of that type set.
    pub fn with_key(mut self, plugin: &str, key: &str, value: Value) -> Self {
        for conf in self.plugins.iter_mut().filter(|conf| conf.get("type").is_some_and(|kind| kind == plugin)) {
            conf.insert(key.to_owned(), value.clone());
        }
        self
    }

    /// What a plugin is given (specification 1.1.0, section 3, "Deriving execution configuration").
    fn request(&self, plugin: &Map<String, Value>, further: &[(&str, Value)]) -> Vec<u8> {
        let mut conf = plugin.clone();
        conf.insert("name".into(), json!(self.name));
        conf.insert("cniVersion".into(), json!(self.version));
        conf.extend(further.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        Value::Object(conf).to_string().into_bytes()
    }
}

/// One attachment's parameters.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_NETNS`.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: String,
}

impl Attachment {
    /// Of a Kubernetes pod.
    pub fn of_pod(namespace: &str, pod: &str, container: &str, netns: &str, ifname: &str) -> Self {
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod};K8S_POD_INFRA_CONTAINER_ID={container}"
        );
        Self { container: container.into(), netns: netns.into(), ifname: ifname.into(), args }
    }
}

/// Calls plugins inside a node.
pub struct Runtime<'a> {
    node: &'a Netns,
    path: Vec<PathBuf>,
    environment: Vec<(String, OsString)>,
}

impl<'a> Runtime<'a> {
    /// Plugins are searched in these folders, in this order.
    pub fn new(node: &'a Netns, path: Vec<PathBuf>) -> Self {
        Self { node, path, environment: Vec::new() }
    }

    /// Gives plugins a variable.
    pub fn with_env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// ADD of all plugins; the last one's result. As the specification has it, an ADD that fails is the caller's to DEL.
    pub fn add(&self, conflist: &Conflist, attachment: &Attachment) -> Result<Value, RuntimeError> {
        let mut result = None;
        for conf in &conflist.plugins {
            let further: Vec<_> = result.into_iter().map(|result| ("prevResult", result)).collect();
            let plugin = plugin_type(conf)?;
            let printed = self.call(plugin, "ADD", Some(attachment), &conflist.request(conf, &further))?;
            result = Some(printed.ok_or_else(|| RuntimeError::Conflist(format!("{plugin} ADD gave no result")))?);
        }
        result.ok_or_else(|| RuntimeError::Conflist("no plugins".into()))
    }

    /// DEL of all plugins, backwards, each with the result of ADD where the runtime still has it. The first error is
    /// returned after all have been asked.
    pub fn del(
        &self,
        conflist: &Conflist,
        attachment: &Attachment,
        result: Option<&Value>,
    ) -> Result<(), RuntimeError> {
        // Before 0.4.0 DEL got no result (libcni: `greaterThanOrEqualTo 0.4.0`).
        let result = result.filter(|_| has_check(&conflist.version));
        let further: Vec<_> = result.map(|result| ("prevResult", result.clone())).into_iter().collect();
        let mut first = Ok(());
        for conf in conflist.plugins.iter().rev() {
            let asked = plugin_type(conf)
                .and_then(|plugin| self.call(plugin, "DEL", Some(attachment), &conflist.request(conf, &further)));
            first = first.and(asked.map(drop));
        }
        first
    }

    /// CHECK of all plugins against the result of ADD.
    pub fn check(&self, conflist: &Conflist, attachment: &Attachment, result: &Value) -> Result<(), RuntimeError> {
        for conf in &conflist.plugins {
            let stdin = conflist.request(conf, &[("prevResult", result.clone())]);
            self.call(plugin_type(conf)?, "CHECK", Some(attachment), &stdin)?;
        }
        Ok(())
    }

    /// GC of all plugins: attachments other than these are to go.
    pub fn gc(&self, conflist: &Conflist, valid: &[&Attachment]) -> Result<(), RuntimeError> {
        let valid: Vec<Value> = valid
            .iter()
            .map(|attachment| json!({"containerID": attachment.container, "ifname": attachment.ifname}))
            .collect();
        for conf in &conflist.plugins {
            let stdin = conflist.request(conf, &[("cni.dev/valid-attachments", json!(valid))]);
            self.call(plugin_type(conf)?, "GC", None, &stdin)?;
        }
        Ok(())
    }

    /// STATUS of all plugins.
    pub fn status(&self, conflist: &Conflist) -> Result<(), RuntimeError> {
        for conf in &conflist.plugins {
            self.call(plugin_type(conf)?, "STATUS", None, &conflist.request(conf, &[]))?;
        }
        Ok(())
    }

    /// VERSION of one plugin.
    pub fn version(&self, plugin: &str, version: &str) -> Result<Value, RuntimeError> {
        let printed = self.call(plugin, "VERSION", None, json!({"cniVersion": version}).to_string().as_bytes())?;
        printed.ok_or_else(|| RuntimeError::Conflist(format!("{plugin} VERSION gave no answer")))
    }

    /// One call of one plugin, with anything on standard input; what it printed, if anything.
    pub fn call(
        &self,
        plugin: &str,
        verb: &str,
        attachment: Option<&Attachment>,
        stdin: &[u8],
    ) -> Result<Option<Value>, RuntimeError> {
        let output = self.start(plugin, verb, attachment, stdin)?;
        let printed: Option<Value> = serde_json::from_slice(&output.stdout).ok();
        let is_empty = output.stdout.iter().all(u8::is_ascii_whitespace);
        match (output.status.success(), printed) {
            (true, Some(result)) => return Ok(Some(result)),
            (true, None) if is_empty => return Ok(None),
            (false, Some(printed)) => {
                if let Ok(error) = serde_json::from_value::<CniError>(printed) {
                    return Err(RuntimeError::Plugin { plugin: plugin.into(), verb: verb.into(), error });
                }
            }
            (_, None) => {}
        }
        Err(RuntimeError::Protocol {
            plugin: plugin.into(),
            verb: verb.into(),
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// One call, unjudged.
    pub fn start(
        &self,
        plugin: &str,
        verb: &str,
        attachment: Option<&Attachment>,
        stdin: &[u8],
    ) -> Result<Output, RuntimeError> {
        let mut command = self.command(plugin, verb)?;
        if let Some(attachment) = attachment {
            command
                .env("CNI_CONTAINERID", &attachment.container)
                .env("CNI_NETNS", &attachment.netns)
                .env("CNI_IFNAME", &attachment.ifname)
                .env("CNI_ARGS", &attachment.args);
        }
        let failed = |source| RuntimeError::System { plugin: plugin.into(), source };
        let mut child = self.node.spawn(&mut command)?;
        if let Some(mut pipe) = child.stdin.take() {
            match pipe.write_all(stdin) {
                // It may have answered without reading.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(failed(error)),
                _ => {}
            }
        }
        child.wait_with_output().map_err(failed)
    }

    fn command(&self, plugin: &str, verb: &str) -> Result<Command, RuntimeError> {
        let path = std::env::join_paths(&self.path).map_err(|error| RuntimeError::Conflist(error.to_string()))?;
        let program =
            self.path.iter().map(|folder| folder.join(plugin)).find(|program| program.exists()).ok_or_else(|| {
                RuntimeError::NoPlugin { plugin: plugin.into(), path: path.to_string_lossy().into_owned() }
            })?;
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("CNI_COMMAND", verb)
            .env("CNI_PATH", path)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(command)
    }
}

/// The folder of the reference plugins, where they are installed.
pub fn reference_plugins() -> Option<PathBuf> {
    REFERENCE_PLUGINS.iter().map(PathBuf::from).find(|folder| folder.join("macvlan").exists())
}

/// A folder in which `macvlan` is the reference plugin; to be searched before the one that has ours.
///
/// # Errors
/// When the link cannot be made.
pub fn link_reference_macvlan(folder: &Path, reference: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    match std::os::unix::fs::symlink(reference.join("macvlan"), folder.join("macvlan")) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn plugin_type(conf: &Map<String, Value>) -> Result<&str, RuntimeError> {
    conf.get("type").and_then(Value::as_str).ok_or_else(|| RuntimeError::Conflist("a plugin without type".into()))
}

fn has_check(version: &str) -> bool {
    schemas::cni::version::CniVersion::parse(version).is_none_or(schemas::cni::version::CniVersion::has_check)
}
