//! Charts of measurements, as the text of an SVG file.
//!
//! Nothing of the system is asked for: no fonts, no display, no files. A viewer brings its own font, so widths of text
//! are estimates, and charts leave room for them.
//!
//! Layout:
//! * [`LineChart`]: series of points over an axis that grows by powers
//! * [`SampleChart`]: every sample of every series, and their medians as bars
//! * [`Axis`], [`PlotError`]: what both share

#![forbid(unsafe_code)]

mod axis;
mod error;
mod line;
mod sample;

pub use axis::{Axis, Ticks};
pub use error::PlotError;
pub use line::{LineChart, Series};
pub use sample::{SampleChart, Samples};

/// Width and height of every chart, in pixels.
const SIZE: (u32, u32) = (960, 540);
const FONT: &str = "sans-serif";
const TITLE_PIXELS: u32 = 20;
const LABEL_PIXELS: u32 = 14;
const MARGIN: u32 = 16;
