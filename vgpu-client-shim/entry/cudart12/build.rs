//! Writes the trampolines of `libcudart.so.12`.

include!("../build_entries.rs");

fn main() {
    build(12);
}
