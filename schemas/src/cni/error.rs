//! CNI errors (specification 1.1.0, section 5, "Error").

use std::fmt;

use serde::{Deserialize, Serialize};

/// An error as a runtime reads it, without its `cniVersion`, which the plugin adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniError {
    /// The specification's number for the kind of error.
    pub code: u32,
    /// What, where and what to do, on one line.
    pub msg: String,
    /// More, where there is more to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl CniError {
    /// The specification's version is not spoken.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the configuration has a value that is not supported.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container does not exist or is not known.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// An environment variable is missing or invalid.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Input could not be read.
    pub const IO: u32 = 5;
    /// Input could not be decoded.
    pub const DECODE: u32 = 6;
    /// The network configuration is invalid.
    pub const INVALID_CONFIG: u32 = 7;
    /// A passing condition: trying again helps.
    pub const TRY_AGAIN: u32 = 11;
    /// The plugin cannot serve ADD.
    pub const NOT_AVAILABLE: u32 = 50;
    /// The plugin cannot serve ADD, and running containers may have limited connectivity.
    pub const NOT_AVAILABLE_LIMITED: u32 = 51;
    /// What is there is not what is wanted (CHECK), or a step was refused by the kernel.
    pub const FAILED: u32 = 999;

    /// An error without details.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// With details.
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.msg)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, ": {}", self.details) }
    }
}

impl std::error::Error for CniError {}
