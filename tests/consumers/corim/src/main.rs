//! Reads a CoRIM with the crate `corim`, unsigned or in a COSE_Sign1; exit 1 and the reason where it refuses.

use std::{env, fs, process};

use corim::types::signed::decode_and_validate_signed_corim_at;
use corim::validate::decode_and_validate;

const SIGN1: u8 = 0xd2; // tag 18

fn main() {
    let bytes = fs::read(env::args().nth(1).expect("a file")).expect("a readable file");
    let refused = if bytes.first() == Some(&SIGN1) {
        decode_and_validate_signed_corim_at(&bytes, None, 1_800_000_000).err().map(|e| e.to_string())
    } else {
        decode_and_validate(&bytes).err().map(|e| e.to_string())
    };
    if let Some(reason) = refused {
        println!("{reason}");
        process::exit(1);
    }
    println!("ok");
}
