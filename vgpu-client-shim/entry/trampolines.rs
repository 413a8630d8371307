// Included by both entry libraries: the assembly, its names, and what `vgpu-entry` needs to know of them.

/// The names behind the trampolines.
mod names {
    include!(concat!(env!("OUT_DIR"), "/names.rs"));
}

std::arch::global_asm!(
    include_str!(concat!(env!("OUT_DIR"), "/entries.s")),
    open = sym open,
    options(att_syntax)
);

unsafe extern "C" {
    static vgpu_offsets_12: [i32; names::NAMES_12.len()];
    static vgpu_offsets_13: [i32; names::NAMES_13.len()];
}

/// Told apart by the server, which refuses to load a client library as its driver.
#[unsafe(no_mangle)]
pub static vgpu_client_library: u32 = 1;

/// Called by a trampoline whose table is not there yet; answers the table of `major`.
extern "C" fn open(major: u32) -> *const *const () {
    let (count, fingerprint) = match major {
        12 => (names::NAMES_12.len(), names::FINGERPRINT_12),
        _ => (names::NAMES_13.len(), names::FINGERPRINT_13),
    };
    vgpu_entry::open_core(&raw const vgpu_client_library, major, count, fingerprint)
}

/// Runs before every other constructor (`-z initfirst`): redirects the static runtimes that are loaded already.
#[used]
#[unsafe(link_section = ".init_array")]
static REDIRECT: extern "C" fn() = redirect;

extern "C" fn redirect() {
    // SAFETY: both arrays are written by the build script, next to the names, and never change.
    let offsets = unsafe { [&vgpu_offsets_12[..], &vgpu_offsets_13[..]] };
    vgpu_entry::redirect_static_runtimes([
        vgpu_entry::Trampolines { major: 12, names: &names::NAMES_12, offsets: offsets[0] },
        vgpu_entry::Trampolines { major: 13, names: &names::NAMES_13, offsets: offsets[1] },
    ]);
}
