//! Where in a custom resource something is wrong.

use std::fmt::{Debug, Display};

use serde::{Deserialize, Deserializer};

/// A field that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {fault}")]
pub struct FieldError<F: Debug + Display> {
    /// The path below the object, as the API server writes it: `spec.ips[1]`.
    pub field: String,
    /// The rule, and how to keep it.
    pub fault: F,
}

impl<F: Debug + Display> FieldError<F> {
    pub(super) fn new(field: impl Into<String>, fault: impl Into<F>) -> Self {
        Self { field: field.into(), fault: fault.into() }
    }
}

/// A key without a value is an absent key: the API server drops such nulls, and so does reading from a file.
pub(super) fn null_is_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default())
}
