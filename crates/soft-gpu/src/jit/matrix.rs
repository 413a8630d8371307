//! Products of matrices and the other operations in which the lanes of a warp trade registers.
//!
//! Each lane lays its registers into a packet on its own stack, eight bytes for each, and waits. When the warp has met,
//! the scheduler does the whole operation over all packets and leaves every lane's results at the start of its own.
//!
//! Products of floating values are summed in f64, in order of `k`, and rounded once; the PTX manual leaves precision
//! and order open. Products of f64 are fused, as it asks.

use super::float8::{e4m3_to_f32, e5m2_to_f32};
use super::fragment::{AND, Element, Part, SATURATE, Shape};
use super::numeric::{f16_to_f32, f64_to_f16};

/// Registers that the largest operation takes from a lane.
pub(crate) const PACKET_WORDS: usize = 24;

/// What each lane brought, and then what it gets.
pub(crate) type Packets = [[u64; PACKET_WORDS]; 32];

/// An operation on packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exchange {
    Product(Shape),
    /// Lane `8j + r` brings row `r` of matrix `j` in four registers; each lane gets its fragments.
    LoadRows {
        transposed: bool,
    },
    /// The reverse of it.
    StoreRows {
        transposed: bool,
    },
    /// One matrix of 8 by 8 halves, transposed.
    Transpose,
}

impl Exchange {
    const LOAD: u64 = 1 << 60;
    const STORE: u64 = 2 << 60;
    const TRANSPOSE: u64 = 3 << 60;

    /// The operation in one word, for generated code.
    pub(crate) fn code(self) -> u64 {
        match self {
            Exchange::Product(shape) => shape.code(),
            Exchange::LoadRows { transposed } => Self::LOAD | u64::from(transposed),
            Exchange::StoreRows { transposed } => Self::STORE | u64::from(transposed),
            Exchange::Transpose => Self::TRANSPOSE,
        }
    }

    pub(crate) fn decode(code: u64) -> Exchange {
        let transposed = code & 1 == 1;
        match code >> 60 << 60 {
            Self::LOAD => Exchange::LoadRows { transposed },
            Self::STORE => Exchange::StoreRows { transposed },
            Self::TRANSPOSE => Exchange::Transpose,
            _ => Exchange::Product(Shape::decode(code)),
        }
    }

    /// What the lanes get for what they brought.
    pub(crate) fn perform(self, packets: &Packets) -> Packets {
        let half = |word: u64, upper: usize| word >> (16 * upper) & 0xffff;
        let mut results = [[0; PACKET_WORDS]; 32];
        match self {
            Exchange::Product(shape) => return product(shape, packets),
            Exchange::Transpose => {
                for (lane, result) in results.iter_mut().enumerate() {
                    let (column, row) = (lane / 4, lane % 4 * 2);
                    let at = |row: usize| half(packets[row * 4 + column / 2][0], column % 2);
                    result[0] = at(row) | at(row + 1) << 16;
                }
            }
            Exchange::LoadRows { transposed } => {
                for (lane, result) in results.iter_mut().enumerate() {
                    for (matrix, word) in result.iter_mut().enumerate().take(4) {
                        let row = |row: usize| packets[8 * matrix + row];
                        *word = if transposed {
                            let at = |from: usize| half(row(from)[lane / 8], lane / 4 % 2);
                            at(lane % 4 * 2) | at(lane % 4 * 2 + 1) << 16
                        } else {
                            row(lane / 4)[lane % 4]
                        };
                    }
                }
            }
            Exchange::StoreRows { transposed } => {
                for (lane, result) in results.iter_mut().enumerate() {
                    let (matrix, row) = (lane / 8, lane % 8);
                    for (pair, word) in result.iter_mut().enumerate().take(4) {
                        *word = if transposed {
                            let at = |column: usize| half(packets[column * 4 + row / 2][matrix], row % 2);
                            at(2 * pair) | at(2 * pair + 1) << 16
                        } else {
                            packets[row * 4 + pair][matrix]
                        };
                    }
                }
            }
        }
        results
    }
}

fn product(shape: Shape, packets: &Packets) -> Packets {
    let groups = if shape.is_quad_pairs() { 4 } else { 1 };
    let mut results = [[0; PACKET_WORDS]; 32];
    for group in 0..groups {
        let lanes: Vec<u32> = (0..32).filter(|lane| groups == 1 || lane % 16 / 4 == group).collect();
        if shape.c.is_integer() {
            integer_product(shape, packets, &lanes, &mut results);
        } else {
            float_product(shape, packets, &lanes, &mut results);
        }
    }
    results
}

/// Where the registers of each matrix stand in a packet.
fn starts(shape: Shape) -> [usize; 3] {
    let a = shape.registers(Part::A, shape.a) as usize;
    [0, a, a + shape.registers(Part::B, shape.b) as usize]
}

/// Calls `take` with row, column and bits of every element that the lanes hold.
fn gather(
    shape: Shape,
    part: Part,
    element: Element,
    (packets, start): (&Packets, usize),
    lanes: &[u32],
    mut take: impl FnMut(usize, usize, u64),
) {
    let bits = element.bits();
    let mask = u64::MAX >> (64 - bits);
    for &lane in lanes {
        for index in 0..shape.distinct(part, element) * element.packed() {
            let word = packets[lane as usize][start + (index / element.packed()) as usize];
            let (row, column) = shape.place(part, element, lane, index);
            take(row as usize, column as usize, word >> (index % element.packed() * bits) & mask);
        }
    }
}

fn scatter(shape: Shape, lanes: &[u32], results: &mut Packets, bits_of: impl Fn(usize, usize) -> u64) {
    let packed = shape.d.packed();
    for &lane in lanes {
        for index in 0..shape.distinct(Part::Accumulator, shape.d) * packed {
            let (row, column) = shape.place(Part::Accumulator, shape.d, lane, index);
            let bits = bits_of(row as usize, column as usize);
            results[lane as usize][(index / packed) as usize] |= bits << (index % packed * shape.d.bits());
        }
    }
}

fn float_product(shape: Shape, packets: &Packets, lanes: &[u32], results: &mut Packets) {
    let [m, n, k] = [shape.m, shape.n, shape.k].map(|extent| extent as usize);
    let [at_a, at_b, at_c] = starts(shape);
    let (mut a, mut b, mut c) = (vec![0.0; m * k], vec![0.0; k * n], vec![0.0; m * n]);
    gather(shape, Part::A, shape.a, (packets, at_a), lanes, |row, column, bits| {
        a[row * k + column] = float(shape.a, bits);
    });
    gather(shape, Part::B, shape.b, (packets, at_b), lanes, |row, column, bits| {
        b[column * k + row] = float(shape.b, bits);
    });
    gather(shape, Part::Accumulator, shape.c, (packets, at_c), lanes, |row, column, bits| {
        c[row * n + column] = float(shape.c, bits);
    });
    let fused = shape.d == Element::F64;
    for row in 0..m {
        for column in 0..n {
            let pairs = a[row * k..][..k].iter().zip(&b[column * k..][..k]);
            let sum = &mut c[row * n + column];
            *sum = if fused {
                pairs.fold(*sum, |sum, (x, y): (&f64, &f64)| x.mul_add(*y, sum))
            } else {
                pairs.fold(*sum, |sum, (x, y)| sum + x * y)
            };
        }
    }
    scatter(shape, lanes, results, |row, column| {
        let value = c[row * n + column];
        match shape.d {
            Element::F64 => value.to_bits(),
            Element::F16 => u64::from(f64_to_f16(value, 0)),
            #[allow(clippy::cast_possible_truncation, reason = "rounded to the type asked for")]
            _ if value.is_nan() => 0x7fff_ffff,
            #[allow(clippy::cast_possible_truncation, reason = "rounded to the type asked for")]
            _ => u64::from((value as f32).to_bits()),
        }
    });
}

fn integer_product(shape: Shape, packets: &Packets, lanes: &[u32], results: &mut Packets) {
    let [m, n, k] = [shape.m, shape.n, shape.k].map(|extent| extent as usize);
    let [at_a, at_b, at_c] = starts(shape);
    let (mut a, mut b, mut c) = (vec![0_i32; m * k], vec![0_i32; k * n], vec![0_i64; m * n]);
    gather(shape, Part::A, shape.a, (packets, at_a), lanes, |row, column, bits| {
        a[row * k + column] = integer(shape.a, bits);
    });
    gather(shape, Part::B, shape.b, (packets, at_b), lanes, |row, column, bits| {
        b[column * k + row] = integer(shape.b, bits);
    });
    gather(shape, Part::Accumulator, shape.c, (packets, at_c), lanes, |row, column, bits| {
        c[row * n + column] = i64::from(integer(shape.c, bits));
    });
    for row in 0..m {
        for column in 0..n {
            let pairs = a[row * k..][..k].iter().zip(&b[column * k..][..k]);
            let term = |(x, y): (&i32, &i32)| match (shape.a == Element::B1, shape.flags & AND != 0) {
                (true, true) => x & y,
                (true, false) => x ^ y,
                _ => x * y,
            };
            c[row * n + column] += i64::from(pairs.map(term).sum::<i32>());
        }
    }
    scatter(shape, lanes, results, |row, column| {
        let sum = c[row * n + column];
        let sum = if shape.flags & SATURATE == 0 {
            sum
        } else {
            sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX))
        };
        sum.cast_unsigned() & 0xffff_ffff
    });
}

fn low(bits: u64) -> u32 {
    u32::try_from(bits & 0xffff_ffff).unwrap_or(0)
}

fn float(element: Element, bits: u64) -> f64 {
    let value = match element {
        Element::F64 => return f64::from_bits(bits),
        Element::F16 => f16_to_f32(low(bits)),
        Element::Bf16 => f32::from_bits(low(bits) << 16),
        // The low 13 bits of the fraction do not count.
        Element::Tf32 => f32::from_bits(low(bits) & 0xffff_e000),
        Element::E4m3 => e4m3_to_f32(low(bits)),
        Element::E5m2 => e5m2_to_f32(low(bits)),
        _ => f32::from_bits(low(bits)),
    };
    f64::from(value)
}

fn integer(element: Element, bits: u64) -> i32 {
    let word = low(bits).cast_signed();
    match element {
        Element::S8 => word << 24 >> 24,
        Element::S4 => word << 28 >> 28,
        _ => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jit::fragment::WMMA;

    #[test]
    fn a_codes_operation_is_the_operation() {
        let shape = Shape {
            m: 8,
            n: 32,
            k: 16,
            a: Element::F16,
            b: Element::F16,
            c: Element::F32,
            d: Element::F16,
            flags: WMMA,
        };
        for exchange in [
            Exchange::Product(shape),
            Exchange::LoadRows { transposed: true },
            Exchange::StoreRows { transposed: false },
            Exchange::Transpose,
        ] {
            assert_eq!(Exchange::decode(exchange.code()), exchange);
        }
    }

    #[test]
    fn rows_that_are_loaded_and_stored_come_back() {
        let packets: Packets = std::array::from_fn(|lane| {
            std::array::from_fn(
                |word| if word < 4 { (lane * 0x1_0003 + word * 0x101_0000) as u64 } else { 0 },
            )
        });
        for transposed in [false, true] {
            let fragments = Exchange::LoadRows { transposed }.perform(&packets);
            assert_eq!(Exchange::StoreRows { transposed }.perform(&fragments), packets);
        }
        let turned = Exchange::Transpose.perform(&packets);
        assert_eq!(Exchange::Transpose.perform(&turned).map(|p| p[0]), packets.map(|p| p[0]));
    }
}
