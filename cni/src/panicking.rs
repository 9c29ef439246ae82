//! A defect still answers the runtime.

use std::io::{self, Write};
use std::panic;
use std::process;

use schemas::cni::error::CniError;
use schemas::cni::version::CniVersion;

use crate::error_json;

/// Makes every panic print a CNI error and end the program with 1.
pub fn answer_panics() {
    panic::set_hook(Box::new(|panicked| {
        let payload = panicked.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let what = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        let place = panicked.location().map(ToString::to_string).unwrap_or_default();
        let error = CniError::new(CniError::FAILED, "the plugin has a defect; report it, please")
            .with_details(format!("{what} ({place})"));
        let _ = writeln!(io::stdout(), "{}", error_json(&error, CniVersion::NEWEST));
        process::exit(1);
    }));
}
