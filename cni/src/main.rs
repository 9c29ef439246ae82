//! `dragline-cni`: the CNI plugins `spiderpool`, `coordinator`, `macvlan`, `ipvlan` and `ifacer`, chosen by the name it is called by.

use std::process::ExitCode;

fn main() -> ExitCode {
    cni::panicking::answer_panics();
    let mut arguments = std::env::args_os();
    let called_as = arguments.next().unwrap_or_default();
    cni::start(&called_as, &arguments.collect::<Vec<_>>())
}
