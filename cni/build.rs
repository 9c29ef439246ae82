//! Spares the plugins one shared library at every start.

use std::path::PathBuf;
use std::{env, fs};

/// The standard library asks for `-lgcc_s`; this linker script of that name gives the same code from the static archives.
const SCRIPT: &str = "GROUP ( -lgcc_eh -lgcc )\n";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is_optimized = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let is_glibc = env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|environment| environment == "gnu");
    if !is_optimized || !is_glibc {
        return;
    }
    let folder = PathBuf::from(env::var_os("OUT_DIR").expect("cargo gives build scripts OUT_DIR"));
    fs::write(folder.join("libgcc_s.so"), SCRIPT).expect("OUT_DIR can be written to");
    println!("cargo:rustc-link-search=native={}", folder.display());
}
