//! Reads an IGVM file with the crate `igvm`, and prints the type and launch measurement of each platform; exit 1
//! and the reason where it refuses.

use std::{env, fs, process};

use igvm::{IgvmFile, IgvmSerializer};

fn refuse(reason: String) -> ! {
    println!("{reason}");
    process::exit(1);
}

fn main() {
    let bytes = fs::read(env::args().nth(1).expect("a file")).expect("a readable file");
    let file = IgvmFile::new_from_binary(&bytes, None).unwrap_or_else(|e| refuse(e.to_string()));
    let measured = IgvmSerializer::new(&file).unwrap_or_else(|e| refuse(e.to_string()));
    for one in measured.measurements() {
        let digest: String = one.digest.iter().map(|byte| format!("{byte:02x}")).collect();
        println!("{} {digest}", one.platform.0);
    }
}
