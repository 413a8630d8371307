//! Why a chart cannot be drawn.

use std::fmt;

/// Why a chart cannot be drawn.
#[derive(Debug, Clone, PartialEq)]
pub enum PlotError {
    /// no series has a point
    Empty,
    /// series {series} has the value {value}, which is no number
    NotFinite { series: String, value: f64 },
    /// series {series} has a point at {x}, which an axis that grows by powers cannot show
    NotPositive { series: String, x: f64 },
    /// drawing failed: {reason}
    Drawing { reason: String },
}

impl fmt::Display for PlotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("no series has a point"),
            Self::NotFinite { series, value } => {
                write!(f, "series {series} has the value {value}, which is no number")
            }
            Self::NotPositive { series, x } => {
                write!(
                    f,
                    "series {series} has a point at {x}, which an axis that grows by powers cannot show"
                )
            }
            Self::Drawing { reason } => write!(f, "drawing failed: {reason}"),
        }
    }
}

impl std::error::Error for PlotError {}

/// Turns an error of the drawing library into ours.
pub(crate) fn drawing(error: impl fmt::Display) -> PlotError {
    PlotError::Drawing { reason: error.to_string() }
}
