//! Checks as they are made, and the form in which they are told.

use std::fmt::Display;
use std::io::IsTerminal;

use serde_json::{Value, json};

/// The form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// For a terminal.
    Coloured,
    /// For people.
    Plain,
    /// One object at the end, nothing else on standard output.
    Json,
}

impl Form {
    /// For people: coloured on a terminal whose user has nothing against it (no-color.org).
    pub(crate) fn for_people() -> Self {
        let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if std::io::stdout().is_terminal() && !is_unwanted { Self::Coloured } else { Self::Plain }
    }
}

/// One thing that must hold.
#[derive(Debug)]
struct Check {
    name: String,
    ok: bool,
    detail: String,
}

/// All of them, told as they come.
#[derive(Debug)]
pub(crate) struct Checks {
    form: Form,
    made: Vec<Check>,
}

impl Checks {
    pub(crate) fn new(form: Form) -> Self {
        Self { form, made: Vec::new() }
    }

    /// A heading.
    pub(crate) fn chapter(&self, text: &str) {
        match self.form {
            Form::Coloured => println!("\n\x1b[1m{text}\x1b[0m"),
            Form::Plain => println!("\n== {text}"),
            Form::Json => {}
        }
    }

    /// A command and what it printed.
    pub(crate) fn shown(&self, command: &str, output: &str) {
        match self.form {
            Form::Coloured => println!("\x1b[36m# {command}\x1b[0m\n{}", output.trim_end()),
            Form::Plain => println!("# {command}\n{}", output.trim_end()),
            Form::Json => {}
        }
    }

    /// A sentence.
    pub(crate) fn say(&self, text: &str) {
        if self.form != Form::Json {
            println!("{text}");
        }
    }

    /// What must hold, and what was seen.
    pub(crate) fn check(&mut self, name: impl Display, outcome: Result<String, String>) {
        let ok = outcome.is_ok();
        let detail = outcome.unwrap_or_else(|detail| detail);
        let check = Check { name: name.to_string(), ok, detail };
        let (mark, colour) = if ok { ("ok    ", "\x1b[32m") } else { ("NOT OK", "\x1b[31m") };
        let told = if check.detail.is_empty() { String::new() } else { format!("  {}", check.detail) };
        match self.form {
            Form::Coloured => println!("{colour}{mark}\x1b[0m {}{told}", check.name),
            Form::Plain => println!("{mark} {}{told}", check.name),
            Form::Json => {}
        }
        self.made.push(check);
    }

    /// That two texts are the same; both are shown when not.
    pub(crate) fn same(&mut self, name: impl Display, found: &str, wanted: &str) {
        let outcome = if found == wanted {
            Ok(format!("{} lines as expected", wanted.lines().count()))
        } else {
            Err(format!("is not as expected\n--- expected\n{wanted}\n--- found\n{found}\n---"))
        };
        self.check(name, outcome);
    }

    /// How many hold, and how many do not.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let held = self.made.iter().filter(|check| check.ok).count();
        (held, self.made.len() - held)
    }

    /// The object of `-o json`.
    pub(crate) fn to_json(&self, repair: (f64, f64)) -> Value {
        let checks: Vec<Value> =
            self.made.iter().map(|check| json!({"name": check.name, "ok": check.ok, "detail": check.detail})).collect();
        json!({"checks": checks, "repair_ms": {"p50": repair.0, "max": repair.1}})
    }
}
