//! Writes the trampolines of `libcuda.so.1`.

include!("../build_entries.rs");

fn main() {
    build(100);
}
