//! Writes the trampolines of `libcudart.so.13`.

include!("../build_entries.rs");

fn main() {
    build(13);
}
