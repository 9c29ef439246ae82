//! A real API server: what the cluster mode stands on.

// Tests with a main of their own are not tests to clippy, whose configuration permits this there.
#![allow(clippy::unwrap_used)]

mod access;
mod adopt;
mod applications;
mod bed;
mod collection;
mod controller;
mod crds;
mod faults;
mod fixed;
mod leases;
mod nics;
mod objects;
mod place;
mod pools;
mod resident;
mod seed;
mod subnets;
mod switches;

fn main() {
    // In the private world cargo has no network.
    if let Err(error) = tests::binaries::Binaries::build() {
        eprintln!("{error}");
        std::process::exit(1);
    }
    bed::run(|| {
        let trials = [
            objects::trials(),
            access::trials(),
            adopt::trials(),
            applications::trials(),
            collection::trials(),
            controller::trials(),
            crds::trials(),
            faults::trials(),
            fixed::trials(),
            leases::trials(),
            nics::trials(),
            place::trials(),
            pools::trials(),
            seed::trials(),
            subnets::trials(),
            switches::trials(),
        ];
        trials.into_iter().flatten().collect()
    });
}
