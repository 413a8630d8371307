//! `docs/ptx-coverage.md` says what the compiler says of each family of `families.txt`: it compiles, or is refused by
//! name while the module loads.

use std::fmt::Write as _;
use std::path::Path;

use proto::{Device, ModuleCalls};
use soft_gpu::{SoftGpu, SoftOptions};

/// What stands around every instruction: registers of each kind, and a variable in each space.
const HEAD: &str = ".version 9.0\n.target sm_100a\n.address_size 64\n\
    .extern .func (.param .b32 r) vprintf(.param .b64 f, .param .b64 a);\n\
    .extern .func __assertfail(.param .b64 a, .param .b64 b, .param .b32 c, .param .b64 d, .param .b64 e);\n\
    .extern .func (.param .b64 r) malloc(.param .b64 a);\n.extern .func free(.param .b64 a);\n\
    .extern .func (.param .b32 r) cudaDeviceSynchronize();\n\
    .func (.param .b32 r) function(.param .b32 a) { ret; }\n\
    .global .align 4 .u32 symbol;\n.const .align 4 .f32 constant;\n.shared .align 8 .b64 shared_word;\n";
const REGISTERS: &str = "{ .reg .b16 %rs<8>; .reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .b128 %q<4>; .reg .f32 %f<8>;\n\
    .reg .f64 %fd<8>; .reg .pred %p<4>; .local .align 8 .b64 local_word;\n\
    .param .b32 result; .param .b32 argument; .param .b64 pointer;\n\
    prototype: .callprototype (.param .b32 _) _ (.param .b32 _);\n";

#[test]
fn the_page_of_instructions_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/ptx-coverage.md");
    let page = page();
    if std::env::var_os("VGPU_WRITE_PAGES").is_some() {
        std::fs::write(&path, &page).expect("writable");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "run: VGPU_WRITE_PAGES=1 cargo test -p soft-gpu --test families");
}

#[test]
fn what_is_refused_is_one_kernel_by_instruction_and_line() {
    let gpu = device();
    let text = format!(
        "{HEAD}.visible .entry good() {{ ret; }}\n\
         .visible .entry bad()\n{{\n    wgmma.fence.sync.aligned;\n    ret;\n}}\n\
         .visible .entry two() .reqnctapercluster 2, 1, 1 {{ ret; }}\n\
         .visible .entry one() .reqnctapercluster 1 {{ ret; }}\n"
    );
    let line = text.lines().position(|line| line.contains("wgmma")).expect("it is there") + 1;
    let (_, facts) = gpu.cuModuleLoadData(vec![text.as_bytes()]).expect("it loads");
    let why = |name| facts.functions.iter().find(|f| f.name == name).expect("a kernel").unsupported.clone();
    assert_eq!(why("good"), None);
    assert_eq!(why("one"), None);
    let bad = why("bad").expect("it is refused");
    assert!(bad.contains("wgmma.fence.sync.aligned") && bad.contains(&line.to_string()), "{bad}");
    assert!(why("two").expect("it is refused").contains("clusters"));
}

fn device() -> SoftGpu {
    let gpu = SoftGpu::open(0, SoftOptions::default()).expect("a software GPU");
    // Tests of one process share the address space.
    let window = (0..8).map(|slot| 0x2100_0000_0000 + (slot << 30));
    window.into_iter().find(|base| gpu.reserve_window(*base, 1 << 30).is_ok()).expect("room for a window");
    gpu
}

fn page() -> String {
    let gpu = device();
    let (mut rows, mut extra) = (String::new(), String::new());
    let (mut families, mut supported) = (0, 0);
    for line in include_str!("families.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let mut columns = line.splitn(3, " | ");
        let mut column = || columns.next().expect("three columns");
        let (programs, family, instruction) = (column(), column(), column());
        let answer = answer(&gpu, instruction);
        let by_hand = programs == "-";
        if !by_hand {
            families += 1;
            supported += usize::from(answer == "supported");
        }
        let first = instruction.split_once(' ').map_or(instruction, |(opcode, _)| opcode);
        let opcode = if first == "{" { "st.param.b32" } else { first };
        let target = if by_hand { &mut extra } else { &mut rows };
        let family = family.replace('|', "\\|");
        if by_hand {
            writeln!(target, "| {family} | `{opcode}` | {answer} |").expect("a string");
        } else {
            writeln!(target, "| {family} | {programs} | `{opcode}` | {answer} |").expect("a string");
        }
    }
    format!(
        "# PTX that the software GPU runs\n\n\
         {supported} of the {families} families of instructions that 614 compiled CUDA programs hold, most used first, with how many\n\
         programs hold one and an instruction that stands for it. What is refused fails its kernel at launch, with instruction and\n\
         line, and not its module. What each instruction must give is in `crates/soft-gpu/tests/corpus`.\n\n\
         This page is written from `crates/soft-gpu/tests/families.txt`; a test keeps it so\n\
         (`VGPU_WRITE_PAGES=1 cargo test -p soft-gpu --test families` writes it anew).\n\n\
         | family | programs | for example | status |\n| --- | --- | --- | --- |\n{rows}\n\
         ## What libraries use by hand\n\n| family | for example | status |\n| --- | --- | --- |\n{extra}"
    )
}

/// `supported`, or `unsupported` and why the kernel that holds the instruction is refused. The module loads in either case.
fn answer(gpu: &SoftGpu, instruction: &str) -> String {
    let end = if instruction.ends_with('}') && instruction.starts_with("{ ") { "" } else { ";" };
    let text = format!(
        "{HEAD}.visible .entry kernel(.param .u64 out)\n{REGISTERS}{instruction}{end}\nEND: ret;\n}}\n"
    );
    let (module, facts) = match gpu.cuModuleLoadData(vec![text.as_bytes()]) {
        Ok(loaded) => loaded,
        Err(error) => panic!("{instruction}: the module does not load: {error:?}"),
    };
    let why = facts.functions.iter().find(|f| f.name == "kernel").expect("the kernel").unsupported.clone();
    gpu.cuModuleUnload(module).expect("it unloads");
    why.map_or_else(
        || "supported".into(),
        |why| format!("unsupported: {}", why.rsplit(": ").next().unwrap_or_default()),
    )
}
