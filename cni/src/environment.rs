//! The environment of a call: the specification's `CNI_*` variables and dragline's own.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use schemas::cni::args::CniArgs;
use schemas::cni::error::CniError;
use schemas::name::AttachmentKey;
use schemas::wire::{DEFAULT_SOCKET, DEFAULT_STATE_DIR};

use crate::spool::Spool;

const COMMAND: &str = "CNI_COMMAND";
const CONTAINER: &str = "CNI_CONTAINERID";
const NETNS: &str = "CNI_NETNS";
const IFNAME: &str = "CNI_IFNAME";
const ARGS: &str = "CNI_ARGS";
const PATH: &str = "CNI_PATH";
const SOCKET: &str = "DRAGLINE_SOCKET";
const STATE_DIR: &str = "DRAGLINE_STATE_DIR";
const DEADLINE: &str = "DRAGLINE_DEADLINE_MS";
const KNOWN: [&str; 9] = [COMMAND, CONTAINER, NETNS, IFNAME, ARGS, PATH, SOCKET, STATE_DIR, DEADLINE];

/// `CNI_COMMAND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// ADD.
    Add,
    /// DEL.
    Del,
    /// CHECK, since 0.4.0.
    Check,
    /// GC, since 1.1.0.
    Gc,
    /// STATUS, since 1.1.0.
    Status,
    /// VERSION.
    Version,
}

impl Verb {
    /// As the specification writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// How long the agent has for an answer: DEL has the spool to fall back on, the others nothing.
    pub(crate) fn patience(self) -> Duration {
        match self {
            Self::Del => Duration::from_secs(5),
            Self::Add | Self::Check | Self::Gc | Self::Status | Self::Version => Duration::from_secs(20),
        }
    }
}

/// The variables as they were given; what of them is needed is checked when it is asked for, because DEL must not fail
/// for a variable that it has no use for. An empty one counts as missing.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<&'static str, OsString>);

impl Environment {
    /// The process's own.
    pub fn of_process() -> Self {
        Self::from_lookup(|name| std::env::var_os(name))
    }

    /// What `lookup` knows of the names that matter.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Self {
        let given = KNOWN.into_iter().filter_map(|name| Some((name, lookup(name)?)));
        Self(given.filter(|(_, value)| !value.is_empty()).collect())
    }

    /// Whether a runtime is the caller.
    pub fn is_cni_call(&self) -> bool {
        self.0.contains_key(COMMAND)
    }

    /// `CNI_COMMAND`.
    ///
    /// # Errors
    /// [`CniError::INVALID_ENVIRONMENT`] when it is missing or not known.
    pub fn verb(&self) -> Result<Verb, CniError> {
        let text = self.required(COMMAND)?;
        [Verb::Add, Verb::Del, Verb::Check, Verb::Gc, Verb::Status, Verb::Version]
            .into_iter()
            .find(|verb| verb.as_str() == text)
            .ok_or_else(|| invalid(format!("unknown CNI_COMMAND: {text:?}")))
    }

    /// `CNI_CONTAINERID` and `CNI_IFNAME`.
    ///
    /// # Errors
    /// [`CniError::INVALID_ENVIRONMENT`] when one is missing or invalid.
    pub fn key(&self) -> Result<AttachmentKey, CniError> {
        self.all_present(&[CONTAINER, IFNAME])?;
        let container = self.required(CONTAINER)?.parse().map_err(|error| invalid(format!("{CONTAINER}: {error}")))?;
        let ifname = self.required(IFNAME)?.parse().map_err(|error| invalid(format!("{IFNAME}: {error}")))?;
        Ok(AttachmentKey { container, ifname })
    }

    /// The attachment and `CNI_NETNS`, which ADD and CHECK cannot do without. Whether the path is a namespace is for
    /// the agent to see, which opens it.
    ///
    /// # Errors
    /// [`CniError::INVALID_ENVIRONMENT`] when one is missing or invalid.
    pub fn key_and_netns(&self) -> Result<(AttachmentKey, String), CniError> {
        self.all_present(&[CONTAINER, NETNS, IFNAME])?;
        let netns = self.required(NETNS)?;
        if !netns.starts_with('/') {
            return Err(invalid(format!("{NETNS}: {netns:?} is not an absolute path")));
        }
        Ok((self.key()?, netns.to_owned()))
    }

    /// `CNI_ARGS`.
    ///
    /// # Errors
    /// [`CniError::INVALID_ENVIRONMENT`] when it is not understood.
    pub fn arguments(&self) -> Result<CniArgs, CniError> {
        CniArgs::parse(self.text(ARGS)?.unwrap_or_default())
    }

    /// `CNI_PATH`: where other plugins are.
    pub fn plugin_path(&self) -> Option<&OsStr> {
        self.0.get(PATH).map(OsString::as_os_str)
    }

    /// Where the agent listens, unless the network configuration says otherwise.
    pub fn socket(&self) -> PathBuf {
        self.0.get(SOCKET).map_or_else(|| DEFAULT_SOCKET.into(), PathBuf::from)
    }

    /// Where withdrawals go while the agent is away.
    pub fn spool(&self) -> Spool {
        Spool::below(&self.0.get(STATE_DIR).map_or_else(|| DEFAULT_STATE_DIR.into(), PathBuf::from))
    }

    /// How long the agent has for an answer: `DRAGLINE_DEADLINE_MS`, else the verb's own.
    ///
    /// # Errors
    /// [`CniError::INVALID_ENVIRONMENT`] when the variable is no number of milliseconds; never for DEL.
    pub fn deadline(&self, verb: Verb) -> Result<Duration, CniError> {
        let asked = self.text(DEADLINE).and_then(|text| match text.map(str::parse::<u32>) {
            None => Ok(verb.patience()),
            Some(Ok(millis)) if millis > 0 => Ok(Duration::from_millis(millis.into())),
            Some(_) => Err(invalid(format!("{DEADLINE} is not a number of milliseconds from 1 to {}", u32::MAX))),
        });
        if verb == Verb::Del { Ok(asked.unwrap_or_else(|_| verb.patience())) } else { asked }
    }

    fn text(&self, name: &str) -> Result<Option<&str>, CniError> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        value.to_str().map(Some).ok_or_else(|| invalid(format!("{name} is not UTF-8")))
    }

    fn required(&self, name: &str) -> Result<&str, CniError> {
        self.text(name)?.ok_or_else(|| missing(&[name]))
    }

    /// All that is missing in one message, so that nobody corrects a script variable by variable.
    fn all_present(&self, names: &[&str]) -> Result<(), CniError> {
        let absent: Vec<&str> = names.iter().copied().filter(|name| !self.0.contains_key(name)).collect();
        if absent.is_empty() { Ok(()) } else { Err(missing(&absent)) }
    }
}

fn missing(names: &[&str]) -> CniError {
    invalid(format!("required env variables [{}] missing", names.join(",")))
}

fn invalid(text: String) -> CniError {
    CniError::new(CniError::INVALID_ENVIRONMENT, text)
}
