//! The CNI specification's shapes, versions 0.3.0 to 1.1.0: network configuration, arguments, results and errors.

pub mod args;
pub mod error;
pub mod ifacer;
pub mod netconf;
pub mod result;
pub mod version;
