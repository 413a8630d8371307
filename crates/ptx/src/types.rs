//! Scalar types and state spaces, by their PTX names.

/// The type of a register, variable or instruction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the names are the PTX manual's own")]
pub enum ScalarType {
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    Tf32,
    F32,
    F64,
    F32x2,
    Pred,
    U16x2,
    S16x2,
}

impl ScalarType {
    /// Reads a type name without its point: `u32`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "b8" => Self::B8,
            "b16" => Self::B16,
            "b32" => Self::B32,
            "b64" => Self::B64,
            "b128" => Self::B128,
            "u8" => Self::U8,
            "u16" => Self::U16,
            "u32" => Self::U32,
            "u64" => Self::U64,
            "s8" => Self::S8,
            "s16" => Self::S16,
            "s32" => Self::S32,
            "s64" => Self::S64,
            "f16" => Self::F16,
            "f16x2" => Self::F16x2,
            "bf16" => Self::Bf16,
            "bf16x2" => Self::Bf16x2,
            "tf32" => Self::Tf32,
            "f32" => Self::F32,
            "f64" => Self::F64,
            "f32x2" => Self::F32x2,
            "pred" => Self::Pred,
            "u16x2" => Self::U16x2,
            "s16x2" => Self::S16x2,
            // PTX ISA, "Texture Sampler and Surface Types": references are handles of 64 bits.
            "texref" | "samplerref" | "surfref" => Self::B64,
            _ => return None,
        })
    }

    /// Bytes in memory; a predicate, which has no place in memory, counts as one.
    pub fn bytes(self) -> u32 {
        match self {
            Self::B8 | Self::U8 | Self::S8 | Self::Pred => 1,
            Self::B16 | Self::U16 | Self::S16 | Self::F16 | Self::Bf16 => 2,
            Self::B64 | Self::U64 | Self::S64 | Self::F64 | Self::F32x2 => 8,
            Self::B128 => 16,
            _ => 4,
        }
    }

    /// Whether this is `.s8` to `.s64`.
    pub fn is_signed(self) -> bool {
        matches!(self, Self::S8 | Self::S16 | Self::S32 | Self::S64)
    }

    /// Whether this is one floating value (packed halves are not).
    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64)
    }
}

/// A state space that a variable can live in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the names are the PTX manual's own")]
pub enum Space {
    Global,
    Const,
    Shared,
    Local,
    Param,
    Reg,
}

impl Space {
    /// Reads a space name without its point: `global`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "global" | "tex" => Self::Global,
            "const" => Self::Const,
            "shared" => Self::Shared,
            "local" => Self::Local,
            "param" => Self::Param,
            "reg" => Self::Reg,
            _ => return None,
        })
    }
}
