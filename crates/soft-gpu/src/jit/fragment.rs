//! Which element of a matrix each lane of a warp holds (PTX ISA, "Matrix Fragments for mma").
//!
//! Every shape of `mma` but one follows one rule. A register holds `p` neighbours along `k`; a tile is 8 rows (or
//! columns of B) by `4p`: lane `4g + t` has row `g` and the elements `tp ..` of it. Registers count through the tiles,
//! across `k` last for A, first for B. An accumulator's tile is 8 by 8, two neighbours of a row in each lane.
//! `wmma` leaves its fragments open; it gets the same rule, so that both kinds of code see what the hardware shows.
//! The exception is `mma.m8n8k4` of halves, which is four products, one in each group of eight lanes.

/// What a register of a fragment holds. The discriminants are part of a [`Shape`]'s code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the PTX manual's own")]
pub(crate) enum Element {
    F16,
    Bf16,
    Tf32,
    F32,
    F64,
    S32,
    U8,
    S8,
    U4,
    S4,
    B1,
    E4m3,
    E5m2,
}

impl Element {
    const ALL: [Self; 13] = [
        Self::F16,
        Self::Bf16,
        Self::Tf32,
        Self::F32,
        Self::F64,
        Self::S32,
        Self::U8,
        Self::S8,
        Self::U4,
        Self::S4,
        Self::B1,
        Self::E4m3,
        Self::E5m2,
    ];

    /// Reads a type name without its point.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "f16" => Self::F16,
            "bf16" => Self::Bf16,
            "tf32" => Self::Tf32,
            "f32" => Self::F32,
            "f64" => Self::F64,
            "s32" => Self::S32,
            "u8" => Self::U8,
            "s8" => Self::S8,
            "u4" => Self::U4,
            "s4" => Self::S4,
            "b1" => Self::B1,
            "e4m3" => Self::E4m3,
            "e5m2" => Self::E5m2,
            _ => return None,
        })
    }

    pub(crate) fn bits(self) -> u32 {
        match self {
            Self::F64 => 64,
            Self::F32 | Self::Tf32 | Self::S32 => 32,
            Self::F16 | Self::Bf16 => 16,
            Self::U8 | Self::S8 | Self::E4m3 | Self::E5m2 => 8,
            Self::U4 | Self::S4 => 4,
            Self::B1 => 1,
        }
    }

    /// Elements in one register: of 64 bits for f64, else of 32.
    pub(crate) fn packed(self) -> u32 {
        if self == Self::F64 { 1 } else { 32 / self.bits() }
    }

    pub(crate) fn is_integer(self) -> bool {
        matches!(self, Self::S32 | Self::U8 | Self::S8 | Self::U4 | Self::S4 | Self::B1)
    }
}

/// One of the matrices of `D = A * B + C`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    A,
    B,
    /// C or D.
    Accumulator,
}

/// A product of matrices as an opcode names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    pub(crate) m: u32,
    pub(crate) n: u32,
    pub(crate) k: u32,
    pub(crate) a: Element,
    pub(crate) b: Element,
    pub(crate) c: Element,
    pub(crate) d: Element,
    pub(crate) flags: u32,
}

/// Integer sums are clamped instead of wrapped.
pub(crate) const SATURATE: u32 = 1;
/// Single bits are combined by `and` instead of `xor`.
pub(crate) const AND: u32 = 2;
/// `mma.m8n8k4` of halves: A is stored by columns, B by rows.
pub(crate) const A_COLUMNS: u32 = 4;
pub(crate) const B_ROWS: u32 = 8;
/// The shape is of `wmma`, whose fragments of halves have 16 elements whether they need them or not.
pub(crate) const WMMA: u32 = 16;

impl Shape {
    /// The shape in one word, for generated code.
    pub(crate) fn code(self) -> u64 {
        let types = [self.a, self.b, self.c, self.d];
        let types = types.into_iter().fold(0, |code, element| code << 4 | element as u64);
        let [m, n, k, flags] = [self.m, self.n, self.k / 4, self.flags].map(u64::from);
        m | n << 8 | k << 16 | flags << 24 | types << 32
    }

    pub(crate) fn decode(code: u64) -> Shape {
        let field = |shift: u32, mask: u64| u32::try_from(code >> shift & mask).unwrap_or(0);
        let element = |shift| Element::ALL.get(field(shift, 15) as usize).copied().unwrap_or(Element::F16);
        Shape {
            m: field(0, 255),
            n: field(8, 255),
            k: field(16, 255) * 4,
            flags: field(24, 255),
            a: element(44),
            b: element(40),
            c: element(36),
            d: element(32),
        }
    }

    /// Whether this is the product in four groups of lanes.
    pub(crate) fn is_quad_pairs(self) -> bool {
        self.flags & WMMA == 0 && (self.m, self.n, self.k) == (8, 8, 4) && self.a == Element::F16
    }

    /// How many registers a lane's fragment has.
    pub(crate) fn registers(self, part: Part, element: Element) -> u32 {
        if self.flags & WMMA != 0 && part != Part::Accumulator && element == Element::F16 {
            return 8;
        }
        self.distinct(part, element)
    }

    /// How many registers hold elements of their own; the rest repeats them.
    pub(crate) fn distinct(self, part: Part, element: Element) -> u32 {
        let cells = match part {
            Part::A => self.m * self.k,
            Part::B => self.k * self.n,
            Part::Accumulator => self.m * self.n,
        };
        let groups = if self.is_quad_pairs() { 8 } else { 32 };
        cells / groups / element.packed()
    }

    /// Row and column of element `index` of the fragment of `lane`.
    pub(crate) fn place(self, part: Part, element: Element, lane: u32, index: u32) -> (u32, u32) {
        if self.is_quad_pairs() {
            return self.quad_pair_place(part, element, lane, index);
        }
        let (along, across) = self.offset(part, element, index);
        let (group, thread) = (lane / 4, lane % 4);
        let (far, near) = (across + group, along + thread * Self::run(part, element));
        if part == Part::B { (near, far) } else { (far, near) }
    }

    /// How many neighbours a lane holds before the next lane's begin.
    pub(crate) fn run(part: Part, element: Element) -> u32 {
        if part == Part::Accumulator { 2 } else { element.packed() }
    }

    /// Where lane 0 has element `index`: along `k` (or a row of the accumulator), and across.
    pub(crate) fn offset(self, part: Part, element: Element, index: u32) -> (u32, u32) {
        let run = Self::run(part, element);
        let (tile, inside) = (index / run, index % run);
        let (along, across) = match part {
            Part::A => (tile / (self.m / 8), tile % (self.m / 8)),
            Part::B => {
                let tiles = (self.k / (4 * run)).max(1);
                (tile % tiles, tile / tiles)
            }
            Part::Accumulator => (tile / (self.m / 8), tile % (self.m / 8)),
        };
        (along * 4 * run + inside, across * 8)
    }

    /// PTX ISA, "Matrix Fragments for mma.m8n8k4 with .f16": a group is lanes `4q ..` and `4q + 16 ..`.
    fn quad_pair_place(self, part: Part, element: Element, lane: u32, index: u32) -> (u32, u32) {
        let (near, upper) = (lane % 4, lane / 16 * 4);
        match part {
            Part::A if self.flags & A_COLUMNS != 0 => (index + upper, near),
            Part::A => (near + upper, index),
            Part::B if self.flags & B_ROWS != 0 => (near, index + upper),
            Part::B => (index, near + upper),
            Part::Accumulator if element == Element::F16 => (near + upper, index),
            Part::Accumulator => ((lane & 1) + (index & 2) + upper, (index & 4) + (lane & 2) + (index & 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(m: u32, n: u32, k: u32, a: Element, c: Element) -> Shape {
        Shape { m, n, k, a, b: a, c, d: c, flags: 0 }
    }

    #[test]
    fn every_cell_of_a_matrix_is_in_one_place() {
        let shapes = [
            shape(16, 8, 16, Element::F16, Element::F32),
            shape(16, 8, 8, Element::Tf32, Element::F32),
            shape(8, 8, 4, Element::F64, Element::F64),
            shape(16, 8, 16, Element::F64, Element::F64),
            shape(16, 8, 256, Element::B1, Element::S32),
            shape(16, 8, 64, Element::S4, Element::S32),
            shape(32, 8, 16, Element::U8, Element::S32),
            shape(8, 32, 16, Element::Bf16, Element::F32),
            shape(16, 16, 16, Element::F16, Element::F16),
        ];
        for shape in shapes {
            assert_eq!(Shape::decode(shape.code()), shape);
            for (part, element, rows, columns) in [
                (Part::A, shape.a, shape.m, shape.k),
                (Part::B, shape.b, shape.k, shape.n),
                (Part::Accumulator, shape.c, shape.m, shape.n),
            ] {
                let mut seen = vec![0; (rows * columns) as usize];
                for lane in 0..32 {
                    for index in 0..shape.distinct(part, element) * element.packed() {
                        let (row, column) = shape.place(part, element, lane, index);
                        seen[(row * columns + column) as usize] += 1;
                    }
                }
                assert!(seen.iter().all(|&times| times == 1), "{shape:?} {part:?}");
            }
        }
    }
}
