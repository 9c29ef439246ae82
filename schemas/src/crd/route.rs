//! A route as the custom resources write it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A destination and the gateway towards it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Route {
    /// The destination as a CIDR.
    #[schemars(length(max = 50))]
    pub dst: String,
    /// The address of the gateway, of the same family.
    #[schemars(length(max = 45))]
    pub gw: String,
}
