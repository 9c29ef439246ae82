//! `dragline crds`.

use super::Failure;
use super::ask::print;

pub(super) fn run() -> Result<(), Failure> {
    let documents: Vec<String> = schemas::crd::all().iter().map(schemas::crd::to_yaml).collect();
    print(documents.join("---\n").trim_end())
}
