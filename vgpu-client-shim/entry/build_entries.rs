// The build script of both entry libraries: writes the trampolines, their names and the version script.
//
// Why assembly: an entry point passes its arguments on untouched, whatever they are, so one form serves all names.
// `.symver name@@@node` gives each symbol its own version node; rustc's default linker (lld) accepts a version
// script beside rustc's own. GNU ld does not: build these libraries with the default linker.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

include!("../symbols/list.rs");

/// Writes everything for the entry library of `exported`, one of [`MAJORS`].
fn build(exported: u32) {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let symbols = symbols(&here.join("../../symbols/cudart.txt"));
    let mut assembly = String::new();
    let mut names = String::new();
    for (column, major) in MAJORS.into_iter().enumerate() {
        let of_major: Vec<&str> = of_major(&symbols, column).map(|(name, _)| name).collect();
        trampolines(&mut assembly, major, &of_major, major == exported);
        writeln!(names, "/// The names of major {major}, in the order of its table.").expect("a String takes all");
        writeln!(names, "pub(crate) static NAMES_{major}: [&str; {}] = {of_major:#?};", of_major.len())
            .expect("a String takes all");
        writeln!(
            names,
            "/// Fingerprint of [`NAMES_{major}`].\npub(crate) const FINGERPRINT_{major}: u64 = {:#x};",
            fingerprint(of_major.iter().copied())
        )
        .expect("a String takes all");
    }
    write(&out.join("entries.s"), &assembly);
    write(&out.join("names.rs"), &names);

    let soname = format!("libcudart.so.{exported}");
    let script = out.join("versions.map");
    write(&script, &format!("{soname} {{ }};\n"));
    println!("cargo:rustc-cdylib-link-arg=-Wl,--version-script={}", script.display());
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,{soname}");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,initfirst");
    println!("cargo:rerun-if-changed=../build_entries.rs");
    println!("cargo:rerun-if-changed=../../symbols/list.rs");
    link_folder(&out, &soname, exported);
}

/// One trampoline a name; all jump through the table of their major, which the first call fetches from the core.
fn trampolines(text: &mut String, major: u32, names: &[&str], exported: bool) {
    let mut line = |part: &str| {
        text.push_str(part);
        text.push('\n');
    };
    line(".text");
    for (index, name) in names.iter().enumerate() {
        if exported {
            // The label has a name of its own, which `.symver` with three @ replaces by the versioned one.
            line(&format!(".globl vgpu_entry_{name}\n.type vgpu_entry_{name},@function"));
            line(&format!(".symver vgpu_entry_{name}, {name}@@@libcudart.so.{major}"));
            line(&format!(".p2align 4\nvgpu_entry_{name}:"));
        } else {
            line(".p2align 4");
        }
        line(&format!(".Lentry_{major}_{index}:\nendbr64\nmovq .Ltable_{major}(%rip), %r11"));
        line(&format!("testq %r11, %r11\nje .Lfirst_{major}_{index}\njmpq *{}(%r11)", index * 8));
        line(&format!(".Lfirst_{major}_{index}:\nmovl ${index}, %r11d\njmp .Lopen_{major}"));
        if exported {
            line(&format!(".size vgpu_entry_{name}, .-vgpu_entry_{name}"));
        }
    }
    // Keeps every argument register over the call that opens the core, then jumps as the trampoline would have.
    line(&format!(".Lopen_{major}:\npushq %rbp\nmovq %rsp, %rbp\nandq $-16, %rsp\nsubq $208, %rsp"));
    let registers = ["rdi", "rsi", "rdx", "rcx", "r8", "r9", "rax", "r11"];
    for (slot, register) in registers.iter().enumerate() {
        line(&format!("movq %{register}, {}(%rsp)", 128 + slot * 8));
    }
    for register in 0..8 {
        line(&format!("movups %xmm{register}, {}(%rsp)", register * 16));
    }
    line(&format!("movl ${major}, %edi\ncall {{open}}\nmovq %rax, .Ltable_{major}(%rip)\nmovq %rax, %r10"));
    for register in 0..8 {
        line(&format!("movups {}(%rsp), %xmm{register}", register * 16));
    }
    for (slot, register) in registers.iter().enumerate() {
        line(&format!("movq {}(%rsp), %{register}", 128 + slot * 8));
    }
    line("movq %rbp, %rsp\npopq %rbp\njmpq *(%r10,%r11,8)");
    line(&format!(".bss\n.p2align 3\n.Ltable_{major}:\n.zero 8"));
    // Where the redirect finds the trampolines: offsets, so that the loader has nothing to relocate.
    line(&format!(".section .rodata\n.p2align 2\n.globl vgpu_offsets_{major}\n.hidden vgpu_offsets_{major}"));
    line(&format!("vgpu_offsets_{major}:"));
    for index in 0..names.len() {
        line(&format!(".long .Lentry_{major}_{index}-vgpu_offsets_{major}"));
    }
}

/// `target/<profile>/shim/` holds the libraries under the names that programs ask for, as links.
fn link_folder(out: &Path, soname: &str, major: u32) {
    let Some(profile) = out.ancestors().nth(3) else { return };
    let folder = profile.join("shim");
    let links = [(soname.to_owned(), format!("../libvgpu_cudart{major}.so")),
                 ("libvgpu_core.so".to_owned(), "../libvgpu_core.so".to_owned())];
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
