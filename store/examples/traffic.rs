//! A writer that says how far it is, so that whoever cuts its power knows what must be there afterwards.
//!
//! ```text
//! traffic check DIR SEED ACKNOWLEDGED ASKED      opens the store and says `found N`, or `broken: why`
//! traffic write DIR SEED ACKNOWLEDGED ASKED      the same, then for ever: `try N`, the N-th change, `ok N`
//! ```
//! `ACKNOWLEDGED` changes must be there and no more than `ASKED` can be.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use store::Store;

#[path = "../tests/store/sample.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
#[allow(clippy::unwrap_used, reason = "its texts are fixed ones")]
mod sample;
#[path = "../tests/store/traffic.rs"]
mod traffic;

struct Orders<'a> {
    goes_on: bool,
    dir: &'a Path,
    seed: u64,
    acknowledged: u64,
    asked: u64,
}

fn understood(arguments: &[String]) -> Option<Orders<'_>> {
    let [verb, dir, seed, acknowledged, asked] = arguments else { return None };
    let goes_on = match verb.as_str() {
        "write" => true,
        "check" => false,
        _ => return None,
    };
    let [seed, acknowledged, asked] = [seed, acknowledged, asked].map(|text| text.parse().ok());
    Some(Orders { goes_on, dir: Path::new(dir), seed: seed?, acknowledged: acknowledged?, asked: asked? })
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(orders) = understood(&arguments) else {
        eprintln!("usage: traffic write|check DIR SEED ACKNOWLEDGED ASKED");
        return ExitCode::from(2);
    };
    match obey(&orders) {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            // Nobody may be listening any more; the exit status tells it too.
            let _ = say(&format!("broken: {}", what.replace('\n', " ")));
            ExitCode::FAILURE
        }
    }
}

/// One write for each line.
fn say(line: &str) -> Result<(), String> {
    io::stdout().lock().write_all(format!("{line}\n").as_bytes()).map_err(|error| format!("nobody listens: {error}"))
}

fn obey(orders: &Orders<'_>) -> Result<(), String> {
    let store = Store::open(orders.dir, sample::NODE, sample::BOOT).map_err(|error| format!("{error}: {error:?}"))?;
    let snapshot = store.load().map_err(|error| error.to_string())?;
    let found = traffic::turns_in(&snapshot, orders.seed, orders.acknowledged, orders.asked)?;
    say(&format!("found {found}"))?;
    if orders.goes_on {
        for turn in found.. {
            let number = turn + 1;
            say(&format!("try {number}"))?;
            store.commit(traffic::change(orders.seed, turn)).map_err(|error| format!("change {number}: {error}"))?;
            say(&format!("ok {number}"))?;
        }
    }
    store.close();
    Ok(())
}
