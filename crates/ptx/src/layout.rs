//! Where the parameters of a kernel lie.

use crate::ast::Variable;

/// One kernel parameter in the packed buffer.
///
/// Sizes agree with what the hardware's assembler lays out; offsets agree for alignments up to 16 (above that the
/// base of the hardware's bank differs by architecture), so values travel by ordinal and offsets stay here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParamLayout {
    /// Bytes of the parameter.
    pub size: u32,
    /// Its alignment in bytes.
    pub align: u32,
    /// Its offset in the packed buffer.
    pub offset: u32,
}

impl ParamLayout {
    pub(crate) fn packed(params: &[Variable]) -> Vec<Self> {
        let mut end = 0_u32;
        params
            .iter()
            .map(|param| {
                let size = u32::try_from(param.bytes).unwrap_or(u32::MAX);
                let offset = end.next_multiple_of(param.align.max(1));
                end = offset.saturating_add(size);
                Self { size, align: param.align, offset }
            })
            .collect()
    }
}
