// The build script of the entry libraries: writes the trampolines, their names and the version script.
//
// Why assembly: an entry point passes its arguments on untouched, whatever they are, so one form serves all names.
// `.symver name@@@node` gives each symbol its own version node; rustc's default linker (lld) accepts a version
// script beside rustc's own. GNU ld does not: build these libraries with the default linker.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

include!("../symbols/list.rs");

/// Writes everything for the entry library of `key`, one of [`LIBRARIES`].
///
/// A library of the runtime holds the trampolines of both majors, for the redirect of static runtimes; only its own
/// are exported.
fn build(key: u32) {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let own = LIBRARIES.iter().find(|library| library.key == key).expect("an entry library is in the list");
    let mut assembly = String::new();
    let mut names = String::new();
    for library in LIBRARIES.iter().filter(|library| library.list == own.list) {
        let Library { key, soname, .. } = library;
        let symbols = library.symbols(&here.join("../../symbols"));
        let all: Vec<&str> = symbols.iter().map(|(name, _)| name.as_str()).collect();
        trampolines(&mut assembly, library, &all, library.key == own.key);
        writeln!(names, "/// The names of `{soname}`, in the order of its table.").expect("a String takes all");
        writeln!(names, "pub(crate) static NAMES_{key}: [&str; {}] = {all:#?};", all.len())
            .expect("a String takes all");
        writeln!(
            names,
            "/// Fingerprint of [`NAMES_{key}`].\npub(crate) const FINGERPRINT_{key}: u64 = {:#x};",
            fingerprint(all.iter().copied())
        )
        .expect("a String takes all");
        if library.key == own.key {
            writeln!(
                names,
                "/// The names and their fingerprint, of the library itself.\n\
                 #[allow(dead_code, reason = \"libraries that redirect use the names of their majors\")]\n\
                 pub(crate) const OWN: (usize, u64) = (NAMES_{key}.len(), FINGERPRINT_{key});"
            )
            .expect("a String takes all");
        }
    }
    write(&out.join("entries.s"), &assembly);
    write(&out.join("names.rs"), &names);

    let soname = own.soname;
    let script = out.join("versions.map");
    write(&script, &format!("{} {{ }};\n", own.version_node()));
    println!("cargo:rustc-cdylib-link-arg=-Wl,--version-script={}", script.display());
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,{soname}");
    if own.root == "runtime" {
        // Its constructor redirects static runtimes before anything registers with them.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,initfirst");
    }
    println!("cargo:rerun-if-changed=../build_entries.rs");
    println!("cargo:rerun-if-changed=../../symbols/list.rs");
    link_folder(&out, own);
}

/// One trampoline a name; all jump through the table of their library, which the first call fetches from the core.
fn trampolines(text: &mut String, library: &Library, names: &[&str], exported: bool) {
    let (key, node) = (library.key, library.version_node());
    let mut line = |part: &str| {
        text.push_str(part);
        text.push('\n');
    };
    line(".text");
    for (index, name) in names.iter().enumerate() {
        if exported {
            // The label has a name of its own, which `.symver` with three @ replaces by the versioned one.
            line(&format!(".globl vgpu_entry_{name}\n.type vgpu_entry_{name},@function"));
            line(&format!(".symver vgpu_entry_{name}, {name}@@@{node}"));
            line(&format!(".p2align 4\nvgpu_entry_{name}:"));
        } else {
            line(".p2align 4");
        }
        line(&format!(".Lentry_{key}_{index}:\nendbr64\nmovq .Ltable_{key}(%rip), %r11"));
        line(&format!("testq %r11, %r11\nje .Lfirst_{key}_{index}\njmpq *{}(%r11)", index * 8));
        line(&format!(".Lfirst_{key}_{index}:\nmovl ${index}, %r11d\njmp .Lopen_{key}"));
        if exported {
            line(&format!(".size vgpu_entry_{name}, .-vgpu_entry_{name}"));
        }
    }
    // Keeps every argument register over the call that opens the core, then jumps as the trampoline would have.
    line(&format!(".Lopen_{key}:\npushq %rbp\nmovq %rsp, %rbp\nandq $-16, %rsp\nsubq $208, %rsp"));
    let registers = ["rdi", "rsi", "rdx", "rcx", "r8", "r9", "rax", "r11"];
    for (slot, register) in registers.iter().enumerate() {
        line(&format!("movq %{register}, {}(%rsp)", 128 + slot * 8));
    }
    for register in 0..8 {
        line(&format!("movups %xmm{register}, {}(%rsp)", register * 16));
    }
    line(&format!("movl ${key}, %edi\ncall {{open}}\nmovq %rax, .Ltable_{key}(%rip)\nmovq %rax, %r10"));
    for register in 0..8 {
        line(&format!("movups {}(%rsp), %xmm{register}", register * 16));
    }
    for (slot, register) in registers.iter().enumerate() {
        line(&format!("movq {}(%rsp), %{register}", 128 + slot * 8));
    }
    line("movq %rbp, %rsp\npopq %rbp\njmpq *(%r10,%r11,8)");
    line(&format!(".bss\n.p2align 3\n.Ltable_{key}:\n.zero 8"));
    // Where the redirect finds the trampolines: offsets, so that the loader has nothing to relocate.
    line(&format!(".section .rodata\n.p2align 2\n.globl vgpu_offsets_{key}\n.hidden vgpu_offsets_{key}"));
    line(&format!("vgpu_offsets_{key}:"));
    for index in 0..names.len() {
        line(&format!(".long .Lentry_{key}_{index}-vgpu_offsets_{key}"));
    }
}

/// `target/<profile>/shim/` holds the libraries under the names that programs ask for, as links.
fn link_folder(out: &Path, library: &Library) {
    let Some(profile) = out.ancestors().nth(3) else { return };
    let folder = profile.join("shim");
    let artifact = format!("../{}", library.artifact);
    let links = [(library.soname, artifact.as_str()),
                 // Programs that look for a library without its version, such as those of cudarc.
                 (library.soname.trim_end_matches(".1"), artifact.as_str()),
                 ("libvgpu_core.so", "../libvgpu_core.so")];
    if std::fs::create_dir_all(&folder).is_ok() {
        for (link, target) in links {
            // Present already, or not to be had on this file system: a plain copy serves as well.
            let _ = std::os::unix::fs::symlink(target, folder.join(link));
        }
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}
