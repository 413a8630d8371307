// Included by entry libraries that redirect nothing: the assembly, its names, and how the core is opened.

/// The names behind the trampolines.
mod names {
    include!(concat!(env!("OUT_DIR"), "/names.rs"));
}

std::arch::global_asm!(
    include_str!(concat!(env!("OUT_DIR"), "/entries.s")),
    open = sym open,
    options(att_syntax)
);

/// Told apart by the server, which refuses to load a client library as its driver.
#[unsafe(no_mangle)]
pub static vgpu_client_library: u32 = 1;

/// Called by a trampoline whose table is not there yet; answers the table of `key`.
extern "C" fn open(key: u32) -> *const *const () {
    let (count, fingerprint) = names::OWN;
    vgpu_entry::open_core(&raw const vgpu_client_library, key, count, fingerprint)
}
