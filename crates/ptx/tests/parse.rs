//! The syntax, by small texts.

use ptx::ast::Name;
use ptx::{Module, Operand, ScalarType, Statement};

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

fn parse(text: &str) -> Module {
    Module::parse(&format!("{HEAD}{text}")).unwrap()
}

fn line_of_error(text: &str) -> u32 {
    Module::parse(&format!("{HEAD}{text}")).unwrap_err().line
}

#[test]
fn a_kernel_keeps_its_parameters_in_order_with_packed_offsets() {
    let module = parse(
        ".visible .entry k(.param .u8 a, .param .u64 .ptr .global .align 4 b, .param .align 4 .b8 c[12]) { ret; }",
    );
    let layout = module.functions[0].param_layout();
    let shape: Vec<_> = layout.iter().map(|p| (p.size, p.align, p.offset)).collect();
    assert_eq!(shape, [(1, 1, 0), (8, 8, 8), (12, 4, 16)]);
    assert_eq!((module.version, module.target), ((8, 0), 80));
}

#[test]
fn nested_scopes_have_their_own_registers_and_labels() {
    let module = parse(
        ".entry k() { .reg .b32 %r<4>; { .reg .b64 t; mov.b64 t, 1; L: bra L; } \
         { .reg .b16 t; mov.b16 t, 2; L: bra L; } mov.b32 %r3, %tid.x; ret; }",
    );
    let body = module.functions[0].body.as_ref().unwrap();
    assert_eq!(body.registers, [ScalarType::B64, ScalarType::B16, ScalarType::B32]);
    assert_eq!(body.names, [Name::Label(0), Name::Label(1)]);
}

#[test]
fn a_label_ahead_and_a_symbol_are_told_apart() {
    let module =
        parse(".global .u32 g; .entry k() { .reg .b64 %rd<2>; bra.uni END; mov.u64 %rd1, g+8; END: ret; }");
    let body = module.functions[0].body.as_ref().unwrap();
    assert_eq!(body.names, [Name::Label(0), Name::Symbol("g".into())]);
    let Statement::Instruction(mov) = &body.statements[1] else { panic!("an instruction") };
    assert_eq!(mov.operands, [Operand::Register(0), Operand::Name(1, 8)]);
}

#[test]
fn addresses_vectors_pairs_and_lists_are_operands() {
    let module = parse(
        ".entry k() { .reg .b32 %r<9>; .reg .pred %p<2>; .reg .b64 %d<2>; .param .b32 a; \
         ld.global.v2.u32 {%r1, _}, [%d1+-16]; @!%p1 shfl.sync.down.b32 %r1|%p1, %r2, 1, 31, -1; \
         call (a), f, (a, 4); }",
    );
    let body = module.functions[0].body.as_ref().unwrap();
    let Statement::Instruction(ld) = &body.statements[0] else { panic!("an instruction") };
    assert_eq!(ld.operands[1], Operand::Address(vec![Operand::Register(1)], -16));
    assert_eq!(ld.operands[0], Operand::Vector(vec![Operand::Register(0), Operand::Sink]));
    let Statement::Instruction(shfl) = &body.statements[1] else { panic!("an instruction") };
    assert!(matches!(shfl.operands[0], Operand::Pair(..)));
    assert_eq!(shfl.guard.map(|g| g.1), Some(true));
    assert_eq!(shfl.operands[4], Operand::Int(u64::MAX));
}

#[test]
fn initialisers_hold_bytes_and_addresses() {
    let module = parse(
        ".global .align 8 .u64 p[2] = {generic(x), x+4}; .global .f32 f = 0f3F800000; \
         .const .align 2 .b8 s[] = {1, 0x2, -1}; .global .u32 x = 7;",
    );
    let p = &module.variables[0];
    assert_eq!((p.bytes, p.relocations.len()), (16, 2));
    assert!(p.relocations[0].generic);
    assert_eq!((p.relocations[1].offset, p.relocations[1].addend), (8, 4));
    assert_eq!(module.variables[1].init, 1.0_f32.to_le_bytes());
    assert_eq!((module.variables[2].bytes, &module.variables[2].init[..]), (3, &[1, 2, 255][..]));
}

#[test]
fn an_unknown_instruction_is_no_mistake_of_syntax() {
    let module = parse(".entry k() { .reg .b32 %r<2>; frob.L2::128B.b32 %r1, [%r1], {%r1, %r1}; ret; }");
    assert_eq!(&*module.opcodes[0].text, "frob.L2::128B.b32");
}

#[test]
fn a_mistake_of_syntax_names_its_line() {
    assert_eq!(line_of_error(".entry k()\n{\n add.s32 %r1 %r2;\n}"), 6);
    assert_eq!(line_of_error("\n/* no end"), 5);
    assert!(Module::parse("").is_err());
    assert!(Module::parse(&format!("{HEAD}.entry k() {{ ret;")).is_err());
}
