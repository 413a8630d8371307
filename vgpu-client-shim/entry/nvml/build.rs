//! Writes the trampolines of `libnvidia-ml.so.1`.

include!("../build_entries.rs");

fn main() {
    build(101);
}
